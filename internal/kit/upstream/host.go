package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"sluice/internal/kit/sock"
)

// staleFor is how long after sending a request that came to nothing may be
// sent again: a worker that closes later may have begun to work on it.
const staleFor = time.Second

// A Host is one worker and the connections to it. Its methods may be called by
// several goroutines at once.
type Host struct {
	client  *Client
	network string // "tcp" or "unix"
	name    string // or path
	port    string
	fixed   []netip.Addr  // if the name is an address
	tls     *tls.Config   // nil without
	dials   chan struct{} // holds one for each connection that is being opened

	// mu guards what follows. Requests to the same worker share it, for the
	// few instructions that a list takes.
	mu                      sync.Mutex
	idle                    stack
	open                    int // connections that are open or being opened, or whose place somebody has
	firstWaiter, lastWaiter *waiter
	closed                  bool
	addrs                   []netip.Addr  // where the name led last; nil before the first time, and of addresses
	asked                   time.Duration // when that was asked
	found                   time.Duration // when it was answered
	asking                  chan struct{} // closed when who asks has the answer; nil if nobody does
}

// Close closes the idle connections to the worker. Requests that run are not
// disturbed, and others may come, but no connection is kept any more.
func (h *Host) Close() {
	h.client.forget(h)
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.evict(func(*conn) (reason, bool, bool) { return shutdown, true, true })
}

// Do sends x and hands the answer to x.Sink. It returns nil when all of the
// answer was handed out. Errors are of type *Error, or the Sink's own. After
// one x can be sent to another Host, if the Sink's Answer was not called.
//
// The end of ctx ends Do in whatever it waits for, but for the Sink. If ctx
// holds a *sock.Waits under sock.Key, whoever ends ctx must End that. ctx's
// deadline bounds all of the exchange.
//
// A request is sent again, once on another connection that was kept and then
// on a new one, if the connection that it was sent on had served before and the
// worker had closed it before it had the request.
func (h *Host) Do(ctx context.Context, x *Exchange) error {
	_, _, err := h.do(ctx, x, false)
	return err
}

// Tunnel is Do for a request that asks for another protocol, on a connection
// of its own. If the worker switches, Sink.Answer has 101 and the connection
// is the caller's, with what the worker has said behind the head. If it answers
// otherwise, nc is nil and the Sink has the answer.
func (h *Host) Tunnel(ctx context.Context, x *Exchange) (nc net.Conn, early []byte, err error) {
	return h.do(ctx, x, true)
}

func (h *Host) do(ctx context.Context, x *Exchange, tunnel bool) (nc net.Conn, early []byte, err error) {
	total, err := h.total(ctx)
	if err != nil {
		return nil, nil, err
	}
	waits, _ := ctx.Value(sock.Key{}).(*sock.Waits)
	if waits == nil || waits.Over() { // else it is neither ended nor, as total has seen, too late
		if err := ctx.Err(); err != nil {
			return nil, nil, unmade(ctx, "wait", err)
		}
	}
	if waits == nil && ctx.Done() != nil { // asked last: it may cost a timer
		waits = new(sock.Waits) // not used again: its End may come late
		defer context.AfterFunc(ctx, waits.End)()
	}
	for try := 0; ; try++ {
		c, err := h.take(ctx, waits, tunnel || x.outlet != nil || try > 1)
		if err != nil {
			return nil, nil, h.told(err)
		}
		x.attempt = attempt{c: c, total: total, size: readSize, tunnel: tunnel}
		err = x.receive(waits)
		switch {
		case err == nil && x.switched:
			nc, early = h.detach(x)
			return nc, early, nil
		case err == nil:
			h.done(x)
			x.attempt = attempt{}
			return nil, nil, nil
		}
		again, err := x.stale(err), x.fault(ctx, err)
		h.drop(c, x.why())
		x.dropAnswer()
		x.attempt = attempt{}
		if !again {
			return nil, nil, h.told(err)
		}
		h.client.count.Replays.Inc()
	}
}

// told counts err if it says that the worker was too slow, and returns it.
func (h *Host) told(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Timeout {
		h.client.count.slow[e.Op].Inc()
	}
	return err
}

