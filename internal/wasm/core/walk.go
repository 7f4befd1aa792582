package core

// What follows an opcode.
const (
	immBad  = iota // not supported, or not an instruction
	immNone        // nothing
	immU32         // an index
	immI32         // an integer
	immI64         // a long one
	immF32         // four bytes
	immF64         // eight bytes
	immMem         // alignment and offset
	immOwn         // looked at where it stands
)

// immediates says what follows each opcode of one byte. Exceptions are those of
// try_table; the instructions that came before it (try, catch, delegate) are not
// known to the engine.
var immediates = func() (t [256]byte) {
	set := func(kind byte, ops ...byte) {
		for _, op := range ops {
			t[op] = kind
		}
	}
	from := func(kind byte, a, b int) {
		for op := a; op <= b; op++ {
			t[op] = kind
		}
	}
	set(immNone, 0x00, 0x01, 0x1a, 0x1b)                        // unreachable, nop, drop, select
	set(immOwn, 0x02, 0x03, 0x04, 0x05, 0x0b, 0x0d, 0x0e, 0x0f) // block, loop, if, else, end, br_if, br_table, return
	set(immOwn, 0x08, 0x0a)                                     // throw, throw_ref
	set(immU32, 0x0c)                                           // br
	from(immOwn, 0x10, 0x13)                                    // calls
	set(immOwn, 0x1c, 0x1f)                                     // select with types, try_table
	from(immOwn, 0x20, 0x26)                                    // locals, globals, tables
	from(immMem, 0x28, 0x3e)                                    // loads and stores
	set(immOwn, 0x3f, 0x40)                                     // memory.size, memory.grow
	set(immI32, 0x41)                                           // constants
	set(immI64, 0x42)                                           //
	set(immF32, 0x43)                                           //
	set(immF64, 0x44)                                           //
	from(immNone, 0x45, 0xc4)                                   // numbers
	set(immNone, 0xd1)                                          // ref.is_null
	set(immOwn, 0xd0, 0xd2, 0xfc, 0xfd, 0xfe)                   // references, and what has a second opcode
	return t
}()

// A frame is a block that a walk is in.
type frame struct {
	region int32  // that its instructions belong to: a loop's cut, or function for none
	at     uint32 // where its instructions begin
	inner  uint32 // bytes of loops within it, which pay for themselves
	loops  int    // that it is in, itself counted
}

// function is the region of instructions that are in no loop.
const function = -1

// walk reads the instructions of a body and notes in b where something is to be
// added, and whom it calls.
//
// What it takes for an instruction the engine must take for the same one, or
// code could hide in what one of them reads as an operand. So what the engine
// reads in a way of its own is accepted only in the form that leaves no doubt:
// types of one byte, second opcodes of the shortest form.
func (w *rewriter) walk(r *Reader, b *body) {
	w.open = append(w.open[:0], frame{region: function})
	for r.More() {
		if len(w.open) == 0 {
			r.Fail("instructions after the end of a function")
			return
		}
		at := r.Pos()
		op := r.Byte()
		switch immediates[op] {
		case immNone:
		case immU32:
			r.U32()
		case immI32:
			r.integer(5)
		case immI64:
			r.integer(10)
		case immF32:
			r.Bytes(4)
		case immF64:
			r.Bytes(8)
		case immMem:
			w.memArg(r)
		case immOwn:
			w.special(r, op, at, b)
		default:
			r.Fail("instruction %#x is not supported", op)
		}
	}
	if r.Err() == nil && len(w.open) > 0 {
		r.Fail("a function without an end")
	}
}

// enter begins a block of region.
func (w *rewriter) enter(r *Reader, b *body, region int32) {
	if len(w.open) > maxDepth {
		r.Fail("blocks nested more than %d deep", maxDepth)
		return
	}
	f := frame{region: region, at: uint32(r.Pos())}
	if up := w.open[len(w.open)-1]; up.region != region {
		f.loops = up.loops + 1
	} else {
		f.loops = up.loops
	}
	if f.loops > maxLoops {
		r.Fail("loops nested more than %d deep", maxLoops)
		return
	}
	w.open = append(w.open, f)
	b.branch(r, 1)
}

