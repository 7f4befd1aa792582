// Package coretest makes random core modules that are valid and whose functions
// end, for tests that run a module in two ways and compare.
package coretest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// A ValType is the type of a value, as the binary has it.
type ValType = byte

// The types of values that programs compute with.
const (
	I32 ValType = 0x7f
	I64 ValType = 0x7e
	F32 ValType = 0x7d
	F64 ValType = 0x7c
)

var valTypes = []ValType{I32, I64, F32, F64}

// A FuncType is the type of a function.
type FuncType struct{ Params, Results []ValType }

// A Program is a module. Its functions are exported as "f0", "f1" and so on, its
// mutable globals as "g0" and so on, its memory as "memory".
type Program struct {
	Binary  []byte
	Funcs   []FuncType
	Globals []ValType
	Throws  bool // it has exceptions
}

// GasGlobal is the name of the global, of type i32, that a Program's functions
// count down at every loop and call; they trap when it is used up. Who calls one
// sets it before.
const GasGlobal = "gas"

// New returns the program of a seed. The same seed makes the same program.
// Numbers that are not one are always the same one, so that engines agree.
func New(seed uint64) *Program {
	g := &maker{r: rand.New(rand.NewPCG(seed, 1)), p: new(Program)}
	g.outline()
	var bodies [][]byte
	for i := range g.p.Funcs {
		bodies = append(bodies, g.function(i))
	}
	g.p.Binary = g.module(bodies)
	return g.p
}

// Args returns arguments for function f.
func (p *Program) Args(f int, r *rand.Rand) []uint64 {
	var args []uint64
	for _, t := range p.Funcs[f].Params {
		v := interesting(r)
		switch t {
		case I32:
			v = uint64(uint32(v))
		case F32:
			v = uint64(canon32(uint32(v)))
		case F64:
			v = canon64(v)
		}
		args = append(args, v)
	}
	return args
}

// interesting is a number at which arithmetic changes its mind, or any.
func interesting(r *rand.Rand) uint64 {
	edges := [...]uint64{0, 1, 2, 7, 63, 64, 255, 65535, 65536, 1 << 31, 1<<31 - 1, 1<<32 - 1, 1 << 63, 1<<63 - 1, 1<<64 - 1, 0x3ff0000000000000, 0x7ff0000000000000, 0x3f800000, 0x7f800000}
	if r.IntN(3) > 0 {
		return edges[r.IntN(len(edges))]
	}
	return r.Uint64()
}

const (
	nan32 = 0x7fc00000
	nan64 = 0x7ff8000000000000
)

func canon32(v uint32) uint32 {
	if v&0x7f800000 == 0x7f800000 && v&0x7fffff != 0 {
		return nan32
	}
	return v
}

func canon64(v uint64) uint64 {
	if v&0x7ff0000000000000 == 0x7ff0000000000000 && v&0xfffffffffffff != 0 {
		return nan64
	}
	return v
}

// A maker makes one program.
type maker struct {
	r     *rand.Rand
	p     *Program
	types []FuncType // those of functions first
	gas   uint32     // the index of GasGlobal
	large bool       // much memory is filled and copied at once

	// Of the function that is being made.
	b      []byte
	f      FuncType
	locals []ValType // parameters first
	extra  map[ValType]uint32
	labels []label // innermost last
	size   int     // that it may still grow to
}

// A label is what a branch may go to: it takes values of these types.
type label struct{ takes []ValType }

func (g *maker) types0(most int) []ValType {
	ts := make([]ValType, g.r.IntN(most+1))
	for i := range ts {
		ts[i] = valTypes[g.r.IntN(len(valTypes))]
	}
	return ts
}

func (g *maker) outline() {
	for range 2 + g.r.IntN(6) {
		t := FuncType{g.types0(4), g.types0(2)}
		g.p.Funcs = append(g.p.Funcs, t)
		g.types = append(g.types, t)
	}
	for range 1 + g.r.IntN(5) {
		g.p.Globals = append(g.p.Globals, valTypes[g.r.IntN(len(valTypes))])
	}
	g.gas = uint32(len(g.p.Globals))
	g.p.Throws = g.r.IntN(4) == 0
	g.large = g.r.IntN(4) == 0
}

