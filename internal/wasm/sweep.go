package wasm

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/wasm/core"
)

// An Engine compiles components and sees to it that calls of them end.
type Engine struct {
	log    *slog.Logger
	disk   *disk // nil for none
	shelf  *shelf
	unsafe string       // why instances cannot be put back on this machine; "" if they can
	now    atomic.Int64 // in ticks, from 1

	mu      sync.Mutex // guards modules while it is replaced
	modules atomic.Pointer[[]*Module]
	some    chan struct{}  // there is a module; holds at most one word
	wanting chan *Module   // those whose instances are to be looked after, each once
	aside   sync.WaitGroup // of instances whose memory is given back beside
}

// tick is how often it is looked whether calls take too long.
const tick = 5 * time.Millisecond

// NewEngine returns an Engine that keeps compiled code in dir too, so that a
// restart need not compile; "" for in memory only. Run has to run while there are calls.
func NewEngine(dir string, log *slog.Logger) (e *Engine, err error) {
	e = &Engine{log: log, shelf: newShelf(shelfRoom), some: make(chan struct{}, 1), wanting: make(chan *Module, maxModules)}
	if dir != "" {
		if e.disk, err = newDisk(dir, diskRoom, log); err != nil {
			return nil, err
		}
	}
	e.now.Store(1)
	e.modules.Store(new([]*Module))
	if e.unsafe, err = selfTest(context.Background()); err != nil {
		return nil, err
	}
	if e.unsafe != "" {
		log.Warn("modules get a new instance for each call, which is slow: instances cannot be put back here", "because", e.unsafe)
	}
	if err := unwatched(); err != nil {
		log.Info("what modules write is looked for after each call, which takes some microseconds: their memory cannot be watched here", "because", err)
	}
	return e, nil
}

// Load compiles a component. It may take seconds for a large one, and fails if it
// takes minutes, or ctx is done.
func (e *Engine) Load(ctx context.Context, binary []byte, set Settings) (*Module, error) {
	return e.newModule(ctx, binary, set)
}

// add lets calls of m be watched.
func (e *Engine) add(m *Module) {
	e.change(func(ms []*Module) []*Module { return append(ms, m) })
	select {
	case e.some <- struct{}{}:
	default:
	}
}

func (e *Engine) forget(m *Module) {
	e.change(func(ms []*Module) []*Module {
		return slices.DeleteFunc(ms, func(x *Module) bool { return x == m })
	})
}

func (e *Engine) change(f func([]*Module) []*Module) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ms := f(slices.Clone(*e.modules.Load()))
	e.modules.Store(&ms)
}

// Close gives the compiled code back, once what is being compiled is. No Module
// may be used any more.
func (e *Engine) Close(ctx context.Context) error {
	e.aside.Wait()
	e.shelf.clear()
	return nil
}

// Run ends calls that take too long, and keeps instances ready, until ctx is done.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { e.keepReady(ctx) })
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		if len(*e.modules.Load()) == 0 {
			t.Stop()
			select {
			case <-ctx.Done():
				return nil
			case <-e.some:
				t.Reset(tick)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			e.sweep(e.now.Add(1))
		}
	}
}

// A guest runs for firstRest before others do, and then for restEvery at a time. A
// slice of it is mostly much shorter: who has not run for as long looks at the
// clock and goes on. Few calls take longer than the first, and who is in the middle
// of one needs an instance of its own.
const (
	firstRest = 200 * time.Microsecond
	restEvery = 15 * time.Microsecond
)

// giveWay is called in a call, whenever the guest has used up a slice: others run,
// if it is time, and the call is stopped if it has taken too long. The sweeper
// knows that no better than to a tick, and when all processors are busy it comes
// late itself.
func (in *instance) giveWay() {
	in.looks++
	if in.began.IsZero() { // less than a slice ago: not worth a look at the clock in each short call
		in.began, in.rested, in.looked, in.slow, in.slows = time.Now(), 0, 0, 0, 0
		return
	}
	ran := time.Since(in.began)
	in.adapt(ran)
	if ran-in.rested >= restEvery && ran >= firstRest {
		in.watch.giveWay()
		ran = time.Since(in.began)
		in.rested = ran
	}
	in.looked = ran
	switch limit := time.Duration(in.limit.Load()); {
	case limit > 0 && ran >= limit:
		in.stop(in.word.Load())
	case processTurn.over(in.began.Add(ran), ran):
		cede()
	}
}