// branch counts blocks, and what may go on in n places.
func (b *body) branch(r *Reader, n int) {
	if b.blocks += n; b.blocks > maxBlocks {
		r.Fail("a function of more than %d blocks", maxBlocks)
	}
}

// leave ends a block, and charges what is in it to its region.
func (w *rewriter) leave(r *Reader, b *body) {
	f := w.open[len(w.open)-1]
	w.open = w.open[:len(w.open)-1]
	size := uint32(r.Pos()) - f.at
	switch n := len(w.open); {
	case n == 0:
		b.cost = size - f.inner
	case f.region != w.open[n-1].region: // a loop
		b.cuts[f.region].to = int32(size - f.inner)
		w.open[n-1].inner += size
	default:
		w.open[n-1].inner += f.inner
	}
}

// cut notes that something is added at a place in b.
func (w *rewriter) cut(r *Reader, b *body, at int, kind byte, to int32) {
	if w.cuts++; w.cuts > maxCuts {
		r.Fail("more than %d loops and calls", maxCuts)
		return
	}
	region := int32(function)
	if n := len(w.open); n > 0 {
		region = w.open[n-1].region
	}
	b.cuts = append(b.cuts, cut{at: uint32(at), to: to, region: region, kind: kind})
}

// blockType takes the type of a block: none, a value type, or an index.
func (w *rewriter) blockType(r *Reader) {
	switch c := r.Peek(); {
	case c == 0x40:
		r.Byte()
	case c > 0x40 && c < 0x80:
		valType(r)
	default:
		index(r, len(w.types), "type")
		if r.Err() == nil && r.b[r.pos-1]&0x40 != 0 {
			r.Fail("a block's type of unknown form")
		}
	}
}

// memory holds that there is one.
func (w *rewriter) memory(r *Reader) {
	if w.memories == 0 {
		r.Fail("an instruction on a memory, and there is none")
	}
}

func (w *rewriter) memArg(r *Reader) {
	w.memory(r)
	if align := r.U32(); align&0x40 != 0 {
		r.Fail("more than one memory is not supported")
	}
	r.U32()
}

// zero takes a byte that must be 0.
func zero(r *Reader, what string) {
	if c := r.Byte(); c != 0 {
		r.Fail("%s is %#x; only 0 is supported", what, c)
	}
}

// special takes what follows an opcode that names something, or of which there
// are several forms. at is where the opcode stands.
func (w *rewriter) special(r *Reader, op byte, at int, b *body) {
	region := w.open[len(w.open)-1].region
	switch op {
	case 0x02, 0x04: // block, if
		w.blockType(r)
		w.enter(r, b, region)
	case 0x03: // loop
		w.blockType(r)
		region = int32(len(b.cuts))
		w.cut(r, b, r.Pos(), cutLoop, 0)
		w.enter(r, b, region)
	case 0x05: // else
	case 0x0b: // end
		w.leave(r, b)
	case 0x08: // throw
		w.cut(r, b, at, cutThrow, 0)
		r.U32()
	case 0x0a: // throw_ref
		w.cut(r, b, at, cutThrow, 0)
	case 0x0d: // br_if
		r.U32()
		b.branch(r, 1)
	case 0x0e: // br_table
		n := r.Count(1)
		b.branch(r, 1+n/8) // a place in a table is cheaper than a block
		for range n {
			r.U32()
		}
		r.U32()
	case 0x0f: // return
		if b.tries {
			w.cut(r, b, at, cutLeave, 0)
		}
	case 0x10, 0x11: // call, call_indirect
		b.calls = true
		w.cut(r, b, at, cutCall, w.callee(r, op))
	case 0x12, 0x13: // return_call, return_call_indirect
		b.calls = true
		w.cut(r, b, at, cutTail, w.callee(r, op))
	case 0x1c: // select with types
		if n := r.Byte(); n != 1 {
			r.Fail("a choice between %d values", n)
		}
		valType(r)
	case 0x1f: // try_table
		b.catches = true
		w.blockType(r)
		for range r.Count(2) {
			switch c := r.Byte(); {
			case c < 2:
				r.U32()
			case c > 3:
				r.Fail("a clause of form %#x", c)
			}
			r.U32()
		}
		w.enter(r, b, region)
	case 0x20, 0x21, 0x22: // locals
		index(r, int(b.locals), "local")
	case 0x23, 0x24: // globals
		index(r, w.globals, "global")
	case 0x25: // table.get
		index(r, w.tables, "table")
	case 0x26: // table.set
		index(r, w.tables, "table")
		w.freeze("it writes into a table")
	case 0x3f, 0x40: // memory.size, memory.grow
		w.memory(r)
		zero(r, "a memory")
	case 0xd0: // ref.null
		refType(r)
	case 0xd2: // ref.func
		w.taken = append(w.taken, index(r, len(w.sigs), "function"))
	case 0xfc:
		w.bulk(r, at, b)
	case 0xfd:
		w.vector(r)
	case 0xfe:
		w.atomic(r)
	}
}

