package fleet

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"sluice/internal/kit/jobs"
)

// How workers are asked. The contract's flags say the rest.
const (
	maxProbes     = 128 // checks out at a time
	maxRoutine    = 96  // of them, those that nobody hurries: suspects need not wait behind others
	maxHung       = 64  // of them, those of workers that let the last one time out: nobody need wait behind those
	maxWorkers    = 1 << 14
	maxLines      = 1024 // log lines that wait to be written
	maxSuspects   = 1024 // that are remembered one by one; of more, all workers are looked at
	publishEvery  = 5 * time.Millisecond
	firstPause    = time.Second            // until a worker that failed is asked again; grows
	longestPause  = 10 * time.Second       // to which it grows, unless the interval is shorter
	confirmPause  = 100 * time.Millisecond // after a first success, so that a starting worker is ready soon
	suspicionTime = 700 * time.Millisecond // in which a suspect's failures add up: GET /workers is true within a second
	suspectPause  = 100 * time.Millisecond // least time between two checks of a suspect that passes them
)

// health is what the Registry knows of how a worker does. Registry.mu guards it.
type health struct {
	spec   Spec
	cfg    HealthConfig  // with what the spec says otherwise
	settle time.Duration // the drain time, likewise

	in     *schedule // where the worker waits, nil if it does not
	place  int       // in in
	due    time.Time
	asking bool      // a check is out
	asked  time.Time // when the last one began

	oks, fails int           // in a row
	tries      int           // failed checks since the status began
	pause      time.Duration // the last one after a failure
	since      time.Time     // of the status
	suspect    bool          // the request path saw a failure; no check has passed since
	again      bool          // it did while a check was out, whose success proves nothing
	shaken     bool          // a check failed while ready; not enough have passed since
	gone       bool          // nobody listened to a check; none has passed since
	broke      bool          // a check broke; none has passed since
	doubted    time.Time     // since when a connection has failed and nothing was heard; zero for not
	listed     bool          // is in Registry.doubts
	proof      uint64        // how many requests had succeeded then
	err        string        // of the last failed check

	counted   bool          // in Registry.joining
	revision  int           // of spec
	known     bool          // what it serves has been found out since it was last away
	joining   bool          // a job is finding out
	joinDue   time.Time     // not to be tried before
	joinPause time.Duration // the last one after a failure
	found     *found        // nil before the first success

	start      string    // that it told last, "" if it never did
	began      time.Time // when the newest process began of which it told that, zero if it never did
	startEpoch uint64    // the worker's when it told either
}

// named reports whether the spec says what the worker serves.
func (h *health) named() bool { return len(h.spec.Models) > 0 || h.spec.Labels["model_id"] != "" }

// beginLocked starts to watch a new worker. r.mu must be held.
func (r *Registry) beginLocked(w *Worker, spec Spec, now time.Time) {
	h := &w.health
	h.spec, h.since = spec, now
	h.cfg, h.settle = spec.Health.apply(r.checks, r.cfg.DrainSettle)
	w.info.Store(newInfo(spec, r.cfg.Backend, nil))
	if h.cfg.Disabled {
		w.readyAt.Store(&now)
		w.status.Store(uint32(Ready))
	} else if r.running {
		h.counted = true
		r.joining++
	}
	r.queue.set(w, now.Add(r.cfg.StartupDelay))
}

// endLocked stops watching w. r.mu must be held.
func (r *Registry) endLocked(w *Worker) {
	drop(w)
	w.health.revision++ // answers that are still out are for nobody
	r.uncountLocked(w)
}

func (r *Registry) uncountLocked(w *Worker) {
	if w.health.counted {
		w.health.counted = false
		r.joining--
	}
}

// amendLocked gives w an altered spec and asks it soon. r.mu must be held.
func (r *Registry) amendLocked(w *Worker, spec Spec, now time.Time) {
	h := &w.health
	h.spec = spec
	h.cfg, h.settle = spec.Health.apply(r.checks, r.cfg.DrainSettle)
	w.info.Store(newInfo(spec, r.cfg.Backend, h.found))
	if h.found == nil { // the old spec may have named the models, the new one not
		h.known = false
	}
	if h.cfg.Disabled && w.Status() != Ready {
		r.turnLocked(w, Ready, now)
	}
	if !h.asking {
		r.queue.set(w, now)
	}
}

