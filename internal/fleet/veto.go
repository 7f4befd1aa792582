package fleet

import (
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"time"
)

// A Veto says why a worker that is ready should not be given requests while
// others may be. Several reasons may hold at once.
type Veto uint32

// The reasons.
const (
	Overloaded Veto = 1 << iota // too many requests wait in it, or its cache is nearly full
	Stalled                     // connections to it fail
	Wedged                      // it has requests and makes no tokens
)

// String names the reasons, "" if there are none.
func (v Veto) String() string {
	var s []string
	for i, name := range [...]string{"overloaded", "stalled", "wedged"} {
		if v&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, ", ")
}

// Reasons calls yield with each reason in v.
func (v Veto) Reasons(yield func(Veto) bool) {
	for reason := Overloaded; reason <= Wedged; reason <<= 1 {
		if v&reason != 0 && !yield(reason) {
			return
		}
	}
}

// setVeto sets or clears reasons. If w is vetoed now and was not, or the other
// way round, the Snapshot is replaced. It reports whether a reason changed.
func (w *Worker) setVeto(v Veto, on bool) bool {
	var was, is Veto
	if on {
		was = Veto(w.veto.Or(uint32(v)))
		is = was | v
	} else {
		was = Veto(w.veto.And(^uint32(v)))
		is = was &^ v
	}
	if was == is {
		return false
	}
	r := w.reg
	if (was == 0) != (is == 0) || (was^is)&Overloaded != 0 {
		r.vetoes.Store(true)
		r.dirty.Store(true)
		r.wakeUp()
	}
	if f := r.opt.Events.OnVeto; f != nil {
		f(w, was, is)
	}
	return true
}

// AnyVeto is all reasons.
const AnyVeto = Overloaded | Stalled | Wedged

// Offered returns those of ws that are to be offered to a policy: those that
// are not vetoed for a reason of mind, or all if all are. Full reports that all
// are overloaded, so that a gateway that sheds load refuses the request. It
// allocates only if some are vetoed and some are not.
func Offered(ws []*Worker, mind Veto) (offered []*Worker, full bool) {
	vetoed, over := 0, 0
	for _, w := range ws {
		v := w.Veto()
		if v&mind != 0 {
			vetoed++
		}
		if v&Overloaded != 0 {
			over++
		}
	}
	full = over > 0 && over == len(ws)
	if vetoed == 0 || vetoed == len(ws) {
		return ws, full
	}
	offered = make([]*Worker, 0, len(ws)-vetoed)
	for _, w := range ws {
		if w.Veto()&mind == 0 {
			offered = append(offered, w)
		}
	}
	if len(offered) == 0 { // the last one has been vetoed since
		return ws, full
	}
	return offered, full
}

// moved hears that a request of w's has succeeded.
func (w *Worker) moved() { w.setVeto(Stalled|Wedged, false) }

// judge finds out what w's report l shows.
func (w *Worker) judge(l *Load) {
	cfg := &w.reg.cfg
	w.setVeto(Stalled, false) // it was heard
	if cfg.Protect {
		// What is vetoed stays so until there is some room: a worker at the
		// threshold would come and go with every report.
		waiting, usage := cfg.OverWaiting, cfg.OverUsage
		if w.Veto()&Overloaded != 0 {
			waiting, usage = waiting*3/4+1, usage-0.05
		}
		w.setVeto(Overloaded, l.Waiting >= waiting || l.TokenUsage >= usage && usage > 0)
	}
	w.setVeto(Wedged, w.stuck(l, l.At))
}

// stuck reports whether w has been at a standstill since its report l, or
// before: it has requests of ours, more wait in it or many are ours, nothing of
// what it reports has changed, and none has ended.
func (w *Worker) stuck(l *Load, now time.Time) bool {
	cfg := &w.reg.cfg
	n := w.InFlight()
	return cfg.Wedge > 0 && n > 0 && l.Running > 0 && (l.Waiting > 0 || n >= pile) && w.Served() == l.served && now.Sub(l.still) >= cfg.Wedge
}

// pile is how many requests of ours make a standstill suspicious by themselves;
// fewer may be one long prompt.
const pile = 4

// sameAs reports whether nothing has moved between two reports.
func (l *Load) sameAs(o *Load) bool {
	return l.Running == o.Running && l.Waiting >= o.Waiting && l.WaitingTokens >= o.WaitingTokens && l.UsedTokens == o.UsedTokens &&
		l.TokenUsage == o.TokenUsage && l.Throughput == o.Throughput && l.HitRate == o.HitRate && l.served == o.served
}

// unheard hears that w made no report. Without one, nothing is held against it.
func (w *Worker) unheard(now time.Time, timedOut bool) {
	w.report.Lock()
	defer w.report.Unlock()
	w.setVeto(Overloaded, false)
	l := w.load.Load()
	switch {
	case l == nil || w.InFlight() == 0:
		w.setVeto(Wedged, false)
	case timedOut && w.stuck(l, now):
		w.setVeto(Wedged, true)
	}
}

// doubtLocked notes that a connection to w has failed. r.mu must be held.
func (r *Registry) doubtLocked(w *Worker, now time.Time) {
	h := &w.health
	if w.Status() != Ready || !h.doubted.IsZero() || w.Veto()&Stalled != 0 {
		return
	}
	if s := w.source.Load(); h.cfg.Disabled && s != loadSource && s != metricsSource {
		return // nobody would ask it again
	}
	h.doubted = now
	h.proof, _, _ = w.Outcomes()
	if !h.listed {
		h.listed = true
		r.doubts = append(r.doubts, w)
	}
}

// trustLocked notes that w was heard. r.mu must be held.
func (r *Registry) trustLocked(w *Worker) {
	w.health.doubted = time.Time{}
	w.setVeto(Stalled, false)
}

// stallLocked vetoes the workers that were not heard for long enough since a
// connection to them failed. It returns when it is to be called next, zero for
// not. r.mu must be held.
func (r *Registry) stallLocked(now time.Time) (next time.Time) {
	kept := r.doubts[:0]
	for _, w := range r.doubts {
		h := &w.health
		successes, _, _ := w.Outcomes()
		l := w.Load()
		heard := h.doubted.IsZero() || successes != h.proof || l != nil && l.At.After(h.doubted)
		end := h.doubted.Add(r.cfg.Stall)
		if !heard && now.Before(end) {
			kept = append(kept, w)
			if next.IsZero() || end.Before(next) {
				next = end
			}
			continue
		}
		h.doubted, h.listed = time.Time{}, false
		if !heard && r.byID[w.id] == w && w.setVeto(Stalled, true) {
			r.sayLocked(slog.LevelWarn, "worker is silent since a connection to it failed: others are preferred", "worker", w.base)
		}
	}
	clear(r.doubts[len(kept):])
	r.doubts = kept
	return next
}

// heard reports whether a check that ended with err shows that w is there: it
// was answered, be it badly.
func heard(err error) bool {
	var e *url.Error
	return err == nil || !errors.As(err, &e)
}
