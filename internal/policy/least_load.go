package policy

import "sluice/internal/fleet"

// leastLoad takes the worker that has the fewest of this gateway's requests.
// Among equals the first after a random place wins, so that an idle fleet is
// used evenly.
//
// It looks at every worker up to scanAll; of a larger fleet it looks at
// sampled ones, because reading thousands of counters that other cores write
// costs more than the better choice is worth.
type leastLoad struct{ dice dice }

const (
	scanAll = 64
	sampled = 8
)

func (p leastLoad) Bind(ws []*fleet.Worker) Picker {
	if len(ws) <= scanAll {
		return pickFunc(func() *fleet.Worker { return leastOf(ws, p.dice.below(len(ws))) })
	}
	return pickFunc(func() *fleet.Worker {
		best := ws[p.dice.below(len(ws))]
		load := best.InFlight()
		for range sampled - 1 {
			w := ws[p.dice.below(len(ws))]
			if n := w.InFlight(); n < load {
				best, load = w, n
			}
		}
		return best
	})
}

// leastOf returns the least busy of ws, the first such from index start on.
func leastOf(ws []*fleet.Worker, start int) *fleet.Worker {
	best := ws[start]
	load := best.InFlight()
	for i := start + 1; i < len(ws) && load > 0; i++ {
		if n := ws[i].InFlight(); n < load {
			best, load = ws[i], n
		}
	}
	for i := 0; i < start && load > 0; i++ {
		if n := ws[i].InFlight(); n < load {
			best, load = ws[i], n
		}
	}
	return best
}
