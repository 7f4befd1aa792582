package core

import "fmt"

// write puts the module together again.
func (w *rewriter) write() {
	code := w.code() // first: it knows whether anything is to be added
	out := append(make([]byte, 0, len(w.m.Binary)+len(w.m.Binary)/4), Header...)
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
			if name := NewReader(s.body, 0).Name(); name == "name" {
				emit(s.id, s.body) // traces of traps show functions' names
			}
			continue
		}
		missing(rank(s.id))
		switch {
		case s.id == secStart:
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
	w.out.Binary = out
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

// Where the added globals are, after those of the module.
const (
	fuel = iota
	stop
	stack
	why
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
		return list(1, []byte{0x60, 0, 0})
	case secFunction:
		return list(1, appendU32(nil, uint32(len(w.types))))
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
			v := map[int]int32{fuel: Slice, stack: int32(min(w.opt.Stack, 1<<31-1))}[k]
			items = append(appendConst(append(items, byte(I32), 1), v), 0x0b)
		}
		return list(addedGlobals, items)
	case secExport:
		var items []byte
		export := func(name string, g uint32) {
			items = appendU32(append(appendName(items, name), byte(Global)), g)
		}
		export(FuelGlobal, w.global(fuel))
		export(StopGlobal, w.global(stop))
		export(StackGlobal, w.global(stack))
		export(WhyGlobal, w.global(why))
		for i, g := range w.mutable {
			name := fmt.Sprintf("%sglobal%d", reserved, i)
			w.out.Globals = append(w.out.Globals, name)
			export(name, g)
		}
		n := addedGlobals + len(w.mutable)
		if w.start >= 0 {
			items = appendU32(append(appendName(items, StartFunction), byte(Func)), uint32(w.start))
			n++
		}
		return list(uint32(n), items)
	case secCode:
		return code
	}
	return body
}

// code is the code section with what is added to the bodies, and the function
// that looks whether the guest is to end.
func (w *rewriter) code() []byte {
	out := appendU32(nil, uint32(len(w.funcs)+1))
	var b []byte
	for i := range w.funcs {
		b = w.changed(b[:0], i)
		out = append(appendU32(out, uint32(len(b))), b...)
	}
	b = w.look(b[:0])
	return append(appendU32(out, uint32(len(b))), b...)
}

// look appends the function that a guest calls when its slice is used up.
func (w *rewriter) look(b []byte) []byte {
	b = append(b, 0) // no locals
	b = appendConst(b, Slice)
	b = w.set(b, fuel)
	b = appendConst(b, 0)
	b = append(b, 0x40, 0, 0x1a) // memory.grow, which leaves compiled code; drop
	b = w.get(b, stop)
	b = w.trapIf(b, WhyStopped)
	return append(b, 0x0b)
}

// trapIf ends the guest if what is on the stack is not 0.
func (w *rewriter) trapIf(b []byte, reason int32) []byte {
	b = append(b, 0x04, 0x40)
	b = w.set(appendConst(b, reason), why)
	return append(b, 0x00, 0x0b)
}

func (w *rewriter) get(b []byte, k int) []byte { return appendU32(append(b, 0x23), w.global(k)) }
func (w *rewriter) set(b []byte, k int) []byte { return appendU32(append(b, 0x24), w.global(k)) }

// changed appends body i with what is added.
func (w *rewriter) changed(out []byte, i int) []byte {
	b := &w.funcs[i]
	groups := b.groups
	if b.bulk {
		groups++
	}
	out = append(appendU32(out, groups), b.decl...)
	if b.bulk {
		out = append(out, 1, byte(I32))
	}
	if len(b.calls) > 0 || b.wild {
		out = w.pay(out)
	}
	last := 0
	for _, c := range b.cuts {
		out = append(out, b.code[last:c.at]...)
		last = c.at
		switch c.kind {
		case cutLoop:
			out = w.pay(out)
		case cutBulk:
			out = w.payFor(out, b.locals)
		case cutCall:
			if w.recursive(i, c.to) {
				out = w.descend(out, b.frame())
			}
		case cutAfter:
			if w.recursive(i, c.to) {
				out = w.ascend(out, b.frame())
			}
		}
	}
	return append(out, b.code[last:]...)
}

// pay takes one from the slice.
func (w *rewriter) pay(b []byte) []byte {
	b = w.get(b, fuel)
	b = append(appendConst(b, 1), 0x6b)
	return w.overdrawn(w.set(b, fuel))
}

// payFor takes from the slice by how much an instruction does: its last operand,
// which it keeps in a local.
func (w *rewriter) payFor(b []byte, local uint32) []byte {
	b = appendU32(append(b, 0x22), local) // local.tee
	b = w.get(b, fuel)
	b = appendU32(append(b, 0x20), local)
	b = append(appendConst(b, bulkShift), 0x76, 0x6b) // i32.shr_u, i32.sub
	return w.overdrawn(w.set(b, fuel))
}

// bulkShift makes a number of checks of a number of bytes.
const bulkShift = 10

// overdrawn looks if the slice is used up.
func (w *rewriter) overdrawn(b []byte) []byte {
	b = w.get(b, fuel)
	b = append(appendConst(b, 0), 0x4c, 0x04, 0x40, 0x10) // i32.le_s, if, call
	b = appendU32(b, uint32(len(w.sigs)))
	return append(b, 0x0b)
}

// descend takes a frame from the stack, ascend gives it back.
func (w *rewriter) descend(b []byte, frame uint32) []byte {
	b = w.get(b, stack)
	b = append(appendConst(b, int32(frame)), 0x49) // i32.lt_u
	b = w.trapIf(b, WhyStack)
	b = w.get(b, stack)
	b = append(appendConst(b, int32(frame)), 0x6b)
	return w.set(b, stack)
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
