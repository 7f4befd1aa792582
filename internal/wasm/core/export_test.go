package core

// Effort is what compiling m takes, and what it may, as Rewrite counts it.
func Effort(m *Module, o Options) (effort, most int, err error) {
	w, err := newRewriter(m, o)
	if err != nil {
		return 0, 0, err
	}
	return w.effort, maxEffort + effortPerByte*w.codeSize, nil
}
