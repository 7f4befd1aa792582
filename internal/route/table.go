package route

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/policy"
)

// A Table says who serves which model. It is not written to after it is
// published.
type Table struct {
	Epoch  uint64
	models map[string]*Route // by every name a client may use
	wild   *Route            // for names that no worker claims; nil if every worker claims its own
	own    []string          // what workers call their models, sorted
	names  []string          // every name in models, sorted
	joined int               // workers whose models are known
	blind  bool              // every request has the same Route, and is sent there as it is

	workers []*fleet.Worker // ready or not
}

// A Route is how one model is served.
type Route struct {
	Model   string // as workers know it; "" for the route of unclaimed names
	Backend Backend
	Policy  policy.Policy
	Lead    policy.Picker   // nil if Workers is empty
	Workers []*fleet.Worker // those that Lead picks among

	metrics *modelMetrics
	members map[*fleet.Worker]*member // of Workers, each
	learner policy.Learner            // Lead, if it is one
}

// next returns the worker for the next attempt, or nil if there is none left,
// and notes in c why it is that one.
// The first is the policy's choice. A worker that was asked for r is not asked
// again: a policy that hashes would choose it forever, so a retry goes to the
// least busy of the others, whatever the policy.
func (rt *Route) next(r *infer.Request, tried []*fleet.Worker, c *policy.Choice) *fleet.Worker {
	if len(tried) == 0 {
		if rt.Lead == nil {
			return nil
		}
		c.Reset()
		return rt.Lead.Pick(r, c)
	}
	var best *fleet.Worker
	for _, w := range rt.Workers {
		if !slices.Contains(tried, w) && (best == nil || w.InFlight() < best.InFlight()) {
			best = w
		}
	}
	c.Took()
	return best
}

// Models returns the names that requests may use, sorted: those of the workers'
// models, and aliases of theirs.
func (t *Table) Models() []string { return t.names }

// Find returns the route for r's model, or an *infer.Error that says why there
// is none.
func (t *Table) Find(r *infer.Request) (*Route, error) {
	if r.Left() && !t.blind {
		return nil, errChanged
	}
	if r.Model == "" {
		return t.unnamed()
	}
	if rt := t.models[r.Model]; rt != nil {
		return rt, nil
	}
	if t.wild != nil {
		return t.wild, nil
	}
	if t.joined == 0 {
		return nil, t.nobody()
	}
	return nil, &infer.Error{
		Status: http.StatusNotFound, Code: "model_not_found",
		Msg: fmt.Sprintf("No worker available for model '%s'", cut(r.Model)),
	}
}

// unnamed returns the route for a request that names no model, which only
// SGLang's own endpoints may do: the fleet's one model.
func (t *Table) unnamed() (*Route, error) {
	switch {
	case len(t.own) == 1:
		return t.models[t.own[0]], nil
	case len(t.own) == 0 && t.wild != nil:
		return t.wild, nil
	case len(t.own) == 0:
		return nil, t.nobody()
	}
	shown := t.own[:min(len(t.own), 10)]
	return nil, &infer.Error{
		Status: http.StatusBadRequest, Code: "missing_model", Param: "model",
		Msg: "The request names no model and the fleet serves several: " + strings.Join(shown, ", ") + ".",
	}
}

// Blind reports whether requests can be routed without a look into their
// bodies: whatever model is named, the Route is the same, the name is not
// replaced, and the policy does not ask what the prompt is.
func (t *Table) Blind() bool { return t.blind }

// isBlind works out Blind.
func (t *Table) isBlind() bool {
	switch {
	case t.wild != nil && len(t.models) == 0:
		return !policy.NeedsText(t.wild.Policy)
	case t.wild == nil && len(t.models) == 1 && len(t.own) == 1:
		return !policy.NeedsText(t.models[t.own[0]].Policy)
	}
	return false
}

// nobody is the error of a fleet that serves nothing yet.
func (t *Table) nobody() error {
	if len(t.workers) == 0 {
		return &infer.Error{Status: http.StatusServiceUnavailable, Code: "no_workers", Msg: "No workers are registered.", RetryAfter: retryLater}
	}
	return &infer.Error{Status: http.StatusServiceUnavailable, Code: "no_available_workers", Msg: "No worker has answered yet.", RetryAfter: retryLater}
}

// errChanged is the error of a request whose body nobody has looked into,
// because that was not needed a moment ago.
var errChanged = &infer.Error{
	Status: http.StatusServiceUnavailable, Code: "no_available_workers",
	Msg: "The workers changed while the request came.", RetryAfter: retryLater,
}

// retryLater is how soon a client should ask again when no worker takes
// requests: about what a worker needs to be seen again.
const retryLater = 2 * time.Second

