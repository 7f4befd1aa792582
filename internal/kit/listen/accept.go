package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// Trouble is when connections cannot be accepted, or should not be: for want
// of descriptors, mostly. Each function may be nil. They are called on the
// accepting goroutine and must not block.
type Trouble struct {
	// Full is asked before each Accept. An error says why there is no room for
	// another connection: then it is asked again every fullRest until it
	// returns nil, and those who come meanwhile wait in the kernel's queue. It
	// cannot take back the Accept that waits already: each listener may pass
	// what it bounds by one.
	Full func() error

	// Began and Ended are told of each time that connections waited, whether
	// Full or the system had no room, once.
	Began func(err error)
	Ended func(lasted time.Duration)
}

// How long accepting rests after an error: minRest, doubled to maxRest. It is
// well again when nothing has failed for calm. Asking Full costs next to
// nothing, and who waits for it is not made to wait longer the longer it takes.
const (
	minRest  = 5 * time.Millisecond
	maxRest  = time.Second
	calm     = time.Second
	fullRest = 20 * time.Millisecond
)

// Accept hands each connection of l to serve, which must not block. When ctx
// ends, Accept closes l and returns what closing it says. When somebody else
// closes l, it returns an error that is net.ErrClosed, once there is room. No
// other error ends it: it rests and tries again.
//
// There is no spare descriptor to accept with and hang up on whoever comes
// while there are no others. A client that waits in the kernel's queue is
// served some milliseconds later if the want is short; hanging up on it would
// make each short want a failure. Whoever would rather refuse than wait bounds
// connections below the limit of descriptors, and can then answer with a 503.
func Accept(ctx context.Context, l net.Listener, serve func(net.Conn), tr Trouble) error {
	closed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { closed <- l.Close() })
	end := func() error {
		if stop() {
			return l.Close() // ctx has not come to it
		}
		return <-closed
	}
	a := acceptor{l: l, trouble: tr}
	for {
		if !a.wait(ctx) {
			return end()
		}
		c, err := l.Accept()
		switch {
		case err == nil:
			a.succeeded()
			serve(c)
		case ctx.Err() != nil:
			return end()
		case errors.Is(err, net.ErrClosed):
			_ = end() // ctx may end at this moment, and nothing must be left
			return fmt.Errorf("accepting on %s: %w", l.Addr(), err)
		case a.isCalm(err):
		case isOfOne(err):
		default:
			a.failed(ctx, err)
		}
	}
}

// isOfOne reports whether err is of the one connection that would have been
// accepted, so that the next may be tried at once. Linux reports what befell a
// connection while it waited as accept's own error; see accept(2).
func isOfOne(err error) bool {
	for _, e := range [...]error{
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.ENETDOWN,
		syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// An acceptor knows how accepting has gone.
type acceptor struct {
	l       net.Listener
	trouble Trouble

	rest  time.Duration // the last; 0 after a success
	since time.Time     // when trouble began; zero if there is none
	timed bool          // l has a deadline at which, with no failure before, all is well
}

// succeeded notes a connection. Trouble is not over with it: descriptors come
// free one by one, and each would be an end and a new beginning.
func (a *acceptor) succeeded() {
	a.rest = 0
	if a.since.IsZero() || a.timed {
		return
	}
	if a.timed = a.deadline(time.Now().Add(calm)); !a.timed {
		a.ended() // nothing would wake us later
	}
}

// isCalm reports whether err is the deadline of an end of trouble.
func (a *acceptor) isCalm(err error) bool {
	if !a.timed || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	a.clear()
	a.ended()
	return true
}

// wait returns when there is room for a connection. It reports false if ctx
// ends before that.
func (a *acceptor) wait(ctx context.Context) bool {
	if a.trouble.Full == nil {
		return true
	}
	err := a.trouble.Full()
	if err == nil {
		return true
	}
	for ; err != nil; err = a.trouble.Full() {
		a.began(err)
		sleep(ctx, fullRest)
		if ctx.Err() != nil {
			return false
		}
	}
	a.timed = a.deadline(time.Now().Add(calm)) // nobody may come for long
	return true
}

// failed notes an error and rests. That there were no descriptors does not mean
// that somebody waits: nobody may come for long.
func (a *acceptor) failed(ctx context.Context, err error) {
	a.began(err)
	a.rest = min(max(2*a.rest, minRest), maxRest)
	sleep(ctx, a.rest)
	a.timed = a.deadline(time.Now().Add(calm))
}

// began notes that there is trouble, which may have been before.
func (a *acceptor) began(err error) {
	if a.timed {
		a.clear()
	}
	if !a.since.IsZero() {
		return
	}
	a.since = time.Now()
	if a.trouble.Began != nil {
		a.trouble.Began(fmt.Errorf("accepting on %s: %w", a.l.Addr(), err))
	}
}

// sleep returns after d, or when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (a *acceptor) ended() {
	lasted := time.Since(a.since)
	a.since = time.Time{}
	if a.trouble.Ended != nil {
		a.trouble.Ended(lasted)
	}
}

func (a *acceptor) clear() {
	a.timed = false
	a.deadline(time.Time{}) // if that fails, l says so itself
}

// A deadliner is a listener that can be told when to give up.
type deadliner interface{ SetDeadline(t time.Time) error }

// deadline sets when Accept gives up, and reports whether it could.
func (a *acceptor) deadline(t time.Time) bool {
	d, ok := a.l.(deadliner)
	return ok && d.SetDeadline(t) == nil
}
