// Package sock is what a gateway needs of a connection: to wait on it with the
// fewest system calls, to hold memory for it only while it has bytes, and to
// be told when its other end has gone or its time is up.
//
// A Conn has one owner, the goroutine that reads and writes it. On Linux the
// owner waits inside one callback of a syscall.RawConn: a read is tried only
// when there is something to read. Elsewhere, and over TLS, the same owner
// reads and writes a net.Conn. A Watch looks after all Conns: it hears of
// hang-ups, which an owner that waits for somebody else would miss, and sweeps
// deadlines, which then cost a request one atomic write.
package sock

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Errors that end a wait. Others are the system's own, or io.EOF.
var (
	ErrExpired     = errors.New("deadline exceeded on a connection")
	ErrInterrupted = errors.New("wait on a connection interrupted")
)

// A Receiver takes what a Conn receives.
type Receiver interface {
	// Begin is called first, when nothing that arrives from then on can be
	// missed. It reports whether to wait before the first read: right if
	// nothing can be there yet, because it has only now sent a question.
	Begin() (wait bool, err error)

	// Space returns where the next bytes are to be put. It is not empty.
	Space() []byte

	// Received tells that n bytes were put there. Receive returns if it is
	// done.
	Received(n int) (done bool, err error)

	// Drained tells that all that had arrived was read. Where the Conn can
	// wait without it, memory may be given back until the next Space.
	Drained()
}

// A Watcher is told that a Conn's other end hung up, on the Watch's own
// goroutine: it must not block.
type Watcher interface {
	// HungUp tells that no more bytes will come (full is false: the other
	// end may still read, or may have gone), or that the connection is of no
	// use in either direction.
	HungUp(full bool)
}

// A Conn is one connection. Methods are for its owner unless they say
// otherwise. While the owner Receives, one other goroutine may Write in its
// stead; the deadline is that goroutine's then.
type Conn struct {
	nc      net.Conn
	rc      syscall.RawConn // nil if reads and writes go through nc
	fd      int             // with rc
	watch   *Watch
	watcher Watcher
	slot    slot

	readable func(uintptr) bool // bound once; allocated otherwise
	recv     Receiver           // while Receive runs
	err      error              // why readable has ended
	begun    bool               // recv's Begin was called

	detached    bool        // guarded by late; the socket is somebody else's
	late        sync.Mutex  // held while the socket's own deadline is set to wake the owner, or taken back
	hungUp      atomic.Bool // no more bytes will come than are here
	interrupted atomic.Bool
	halves      atomic.Bool  // with TLS, half a connection is of use
	deadline    atomic.Int64 // in the Watch's time; noDeadline, or expired
}

// A pending is a write that may have to wait. A Conn has no room of its own for it,
// for most writes never wait.
type pending struct {
	c      *Conn
	stall  time.Duration // how long the write may get nowhere, while the deadline is lent; 0 if it is not
	before int64         // the deadline that was

	writable func(uintptr) bool // bound once; allocated otherwise
	out      []byte             // what writable has to write
	err      error              // why writable has ended
}

var pendings = sync.Pool{New: func() any { return new(pending) }}

// lend makes c's deadline stall from now for as long as a write waits, unless
// it is earlier already. What it returns must be given back.
func (c *Conn) lend(stall time.Duration) (*pending, error) {
	p := pendings.Get().(*pending)
	p.c, p.stall, p.before = c, 0, c.deadline.Load()
	at := c.watch.in(stall)
	if stall <= 0 || p.before != noDeadline && p.before < at {
		return p, nil
	}
	if p.before == expired || !c.deadline.CompareAndSwap(p.before, at) {
		p.free()
		return nil, ErrExpired
	}
	p.stall = stall
	return p, nil
}

// progress moves a lent deadline when the write gets on.
func (p *pending) progress() {
	if p.stall == 0 {
		return
	}
	c := p.c
	at, later := c.deadline.Load(), c.watch.in(p.stall)
	if p.before != noDeadline {
		later = min(later, p.before)
	}
	if at != expired && later > at {
		c.deadline.CompareAndSwap(at, later)
	}
}

// giveBack restores what lend replaced, after a write that ended with err, and
// returns how that ended.
func (p *pending) giveBack(err error) error {
	if err == nil && p.stall > 0 && p.c.deadline.Swap(p.before) == expired {
		p.c.deadline.Store(expired)
		err = ErrExpired
	}
	p.free()
	return err
}

