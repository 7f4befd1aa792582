package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// sessionCounts counts sessions, those of the warm-up too.
type sessionCounts struct {
	begun, whole, shed, running atomic.Int64
}

// takeSession returns the next session of the run, or false if there is none.
func (l *load) takeSession() (id uint64, ok bool) {
	id = l.next.Add(1) - 1
	if !l.player.has(id) {
		l.end(stoppedBySessions)
		return 0, false
	}
	return id, true
}

// playOn plays one session after another.
func (l *load) playOn(ctx context.Context) {
	for ctx.Err() == nil {
		id, ok := l.takeSession()
		if !ok || !l.session(ctx, id, time.Now()) {
			return
		}
	}
}

// openSessions begins sessions when they are due.
func (l *load) openSessions(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	due := l.arrivals()
	for ctx.Err() == nil {
		id, ok := l.takeSession()
		if !ok {
			return
		}
		planned := l.start.Add(due(id))
		if !l.until.IsZero() && !planned.Before(l.until) {
			sleep(ctx, time.Until(l.until))
			l.end(stoppedByDuration)
			return
		}
		if !l.await(ctx, planned) || l.why() != "" {
			return
		}
		// Only this goroutine adds to running here, so the bound cannot be passed.
		if l.sessions.running.Load() >= int64(l.cfg.MaxInFlight) {
			l.rec.shed(planned)
			l.sessions.shed.Add(1)
			continue
		}
		l.sessions.running.Add(1)
		wg.Go(func() {
			defer l.sessions.running.Add(-1)
			l.session(ctx, id, planned)
		})
	}
}

// session plays session id of the run, whose first turn is due at planned. A
// turn that fails is not repeated: what follows was recorded. It reports whether
// another session may follow: it returns false when the time to send is over,
// and no sooner, because whoever has begun would still be busy with this one.
func (l *load) session(ctx context.Context, id uint64, planned time.Time) bool {
	p := l.player.play(id)
	c := &caller{c: l.client, gaps: l.rec.gaps}
	for k := range p.length() {
		if k > 0 {
			planned = time.Now().Add(p.gap(k))
			if !l.until.IsZero() && !planned.Before(l.until) {
				sleep(ctx, time.Until(l.until))
				l.end(stoppedByDuration)
				return false
			}
			if !sleep(ctx, time.Until(planned)) {
				return false
			}
			planned = time.Now() // the user of a closed loop is not late
		}
		body := p.next(k)
		if !l.admit(planned) {
			return false
		}
		if k == 0 {
			l.sessions.begun.Add(1)
		}
		l.call(ctx, c, job{body: body, planned: planned})
	}
	if ctx.Err() != nil {
		return false
	}
	l.sessions.whole.Add(1)
	return true
}