// callee takes whom a call calls.
func (w *rewriter) callee(r *Reader, op byte) int32 {
	if op&1 == 0 {
		return int32(index(r, len(w.sigs), "function"))
	}
	index(r, len(w.types), "type")
	index(r, w.tables, "table")
	return throughTable
}

// bulk takes an instruction of the form 0xfc.
func (w *rewriter) bulk(r *Reader, at int, b *body) {
	op := r.Byte()
	long := false
	switch op {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating truncation
	case 8: // memory.init
		w.memory(r)
		r.U32()
		zero(r, "a memory")
		long = true
	case 9: // data.drop
		r.U32()
		w.freeze("it drops a data segment")
	case 10: // memory.copy
		w.memory(r)
		zero(r, "a memory")
		zero(r, "a memory")
		long = true
	case 11: // memory.fill
		w.memory(r)
		zero(r, "a memory")
		long = true
	case 12: // table.init
		r.U32()
		index(r, w.tables, "table")
		w.freeze("it writes into a table")
		long = true
	case 13: // elem.drop
		r.U32()
		w.freeze("it drops an element segment")
	case 14: // table.copy
		index(r, w.tables, "table")
		index(r, w.tables, "table")
		w.freeze("it writes into a table")
		long = true
	case 15: // table.grow
		index(r, w.tables, "table")
		w.freeze("it writes into a table")
		long = true
	case 16: // table.size
		index(r, w.tables, "table")
	case 17: // table.fill
		index(r, w.tables, "table")
		w.freeze("it writes into a table")
		long = true
	default:
		r.Fail("instruction 0xfc %#x is not supported", op)
	}
	if long {
		b.bulk = true
		w.cut(r, b, at, cutBulk, 0)
	}
}

// vector takes an instruction of the form 0xfd. Second opcodes over 127 have two
// bytes, of which the engine reads the first and takes the other, which must be
// 1, for a nop.
func (w *rewriter) vector(r *Reader) {
	op := r.Byte()
	switch {
	case op <= 11, op == 92, op == 93:
		w.memArg(r)
	case op == 12, op == 13:
		r.Bytes(16)
	case op >= 21 && op <= 34:
		r.Byte()
	case op >= 84 && op <= 91:
		w.memArg(r)
		r.Byte()
	case op > 127:
		if c := r.Byte(); c != 1 {
			r.Fail("instruction 0xfd %#x %#x is not supported", op, c)
		}
	}
}

// atomic takes an instruction of the form 0xfe. There is one thread, so none may
// wait, and there is nobody to wake.
func (w *rewriter) atomic(r *Reader) {
	switch op := r.Byte(); {
	case op <= 2:
		r.Fail("waiting on memory is not supported")
	case op == 3:
		zero(r, "what a fence orders")
	case op >= 0x10 && op <= 0x4e:
		w.memArg(r)
	default:
		r.Fail("instruction 0xfe %#x is not supported", op)
	}
}
