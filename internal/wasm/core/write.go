package core

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// write puts the module together again.
func (w *rewriter) write() error {
	code, err := w.code() // first: it knows which types are added
	if err != nil {
		return err
	}
	out := append(make([]byte, 0, len(w.m.Binary)+len(code)/2), Header...)
	emit := func(id byte, body []byte) {
		out = appendU32(append(out, id), uint32(len(body)))
		out = append(out, body...)
	}
	added := []byte{secType, secFunction, secMemory, secGlobal, secExport, secCode}
	missing := func(below int) { // emits what is added and has no section yet
		for len(added) > 0 && rank(added[0]) < below {
			if b := w.extended(added[0], nil, code); b != nil {
				emit(added[0], b)
			}
			added = added[1:]
		}
	}
	for _, s := range w.secs {
		if s.id == secCustom {
			continue // none is needed, but for names, which are written anew
		}
		missing(rank(s.id))
		switch {
		case s.id == secStart:
		case s.id == secTable:
			emit(s.id, tables(s))
		case s.id == secImport && w.opt.Links != nil:
			emit(s.id, w.relinked(s))
		case len(added) > 0 && added[0] == s.id:
			emit(s.id, w.extended(s.id, s.body, code))
			added = added[1:]
		default:
			emit(s.id, s.body)
		}
	}
	missing(rank(secData) + 1)
	if b := w.names(); b != nil {
		emit(secCustom, b)
	}
	w.out.Binary = out
	return nil
}

// relinked is the import section s with the names of Options.Links.
func (w *rewriter) relinked(s section) []byte {
	r := NewReader(s.body, s.off)
	out := appendU32(nil, r.U32())
	for _, l := range w.opt.Links {
		r.Name()
		r.Name()
		at := r.Pos()
		out = appendName(appendName(out, l.Module), l.Name)
		switch k := Kind(r.Byte()); k {
		case Func:
			r.U32()
		case Memory:
			out = appendRoomier(append(out, byte(Memory)), r)
			continue
		default:
			skipImport(r, k)
		}
		out = append(out, s.body[at:r.Pos()]...)
	}
	return out
}

// tables is the table section s with tables that cannot grow without end.
func tables(s section) []byte {
	r := NewReader(s.body, s.off)
	n := r.U32()
	out := appendU32(nil, n)
	for range n {
		out = append(out, r.Byte())
		least, most := limits(r, 1<<32-1, "table")
		out = append(out, 1)
		out = appendU32(appendU32(out, least), min(most, maxElements))
	}
	return out
}

// Where the added globals are, after those of the module.
const (
	fuel = iota
	slice
	stop
	stack
	why
	fresh // the system's pages in memory that the guest has grown by, less the checks in slices for them
	addedGlobals
)

func (w *rewriter) global(k int) uint32 { return uint32(w.globals + k) }

// extended is a section with what is added to it; body is nil if the module has
// none. It returns nil if there is to be none.
func (w *rewriter) extended(id byte, body, code []byte) []byte {
	n := uint32(0)
	var rest []byte
	if body != nil {
		r := NewReader(body, 0)
		n = r.U32()
		rest = body[r.Pos():]
	}
	list := func(more uint32, items []byte) []byte {
		out := append(appendU32(nil, n+more), rest...)
		return append(out, items...)
	}
	switch id {
	case secType:
		return list(2+uint32(len(w.wrapped)), append([]byte{0x60, 0, 0, 0x60, 3, byte(I32), byte(I32), byte(I32), 0}, w.wraps...))
	case secFunction:
		types := appendU32(nil, uint32(len(w.types)))
		for range w.parted {
			types = appendU32(types, uint32(w.bulkType()))
		}
		return list(1+uint32(len(w.parted)), types)
	case secMemory:
		if w.memories > 0 {
			if body == nil {
				return nil
			}
			r := NewReader(body, 0)
			return appendRoomier(appendU32(nil, r.U32()), r)
		}
		return list(1, []byte{1, 0, 0}) // to grow by nothing
	case secGlobal:
		var items []byte
		for k := range addedGlobals {
			v := map[int]int32{fuel: Slice, slice: Slice, stack: int32(min(w.opt.Stack, 1<<31-1))}[k]
			items = append(appendConst(append(items, byte(I32), 1), v), 0x0b)
		}
		return list(addedGlobals, items)
	case secExport:
		n, items := w.exports()
		return list(n, items)
	case secCode:
		return code
	}
	return body
}

