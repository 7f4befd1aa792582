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
	"time"

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
// goroutines at once, must not block, and must not allocate. It notes in c what
// it went by; c is empty when it comes. It returns nil if no worker is to serve
// r: a client that asks for one that is not there is not given another.
//
// The time of a decision is r.Received: policies ask no clock.
type Picker interface {
	Pick(r *infer.Request, c *Choice) *fleet.Worker
}

// A Learner is a Picker that wants to know where requests went, and what became
// of them. Every Sent is followed by one Ended, with a Began between them if a
// good answer began, on the same Learner and with the same Choice, although the
// workers may have changed in between.
type Learner interface {
	// Sent tells that r is about to be sent to w: the Picker's choice, or that
	// of the router, which sends a failed request to another worker.
	Sent(r *infer.Request, w *fleet.Worker, c *Choice)

	// Began tells that w's answer has begun. After it, c's Keys may be gone.
	Began(w *fleet.Worker, c *Choice, now time.Time)

	// Ended tells that w is through with the request, and how: err is what the
	// attempt came to, nil for a whole answer.
	Ended(w *fleet.Worker, c *Choice, s *infer.Served, err error, now time.Time)
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

// A TextTaker is a Policy whose Pickers look at the Text of a request whose body
// has come, and do without where it has not.
type TextTaker interface {
	TakesText() bool
}

// TakesText reports whether p's Pickers look at the Text of bodies that have come:
// all that need it do.
func TakesText(p Policy) bool {
	t, ok := p.(TextTaker)
	return ok && t.TakesText() || NeedsText(p)
}

// Members is what a Policy may know beyond the workers that it is offered: those
// that serve the same model in the same role. Nobody writes to it.
type Members struct {
	All    []*fleet.Worker // whose models are known, ready or not
	Ready  []*fleet.Worker // of those, offered or not
	Spared []*fleet.Worker // of those, which are not offered and lack nothing but room
}

// Equal reports whether m and o are the same workers.
func (m *Members) Equal(o *Members) bool {
	return slices.Equal(m.All, o.All) && slices.Equal(m.Ready, o.Ready) && slices.Equal(m.Spared, o.Spared)
}

// A MembersBinder is a Policy that may give a request to a worker which it is not
// offered, because the client or a session wants that one.
type MembersBinder interface {
	WantsMembers() bool

	// BindMembers is Bind for who knows them. It is called again whenever they
	// change, too.
	BindMembers(ws []*fleet.Worker, m Members) Picker
}

// WantsMembers reports whether p looks beyond the workers that it is offered.
func WantsMembers(p Policy) bool {
	b, ok := p.(MembersBinder)
	return ok && b.WantsMembers()
}

// Bind returns p's Picker over ws, with what p wants to know of m.
func Bind(p Policy, ws []*fleet.Worker, m Members) Picker {
	if b, ok := p.(MembersBinder); ok && b.WantsMembers() {
		return b.BindMembers(ws, m)
	}
	return p.Bind(ws)
}

// A LoadPricer is a Policy that reckons with how much workers have to do, finely.
type LoadPricer interface {
	PricesLoad() bool
}

// Minds returns the vetoes for which workers are not offered to p's Pickers: all
// of them, but of a LoadPricer not that of overload. A worker that must not be
// chosen for seconds loses what it would have been cheapest for, and the others
// have to compute it: in simulations of a full fleet that made first tokens
// several times as late.
func Minds(p Policy) fleet.Veto {
	if pricesLoad(p) {
		return fleet.AnyVeto &^ fleet.Overloaded
	}
	return fleet.AnyVeto
}

func pricesLoad(p Policy) bool {
	l, ok := p.(LoadPricer)
	return ok && l.PricesLoad()
}

// builtin holds the policies by the name that configuration uses.
var builtin = map[string]func(*Settings) Policy{
	"bucket":             func(s *Settings) Policy { return newBucket(s) },
	"cache_aware":        func(s *Settings) Policy { return newCacheAware(s) },
	"cost":               func(s *Settings) Policy { return newCost(s) },
	"consistent_hashing": func(s *Settings) Policy { return newConsistentHashing(s) },
	"manual":             func(s *Settings) Policy { return newSticky(s, nil) },
	"prefix_hash":        func(s *Settings) Policy { return newPrefixHash(s) },
	"least_load":         func(s *Settings) Policy { return newLeastLoad(s) },
	"passthrough":        func(s *Settings) Policy { return newPassthrough(s) },
	"power_of_two":       func(s *Settings) Policy { return newPowerOfTwo(s) },
	"random":             func(s *Settings) Policy { return random{s.dice()} },
	"round_robin":        func(s *Settings) Policy { return newRoundRobin(s.dice()) },
}

// New returns the policy of that name, made with s.
func New(name string, s *Settings) (Policy, error) {
	f, ok := builtin[name]
	if !ok {
		return nil, fmt.Errorf("unknown policy %q; want one of %s", name, strings.Join(Names(), ", "))
	}
	p := f(s)
	if s.Ranks.MinTokens {
		p = minTokens{p}
	}
	if s.RoutingKey.Override && !goesByKeys(name) {
		p = newSticky(s, p)
	}
	return p, nil
}

// goesByKeys reports whether a policy asks for the routing key itself.
func goesByKeys(name string) bool { return name == "manual" || name == "consistent_hashing" }

// Names returns the names that New knows, sorted.
func Names() []string { return slices.Sorted(maps.Keys(builtin)) }
