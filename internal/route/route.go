// Package route decides who serves a request and how often that is tried.
//
// Everything a decision needs is bound into one immutable Table, which a
// request reads with one atomic load. Attempts, leases and outcomes are here
// and nowhere else: a Backend answers one attempt.
package route

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/linelog"
	"sluice/internal/kit/peek"
	"sluice/internal/policy"
)

// A Backend answers one attempt, on the team that was picked for it. If it
// returns an error before w is committed, it has written nothing.
type Backend interface {
	Serve(ctx context.Context, r *infer.Request, w *infer.Reply, t fleet.Team) error
}

// Backends are how workers are spoken to, by family. A worker of a family that
// has none is not asked for anything.
type Backends struct{ HTTPRegular, HTTPPD, External Backend }

// Policies makes the policies of models.
type Policies struct {
	New func(name string) (policy.Policy, error) // of names that Suits takes

	Name, Prefill, Decode string // by what the workers do; the last two "" for Name
}

// of returns the name for workers at p.
func (ps *Policies) of(p place) string {
	switch {
	case p == prefill && ps.Prefill != "":
		return ps.Prefill
	case p == decode && ps.Decode != "":
		return ps.Decode
	}
	return ps.Name
}

// check reports what keeps a policy from choosing the workers at p.
func (ps *Policies) check(p place, name string) error {
	return policy.Suits(name, [...]fleet.Role{regular: fleet.Regular, prefill: fleet.Prefill, decode: fleet.Decode, provider: fleet.Regular}[p])
}

// Options is what a Router is made of.
type Options struct {
	Config       Config
	Backends     Backends
	Policies     Policies
	Aliases      map[string]string           // further names of models
	BackPressure func(err error) bool        // says that a worker is fine and has enough to do
	Shed         bool                        // requests that only overloaded workers could serve are refused
	Receipts     int                         // decisions that are remembered
	Explain      func(r *infer.Request) bool // says that r's client is to be told how it was routed; nil for never
	Record       *linelog.Log                // for a line of a trace a request; nil for none
	Metrics      *Metrics                    // nil for none
	Log          *slog.Logger                // nil for none
}

// A Router is the infer.Handler that stands before all Backends.
type Router struct {
	cfg          Config
	backends     [numFamilies]Backend
	policies     Policies
	aliases      map[string]string
	backPressure func(error) bool
	shed         bool
	receipts     *ring // nil for none
	explains     func(*infer.Request) bool
	recording    *linelog.Log
	metrics      *Metrics
	log          *slog.Logger
	placeOf      func(*fleet.Worker) (place, bool)

	table   atomic.Pointer[Table]          // never nil
	pending atomic.Pointer[fleet.Snapshot] // what the next table is made of, nil for none
	running atomic.Bool                    // Run makes the tables
	wake    chan struct{}                  // tells Run of pending; holds at most one word

	mu            sync.Mutex        // held while a table is built
	models        map[string]*model // guarded by mu; those of the present table, "" for that of unclaimed names
	round         int               // guarded by mu; how many tables were built
	told, telling map[refused]bool  // guarded by mu; labels that were not followed, in the table before and in the one that is being built
	said          []refusal         // guarded by mu; to be logged when mu is free
	shadowed      map[string]bool   // guarded by mu; aliases that do nothing, as workers have models of their names
	shadows       []string          // guarded by mu; of those, aliases that are to be logged when mu is free
}