// exports are those that are added.
func (w *rewriter) exports() (n uint32, items []byte) {
	export := func(name string, k Kind, i uint32) {
		items = appendU32(append(appendName(items, name), byte(k)), i)
		n++
	}
	export(FuelGlobal, Global, w.global(fuel))
	export(SliceGlobal, Global, w.global(slice))
	export(StopGlobal, Global, w.global(stop))
	export(StackGlobal, Global, w.global(stack))
	export(WhyGlobal, Global, w.global(why))
	for i, g := range w.mutable {
		name := fmt.Sprintf("%sglobal%d", reserved, i)
		w.out.Globals = append(w.out.Globals, name)
		export(name, Global, g)
	}
	w.out.Globals = append(w.out.Globals, freshGlobal)
	export(freshGlobal, Global, w.global(fresh))
	if w.start >= 0 {
		export(StartFunction, Func, uint32(w.start))
	}
	return n, items
}

// How much larger than a module its changed code may be. What guests' tools
// write grows by a fifth.
const (
	mostGrowth = 4
	lastGrowth = 1 << 20
)

// code is the code section with what is added to the bodies, and the functions
// that are: first the one that looks whether the guest is to end.
func (w *rewriter) code() ([]byte, error) {
	most := mostGrowth*len(w.m.Binary) + lastGrowth
	var out, b []byte
	for i := range w.funcs {
		b = w.changed(b[:0], i)
		if len(out)+len(b) > most {
			return nil, &Error{Offset: w.funcs[i].off, Msg: fmt.Sprintf("a module of %d bytes with too many loops and calls", len(w.m.Binary))}
		}
		out = append(appendU32(out, uint32(len(b))), b...)
	}
	b = w.look(b[:0])
	out = append(appendU32(out, uint32(len(b))), b...)
	for _, p := range w.parted {
		b = w.pieces(b[:0], p)
		out = append(appendU32(out, uint32(len(b))), b...)
	}
	return append(appendU32(nil, uint32(len(w.funcs)+1+len(w.parted))), out...), nil
}

// look appends the function that a guest calls when its slice is used up.
func (w *rewriter) look(b []byte) []byte {
	b = append(b, 0) // no locals
	b = w.get(b, fresh)
	b = append(appendConst(b, freshSlice), 0x4e, 0x04, 0x40) // i32.ge_s, if
	b = w.get(b, fresh)
	b = append(appendConst(b, freshSlice), 0x6b) // i32.sub
	b = w.set(b, fresh)
	b = w.set(appendConst(b, freshSlice), fuel)
	b = append(b, 0x05) // else
	b = w.set(w.get(b, slice), fuel)
	b = append(b, 0x0b)
	b = appendConst(b, 0)
	b = append(b, 0x40, 0, 0x1a) // memory.grow, which leaves compiled code; drop
	b = append(w.get(b, stop), 0x04, 0x40)
	return append(w.trap(b, WhyStopped), 0x0b, 0x0b)
}

// trap ends the guest.
func (w *rewriter) trap(b []byte, reason int32) []byte {
	return append(w.set(appendConst(b, reason), why), 0x00)
}

func (w *rewriter) get(b []byte, k int) []byte { return appendU32(append(b, 0x23), w.global(k)) }
func (w *rewriter) set(b []byte, k int) []byte { return appendU32(append(b, 0x24), w.global(k)) }

