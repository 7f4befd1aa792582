package core

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// The names under which a rewritten module exports what was added to it.
// Globals of them are of type i32, but those of Rewritten.Globals.
const (
	reserved = "sluice!" // what they begin with; a module may not use it, and no tool does

	FuelGlobal  = reserved + "fuel"  // checks until the next look at StopGlobal
	StopGlobal  = reserved + "stop"  // not 0: the guest is to end
	StackGlobal = reserved + "stack" // bytes of stack that calls may still use
	WhyGlobal   = reserved + "why"   // why a guest was ended, see WhyStopped

	// StartFunction is the module's start function, which does not run by
	// itself any more: whoever runs it can stop it.
	StartFunction = reserved + "start"
)

// What WhyGlobal holds after a trap.
const (
	WhyItself  = iota // the guest's own doing
	WhyStopped        // StopGlobal was set
	WhyStack          // its calls were nested too deep
)

// Slice is how many checks a guest passes between two looks at StopGlobal: it
// then leaves compiled code, so that the garbage collector is not kept waiting
// for longer than it takes.
const Slice = 20_000

// An Options says how a module is to be changed.
type Options struct {
	// Links are the names that imports get, as Module.Imports; nil leaves them.
	Links []Link

	// Stack is what StackGlobal begins with.
	Stack uint32
}

// A Link is the name of an import.
type Link struct {
	Module, Name string
	Guest        bool // it is another module's, which may call back
}

// A Rewritten is a module that can be stopped, and put back to where it was.
type Rewritten struct {
	Binary  []byte
	Globals []string // exports: the mutable globals that the module defines
	Memory  bool     // it defines one

	// Frozen says why an instance of it cannot be put back by writing its
	// memory and its globals; "" if it can.
	Frozen string

	Funcs, Loops int // that it has
}

// Rewrite changes m so that whoever runs it stays master of it.
//
// At the head of every loop, and of every function that calls others, a guest
// pays for what it does; every Slice of that it leaves compiled code, where the
// Go runtime can stop it, and looks whether it is to end. Calls that may recurse
// pay for their frame from a stack of bounded size. Mutable globals are
// exported. Nothing that the module had changes its index.
func Rewrite(m *Module, o Options) (*Rewritten, error) {
	w := &rewriter{m: m, opt: o, out: &Rewritten{}, start: -1}
	for _, e := range m.Exports {
		if strings.HasPrefix(e.Name, reserved) {
			return nil, &Error{Offset: m.Offset, Msg: fmt.Sprintf("an export is named %.64q, which is the gateway's", e.Name)}
		}
	}
	if err := w.scan(); err != nil {
		return nil, err
	}
	w.findRecursion()
	w.write()
	return w.out, nil
}

// A rewriter holds what is known of a module.
type rewriter struct {
	m   *Module
	opt Options
	out *Rewritten

	secs     []section
	types    []*FuncType
	sigs     []uint32 // of all functions, types' indices
	imported int      // functions
	tables   int
	memories int
	foreign  bool // the memory is imported
	globals  int
	mutable  []uint32 // globals that the module defines
	start    int64    // a function, -1 for none
	elems    int
	datas    int
	funcs    []body
	taken    []uint32 // functions whose address is taken
	scc      []int    // of nodes, see findRecursion
}

type section struct {
	id   byte
	body []byte
	off  int
}

// A body is a function's code.
type body struct {
	code   []byte // its instructions
	off    int
	decl   []byte // its locals, as they are declared
	groups uint32 // of locals
	locals uint32 // with parameters
	calls  []uint32
	wild   bool // calls through a table
	bulk   bool // copies or fills memory
	cuts   []cut
}

// A cut is a place in a body where something is added.
type cut struct {
	at   int
	kind byte
	to   int32 // of a call, the function; throughTable for any
}

const throughTable = -1

const (
	cutLoop  = iota // after a loop's head
	cutBulk         // before an instruction whose last operand is how much it does
	cutCall         // before a call of a function of the module, or through a table
	cutAfter        // after it
)

