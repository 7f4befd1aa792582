package route

import (
	"fmt"
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
	names  []string          // what workers claim, sorted; without aliases
	size   int               // workers, ready or not
	joined int               // of them, those whose models are known
}

// A Route is how one model is served.
type Route struct {
	Model   string // as workers know it; "" for the route of unclaimed names
	Backend Backend
	Policy  policy.Policy
	Lead    policy.Picker   // nil if Workers is empty
	Workers []*fleet.Worker // those that Lead picks among

	metrics *modelMetrics
}

// next returns the worker for the next attempt, or nil if there is none left.
// The first is the policy's choice. A worker that was asked for r is not asked
// again: a policy that hashes would choose it forever, so a retry goes to the
// least busy of the others, whatever the policy.
func (rt *Route) next(r *infer.Request, tried []*fleet.Worker) *fleet.Worker {
	if len(tried) == 0 {
		if rt.Lead == nil {
			return nil
		}
		return rt.Lead.Pick(r)
	}
	var best *fleet.Worker
	for _, w := range rt.Workers {
		if !slices.Contains(tried, w) && (best == nil || w.InFlight() < best.InFlight()) {
			best = w
		}
	}
	return best
}

// Models returns the names that workers claim, sorted.
func (t *Table) Models() []string { return t.names }

// Find returns the route for r's model, or an *infer.Error that says why there
// is none.
func (t *Table) Find(r *infer.Request) (*Route, error) {
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
	case len(t.names) == 1:
		return t.models[t.names[0]], nil
	case len(t.names) == 0 && t.wild != nil:
		return t.wild, nil
	case len(t.names) == 0:
		return nil, t.nobody()
	}
	shown := t.names[:min(len(t.names), 10)]
	return nil, &infer.Error{
		Status: http.StatusBadRequest, Code: "missing_model", Param: "model",
		Msg: "The request names no model and the fleet serves several: " + strings.Join(shown, ", ") + ".",
	}
}

// nobody is the error of a fleet that serves nothing yet.
func (t *Table) nobody() error {
	if t.size == 0 {
		return &infer.Error{Status: http.StatusServiceUnavailable, Code: "no_workers", Msg: "No workers are registered.", RetryAfter: retryLater}
	}
	return &infer.Error{Status: http.StatusServiceUnavailable, Code: "no_available_workers", Msg: "No worker has answered yet.", RetryAfter: retryLater}
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

// Build binds what snap holds into a Table. It runs off the request path,
// whenever the fleet has changed.
func (rt *Router) build(snap *fleet.Snapshot) *Table {
	t := &Table{Epoch: snap.Epoch, models: make(map[string]*Route), size: len(snap.All)}
	claimed := make(map[string][]*fleet.Worker)
	var wild []*fleet.Worker
	ready := make(map[*fleet.Worker]bool, len(snap.Ready))
	for _, w := range snap.Ready {
		ready[w] = true
	}
	anyWild := false
	for _, w := range snap.All {
		info := w.Info()
		if !w.Joined() {
			continue
		}
		t.joined++
		if info.Wildcard {
			anyWild = true
			if ready[w] {
				wild = append(wild, w)
			}
			continue
		}
		for _, m := range info.ModelIDs {
			ws := claimed[m]
			if ready[w] {
				ws = append(ws, w)
			}
			claimed[m] = ws // known even if none of its workers is ready
		}
	}
	for m, ws := range claimed {
		if anyWild {
			ws = append(slices.Clone(ws), wild...)
		}
		t.models[m] = rt.bind(m, ws)
		t.names = append(t.names, m)
	}
	slices.Sort(t.names)
	if anyWild {
		t.wild = rt.bind("", wild)
	}
	for alias, m := range rt.aliases {
		if t.models[alias] != nil {
			continue // a worker's own name comes first
		}
		if r := t.models[m]; r != nil {
			t.models[alias] = r
		}
	}
	return t
}

// bind makes the Route for a model. Policies live on from table to table.
func (rt *Router) bind(model string, ws []*fleet.Worker) *Route {
	p := rt.policies[model]
	if p == nil {
		p = rt.newPolicy()
		rt.policies[model] = p
	}
	r := &Route{Model: model, Backend: rt.backend, Policy: p, Workers: ws}
	if len(ws) > 0 {
		r.Lead = p.Bind(ws)
	}
	r.metrics = rt.metrics.of(model)
	return r
}
