package coretest

// function makes the body of function i: declarations and instructions.
func (g *maker) function(i int) []byte {
	g.f = g.p.Funcs[i]
	g.locals = append([]ValType(nil), g.f.Params...)
	own := g.types0(6)
	g.locals = append(g.locals, own...)
	g.extra = make(map[ValType]uint32) // one of each type, to look at a value twice
	for _, t := range valTypes {
		g.extra[t] = uint32(len(g.locals))
		g.locals, own = append(g.locals, t), append(own, t)
	}
	g.b, g.labels, g.size = nil, []label{{g.f.Results}}, 60+g.r.IntN(400)
	if g.r.IntN(4) > 0 {
		g.burn()
	}
	for range 1 + g.r.IntN(5) {
		g.statement(0)
	}
	g.values(g.f.Results, 0)
	g.op(0x0b)
	out := u32(nil, uint32(len(own)))
	for _, t := range own {
		out = append(out, 1, t)
	}
	return append(out, g.b...)
}

func (g *maker) op(b ...byte) { g.b = append(g.b, b...) }

// opIndex appends an instruction that names something, now and then as linkers
// write it.
func (g *maker) opIndex(op byte, i uint32) {
	if g.b = append(g.b, op); g.r.IntN(8) == 0 {
		g.b = padded(g.b, i)
	} else {
		g.b = u32(g.b, i)
	}
}

// burn counts the gas down and traps if there is none.
func (g *maker) burn() {
	g.opIndex(0x23, g.gas)
	g.op(0x41, 1, 0x6b)
	g.opIndex(0x24, g.gas)
	g.opIndex(0x23, g.gas)
	g.op(0x41, 0, 0x48, 0x04, 0x40, 0x00, 0x0b) // if less than 0, unreachable
}

const deepest = 6

// values leaves values of types ts.
func (g *maker) values(ts []ValType, depth int) {
	for _, t := range ts {
		g.value(t, depth)
	}
}

// blockType appends the type of a block that takes nothing.
func (g *maker) blockType(results []ValType) {
	switch len(results) {
	case 0:
		g.op(0x40)
	case 1:
		g.op(results[0])
	default:
		g.b = signed(g.b, int64(g.typeOf(nil, results)))
	}
}

// inside makes what is in a block whose label takes values of types ts.
func (g *maker) inside(takes, results []ValType, depth int) {
	g.labels = append(g.labels, label{takes})
	for range g.r.IntN(4) {
		g.statement(depth + 1)
	}
	g.values(results, depth+1)
	g.labels = g.labels[:len(g.labels)-1]
}

// statement leaves nothing on the stack.
func (g *maker) statement(depth int) {
	if g.size -= 4; g.size < 0 || depth > deepest {
		g.op(0x01)
		return
	}
	switch k := g.r.IntN(20); k {
	case 0, 1, 2, 3:
		i := g.r.IntN(len(g.locals))
		g.value(g.locals[i], depth+1)
		g.opIndex(0x21, uint32(i))
	case 4, 5:
		i := g.r.IntN(len(g.p.Globals))
		g.value(g.p.Globals[i], depth+1)
		g.opIndex(0x24, uint32(i))
	case 6, 7:
		g.store(depth)
	case 8:
		g.op(0x02, 0x40)
		g.inside(nil, nil, depth)
		g.op(0x0b)
	case 9, 10:
		g.op(0x03, 0x40)
		g.burn()
		g.inside(nil, nil, depth)
		if g.r.IntN(3) > 0 {
			g.labels = append(g.labels, label{nil})
			g.value(I32, depth+1)
			g.labels = g.labels[:len(g.labels)-1]
			g.op(0x0d, 0) // again
		}
		g.op(0x0b)
	case 11:
		g.value(I32, depth+1)
		g.op(0x04, 0x40)
		g.inside(nil, nil, depth)
		if g.r.IntN(2) == 0 {
			g.op(0x05)
			g.inside(nil, nil, depth)
		}
		g.op(0x0b)
	case 12, 13:
		for range g.call(depth) {
			g.op(0x1a)
		}
	case 14:
		g.branch(depth)
	case 15:
		g.bulk(depth)
	case 16:
		g.catch(depth)
	case 17:
		if g.r.IntN(6) == 0 {
			g.leave(depth)
		}
	default:
		g.value(valTypes[g.r.IntN(4)], depth+1)
		g.op(0x1a)
	}
}

