package fleet

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// What came of asking a worker for its load.
const (
	reportSuccess = iota
	reportAbsent
	reportTimeout
	reportUnreadable
	reportFailure
	numReportResults
)

var reportResults = [numReportResults]string{"success", "absent", "timeout", "unreadable", "failure"}

// Reports calls yield with each result that asking w for its load has had, and how
// often: success, absent (there is no such endpoint), timeout, unreadable (or it
// cannot be true), or failure (no connection, or a bad status).
func (w *Worker) Reports(yield func(result string, n uint64) bool) {
	for i, name := range reportResults {
		if n := w.reports[i].Load(); n > 0 && !yield(name, n) {
			return
		}
	}
}

// An unreadableError is a report that says nothing, or what cannot be.
type unreadableError struct {
	w   *Worker
	err error
}

// Error implements error.
func (e *unreadableError) Error() string {
	return fmt.Sprintf("reading worker %s's load: %v", e.w.base, e.err)
}

// Unwrap returns what is wrong with it.
func (e *unreadableError) Unwrap() error { return e.err }

func reportResult(err error) int {
	var unreadable *unreadableError
	switch {
	case err == nil:
		return reportSuccess
	case errors.Is(err, errAbsent), errors.Is(err, errNoGauges):
		return reportAbsent
	case timedOut(err):
		return reportTimeout
	case errors.As(err, &unreadable):
		return reportUnreadable
	}
	return reportFailure
}

// muteness is what is known of a worker that makes no reports.
type muteness struct {
	misses int  // in a row
	said   bool // in the log
}

// manyMisses is how many questions in a row have no good answer before the log says
// so: one is a hiccup.
const manyMisses = 2

// A process is what a worker's reports show of the process that makes them.
type process struct {
	start  float64   // of the newest one
	done   float64   // tokens, at the last report
	before float64   // likewise, before they fell last
	at     time.Time // of the last report
	epoch  uint64    // of the worker, then
	many   bool      // several answer at one URL, in turns
	gone   bool      // nobody listened when it was asked last, and nobody else asks
}

// severalFrom is how many tokens nobody computes from one report to the next: who
// has so many more is another process.
const severalFrom = 1e6

// noteReport notes what came of asking w at the time asked, l or err. checked says
// that health checks look after w.
func (r *Registry) noteReport(w *Worker, l *Load, err error, asked, now time.Time, checked bool) {
	w.reports[reportResult(err)].Add(1)
	w.report.Lock()
	var mute, again, anew bool
	if err == nil {
		again, w.mute = w.mute.said, muteness{}
		anew = w.anewLocked(l, asked)
	} else {
		w.process.gone = w.process.gone || !checked && absent(err)
		mute = w.missedLocked(err, now)
	}
	w.report.Unlock()
	if mute {
		r.sayLater(slog.LevelWarn, "worker's load is unknown: it makes no report that can be used", "worker", w.base, "err", err)
	}
	if again {
		r.sayLater(slog.LevelInfo, "worker's load is known again", "worker", w.base)
	}
	if anew {
		r.sayLater(slog.LevelInfo, startedAnew, "worker", w.base)
	}
}

// missedLocked counts a question without a good answer, and reports whether the log
// is to say that w's load is unknown: its last report has become too old, or it
// never made one. Who has no such endpoint and never had is not expected to.
// w.report must be held.
func (w *Worker) missedLocked(err error, now time.Time) bool {
	m := &w.mute
	if w.load.Load() == nil && reportResult(err) == reportAbsent {
		return false
	}
	m.misses++
	if m.said || m.misses < manyMisses || w.Believed(now) != nil || w.Status() != Ready {
		return false
	}
	m.said = true
	return true
}

// anewLocked reports whether l, for which w was asked at the time asked, shows that
// w is another process than it was, which has lost its cache, and that nothing else
// has shown it. w.report must be held.
func (w *Worker) anewLocked(l *Load, asked time.Time) bool {
	p := &w.process
	anew := p.gone
	switch {
	case l.start > 0:
		// If several processes answer in turns, only the first answer of one is new.
		anew = anew || p.start > 0 && l.start >= p.start+1
		p.start = max(p.start, l.start)
	case l.counts && asked.After(p.at): // else it may be older than the last one
		p.many = p.many || p.before >= severalFrom && l.done >= p.before
		p.before = 0
		if l.done < p.done {
			anew = anew || !p.many
			p.before = p.done
		}
		p.done = l.done
	}
	p.at, p.gone = l.At, false
	if anew = anew && p.epoch == w.Epoch(); anew {
		w.Forgot()
	}
	p.epoch = w.Epoch()
	return anew
}

// sayLater is sayLocked for those who do not hold r.mu.
func (r *Registry) sayLater(level slog.Level, msg string, args ...any) {
	r.mu.Lock()
	r.sayLocked(level, msg, args...)
	r.mu.Unlock()
	r.wakeUp()
}
