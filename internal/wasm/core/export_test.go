package core

// Effort is what compiling m takes, and what it may, as Rewrite counts it.
func Effort(m *Module, o Options) (effort, most int, err error) {
	w, err := newRewriter(m, o)
	if err != nil {
		return 0, 0, err
	}
	return w.effort, maxEffort + effortPerByte*w.codeSize, nil
}

// MemoryFor is what compiling m takes, for the function that takes most.
func MemoryFor(m *Module, o Options) (most int, err error) {
	w, err := newRewriter(m, o)
	if err != nil {
		return 0, err
	}
	for i := range w.funcs {
		most = max(most, w.funcs[i].memory())
	}
	return most, nil
}

// MaxMemory is how much it may be.
const MaxMemory = maxMemory