// typeOf returns the index of a type, which it adds if there is none.
func (g *maker) typeOf(params, results []ValType) uint32 {
	for i, t := range g.types {
		if string(t.Params) == string(params) && string(t.Results) == string(results) {
			return uint32(i)
		}
	}
	g.types = append(g.types, FuncType{params, results})
	return uint32(len(g.types) - 1)
}

// module puts the sections together.
func (g *maker) module(bodies [][]byte) []byte {
	none := g.typeOf(nil, nil)
	one := g.typeOf([]ValType{I32}, nil)
	out := []byte("\x00asm\x01\x00\x00\x00")
	section := func(id byte, n int, items []byte) {
		body := append(u32(nil, uint32(n)), items...)
		out = append(u32(append(out, id), uint32(len(body))), body...)
	}
	var b []byte
	for _, t := range g.types {
		b = append(u32(append(b, 0x60), uint32(len(t.Params))), t.Params...)
		b = append(u32(b, uint32(len(t.Results))), t.Results...)
	}
	section(1, len(g.types), b)
	n := len(g.p.Funcs)
	b = nil
	for i := range g.p.Funcs {
		b = u32(b, uint32(i))
	}
	section(3, n, b)
	section(4, 1, append([]byte{0x70, 0}, u32(nil, uint32(n+2))...))
	pages := byte(1)
	if g.large {
		pages = 13
	}
	section(5, 1, []byte{0, pages})
	if g.p.Throws {
		section(13, 2, append(u32([]byte{0}, none), u32([]byte{0}, one)...))
	}
	b = nil
	for _, t := range g.p.Globals {
		b = append(g.constant(append(b, t, 1), t), 0x0b)
	}
	section(6, len(g.p.Globals)+1, append(b, I32, 1, 0x41, 0, 0x0b))
	b = nil
	for i := range n {
		b = u32(append(name(b, fmt.Sprintf("f%d", i)), 0), uint32(i))
	}
	for i := range g.p.Globals {
		b = u32(append(name(b, fmt.Sprintf("g%d", i)), 3), uint32(i))
	}
	b = u32(append(name(b, GasGlobal), 3), g.gas)
	b = append(name(b, "memory"), 2, 0)
	section(7, n+len(g.p.Globals)+2, b)
	b = []byte{0, 0x41, 0, 0x0b}
	b = u32(b, uint32(n))
	for range n {
		b = u32(b, uint32(g.r.IntN(n)))
	}
	section(9, 1, b)
	out = append(out, 12, 1, 2) // two data segments
	b = nil
	for _, f := range bodies {
		b = append(u32(b, uint32(len(f))), f...)
	}
	section(10, n, b)
	b = append([]byte{0, 0x41, 16, 0x0b, 8}, "whatever"...)
	later := []byte("later")
	for g.large && len(later) < 300_000 {
		later = append(later, byte(len(later)>>8), byte(len(later)>>4), byte(g.r.IntN(256)))
	}
	b = append(u32(append(b, 1), uint32(len(later))), later...)
	section(11, 2, b)
	return out
}

func name(b []byte, s string) []byte { return append(u32(b, uint32(len(s))), s...) }
func u32(b []byte, v uint32) []byte  { return binary.AppendUvarint(b, uint64(v)) }

// padded appends an index as linkers write it, with room for any.
func padded(b []byte, v uint32) []byte {
	return append(b, byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)|0x80, byte(v>>21)|0x80, byte(v>>28))
}

func signed(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

// constant appends a constant of type t.
func (g *maker) constant(b []byte, t ValType) []byte {
	v := interesting(g.r)
	switch t {
	case I32:
		return signed(append(b, 0x41), int64(int32(v)))
	case I64:
		return signed(append(b, 0x42), int64(v))
	case F32:
		return binary.LittleEndian.AppendUint32(append(b, 0x43), canon32(uint32(v)))
	}
	return binary.LittleEndian.AppendUint64(append(b, 0x44), canon64(v))
}
