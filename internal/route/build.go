package route

import (
	"cmp"
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
	rt.round++
	c := rt.claimsOf(snap)
	t := &Table{models: make(map[string]*Route, len(rt.models)+len(c.aliases)), snap: snap, joined: c.joined}
	for name, m := range rt.models {
		if m.round == rt.round && name != "" {
			t.models[name] = rt.bind(name, m, c.wild)
		}
	}
	if t.own = rt.table.Load().own; !names(t.own, t.models) {
		t.own = slices.Sorted(maps.Keys(t.models))
	}
	if len(t.own) == 1 {
		t.sole = t.models[t.own[0]]
	}
	if c.wild != nil {
		t.wild = rt.bind("", c.wild, nil)
	}
	for alias, m := range c.aliases {
		t.models[alias] = t.models[m]
	}
	for alias, m := range rt.aliases {
		rt.noteShadow(alias, t.models[alias] != nil && t.models[alias] != t.models[m])
		switch {
		case t.models[alias] != nil: // a worker's own name comes first
		case t.models[m] != nil:
			t.models[alias] = t.models[m]
		case t.wild != nil:
			if mm := rt.models[m]; mm != nil && mm.round == rt.round { // another alias of it
				t.models[alias] = mm.route
			} else {
				t.models[alias] = rt.bind(m, rt.claimed(m), c.wild)
			}
		}
	}
	t.names = t.own
	if len(t.models) != len(t.own) {
		t.names = slices.Sorted(maps.Keys(t.models))
	}
	t.blind, t.takes = t.isBlind(), t.takesText()
	for name, m := range rt.models {
		if m.round != rt.round {
			m.metrics.forget()
			delete(rt.models, name)
		}
	}
	rt.told, rt.telling = rt.telling, nil
	return t
}

// names reports whether list has the keys of models, and no other.
func names(list []string, models map[string]*Route) bool {
	return len(list) == len(models) && !slices.ContainsFunc(list, func(n string) bool { return models[n] == nil })
}

// A model is what lives on from table to table.
type model struct {
	round int    // of the last table that has it
	now   claim  // in the table that is being built; its memory is used again
	was   claim  // in the route
	route *Route // of the present table; not written to; nil at first

	parts   [numPlaces]*part
	metrics *modelMetrics
}

// A claim is the workers that claim one model.
type claim struct {
	workers []*fleet.Worker            // ready or not
	first   [numPlaces]*fleet.Worker   // of those, by place
	ready   [numPlaces][]*fleet.Worker // of those, by place
	vetoed  bool                       // one that is ready is
}

func (c *claim) empty() {
	c.workers, c.first, c.vetoed = c.workers[:0], [numPlaces]*fleet.Worker{}, false
	for p := range c.ready {
		c.ready[p] = c.ready[p][:0]
	}
}

// add notes that w claims the model, once: claims of one worker come together.
func (c *claim) add(w *fleet.Worker, p place, ready, vetoed bool) {
	if n := len(c.workers); n > 0 && c.workers[n-1] == w {
		return
	}
	c.workers = append(c.workers, w)
	if c.first[p] == nil {
		c.first[p] = w
	}
	if ready {
		c.ready[p] = append(c.ready[p], w)
		c.vetoed = c.vetoed || vetoed
	}
}

// join adds those of o.
func (c *claim) join(o *claim) {
	c.workers = append(c.workers, o.workers...)
	for p := range c.ready {
		c.first[p] = cmp.Or(c.first[p], o.first[p])
		c.ready[p] = append(c.ready[p], o.ready[p]...)
	}
	c.vetoed = c.vetoed || o.vetoed
}

func (c *claim) equal(o *claim) bool {
	if !slices.Equal(c.workers, o.workers) || c.first != o.first {
		return false
	}
	for p := range c.ready {
		if !slices.Equal(c.ready[p], o.ready[p]) {
			return false
		}
	}
	return true
}

// clone returns a copy that shares no memory.
func (c *claim) clone() claim {
	o := *c
	o.workers = slices.Clone(c.workers)
	for p := range c.ready {
		o.ready[p] = slices.Clone(c.ready[p])
	}
	return o
}

// claims is what the workers of a snapshot say that they serve: the claims of the
// Router's models of this round, and this.
type claims struct {
	aliases map[string]string // models by their further names
	wild    *model            // of workers that name no model; nil without such
	joined  int
}

// claimsOf reads the claims. Requests that use an alias are for the model. A
// name that is also another worker's model, or that stands for several, is a
// model of its own: its workers are asked by that name. A worker that no backend
// speaks to claims nothing. rt.mu must be held.
func (rt *Router) claimsOf(snap *fleet.Snapshot) claims {
	c := claims{aliases: make(map[string]string)}
	several := make(map[string]bool)
	var last *model // most workers serve what their neighbours do
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
		info, vetoed := w.Info(), w.Vetoed()
		if info.Wildcard {
			if c.wild == nil {
				c.wild = rt.claimed("")
			}
			c.wild.now.add(w, p, ready, vetoed)
			continue
		}
		for i := range info.Models {
			m := &info.Models[i]
			if last == nil || m.ID != lastID {
				last, lastID = rt.claimed(m.ID), m.ID
			}
			last.now.add(w, p, ready, vetoed)
			for _, a := range m.Aliases {
				if was, ok := c.aliases[a]; ok && was != m.ID {
					several[a] = true
				}
				c.aliases[a] = m.ID
			}
		}
	}
	for a := range c.aliases {
		if m := rt.models[a]; m != nil && m.round == rt.round || several[a] {
			delete(c.aliases, a)
			several[a] = true
		}
	}
	if len(several) > 0 {
		rt.claimAliases(several, snap)
	}
	return c
}

