// Package core takes core WebAssembly modules apart and puts them together
// changed (WebAssembly Core Specification 2.0, §5): what they import and export,
// which the component linker asks, and the checks that let a running guest be
// stopped and put back to where it was.
package core

import (
	"bytes"
	"errors"
)

// A Kind is what an import or export is.
type Kind byte

// The kinds, as the binary has them.
const (
	Func Kind = iota
	Table
	Memory
	Global
	Tag
)

// String is the kind in a word.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

var kindNames = [...]string{"function", "table", "memory", "global", "tag"}

// A ValType is the type of a core value, as the binary has it.
type ValType byte

// The value types of numbers, and those of references.
const (
	I32  ValType = 0x7f
	I64  ValType = 0x7e
	F32  ValType = 0x7d
	F64  ValType = 0x7c
	V128 ValType = 0x7b

	funcRef   ValType = 0x70
	externRef ValType = 0x6f
	exnRef    ValType = 0x69
)

// A FuncType is the type of a core function.
type FuncType struct{ Params, Results []ValType }

// An Import is what a module needs.
type Import struct {
	Module, Name string
	Kind         Kind
	Type         *FuncType // of a function, else nil
}

// An Export is what a module gives.
type Export struct {
	Name  string
	Kind  Kind
	Index uint32
	Type  *FuncType // of a function, else nil
}

// A Module is a core module's outline. Its code is not looked at.
type Module struct {
	Binary  []byte // whole, and not written to
	Offset  int    // of Binary in the file it came in
	Imports []Import
	Exports []Export
	Start   bool // has a start function, which runs when it is instantiated
}

// Bounds of an outline.
const (
	maxTypes   = 1 << 14
	maxImports = 1 << 12
	maxExports = 1 << 14
	maxFuncs   = 1 << 18
	maxValues  = 1 << 10 // that a function takes, or returns
	maxTyped   = 1 << 18 // values of all types, each of which the engine compiles a way in for
)

// Header is what a core module begins with.
var Header = []byte("\x00asm\x01\x00\x00\x00")

// ErrNotModule says that a binary does not begin as a core module does.
var ErrNotModule = errors.New("not a core WebAssembly module of version 1")

// Decode reads the outline of the module b, which is at offset off of its file.
func Decode(b []byte, off int) (*Module, error) {
	if !bytes.HasPrefix(b, Header) {
		return nil, ErrNotModule
	}
	m := &Module{Binary: b, Offset: off}
	d := decoder{m: m}
	r := NewReader(b[len(Header):], off+len(Header))
	for r.More() {
		id := r.Byte()
		s := r.Part()
		d.section(id, s)
		r.FailWith(s.Err())
	}
	return m, r.Err()
}

// decoder holds the index spaces that an outline is resolved with.
type decoder struct {
	m     *Module
	types []*FuncType
	funcs []*FuncType
	typed int // values of types
}

func (d *decoder) section(id byte, s *Reader) {
	switch id {
	case secType:
		d.typeSection(s)
	case secImport:
		for range few(s, maxImports, "imports", 4) {
			d.m.Imports = append(d.m.Imports, d.importOf(s))
		}
	case secFunction:
		for range few(s, maxFuncs, "functions", 1) {
			d.funcs = append(d.funcs, d.funcType(s, s.U32()))
		}
	case secExport:
		seen := make(map[string]bool)
		for range few(s, maxExports, "exports", 3) {
			e := Export{Name: s.Name(), Kind: Kind(s.Byte()), Index: s.U32()}
			switch {
			case e.Kind > Tag:
				s.Fail("an export of unknown kind %#x", byte(e.Kind))
			case seen[e.Name]:
				s.Fail("two exports named %.64q", e.Name)
			case e.Kind == Func && int(e.Index) >= len(d.funcs):
				s.Fail("export %.64q is function %d of %d", e.Name, e.Index, len(d.funcs))
			case e.Kind == Func:
				e.Type = d.funcs[e.Index]
			}
			seen[e.Name] = true
			d.m.Exports = append(d.m.Exports, e)
		}
	case secStart:
		d.m.Start = true
		s.U32()
	default:
		return // its contents are the engine's to check
	}
	if s.More() {
		s.Fail("section %d is longer than what is in it", id)
	}
}

// few takes the length of a list that may have most elements of least bytes
// each.
func few(s *Reader, most int, what string, least int) int {
	n := s.Count(least)
	if n > most {
		s.Fail("%d %s; at most %d are allowed", n, what, most)
		return 0
	}
	return n
}

func (d *decoder) typeSection(s *Reader) {
	for range few(s, maxTypes, "types", 3) {
		if form := s.Byte(); form != 0x60 && s.Err() == nil {
			s.Fail("a type of form %#x; only functions are supported", form)
			return
		}
		t := &FuncType{Params: valTypes(s), Results: valTypes(s)}
		if d.typed += len(t.Params) + len(t.Results); d.typed > maxTyped {
			s.Fail("types of more than %d parameters and results in all", maxTyped)
		}
		d.types = append(d.types, t)
	}
}

func valTypes(s *Reader) []ValType {
	n := s.Count(1)
	if n > maxValues {
		s.Fail("a function of %d parameters or results; at most %d are allowed", n, maxValues)
		return nil
	}
	ts := make([]ValType, n)
	for i := range ts {
		ts[i] = valType(s)
	}
	return ts
}

// valType takes the type of a value. The engine knows others, of several bytes,
// which guests' tools do not write.
func valType(s *Reader) ValType {
	t := ValType(s.Byte())
	switch t {
	case I32, I64, F32, F64, V128, funcRef, externRef, exnRef:
	default:
		s.Fail("a value of type %#x is not supported", byte(t))
	}
	return t
}

// refType takes the type of a reference.
func refType(s *Reader) {
	switch t := ValType(s.Byte()); t {
	case funcRef, externRef, exnRef:
	default:
		s.Fail("a reference of type %#x is not supported", byte(t))
	}
}

func (d *decoder) funcType(s *Reader, i uint32) *FuncType {
	if int(i) >= len(d.types) {
		s.Fail("function type %d of %d", i, len(d.types))
		return nil
	}
	return d.types[i]
}

func (d *decoder) importOf(s *Reader) Import {
	im := Import{Module: s.Name(), Name: s.Name(), Kind: Kind(s.Byte())}
	switch im.Kind {
	case Func:
		im.Type = d.funcType(s, s.U32())
		d.funcs = append(d.funcs, im.Type)
	default:
		skipImport(s, im.Kind)
	}
	return im
}

// skipImport passes over what follows the kind of an import that is no
// function.
func skipImport(s *Reader, k Kind) {
	switch k {
	case Table:
		s.Byte()
		skipLimits(s)
	case Memory:
		skipLimits(s)
	case Global:
		s.Byte()
		s.Byte()
	case Tag:
		s.Byte()
		s.U32()
	default:
		s.Fail("an import of unknown kind %#x", byte(k))
	}
}

func skipLimits(s *Reader) {
	flags := s.Byte()
	s.U32()
	if flags&1 != 0 {
		s.U32()
	}
}

// The sections of a module.
const (
	secCustom = iota
	secType
	secImport
	secFunction
	secTable
	secMemory
	secGlobal
	secExport
	secStart
	secElement
	secCode
	secData
	secDataCount
	secTag
)

// Is reports whether b begins as a core module does.
func Is(b []byte) bool { return bytes.HasPrefix(b, Header) }
