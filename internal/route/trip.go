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
// for the present attempt, and the places on workers that this attempt has. It
// is used again for other requests, unless somebody holds its deadline.
type trip struct {
	deadline
	team    fleet.Team // chosen for the present attempt
	lead    leg
	prefill *leg // nil until a team has two workers
	paired  bool // the present attempt's has, and both are at work
	reply   *infer.Reply
	came    time.Time // the request
	begun   time.Time
	records bool // hashes of the prompt are needed at the end

	decisions uint // made with this trip, by all requests; one in some is timed

	commits func(status int) // t.committed, made once so that it costs nothing
}

// A leg is what one worker of a team does in the present attempt.
type leg struct {
	choice  policy.Choice
	lease   fleet.Lease
	learner policy.Learner // was told of it; nil for none
	receipt receipt
	policy  string // that chose
}

var trips = sync.Pool{New: func() any {
	t := new(trip)
	t.commits = t.committed
	return t
}}

// begin returns a trip that begins now and ends with parent or after limit,
// whichever is sooner. Its end must be called.
func begin(parent context.Context, now time.Time, limit time.Duration) *trip {
	at := now.Add(limit)
	if sooner, ok := parent.Deadline(); ok && sooner.Before(at) {
		at = sooner
	}
	t := trips.Get().(*trip)
	t.parent, t.at, t.begun = parent, at, now
	return t
}

// now returns the time. It asks the system once, where time.Now does twice.
func (t *trip) now() time.Time { return t.begun.Add(time.Since(t.begun)) }

// firstByte returns when the answer that is being committed came. Most Backends
// have asked the clock just now.
func (t *trip) firstByte() time.Time {
	if d := t.reply.Served.FirstByte; d > 0 {
		return t.came.Add(d)
	}
	return t.now()
}

// over returns when an attempt was over that has ended now.
func (t *trip) over(err error) time.Time {
	if err == nil && t.reply.Served.AtOnce {
		return t.firstByte()
	}
	return t.now()
}

// end tells that the request has been served.
func (t *trip) end() {
	if d := t.timed.Load(); d != nil {
		d.cancel()
		return // somebody may still look at it
	}
	t.parent, t.at, t.team = nil, time.Time{}, fleet.Team{}
	t.lead.empty()
	if t.prefill != nil {
		t.prefill.empty()
	}
	trips.Put(t)
}

// maxKeys bounds the memory of hashes that a trip keeps for its next request:
// that of a prompt of half a million tokens.
const maxKeys = 4096

func (l *leg) empty() {
	if cap(l.choice.Keys) > maxKeys {
		l.choice.Keys = nil
	}
	l.choice.Reset()
}

// acquire takes places on the workers of t's team, or reports that one of them
// takes no requests now, and which.
func (t *trip) acquire(now time.Time) (unwilling *fleet.Worker) {
	t.paired = t.team.Prefill != nil
	if t.paired && !t.team.Prefill.Available(now) {
		return t.team.Prefill
	}
	var ok bool
	if t.lead.lease, ok = t.team.Lead.Acquire(now); !ok {
		return t.team.Lead
	}
	if t.paired {
		if t.prefill.lease, ok = t.team.Prefill.Acquire(now); !ok {
			t.lead.lease.Release(now, breaker.Neutral)
			t.lead.lease = fleet.Lease{}
			return t.team.Prefill
		}
	}
	return nil
}

// depart begins the attempt at r with the places that t has: it charges them, and
// tells who learns from it.
func (t *trip) depart(w *way, r *infer.Request, reply *infer.Reply) {
	l := &t.lead
	l.sent(w.lead, r)
	if t.paired {
		p := t.prefill
		p.sent(w.prefill, r)
		p.lease.Charge(p.choice.Uncached, p.choice.Prompt)
		l.lease.Charge(0, max(l.choice.Prompt, p.choice.Prompt))
	} else {
		l.lease.Charge(l.choice.Uncached, l.choice.Prompt)
	}
	r.DropText()
	t.reply, t.came = reply, r.Received
	if t.paired || l.learner != nil || l.lease.Trial() || l.choice.Uncached > 0 {
		reply.OnCommit(t.commits)
	}
}

// sent tells who learns from it that r is about to be sent to a worker of s.
func (l *leg) sent(s *side, r *infer.Request) {
	l.policy = s.name
	if l.learner = s.learner; l.learner != nil {
		l.learner.Sent(r, l.lease.Worker(), &l.choice)
	}
}

// committed tells that the answer has begun. That is a trial's success, and the
// end of what computes a prompt for another worker.
func (t *trip) committed(status int) {
	if status >= http.StatusInternalServerError {
		return
	}
	l := &t.lead
	l.lease.Began()
	if !t.paired && l.learner == nil && !l.lease.Trial() {
		return
	}
	now := t.firstByte()
	l.began(status, now, t.records)
	if t.paired {
		t.paired = false
		t.prefill.began(status, now, t.records)
		t.prefill.ended(t.reply, breaker.Success, nil, now)
	}
}

// maxIdle bounds the memory of hashes that is kept while an answer streams, for
// minutes perhaps: that of a prompt of a hundred thousand tokens.
const maxIdle = 1024

func (l *leg) began(status int, now time.Time, records bool) {
	l.lease.Began()
	l.lease.Answered(now)
	if l.learner == nil || status >= http.StatusBadRequest {
		return
	}
	l.learner.Began(l.lease.Worker(), &l.choice, now)
	if cap(l.choice.Keys) > maxIdle && !records {
		l.choice.Keys = nil
	}
}

// arrive gives the places back with an outcome: the attempt has ended with err.
func (t *trip) arrive(w *infer.Reply, o breaker.Outcome, err error, now time.Time) {
	w.OnCommit(nil)
	t.reply = nil
	t.lead.ended(w, o, err, now)
	if t.paired {
		t.paired = false
		t.prefill.ended(w, o, err, now)
	}
}

func (l *leg) ended(w *infer.Reply, o breaker.Outcome, err error, now time.Time) {
	worker, learner := l.lease.Worker(), l.learner
	l.lease.Release(now, o)
	l.lease, l.learner = fleet.Lease{}, nil
	if learner != nil {
		learner.Ended(worker, &l.choice, &w.Served, err, now)
	}
	l.receipt.close(w, err, now)
}
