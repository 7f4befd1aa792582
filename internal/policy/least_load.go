package policy

import (
	"fmt"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

// leastLoad takes the worker with the shortest expected wait, as they report it.
// Among equals the first after a random place wins, so that an idle fleet is
// used evenly.
//
// It looks at every worker up to scanAll; of a larger fleet it looks at
// sampled ones, because reading the counters of all, which other cores write,
// costs more than the better choice is worth.
type leastLoad struct {
	waits
	dice    dice
	refusal string // when all are full
}

const (
	scanAll = 8
	sampled = 4
)

func newLeastLoad(s *Settings) *leastLoad {
	return &leastLoad{newWaits(s.LeastLoad), s.dice(), fmt.Sprintf(
		"Each of the model's workers has %d requests waiting or more, the limit that --least-load-max-waiting-requests sets.", s.LeastLoad.MaxWaiting)}
}

func (p *leastLoad) Bind(ws []*fleet.Worker) Picker { return &leastLoadPicker{p, crewOf(ws)} }

type leastLoadPicker struct {
	*leastLoad
	ws crew
}

// Pick implements Picker.
func (p *leastLoadPicker) Pick(r *infer.Request, c *Choice) *fleet.Worker {
	n := len(p.ws.workers)
	if n > scanAll {
		c.Considered = sampled
		start, step := p.dice.step(n)
		if w := p.shortest(p.ws, start, step, sampled, r.Received, c); w != nil {
			return w
		}
		// All of them are full; another may not be.
	}
	c.Considered = n
	w := p.shortest(p.ws, p.dice.below(n), 1, n, r.Received, c)
	if w == nil {
		*c = Choice{Why: "full", Considered: n, Refused: p.refusal, Keys: c.Keys}
	}
	return w
}
