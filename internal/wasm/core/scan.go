package core

import "fmt"

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
		w.findShapes()
	case secImport:
		each(4, func() { w.scanImport(p) })
	case secFunction:
		each(1, func() { w.sigs = append(w.sigs, index(p, len(w.types), "type")) })
	case secTable:
		each(3, func() { w.scanTable(p) })
	case secMemory:
		each(2, func() { w.scanMemory(p) })
	case secTag:
		each(2, func() {
			zero(p, "a tag's attribute")
			index(p, len(w.types), "type")
			w.tags++
		})
	case secGlobal:
		each(4, func() { w.scanGlobal(p) })
	case secExport:
		each(3, func() { w.scanExport(p) })
	case secStart:
		w.start = int64(index(p, len(w.sigs), "function"))
		if p.Err() == nil {
			if t := w.types[w.sigs[w.start]]; len(t.Params)+len(t.Results) > 0 {
				p.Fail("a start function that takes or returns something")
			}
		}
	case secElement:
		each(1, func() { w.scanElement(p) })
	case secDataCount:
		p.U32()
	case secCode:
		w.codeSize = p.Left()
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

// limits takes the size of a memory or table of at most most; one that threads
// share is none of ours.
func limits(p *Reader, most uint32, what string) (least, highest uint32) {
	flags := p.Byte()
	least, highest = p.U32(), most
	if flags == 1 {
		highest = p.U32()
	}
	switch {
	case flags > 1:
		p.Fail("a %s with limits of form %#x is not supported", what, flags)
	case least > most:
		p.Fail("a %s of %d; at most %d are allowed", what, least, most)
	case least > highest || highest > most:
		p.Fail("a %s of %d that may have %d", what, least, highest)
	}
	return least, highest
}

func (w *rewriter) scanImport(p *Reader) {
	p.Name()
	p.Name()
	switch k := Kind(p.Byte()); k {
	case Func:
		w.sigs = append(w.sigs, index(p, len(w.types), "type"))
		w.imported++
	case Table:
		w.shared = true
		refType(p)
		limits(p, 1<<32-1, "table")
		w.countTable(p, 0)
	case Memory:
		w.scanMemory(p)
		w.foreign = true
	case Global:
		w.hold(valType(p))
		mutability(p)
		w.globals++
	default:
		p.Fail("an import of kind %s is not supported", k)
	}
}

func (w *rewriter) scanTable(p *Reader) {
	if p.Peek() == 0x40 {
		p.Fail("a table with an initial value is not supported")
		return
	}
	refType(p)
	least, _ := limits(p, 1<<32-1, "table")
	w.countTable(p, least)
}

// countTable counts a table that begins with n elements.
func (w *rewriter) countTable(p *Reader, n uint32) {
	w.tables++
	switch {
	case w.tables > maxTables:
		p.Fail("more than %d tables", maxTables)
	case n > maxElements-w.elements:
		p.Fail("tables of more than %d elements", maxElements)
	}
	w.elements += n
}

func (w *rewriter) scanMemory(p *Reader) {
	least, _ := limits(p, maxPages, "memory")
	if w.memories++; w.memories > 1 {
		p.Fail("more than one memory is not supported")
	}
	if w.opt.Pages > 0 && least > w.opt.Pages {
		p.Fail("a memory of %d pages; at most %d are allowed", least, w.opt.Pages)
	}
}

// mutability takes whether a global can be written to.
func mutability(p *Reader) bool {
	c := p.Byte()
	if c > 1 {
		p.Fail("a global of unknown form %#x", c)
	}
	return c == 1
}

func (w *rewriter) scanGlobal(p *Reader) {
	t, mutable := valType(p), mutability(p)
	w.hold(t)
	w.expr(p)
	if mutable {
		switch t {
		case I32, I64, F32, F64:
			w.mutable = append(w.mutable, uint32(w.globals))
		default:
			w.freeze("it has a mutable global that is no number")
		}
	}
	w.globals++
}

// hold notes a global of type t: one that holds a function may be anybody's.
func (w *rewriter) hold(t ValType) {
	switch t {
	case funcRef, externRef, exnRef:
		w.shared = true
	}
}

