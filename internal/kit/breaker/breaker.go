// Package breaker decides when to stop sending work to something that fails.
//
// A Breaker has no goroutine and reads no clock: time is an argument, so a
// test is a list of moments and what happens at them. While all is well it is
// only read, never written to: any number of cores may ask it at once.
package breaker

import (
	"sync"
	"sync/atomic"
	"time"
)

// State is what a Breaker lets through.
type State uint32

// A Breaker starts Closed.
const (
	Closed   State = iota // everything passes
	Open                  // nothing passes until its rest is over
	HalfOpen              // a few pass, to try
)

// String is the state's name in metrics and logs.
func (s State) String() string { return [...]string{"closed", "open", "half_open"}[s] }

// An Outcome says what a request showed of the one that served it.
type Outcome uint8

// An answer that puts the blame on the client (4xx) is a Success.
const (
	Success Outcome = iota
	Failure
	Neutral // says nothing: the client left, or the worker was merely full
)

// String is the outcome's name in metrics and logs.
func (o Outcome) String() string { return [...]string{"success", "failure", "neutral"}[o] }

// A Breaker counts consecutive failures. Its methods may be called by any
// goroutine.
type Breaker struct {
	// word holds the era in the upper bits and the State in the lower two.
	// Written with mu held, read by anybody.
	word  atomic.Uint64
	fails atomic.Int32 // consecutive, while Closed; written with mu held
	wins  atomic.Int32 // consecutive, while HalfOpen; written with mu held

	mu       sync.Mutex
	cfg      Config               // guarded by mu
	notify   func(from, to State) // guarded by mu
	lastFail time.Time            // guarded by mu; while Closed and fails > 0
	reopen   time.Time            // guarded by mu; when the rest ends, while Open
	trials   int                  // guarded by mu; requests out, while HalfOpen
}

// New returns a closed Breaker.
func New(c Config) *Breaker { return &Breaker{cfg: c} }

// Notify makes b call f at each change of state, also those that Allow and
// Reset make. f is called with b's lock held: it must not block and must not
// call b. Notify is to be called before b is used.
func (b *Breaker) Notify(f func(from, to State)) { b.notify = f }

// Allow reports whether a request may pass at now. Each true must be answered
// by one call of Done. An open Breaker whose rest is over becomes half-open
// and lets at most Config.Successes requests pass at a time.
func (b *Breaker) Allow(now time.Time) bool {
	if b.State() == Closed {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.State() {
	case Open:
		if now.Before(b.reopen) {
			return false
		}
		b.turnLocked(HalfOpen)
	case HalfOpen:
		if b.trials >= b.cfg.Successes {
			return false
		}
	default:
		return true
	}
	b.trials++
	return true
}

// Done says how a request that Allow let pass ended. It returns the state that
// follows and whether this call made it.
//
// A request that Allow let pass in another Era should not be counted: a
// failure that was long under way says nothing about the trial of now.
func (b *Breaker) Done(now time.Time, o Outcome) (s State, changed bool) {
	if o != Failure {
		if s = b.State(); s == Open || s == Closed && (o == Neutral || b.fails.Load() == 0) {
			return s, false
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch was := b.State(); was {
	case Closed:
		return b.closedLocked(now, o)
	case HalfOpen:
		return b.halfOpenLocked(now, o)
	default:
		return was, false
	}
}

// closedLocked counts an outcome while b is Closed. b.mu must be held.
func (b *Breaker) closedLocked(now time.Time, o Outcome) (State, bool) {
	switch o {
	case Success:
		b.fails.Store(0)
	case Failure:
		if b.cfg.Disabled {
			break
		}
		if b.cfg.Window > 0 && b.fails.Load() > 0 && now.Sub(b.lastFail) > b.cfg.Window {
			b.fails.Store(0)
		}
		b.lastFail = now
		if int(b.fails.Add(1)) >= b.cfg.Failures {
			b.openLocked(now)
			return Open, true
		}
	}
	return Closed, false
}

// halfOpenLocked counts the outcome of a trial. b.mu must be held.
func (b *Breaker) halfOpenLocked(now time.Time, o Outcome) (State, bool) {
	if b.trials > 0 {
		b.trials--
	}
	switch o {
	case Failure:
		b.openLocked(now)
		return Open, true
	case Success:
		if int(b.wins.Add(1)) >= b.cfg.Successes {
			b.turnLocked(Closed)
			return Closed, true
		}
	}
	return HalfOpen, false
}

// openLocked opens b until its rest is over. b.mu must be held.
func (b *Breaker) openLocked(now time.Time) {
	b.reopen = now.Add(b.cfg.Rest)
	b.turnLocked(Open)
}

// turnLocked begins a new era with all counts at zero. b.mu must be held.
func (b *Breaker) turnLocked(to State) {
	w := b.word.Load()
	b.fails.Store(0)
	b.wins.Store(0)
	b.trials = 0
	b.word.Store((w>>2+1)<<2 | uint64(to))
	if b.notify != nil {
		b.notify(State(w&3), to)
	}
}

// State returns what b lets through now. It is Open until Allow is asked after
// the rest.
func (b *Breaker) State() State { return State(b.word.Load() & 3) }

// Era is another number after each change of state.
func (b *Breaker) Era() uint64 { return b.word.Load() >> 2 }

// Failures returns the consecutive failures counted while Closed.
func (b *Breaker) Failures() int { return int(b.fails.Load()) }

// Successes returns the consecutive successes counted while HalfOpen.
func (b *Breaker) Successes() int { return int(b.wins.Load()) }

// Usable reports whether Allow could say yes at now. It changes nothing.
func (b *Breaker) Usable(now time.Time) bool {
	end, open := b.RestEnds()
	return !open || !now.Before(end)
}

// RestEnds returns when an open Breaker will let requests try; ok is false if
// it is not Open.
func (b *Breaker) RestEnds() (end time.Time, ok bool) {
	if b.State() != Open {
		return time.Time{}, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reopen, b.State() == Open
}

// Reset closes b and forgets what it counted. It reports whether b was not
// Closed before.
func (b *Breaker) Reset() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.State() != Closed {
		b.turnLocked(Closed)
		return true
	}
	b.fails.Store(0)
	return false
}

// Configure gives b other settings. A Breaker that is disabled by them closes.
func (b *Breaker) Configure(c Config) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cfg = c
	if c.Disabled && b.State() != Closed {
		b.turnLocked(Closed)
	}
}
