package wasm

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/tetratelabs/wazero/api"

	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
)

// cross calls a function of another component within the same one: b's
// arguments are in st, and its result goes there. Values are copied from memory
// to memory and checked on the way (CanonicalABI.md, "canon lower"). Handles
// are the same in all of a component.
func (g *guest) cross(b *component.Builtin, st []uint64) {
	if g.busy {
		trap("a component is entered that is running")
	}
	if g.callee == nil {
		h := g.in.hook(b.Func)
		g.callee = &h
	}
	g.busy = true
	defer func() { g.busy = false }()
	h, t := g.callee, b.Func.Type
	in := &crossing{in: g.in, from: g.memory, to: h.memory, realloc: h.realloc}
	args := make([]uint64, max(len(t.Core(false).Params), 1))
	out := 0 // where in st the caller says where it wants a result that is no single value
	if tooMany(t) {
		rec := asRecord(t)
		args[0] = uint64(in.alloc(rec))
		in.value(rec, uint32(st[0]), uint32(args[0]))
		out = 1
	} else {
		n := 0
		for _, p := range t.Params {
			n += in.flat(p.Type, st[n:], args[n:])
		}
		out = n
	}
	if err := h.call.CallWithStack(g.in.ctx, args); err != nil {
		panic(err)
	}
	if t.Result != nil {
		back := &crossing{in: g.in, from: h.memory, to: g.memory, realloc: g.realloc, moved: in.moved}
		if len(t.Result.Flat()) > component.MaxFlatResults {
			back.value(t.Result, uint32(args[0]), uint32(st[out]))
		} else {
			result := args[0]
			back.flat(t.Result, []uint64{result}, st[:1])
		}
	}
	if h.post != nil {
		g.in.closed = true
		err := h.post.CallWithStack(g.in.ctx, args[:1])
		g.in.closed = false
		if err != nil {
			panic(err)
		}
	}
}

// tooMany reports whether t's parameters pass through memory.
func tooMany(t *component.FuncType) bool {
	n := 0
	for _, p := range t.Params {
		n += len(p.Type.Flat())
	}
	return n > component.MaxFlatParams
}

// asRecord is t's parameters as one value.
func asRecord(t *component.FuncType) *component.Type {
	return component.NewType(component.Type{Kind: component.Tuple, Fields: t.Params})
}

// A crossing copies values from one memory to another.
type crossing struct {
	in       *instance
	from, to api.Memory
	realloc  api.Function
	moved    int // bytes
}

func (c *crossing) alloc(t *component.Type) uint32 { return c.room(t.Align(), t.Size()) }

func (c *crossing) room(align, n uint32) uint32 {
	if c.moved += int(n); c.moved > maxAction {
		trap("more than %d bytes pass between components", maxAction)
	}
	if c.realloc == nil || c.to == nil {
		trap("a component that is given memory has none")
	}
	at, err := c.in.realloc(c.realloc, c.to, align, n)
	if err != nil {
		panic(err)
	}
	return at
}

func (c *crossing) read(at, n uint32) []byte {
	if c.from == nil {
		trap("a component that gives memory has none")
	}
	b, ok := c.from.Read(at, n)
	if !ok {
		trap("%d bytes at %#x are outside of its memory", n, at)
	}
	return b
}

func (c *crossing) room4(at, n uint32) []byte {
	b, ok := c.to.Read(at, n)
	if !ok {
		trap("%d bytes at %#x are outside of its memory", n, at)
	}
	return b
}

// flat copies a value that is core values, and returns how many.
func (c *crossing) flat(t *component.Type, from, to []uint64) int {
	n := len(t.Flat())
	switch t.Kind {
	case component.String, component.List:
		at, k := c.list(t, uint32(from[0]), uint32(from[1]))
		to[0], to[1] = uint64(at), uint64(k)
	case component.Record, component.Tuple:
		i := 0
		for _, f := range t.Fields {
			i += c.flat(f.Type, from[i:], to[i:])
		}
	case component.Variant, component.Enum, component.Option, component.Result:
		k := c.tag(t, uint64(uint32(from[0])))
		clear(to[:n])
		to[0] = from[0]
		if f := t.Cases[k]; f.Type != nil {
			c.flat(f.Type, from[1:], to[1:])
		}
	default:
		to[0] = c.scalar(t, from[0])
	}
	return n
}

