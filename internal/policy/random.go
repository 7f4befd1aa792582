package policy

import "sluice/internal/fleet"

// random gives every worker the same chance.
type random struct{ dice dice }

func (p random) Bind(ws []*fleet.Worker) Picker {
	return pickFunc(func() *fleet.Worker { return ws[p.dice.below(len(ws))] })
}
