package sock

import "sync"

// Waits says on which Conn an owner waits, so that who hears that nobody
// wants the result any longer can end that wait. Its zero value is ready.
type Waits struct {
	mu     sync.Mutex // guards what follows
	on     *Conn
	cancel func()
	over   bool
}

// On notes that the owner waits on c from now on. It reports false if nobody
// wants to know any longer.
func (w *Waits) On(c *Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = c
	return !w.over
}

// OnCall notes that the owner waits for something that cancel ends. It reports
// false if nobody wants to know any longer.
func (w *Waits) OnCall(cancel func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancel = cancel
	return !w.over
}

// Over reports whether nobody wants to know any longer.
func (w *Waits) Over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over
}

// Off notes that the owner waits no longer. After that nobody Interrupts the
// Conn on behalf of w, or cancels.
func (w *Waits) Off() {
	w.mu.Lock()
	w.on, w.cancel = nil, nil
	w.mu.Unlock()
}

// End interrupts the wait, and those to come. Anybody may call it.
func (w *Waits) End() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.on != nil {
		w.on.Interrupt()
	}
	if w.cancel != nil {
		w.cancel()
	}
}

// Key is the key under which a context holds the *Waits of who is to be woken
// when it ends. A context without one is asked by its AfterFunc instead, which
// allocates.
type Key struct{}
