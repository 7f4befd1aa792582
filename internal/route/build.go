package route

import (
	"maps"
	"slices"
	"sync/atomic"

	"sluice/internal/fleet"
	"sluice/internal/kit/metric"
	"sluice/internal/policy"
)

// build binds what snap holds into a Table. It runs off the request path. What
// has not changed is taken from the present table. rt.mu must be held.
func (rt *Router) build(snap *fleet.Snapshot) *Table {
	t := &Table{Epoch: snap.Epoch, models: make(map[string]*Route, len(rt.models)), workers: snap.All}
	c := rt.claimsOf(snap)
	t.joined = c.joined
	old := rt.models
	rt.models = make(map[string]*model, len(c.models)+1)
	for m, own := range c.models {
		t.models[m] = rt.bind(old, m, own, &c.wild)
		t.own = append(t.own, m)
	}
	slices.Sort(t.own)
	if len(c.wild.workers) > 0 {
		t.wild = rt.bind(old, "", &c.wild, nil)
	}
	for alias, m := range c.aliases {
		t.models[alias] = t.models[m]
	}
	for alias, m := range rt.aliases {
		switch {
		case t.models[alias] != nil: // a worker's own name comes first
		case t.models[m] != nil:
			t.models[alias] = t.models[m]
		case t.wild != nil:
			t.models[alias] = rt.bind(old, m, &c.wild, nil)
		}
	}
	t.names = t.own
	if len(t.models) != len(t.own) {
		t.names = slices.Sorted(maps.Keys(t.models))
	}
	t.blind = t.isBlind()
	for name, m := range old {
		if rt.models[name] == nil {
			m.metrics.forget()
		}
	}
	rt.told, rt.telling = rt.telling, nil
	return t
}

// claims is what the workers of a snapshot say that they serve.
type claims struct {
	models  map[string]*claim // by what workers call them; a model is here even if nobody is ready
	aliases map[string]string // models by their further names
	wild    claim             // of workers that name no model
	joined  int
}

// A claim is the workers that claim one model.
type claim struct {
	workers []*fleet.Worker            // ready or not
	first   [numPlaces]*fleet.Worker   // of those, by place
	ready   [numPlaces][]*fleet.Worker // of those, by place
}

// add notes that w claims the model, once: claims of one worker come together.
func (c *claim) add(w *fleet.Worker, p place, ready bool) {
	if n := len(c.workers); n > 0 && c.workers[n-1] == w {
		return
	}
	c.workers = append(c.workers, w)
	if c.first[p] == nil {
		c.first[p] = w
	}
	if ready {
		c.ready[p] = append(c.ready[p], w)
	}
}

// claimsOf reads the claims. Requests that use an alias are for the model. A
// name that is also another worker's model, or that stands for several, is a
// model of its own: its workers are asked by that name. A worker that no backend
// speaks to claims nothing.
func (rt *Router) claimsOf(snap *fleet.Snapshot) claims {
	c := claims{models: make(map[string]*claim, len(rt.models)), aliases: make(map[string]string)}
	several := make(map[string]bool)
	var last *claim // most workers serve what their neighbours do
	lastID := ""
	next := 0 // in Ready, which has the order of All
	for _, w := range snap.All {
		ready := next < len(snap.Ready) && snap.Ready[next] == w
		if ready {
			next++
		}
		p, ok := rt.placeOf(w)
		if !w.Joined() || !ok || rt.backends[p.family()] == nil {
			continue
		}
		c.joined++
		info := w.Info()
		if info.Wildcard {
			c.wild.add(w, p, ready)
			continue
		}
		for i := range info.Models {
			m := &info.Models[i]
			if last == nil || m.ID != lastID {
				last, lastID = c.of(m.ID), m.ID
			}
			last.add(w, p, ready)
			for _, a := range m.Aliases {
				if was, ok := c.aliases[a]; ok && was != m.ID {
					several[a] = true
				}
				c.aliases[a] = m.ID
			}
		}
	}
	for a := range c.aliases {
		if c.models[a] != nil || several[a] {
			delete(c.aliases, a)
			several[a] = true
		}
	}
	if len(several) > 0 {
		rt.claimAliases(&c, several, snap)
	}
	return c
}

// claimAliases adds the claims of workers on names that are aliases of theirs and
// models of others.
func (rt *Router) claimAliases(c *claims, names map[string]bool, snap *fleet.Snapshot) {
	ready := make(map[*fleet.Worker]bool, len(snap.Ready))
	for _, w := range snap.Ready {
		ready[w] = true
	}
	for _, w := range snap.All {
		p, ok := rt.placeOf(w)
		if !w.Joined() || !ok || rt.backends[p.family()] == nil {
			continue
		}
		models := w.Info().Models
		for _, m := range models {
			for _, a := range m.Aliases {
				if names[a] && !slices.ContainsFunc(models, func(o fleet.ModelCard) bool { return o.ID == a }) {
					c.of(a).add(w, p, ready[w])
				}
			}
		}
	}
}

func (c *claims) of(model string) *claim {
	m := c.models[model]
	if m == nil {
		m = new(claim)
		c.models[model] = m
	}
	return m
}

// A model is what lives on from table to table.
type model struct {
	route   *Route // of the present table; not written to
	parts   [numPlaces]*part
	metrics *modelMetrics
}

// A part is what lives on of a side: what its policy has learned, and what was
// counted.
type part struct {
	place  place
	name   string // of the policy
	policy policy.Policy

	selections atomic.Pointer[metric.Counter]
	decisions  *metric.Histogram
}

