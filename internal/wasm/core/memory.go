package core

import "fmt"

// maxMemory is how much memory the engine may take to compile one function, of
// which it keeps what it has compiled. It is three times what is counted for the largest
// function that is known, of SpiderMonkey's interpreter.
const maxMemory = 512 << 20

// Bytes that the engine takes for each of what takes it much: instructions that may
// trap have a way out each, at which all registers are saved. As measured, with a
// function of nothing else.
const (
	takesByte      = 180 // of any code
	takesLoad      = 5 << 10
	takesLoads     = 16 // that take one byte more for each one: they are compared with one another
	takesAtomic    = 14 << 10
	takesDivision  = 5500
	takesUnsigned  = 2700 // a division
	takesTruncate  = 8 << 10
	takesCall      = 2 << 10
	takesIndirect  = 8 << 10
	takesValue     = 450 // of a call, or at a block's ends
	takesBlock     = 8 << 10
	takesLabel     = 3 << 10 // of br_table
	takesElement   = 5 << 10 // table.get, table.set
	takesCopy      = 28 << 10
	takesGrow      = 11 << 10
	takesReference = 2 << 10
)

// takes is how many bytes the engine takes for instructions of one byte, beyond
// takesByte.
var takes = func() (t [256]int) {
	for op := 0x28; op <= 0x3e; op++ { // loads and stores
		t[op] = takesLoad
	}
	for _, op := range []byte{0x6d, 0x6f, 0x7f, 0x81} { // divisions, remainders
		t[op], t[op+1] = takesDivision, takesUnsigned
	}
	for _, op := range []byte{0xa8, 0xa9, 0xaa, 0xab, 0xae, 0xaf, 0xb0, 0xb1} { // truncations
		t[op] = takesTruncate
	}
	t[0x02], t[opLoop], t[opIf], t[0x1f], t[0x0d] = takesBlock, takesBlock, takesBlock, takesBlock, takesBlock
	t[0x10], t[0x11], t[0x12], t[0x13], t[0x08] = takesCall, takesIndirect, takesCall, takesIndirect, takesCall
	t[0x25], t[0x26] = takesElement, takesElement
	t[0x40] = takesGrow
	t[0xd2] = takesReference
	t[0xfe] = takesAtomic
	return t
}()

// memory is about how many bytes the engine takes to compile b.
func (b *body) memory() int {
	return len(b.code)*takesByte + b.heavy + b.values*takesValue + b.loads*(b.loads/takesLoads)
}

// checkMemory holds that the engine does not take too much for b.
func (b *body) checkMemory() error {
	n := b.memory()
	if n <= maxMemory {
		return nil
	}
	return &Error{Offset: b.off, Msg: fmt.Sprintf(
		"a function of %d bytes that compiling would take some %d MiB for, and at most %d: it has %d loads and stores, and %d values at calls and blocks",
		len(b.code), n>>20, maxMemory>>20, b.loads, b.values)}
}

// passes counts the values that a call passes, or a block, or a branch to one: those
// of its type, nil for hardly any.
func (b *body) passes(t *FuncType) {
	const few = 16 // what others are counted for
	if t == nil {
		return
	}
	n := len(t.Params) + len(t.Results)
	b.values += n
	if n > few {
		b.many += n
	}
}
