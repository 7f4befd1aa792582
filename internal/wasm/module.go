package wasm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An Isolation is what one call sees of others.
type Isolation string

// The isolations.
const (
	Snapshot Isolation = "snapshot" // nothing: an instance is put back after each call
	Fresh    Isolation = "fresh"    // nothing: each call has an instance of its own, made for it
	Shared   Isolation = "shared"   // what earlier calls left in the instance it happens to get
)

// Settings say how a Module is run.
type Settings struct {
	Limits    Limits
	Time      time.Duration // that a call may take
	Isolation Isolation     // "" for Snapshot
	Instances int           // at most so many at once; 0 for 64. An http-wasm module may have 16 times as many: they are held while an answer is waited for
	Config    string        // what an http-wasm module is given as its configuration
}

// DefaultSettings are the contract's.
func DefaultSettings() Settings {
	return Settings{Limits: DefaultLimits(), Time: time.Second, Isolation: Snapshot, Instances: 64}
}

// Stats is what is known of a Module now. Counters only grow.
type Stats struct {
	Instances int    // there are
	Idle      int    // of those, stand ready
	Made      uint64 // so far, those of its earlier versions included
	Memory    int64  // bytes that they have, shared pages counted for each
}

// A Module is a component that can be called, by any number of goroutines at
// once.
type Module struct {
	engine *Engine
	kept   *shelved
	code   *code     // that is kept
	snap   *snapshot // nil unless instances are put back
	set    Settings

	slots   []atomic.Pointer[instance] // those that stand ready
	count   atomic.Int32               // instances that there are, or are being made
	waiting atomic.Int32               // goroutines
	freed   chan struct{}              // something has become free; never closed
	closed  atomic.Bool
	calls   atomic.Int64 // that hold an instance, or have joined
	asked   atomic.Bool  // it is in the Engine's queue

	mu   sync.Mutex     // guards the following
	all  []*instance    // those that there are
	made *atomic.Uint64 // instances; counted by a Module's earlier versions too
}

// mostPages is how many pages a memory may have whatever its limit is: the engine
// keeps its length in 32 bits, in which that of the contract's 65536 is 0.
const mostPages = 1<<16 - 1

// newModule compiles binary.
func (e *Engine) newModule(ctx context.Context, binary []byte, set Settings) (m *Module, err error) {
	if set.Instances <= 0 {
		set.Instances = DefaultSettings().Instances
	}
	if set.Isolation == "" {
		set.Isolation = Snapshot
	}
	set.Limits.MemoryPages = min(set.Limits.MemoryPages, mostPages)
	kept, err := e.shelf.get(ctx, &set, binary, func(ctx context.Context) (*code, error) {
		c, err := e.compile(ctx, binary, set.Limits)
		if err == nil {
			c.config = []byte(set.Config)
		}
		return c, err
	})
	if err != nil {
		return nil, err
	}
	c := kept.code
	if set.Config != "" && !c.http {
		e.shelf.release(kept)
		return nil, errors.New("it is given a configuration, which only http-wasm modules can ask for")
	}
	if set.Isolation == Snapshot && (c.frozen != "" || e.unsafe != "") {
		set.Isolation = Fresh
	}
	most := set.Instances
	if c.http {
		most *= heldFor
	}
	m = &Module{engine: e, kept: kept, code: c, set: set, slots: make([]atomic.Pointer[instance], most), freed: make(chan struct{}, most), made: new(atomic.Uint64)}
	e.add(m) // starting it is a call too
	m.count.Store(1)
	in, err := m.instance(nil)
	if err != nil {
		e.forget(m)
		m.release()
		return nil, err
	}
	m.put(in)
	return m, nil
}

// mostStart is how long an instance may take to start, if its calls may not take
// longer. It is started beside others, and seldom; but one that a call has to
// itself, and waits for, is started in the time of that call.
const mostStart = 2 * time.Second

// A birth is when a call began that has an instance started for it.
type birth struct {
	tick int64
	at   time.Time
}

