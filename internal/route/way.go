package route

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/metric"
	"sluice/internal/policy"
)

// A Family is a way of serving requests, by the kind of workers that it takes.
type Family uint8

// The families that there are.
const (
	HTTPRegular Family = iota // a worker serves a request from end to end
	HTTPPD                    // one worker computes the prompt, another answers
	External                  // a provider serves it
	numFamilies = iota
)

// String is the family's name in receipts.
func (f Family) String() string { return [...]string{"http-regular", "http-pd", "external"}[f] }

// label is the backend_type of the contract's metrics.
func (f Family) label() string { return [...]string{"regular", "pd", "external"}[f] }

// A place is what a worker does for its family.
type place uint8

const (
	regular place = iota
	prefill
	decode
	provider
	numPlaces = iota
)

// family returns whose place p is.
func (p place) family() Family { return [...]Family{HTTPRegular, HTTPPD, HTTPPD, External}[p] }

// label is the worker_type of the contract's metrics.
func (p place) label() string { return [...]string{"regular", "prefill", "decode", "external"}[p] }

// placeOf returns the place that w has. One that encodes has none: nobody
// speaks to it.
func placeOf(w *fleet.Worker) (p place, ok bool) {
	i := w.Info()
	switch {
	case i.Runtime == "external":
		return provider, true
	case i.Role == fleet.Regular:
		return regular, true
	case i.Role == fleet.Prefill:
		return prefill, true
	case i.Role == fleet.Decode:
		return decode, true
	}
	return 0, false
}

// A way is how one family serves a model.
type way struct {
	family  Family
	backend Backend
	weight  int   // of its workers that may be chosen; 0 if it cannot serve now
	lead    *side // who answers
	prefill *side // of HTTPPD, else nil
}

// sides calls yield with each of w's.
func (w *way) sides(yield func(*side) bool) {
	if yield(w.lead) && w.prefill != nil {
		yield(w.prefill)
	}
}

// shed reports whether w serves nothing because its workers have enough to do.
func (w *way) shed() bool { return w.lead.shed || w.prefill != nil && w.prefill.shed }

// A side is the workers of a way that do the same.
type side struct {
	*part
	workers []*fleet.Worker // that may be chosen
	members policy.Members  // empty if the policy does not want to know
	picker  policy.Picker   // nil if workers is empty
	learner policy.Learner  // picker, if it is one
	shed    bool            // all that are ready are overloaded, and are not to be given more
	worst   *metric.Counter // of attempts that are sent there because no worker is well; nil if one is
}

// draw returns the way that serves r. Where several can, chance decides by how
// many workers they have, so that a fleet can move from one to another worker by
// worker; a client may prefer that prompts are computed apart.
func (rt *Route) draw(r *infer.Request) *way {
	if rt.only != nil {
		return rt.only
	}
	if prefersPD(r) {
		for i := range rt.ways {
			if w := &rt.ways[i]; w.family == HTTPPD && w.weight > 0 {
				return w
			}
		}
	}
	n := rand.IntN(rt.weight)
	for i := range rt.ways {
		if n -= rt.ways[i].weight; n < 0 {
			return &rt.ways[i]
		}
	}
	panic("BUG: the weights of a route's ways do not make its weight")
}

// headerPreferPD is how a client asks for HTTPPD.
const headerPreferPD = "x-prefer-pd"

func prefersPD(r *infer.Request) bool {
	v := r.Header.Get(headerPreferPD)
	return len(v) == 1 && v[0] == '1' || bytes.EqualFold(v, []byte("true"))
}

// pick notes in t the team for the next attempt at r and why it is that one. It
// returns the way that the team goes: w, or another one if w has nobody left;
// nil if nobody is.
func (rt *Route) pick(t *trip, w *way, r *infer.Request, tried []*fleet.Worker, now time.Time) *way {
	if w.pick(t, r, tried, now) {
		return w
	}
	if len(tried) == 0 {
		return nil
	}
	for i := range rt.ways {
		if other := &rt.ways[i]; other.family != w.family && other.pick(t, r, tried, now) {
			return other
		}
	}
	return nil
}

// pick notes in t the team for the next attempt at r, or reports that there is
// none.
func (w *way) pick(t *trip, r *infer.Request, tried []*fleet.Worker, now time.Time) bool {
	lead := w.lead.next(r, tried, now, &t.lead.choice)
	if w.prefill == nil {
		t.team = fleet.Team{Lead: lead}
		return lead != nil
	}
	if t.prefill == nil {
		t.prefill = new(leg)
	}
	p := w.prefill.next(r, tried, now, &t.prefill.choice)
	switch {
	case len(tried) == 0:
	case p == nil && lead != nil: // which of the two failed is not known: one new one makes another team
		p = w.prefill.next(r, nil, now, &t.prefill.choice)
	case lead == nil && p != nil:
		lead = w.lead.next(r, nil, now, &t.lead.choice)
	}
	t.team = fleet.Team{Lead: lead, Prefill: p}
	return lead != nil && p != nil
}

// How many workers are compared for another attempt: all of a small fleet, so
// many of those of a large one that are there and not known to refuse.
const (
	compareAll = 64
	compared   = 16
)

// next returns the worker for the next attempt, or nil if there is none left,
// and notes in c why it is that one.
// The first is the policy's choice. A worker that was asked for r is not asked
// again: a policy that hashes would choose it forever, so a retry goes to the
// least busy of the others, whatever the policy; to none of them if the client
// wants that worker only.
func (s *side) next(r *infer.Request, tried []*fleet.Worker, now time.Time, c *policy.Choice) *fleet.Worker {
	if len(tried) == 0 {
		c.Reset()
		if s.picker == nil {
			return nil
		}
		return s.picker.Pick(r, c)
	}
	if c.Alone {
		return nil
	}
	c.Took()
	n := len(s.workers)
	if n == 0 {
		return nil
	}
	first, enough := 0, n
	if n > compareAll {
		first, enough = rand.IntN(n), compared
	}
	var best *fleet.Worker
	seen := 0
	for i := range n {
		w := s.workers[(first+i)%n]
		if slices.Contains(tried, w) || !w.Available(now) {
			continue
		}
		if seen++; best == nil || w.InFlight() < best.InFlight() {
			best = w
		}
		if seen == enough {
			break
		}
	}
	c.Considered = seen
	return best
}
