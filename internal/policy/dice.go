package policy

import (
	"math"
	"math/rand/v2"
)

// dice draws random numbers. The zero dice has the runtime's, which no two cores
// share; others are Settings.Rand's.
type dice struct{ next func() uint32 }

// dice returns what the policies that s makes draw with.
func (s *Settings) dice() dice { return dice{s.Rand} }

// below returns a random number in [0, n). It scales 32 random bits instead of
// dividing; the bias for n is n/2³², which nobody can see.
func (d dice) below(n int) int { return int(uint64(d.uint32()) * uint64(n) >> 32) }

// step returns a place among n, and by how much to go on from it to others, which
// is not 0 if n is above 1: as good as drawing each (Mitzenmacher, "Balanced
// Allocations and Double Hashing", 2014).
func (d dice) step(n int) (start, step int) {
	if d.next != nil {
		return d.below(n), 1 + d.below(max(n-1, 1))
	}
	x := rand.Uint64()
	return int(x >> 32 * uint64(n) >> 32), 1 + int(x&math.MaxUint32*uint64(max(n-1, 1))>>32)
}

// onward returns i+step, or what remains of it after n. It has no branch, which
// the processor would guess wrong every other time.
func onward(i, step, n int) int {
	i += step - n
	return i + n&(i>>63)
}

func (d dice) uint32() uint32 {
	if d.next == nil {
		return rand.Uint32()
	}
	return d.next()
}