func (p *pending) free() {
	p.c, p.out, p.err = nil, nil, nil
	pendings.Put(p)
}

const (
	noDeadline = 0
	expired    = -1
)

// past is a deadline that wakes whoever waits.
var past = time.Unix(1, 0)

// NetConn returns the connection that c stands on. Who takes it over must not
// use c any longer, but to Detach it.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Raw reports whether c waits in callbacks: if Begin waits, nothing that had
// come before it is Received before something more has come.
func (c *Conn) Raw() bool { return c.rc != nil }

// HungUp reports whether the other end has said that it will send no more.
func (c *Conn) HungUp() bool { return c.hungUp.Load() }

// KeepHalf says whether a Conn over TLS is of use when its other end has said
// that it will send no more; others are. It can be where Offer can ask whether
// that was all. To begin with it is not. If it is not any more, and the other end
// has said so already, the Watcher is told at once.
func (c *Conn) KeepHalf(keep bool) {
	_, ok := c.Unacked()
	c.halves.Store(keep && ok)
	if c.rc == nil && !keep && c.hungUp.Load() && c.watcher != nil {
		c.watcher.HungUp(true)
	}
}

// Interrupt ends the wait that c's owner is in, or the next, with
// ErrInterrupted. Anybody may call it.
func (c *Conn) Interrupt() {
	c.late.Lock()
	defer c.late.Unlock()
	c.interrupted.Store(true)
	c.wakeLocked()
}

// wakeLocked ends all waits on c, unless they are somebody else's by now. c.late
// must be held.
func (c *Conn) wakeLocked() {
	if !c.detached {
		_ = c.nc.SetDeadline(past)
	}
}

// Interrupted reports whether somebody has called Interrupt. Such a Conn
// cannot wait again.
func (c *Conn) Interrupted() bool { return c.interrupted.Load() }

// Expire sets when c's waits end with ErrExpired: d from now, or up to two
// Ticks later but never sooner; not at all if d is 0. It returns ErrExpired if an earlier deadline has
// passed: c cannot be used again then.
func (c *Conn) Expire(d time.Duration) error {
	at := int64(noDeadline)
	if d > 0 {
		at = c.watch.in(d)
	}
	if c.deadline.Swap(at) == expired {
		c.deadline.Store(expired)
		return ErrExpired
	}
	return nil
}

// Hasten lets c's deadline pass now: the wait that its owner is in, or the next,
// ends with ErrExpired. Anybody may call it.
func (c *Conn) Hasten() {
	c.late.Lock()
	defer c.late.Unlock()
	c.deadline.Store(expired)
	c.wakeLocked()
}

// Renew makes c usable again after ErrExpired, without a deadline: for last
// words to an other end that was too slow. It returns ErrInterrupted if somebody
// has called Interrupt.
func (c *Conn) Renew() error {
	c.late.Lock()
	defer c.late.Unlock()
	c.deadline.Store(noDeadline)
	_ = c.nc.SetDeadline(time.Time{})
	if c.interrupted.Load() {
		_ = c.nc.SetDeadline(past)
		return ErrInterrupted
	}
	return nil
}

// Receive gives r what arrives, until r is done. It returns the error of r,
// io.EOF if the other end closes, or why the wait ended. It may be called
// again, unless it returned an error.
func (c *Conn) Receive(r Receiver) error {
	c.recv, c.begun, c.err = r, false, nil
	if c.rc == nil {
		c.err = c.receive(r)
	} else {
		for c.once() {
		}
	}
	c.recv = nil
	return c.err
}

