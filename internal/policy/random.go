package policy

import (
	"math/rand/v2"

	"sluice/internal/fleet"
)

// random gives every worker the same chance.
type random struct{}

func (random) Bind(ws []*fleet.Worker) Picker {
	return pickFunc(func() *fleet.Worker { return ws[below(len(ws))] })
}

// below returns a random number in [0, n). It scales 32 random bits instead of
// dividing; the bias for n workers is n/2³², which nobody can see.
func below(n int) int { return int(uint64(rand.Uint32()) * uint64(n) >> 32) }