// respecLocked gives w another spec and finds out anew what it serves. r.mu
// must be held.
func (r *Registry) respecLocked(w *Worker, spec Spec, now time.Time) {
	h := &w.health
	h.revision++
	r.jobs.Cancel(w.base)
	h.known, h.joining, h.joinPause, h.joinDue = false, false, 0, now
	r.amendLocked(w, spec, now)
	if w.Status() == Ready {
		r.joinLocked(w, "UpdateWorker", now)
	}
}

// drainLocked lets w take no more requests and be forgotten later. r.mu must
// be held.
func (r *Registry) drainLocked(w *Worker, now time.Time) {
	r.turnLocked(w, Draining, now)
	r.endLocked(w)
	r.jobs.Cancel(w.base)
	r.urgent.set(w, now.Add(w.health.settle))
}

// loop asks who is due and publishes what changed, until ctx is done and all
// answers are in.
func (r *Registry) loop(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if next := r.step(ctx, &wg, time.Now()); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		r.say(ctx)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-r.wake:
		}
	}
}

// step does what is due at now and returns when something is next, zero for
// not before r.wake.
func (r *Registry) step(ctx context.Context, wg *sync.WaitGroup, now time.Time) (next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.takeSuspectsLocked(now)
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, s := range []struct {
		*schedule
		limit int
	}{{&r.urgent, maxProbes}, {&r.queue, maxRoutine}, {&r.hung, maxHung}} {
		for w := s.first(now); w != nil && r.probing < s.limit; w = s.first(now) {
			drop(w)
			r.dueLocked(ctx, wg, w, now)
		}
		if s.Len() > 0 && r.probing < s.limit {
			sooner((*s.schedule)[0].health.due)
		}
	}
	if at := r.stallLocked(now); !at.IsZero() {
		sooner(at)
	}
	if !r.rest.IsZero() && !now.Before(r.rest) {
		r.dirty.Store(true)
	}
	if r.dirty.Load() {
		if at := r.shown.Add(publishEvery); now.Before(at) {
			sooner(at)
			return next
		}
		r.publishLocked(now)
	}
	if !r.rest.IsZero() {
		sooner(r.rest)
	}
	return next
}

// takeSuspectsLocked hears what the request path had to say. r.mu must be held.
func (r *Registry) takeSuspectsLocked(now time.Time) {
	for {
		select {
		case w := <-r.suspects:
			r.suspectLocked(w, now)
			continue
		default:
		}
		break
	}
	if !r.crowded.Swap(false) {
		return
	}
	for _, w := range r.all {
		if w.suspect.Load() {
			r.suspectLocked(w, now)
		}
	}
}

// dueLocked does what w waited for. r.mu must be held.
func (r *Registry) dueLocked(ctx context.Context, wg *sync.WaitGroup, w *Worker, now time.Time) {
	h := &w.health
	switch {
	case w.Status() == Draining:
		r.forgetLocked(w)
		r.touchLocked()
		return
	case h.cfg.Disabled:
		if !h.known && !h.joining {
			r.joinLocked(w, "AddWorker", now)
		}
		return
	}
	w.suspect.Store(false)
	h.asking, h.asked = true, now
	r.probing++
	revision, timeout, path := h.revision, h.cfg.Timeout, h.cfg.Path
	wg.Go(func() {
		err := r.ask(ctx, w, path, timeout)
		if ctx.Err() == nil {
			r.answered(w, revision, err)
		}
	})
}