// instance makes another instance. It has been counted. c is the call that waits
// for it, nil for none.
func (m *Module) instance(c *Call) (*instance, error) {
	in := m.code.blank()
	in.stays = m.set.Isolation == Shared
	m.mu.Lock()
	m.all = append(m.all, in)
	m.mu.Unlock()
	limit, why := max(mostStart, m.set.Time), ""
	tick := m.engine.now.Load()
	if c != nil && m.set.Isolation == Fresh {
		limit, why = c.limit(m), ", which is what its start and the call may take together"
		in.born = &birth{tick, time.Now()}
	}
	in.limit.Store(int64(limit))
	in.begin(tick)
	err := in.make(&allocator{limit: uint64(m.set.Limits.MemoryPages) * pageSize})
	if c, is := errors.AsType[*CallError](err); in.end() && (err == nil || is && c.Kind == string(errTimeout)) {
		err = failed(errTimeout, "it did not start within %s%s", limit, why)
	}
	if err == nil && m.set.Isolation == Snapshot {
		if m.snap == nil {
			m.snap, err = in.snapshot()
		}
		if err == nil {
			err = in.adopt(m.snap)
		}
	}
	if err != nil {
		m.discard(in)
		return nil, err
	}
	m.mu.Lock()
	m.made.Add(1)
	m.mu.Unlock()
	return in, nil
}

// follow makes m count the instances that are made where before does, whose next
// version it is: a total does not fall at an update. It is of no more than one.
func (m *Module) follow(before *Module) {
	before.mu.Lock()
	made := before.made
	before.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	made.Add(m.made.Load())
	m.made = made
}

// discard ends an instance that is nobody's.
func (m *Module) discard(in *instance) {
	m.mu.Lock()
	m.all = slices.DeleteFunc(m.all, func(x *instance) bool { return x == in })
	m.mu.Unlock()
	in.close()
	m.count.Add(-1)
	m.wake()
}

// get returns an instance for a call. It waits if there are as many as there may
// be, for as long as a call may take.
func (m *Module) get(ctx context.Context, c *Call) (*instance, error) {
	m.calls.Add(1)
	if m.closed.Load() && c.joined != m {
		m.left()
		return nil, failed(errBusy, "it was removed")
	}
	if in := m.take(); in != nil {
		return in, nil
	}
	in, err := m.wait(ctx, c)
	if err != nil {
		m.left()
	}
	return in, err
}

// take takes an instance that stands ready, nil if there is none. The first
// places are tried first: their memory is still in the processor's caches.
func (m *Module) take() *instance {
	n := min(int(m.count.Load()), len(m.slots))
	for i := range m.slots[:n] {
		if in := m.slots[i].Load(); in != nil && m.slots[i].CompareAndSwap(in, nil) {
			return in
		}
	}
	return nil
}

func (m *Module) wait(ctx context.Context, c *Call) (*instance, error) {
	m.waiting.Add(1)
	defer m.waiting.Add(-1)
	var late *time.Timer
	limit, left, begun := c.limit(m), c.Limit, time.Now()
	spend := func() { // what it has waited is not the call's any more
		if left > 0 {
			c.Limit = max(left-time.Since(begun), 1)
		}
	}
	defer spend()
	for {
		spend()
		if m.room() {
			in, err := m.instance(c)
			if _, is := errors.AsType[*CallError](err); err != nil && !is {
				err = failed(errTrap, "%w", err)
			}
			return in, err
		}
		if in := m.takeAny(); in != nil {
			return in, nil
		}
		if late == nil {
			late = time.NewTimer(limit)
			defer late.Stop()
		}
		select {
		case <-m.freed:
		case <-ctx.Done():
			return nil, failed(errBusy, "the request ended while it waited for one of %d instances", len(m.slots))
		case <-late.C:
			return nil, failed(errBusy, "all %d instances were busy for %s", len(m.slots), limit)
		}
	}
}