// New returns a Router with an empty Table.
func New(o Options) *Router {
	if o.Metrics == nil {
		o.Metrics = new(Metrics)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	rt := &Router{
		cfg: o.Config, backends: [...]Backend{HTTPRegular: o.Backends.HTTPRegular, HTTPPD: o.Backends.HTTPPD, External: o.Backends.External},
		policies: o.Policies, aliases: o.Aliases, backPressure: o.BackPressure, shed: o.Shed,
		receipts: newRing(o.Receipts), explains: o.Explain, recording: o.Record, metrics: o.Metrics, log: o.Log,
		placeOf: placeOf, wake: make(chan struct{}, 1), models: make(map[string]*model), shadowed: make(map[string]bool),
	}
	rt.table.Store(&Table{snap: new(fleet.Snapshot)})
	o.Metrics.Outcomes.Set(rt.outcomes)
	o.Metrics.Worker.Set(rt.requests)
	o.Metrics.Imbalance.Set(rt.imbalances)
	o.Record.OnDrop(func(lines int) { o.Metrics.Unrecorded.Add(float64(lines)) })
	return rt
}

// Table returns the present Table.
func (rt *Router) Table() *Table { return rt.table.Load() }

// Blind reports whether a request can be routed now without a look into its
// body.
func (rt *Router) Blind() bool { return rt.table.Load().Blind() }

// TakesText reports whether the text of a request whose body has come is looked
// at, as far as is known before the model is.
func (rt *Router) TakesText() bool { return rt.table.Load().TakesText() }

// Serve implements infer.Handler. It tries workers until one has answered, the
// client has been sent something, or the tries are spent. The context that a
// Backend gets is good until it returns, unless it has asked for Done.
func (rt *Router) Serve(ctx context.Context, r *infer.Request, w *infer.Reply) error {
	route, err := rt.table.Load().Find(r)
	if err != nil {
		rt.metrics.unrouted(r, err)
		return err
	}
	if r.Model != "" && r.ModelEnd > 0 && r.Model != route.Model && route.Model != "" {
		// The client used an alias; workers know the model's own name.
		r.Respell(peek.Splice(r.Body, r.ModelAt, r.ModelEnd, route.Model))
	}
	r.Model = route.name(r)
	now := r.Now()
	t := begin(ctx, now, rt.cfg.Timeout-waited(r, now))
	defer t.end()
	t.records = rt.recording != nil
	way := route.draw(r)
	m := route.metrics.bound(way.family, r)
	m.requests.Inc()
	end := now
	if !now.Before(t.at) { // waiting, or the modules, have taken it all
		err = infer.Ended(t, nil)
	}
	if err == nil {
		end, err = rt.try(t, now, route, way, r, w)
	}
	rt.metrics.served(m, r, w, err, end)
	if errors.Is(err, errShed) {
		rt.metrics.refused(way)
	}
	if rt.recording != nil && err == nil && w.Served.Tries > 0 {
		rt.record(t, r, w)
	}
	return err
}

// waited is how much of r's time was gone at now, before it was routed.
func waited(r *infer.Request, now time.Time) time.Duration {
	if r.Received.IsZero() {
		return 0
	}
	return now.Sub(r.Received)
}

// name is what r's model is called from here on: the route's name, or what the
// client said if no worker claims it.
func (rt *Route) name(r *infer.Request) string {
	if rt.Model == "" {
		return r.Model
	}
	return rt.Model
}

var errBusy = &infer.Error{
	Status: http.StatusServiceUnavailable, Code: "no_available_workers",
	Msg: "No worker takes requests now.", RetryAfter: retryLater,
}

// errAlone is the error of a request whose client wants a worker that is not there,
// and no other.
var errAlone = &infer.Error{
	Status: http.StatusServiceUnavailable, Code: "no_available_workers",
	Msg: "The worker that X-SMG-Target-Worker asks for is not there, or takes no requests now.", RetryAfter: retryLater,
}

// denial returns why c, the first choice, is nobody; err if that says it.
func denial(c *policy.Choice, err error) error {
	switch {
	case c.Alone:
		return errAlone
	case c.Refused != "":
		return &infer.Error{Status: http.StatusServiceUnavailable, Code: errBusy.Code, Msg: c.Refused, RetryAfter: retryLater}
	}
	return err
}

// errShed is the error of a request that only overloaded workers could serve.
var errShed = &infer.Error{
	Status: http.StatusServiceUnavailable, Code: "worker_overload_protection_shed",
	Msg: "All workers of the model have enough to do.", RetryAfter: retryLater,
}

// maxUnwilling bounds how many workers that turn out to take nothing are passed
// over for one request.
const maxUnwilling = 64

// try makes the attempts, and returns when the last ended. When all have failed
// it returns the last worker's word. After a pause it chooses anew, among the
// workers that there are then.
func (rt *Router) try(t *trip, now time.Time, route *Route, way *way, r *infer.Request, w *infer.Reply) (time.Time, error) {
	var room [8]*fleet.Worker
	tried := room[:0] // asked, or found unwilling
	err := error(errBusy)
	if way.shed() {
		err = errShed
	}
	most := rt.cfg.MaxRetries
	if rt.cfg.Disabled {
		most = 1
	}
	for attempts, paused := 0, 0; attempts < most && len(tried) < most+maxUnwilling; {
		if attempts > paused {
			if route, way = rt.again(r, route, way); route.pick(t, way, r, tried, now) == nil {
				break // nobody to wait for
			}
			if now = rt.pause(t, way, r, attempts); t.Err() != nil {
				return now, infer.Ended(t, err)
			}
			paused = attempts
			route, way = rt.again(r, route, way)
		}
		on := rt.decide(t, route, way, r, tried, now)
		if on == nil {
			if attempts == 0 {
				err = denial(&t.lead.choice, err)
			}
			break
		}
		if unwilling := t.acquire(now); unwilling != nil {
			tried = append(tried, unwilling)
			continue
		}
		if tried = append(tried, t.team.Lead); t.paired {
			tried = append(tried, t.team.Prefill)
		}
		attempts++
		w.Served.Worker, w.Served.Tries = t.team.Lead.Base(), attempts
		if now, err = rt.attempt(t, route, on, r, w, now); err == nil {
			return now, nil
		}
		if w.Committed() || r.Gone() || t.Err() != nil || !infer.Retryable(err) {
			return now, err
		}
	}
	if w.Served.Tries > 1 {
		rt.metrics.exhausted(way, r)
	}
	return now, err
}

// again returns the route and the way that serve r now, or those given if none
// do.
func (rt *Router) again(r *infer.Request, route *Route, on *way) (*Route, *way) {
	if now, err := rt.table.Load().Find(r); err == nil {
		return now, now.draw(r)
	}
	return route, on
}

// untimed is how many decisions there are for one whose time is taken: asking the
// clock twice costs as much as many a decision.
const untimed = 64

// decide is route.pick, which it times now and then.
func (rt *Router) decide(t *trip, route *Route, way *way, r *infer.Request, tried []*fleet.Worker, now time.Time) *way {
	if t.decisions++; t.decisions%untimed != 0 || len(tried) > 0 {
		return route.pick(t, way, r, tried, now)
	}
	begin := time.Now()
	on := route.pick(t, way, r, tried, now)
	if on != nil {
		on.lead.decisions.Observe(time.Since(begin).Seconds())
	}
	return on
}

// attempt serves r once, with the places that t has, and gives them back with an
// outcome. It returns when that was.
func (rt *Router) attempt(t *trip, route *Route, way *way, r *infer.Request, w *infer.Reply, now time.Time) (time.Time, error) {
	done := false
	defer func() {
		if !done {
			t.arrive(w, breaker.Neutral, errPanic, time.Now())
		}
	}()
	t.depart(way, r, w)
	rt.note(t, route, way, r, w, now)
	lead := t.team.Lead
	fails := lead.Breaker().Failures()
	err := way.backend.Serve(t, r, w, t.team)
	done = true
	believe(&w.Served.Tokens)
	o := rt.outcome(t, t.team, r, w, err)
	if o == breaker.Failure && lost(err) && lead.Breaker().Failures() > fails {
		o = breaker.Neutral
	}
	now = t.over(err)
	t.arrive(w, o, err, now)
	rt.metrics.answered(way, w, err)
	return now, err
}

// mostTokens is more than any prompt or answer has.
const mostTokens = 1 << 24

// believe drops counts of a worker that cannot be: one such number would spoil
// sums for ever.
func believe(n *infer.Tokens) {
	for _, c := range [...]*int64{&n.Input, &n.Cached, &n.Output} {
		if *c < 0 || *c > mostTokens {
			*c = 0
		}
	}
}

// note counts the decision for an attempt, and makes its receipt.
func (rt *Router) note(t *trip, route *Route, way *way, r *infer.Request, w *infer.Reply, now time.Time) {
	try := w.Served.Tries
	route.selected(way, t, try)
	t.lead.receipt = rt.receipts.open(&t.lead, way.lead.part, r, try, now)
	if t.paired {
		t.prefill.receipt = rt.receipts.open(t.prefill, way.prefill.part, r, try, now)
	}
	if rt.explains != nil && rt.explains(r) {
		l, p := &t.lead, way.lead.part
		if text := explain(p, t.team.Lead, &l.choice, try); t.paired {
			w.Header().Set(headerRoute, text+", "+explain(way.prefill.part, t.team.Prefill, &t.prefill.choice, try))
		} else {
			w.Header().Set(headerRoute, text)
		}
	}
}

// errPanic is what an attempt came to that a panic passes by.
var errPanic = errors.New("serving panicked")

// outcome says what err tells of the worker. A client that left, too long a
// queue, a bad request, a connection for which there are no descriptors, or an
// answer that was still coming when the request's time was up is no failure of
// its.
func (rt *Router) outcome(ctx context.Context, team fleet.Team, r *infer.Request, w *infer.Reply, err error) breaker.Outcome {
	if err == nil {
		return breaker.Success
	}
	e, known := errors.AsType[*infer.Error](err)
	switch {
	case !known:
		return breaker.Neutral
	case e.Status == infer.StatusClientGone || errors.Is(ctx.Err(), context.Canceled):
		return breaker.Neutral
	case r.Left() && e.Answer == nil && e.Status < http.StatusInternalServerError:
		return breaker.Neutral // the client's body came to no good end
	case w.Committed() && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return breaker.Neutral
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return breaker.Neutral // it is the gateway that has no descriptors left
	case rt.backPressure != nil && rt.backPressure(err):
		return breaker.Neutral
	case e.Answer != nil && (e.Answer.Status < 500 || !e.Retry):
		return breaker.Success // a bad request, or a call that the worker does not have
	}
	if e.Answer == nil {
		team.Lead.Suspect() // no HTTP answer: perhaps it is gone
		if team.Prefill != nil && !w.Committed() {
			team.Prefill.Suspect()
		}
	}
	return breaker.Failure
}

// lost reports whether err is a connection that broke. Connections that break
// in one moment, as all do when a worker restarts, have one cause and are one
// failure: a hundred streams that broke say no more of the worker than one, and
// must not close it to requests when it is back. So one counts if it began
// after the last that was counted.
func lost(err error) bool {
	var e *infer.Error
	return errors.As(err, &e) && e.Answer == nil && e.Status != http.StatusGatewayTimeout
}

// pause waits before attempt n+1, or until there is nobody left to wait for.
// It returns the time.
func (rt *Router) pause(ctx context.Context, way *way, r *infer.Request, n int) time.Time {
	d := rt.cfg.backoff(n, rand.Float64())
	rt.metrics.retry(way, r, n, d)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return time.Now()
}

// backoff is the pause after attempt n (from 1): the initial one, grown n-1
// times, with chance (0 to 1) deciding within the jitter.
func (c Config) backoff(n int, chance float64) time.Duration {
	d := float64(c.Initial)
	for range n - 1 {
		if d *= c.Multiplier; d >= float64(c.Max) {
			break
		}
	}
	d = min(d, float64(c.Max))
	return time.Duration(d * (1 + c.Jitter*(2*chance-1)))
}