// leave ends the function, if a condition holds.
func (g *maker) leave(depth int) {
	g.value(I32, depth+1)
	g.op(0x04, 0x40)
	g.labels = append(g.labels, label{nil})
	defer func() { g.labels = g.labels[:len(g.labels)-1] }()
	switch g.r.IntN(4) {
	case 0:
		g.op(0x00)
	case 1:
		var same []int
		for i, t := range g.p.Funcs {
			if string(t.Results) == string(g.f.Results) {
				same = append(same, i)
			}
		}
		f := same[g.r.IntN(len(same))]
		g.burn()
		g.values(g.p.Funcs[f].Params, depth+1)
		g.opIndex(0x12, uint32(f))
	default:
		g.values(g.f.Results, depth+1)
		g.op(0x0f)
	}
	g.op(0x0b)
}

// call calls a function, through the table or not, and returns what it leaves.
func (g *maker) call(depth int) []ValType {
	f := g.r.IntN(len(g.p.Funcs))
	t := g.p.Funcs[f]
	g.burn()
	g.values(t.Params, depth+1)
	if g.r.IntN(3) > 0 {
		g.opIndex(0x10, uint32(f))
		return t.Results
	}
	g.op(0x41)
	g.b = signed(g.b, int64(g.r.IntN(len(g.p.Funcs)+1)))
	g.opIndex(0x11, uint32(f))
	g.op(0)
	return t.Results
}

// branch goes to a label, if a condition holds.
func (g *maker) branch(depth int) {
	k := g.r.IntN(len(g.labels))
	takes := g.labels[len(g.labels)-1-k].takes
	g.values(takes, depth+1)
	g.value(I32, depth+1)
	if g.r.IntN(3) > 0 {
		g.opIndex(0x0d, uint32(k))
		for range takes {
			g.op(0x1a)
		}
		return
	}
	// A table within a block, so that what follows can be reached.
	for range takes {
		g.op(0x1a)
	}
	g.op(0x1a, 0x02, 0x40)
	g.labels = append(g.labels, label{nil})
	g.value(I32, depth+1)
	g.labels = g.labels[:len(g.labels)-1]
	g.op(0x0e, 2, 0, 0, 0, 0x0b)
}

// store writes to memory.
func (g *maker) store(depth int) {
	ops := []struct {
		op    byte
		t     ValType
		align byte
	}{{0x36, I32, 2}, {0x37, I64, 3}, {0x38, F32, 2}, {0x39, F64, 3}, {0x3a, I32, 0}, {0x3b, I32, 1}, {0x3c, I64, 0}, {0x3d, I64, 1}, {0x3e, I64, 2}}
	o := ops[g.r.IntN(len(ops))]
	g.address(depth)
	g.value(o.t, depth+1)
	g.op(o.op, byte(g.r.IntN(int(o.align)+1)))
	g.b = u32(g.b, uint32(g.r.IntN(64)))
}

// address leaves an address, which is nearly always within memory.
func (g *maker) address(depth int) { g.below(0x1000, depth) }

// below leaves a number that is nearly always below n, a power of 2.
func (g *maker) below(n int64, depth int) {
	g.value(I32, depth+1)
	if g.r.IntN(16) > 0 {
		g.op(0x41)
		g.b = signed(g.b, n-1)
		g.op(0x71)
	}
}