// value copies a value that is in memory.
func (c *crossing) value(t *component.Type, from, to uint32) {
	if from%t.Align() != 0 {
		trap("a value at %#x, which is not aligned to %d", from, t.Align())
	}
	c.in.spend(workThing)
	switch t.Kind {
	case component.String, component.List:
		b := c.read(from, 8)
		at, k := c.list(t, binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]))
		out := c.room4(to, 8)
		binary.LittleEndian.PutUint32(out, at)
		binary.LittleEndian.PutUint32(out[4:], k)
	case component.Record, component.Tuple:
		var at uint32
		for _, f := range t.Fields {
			at = (at + f.Type.Align() - 1) / f.Type.Align() * f.Type.Align()
			c.value(f.Type, from+at, to+at)
			at += f.Type.Size()
		}
	case component.Variant, component.Enum, component.Option, component.Result:
		n := t.TagSize()
		b := c.read(from, n)
		k := c.tag(t, number(b))
		copy(c.room4(to, n), b)
		if f := t.Cases[k]; f.Type != nil {
			c.value(f.Type, from+t.Payload(), to+t.Payload())
		}
	default:
		n := t.Size()
		v := c.scalar(t, number(c.read(from, n)))
		for i, b := 0, c.room4(to, n); i < len(b); i++ {
			b[i] = byte(v >> (8 * i))
		}
	}
}

// list copies the elements of a list, or the bytes of a text.
func (c *crossing) list(t *component.Type, at, n uint32) (uint32, uint32) {
	size, align := uint32(1), uint32(1)
	if t.Kind == component.List {
		size, align = t.Elem.Size(), t.Elem.Align()
	}
	if uint64(n)*uint64(size) > maxAction || at%align != 0 {
		trap("a list of %d at %#x", n, at)
	}
	b := c.read(at, n*size)
	if t.Kind == component.String && !c.in.isText(b) {
		trap("a text that is not UTF-8")
	}
	to := c.room(align, n*size)
	if t.Kind == component.String || t.Elem.Kind == component.U8 {
		c.in.spend(int(n) % workSlice)
		if !c.in.move(c.room4(to, n), c.read(at, n)) {
			c.in.checkTime()
		}
		return to, n
	}
	for i := range n {
		c.value(t.Elem, at+i*size, to+i*size)
	}
	return to, n
}

// tag returns the case of a variant.
func (c *crossing) tag(t *component.Type, v uint64) int {
	if v >= uint64(len(t.Cases)) {
		trap("case %d of %d", v, len(t.Cases))
	}
	return int(v)
}

// checkTime ends a call that has taken too long, of a guest that has the host
// work for it.
func (in *instance) checkTime() {
	if in.word.Load()&stateOf > running {
		in.stops[0].why.Set(core.WhyStopped)
		trap("it did not end in time")
	}
}

// scalar checks a value that is a number, and returns it in the form that a
// guest may count on: a small one has no more than its bits (CanonicalABI.md,
// "Flat Lifting").
func (c *crossing) scalar(t *component.Type, v uint64) uint64 {
	switch t.Kind {
	case component.Bool:
		return uint64(min(uint32(v), 1))
	case component.U8:
		return uint64(uint8(v))
	case component.U16:
		return uint64(uint16(v))
	case component.S8:
		return uint64(uint32(int8(v)))
	case component.S16:
		return uint64(uint32(int16(v)))
	case component.Flags:
		return uint64(uint32(v)) & (1<<len(t.Cases) - 1)
	case component.Char:
		if v = uint64(uint32(v)); v > utf8.MaxRune || v >= 0xd800 && v < 0xe000 {
			trap("%#x is no character", v)
		}
	}
	return v
}

// number reads a little-endian number of 1 to 8 bytes.
func number(b []byte) (v uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}
