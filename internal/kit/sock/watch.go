package sock

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Tick is how often deadlines are swept: the precision of all of them.
const Tick = 100 * time.Millisecond

// A Watch looks after Conns: it tells them when their other end hangs up, and
// when their time is up. One does for a process.
type Watch struct {
	now   atomic.Int64 // nanoseconds since start, as of the last tick; never 0
	start time.Time
	hang  hangups

	lenient int // of sweep only: in how many sweeps nothing passes yet, and one

	mu    sync.Mutex // guards what follows
	slots []entry
	free  []uint32
	ticks []func()
}

// A slot names a Conn's entry. The generation keeps what is told of one Conn
// from another that has its place, and its descriptor, by then.
type slot struct{ index, generation uint32 }

type entry struct {
	c          *Conn // nil if free
	generation uint32
}

// NewWatch returns a Watch. Deadlines and hang-ups are told while it Runs.
func NewWatch() (*Watch, error) {
	w := &Watch{start: time.Now()}
	w.now.Store(1)
	if err := w.hang.open(); err != nil {
		return nil, err
	}
	return w, nil
}

// Run looks after Conns until ctx is done. It must be called once, and ends
// after the last Conn was closed: what comes later is told to nobody.
func (w *Watch) Run(ctx context.Context) error {
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		w.hang.run(w)
	}()
	t := time.NewTicker(Tick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.sweep()
		case <-ctx.Done():
			w.hang.close()
			<-heard
			return nil
		}
	}
}

// Close gives up a Watch that has not Run, and never will.
func (w *Watch) Close() { w.hang.discard() }

// Now returns the time since the Watch began, as of the last tick: it costs a
// load, where the clock costs a call.
func (w *Watch) Now() time.Duration { return time.Duration(w.now.Load()) }

// Time returns t in the Watch's time, which Now reaches up to a Tick late.
func (w *Watch) Time(t time.Time) time.Duration { return t.Sub(w.start) }

// exact is what is a short time: it is told by the clock. The last tick may be
// longer ago than a Tick where too much is to do, which a short time would feel.
const exact = 2 * time.Second

// in returns the time that is d from now, or up to a Tick later: the last tick
// may be that long ago, and no deadline may pass early.
func (w *Watch) in(d time.Duration) int64 {
	if d < exact {
		return int64(time.Since(w.start)+d) + 1
	}
	return w.now.Load() + int64(d+Tick)
}

// OnTick makes the Watch call f at every Tick while it Runs, on its own
// goroutine.
func (w *Watch) OnTick(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ticks = append(w.ticks, f)
}

// Add makes a Conn of nc, which belongs to it from then on. watcher may be nil.
func (w *Watch) Add(nc net.Conn, watcher Watcher) *Conn {
	c := &Conn{nc: nc, watch: w, watcher: watcher, fd: -1}
	c.raw()
	w.mu.Lock()
	if n := len(w.free); n > 0 {
		c.slot.index, w.free = w.free[n-1], w.free[:n-1]
	} else {
		c.slot.index = uint32(len(w.slots))
		w.slots = append(w.slots, entry{})
	}
	e := &w.slots[c.slot.index]
	e.c, c.slot.generation = c, e.generation
	w.mu.Unlock()
	if sc := socket(nc); sc != nil {
		if rc, err := sc.SyscallConn(); err == nil {
			_ = rc.Control(func(fd uintptr) {
				c.fd = int(fd)
				w.hang.add(c)
			})
		}
	}
	return c
}

// socket returns what nc stands on, through TLS.
func socket(nc net.Conn) syscall.Conn {
	for {
		if sc, ok := nc.(syscall.Conn); ok {
			return sc
		}
		under, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		nc = under.NetConn()
	}
}

// drop forgets c.
func (w *Watch) drop(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := &w.slots[c.slot.index]
	if e.c != c {
		return
	}
	e.c = nil
	e.generation++
	w.free = append(w.free, c.slot.index)
	w.hang.drop(c)
}

// at returns the Conn of s, or nil if it is closed.
func (w *Watch) at(s slot) *Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if int(s.index) >= len(w.slots) {
		return nil
	}
	if e := w.slots[s.index]; e.generation == s.generation {
		return e.c
	}
	return nil
}

// A process whose sweeps are further apart than stoodStill has stood still, and
// its machine with it perhaps: what others have sent in time is here and is not
// read yet. For leniency sweeps there is time to.
const (
	stoodStill = 3 * Tick
	leniency   = 5
)

// forgives reports whether nothing passes in this sweep, which is gap after the
// last. Where sweeps are always late, every leniency+1st is as strict as others.
func (w *Watch) forgives(gap time.Duration) bool {
	if w.lenient == 0 && gap > stoodStill {
		w.lenient = leniency + 1
	}
	w.lenient = max(w.lenient-1, 0)
	return w.lenient > 0
}

// sweep moves the clock and expires what is due.
func (w *Watch) sweep() {
	now := int64(time.Since(w.start)) + 1
	last := w.now.Swap(now)
	var due []*Conn
	w.mu.Lock()
	if !w.forgives(time.Duration(now - last)) {
		due = w.dueLocked(now)
	}
	ticks := w.ticks
	w.mu.Unlock()
	for _, c := range due {
		if at := c.deadline.Load(); at > 0 && at <= now {
			c.expire(at)
		}
	}
	for _, f := range ticks {
		f()
	}
}

// dueLocked returns the Conns whose deadlines have passed. w.mu must be held.
func (w *Watch) dueLocked(now int64) []*Conn {
	var due []*Conn
	for i := range w.slots {
		c := w.slots[i].c
		if c == nil {
			continue
		}
		if at := c.deadline.Load(); at > 0 && at <= now {
			due = append(due, c)
		}
	}
	return due
}
