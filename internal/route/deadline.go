package route

import (
	"context"
	"sync/atomic"
	"time"
)

// A deadline is the context of one request: its parent's, until a time. It is
// what context.WithDeadline returns, but it allocates nothing and arms no timer
// unless somebody asks for Done. Who does not, looks at Deadline, and asks Err
// when something else has woken him.
//
// It is good until the Serve whose trip it is part of returns; then it is used
// for another request. Who has asked for Done may keep it: then it is not used
// again.
type deadline struct {
	parent context.Context
	at     time.Time
	timed  atomic.Pointer[timed] // nil until somebody asks for Done
}

// timed is a deadline's other form, with a timer.
type timed struct {
	context.Context
	cancel context.CancelFunc
}

// Deadline implements context.Context.
func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }

// Done implements context.Context.
func (d *deadline) Done() <-chan struct{} { return d.derive().Done() }

// Err implements context.Context.
func (d *deadline) Err() error {
	if t := d.timed.Load(); t != nil {
		return t.Err()
	}
	if err := d.parent.Err(); err != nil {
		return err
	}
	if time.Until(d.at) > 0 {
		return nil
	}
	// From here on it must stay with this answer, also if its parent ends.
	return d.derive().Err()
}

// Value implements context.Context. What package context keeps of a context
// that can end is found here too, so context.Cause and contexts derived from d
// are as they are for its own.
func (d *deadline) Value(key any) any {
	if t := d.timed.Load(); t != nil {
		return t.Value(key)
	}
	return d.parent.Value(key)
}

// derive returns the context that has a timer. It is made once.
func (d *deadline) derive() *timed {
	if t := d.timed.Load(); t != nil {
		return t
	}
	ctx, cancel := context.WithDeadline(d.parent, d.at)
	t := &timed{ctx, cancel}
	if !d.timed.CompareAndSwap(nil, t) {
		cancel()
		return d.timed.Load()
	}
	return t
}
