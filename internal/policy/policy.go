// Package policy chooses the worker for a request.
//
// A Policy lives as long as its route and may learn. A Picker lives as long as
// one set of workers and only chooses. Whatever can be computed when workers
// come and go — a hash ring, a bucket's bounds — is computed in Bind, so that
// Pick has nothing to do but look.
package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

// A Policy makes Pickers.
type Policy interface {
	// Bind returns a Picker over ws. It is called again whenever the set
	// changes. ws is not empty and is not written to by anyone.
	Bind(ws []*fleet.Worker) Picker
}

// A Picker chooses among the workers it was bound to. Pick is called by many
// goroutines at once, must not block, and must not allocate.
type Picker interface {
	Pick(r *infer.Request) *fleet.Worker
}

// A TextReader is a Policy whose Pickers may look at a request's Text, or at
// anything else that is found in its body. Requests for the others can be routed
// before their bodies have come.
type TextReader interface {
	NeedsText() bool
}

// NeedsText reports whether p's Pickers may look into bodies.
func NeedsText(p Policy) bool {
	t, ok := p.(TextReader)
	return ok && t.NeedsText()
}

// An Observer is a Policy that learns from what became of its choices.
type Observer interface {
	Served(r *infer.Request, w *fleet.Worker, ok bool)
}

// builtin holds the policies by the name that configuration uses.
var builtin = map[string]func() Policy{
	"least_load":   func() Policy { return leastLoad{} },
	"power_of_two": func() Policy { return powerOfTwo{} },
	"random":       func() Policy { return random{} },
	"round_robin":  func() Policy { return newRoundRobin() },
}

// New returns the policy of that name.
func New(name string) (Policy, error) {
	f, ok := builtin[name]
	if !ok {
		return nil, fmt.Errorf("unknown policy %q; want one of %s", name, strings.Join(Names(), ", "))
	}
	return f(), nil
}

// Names returns the names that New knows, sorted.
func Names() []string { return slices.Sorted(maps.Keys(builtin)) }

// pickFunc lets a closure be a Picker.
type pickFunc func() *fleet.Worker

func (f pickFunc) Pick(*infer.Request) *fleet.Worker { return f() }
