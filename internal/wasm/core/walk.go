package core

// What follows an opcode.
const (
	immBad  = iota // not supported, or not an instruction
	immNone        // nothing
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
	set(immOwn, 0x0c)                                           // br
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

// slow are the numbers' instructions that take the processor tens of cycles:
// divisions, remainders and square roots.
var slow = [256]bool{
	0x6d: true, 0x6e: true, 0x6f: true, 0x70: true, 0x7f: true, 0x80: true, 0x81: true, 0x82: true,
	0x91: true, 0x95: true, 0x9f: true, 0xa3: true,
}

// A frame is a block that a walk is in.
type frame struct {
	op    byte      // its first instruction's
	from  int       // run where it begins
	to    int       // run where it is branched to, the heaviest; unreachable for never
	cut   int       // of a loop: where it pays, among the body's cuts
	sets  int       // body.sets where it begins
	loops int       // that it is in, itself counted
	typ   *FuncType // what a branch to it passes, or less; nil for at most one value
}

// unreachable is a run that does not happen.
const unreachable = -1

// walk reads the instructions of a body and notes in b where something is to be
// added, and whom it calls.
//
// What it takes for an instruction the engine must take for the same one, or
// code could hide in what one of them reads as an operand. So what the engine
// reads in a way of its own is accepted only in the form that leaves no doubt:
// types of one byte, second opcodes of the shortest form.
func (w *rewriter) walk(r *Reader, b *body) {
	w.open = append(w.open[:0], frame{to: unreachable, typ: w.types[w.sigs[w.imported+b.index]]})
	w.run, w.from, b.most, b.sets, w.literal = 0, 0, 0, 0, -1
	for r.More() {
		if len(w.open) == 0 {
			r.Fail("instructions after the end of a function")
			return
		}
		at := r.Pos()
		w.advance(r, b, at)
		op := r.Byte()
		w.before, w.literal = w.literal, -1
		b.heavy += takes[op]
		if op == 0x00 {
			w.run = unreachable
		}
		switch immediates[op] {
		case immNone:
			if slow[op] {
				w.weigh(rootWeight)
			}
		case immI32:
			w.literal = max(int(r.i32()), -1)
		case immI64:
			r.integer(10)
		case immF32:
			r.Bytes(4)
		case immF64:
			r.Bytes(8)
		case immMem:
			b.loads++
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

// weigh adds what an instruction may take that is more than its bytes say.
func (w *rewriter) weigh(more int) {
	if w.run >= 0 {
		w.run += more
	}
}

// advance counts the code up to an offset, and lets the guest pay there if that
// is much.
func (w *rewriter) advance(r *Reader, b *body, at int) {
	if w.run >= 0 {
		w.run += at - w.from
		b.most = max(b.most, w.run)
		if w.run >= stride {
			w.cut(r, b, at, cutPay, 0)
			b.charge(len(b.cuts)-1, w.run)
			w.run = 0
		}
	}
	w.from = at
}

// enter begins the block of an instruction, whose type is nil if it takes nothing and
// leaves at most one value.
func (w *rewriter) enter(r *Reader, b *body, op byte, typ *FuncType) {
	w.weigh(typ.values())
	f := frame{op: op, from: w.run, to: unreachable, loops: w.open[len(w.open)-1].loops, typ: typ, sets: b.sets}
	b.passes(typ)
	takes := 0
	if typ != nil {
		takes = len(typ.Params)
	}
	if op == opLoop {
		f.loops++
		b.nested += f.loops
		w.cut(r, b, r.Pos(), cutLoop, int32(takes))
		f.cut = len(b.cuts) - 1
		w.run, w.from = min(w.run, 0), r.Pos()
	}
	switch {
	case len(w.open) > maxDepth:
		r.Fail("blocks nested more than %d deep", maxDepth)
	case f.loops > maxLoops:
		r.Fail("loops nested more than %d deep", maxLoops)
	}
	w.open = append(w.open, f)
	b.branch(r, 1)
}

// charge makes the guest pay for a weight at the cut k.
func (b *body) charge(k, weight int) {
	if k >= 0 { // else there were too many, and the module is refused
		b.cuts[k].cost = cost(weight)
	}
}

// leave ends a block. What follows it is reached through it, past it if it is an
// if without an else, and from where it is branched to. At the head of a loop the
// guest pays for the way that led there, from before it or from its end. What is
// moved where ways meet counts on all of them.
func (w *rewriter) leave(b *body) {
	f := w.open[len(w.open)-1]
	w.open = w.open[:len(w.open)-1]
	moves := max(min(b.sets-f.sets, int(b.locals))-freeMoves, 0) + f.typ.values()
	if f.op == opLoop {
		b.charge(f.cut, max(f.from, f.to)+moves)
	}
	if f.op == opIf {
		w.run = max(w.run, f.from)
	}
	if f.op != opLoop {
		w.run = max(w.run, f.to)
	}
	w.weigh(moves)
}

// otherwise begins the other half of an if.
func (w *rewriter) otherwise() {
	f := &w.open[len(w.open)-1]
	f.to = max(f.to, w.run)
	w.run, f.op = f.from, opElse
}

// label takes a label, which is branched to after run.
func (w *rewriter) label(r *Reader, b *body, run int) {
	l := r.U32()
	if int64(l) >= int64(len(w.open)) {
		r.Fail("label %d of %d", l, len(w.open))
		return
	}
	f := &w.open[len(w.open)-1-int(l)]
	if run >= 0 {
		run += f.typ.values()
	}
	f.to = max(f.to, run)
	b.passes(f.typ)
}

// branch counts blocks, and what may go on in n places.
func (b *body) branch(r *Reader, n int) {
	b.work += n
	if b.blocks += n; b.blocks > maxBlocks {
		r.Fail("a function of more than %d blocks", maxBlocks)
	}
}

// cut notes that something is added at a place in b.
func (w *rewriter) cut(r *Reader, b *body, at int, kind byte, to int32) {
	if w.cuts++; w.cuts > maxCuts {
		r.Fail("more than %d loops and calls", maxCuts)
		return
	}
	if kind != cutCall || w.scc != nil && w.recursive(b.index, to) { // where nothing is added, there is nothing to do
		b.work += workOf[kind]
	}
	b.cuts = append(b.cuts, cut{at: uint32(at), to: to, kind: kind})
}

// Instructions that begin blocks, as frames have them.
const (
	opLoop = 0x03
	opIf   = 0x04
	opElse = 0x05
)

// blockType takes the type of a block: none, a value type, or an index, of which it
// returns the type.
func (w *rewriter) blockType(r *Reader) *FuncType {
	switch c := r.Peek(); {
	case c == 0x40:
		r.Byte()
	case c > 0x40 && c < 0x80:
		valType(r)
	default:
		i := index(r, len(w.types), "type")
		switch {
		case r.Err() != nil:
		case r.b[r.pos-1]&0x40 != 0:
			r.Fail("a block's type of unknown form")
		default:
			return w.types[i]
		}
	}
	return nil
}

// memory holds that there is one.
func (w *rewriter) memory(r *Reader) {
	if w.memories == 0 {
		r.Fail("an instruction on a memory, and there is none")
	}
}

func (w *rewriter) memArg(r *Reader) {
	w.memory(r)
	w.weigh(loadWeight)
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
	switch op {
	case 0x02, opLoop, opIf: // block, loop, if
		w.enter(r, b, op, w.blockType(r))
	case opElse:
		w.otherwise()
	case 0x0b: // end
		w.leave(b)
	case 0x08: // throw
		w.cut(r, b, at, cutThrow, 0)
		r.U32()
		w.run = unreachable
	case 0x0a: // throw_ref
		w.cut(r, b, at, cutThrow, 0)
		w.run = unreachable
	case 0x0c, 0x0d, 0x0e, 0x0f: // branches, return
		w.jump(r, op, at, b)
	case 0x10, 0x11: // call, call_indirect
		to := w.callee(r, b, op)
		b.pass(w.signature(to))
		w.weigh(w.signature(to).values())
		w.cut(r, b, at, cutCall, to)
		if w.run >= 0 {
			w.run += w.price(to)
		}
	case 0x12, 0x13: // return_call, return_call_indirect
		to := w.callee(r, b, op)
		b.pass(w.signature(to))
		w.weigh(w.signature(to).values())
		w.cut(r, b, at, cutTail, to)
		if w.run >= 0 {
			b.most = max(b.most, w.run+w.price(to))
		}
		w.run = unreachable
	case 0x1c: // select with types
		if n := r.Byte(); n != 1 {
			r.Fail("a choice between %d values", n)
		}
		valType(r)
	case 0x1f: // try_table
		b.catches = true
		typ := w.blockType(r)
		for range r.Count(2) {
			switch c := r.Byte(); {
			case c < 2:
				r.U32()
			case c > 3:
				r.Fail("a clause of form %#x", c)
			}
			w.label(r, b, stride)
		}
		w.enter(r, b, op, typ)
	case 0x20, 0x21, 0x22: // locals
		if op != 0x20 {
			b.sets++
		}
		index(r, int(b.locals), "local")
	case 0x23, 0x24: // globals
		index(r, w.globals, "global")
	case 0x25: // table.get
		index(r, w.tables, "table")
		w.weigh(loadWeight)
	case 0x26: // table.set
		index(r, w.tables, "table")
		w.freeze("it writes into a table")
	case 0x3f: // memory.size
		w.memory(r)
		zero(r, "a memory")
	case 0x40: // memory.grow
		w.memory(r)
		zero(r, "a memory")
		w.cut(r, b, at, cutGrow, 0)
	case 0xd0: // ref.null
		refType(r)
	case 0xd2: // ref.func
		w.taken = append(w.taken, index(r, len(w.sigs), "function"))
	case 0xfc:
		w.bulk(r, at, b)
	case 0xfd:
		w.vector(r, b)
	case 0xfe:
		w.atomic(r)
	}
}

// jump takes what follows an instruction that goes on elsewhere.
func (w *rewriter) jump(r *Reader, op byte, at int, b *body) {
	switch op {
	case 0x0c: // br
		w.label(r, b, w.run)
	case 0x0d: // br_if
		w.label(r, b, w.run)
		b.branch(r, 1)
		return
	case 0x0e: // br_table
		n := r.Count(1)
		b.branch(r, 1+n/8) // a place in a table is cheaper than a block
		b.heavy += n * takesLabel
		for range n + 1 {
			w.label(r, b, w.run)
		}
	case 0x0f: // return
		if b.tries {
			w.cut(r, b, at, cutLeave, 0)
		}
	}
	w.run = unreachable
}

// callee takes whom a call calls.
func (w *rewriter) callee(r *Reader, b *body, op byte) int32 {
	if op&1 == 0 {
		f := index(r, len(w.sigs), "function")
		if r.Err() == nil {
			b.passes(w.types[w.sigs[f]])
		}
		return int32(f)
	}
	t := index(r, len(w.types), "type")
	index(r, w.tables, "table")
	if r.Err() != nil {
		return throughTable
	}
	b.passes(w.types[t])
	return throughTable - int32(w.shapes[t])
}

// bulk takes an instruction of the form 0xfc.
func (w *rewriter) bulk(r *Reader, at int, b *body) {
	op := r.Byte()
	long := false
	switch op {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating truncation
	case memoryInit:
		w.memory(r)
		r.U32()
		zero(r, "a memory")
		long = true
	case 9: // data.drop
		r.U32()
		w.freeze("it drops a data segment")
	case memoryCopy:
		w.memory(r)
		zero(r, "a memory")
		zero(r, "a memory")
		long = true
	case memoryFill:
		w.memory(r)
		zero(r, "a memory")
		long = true
		b.work += workOfFill
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
		b.work += workOfFill
	default:
		r.Fail("instruction 0xfc %#x is not supported", op)
	}
	switch {
	case !long:
	case op == 15: // table.grow
		b.heavy += takesGrow
	default:
		b.heavy += takesCopy
	}
	switch {
	case !long:
	case w.before >= 0 && w.before <= small:
		if w.run >= 0 {
			w.run += w.before / 8 // of which a byte of code may do as many
		}
	default:
		b.bulk = true
		w.cut(r, b, at, cutBulk, 0)
	}
}

// vector takes an instruction of the form 0xfd. Second opcodes over 127 have two
// bytes, of which the engine reads the first and takes the other, which must be
// 1, for a nop.
func (w *rewriter) vector(r *Reader, b *body) {
	op := r.Byte()
	switch {
	case op <= 11, op == 92, op == 93:
		b.loads, b.heavy = b.loads+1, b.heavy+takesLoad
		w.memArg(r)
	case op == 12, op == 13:
		r.Bytes(16)
	case op >= 21 && op <= 34:
		r.Byte()
	case op >= 84 && op <= 91:
		b.loads, b.heavy = b.loads+1, b.heavy+takesLoad
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
