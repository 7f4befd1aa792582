package core

// What follows an opcode.
const (
	immNone   = iota
	immOne    // an integer
	immTwo    // two integers
	immBlock  // the type of a block
	immMemory // alignment and offset
	immF32
	immF64
	immBad // not supported, or not an instruction
	immOwn // looked at where it stands
)

// immediates says what follows each opcode of one byte.
var immediates = func() (t [256]byte) {
	for i := range t {
		t[i] = immBad
	}
	set := func(kind byte, ops ...byte) {
		for _, op := range ops {
			t[op] = kind
		}
	}
	from := func(kind, a, b byte) {
		for op := int(a); op <= int(b); op++ {
			t[op] = kind
		}
	}
	set(immNone, 0x00, 0x01, 0x05, 0x0b, 0x0f, 0x1a, 0x1b, 0x0a, 0x19) // unreachable, nop, else, end, return, drop, select, throw_ref, catch_all
	set(immBlock, 0x02, 0x03, 0x04, 0x06)
	set(immOne, 0x07, 0x08, 0x09, 0x0c, 0x0d, 0x18) // catch, throw, rethrow, br, br_if, delegate
	from(immOwn, 0x0e, 0x0e)                        // br_table
	from(immOwn, 0x10, 0x13)                        // calls
	set(immOwn, 0x1c, 0x1f)                         // select with types, try_table
	from(immOwn, 0x20, 0x26)                        // locals, globals, tables
	from(immMemory, 0x28, 0x3e)
	set(immOne, 0x3f, 0x40, 0x41, 0x42) // memory.size, memory.grow, constants
	set(immF32, 0x43)
	set(immF64, 0x44)
	from(immNone, 0x45, 0xc4)
	set(immOne, 0xd0)
	set(immNone, 0xd1)
	set(immOwn, 0xd2, 0xfc, 0xfd, 0xfe)
	return t
}()

// walk reads the instructions of a body and notes in b where something is to be
// added, and whom it calls. What is wrong is f's error.
func (w *rewriter) walk(r *Reader, b *body, f *Reader) {
	for r.More() {
		at := r.Pos()
		op := r.Byte()
		switch immediates[op] {
		case immNone:
		case immOne:
			r.Skip()
		case immBlock:
			w.blockType(r)
			if op == 0x03 {
				w.out.Loops++
				b.cuts = append(b.cuts, cut{at: r.Pos(), kind: cutLoop})
			}
		case immMemory:
			memArg(r)
		case immF32:
			r.Bytes(4)
		case immF64:
			r.Bytes(8)
		case immOwn:
			w.special(r, op, at, b)
		default:
			r.Fail("instruction %#x is not supported", op)
		}
	}
	if n := len(b.code); r.Err() == nil && (n == 0 || b.code[n-1] != 0x0b) {
		r.Fail("a function without an end")
	}
	f.FailWith(r.Err())
	f.pos = len(f.b)
}

// blockType takes the type of a block: none, a value type, or an index.
func (w *rewriter) blockType(r *Reader) {
	if c := r.Peek(); c >= 0x40 && c < 0x80 {
		r.Byte()
		return
	}
	index(r, len(w.types), "type")
}

func memArg(r *Reader) {
	if r.U32()&0x40 != 0 {
		r.Fail("more than one memory is not supported")
	}
	r.Skip()
}

// special takes what follows an opcode that names something, or of which there
// are several forms. at is where the opcode stands.
func (w *rewriter) special(r *Reader, op byte, at int, b *body) {
	switch op {
	case 0x0e: // br_table
		for range r.Count(1) {
			r.Skip()
		}
		r.Skip()
	case 0x10, 0x12: // call, return_call
		k := index(r, len(w.sigs), "function")
		b.calls = append(b.calls, k)
		if op == 0x10 {
			b.cuts = append(b.cuts, cut{at, cutCall, int32(k)}, cut{r.Pos(), cutAfter, int32(k)})
		}
	case 0x11, 0x13: // call_indirect, return_call_indirect
		index(r, len(w.types), "type")
		index(r, w.tables, "table")
		b.wild = true
		if op == 0x11 {
			b.cuts = append(b.cuts, cut{at, cutCall, throughTable}, cut{r.Pos(), cutAfter, throughTable})
		}
	case 0x1c: // select with types
		for range r.Count(1) {
			r.Skip()
		}
	case 0x1f: // try_table
		w.blockType(r)
		for range r.Count(2) {
			if c := r.Byte(); c < 2 {
				r.Skip()
			}
			r.Skip()
		}
	case 0x20, 0x21, 0x22: // locals
		index(r, int(b.locals), "local")
	case 0x23, 0x24: // globals
		index(r, w.globals, "global")
	case 0x25: // table.get
		index(r, w.tables, "table")
	case 0x26: // table.set
		index(r, w.tables, "table")
		w.freeze("it writes into a table")
	case 0xd2: // ref.func
		w.taken = append(w.taken, index(r, len(w.sigs), "function"))
	case 0xfc:
		w.bulk(r, at, b)
	case 0xfd:
		vector(r)
	case 0xfe:
		atomic(r)
	}
}

// bulk takes an instruction of the form 0xfc.
func (w *rewriter) bulk(r *Reader, at int, b *body) {
	op := r.U32()
	long := false
	switch {
	case op <= 7: // saturating truncation
		return
	case op == 8: // memory.init
		r.Skip()
		r.Skip()
		long = true
	case op == 9: // data.drop
		r.Skip()
		w.freeze("it drops a data segment")
	case op == 10: // memory.copy
		r.Skip()
		r.Skip()
		long = true
	case op == 11: // memory.fill
		r.Skip()
		long = true
	case op == 12, op == 14: // table.init, table.copy
		r.Skip()
		r.Skip()
		w.freeze("it writes into a table")
		long = true
	case op == 13: // elem.drop
		r.Skip()
		w.freeze("it drops an element segment")
	case op == 15, op == 17: // table.grow, table.fill
		index(r, w.tables, "table")
		w.freeze("it writes into a table")
		long = true
	case op == 16: // table.size
		index(r, w.tables, "table")
	default:
		r.Fail("instruction 0xfc %d is not supported", op)
	}
	if long {
		b.bulk = true
		b.cuts = append(b.cuts, cut{at: at, kind: cutBulk})
	}
}

// vector takes an instruction of the form 0xfd.
func vector(r *Reader) {
	switch op := r.U32(); {
	case op <= 11, op == 92, op == 93:
		memArg(r)
	case op == 12, op == 13:
		r.Bytes(16)
	case op >= 21 && op <= 34:
		r.Byte()
	case op >= 84 && op <= 91:
		memArg(r)
		r.Byte()
	case op > 255:
		r.Fail("instruction 0xfd %d is not supported", op)
	}
}

// atomic takes an instruction of the form 0xfe. There is one thread, so none may
// wait.
func atomic(r *Reader) {
	switch op := r.U32(); {
	case op <= 2:
		r.Fail("waiting on memory is not supported")
	case op == 3:
		r.Byte()
	case op >= 0x10 && op <= 0x4e:
		memArg(r)
	default:
		r.Fail("instruction 0xfe %d is not supported", op)
	}
}
