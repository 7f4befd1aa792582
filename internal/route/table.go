package route

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/policy"
)

// A Table says who serves which model. It is not written to after it is
// published.
type Table struct {
	models map[string]*Route // by every name a client may use
	wild   *Route            // for names that no worker claims; nil if every worker claims its own
	own    []string          // what workers call their models, sorted
	names  []string          // every name in models, sorted
	joined int               // workers whose models are known
	takes  bool              // some policy looks at texts
	blind  bool              // every request has the same Route, and is sent there as it is
	sole   *Route            // in models by its own name, where workers have no other; asked for nearly always

	snap *fleet.Snapshot // what it was made of
}

// A Route is how one model is served. It stays the same from table to table
// while the workers do that may be chosen for it.
type Route struct {
	Model string // as workers know it; "" for the route of unclaimed names

	ways   []way // of the families whose workers claim the model; never empty
	only   *way  // the one that can serve now, or the first if none can; nil if several can
	weight int   // of all ways

	metrics *modelMetrics
	members []*member       // by Slot, of all that claim the model
	claimed []*fleet.Worker // those, ready or not
}

// Snapshot returns the workers that t was made of.
func (t *Table) Snapshot() *fleet.Snapshot { return t.snap }

// Models returns the names that requests may use, sorted: those of the workers'
// models, and aliases of theirs.
func (t *Table) Models() []string { return t.names }

// Find returns the route for r's model, or an *infer.Error that says why there
// is none.
func (t *Table) Find(r *infer.Request) (*Route, error) {
	if r.Left() && !t.blind {
		return nil, errChanged
	}
	if t.sole != nil && r.Model == t.sole.Model {
		return t.sole, nil
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

// Own returns what the workers that serve a model call it, or name as it is if
// they are not known to call it otherwise.
func (t *Table) Own(name string) string {
	if rt := t.models[name]; rt != nil && rt.Model != "" {
		return rt.Model
	}
	return name
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

// TakesText reports whether requests' texts are looked at: by some policy, which
// may be not that of the next request.
func (t *Table) TakesText() bool { return t.takes }

// takesText works out TakesText.
func (t *Table) takesText() bool {
	if t.wild != nil && t.wild.takesText() {
		return true
	}
	for _, rt := range t.models {
		if rt.takesText() {
			return true
		}
	}
	return false
}

// takesText reports whether one of rt's policies looks at texts.
func (rt *Route) takesText() bool {
	for i := range rt.ways {
		w := &rt.ways[i]
		for _, side := range []*side{w.lead, w.prefill} {
			if side != nil && side.part != nil && policy.TakesText(side.policy) { // a side without workers may have no part
				return true
			}
		}
	}
	return false
}

// isBlind works out Blind.
func (t *Table) isBlind() bool {
	switch {
	case t.wild != nil && len(t.models) == 0:
		return t.wild.blind()
	case t.wild == nil && len(t.models) == 1 && len(t.own) == 1:
		return t.models[t.own[0]].blind()
	}
	return false
}

// blind reports whether no policy looks into bodies, and no way needs two of
// them.
func (rt *Route) blind() bool {
	for i := range rt.ways {
		w := &rt.ways[i]
		if w.prefill != nil || policy.NeedsText(w.lead.policy) {
			return false
		}
	}
	return true
}

// nobody is the error of a fleet that serves nothing yet.
func (t *Table) nobody() error {
	if len(t.snap.All) == 0 {
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