// scan reads all of the module that can name something, and holds that what is
// named is there: what is added must not be in reach.
func (w *rewriter) scan() error {
	r := NewReader(w.m.Binary[len(Header):], w.m.Offset+len(Header))
	for r.More() {
		id := r.Byte()
		p := r.Part()
		w.secs = append(w.secs, section{id, p.b, p.off})
	}
	if r.Err() != nil {
		return r.Err()
	}
	last := 0
	for _, s := range w.secs {
		if s.id == secCustom {
			continue
		}
		k := rank(s.id)
		if k <= last {
			return &Error{Offset: s.off, Msg: fmt.Sprintf("section %d stands in the wrong place", s.id)}
		}
		last = k
		p := NewReader(s.body, s.off)
		if w.scanSection(s.id, p); p.Err() != nil {
			return p.Err()
		}
		if p.More() {
			p.Fail("section %d is longer than what is in it", s.id)
			return p.Err()
		}
	}
	if len(w.funcs) != len(w.sigs)-w.imported {
		return &Error{Offset: w.m.Offset, Msg: fmt.Sprintf("%d functions and %d bodies", len(w.sigs)-w.imported, len(w.funcs))}
	}
	w.out.Memory = w.memories > 0 && !w.foreign
	w.out.Funcs = len(w.funcs)
	return nil
}

// rank orders sections as the specification does.
func rank(id byte) int {
	switch id {
	case secTag:
		return secMemory*2 + 1
	case secDataCount:
		return secElement*2 + 1
	}
	return int(id) * 2
}

func (w *rewriter) scanSection(id byte, p *Reader) {
	each := func(least int, f func()) {
		for range p.Count(least) {
			if f(); p.Err() != nil {
				return
			}
		}
	}
	switch id {
	case secType:
		each(3, func() {
			p.Byte() // Decode has looked at it
			w.types = append(w.types, &FuncType{Params: valTypes(p), Results: valTypes(p)})
		})
	case secImport:
		each(4, func() { w.scanImport(p) })
	case secFunction:
		each(1, func() { w.sigs = append(w.sigs, index(p, len(w.types), "type")) })
	case secTable:
		each(3, func() { w.scanTable(p) })
	case secMemory:
		each(2, func() {
			w.memories++
			w.limits(p)
		})
	case secTag:
		each(2, func() {
			p.Byte()
			index(p, len(w.types), "type")
		})
	case secGlobal:
		each(4, func() { w.scanGlobal(p) })
	case secExport:
		each(3, func() {
			p.Name()
			switch k, i := Kind(p.Byte()), p.U32(); {
			case k == Global && int(i) >= w.globals, k == Func && int(i) >= len(w.sigs):
				p.Fail("an export of %s %d, which is not there", k, i)
			}
		})
	case secStart:
		w.start = int64(index(p, len(w.sigs), "function"))
	case secElement:
		each(1, func() { w.scanElement(p) })
	case secDataCount:
		p.U32()
	case secCode:
		each(2, func() { w.scanBody(p) })
	case secData:
		each(1, func() { w.scanData(p) })
	default:
		p.Fail("unknown section %d", id)
	}
}

// index takes an index that must be below n.
func index(p *Reader, n int, what string) uint32 {
	i := p.U32()
	if int64(i) >= int64(n) && p.Err() == nil {
		p.Fail("%s %d of %d", what, i, n)
		return 0
	}
	return i
}

// limits takes the size of a memory or table; one that threads share is none of
// ours.
func (w *rewriter) limits(p *Reader) {
	switch flags := p.Byte(); flags {
	case 0:
		p.U32()
	case 1:
		p.U32()
		p.U32()
	default:
		p.Fail("a memory or table with limits of form %#x is not supported", flags)
	}
	if w.memories > 1 {
		p.Fail("more than one memory is not supported")
	}
}

func (w *rewriter) scanImport(p *Reader) {
	p.Name()
	p.Name()
	switch k := Kind(p.Byte()); k {
	case Func:
		w.sigs = append(w.sigs, index(p, len(w.types), "type"))
		w.imported++
	case Table:
		w.tables++
		p.Byte()
		w.limits(p)
	case Memory:
		w.memories++
		w.foreign = true
		w.limits(p)
	case Global:
		w.globals++
		p.Byte()
		p.Byte()
	default:
		p.Fail("an import of kind %s is not supported", k)
	}
}