// A member is a worker of a model, with what is counted of it there. It lives on
// while the worker claims the model.
type member struct {
	worker   *fleet.Worker
	requests atomic.Uint64
	_        [48]byte // it is written to by every request: nothing else lies beside it
}

// bind makes the Route for a model that own and others claim; others may be nil.
// rt.mu must be held.
func (rt *Router) bind(old map[string]*model, name string, own, others *claim) *Route {
	if others == nil {
		others = new(claim)
	}
	m := rt.models[name]
	if m == nil {
		if m = old[name]; m == nil {
			m = &model{metrics: rt.metrics.of(name)}
		}
		rt.models[name] = m
	}
	r := &Route{Model: name, metrics: m.metrics, claimed: joined(own.workers, others.workers)}
	changed := m.route == nil || !slices.Equal(m.route.claimed, r.claimed)
	if changed {
		r.members = membersOf(r.claimed, m.route)
	} else {
		r.claimed, r.members = m.route.claimed, m.route.members
	}
	for f := range Family(numFamilies) {
		w := way{family: f, backend: rt.backends[f]}
		var got bool
		switch f {
		case HTTPPD:
			var prefills bool
			w.prefill, prefills = rt.side(m, prefill, own, others)
			w.lead, got = rt.side(m, decode, own, others)
			got = got || prefills
		case External:
			w.lead, got = rt.side(m, provider, own, others)
		default:
			w.lead, got = rt.side(m, regular, own, others)
		}
		if !got {
			continue
		}
		if n := len(w.lead.workers); w.prefill == nil {
			w.weight = n
		} else if p := len(w.prefill.workers); n > 0 && p > 0 {
			w.weight = n + p
		}
		r.ways = append(r.ways, w)
		r.weight += w.weight
	}
	if !changed && m.route.same(r) {
		return m.route
	}
	for i := range r.ways {
		for s := range r.ways[i].sides {
			rt.choose(s, m.route)
		}
		if w := &r.ways[i]; w.weight > 0 && w.weight == r.weight {
			r.only = w
		}
	}
	if r.weight == 0 {
		r.only = &r.ways[0]
	}
	m.route = r
	return r
}

// joined returns the workers of both, without copying what is there already.
func joined(a, b []*fleet.Worker) []*fleet.Worker {
	switch {
	case len(b) == 0:
		return a
	case len(a) == 0:
		return b
	}
	return append(slices.Clip(a), b...)
}

// side returns the side of m at p, without a picker, and whether any worker is
// there, ready or not.
func (rt *Router) side(m *model, p place, own, others *claim) (s *side, claimed bool) {
	first := own.first[p]
	if first == nil {
		first = others.first[p]
	}
	s = new(side)
	if first == nil {
		m.parts[p] = nil
	} else {
		s.part = rt.part(m, p, first)
	}
	offered, full := fleet.Offered(joined(own.ready[p], others.ready[p]))
	if s.shed = full && rt.shed; !s.shed {
		s.workers = offered
	}
	return s, first != nil
}

// same reports whether r would serve as o does.
func (r *Route) same(o *Route) bool {
	if len(r.ways) != len(o.ways) {
		return false
	}
	for i := range r.ways {
		a, b := &r.ways[i], &o.ways[i]
		if a.family != b.family || !a.lead.same(b.lead) || a.prefill != nil && !a.prefill.same(b.prefill) {
			return false
		}
	}
	return true
}

func (s *side) same(o *side) bool {
	return s.part == o.part && s.shed == o.shed && slices.Equal(s.workers, o.workers)
}

// choose gives s its picker: that of old if the workers are the same.
func (rt *Router) choose(s *side, old *Route) {
	if len(s.workers) == 0 {
		return
	}
	if old != nil {
		for i := range old.ways {
			for was := range old.ways[i].sides {
				if was.picker != nil && was.same(s) {
					*s = *was
					return
				}
			}
		}
	}
	s.picker = s.policy.Bind(s.workers)
	s.learner, _ = s.picker.(policy.Learner)
}

// labelPolicy is the label with which a model's first worker names its policy.
const labelPolicy = "policy"

// part returns what lives on of m at p, whose policy is the one that first's
// label names, or that of the settings.
func (rt *Router) part(m *model, p place, first *fleet.Worker) *part {
	name := rt.policies.of(p)
	if first != nil {
		if l := first.Info().Labels[labelPolicy]; l != "" && l != name {
			if err := rt.policies.check(p, l); err != nil {
				rt.refuse(first, p, l, name, err)
			} else {
				name = l
			}
		}
	}
	if was := m.parts[p]; was != nil && was.name == name {
		return was
	}
	made, err := rt.policies.New(name)
	if err != nil {
		panic("BUG: unchecked policy: " + err.Error())
	}
	m.parts[p] = &part{place: p, name: name, policy: made, decisions: rt.metrics.Decisions.With(name)}
	return m.parts[p]
}

// membersOf returns the members for ws by Slot, those of old that are still
// there.
func membersOf(ws []*fleet.Worker, old *Route) []*member {
	n := 0
	for _, w := range ws {
		n = max(n, w.Slot()+1)
	}
	ms := make([]*member, n)
	for _, w := range ws {
		if old != nil && w.Slot() < len(old.members) {
			if m := old.members[w.Slot()]; m != nil && m.worker == w {
				ms[w.Slot()] = m
				continue
			}
		}
		ms[w.Slot()] = &member{worker: w}
	}
	return ms
}
