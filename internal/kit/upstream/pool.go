package upstream

import (
	"context"
	"net/netip"
	"time"

	"sluice/internal/kit/sock"
)

// A conn is one connection to a worker.
type conn struct {
	s      *sock.Conn
	h      *Host
	addr   netip.Addr
	used   bool   // it has served a request; its user's
	waits  bool   // its worker waits for each acknowledgement; its user's
	writer func() // write, bound once; allocated otherwise
	x      *Exchange
	sent   int // bytes of x that went before the writer began

	left  int           // requests that the worker will still serve, as it said; -1 if it has not
	until time.Duration // when the worker will close it, as it said, in the Watch's time; 0 if it has not

	// Guarded by h.mu.
	newer, older *conn // among the idle
	idle         bool
	since        time.Duration // when it became idle
	uses         uint64        // how often it was given out
}

// stall is how long the worker may take nothing of a request.
func (c *conn) stall() time.Duration { return c.h.client.opts.Config.SendTimeout }

// HungUp implements sock.Watcher. Who uses a connection hears of it by itself.
func (c *conn) HungUp(bool) {
	h := c.h
	h.mu.Lock()
	if !c.idle {
		h.mu.Unlock()
		return
	}
	h.idle.remove(c)
	h.mu.Unlock()
	h.drop(c, hangup)
}

// A stack holds idle connections, the newest on top.
type stack struct {
	newest, oldest *conn
	n              int
}

func (s *stack) push(c *conn) {
	c.idle, c.older, c.newer = true, s.newest, nil
	if s.newest != nil {
		s.newest.newer = c
	} else {
		s.oldest = c
	}
	s.newest = c
	s.n++
}

func (s *stack) remove(c *conn) {
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		s.newest = c.older
	}
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		s.oldest = c.newer
	}
	c.idle, c.newer, c.older = false, nil, nil
	s.n--
}

// A waiter waits for a connection, or for leave to open one.
type waiter struct {
	given chan *conn // nil: leave. It holds one
	next  *waiter
}

// take returns a connection for one request: the newest of those that are
// idle, unless fresh is asked for, or a new one. If there are as many as there
// may be, it waits for its turn.
func (h *Host) take(ctx context.Context, waits *sock.Waits, fresh bool) (*conn, error) {
	bound := h.client.opts.Config.MaxConnections
	for {
		h.mu.Lock()
		if c := h.idle.newest; c != nil && !fresh {
			h.idle.remove(c)
			c.uses++
			h.mu.Unlock()
			if why, ok := h.fit(c, !c.s.Raw() || h.client.watch.Now() != c.since); !ok {
				h.drop(c, why)
				continue
			}
			h.client.count.Reused.Inc()
			return c, nil
		}
		if bound == 0 || h.open < bound {
			h.open++
			h.mu.Unlock()
			return h.make(ctx, waits)
		}
		if c := h.idle.oldest; c != nil { // it gives its place
			h.idle.remove(c)
			h.mu.Unlock()
			h.shut(c, limit)
			return h.make(ctx, waits)
		}
		w := h.queue()
		h.mu.Unlock()
		return h.await(ctx, waits, w, fresh)
	}
}

// make opens a connection, whose place is taken.
func (h *Host) make(ctx context.Context, waits *sock.Waits) (*conn, error) {
	c, err := h.dial(ctx, waits)
	if err != nil {
		if ctx.Err() == nil {
			h.client.count.Failed.Inc()
		}
		h.vacate()
		return nil, unmade(ctx, "dial", err)
	}
	h.client.count.Opened.Inc()
	return c, nil
}

// fit reports whether an idle connection can serve a request, with or without
// a look at its socket. One that waits in callbacks and was idle only for a
// moment is used without, which would cost each request a system call: what has
// come since is read together with the answer, before it. But for what the
// runtime has not heard of when the request is sent: like what comes right after
// that, nobody can tell it from an answer. h.mu must be held, or c be the
// caller's.
func (h *Host) fit(c *conn, look bool) (why reason, ok bool) {
	now := h.client.watch.Now()
	switch {
	case c.s.HungUp():
		return hangup, false
	case c.until != 0 && now >= c.until:
		return told, false
	case now-c.since >= h.client.opts.Config.PoolIdle:
		return idle, false
	case look && !c.s.Quiet():
		return unsolicited, false
	}
	return 0, true
}

// queue puts a waiter behind the others. h.mu must be held.
func (h *Host) queue() *waiter {
	w := &waiter{given: make(chan *conn, 1)}
	if h.lastWaiter != nil {
		h.lastWaiter.next = w
	} else {
		h.firstWaiter = w
	}
	h.lastWaiter = w
	return w
}