func (w *rewriter) scanTable(p *Reader) {
	if p.Peek() == 0x40 {
		p.Fail("a table with an initial value is not supported")
		return
	}
	w.tables++
	p.Byte()
	w.limits(p)
}

func (w *rewriter) scanGlobal(p *Reader) {
	t, mutable := ValType(p.Byte()), p.Byte()
	w.expr(p)
	if mutable == 1 {
		switch t {
		case I32, I64, F32, F64:
			w.mutable = append(w.mutable, uint32(w.globals))
		default:
			w.freeze("it has a mutable global that is no number")
		}
	}
	w.globals++
}

func (w *rewriter) freeze(why string) {
	if w.out.Frozen == "" {
		w.out.Frozen = why
	}
}

// expr takes a constant expression.
func (w *rewriter) expr(p *Reader) {
	for p.More() {
		switch op := p.Byte(); op {
		case 0x0b:
			return
		case 0x41, 0x42:
			p.Skip()
		case 0x43:
			p.Bytes(4)
		case 0x44:
			p.Bytes(8)
		case 0x23:
			index(p, w.globals, "global")
		case 0xd0:
			p.Skip()
		case 0xd2:
			w.taken = append(w.taken, index(p, len(w.sigs), "function"))
		case 0x6a, 0x6b, 0x6c, 0x7c, 0x7d, 0x7e:
		case 0xfd:
			if p.U32() != 12 {
				p.Fail("a vector instruction in a constant")
			}
			p.Bytes(16)
		default:
			p.Fail("instruction %#x in a constant", op)
		}
	}
	p.Fail("a constant without an end")
}

// scanElement takes an element segment: functions for tables.
func (w *rewriter) scanElement(p *Reader) {
	flags := p.U32()
	if flags > 7 {
		p.Fail("an element segment of form %d", flags)
		return
	}
	w.elems++
	if flags&1 == 0 {
		if flags&2 != 0 {
			index(p, w.tables, "table")
		}
		w.expr(p)
	}
	if flags&3 != 0 {
		p.Byte() // what its elements are
	}
	for range p.Count(1) {
		if flags&4 != 0 {
			w.expr(p)
		} else {
			w.taken = append(w.taken, index(p, len(w.sigs), "function"))
		}
		if p.Err() != nil {
			return
		}
	}
}

func (w *rewriter) scanData(p *Reader) {
	switch flags := p.U32(); flags {
	case 0:
		w.expr(p)
	case 1:
	case 2:
		p.U32()
		w.expr(p)
	default:
		p.Fail("a data segment of form %d", flags)
	}
	w.datas++
	p.Bytes(int(p.U32()))
}

const maxLocals = 50_000

func (w *rewriter) scanBody(p *Reader) {
	f := p.Part()
	n := len(w.funcs) + w.imported
	if n >= len(w.sigs) {
		p.Fail("a body without a function")
		return
	}
	b := body{locals: uint32(len(w.types[w.sigs[n]].Params))}
	groups := f.Count(2)
	at := f.Pos()
	for range groups {
		k := f.U32()
		if k > maxLocals || b.locals+k > maxLocals {
			f.Fail("a function of more than %d locals", maxLocals)
			break
		}
		b.locals += k
		f.Skip()
	}
	b.groups, b.decl = uint32(groups), f.b[min(at, len(f.b)):min(f.Pos(), len(f.b))]
	b.off = f.Offset()
	b.code = f.b[min(f.Pos(), len(f.b)):]
	w.walk(NewReader(b.code, b.off), &b, f)
	p.FailWith(f.Err())
	w.funcs = append(w.funcs, b)
}

// frame is about how many bytes of stack a call of b takes: its locals, what its
// calls pass, and what the compiler keeps.
func (b *body) frame() uint32 { return 96 + 8*b.locals + uint32(min(len(b.code), 1<<16)/16) }