// answered takes the answer to a health check.
func (r *Registry) answered(w *Worker, revision int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.wakeUp()
	now := time.Now()
	h := &w.health
	r.probing--
	h.asking = false
	if err == nil {
		w.checks[0].Add(1)
	} else {
		w.checks[1].Add(1)
	}
	if f := r.opt.Events.OnProbe; f != nil {
		f(w, err == nil)
	}
	if heard(err) {
		r.trustLocked(w)
	} else if !timedOut(err) {
		r.doubtLocked(w, now)
	}
	switch {
	case r.byID[w.id] != w || w.Status() == Draining:
	case h.revision != revision || h.cfg.Disabled:
		r.queue.set(w, now) // asked with settings that are not its own any more
	case err == nil:
		r.passedLocked(w, now)
	default:
		r.failedLocked(w, err, now)
	}
}

// passedLocked counts a passed check and says when the next one is. r.mu must
// be held.
func (r *Registry) passedLocked(w *Worker, now time.Time) {
	h := &w.health
	if h.oks == 0 {
		r.returnedLocked(w)
	}
	h.oks++
	h.fails, h.pause, h.err = 0, 0, ""
	h.suspect, h.again = h.again, false
	if !h.known && !h.joining && !now.Before(h.joinDue) {
		r.joinLocked(w, "AddWorker", now)
	}
	r.settleLocked(w, now)
	if h.shaken && h.oks >= h.cfg.Successes {
		h.shaken = false
		r.readmitLocked(w)
	}
	switch {
	case w.Status() == Ready && h.suspect:
		r.urgent.set(w, now.Add(suspectPause))
	case w.Status() == Ready && h.shaken:
		r.urgent.set(w, now.Add(confirmPause))
	case w.Status() == Ready && !h.known && !h.joining:
		r.queue.set(w, h.joinDue)
	case w.Status() == Ready:
		r.queue.set(w, now.Add(jitter(h.cfg.Interval)))
		r.refreshLocked(w)
	case h.oks < h.cfg.Successes:
		r.queue.set(w, now.Add(confirmPause))
	case h.joining:
		r.queue.set(w, now.Add(jitter(firstPause)))
	default:
		r.queue.set(w, later(h.joinDue, now.Add(confirmPause)))
	}
}

// settleLocked makes w ready if nothing is missing, and reports whether it did.
// r.mu must be held.
func (r *Registry) settleLocked(w *Worker, now time.Time) bool {
	h := &w.health
	from := w.Status()
	if from == Ready || from == Draining || h.oks < h.cfg.Successes || !h.known && !h.named() {
		return false
	}
	if from != Pending {
		r.readmitLocked(w)
	}
	r.turnLocked(w, Ready, now)
	return true
}

// readmitLocked closes w's breaker: w was away, and has passed its checks
// since. r.mu must be held.
func (r *Registry) readmitLocked(w *Worker) {
	if f := r.opt.Events.OnReadmit; w.br.Reset() && f != nil {
		f(w)
	}
}

// failedLocked counts a failed check and says when the next one is. r.mu must
// be held.
func (r *Registry) failedLocked(w *Worker, err error, now time.Time) {
	h := &w.health
	h.fails++
	h.tries++
	h.gone, h.broke = h.gone || absent(err), h.broke || broken(err)
	h.oks, h.again, h.err = 0, false, err.Error()
	was := w.Status()
	switch {
	case was == Ready && h.fails >= h.cfg.Failures:
		r.turnLocked(w, NotReady, now)
	case was == Ready:
		h.shaken = true
	case was == NotReady && h.tries >= 3*h.cfg.Failures, was == Pending && (h.tries >= 10*h.cfg.Failures || r.overdueLocked(w, now)):
		r.giveUpLocked(w, now)
	}
	switch {
	case r.byID[w.id] != w:
	case w.Status() != Ready && timedOut(err):
		r.hung.set(w, now.Add(jitter(h.grow(r.cfg, w.Status()))))
	case w.Status() != Ready:
		r.queue.set(w, now.Add(jitter(h.grow(r.cfg, w.Status()))))
	case h.suspect:
		r.urgent.set(w, later(now, h.asked.Add(suspicionTime/time.Duration(h.cfg.Failures))))
	default:
		r.queue.set(w, now.Add(jitter(h.cfg.Interval)))
	}
}

