package wasm

import (
	"slices"

	"github.com/tetratelabs/wazero/api"

	"sluice/internal/wasm/component"
)

// A hostFunc is a core function that the host makes.
type hostFunc struct {
	name string

	// f has its arguments in st, and its results go there. It may call trap.
	f func(in *instance, st []uint64)

	// always says that it may be called while the guest makes memory for what it
	// is given, too. The canonical ABI has none such (CanonicalABI.md, may_leave);
	// but a runtime that collects garbage, as Go's does, looks at the clock
	// whenever its allocator is called often enough.
	always bool
}

// host returns the function that b is.
func (c *code) host(b *component.Builtin) (hostFunc, error) {
	slot := len(c.builtins)
	switch r := ofHost(b.Resource); b.Op {
	case component.ResourceDrop:
		return hostFunc{name: "resource.drop", f: func(in *instance, st []uint64) {
			rep := in.handles.drop(uint32(st[0]), r)
			if b.Resource.Dtor != nil {
				in.destroy(b.Resource, rep)
			}
		}}, nil
	case component.ResourceNew:
		return hostFunc{name: "resource.new", f: func(in *instance, st []uint64) { st[0] = uint64(in.handles.add(r, uint32(st[0]))) }}, nil
	case component.ResourceRep:
		return hostFunc{name: "resource.rep", f: func(in *instance, st []uint64) { st[0] = uint64(in.handles.get(uint32(st[0]), r).rep) }}, nil
	}
	name := b.Func.Interface + "#" + b.Func.Name
	if b.Func.Core != nil {
		return hostFunc{name: name, f: func(in *instance, st []uint64) { in.caller(slot).cross(b, st) }}, nil
	}
	f, always, err := imported(b.Func)
	if err != nil {
		return hostFunc{}, err
	}
	return hostFunc{name: name, always: always, f: func(in *instance, st []uint64) { f(in.caller(slot), st) }}, nil
}

// caller returns who calls builtin slot of in.
func (in *instance) caller(slot int) *guest {
	g := &in.callers[slot]
	if g.in == nil {
		o := in.code.builtins[slot].Options
		g.in, g.memory, g.realloc = in, in.memory(o.Memory), in.function(o.Realloc)
	}
	return g
}

// maxEnding bounds destructors that are called by destructors: each takes some
// of the host's stack, which has no end that a guest may reach.
const maxEnding = 64

// destroy calls the destructor of a resource that a component defines.
func (in *instance) destroy(r *component.Resource, rep uint32) {
	if in.ending >= maxEnding {
		trap("destructors are nested more than %d deep", maxEnding)
	}
	in.ending++
	defer func() { in.ending-- }()
	st := [1]uint64{uint64(rep)}
	if f := in.function(r.Dtor); f != nil {
		if err := f.CallWithStack(in.ctx, st[:]); err != nil {
			panic(err)
		}
	}
}

// A guest is who calls the host: an instance, with the memory that the call is
// about. It is made when a function is first called, because the memory may be
// made after the function.
type guest struct {
	in      *instance
	memory  api.Memory
	realloc api.Function
	callee  *hook // whom it calls, if that is another component
	busy    bool  // the callee is running
}

func (g *guest) mem() api.Memory {
	if g.memory == nil {
		trap("a call that needs memory has none")
	}
	return g.memory
}

// bytes returns n bytes of the guest's memory, which are good until it runs.
func (g *guest) bytes(at, n uint64) []byte {
	b, ok := g.mem().Read(uint32(at), uint32(n))
	if !ok {
		trap("%d bytes at %#x are outside of its memory", uint32(n), uint32(at))
	}
	return b
}

func (g *guest) u8(at uint64, v byte) { g.bytes(at, 1)[0] = v }

// aligned holds that an address is one for values of n bytes.
func aligned(at uint64, n uint32) {
	if uint32(at)%n != 0 {
		trap("an address that is not aligned to %d: %#x", n, uint32(at))
	}
}

func (g *guest) u32(at uint64, v uint32) {
	aligned(at, 4)
	if !g.mem().WriteUint32Le(uint32(at), v) {
		trap("an address outside of its memory: %#x", uint32(at))
	}
}

func (g *guest) u64(at, v uint64) {
	aligned(at, 8)
	if !g.mem().WriteUint64Le(uint32(at), v) {
		trap("an address outside of its memory: %#x", uint32(at))
	}
}

// alloc asks the guest for room.
func (g *guest) alloc(align, n uint32) uint32 {
	if g.realloc == nil {
		trap("a call that returns a list has no realloc")
	}
	at, err := g.in.realloc(g.realloc, g.mem(), align, n)
	if err != nil {
		panic(err)
	}
	return at
}

// A handle is a guest's name for something that it does not have.
type handle struct {
	resource *component.Resource // nil for a free place
	rep      uint32
}

// A handleTable holds a component's handles. Index 0 is none.
type handleTable struct {
	all  []handle
	free []uint32
}

// maxHandles bounds the handles of an instance.
const maxHandles = 1 << 12

func (t *handleTable) add(r *component.Resource, rep uint32) uint32 {
	h := handle{resource: r, rep: rep}
	if n := len(t.free); n > 0 {
		i := t.free[n-1]
		t.free = t.free[:n-1]
		t.all[i] = h
		return i
	}
	if len(t.all) == 0 {
		t.all = append(t.all, handle{})
	}
	if len(t.all) >= maxHandles {
		trap("it holds more than %d handles", maxHandles)
	}
	t.all = append(t.all, h)
	return uint32(len(t.all) - 1)
}

// get returns the handle i, which must be one of r.
func (t *handleTable) get(i uint32, r *component.Resource) handle {
	if r == nil {
		trap("%d is a handle of nothing that there is", i)
	}
	if int64(i) >= int64(len(t.all)) || t.all[i].resource != r {
		trap("%d is no handle of a %s", i, r.Name)
	}
	return t.all[i]
}

func (t *handleTable) drop(i uint32, r *component.Resource) (rep uint32) {
	h := t.get(i, r)
	t.all[i] = handle{}
	t.free = append(t.free, i)
	return h.rep
}

func (t *handleTable) clone() handleTable {
	return handleTable{all: slices.Clone(t.all), free: slices.Clone(t.free)}
}

// restore makes t what from is.
func (t *handleTable) restore(from *handleTable) {
	t.all = append(t.all[:0], from.all...)
	t.free = append(t.free[:0], from.free...)
}