// findRecursion finds the calls that may be part of a cycle: the strongly
// connected components of who calls whom (Tarjan, 1972). A call through a table
// may be of any function whose address is taken, and of any function that is
// exported, if other modules can put theirs into the table; so is a call of
// another module's function.
func (w *rewriter) findRecursion() {
	n := len(w.funcs)
	wild, away := n, n+1 // nodes for calls through tables, and to other modules
	edges := make([][]uint32, n+2)
	node := func(f uint32) (uint32, bool) {
		k := w.node(int32(f))
		return uint32(k), k >= 0
	}
	for i := range w.funcs {
		for _, f := range w.funcs[i].calls {
			if k, ok := node(f); ok {
				edges[i] = append(edges[i], k)
			}
		}
		if w.funcs[i].wild {
			edges[i] = append(edges[i], uint32(wild))
		}
	}
	for _, f := range w.taken {
		if k, ok := node(f); ok {
			edges[wild] = append(edges[wild], k)
		}
	}
	edges[wild] = append(edges[wild], uint32(away))
	for _, e := range w.m.Exports {
		if e.Kind == Func {
			if k, ok := node(e.Index); ok && int(k) != away {
				edges[away] = append(edges[away], k)
			}
		}
	}
	edges[away] = append(edges[away], uint32(wild))
	w.scc = components(edges)
}

// node is what function f is among the edges: itself, the node of tables, the one
// of other modules, or -1 for the host, which calls nobody.
func (w *rewriter) node(f int32) int {
	switch n := len(w.funcs); {
	case f == throughTable:
		return n
	case int(f) >= w.imported:
		return int(f) - w.imported
	case w.opt.Links == nil || w.guest(int(f)):
		return n + 1
	}
	return -1
}

// guest reports whether imported function f is another module's.
func (w *rewriter) guest(f int) bool {
	for i, im := range w.m.Imports {
		if im.Kind != Func {
			continue
		}
		if f == 0 {
			return w.opt.Links[i].Guest
		}
		f--
	}
	return true
}

// components returns for each node the number of its strongly connected
// component. It keeps its own stack: graphs come from strangers.
func components(edges [][]uint32) []int {
	n := len(edges)
	comp, low, num := make([]int, n), make([]int, n), make([]int, n)
	for i := range comp {
		comp[i] = -1
	}
	type visit struct{ node, edge int }
	var todo []visit
	var open []int
	next, comps := 0, 0
	for root := range n {
		if num[root] != 0 {
			continue
		}
		todo = append(todo, visit{root, 0})
		for len(todo) > 0 {
			v := &todo[len(todo)-1]
			i := v.node
			if v.edge == 0 {
				next++
				num[i], low[i] = next, next
				open = append(open, i)
			}
			if v.edge < len(edges[i]) {
				k := int(edges[i][v.edge])
				v.edge++
				switch {
				case num[k] == 0:
					todo = append(todo, visit{k, 0})
				case comp[k] < 0:
					low[i] = min(low[i], num[k])
				}
				continue
			}
			if low[i] == num[i] {
				for {
					k := open[len(open)-1]
					open = open[:len(open)-1]
					comp[k] = comps
					if k == i {
						break
					}
				}
				comps++
			}
			todo = todo[:len(todo)-1]
			if len(todo) > 0 {
				up := todo[len(todo)-1].node
				low[up] = min(low[up], low[i])
			}
		}
	}
	return comp
}

// recursive reports whether a call of f in body i may come back to body i.
func (w *rewriter) recursive(i int, f int32) bool {
	k := w.node(f)
	return k >= 0 && w.scc[i] == w.scc[k]
}

// appendU32 appends an unsigned LEB128.
func appendU32(b []byte, v uint32) []byte { return binary.AppendUvarint(b, uint64(v)) }

// appendI32 appends an i32.const.
func appendConst(b []byte, v int32) []byte {
	b = append(b, 0x41)
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func appendName(b []byte, s string) []byte { return append(appendU32(b, uint32(len(s))), s...) }