// await returns what w is given, or makes a connection if that is leave.
func (h *Host) await(ctx context.Context, waits *sock.Waits, w *waiter, fresh bool) (*conn, error) {
	h.client.count.Waited.Inc()
	select {
	case c := <-w.given:
		switch {
		case c == nil:
		case fresh:
			h.shut(c, limit)
		default:
			h.client.count.Reused.Inc()
			return c, nil
		}
		return h.make(ctx, waits)
	case <-ctx.Done():
		h.withdraw(w)
		return nil, unmade(ctx, "wait", over(ctx))
	}
}

// withdraw takes w out of the queue; if it was given something, the next has
// it.
func (h *Host) withdraw(w *waiter) {
	h.mu.Lock()
	var before *waiter
	for at := h.firstWaiter; at != nil; before, at = at, at.next {
		if at != w {
			continue
		}
		if before == nil {
			h.firstWaiter = w.next
		} else {
			before.next = w.next
		}
		if h.lastWaiter == w {
			h.lastWaiter = before
		}
		h.mu.Unlock()
		return
	}
	h.mu.Unlock()
	if c := <-w.given; c != nil {
		h.offer(c)
	} else {
		h.vacate()
	}
}

// first takes the first waiter out of the queue; nil if there is none. h.mu
// must be held.
func (h *Host) first() *waiter {
	w := h.firstWaiter
	if w == nil {
		return nil
	}
	if h.firstWaiter = w.next; h.firstWaiter == nil {
		h.lastWaiter = nil
	}
	return w
}

// vacate tells that there is one connection less.
func (h *Host) vacate() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.first(); w != nil {
		w.given <- nil
		return
	}
	h.open--
}

// offer gives c, which can serve another request, to who waits for it, or keeps
// it.
func (h *Host) offer(c *conn) {
	h.mu.Lock()
	var spare *conn
	why := limit
	switch {
	case h.closed:
		spare, why = c, shutdown
	case c.s.HungUp():
		spare, why = c, hangup
	case h.addrs != nil && !same(h.addrs, c.addr):
		spare, why = c, moved
	default:
		if w := h.first(); w != nil {
			c.uses++
			w.given <- c
			break
		}
		c.since = h.client.watch.Now()
		h.idle.push(c)
		if h.idle.n > h.client.opts.Config.MaxIdle {
			spare = h.idle.oldest
			h.idle.remove(spare)
		}
	}
	h.mu.Unlock()
	if spare != nil {
		h.drop(spare, why)
	}
}

// shut closes c, which is nobody's. Its place is the caller's.
func (h *Host) shut(c *conn, why reason) {
	switch why { // nothing is to be written any more
	case failed, ended: // by whom may not listen
		_ = c.s.Cut()
	default:
		_ = c.s.Close()
	}
	h.client.count.closed[why].Inc()
}

// drop closes c, which is nobody's, and gives its place to the next.
func (h *Host) drop(c *conn, why reason) {
	h.shut(c, why)
	h.vacate()
}

// evict drops the idle connections for which f has a reason. f is called with
// h.mu held, for the oldest first, until it says that it has seen enough.
func (h *Host) evict(f func(c *conn) (why reason, bad, more bool)) {
	type evicted struct {
		c   *conn
		why reason
	}
	var out []evicted
	h.mu.Lock()
	for c := h.idle.oldest; c != nil; {
		next := c.newer
		why, bad, more := f(c)
		if bad {
			h.idle.remove(c)
			out = append(out, evicted{c, why})
		}
		if !more {
			break
		}
		c = next
	}
	h.mu.Unlock()
	for _, e := range out {
		h.drop(e.c, e.why)
	}
}

// sweep closes what was unused for too long. The stack is in the order of that,
// so that it looks at no more than it closes, and one.
func (h *Host) sweep() {
	now := h.client.watch.Now()
	h.evict(func(c *conn) (reason, bool, bool) {
		old := now-c.since >= h.client.opts.Config.PoolIdle
		return idle, old, old
	})
}

// inspect closes the idle connections on which something has come, and those
// that the worker is about to close.
func (h *Host) inspect() {
	type seen struct {
		c    *conn
		uses uint64
	}
	h.mu.Lock()
	all := make([]seen, 0, h.idle.n)
	for c := h.idle.oldest; c != nil; c = c.newer {
		all = append(all, seen{c, c.uses})
	}
	h.mu.Unlock()
	for _, s := range all {
		h.mu.Lock()
		why, ok := reason(0), true
		if s.c.idle && s.c.uses == s.uses {
			why, ok = h.fit(s.c, true)
		}
		if !ok {
			h.idle.remove(s.c)
		}
		h.mu.Unlock()
		if !ok {
			h.drop(s.c, why)
		}
	}
}