// once waits and reads until c.err or r say that it is enough. It reports
// whether it was only woken to see that the other end hung up: then there is
// nothing left to wait for, and what is there is read to its end.
func (c *Conn) once() (again bool) {
	if c.hungUp.Load() {
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	err := c.rc.Read(c.readable)
	if err == nil {
		return false
	}
	if c.err = c.why(err); c.err == nil {
		return true
	}
	return false
}

// why turns a wait's error into c's: nil if the wait was ended by a hang-up.
func (c *Conn) why(err error) error {
	switch {
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case c.interrupted.Load():
		return ErrInterrupted
	case c.deadline.Load() == expired:
		return ErrExpired
	case c.hungUp.Load() && c.rc != nil:
		return nil
	}
	return ErrInterrupted
}

// receive is Receive over a net.Conn.
func (c *Conn) receive(r Receiver) error {
	if _, err := r.Begin(); err != nil {
		return err
	}
	for {
		n, err := c.nc.Read(r.Space())
		if n > 0 {
			if done, e := r.Received(n); done || e != nil {
				return e
			}
			r.Drained()
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return io.EOF
		default:
			return c.why(err)
		}
	}
}

// Write sends b whole. It returns ErrExpired if the other end takes nothing
// for as long as stall.
func (c *Conn) Write(b []byte, stall time.Duration) error {
	if c.rc != nil {
		return c.write(b, stall)
	}
	p, err := c.lend(stall)
	if err != nil {
		return err
	}
	for len(b) > 0 {
		n, err := c.nc.Write(b[:min(len(b), piece)])
		if err != nil {
			return p.giveBack(c.why(err))
		}
		b = b[n:]
		p.progress()
	}
	return p.giveBack(nil)
}

// piece is how much is written to a net.Conn at once: how far a write has come
// is not to be seen, so stall is the time for this much.
const piece = 64 << 10

// Offer sends b, which is a few bytes, if that can be done at once, and reports
// whether all of it was sent. Anybody may call it whom the owner lets write.
func (c *Conn) Offer(b []byte) bool {
	if c.rc != nil {
		return c.offer(b)
	}
	return c.halves.Load() && c.offerRecord(b)
}

// Offers reports whether Offer can send anything.
func (c *Conn) Offers() bool { return c.rc != nil || c.halves.Load() }

// offerRecord sends b through TLS if all that was written before has arrived.
// Then there is room, and it does not wait; a record of which a part was sent
// could not be taken back. What has not arrived asks the other end as well as b.
func (c *Conn) offerRecord(b []byte) bool {
	c.late.Lock() // it waits for nobody
	defer c.late.Unlock()
	if c.interrupted.Load() || c.deadline.Load() == expired {
		return false // it would fail, and with it what the owner has yet to say
	}
	if n, ok := c.Unacked(); !ok || n > 0 {
		return false
	}
	n, err := c.nc.Write(b)
	return err == nil && n == len(b)
}

// Write2 sends a and then b, with one system call if it can.
func (c *Conn) Write2(a, b []byte, stall time.Duration) error {
	if c.rc != nil {
		return c.write2(a, b, stall)
	}
	if err := c.Write(a, stall); err != nil {
		return err
	}
	return c.Write(b, stall)
}

// Try sends of a and then b what c takes at once, with one system call. If n is
// less than both, the rest is to be Written. A Conn that cannot say what it
// takes at once takes nothing.
func (c *Conn) Try(a, b []byte) (n int, err error) {
	if c.rc == nil {
		return 0, nil
	}
	return c.try(a, b)
}

// Close closes c. It may be called more than once.
func (c *Conn) Close() error {
	c.watch.drop(c)
	return c.nc.Close()
}

// Cut is Close without a good-bye. TLS says one, and waits for seconds for an
// other end that takes nothing.
func (c *Conn) Cut() error {
	c.watch.drop(c)
	nc := c.nc
	for {
		under, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nc.Close()
		}
		nc = under.NetConn()
	}
}

// Detach takes c from its Watch and leaves its connection open, for somebody
// else. What c is told from then on does not touch it.
func (c *Conn) Detach() net.Conn {
	c.watch.drop(c)
	c.late.Lock()
	defer c.late.Unlock()
	c.detached = true
	_ = c.nc.SetDeadline(time.Time{})
	return c.nc
}

// hangUp is called by the Watch. What a net.Conn reads comes in order, so only
// an owner that waits in a callback has to be woken.
func (c *Conn) hangUp(full bool) {
	first := !c.hungUp.Swap(true)
	switch {
	case c.rc == nil && !c.halves.Load():
		full = true
	case c.rc != nil && first:
		c.ended()
	}
	if c.watcher != nil && (first || full) {
		c.watcher.HungUp(full)
	}
}

// ended wakes the owner, who may have read all and still wait.
func (c *Conn) ended() {
	c.late.Lock()
	defer c.late.Unlock()
	if !c.detached {
		_ = c.nc.SetReadDeadline(past)
	}
}

// expire is called by the Watch when at has passed.
func (c *Conn) expire(at int64) {
	c.late.Lock()
	defer c.late.Unlock()
	if c.deadline.CompareAndSwap(at, expired) {
		c.wakeLocked()
	}
}