// timedOut reports whether err is that of a check that held its place for as long
// as a worker may take, be it to connect or to answer.
func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// overdueLocked reports whether w has been starting for too long. r.mu must be
// held.
func (r *Registry) overdueLocked(w *Worker, now time.Time) bool {
	return w.Status() == Pending && now.Sub(w.health.since) >= r.cfg.StartupTimeout
}

// giveUpLocked makes w Failed. It is asked ever after, or forgotten if the
// settings say so. r.mu must be held.
func (r *Registry) giveUpLocked(w *Worker, now time.Time) {
	r.turnLocked(w, Failed, now)
	if r.cfg.RemoveUnhealthy {
		r.sayLocked(slog.LevelWarn, "worker removed: it stays unhealthy", "worker", w.base, "err", w.health.err)
		r.forgetLocked(w)
		r.touchLocked()
	}
}

// grow returns the pause after a failure: longer each time, up to a bound.
func (h *health) grow(cfg Config, st Status) time.Duration {
	bound := min(longestPause, h.cfg.Interval)
	if st == Pending {
		bound = cfg.StartupInterval
	}
	h.pause = min(max(firstPause, h.pause*3/2), bound)
	return h.pause
}

// suspectLocked asks w soon whom the request path suspects. r.mu must be held.
func (r *Registry) suspectLocked(w *Worker, now time.Time) {
	h := &w.health
	r.doubtLocked(w, now)
	switch {
	case r.byID[w.id] != w || w.Status() != Ready || h.cfg.Disabled:
	case h.asking:
		h.suspect, h.again = true, true
	case h.suspect && h.fails > 0: // being asked as often as is useful
	default:
		h.suspect = true
		at := later(now, h.asked.Add(suspectPause))
		if h.in == nil || at.Before(h.due) || h.in != &r.urgent {
			r.urgent.set(w, at)
		}
	}
}

// turnLocked gives w another status. r.mu must be held.
func (r *Registry) turnLocked(w *Worker, to Status, now time.Time) {
	h := &w.health
	from := w.Status()
	if to == Ready {
		w.readyAt.Store(&now)
	}
	w.status.Store(uint32(to))
	h.since, h.tries = now, 0
	if to != Failed { // it goes on as it was
		h.pause = 0
	}
	h.suspect, h.again, h.shaken = false, false, false
	if from == Ready {
		h.doubted = time.Time{}
		w.setVeto(^Veto(0), false)
	}
	if to == NotReady || to == Failed {
		// It may serve something else when it returns. What it is saying now
		// is not to be waited for.
		h.known, h.joinDue, h.joinPause = false, now, 0
		if h.joining {
			h.joining = false
			h.revision++
			r.jobs.Cancel(w.base)
		}
	}
	r.uncountLocked(w)
	r.dirty.Store(true)
	switch to {
	case NotReady, Failed:
		r.sayLocked(slog.LevelWarn, "worker is away", "worker", w.base, "status", to.String(), "was", from.String(), "err", h.err)
	default:
		r.sayLocked(slog.LevelInfo, "worker status changed", "worker", w.base, "status", to.String(), "was", from.String())
	}
	if f := r.opt.Events.OnStatus; f != nil {
		f(w, from, to)
	}
}

// Job returns what the Registry is about to do with the worker, or why that
// failed; ok is false if nothing is under way.
func (r *Registry) Job(id ID) (s jobs.Status, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.byID[id]
	if w == nil {
		return s, false
	}
	if s, ok = r.jobs.Status(w.base); ok {
		return s, true
	}
	h := &w.health
	s = jobs.Status{Kind: "AddWorker", Key: w.base, State: jobs.Processing, Msg: h.err, At: h.since}
	switch {
	case w.Status() == Draining:
		s.Kind = "RemoveWorker"
		return s, true
	case w.Status() == Pending:
		if h.asked.IsZero() {
			s.State = jobs.Pending
		}
		return s, true
	case w.Status() == Failed && h.found == nil:
		s.State = jobs.Failed
		return s, true
	}
	return jobs.Status{}, false
}

// jitter returns d ± 10 %, so that workers that came together are not asked
// together for ever.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
