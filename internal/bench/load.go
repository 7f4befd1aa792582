package bench

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Why a run ended.
const (
	stoppedByDuration  = "duration"
	stoppedByRequests  = "requests"
	stoppedByTrace     = "trace"
	stoppedBySessions  = "sessions"
	stoppedByMaxErrors = "max_errors"
	stoppedByCancel    = "interrupted"
)

// errMaxErrors is the cause with which a run ends itself.
var errMaxErrors = errors.New("too many requests failed")

// Pauses of a worker of the closed loop that gets no connection: without them it
// would spin.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = 250 * time.Millisecond
)

// A load decides what is sent and when, and hands every answer to its recorder.
type load struct {
	cfg     Config
	client  *client
	prompts *prompts
	player  *player // nil: single requests
	body    template
	rec     *recorder
	nap     func(time.Duration) // passes a short time exactly
	start   time.Time
	until   time.Time // zero: no set end
	stop    context.CancelCauseFunc

	next     atomic.Uint64 // the next request's, or session's, place in the run
	measured atomic.Int64  // measured requests so far
	inFlight atomic.Int64  // requests
	sessions sessionCounts

	mu    sync.Mutex
	ended string // guarded by mu; why sending ended, empty while it goes on
}

// run sends until there is nothing more to send or ctx is done, and returns when
// no request runs any more.
func (l *load) run(ctx context.Context) {
	switch closed := l.cfg.Concurrency > 0; {
	case l.player != nil && closed:
		l.closed(ctx, l.playOn)
	case l.player != nil:
		l.openSessions(ctx)
	case closed:
		l.closed(ctx, l.worker)
	default:
		l.open(ctx)
	}
}

// end notes why sending ended; the first reason holds.
func (l *load) end(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended == "" {
		l.ended = why
	}
}

func (l *load) why() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// take returns the plan of the next request, or false if there is none.
func (l *load) take() (plan, bool) {
	p, ok := l.prompts.plan(l.next.Add(1) - 1)
	if !ok {
		l.end(stoppedByTrace)
	}
	return p, ok
}

// admit reports whether a request may still begin at planned.
func (l *load) admit(planned time.Time) bool {
	if !l.until.IsZero() && !planned.Before(l.until) {
		l.end(stoppedByDuration)
		return false
	}
	if l.cfg.Requests > 0 && l.rec.measured(planned) && l.measured.Add(1) > l.cfg.Requests {
		l.end(stoppedByRequests)
		return false
	}
	return true
}

// closed runs cfg.Concurrency workers.
func (l *load) closed(ctx context.Context, worker func(context.Context)) {
	var wg sync.WaitGroup
	for range l.cfg.Concurrency {
		wg.Go(func() { worker(ctx) })
	}
	wg.Wait()
}

// worker makes one request after another.
func (l *load) worker(ctx context.Context) {
	c := &caller{c: l.client, gaps: l.rec.gaps}
	pause := firstPause
	for ctx.Err() == nil {
		p, ok := l.take()
		if !ok {
			return
		}
		body := l.body.body(l.prompts, p)
		planned := time.Now()
		if !l.admit(planned) {
			return
		}
		if l.call(ctx, c, job{body: body, planned: planned}) != kindConnect {
			pause = firstPause
			continue
		}
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, longestPause)
	}
}

// open begins requests when they are due, whatever became of those before.
func (l *load) open(ctx context.Context) {
	callers := sync.Pool{New: func() any { return &caller{c: l.client, gaps: l.rec.gaps} }}
	var wg sync.WaitGroup
	defer wg.Wait()
	due := l.arrivals()
	for ctx.Err() == nil {
		p, ok := l.take()
		if !ok {
			return
		}
		planned := l.start.Add(due(p.id))
		if !l.until.IsZero() && !planned.Before(l.until) {
			sleep(ctx, time.Until(l.until))
			l.end(stoppedByDuration)
			return
		}
		body := l.body.body(l.prompts, p)
		if !l.await(ctx, planned) || !l.admit(planned) {
			return
		}
		// Only this goroutine adds to inFlight here, so the bound cannot be passed.
		if l.inFlight.Load() >= int64(l.cfg.MaxInFlight) {
			l.rec.shed(planned)
			continue
		}
		l.inFlight.Add(1)
		wg.Go(func() {
			defer l.inFlight.Add(-1)
			c := callers.Get().(*caller)
			defer callers.Put(c)
			l.finish(ctx, c, job{body: body, planned: planned})
		})
	}
}

// arrivals returns a function that says when, after the start, each request is
// due. It is called once for each, in order.
func (l *load) arrivals() func(id uint64) time.Duration {
	if l.cfg.Rate == 0 {
		return func(id uint64) time.Duration {
			return time.Duration(float64(l.prompts.rows[id].At) / l.cfg.TraceSpeed)
		}
	}
	rng := rand.New(rand.NewPCG(uint64(l.cfg.Seed)^ofArrival<<56, 0))
	at := 0.0 // seconds
	return func(id uint64) time.Duration {
		if l.cfg.Arrival == "constant" {
			at = float64(id) / l.cfg.Rate
		} else {
			at += rng.ExpFloat64() / l.cfg.Rate
		}
		return time.Duration(min(at*float64(time.Second), math.MaxInt64/4))
	}
}

// await returns at t, or false if ctx is done first.
func (l *load) await(ctx context.Context, t time.Time) bool {
	if !sleep(ctx, time.Until(t)-exact) {
		return false
	}
	if d := time.Until(t); d > 0 {
		l.nap(d)
	}
	return ctx.Err() == nil
}

func (l *load) call(ctx context.Context, c *caller, j job) (kind string) {
	l.inFlight.Add(1)
	defer l.inFlight.Add(-1)
	return l.finish(ctx, c, j)
}

// finish makes the request of j, records it, and ends the run if too many have
// failed.
func (l *load) finish(ctx context.Context, c *caller, j job) (kind string) {
	l.rec.begin(j.planned)
	a := c.do(ctx, j)
	if n := l.rec.add(&a); l.cfg.MaxErrors > 0 && n >= l.cfg.MaxErrors {
		l.end(stoppedByMaxErrors)
		l.stop(errMaxErrors)
	}
	return a.kind
}

// sleep passes d and reports true, or false at once when ctx is done.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
