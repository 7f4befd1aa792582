package blocks

import "math/bits"

// An Index does not keep every block of a chain: that would be most of what a long
// prompt costs. It keeps those at marks: the first 32, then every second up to 64,
// every fourth up to 128 and every eighth from there on, and all behind the last of
// these, so that a prompt which comes again is found whole. A block stands for
// those before it, so where two prompts part is known to within a sixteenth.
//
// Whether a chain has a mark at a depth below its last seven blocks does not depend
// on its length, and the mark before one never does. So a block has one parent.
const (
	everyBlock = 32 // up to this depth
	maxGrain   = 3  // as a power of two
)

// grain returns, as a power of two, at how many blocks' distance marks are at that
// depth: behind so many blocks, at least 1.
func grain(depth int32) int { return min(bits.Len32(uint32(depth-1)/everyBlock), maxGrain) }

// before returns the depth of the mark before the one at depth, 0 for none.
func before(depth int32) int32 {
	if step := int32(1) << grain(depth); depth&(step-1) == 0 {
		return depth - step
	}
	return depth - 1
}

// weight returns how many blocks of a cache the mark at depth stands for. Those
// that only chains of some lengths have stand for none: a chain that goes on has
// one behind them that stands for the same.
func weight(depth int32) int64 {
	if step := int32(1) << grain(depth); depth&(step-1) == 0 {
		return int64(step)
	}
	return 0
}

// marks are those of a chain of one length.
type marks struct {
	n       int32 // how many
	regular int32 // of those, the first, which longer chains have too
	last    int32 // the depth of the last of these
}

func marksOf(length int) marks {
	depth := int32(length)
	if depth == 0 {
		return marks{}
	}
	g := grain(depth)
	last := depth &^ (1<<g - 1)
	// Each finer grain has everyBlock/2 marks, but for the finest, which has twice
	// as many.
	regular := last
	if g > 0 {
		begin := int32(everyBlock) << (g - 1)
		regular = everyBlock + int32(g-1)*everyBlock/2 + (last-begin)>>g
	}
	return marks{n: regular + depth - last, regular: regular, last: last}
}

// depth returns how many blocks the first n marks reach to.
func (m marks) depth(n int32) int32 {
	switch {
	case n <= everyBlock:
		return n
	case n > m.regular:
		return m.last + n - m.regular
	}
	g := min((n-everyBlock-1)/(everyBlock/2)+1, maxGrain)
	return everyBlock<<(g-1) + (n-everyBlock-(g-1)*everyBlock/2)<<g
}