// cut shortens a client's model name for an error message.
func cut(s string) string {
	if len(s) > 128 {
		return strings.ToValidUTF8(s[:128], "") + "…"
	}
	return s
}

// build binds what snap holds into a Table. It runs off the request path,
// whenever the fleet has changed. rt.mu must be held.
func (rt *Router) build(snap *fleet.Snapshot) *Table {
	t := &Table{Epoch: snap.Epoch, models: make(map[string]*Route), workers: snap.All}
	c := claimsOf(snap)
	t.joined = c.joined
	old := rt.models
	rt.models = make(map[string]*model, len(c.workers)+1)
	for m, ws := range c.workers {
		t.models[m] = rt.bind(old, m, append(slices.Clip(ws), c.wild...))
	}
	t.own = slices.Sorted(maps.Keys(t.models))
	if c.anyWild {
		t.wild = rt.bind(old, "", c.wild)
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
			t.models[alias] = rt.bind(old, m, c.wild)
		}
	}
	t.names = slices.Sorted(maps.Keys(t.models))
	t.blind = t.isBlind()
	for name, m := range old {
		if rt.models[name] == nil {
			m.metrics.forget()
		}
	}
	return t
}

// claims is what the workers of a snapshot say that they serve.
type claims struct {
	workers map[string][]*fleet.Worker // those that are ready, by model; a model is here even if none is
	aliases map[string]string          // models by their further names
	wild    []*fleet.Worker            // ready, and name no model
	anyWild bool
	joined  int
}

// claimsOf reads the claims. Requests that use an alias are for the model. A
// name that is also another worker's model, or that stands for several, is a
// model of its own: its workers are asked by that name.
func claimsOf(snap *fleet.Snapshot) claims {
	c := claims{workers: make(map[string][]*fleet.Worker), aliases: make(map[string]string)}
	ready := make(map[*fleet.Worker]bool, len(snap.Ready))
	for _, w := range snap.Ready {
		ready[w] = true
	}
	several := make(map[string]bool)
	for _, w := range snap.All {
		if !w.Joined() {
			continue
		}
		c.joined++
		info := w.Info()
		if info.Wildcard {
			c.anyWild = true
			if ready[w] {
				c.wild = append(c.wild, w)
			}
			continue
		}
		for _, m := range info.Models {
			c.claim(m.ID, w, ready[w])
			for _, a := range m.Aliases {
				if was, ok := c.aliases[a]; ok && was != m.ID {
					several[a] = true
				}
				c.aliases[a] = m.ID
			}
		}
	}
	for a := range c.aliases {
		if _, isModel := c.workers[a]; isModel || several[a] {
			delete(c.aliases, a)
			several[a] = true
		}
	}
	if len(several) == 0 {
		return c
	}
	for _, w := range snap.All {
		for _, m := range w.Info().Models {
			for _, a := range m.Aliases {
				if several[a] && w.Joined() {
					c.claim(a, w, ready[w])
				}
			}
		}
	}
	return c
}

// claim notes that w serves model, once: claims of one worker come together.
func (c *claims) claim(model string, w *fleet.Worker, ready bool) {
	ws := c.workers[model]
	if ready && (len(ws) == 0 || ws[len(ws)-1] != w) {
		ws = append(ws, w)
	}
	c.workers[model] = ws
}

// A model is what lives on from table to table: what its policy has learned,
// and what was counted.
type model struct {
	policy  policy.Policy
	metrics *modelMetrics
	members map[*fleet.Worker]*member // of the present table; not written to
}

// bind makes the Route for a model. rt.mu must be held.
func (rt *Router) bind(old map[string]*model, name string, ws []*fleet.Worker) *Route {
	m := rt.models[name]
	if m == nil {
		if m = old[name]; m == nil {
			m = &model{policy: rt.newPolicy(), metrics: rt.metrics.of(name)}
		}
		rt.models[name] = m
	}
	m.members = membersOf(ws, m.members)
	r := &Route{Model: name, Backend: rt.backend, Policy: m.policy, Workers: ws, metrics: m.metrics, members: m.members}
	if len(ws) > 0 {
		r.Lead = m.policy.Bind(ws)
		r.learner, _ = r.Lead.(policy.Learner)
	}
	return r
}

// membersOf returns the members for ws, those of old that are still there.
func membersOf(ws []*fleet.Worker, old map[*fleet.Worker]*member) map[*fleet.Worker]*member {
	stayed := 0
	for _, w := range ws {
		if old[w] != nil {
			stayed++
		}
	}
	if stayed == len(ws) && stayed == len(old) {
		return old
	}
	ms := make(map[*fleet.Worker]*member, len(ws))
	for _, w := range ws {
		m := old[w]
		if m == nil {
			m = new(member)
		}
		ms[w] = m
	}
	return ms
}