// scanExport holds that what is exported is there, and not what is added.
func (w *rewriter) scanExport(p *Reader) {
	p.Name()
	k, i := Kind(p.Byte()), p.U32()
	if k > Tag {
		p.Fail("an export of unknown kind %#x", byte(k))
		return
	}
	have := [...]int{Func: len(w.sigs), Table: w.tables, Memory: w.memories, Global: w.globals, Tag: w.tags}[k]
	if int64(i) >= int64(have) {
		p.Fail("an export of %s %d of %d", k, i, have)
	}
	if k == Table {
		w.shared = true
	}
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
		case 0x41:
			p.integer(5)
		case 0x42:
			p.integer(10)
		case 0x43:
			p.Bytes(4)
		case 0x44:
			p.Bytes(8)
		case 0x23:
			index(p, w.globals, "global")
		case 0xd0:
			refType(p)
		case 0xd2:
			w.taken = append(w.taken, index(p, len(w.sigs), "function"))
		case 0x6a, 0x6b, 0x6c, 0x7c, 0x7d, 0x7e:
		case 0xfd:
			if p.Byte() != 12 {
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
	if flags&1 == 0 {
		table := uint32(0)
		if flags&2 != 0 {
			table = p.U32()
		}
		if int64(table) >= int64(w.tables) {
			p.Fail("an element segment for table %d of %d", table, w.tables)
			return
		}
		w.expr(p)
	}
	switch {
	case flags&3 == 0:
	case flags&4 == 0:
		zero(p, "what an element segment holds")
	default:
		refType(p)
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
	flags := p.U32()
	switch flags {
	case 0:
		w.memory(p)
		w.expr(p)
	case 1:
	case 2:
		w.memory(p)
		if i := p.U32(); i != 0 {
			p.Fail("more than one memory is not supported")
		}
		w.expr(p)
	default:
		p.Fail("a data segment of form %d", flags)
	}
	n := int(p.U32())
	p.Bytes(n)
	w.data = append(w.data, n)
}

const maxLocals = 50_000 // of a function

func (w *rewriter) scanBody(p *Reader) {
	f := p.Part()
	n := len(w.funcs) + w.imported
	switch {
	case p.Err() != nil:
		return
	case n >= len(w.sigs):
		p.Fail("a body without a function")
		return
	case f.Left() > maxBody:
		f.Fail("a function of more than %d bytes", maxBody)
	}
	b := body{index: len(w.funcs), locals: uint32(len(w.types[w.sigs[n]].Params))}
	groups := f.Count(2)
	at := f.Pos()
	for range groups {
		k := f.U32()
		valType(f)
		if k > maxLocals || b.locals+k > maxLocals {
			f.Fail("a function of more than %d locals", maxLocals)
			break
		}
		b.locals += k
	}
	if w.locals += int(b.locals); w.locals > len(w.m.Binary)+1<<16 {
		f.Fail("more locals than a module of %d bytes may have", len(w.m.Binary))
	}
	if f.Err() != nil {
		p.FailWith(f.Err())
		return
	}
	b.groups, b.decl = uint32(groups), f.b[at:f.Pos()]
	b.off, b.code = f.Offset(), f.b[f.Pos():]
	p.FailWith(w.scanCode(&b))
	w.funcs = append(w.funcs, b)
}

// scanCode walks b's instructions; twice if it catches exceptions, because only
// then its returns are of interest.
func (w *rewriter) scanCode(b *body) error {
	r := w.scanOnce(b)
	if b.catches && !b.tries && r.Err() == nil {
		b.tries = true
		r = w.scanOnce(b)
	}
	switch {
	case r.Err() != nil:
		return r.Err()
	case b.tangle() > w.mostTangle():
		return &Error{Offset: b.off, Msg: fmt.Sprintf("a function of %d blocks and calls with %d locals, which is too much of both for %d bytes of code", b.work, b.locals, w.codeSize)}
	case b.checkMemory() != nil:
		return b.checkMemory()
	case !Affordable(w.codeSize, w.effort):
		return &Error{Offset: b.off, Msg: fmt.Sprintf("a function of %d blocks and calls with %d locals in loops; with those before it that is too much for %d bytes of code", b.work, b.locals, w.codeSize)}
	}
	return nil
}

// scanOnce walks b's instructions, for what was walked before too.
func (w *rewriter) scanOnce(b *body) *Reader {
	w.cuts -= len(b.cuts)
	w.effort -= b.effort()
	b.blocks, b.work, b.nested, b.cuts = 0, 0, 0, b.cuts[:0]
	b.heavy, b.loads, b.values, b.many = 0, 0, 0, 0
	r := NewReader(b.code, b.off)
	w.walk(r, b)
	w.effort += b.effort()
	return r
}