// changed appends body i with what is added.
func (w *rewriter) changed(out []byte, i int) []byte {
	b := &w.funcs[i]
	// Locals that are added: what a bulk instruction does, what was left of the
	// stack when the function began.
	added := uint32(0)
	amount, begun := b.locals, b.locals
	if b.bulk {
		added++
		begun++
	}
	if b.tries {
		added++
	}
	if added == 0 {
		out = append(appendU32(out, b.groups), b.decl...)
	} else {
		out = append(appendU32(out, b.groups+1), b.decl...)
		out = append(appendU32(out, added), byte(I32))
	}
	if !b.free {
		out = w.pay(out, false, cost(b.most))
	}
	if b.tries {
		out = w.get(out, stack)
		out = appendU32(append(out, 0x21), begun)
		out = append(out, 0x02)
		out = w.appendResults(out, w.sigs[w.imported+i])
	}
	last := uint32(0)
	for k := range b.cuts {
		c := &b.cuts[k]
		out = append(out, b.code[last:c.at]...)
		last = c.at
		if b.tries && c.kind != cutBulk && c.kind != cutThrow && c.kind != cutPay && c.kind != cutGrow {
			out = w.restore(out, begun)
		}
		switch c.kind {
		case cutLoop:
			w.out.Loops++
			out = w.pay(out, c.to == 0, c.cost)
		case cutPay:
			out = w.payOnce(out, int32(c.cost))
		case cutBulk:
			var size int
			out, size = w.paid(out, b.code[c.at:], amount)
			last += uint32(size)
		case cutThrow:
			out = w.payOnce(out, throwCost)
		case cutGrow:
			last = c.at + 2
			out = w.grown(out, b.code[c.at:last])
		case cutCall:
			last = b.afterCall(c.at)
			if !w.recursive(i, c.to) {
				out = append(out, b.code[c.at:last]...)
				break
			}
			out = w.descend(out, b.frame())
			out = append(out, b.code[c.at:last]...)
			out = w.ascend(out, b.frame())
		case cutTail:
			if !w.recursive(i, c.to) || w.signature(c.to).inRegisters() {
				break
			}
			// To the engine it is a call and a return, so it is one to the stack, too.
			last = b.afterCall(c.at)
			out = w.descend(out, b.frame())
			out = append(append(out, b.code[c.at]-tailCall), b.code[c.at+1:last]...)
			out = append(w.ascend(out, b.frame()), 0x0f) // return
		}
	}
	out = append(out, b.code[last:]...)
	if b.tries {
		out = append(w.restore(out, begun), 0x0b)
	}
	return out
}

// afterCall is where the instruction after the call at an offset begins.
func (b *body) afterCall(at uint32) uint32 {
	r := NewReader(b.code[at:], 0)
	if op := r.Byte(); op == 0x11 || op == 0x13 {
		r.U32()
	}
	r.U32()
	return at + uint32(r.Pos())
}

// A function that catches exceptions is left by them too, and calls that they
// ended did not give back what they took of the stack. So it puts back what was
// left when it began, wherever it goes on: at loops, before calls, and when it
// ends, for which its body is a block within it.
func (w *rewriter) restore(b []byte, begun uint32) []byte {
	return w.set(appendU32(append(b, 0x20), begun), stack)
}

// appendResults appends the type of a block that takes nothing and leaves what
// functions of type t return.
func (w *rewriter) appendResults(b []byte, t uint32) []byte {
	rs := w.types[t].Results
	switch len(rs) {
	case 0:
		return append(b, 0x40)
	case 1:
		return append(b, byte(rs[0]))
	}
	k := slices.Index(w.wrapped, t)
	if k < 0 {
		k = len(w.wrapped)
		w.wrapped = append(w.wrapped, t)
		w.wraps = appendU32(append(w.wraps, 0x60, 0), uint32(len(rs)))
		for _, r := range rs {
			w.wraps = append(w.wraps, byte(r))
		}
	}
	return appendSigned(b, w.bulkType()+1+int64(k))
}

// throwCost is how many checks a guest pays for an exception, which takes the
// engine a tenth of a millisecond.
const throwCost = 2000

// pay takes n from the slice. A guest whose slice is used up looks and goes
// back to do it again; within says that it can go back to a loop whose head this
// is. The engine takes that best: where two ways meet again it keeps in registers
// what the first of them has there, which is little after a call. And what stands
// in an else it puts out of the way.
func (w *rewriter) pay(b []byte, within bool, n int16) []byte {
	if !within {
		b = append(b, 0x03, 0x40) // loop
	}
	b = append(notNegative(w.take(b, fuel, int32(n))), 0x04, 0x40, 0x05) // if, else
	b = append(w.call(b), 0x0c, 1, 0x0b)                                 // br
	if !within {
		b = append(b, 0x0b)
	}
	return b
}

// payOnce takes n from the slice, in a way that is compiled sooner.
func (w *rewriter) payOnce(b []byte, n int32) []byte {
	return w.lookUnless(notNegative(w.take(append(b, 0x02, 0x40), fuel, n))) // block
}

