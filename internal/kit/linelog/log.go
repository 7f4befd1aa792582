// Package linelog is a log for lines that are many.
//
// What is said now and then goes through slog and is written at once. A Line
// has the same bytes as slog's handlers would give it, but takes no allocation,
// no lock that all share and no system call: it waits for others, for a tenth
// of a second at most, and they are written together.
package linelog

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// batch is how many bytes of a stripe are not kept waiting. A write of so many
	// looks to Go's scheduler like one that blocks: it moves what runs on the core
	// to another thread, and watches closely for some milliseconds. So they are to
	// be seldom, rather than short.
	batch = 128 << 10

	// patience is how long a line waits for others.
	patience = 100 * time.Millisecond

	// maxWaiting bounds what waits while out does not take it, all stripes
	// together. As much again may be under way to out.
	maxWaiting = 8 << 20

	maxStripes = 16

	// maxIdle is how much memory a stripe keeps that it does not need now, and
	// maxIdleAll what they are put together in.
	maxIdle    = 2 * batch
	maxIdleAll = maxStripes * batch
)

// Config says which lines are written and what they look like.
type Config struct {
	JSON  bool       // as slog's JSONHandler, else as its TextHandler
	Level slog.Level // the least that is written
}

// A Log writes lines to one place, each of them whole. A nil Log writes none.
//
// Lines that out does not take, or not fast enough, are dropped and counted:
// requests do not wait for a log.
type Log struct {
	cfg     Config   // constant
	stripes []stripe // constant; what they hold is their own
	idle    sync.Pool
	next    atomic.Uint32 // the stripe of the next Line that is made

	armed atomic.Bool   // Run is going to flush
	wake  chan struct{} // there is something to flush, in patience
	full  chan struct{} // there is, now

	lost   atomic.Int64 // lines dropped
	onDrop atomic.Pointer[func(lines int)]

	mu    sync.Mutex // held while something is written
	out   io.Writer  // guarded by mu
	taken []byte     // guarded by mu; what is written
	spare []byte     // guarded by mu; takes a stripe's place
	seen  int64      // guarded by mu; lost as it was at the last flush
	told  int64      // guarded by mu; how many of lost have been warned of
}

// A stripe is what some Lines wait in, so that no two of those that end at once
// need the same lock.
type stripe struct {
	mu  sync.Mutex
	buf []byte   // guarded by mu; whole lines
	_   [96]byte // keeps the next stripe out of this one's cache lines
}

// New returns a Log that writes to out. Lines wait until Run or Flush.
func New(out io.Writer, cfg Config) *Log {
	l := &Log{
		cfg: cfg, out: out, stripes: make([]stripe, min(2*runtime.GOMAXPROCS(0), maxStripes)),
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
	}
	l.idle.New = func() any {
		n := l.next.Add(1) % uint32(len(l.stripes))
		return &Line{log: l, stripe: &l.stripes[n], json: cfg.JSON, buf: make([]byte, 0, 1<<10)}
	}
	return l
}

// Handler returns the handler for all that is written at once.
func (l *Log) Handler() slog.Handler {
	opt := &slog.HandlerOptions{Level: l.cfg.Level}
	if l.cfg.JSON {
		return slog.NewJSONHandler(atOnce{l}, opt)
	}
	return slog.NewTextHandler(atOnce{l}, opt)
}

// atOnce writes to l's out, but not into the midst of its lines.
type atOnce struct{ l *Log }

func (w atOnce) Write(b []byte) (int, error) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	return w.l.out.Write(b)
}

// Enabled reports whether lines of a level are written.
func (l *Log) Enabled(level slog.Level) bool { return l != nil && level >= l.cfg.Level }

// OnDrop says what is called with how many lines were dropped, after what was said
// before. f is called by several goroutines at once and must not block.
func (l *Log) OnDrop(f func(lines int)) {
	if l == nil {
		return
	}
	if before := l.onDrop.Load(); before != nil {
		first, then := *before, f
		f = func(lines int) { first(lines); then(lines) }
	}
	l.onDrop.Store(&f)
}

// Put leaves a copy of line, which is whole and ends with a line feed, to be
// written as it is. A nil Log drops it.
func (l *Log) Put(line []byte) {
	if l == nil {
		return
	}
	e := l.idle.Get().(*Line)
	l.add(e.stripe, line)
	l.idle.Put(e)
}

func (l *Log) drop(lines int) {
	l.lost.Add(int64(lines))
	if f := l.onDrop.Load(); f != nil {
		(*f)(lines)
	}
}

// Run writes lines until ctx is done, and what waits then.
func (l *Log) Run(ctx context.Context) error {
	if l == nil {
		<-ctx.Done()
		return nil
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-l.full:
		case <-l.wake:
			timer.Reset(patience)
			select {
			case <-timer.C:
			case <-l.full:
			case <-ctx.Done():
			}
		case <-ctx.Done():
			l.flush(true)
			return nil
		}
		l.flush(false)
	}
}

// Flush writes what waits.
func (l *Log) Flush() { l.flush(false) }

// add leaves b, a line, to be written.
func (l *Log) add(s *stripe, b []byte) {
	s.mu.Lock()
	before := len(s.buf)
	if before+len(b) > maxWaiting/len(l.stripes) {
		s.mu.Unlock()
		l.drop(1)
		return
	}
	s.buf = append(s.buf, b...)
	s.mu.Unlock()
	if before < batch && before+len(b) >= batch {
		signal(l.full)
	} else if !l.armed.Load() {
		l.arm()
	}
}

// arm makes Run flush within patience.
func (l *Log) arm() {
	if l.armed.CompareAndSwap(false, true) {
		signal(l.wake)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is known already
	}
}

// flush writes what waits; last says that nothing will be written after it.
func (l *Log) flush(last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Before the stripes are emptied: who adds a line after that finds it
	// false and wakes Run again.
	l.armed.Store(false)
	for i := range l.stripes {
		s := &l.stripes[i]
		s.mu.Lock()
		s.buf, l.spare = l.spare[:0], s.buf
		s.mu.Unlock()
		l.taken = append(l.taken, l.spare...)
		if cap(l.spare) > maxIdle {
			l.spare = nil // of a time when out was slow
		}
	}
	if len(l.taken) > 0 {
		n, err := l.out.Write(l.taken)
		if err != nil {
			l.drop(bytes.Count(l.taken[max(n, 0):], []byte("\n")))
		}
	}
	l.taken = l.taken[:0]
	if cap(l.taken) > maxIdleAll {
		l.taken = nil
	}
	l.warnLocked(last)
}

// warnLocked says how many lines are missing in the log, once no more are
// dropped: in the midst of it, a warning each time would not help. l.mu must be
// held.
func (l *Log) warnLocked(last bool) {
	lost := l.lost.Load()
	if lost == l.told {
		return
	}
	if lost != l.seen && !last {
		l.seen = lost
		l.arm()
		return
	}
	if !l.Enabled(slog.LevelWarn) {
		l.told = lost
		return
	}
	e := l.Begin(time.Now(), slog.LevelWarn, "lines are missing in this log: it could not be written fast enough, or not at all")
	e.Int("lines", lost-l.told)
	if _, err := l.out.Write(e.text()); err == nil { // else the next flush tries
		l.told = lost
	}
	e.free()
}
