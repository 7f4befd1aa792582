package core

// An instruction that fills, copies or initializes memory may take as long as the
// system takes to make all of a guest's memory, and nobody can stop it. So a guest
// pays for it by how much it does; and one that cannot pay that from its slice
// calls a function that is added, which does it in pieces and looks in between.

// piece is how much of an instruction is done between two looks: as many of the
// system's pages as freshSlice.
const piece = freshSlice << 12

// bulkShift makes a number of checks of a number of bytes.
const bulkShift = 8

// small is how many bytes an instruction may do that costs nothing, if that stands
// there as a constant.
const small = 1024

// The instructions of the form 0xfc that have pieces.
const (
	memoryInit = 8
	memoryCopy = 10
	memoryFill = 11
)

// A parted is an instruction for which there is a function that does it in pieces.
type parted struct {
	op      byte
	segment uint32 // of memory.init
}

// instruction is it as it stands in the code.
func (p parted) instruction() []byte {
	b := []byte{0xfc, p.op}
	if p.op == memoryInit {
		b = appendU32(b, p.segment)
	}
	if p.op == memoryCopy {
		b = append(b, 0)
	}
	return append(b, 0)
}

// partedAt returns the instruction at the beginning of code, and how long it is.
// It reports whether it is one that may take long.
func (w *rewriter) partedAt(code []byte) (p parted, size int, long bool) {
	r := NewReader(code, 0)
	r.Byte()
	p.op = r.Byte()
	switch p.op {
	case memoryInit:
		p.segment = r.U32()
		long = int(p.segment) < len(w.data) && w.data[p.segment] > piece
	case memoryCopy:
		r.Byte()
		long = true
	case memoryFill:
		long = true
	}
	r.Byte()
	return p, r.Pos(), long
}

// inPieces returns the index of the function that does p.
func (w *rewriter) inPieces(p parted) uint32 {
	for i, q := range w.parted {
		if p == q {
			return uint32(len(w.sigs) + 1 + i)
		}
	}
	w.parted = append(w.parted, p)
	return uint32(len(w.sigs) + len(w.parted))
}

// bulkType is the index of its type.
func (w *rewriter) bulkType() int64 { return int64(len(w.types) + 1) }

// paid appends the instruction at the beginning of code, which does as much as its
// last operand says, and what a guest pays for it, and returns how long it was. The
// operand is kept in a local.
func (w *rewriter) paid(b, code []byte, local uint32) ([]byte, int) {
	p, size, long := w.partedAt(code)
	b = appendU32(append(b, 0x22), local) // local.tee
	if !long {
		size = 0 // it stays where it is
		b = append(b, 0x02, 0x40)
	}
	b = appendU32(append(w.get(b, fuel), 0x20), local)
	b = append(appendConst(b, bulkShift), 0x76, 0x6b) // i32.shr_u, i32.sub
	b = notNegative(w.get(w.set(b, fuel), fuel))
	if !long {
		return w.lookUnless(b), size
	}
	b = appendSigned(append(b, 0x04), w.bulkType()) // if
	b = append(append(b, p.instruction()...), 0x05, 0x10)
	return append(appendU32(b, w.inPieces(p)), 0x0b), size
}

// Locals of a function that does an instruction in pieces: its operands.
const (
	opTo = iota
	opFrom
	opSize
)

// pieces appends the function that does p. What does not fit into memory it leaves
// to the instruction, which then does nothing and ends the guest.
func (w *rewriter) pieces(b []byte, p parted) []byte {
	get := func(local byte) { b = append(b, 0x20, local) }
	move := func(local, op byte) { // by a piece
		get(local)
		b = append(appendConst(b, piece), op, 0x21, local)
	}
	const add, sub = 0x6a, 0x6b
	fits := func(local byte, room ...byte) { // else goes to the end of the block
		get(local)
		b = append(b, 0xad, 0x20, opSize, 0xad, 0x7c) // as long ones, i64.add
		b = append(append(b, room...), 0x56, 0x0d, 0) // i64.gt_u, br_if
	}
	memory := []byte{0x3f, 0, 0xad, 0x42, 16, 0x86} // memory.size, as a long one, i64.shl
	b = w.call(append(b, 0))                        // no locals
	b = append(b, 0x02, 0x40)                       // block
	fits(opTo, memory...)
	switch p.op {
	case memoryCopy:
		fits(opFrom, memory...)
	case memoryInit:
		fits(opFrom, appendSigned([]byte{0x42}, int64(w.data[p.segment]))...)
	}
	b = append(b, 0x03, 0x40) // loop
	get(opSize)
	b = append(appendConst(b, piece), 0x4d, 0x0d, 1) // i32.le_u, br_if
	if p.op == memoryCopy {
		get(opTo)
		get(opFrom)
		b = append(b, 0x4b, 0x04, 0x40) // i32.gt_u, if: from its end, as what is there is overwritten
		move(opSize, sub)
		b = append(b, 0x20, opTo, 0x20, opSize, add, 0x20, opFrom, 0x20, opSize, add)
		b = append(append(appendConst(b, piece), p.instruction()...), 0x05) // else
	}
	get(opTo)
	get(opFrom)
	b = append(appendConst(b, piece), p.instruction()...)
	move(opTo, add)
	if p.op != memoryFill {
		move(opFrom, add)
	}
	move(opSize, sub)
	if p.op == memoryCopy {
		b = append(b, 0x0b)
	}
	b = append(notNegative(w.take(b, fuel, piece>>bulkShift)), 0x0d, 0) // br_if
	b = append(w.call(b), 0x0c, 0, 0x0b, 0x0b)                          // br
	get(opTo)
	get(opFrom)
	get(opSize)
	return append(append(b, p.instruction()...), 0x0b)
}