// claimAliases adds the claims of workers on names that are aliases of theirs and
// models of others.
func (rt *Router) claimAliases(names map[string]bool, snap *fleet.Snapshot) {
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
					rt.claimed(a).now.add(w, p, ready[w], w.Vetoed())
				}
			}
		}
	}
}

// claimed returns the model of that name, for claims of this round.
func (rt *Router) claimed(name string) *model {
	m := rt.models[name]
	if m == nil {
		m = &model{metrics: rt.metrics.of(name)}
		rt.models[name] = m
	}
	if m.round != rt.round {
		m.round = rt.round
		m.now.empty()
	}
	return m
}

// bind returns the Route of a model for the claims of this round, and those of
// wild, which may be nil. rt.mu must be held.
func (rt *Router) bind(name string, m, wild *model) *Route {
	now := &m.now
	if wild != nil {
		now.join(&wild.now)
	}
	if m.route != nil && now.equal(&m.was) && !now.vetoed && !m.was.vetoed && rt.keepsPolicies(m) {
		return m.route
	}
	stayed := m.route != nil && slices.Equal(now.workers, m.was.workers)
	m.was = now.clone()
	r := &Route{Model: name, metrics: m.metrics, claimed: m.was.workers}
	if stayed {
		r.members = m.route.members
	} else {
		r.members = membersOf(r.claimed, m.route)
	}
	for f := range Family(numFamilies) {
		if w, ok := rt.way(m, f); ok {
			r.ways = append(r.ways, w)
			r.weight += w.weight
		}
	}
	for i := range r.ways {
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

// way returns how a family serves a model, or reports that none of its workers
// claims it.
func (rt *Router) way(m *model, f Family) (w way, claimed bool) {
	w = way{family: f, backend: rt.backends[f]}
	switch f {
	case HTTPPD:
		w.lead, w.prefill = rt.side(m, decode), rt.side(m, prefill)
		if n, p := len(w.lead.workers), len(w.prefill.workers); n > 0 && p > 0 {
			w.weight = n + p
		}
		return w, w.lead.part != nil || w.prefill.part != nil
	case External:
		w.lead = rt.side(m, provider)
	default:
		w.lead = rt.side(m, regular)
	}
	w.weight = len(w.lead.workers)
	return w, w.lead.part != nil
}

// side returns the workers of m at p with their picker: that of the present route
// if they are the same. Its part is nil if no worker is there, ready or not.
func (rt *Router) side(m *model, p place) *side {
	s := new(side)
	if m.was.first[p] == nil {
		m.parts[p] = nil
		return s
	}
	s.part = rt.part(m, p)
	offered, full := fleet.Offered(m.was.ready[p], policy.Minds(s.policy))
	if full || len(offered) < len(m.was.ready[p]) {
		m.was.vetoed = true // one may have been since claims were read: the next table must look again
	}
	if s.shed = full && rt.shed; s.shed || len(offered) == 0 {
		return s
	}
	s.workers = offered
	if policy.WantsMembers(s.policy) {
		s.members = rt.membersAt(m, p, offered)
	}
	switch {
	case full:
		s.worst = rt.metrics.Overload.With(p.label())
	case offered[0].Veto()&policy.Minds(s.policy) != 0: // then no other could be offered
		s.worst = rt.metrics.Liveness.With(p.label())
	}
	if m.route != nil {
		for i := range m.route.ways {
			for was := range m.route.ways[i].sides {
				if was.picker != nil && was.part == s.part && slices.Equal(was.workers, s.workers) && was.members.Equal(&s.members) {
					s.picker, s.learner = was.picker, was.learner
					return s
				}
			}
		}
	}
	s.picker = policy.Bind(s.policy, s.workers, s.members)
	s.learner, _ = s.picker.(policy.Learner)
	return s
}

// membersAt returns those of m at p, of whom some are offered.
func (rt *Router) membersAt(m *model, p place, offered []*fleet.Worker) policy.Members {
	ms := policy.Members{Ready: m.was.ready[p]}
	for _, w := range m.was.workers {
		if at, _ := rt.placeOf(w); at == p { // all that claim have one
			ms.All = append(ms.All, w)
		}
	}
	left := offered // in the order of Ready
	for _, w := range ms.Ready {
		if len(left) > 0 && left[0] == w {
			left = left[1:]
		} else if w.Veto()&^fleet.Overloaded == 0 {
			ms.Spared = append(ms.Spared, w)
		}
	}
	return ms
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

// labelPolicy is the label with which a model's first worker names its policy.
const labelPolicy = "policy"

// policyOf returns the name of m's policy at p: the one that the label of the
// first worker there has, or that of the settings.
func (rt *Router) policyOf(first *fleet.Worker, p place) string {
	name := rt.policies.of(p)
	label := first.Info().Labels[labelPolicy]
	if label == "" || label == name {
		return name
	}
	if err := rt.policies.check(p, label); err != nil {
		rt.refuse(first, p, label, name, err)
		return name
	}
	return label
}

// keepsPolicies reports whether m's policies are still the ones that its workers'
// labels name.
func (rt *Router) keepsPolicies(m *model) bool {
	same := true
	for p, first := range m.now.first {
		if first != nil && rt.policyOf(first, place(p)) != m.parts[p].name {
			same = false
		}
	}
	return same
}

// part returns what lives on of m at p, where a worker is.
func (rt *Router) part(m *model, p place) *part {
	name := rt.policyOf(m.was.first[p], p)
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