// room counts another instance, if there may be one.
func (m *Module) room() bool {
	for n := m.count.Load(); int(n) < len(m.slots); n = m.count.Load() {
		if m.count.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

func (m *Module) takeAny() *instance {
	for i := range m.slots {
		if in := m.slots[i].Swap(nil); in != nil {
			return in
		}
	}
	return nil
}

// put lets an instance stand ready.
func (m *Module) put(in *instance) {
	for i := range m.slots {
		if m.slots[i].Load() == nil && m.slots[i].CompareAndSwap(nil, in) {
			m.wake()
			return
		}
	}
	m.discard(in) // there are as many places as instances
}

// wake tells one who waits that something has become free.
func (m *Module) wake() {
	if m.waiting.Load() > 0 {
		select {
		case m.freed <- struct{}{}:
		default:
		}
	}
}

// left notes that a call is over, and ends the Module if it was the last.
func (m *Module) left() {
	if m.calls.Add(-1) == 0 && m.closed.Load() {
		m.end()
	}
}

// Close ends the Module once the calls that it has are over, and those who have
// joined it have left. Calls of others that come later fail.
func (m *Module) Close() {
	m.calls.Add(1)
	if m.closed.Swap(true) {
		m.calls.Add(-1)
		return
	}
	m.left()
}

// Join lets c be of m until Leave: its hooks are called also if m is closed
// meanwhile. It reports false if m is closed already.
func (c *Call) Join(m *Module) bool {
	if !m.stay() {
		return false
	}
	c.joined = m
	return true
}

// Leave gives back what c has: an instance, and the Module that it has joined. It
// must follow each Join that was true.
func (c *Call) Leave() {
	c.Release()
	if m := c.joined; m != nil {
		c.joined = nil
		m.left()
	}
}

// stay keeps m from ending until left is called. It reports false if m is closed.
func (m *Module) stay() bool {
	m.calls.Add(1)
	if m.closed.Load() {
		m.left()
		return false
	}
	return true
}

// end gives everything back. It is called once no call can hold an instance any
// more; one that comes now sees that the Module is closed.
func (m *Module) end() {
	m.mu.Lock()
	all := m.all
	m.all = nil
	m.mu.Unlock()
	if all == nil {
		return // a call that was turned away has been here too
	}
	m.engine.forget(m) // not before: calls that are running are stopped if they are late
	for _, in := range all {
		in.close()
	}
	m.release()
}

func (m *Module) release() {
	if m.snap != nil {
		m.snap.close()
	}
	m.engine.shelf.release(m.kept)
}

// Has reports whether the component has the hook.
func (m *Module) Has(h Hook) bool { return m.code.hooks[h] != nil }

// World is the package of the world that it is made for.
func (m *Module) World() string { return m.code.world }

// Isolation is how it is run, and why it is not as Settings asked for; "" if it
// is.
func (m *Module) Isolation() (is Isolation, why string) {
	if m.set.Isolation == Fresh {
		why = m.code.frozen
		if why == "" {
			why = m.engine.unsafe
		}
	}
	return m.set.Isolation, why
}

// Stats tells how the Module is.
func (m *Module) Stats() Stats {
	s := Stats{Instances: int(m.count.Load())}
	for i := range m.slots {
		if m.slots[i].Load() != nil {
			s.Idle++
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Made = m.made.Load()
	for _, in := range m.all {
		in.mu.Lock()
		for _, mem := range in.memories {
			s.Memory += int64(mem.high.Load())
		}
		in.mu.Unlock()
	}
	return s
}

// OnRequest calls the hook. a is filled if there is no error; an error is a
// *CallError. The Module must have the hook.
func (m *Module) OnRequest(ctx context.Context, c *Call, r *Request, a *Action) error {
	c.Release()
	in, err := m.enter(ctx, c, OnRequest)
	if err != nil {
		return err
	}
	if m.code.http {
		return m.handleRequest(in, r, a)
	}
	return m.leave(in, in.onRequest(r, a))
}

// OnResponse calls the hook, as OnRequest.
func (m *Module) OnResponse(ctx context.Context, c *Call, r *Response, a *Action) error {
	if m.code.http {
		return m.handleResponse(c, r, a)
	}
	in, err := m.enter(ctx, c, OnResponse)
	if err != nil {
		return err
	}
	return m.leave(in, in.onResponse(r, a))
}

// OnChunk calls the hook, as OnRequest.
func (m *Module) OnChunk(ctx context.Context, c *Call, event []byte, a *ChunkAction) error {
	in, err := m.enter(ctx, c, OnChunk)
	if err != nil {
		return err
	}
	return m.leave(in, in.onChunk(event, a))
}

// OnError calls the hook, as OnRequest.
func (m *Module) OnError(ctx context.Context, c *Call, f *Failure) error {
	in, err := m.enter(ctx, c, OnError)
	if err != nil {
		return err
	}
	return m.leave(in, in.onError(f))
}

// OnEnd calls the hook, as OnRequest.
func (m *Module) OnEnd(ctx context.Context, c *Call, s *Summary) error {
	if m.code.http {
		return m.handleEnd(c, s)
	}
	in, err := m.enter(ctx, c, OnEnd)
	if err != nil {
		return err
	}
	return m.leave(in, in.onEnd(s))
}

// enter lends an instance for a call at h. leave must follow.
func (m *Module) enter(ctx context.Context, c *Call, h Hook) (*instance, error) {
	in, err := m.get(ctx, c)
	if err != nil {
		return nil, err
	}
	in.call, in.lines, c.hook = c, 0, h
	if b := in.born; b != nil { // its limit is the call's since then
		in.born = nil
		in.begin(b.tick)
		in.began = b.at
	} else {
		in.bound(c.limit(m))
		in.begin(m.engine.now.Load())
	}
	return in, nil
}

// limit is how long a call of m for c may take.
func (c *Call) limit(m *Module) time.Duration {
	if c.Limit > 0 && c.Limit < m.set.Time {
		return c.Limit
	}
	return m.set.Time
}

// bound sets how long the call may take that is about to begin.
func (in *instance) bound(limit time.Duration) {
	if in.limit.Load() != int64(limit) { // mostly it is that already
		in.limit.Store(int64(limit))
	}
}

// leave gives the instance back after a call that came to err.
func (m *Module) leave(in *instance, err error) error {
	if stopped := in.end(); stopped && err == nil {
		err = failed(errTimeout, "it did not end in time") // it did, a moment before it was told to
	}
	in.call.Out.take(&in.out)
	in.out.reset()
	in.call = nil
	if err != nil && in.hoards() {
		m.engine.aside.Go(func() {
			m.giveBack(in, err)
			m.left()
		})
		return err
	}
	m.giveBack(in, err)
	m.left()
	return err
}

// muchMemory is how much an instance may have to give back to the system, after a
// call that failed, while who called it waits. More takes milliseconds, of which
// nobody should have to know who is told that the call took too long: it is given
// back beside. It counts as an instance meanwhile.
const muchMemory = 4 << 20

// hoards reports whether putting in back gives much memory back to the system.
func (in *instance) hoards() bool {
	var n uint64
	for _, m := range in.memories {
		n += m.excess()
	}
	return n > muchMemory
}

// giveBack makes an instance ready for another call, or ends it.
func (m *Module) giveBack(in *instance, err error) {
	switch {
	case m.set.Isolation == Fresh:
		m.replace(in)
		return
	case err != nil:
		var c *CallError
		overflow := errors.As(err, &c) && c.Kind == string(errTrap) && isOverflow(c.Err)
		if overflow || m.set.Isolation == Shared {
			m.replace(in)
			return
		}
		in.rearm()
	}
	if m.set.Isolation == Snapshot {
		if err := in.reset(); err != nil {
			m.replace(in)
			return
		}
	}
	in.last = m.engine.now.Load()
	m.put(in)
}

// replace ends an instance that has served; another is made beside.
func (m *Module) replace(in *instance) {
	m.discard(in)
	m.refill()
}

// isOverflow reports whether the engine itself ran out of stack, which it keeps.
func isOverflow(err error) bool { return err != nil && err.Error() == "stack overflow" }

// Sum is the name of a component's bytes.
func Sum(binary []byte) string { return fmt.Sprintf("%x", sha256.Sum256(binary)) }