// A call begins with slices of firstSlice, or of waryFirst if another one of the
// same guest's was slow for waryAfter slices in a row, in the last waryTicks; one
// that is slow alone was interrupted by the system. When the second slice has
// ended it is known how long they take. From then on they are as long as they may
// be if they are to take longSlice, but not shorter than leastSlice. Short ones
// become longer again by and by, and not as soon as one takes less: else a guest
// that waits for memory would run as long as others do, whenever it likes.
const (
	firstSlice  = 4_000
	waryFirst   = 256
	waryTicks   = 100 * time.Millisecond / tick
	waryAfter   = 3
	longSlice   = 200 * time.Microsecond
	leastSlice  = 256 // and not than core.MostCost
	longerEvery = 5 * time.Millisecond
)

// adapt makes slices as long as they should be, when one has ended.
func (in *instance) adapt(ran time.Duration) {
	took := ran - in.looked
	if int64(took)*core.Slice <= int64(longSlice)*int64(in.slice) {
		in.slows = 0
	} else if in.slows++; in.slows == waryAfter {
		in.code.wary.Store(in.word.Load()>>2 + int64(ran/tick) + int64(waryTicks))
	}
	switch n := in.slice; {
	case took > longSlice || in.looks == 2:
		in.cut(int32(min(max(int64(n)*int64(longSlice)/int64(max(took, 1)), leastSlice), core.Slice)))
		in.slow = ran
	case n < core.Slice && ran-in.slow > longerEvery:
		in.cut(min(2*n, core.Slice))
		in.slow = ran
	}
}

// cut makes slices n long.
func (in *instance) cut(n int32) {
	in.slice = n
	for i := range in.stops {
		in.stops[i].slice.Set(uint64(n))
	}
}

// sweep stops the calls that have taken too long at now.
func (e *Engine) sweep(now int64) {
	for _, m := range *e.modules.Load() {
		m.mu.Lock()
		for _, in := range m.all {
			in.stopIfLate(now, (in.limit.Load()+int64(tick)-1)/int64(tick))
		}
		m.mu.Unlock()
	}
}

// The state of an instance's call, in the low bits of its word; above them is
// the tick at which the call began. A word of 0 is no call.
const (
	running  = 1
	stopping = 2 // the sweeper is about to stop it: who called it waits for that
	stopped  = 3
	stateOf  = 3
)

// begin notes that a call begins at a tick. end must follow, in the same
// goroutine. The call has all of a slice: one that is shorter would else give way
// to others in its middle now and then, who would need a further instance.
func (in *instance) begin(now int64) {
	in.watch.slices, in.looks, in.began, in.work = 0, 0, time.Time{}, 0
	first := int32(firstSlice)
	if in.code.wary.Load() > now {
		first = waryFirst
	}
	for i := range in.stops {
		in.stops[i].fuel.Set(uint64(first))
	}
	if in.slice != first {
		in.cut(first)
	}
	in.watch.begin()
	in.word.Store(now<<2 | running)
}

// end notes that the call is over, and reports whether it was stopped. It
// returns when the sweeper has its hands off the instance.
func (in *instance) end() bool {
	in.watch.end()
	w := in.word.Load()
	if w&stateOf == running && in.word.CompareAndSwap(w, 0) {
		return false
	}
	for in.word.Load()&stateOf != stopped {
		runtime.Gosched()
	}
	in.word.Store(0)
	return true
}

// stopIfLate stops the call if it has run for more than limit ticks.
func (in *instance) stopIfLate(now, limit int64) {
	if w := in.word.Load(); now-w>>2 > limit {
		in.stop(w)
	}
}

// stop stops the call whose word is w, if it is running.
func (in *instance) stop(w int64) {
	if w&stateOf != running || !in.word.CompareAndSwap(w, w&^stateOf|stopping) {
		return
	}
	in.mu.Lock()
	for _, c := range in.stops {
		c.stop.Set(1)
	}
	in.mu.Unlock()
	in.word.Store(w&^stateOf | stopped)
}

// A guest that pays more at once than a slice has would never go on.
const _ = uint(leastSlice - core.MostCost)
