package policy

import "math/rand/v2"

// dice draws random numbers. The zero dice has the runtime's, which no two cores
// share; others are Settings.Rand's.
type dice struct{ next func() uint32 }

// dice returns what the policies that s makes draw with.
func (s *Settings) dice() dice { return dice{s.Rand} }

// below returns a random number in [0, n). It scales 32 random bits instead of
// dividing; the bias for n is n/2³², which nobody can see.
func (d dice) below(n int) int { return int(uint64(d.uint32()) * uint64(n) >> 32) }

func (d dice) uint32() uint32 {
	if d.next == nil {
		return rand.Uint32()
	}
	return d.next()
}