// take takes n from a global, and leaves what is left on the stack.
func (w *rewriter) take(b []byte, k int, n int32) []byte {
	b = append(appendConst(w.get(b, k), n), 0x6b) // i32.sub
	return w.get(w.set(b, k), k)
}

// notNegative asks that of what is on the stack.
func notNegative(b []byte) []byte { return append(appendConst(b, 0), 0x4e) } // i32.ge_s

// lookUnless ends a block, in which the guest looks if what is on the stack is 0.
func (w *rewriter) lookUnless(b []byte) []byte {
	return append(w.call(append(b, 0x0d, 0)), 0x0b) // br_if
}

// call calls the function that looks.
func (w *rewriter) call(b []byte) []byte { return appendU32(append(b, 0x10), uint32(len(w.sigs))) }

// grown appends an instruction that grows memory, and counts by how much it has.
// If that is some, the slice is over.
func (w *rewriter) grown(b, instruction []byte) []byte {
	count := func(op byte) { // a memory has few enough pages for that
		b = w.get(b, fresh)
		b = append(appendConst(append(b, 0x3f, 0), freshPerShift), 0x74, op) // memory.size, i32.shl
		b = w.set(b, fresh)
	}
	count(0x6b) // i32.sub
	b = append(b, instruction...)
	count(0x6a) // i32.add
	b = w.get(b, fuel)
	b = w.get(b, fresh)
	b = append(appendConst(b, freshSlice), 0x48, 0x6c) // i32.lt_s, i32.mul
	return w.set(b, fuel)
}

// descend takes a frame from the stack, ascend gives it back. A guest ends that
// has taken more than there was.
func (w *rewriter) descend(b []byte, frame uint32) []byte {
	b = append(notNegative(w.take(b, stack, int32(frame))), 0x04, 0x40, 0x05) // if, else
	return append(w.trap(b, WhyStack), 0x0b)
}

func (w *rewriter) ascend(b []byte, frame uint32) []byte {
	b = w.get(b, stack)
	b = append(appendConst(b, int32(frame)), 0x6a)
	return w.set(b, stack)
}

// maxPages is how many pages a memory may have.
const maxPages = 1 << 16

// appendRoomier takes the limits of a memory and appends them with room for one
// page more, if they have a maximum: who puts a memory back grows it.
func appendRoomier(b []byte, r *Reader) []byte {
	flags, least := r.Byte(), r.U32()
	b = appendU32(append(b, flags), least)
	if flags&1 != 0 {
		b = appendU32(b, min(r.U32()+1, maxPages))
	}
	return b
}

// Bounds of names, which are for those who read what a trap says.
const maxFuncName = 256

// names is a custom section with the names that the module has for its
// functions; nil if it has none, or none that can be read. The engine makes room
// for as many as a section says there are, so that is looked at here.
func (w *rewriter) names() []byte {
	for _, s := range w.secs {
		if s.id != secCustom {
			continue
		}
		r := NewReader(s.body, s.off)
		if r.Name() != "name" {
			continue
		}
		for r.More() {
			id, p := r.Byte(), r.Part()
			if id == 1 && p.Err() == nil {
				return w.funcNames(p)
			}
		}
	}
	return nil
}

func (w *rewriter) funcNames(p *Reader) []byte {
	var items []byte
	n, next := uint32(0), uint32(0)
	for range p.Count(2) {
		i := index(p, len(w.sigs), "function")
		name := p.Name()
		if p.Err() != nil || n > 0 && i < next {
			return nil
		}
		n, next = n+1, i+1
		items = appendName(appendU32(items, i), strings.ToValidUTF8(name[:min(len(name), maxFuncName)], ""))
	}
	if p.Err() != nil || n == 0 {
		return nil
	}
	part := append(appendU32(nil, n), items...)
	b := append(appendName(nil, "name"), 1)
	return append(appendU32(b, uint32(len(part))), part...)
}

// appendU32 appends an unsigned LEB128.
func appendU32(b []byte, v uint32) []byte { return binary.AppendUvarint(b, uint64(v)) }

// appendConst appends an i32.const.
func appendConst(b []byte, v int32) []byte { return appendSigned(append(b, 0x41), int64(v)) }

// appendSigned appends a signed LEB128.
func appendSigned(b []byte, v int64) []byte {
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