// bulk does something to much of the memory.
func (g *maker) bulk(depth int) {
	most := int64(0x1000)
	if g.large && g.r.IntN(2) == 0 {
		most = 0x80000
	}
	amount := func() {
		if g.r.IntN(4) == 0 {
			g.op(0x41)
			g.b = signed(g.b, int64(g.r.IntN(2000)))
			return
		}
		g.below(most, depth)
	}
	to := func() { g.below(most, depth) }
	switch g.r.IntN(4) {
	case 0:
		to()
		g.value(I32, depth+1)
		amount()
		g.op(0xfc, 11, 0)
	case 1:
		to()
		to()
		amount()
		g.op(0xfc, 10, 0, 0)
	case 2:
		to()
		if most == 0x1000 {
			g.op(0x41, byte(g.r.IntN(4)), 0x41, byte(g.r.IntN(4)))
		} else {
			g.below(0x1000, depth)
			amount()
		}
		g.op(0xfc, 8, 1, 0)
	default:
		g.value(I32, depth+1)
		g.op(0x41, 1, 0x71, 0x40, 0, 0x1a) // grow by a page or none
	}
}

// catch runs something whose exceptions are caught, if the program has any.
func (g *maker) catch(depth int) {
	if !g.p.Throws {
		return
	}
	g.op(0x02, 0x40)                      // where tag 0 is caught
	g.op(0x02, I32)                       // where tag 1 is
	g.op(0x1f, 0x40, 2, 0, 0, 1, 0, 1, 0) // try_table (catch 0 1) (catch 1 0)
	g.labels = append(g.labels, label{nil}, label{[]ValType{I32}})
	g.inside(nil, nil, depth)
	g.labels = append(g.labels, label{nil})
	g.value(I32, depth+1)
	g.op(0x04, 0x40)
	g.labels = append(g.labels, label{nil})
	if g.r.IntN(2) == 0 {
		g.op(0x08, 0)
	} else {
		g.value(I32, depth+2)
		g.op(0x08, 1)
	}
	g.op(0x0b, 0x0b)
	g.labels = g.labels[:len(g.labels)-4]
	g.op(0x41, 5, 0x0b)
	g.opIndex(0x21, g.extra[I32])
	g.op(0x0b)
}

// value leaves a value of type t.
func (g *maker) value(t ValType, depth int) {
	if g.size -= 2; g.size < 0 || depth > deepest {
		g.leaf(t)
		return
	}
	switch g.r.IntN(12) {
	case 0, 1:
		g.leaf(t)
	case 2:
		load := map[ValType][]byte{I32: {0x28, 0x2c, 0x2d, 0x2e, 0x2f}, I64: {0x29, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35}, F32: {0x2a}, F64: {0x2b}}[t]
		g.address(depth)
		g.op(load[g.r.IntN(len(load))], 0)
		g.b = u32(g.b, uint32(g.r.IntN(64)))
		g.canon(t) // whatever was in memory
	case 3:
		g.op(0x02)
		g.blockType([]ValType{t})
		g.inside([]ValType{t}, []ValType{t}, depth)
		g.op(0x0b)
	case 4:
		g.value(I32, depth+1)
		g.op(0x04, t)
		g.inside([]ValType{t}, []ValType{t}, depth)
		g.op(0x05)
		g.inside([]ValType{t}, []ValType{t}, depth)
		g.op(0x0b)
	case 5:
		g.value(t, depth+1)
		g.value(t, depth+1)
		g.value(I32, depth+1)
		if g.r.IntN(2) == 0 {
			g.op(0x1b)
		} else {
			g.op(0x1c, 1, t)
		}
	case 6:
		g.values([]ValType{t, valTypes[g.r.IntN(4)]}, depth+1)
		g.op(0x1a)
	default:
		g.arithmetic(t, depth)
	}
}