// total returns when ctx's deadline passes, in the Watch's time; 0 if it has
// none.
func (h *Host) total(ctx context.Context) (time.Duration, error) {
	at, ok := ctx.Deadline()
	if !ok {
		return 0, nil
	}
	total := h.client.watch.Time(at)
	if total <= h.client.watch.Now() {
		return 0, &Error{Op: "wait", Timeout: true, Err: context.DeadlineExceeded}
	}
	return total, nil
}

// receive sends x and receives its answer on x.c.
func (x *Exchange) receive(waits *sock.Waits) error {
	s := x.c.s
	if waits != nil && !waits.On(s) {
		waits.Off()
		s.Interrupt()
		return sock.ErrInterrupted
	}
	returned := false
	defer func() {
		if !returned {
			x.abandon(waits)
		}
	}()
	err := s.Receive((*receiver)(x))
	returned = true
	x.settle(true)
	if waits != nil {
		waits.Off()
	}
	if err == io.EOF && x.stage == inHead && x.in != nil && x.n > 0 && bytes.IndexByte(x.in.B[:x.n], '\n') < 0 {
		err = errNoAnswer
	}
	if !x.switched {
		x.dropIn()
	}
	if err == io.EOF && x.sinkErr == nil && x.stage == inBody && x.body.End() == nil {
		err = nil
	}
	return err
}

// abandon ends an exchange whose Sink has panicked: how far the answer was read
// is not known.
func (x *Exchange) abandon(waits *sock.Waits) {
	x.settle(true)
	if waits != nil {
		waits.Off()
	}
	x.dropIn()
	x.dropAnswer()
	c := x.c
	x.attempt = attempt{}
	c.h.drop(c, ended)
}

// stale reports whether err says that the worker had closed the connection
// before the request came, so that it may be sent again. A worker that took it,
// and died of it perhaps, looks much the same: what tells them apart is that
// its kernel has acknowledged the request. After a reset nobody knows.
func (x *Exchange) stale(err error) bool {
	switch {
	case x.Once, x.outlet != nil, !x.c.used, x.received, x.c.s.Interrupted(), x.sinkErr != nil:
		return false
	case errors.Is(err, sock.ErrExpired), errors.Is(x.sendErr, sock.ErrExpired), errors.Is(err, sock.ErrInterrupted):
		return false
	case x.c.h.client.watch.Now()-x.sentAt >= staleFor:
		return false
	case x.sendErr != nil:
		return true
	}
	n, known := x.c.s.Unacked()
	return known && errors.Is(err, io.EOF) && n >= len(x.Head)+len(x.Body)
}

// why returns why the connection of a failed exchange is closed.
func (x *Exchange) why() reason {
	if x.c.s.Interrupted() || x.sinkErr != nil {
		return ended
	}
	return failed
}

// done keeps x's connection, if it can serve another request.
func (h *Host) done(x *Exchange) {
	c := x.c
	c.used = true
	if why, ok := x.kept(); !ok {
		h.drop(c, why)
		return
	}
	h.offer(c)
}

// kept reports whether x's connection can serve another request.
func (x *Exchange) kept() (why reason, ok bool) {
	c := x.c
	if c.left >= 0 {
		c.left--
	}
	c.until = 0
	if x.says.requests >= 0 {
		c.left = int(x.says.requests)
	}
	if x.says.idle >= 0 { // closed a second early, rather than used in vain
		c.until = max(c.h.client.watch.Now()+time.Duration(x.says.idle-1)*time.Second, 1)
	}
	switch {
	case c.s.Interrupted():
		return ended, false
	case x.sendErr != nil, x.unsent, x.stopped, x.pause() != nil:
		return failed, false
	case !x.keep && x.says.keep && x.body.Done():
		return unsolicited, false
	case !x.keep, c.left == 0, x.says.idle == 0 || x.says.idle == 1:
		return told, false
	case c.s.Unread():
		return unsolicited, false
	}
	return 0, true
}

// detach gives x's connection to somebody else.
func (h *Host) detach(x *Exchange) (nc net.Conn, early []byte) {
	early = append(early, x.in.B[:x.n]...)
	x.dropIn()
	nc = x.c.s.Detach()
	x.attempt = attempt{}
	h.vacate()
	return nc, early
}
