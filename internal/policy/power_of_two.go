package policy

import "sluice/internal/fleet"

// powerOfTwo asks two different workers, chosen at random, and takes the less
// busy one (Mitzenmacher, "The Power of Two Choices in Randomized Load
// Balancing", 2001).
type powerOfTwo struct{ dice dice }

func (p powerOfTwo) Bind(ws []*fleet.Worker) Picker {
	if len(ws) == 1 {
		return pickFunc(func() *fleet.Worker { return ws[0] })
	}
	return pickFunc(func() *fleet.Worker {
		i, j := p.dice.below(len(ws)), p.dice.below(len(ws)-1)
		if j >= i {
			j++
		}
		a, b := ws[i], ws[j]
		if b.InFlight() < a.InFlight() {
			return b
		}
		return a
	})
}
