package route

import (
	"context"
	"net/http"
	"sync"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/policy"
)

// A trip is one request's way through the Router: its deadline, the decision
// for the present attempt, and the place on a worker that this attempt has. It
// is used again for other requests, unless somebody holds its deadline.
type trip struct {
	deadline
	choice policy.Choice

	// Of the present attempt.
	lease   fleet.Lease
	learner policy.Learner // was told of it; nil for none

	commits func(status int) // t.committed, made once so that it costs nothing
}

var trips = sync.Pool{New: func() any {
	t := new(trip)
	t.commits = t.committed
	return t
}}

// begin returns a trip that ends with parent or at the time given, whichever is
// sooner. Its end must be called.
func begin(parent context.Context, at time.Time) *trip {
	if sooner, ok := parent.Deadline(); ok && sooner.Before(at) {
		at = sooner
	}
	t := trips.Get().(*trip)
	t.parent, t.at = parent, at
	return t
}

// end tells that the request has been served.
func (t *trip) end() {
	if d := t.timed.Load(); d != nil {
		d.cancel()
		return // somebody may still look at it
	}
	t.parent, t.at = nil, time.Time{}
	t.choice.Reset()
	trips.Put(t)
}

// depart gives the attempt at r the place that lease is, and tells who learns
// from it.
func (t *trip) depart(route *Route, lease fleet.Lease, r *infer.Request, w *infer.Reply) {
	t.lease, t.learner = lease, route.learner
	if t.learner != nil {
		t.learner.Sent(r, lease.Worker(), &t.choice)
	}
	t.lease.Charge(t.choice.Uncached, t.choice.Prompt)
	r.DropText()
	if t.learner != nil || t.lease.Trial() || t.choice.Uncached > 0 {
		w.OnCommit(t.commits)
	}
}

// committed tells that the answer has begun. That is a trial's success.
func (t *trip) committed(status int) {
	if status >= http.StatusInternalServerError {
		return
	}
	t.lease.Began()
	if t.learner == nil && !t.lease.Trial() {
		return
	}
	now := time.Now()
	t.lease.Answered(now)
	if t.learner != nil && status < http.StatusBadRequest {
		t.learner.Began(t.lease.Worker(), &t.choice, now)
	}
}

// arrive gives the place back with an outcome: the attempt has ended with err.
func (t *trip) arrive(w *infer.Reply, o breaker.Outcome, err error, now time.Time) {
	w.OnCommit(nil)
	lead, learner := t.lease.Worker(), t.learner
	t.lease.Release(now, o)
	t.lease, t.learner = fleet.Lease{}, nil
	if learner != nil {
		learner.Ended(lead, &t.choice, &w.Served, err, now)
	}
}