// leaf leaves a value of type t without computing.
func (g *maker) leaf(t ValType) {
	if g.r.IntN(2) == 0 {
		g.b = g.constant(g.b, t)
		return
	}
	var have []uint32
	for i, l := range g.locals {
		if l == t && uint32(i) != g.extra[t] { // which may hold what is no number in any form
			have = append(have, uint32(i))
		}
	}
	if len(have) == 0 {
		g.b = g.constant(g.b, t)
		return
	}
	g.opIndex(0x20, have[g.r.IntN(len(have))])
}

// arithmetic computes a value of type t.
func (g *maker) arithmetic(t ValType, depth int) {
	pick := func(from, to byte) byte { return from + byte(g.r.IntN(int(to-from)+1)) }
	unary := func(of ValType, ops ...byte) {
		g.value(of, depth+1)
		g.op(ops[g.r.IntN(len(ops))])
	}
	binary := func(of ValType, from, to byte) {
		g.value(of, depth+1)
		g.value(of, depth+1)
		g.op(pick(from, to))
	}
	k := g.r.IntN(8)
	switch {
	case t == I32 && k < 3:
		binary(I32, 0x6a, 0x78)
	case t == I32 && k == 3:
		unary(I32, 0x45, 0x67, 0x68, 0x69, 0xc0, 0xc1)
	case t == I32 && k == 4:
		of := valTypes[g.r.IntN(4)]
		from := map[ValType][2]byte{I32: {0x46, 0x4f}, I64: {0x51, 0x5a}, F32: {0x5b, 0x60}, F64: {0x61, 0x66}}[of]
		binary(of, from[0], from[1])
	case t == I32 && k == 5:
		g.value(F64, depth+1)
		g.op(0xfc, pick(2, 3))
	case t == I32 && k == 6:
		g.vector(depth)
	case t == I32:
		if g.r.IntN(3) == 0 {
			unary(F32, 0xa8, 0xa9, 0xbc)
		} else {
			g.op(0x3f, 0)
		}
	case t == I64 && k < 4:
		binary(I64, 0x7c, 0x8a)
	case t == I64 && k < 6:
		unary(I32, 0xac, 0xad)
	case t == I64:
		unary(I64, 0x79, 0x7a, 0x7b, 0xc2, 0xc3, 0xc4)
	case t == F32:
		if k < 4 {
			binary(F32, 0x92, 0x98)
		} else {
			unary(F32, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90, 0x91)
		}
	case k < 4:
		binary(F64, 0xa0, 0xa6)
	case k < 6:
		unary(F64, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f)
	default:
		unary(I64, 0xb9, 0xba, 0xbf)
	}
	g.canon(t)
}

// canon makes what is no number the one that is.
func (g *maker) canon(t ValType) {
	if t != F32 && t != F64 {
		return
	}
	x := g.extra[t]
	g.opIndex(0x21, x)
	if t == F32 {
		g.op(0x43, 0, 0, 0xc0, 0x7f)
	} else {
		g.op(0x44, 0, 0, 0, 0, 0, 0, 0xf8, 0x7f)
	}
	g.opIndex(0x20, x)
	g.opIndex(0x20, x)
	g.opIndex(0x20, x)
	g.op(map[ValType]byte{F32: 0x5c, F64: 0x62}[t], 0x1b)
}

// vector leaves an i32 that was computed four at a time.
func (g *maker) vector(depth int) {
	g.address(depth)
	g.op(0xfd, 0, 0, byte(g.r.IntN(32))) // v128.load
	g.op(0xfd, 12)
	for range 16 {
		g.op(byte(g.r.IntN(256)))
	}
	switch g.r.IntN(3) {
	case 0:
		g.op(0xfd, 0xae, 1) // i32x4.add
	case 1:
		g.op(0xfd, 13) // i8x16.shuffle
		for range 16 {
			g.op(byte(g.r.IntN(32)))
		}
	default:
		g.op(0xfd, 0x4e) // v128.and
	}
	g.op(0xfd, 27, byte(g.r.IntN(4))) // i32x4.extract_lane
}
