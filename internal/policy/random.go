package policy

import (
	"sluice/internal/fleet"
	"sluice/internal/infer"
)

// random gives every worker the same chance.
type random struct{ dice dice }

func (p random) Bind(ws []*fleet.Worker) Picker { return randomPicker{ws, p.dice} }

type randomPicker struct {
	ws   []*fleet.Worker
	dice dice
}

// Pick implements Picker.
func (p randomPicker) Pick(_ *infer.Request, c *Choice) *fleet.Worker {
	c.Why, c.Considered = "random", 1
	return p.ws[p.dice.below(len(p.ws))]
}
