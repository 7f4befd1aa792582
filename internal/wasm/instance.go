package wasm

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
	"sluice/internal/wasm/httpwasm"
)

// An instanceContext is the context of an instance's calls. Host functions find
// in it the instance that they work for. The engine looks for keys of its own at
// each call, of which it has none.
type instanceContext struct {
	context.Context
	in *instance
}

// instanceKey is the key of the *instance.
type instanceKey struct{}

func (c *instanceContext) Value(key any) any {
	if _, ok := key.(instanceKey); ok {
		return c.in
	}
	return nil
}

// An instance is a component that can be called. One goroutine uses it at a
// time.
type instance struct {
	code *code
	ctx  context.Context // an instanceContext; made once, so that calls allocate nothing
	mods []api.Module    // by instance of the Plan

	memories []*memory    // those that the component defines; guarded by mu while it is made
	grow     []api.Memory // the same, as the engine sees them
	globals  []api.MutableGlobal
	stays    bool           // what a call leaves is there in the next
	snap     *snapshot      // what reset restores; nil for an instance that is used once
	mu       sync.Mutex     // guards stops and memories, which grow while parts are started
	stops    []controls     // one for each part
	exports  [NumHooks]hook // what is called
	callers  []guest        // by builtin
	handles  handleTable

	watch watch        // of what its calls write
	word  atomic.Int64 // of its call, see begin
	last  int64        // the tick at which it was last given back

	limit  atomic.Int64  // nanoseconds that its call may take; 0 for as long as nobody stops it
	began  time.Time     // its call, as it was noted when its first slice was used up; zero before
	looks  int           // how often it was asked whether the call is to go on
	rested time.Duration // when others last ran, since began
	looked time.Duration // when it last looked at the clock, since began
	slice  int32         // what its slices are now; firstSlice when a call begins
	slow   time.Duration // when slice was changed last, since began
	slows  int           // slices in a row that were slow, the last ones
	work   int           // that the host has done in it since it last gave way for that, see works
	born   *birth        // of one that a call has to itself, and started; nil when that call has begun

	call   *Call                           // that it is in; nil while it starts
	closed bool                            // it may not call the host now
	ending int                             // destructors that are running
	stack  [component.MaxFlatParams]uint64 // arguments and results of a call
	room   [4]uint64                       // those of the allocator

	batch   api.Function       // asks the allocator for many pieces; nil if there is none
	lengths [batchSize]uint64  // its arguments and results
	texts   []string           // that are being written, the caller's
	at      []uint32           // where
	out     Output             // what it writes to its standard streams
	http    *httpwasm.Exchange // of an http-wasm module, else nil
	lines   int                // that it has written to the log in its call
}

// controls are the globals by which a part is ruled.
type controls struct{ fuel, slice, stop, stack, why api.MutableGlobal }

// A hook is a guest's function with what calling it needs.
type hook struct {
	call, post, realloc api.Function // post may be nil
	memory              api.Memory
}

// newInstance makes an instance of c whose memories come from alloc; nil for the
// Go heap.
func (c *code) newInstance(alloc *allocator) (*instance, error) {
	in := c.blank()
	if err := in.make(alloc); err != nil {
		in.close()
		return nil, err
	}
	return in, nil
}

// blank returns an instance that has no parts yet.
func (c *code) blank() *instance {
	in := &instance{code: c, callers: make([]guest, len(c.builtins))}
	in.ctx = &instanceContext{context.Background(), in}
	if c.http {
		in.http = &httpwasm.Exchange{Host: surroundings{in}}
	}
	return in
}

// make makes the parts of in, and runs what they run when they start.
func (in *instance) make(alloc *allocator) (err error) {
	defer func() { // the engine takes no error of an allocator, and no memory that it cannot have
		if p := recover(); p != nil {
			err = fmt.Errorf("making an instance: %v", p)
		}
	}()
	c := in.code
	ctx := in.ctx
	if alloc != nil {
		ctx = experimental.WithMemoryAllocator(ctx, alloc)
	}
	ctx = experimental.WithImportResolver(ctx, func(name string) api.Module {
		for i, m := range in.mods {
			if c.parts[i].name == name {
				return m
			}
		}
		return nil
	})
	for i := range c.parts {
		p := &c.parts[i]
		before := 0
		if alloc != nil {
			before = len(alloc.made)
		}
		m, err := c.rt.InstantiateModule(ctx, p.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
		if err != nil {
			return fmt.Errorf("making an instance: %w", err)
		}
		in.mods = append(in.mods, m)
		in.control(m, p.rewrite)
		if alloc != nil && p.rewrite.Memory {
			in.mu.Lock()
			in.memories = append(in.memories, alloc.made[before])
			in.mu.Unlock()
			in.grow = append(in.grow, m.Memory())
		}
		if start := m.ExportedFunction(core.StartFunction); start != nil {
			if err := start.CallWithStack(in.ctx, nil); err != nil {
				return fmt.Errorf("starting it: %w", in.fault(err))
			}
		}
	}
	if err := in.makeBatch(ctx); err != nil {
		return err
	}
	for h, f := range c.hooks {
		if f != nil {
			in.exports[h] = in.hook(f)
		}
	}
	if c.http {
		return in.initialize()
	}
	return nil
}

// control finds the globals of a part. One that is made when in was stopped is to
// stop as those before it.
func (in *instance) control(m api.Module, r *core.Rewritten) {
	global := func(name string) api.MutableGlobal { return m.ExportedGlobal(name).(api.MutableGlobal) }
	c := controls{fuel: global(core.FuelGlobal), slice: global(core.SliceGlobal), stop: global(core.StopGlobal), stack: global(core.StackGlobal), why: global(core.WhyGlobal)}
	in.mu.Lock()
	in.stops = append(in.stops, c)
	if in.word.Load()&stateOf > running { // who stops it has perhaps been here
		c.stop.Set(1)
	}
	in.mu.Unlock()
	for _, name := range r.Globals {
		in.globals = append(in.globals, global(name))
	}
}

func (in *instance) hook(f *component.Func) hook {
	return hook{call: in.function(f.Core), post: in.function(f.Options.PostReturn), realloc: in.function(f.Options.Realloc), memory: in.memory(f.Options.Memory)}
}

// function returns the core function that it is, nil for nil.
func (in *instance) function(it *component.Item) api.Function {
	if it == nil || it.Builtin != nil {
		return nil
	}
	return in.mods[it.Instance].ExportedFunction(it.Name)
}

func (in *instance) memory(it *component.Item) api.Memory {
	if it == nil {
		return nil
	}
	m := in.mods[it.Instance]
	if mem := m.ExportedMemory(it.Name); mem != nil {
		return mem
	}
	return m.Memory()
}

// close ends the instance and gives its memory back.
func (in *instance) close() {
	for i := len(in.mods) - 1; i >= 0; i-- {
		_ = in.mods[i].Close(in.ctx)
	}
}

// why says why a guest's call ended: one of core.WhyItself and so on.
func (in *instance) why() int {
	for _, c := range in.stops {
		if v := c.why.Get(); v != 0 {
			return int(v)
		}
	}
	return core.WhyItself
}

// rearm makes the controls ready for another call.
func (in *instance) rearm() {
	for _, c := range in.stops {
		c.stop.Set(0)
		c.why.Set(0)
		c.fuel.Set(core.Slice)
		c.stack.Set(uint64(in.code.limits.Stack))
	}
}
