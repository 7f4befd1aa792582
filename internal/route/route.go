// Package route decides who serves a request and how often that is tried.
//
// Everything a decision needs is bound into one immutable Table, which a
// request reads with one atomic load. Attempts, leases and outcomes are here
// and nowhere else: a Backend answers one attempt.
package route

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/peek"
	"sluice/internal/policy"
)

// A Backend answers one attempt, on the team that was picked for it. If it
// returns an error before w is committed, it has written nothing.
type Backend interface {
	Serve(ctx context.Context, r *infer.Request, w *infer.Reply, t fleet.Team) error
}

// Options is what a Router is made of.
type Options struct {
	Config       Config
	Backend      Backend
	Policy       func() policy.Policy // makes the policy of a model
	PolicyName   string               // for metrics
	Aliases      map[string]string    // further names of models
	BackPressure func(err error) bool // says that a worker is fine and has enough to do
	Metrics      *Metrics             // nil for none
}

// A Router is the infer.Handler that stands before all Backends.
type Router struct {
	cfg          Config
	backend      Backend
	newPolicy    func() policy.Policy
	aliases      map[string]string
	backPressure func(error) bool
	metrics      *Metrics

	table atomic.Pointer[Table] // never nil

	mu     sync.Mutex        // held while a table is built
	models map[string]*model // guarded by mu; those of the present table
}

// New returns a Router with an empty Table.
func New(o Options) *Router {
	if o.Metrics == nil {
		o.Metrics = new(Metrics)
	}
	o.Metrics.policy = o.PolicyName
	rt := &Router{
		cfg: o.Config, backend: o.Backend, newPolicy: o.Policy, aliases: o.Aliases,
		backPressure: o.BackPressure, metrics: o.Metrics,
	}
	rt.table.Store(&Table{})
	o.Metrics.Outcomes.Set(rt.outcomes)
	return rt
}

// Publish makes a Table of snap the one of the requests that follow. Calls of
// Publish must come in the order of the snapshots.
func (rt *Router) Publish(snap *fleet.Snapshot) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.table.Store(rt.build(snap))
}

// Table returns the present Table.
func (rt *Router) Table() *Table { return rt.table.Load() }

// Blind reports whether a request can be routed now without a look into its
// body.
func (rt *Router) Blind() bool { return rt.table.Load().Blind() }

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
	now := time.Now()
	t := begin(ctx, now.Add(rt.cfg.Timeout))
	defer t.end()
	m := route.metrics.bound(r)
	m.requests.Inc()
	end, err := rt.try(t, now, route, r, w)
	rt.metrics.served(m, r, w, err, end)
	return err
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

// try makes the attempts, and returns when the last ended. When all have failed
// it returns the last worker's word. After a pause it chooses anew, among the
// workers that there are then.
func (rt *Router) try(ctx *trip, now time.Time, route *Route, r *infer.Request, w *infer.Reply) (time.Time, error) {
	var room [8]*fleet.Worker
	tried := room[:0] // asked, or found unwilling
	err := error(errBusy)
	most := rt.cfg.MaxRetries
	if rt.cfg.Disabled {
		most = 1
	}
	for attempts, paused := 0, 0; attempts < most; {
		lead := route.next(r, tried, &ctx.choice)
		if lead == nil {
			break
		}
		if paused < attempts {
			if now = rt.pause(ctx, r, attempts); ctx.Err() != nil {
				return now, infer.Ended(ctx, err)
			}
			paused = attempts
			if another, err := rt.table.Load().Find(r); err == nil {
				route = another
			}
			continue
		}
		tried = append(tried, lead)
		lease, ok := lead.Acquire(now)
		if !ok {
			continue
		}
		attempts++
		w.Served.Worker, w.Served.Tries = lead.Base(), attempts
		if now, err = rt.attempt(ctx, route, lease, r, w); err == nil {
			return now, nil
		}
		if w.Committed() || r.Gone() || ctx.Err() != nil || !infer.Retryable(err) {
			return now, err
		}
	}
	if w.Served.Tries > 1 {
		rt.metrics.exhausted(r)
	}
	return now, err
}

// attempt serves r once, at the place that lease is, and gives that back with
// an outcome. It returns when that was.
func (rt *Router) attempt(t *trip, route *Route, lease fleet.Lease, r *infer.Request, w *infer.Reply) (time.Time, error) {
	lead := lease.Worker()
	route.selected(lead)
	t.depart(route, lease, r, w)
	done := false
	defer func() {
		if !done {
			t.arrive(w, breaker.Neutral, errPanic, time.Now())
		}
	}()
	fails := lead.Breaker().Failures()
	err := route.Backend.Serve(t, r, w, fleet.Team{Lead: lead})
	done = true
	o := rt.outcome(t, lead, r, w, err)
	if o == breaker.Failure && lost(err) && lead.Breaker().Failures() > fails {
		o = breaker.Neutral
	}
	now := time.Now()
	t.arrive(w, o, err, now)
	rt.metrics.answered(w, err)
	return now, err
}

// errPanic is what an attempt came to that a panic passes by.
var errPanic = errors.New("serving panicked")

// outcome says what err tells of the worker. A client that left, too long a
// queue, a bad request, or an answer that was still coming when the request's
// time was up is no failure of its.
func (rt *Router) outcome(ctx context.Context, lead *fleet.Worker, r *infer.Request, w *infer.Reply, err error) breaker.Outcome {
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
	case rt.backPressure != nil && rt.backPressure(err):
		return breaker.Neutral
	case e.Answer != nil && (e.Answer.Status < 500 || !e.Retry):
		return breaker.Success // a bad request, or a call that the worker does not have
	}
	if e.Answer == nil {
		lead.Suspect() // no HTTP answer: perhaps it is gone
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
func (rt *Router) pause(ctx context.Context, r *infer.Request, n int) time.Time {
	d := rt.cfg.backoff(n, rand.Float64())
	rt.metrics.retry(r, n, d)
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
