package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	longest    = 2 * time.Hour // what a distribution can hold; longer ones count as this
	finest     = 100           // ns that it tells apart, about
	maxWorkers = 1024          // worker names counted one by one
	others     = "(others)"
)

// A dist is a distribution of times.
type dist struct {
	h   *hdrhistogram.Histogram
	n   int64
	sum float64 // ns
	max time.Duration
}

func newDist() *dist { return &dist{h: hdrhistogram.New(finest, int64(longest), 3)} }

func (d *dist) add(v time.Duration) {
	v = min(max(v, 0), longest)
	d.n++
	d.sum += float64(v)
	d.max = max(d.max, v)
	if err := d.h.RecordValue(int64(v)); err != nil {
		panic("BUG: a time within bounds cannot be recorded: " + err.Error())
	}
}

// at returns the time that a share q of all, 0 to 1, is not above.
func (d *dist) at(q float64) time.Duration {
	return min(time.Duration(d.h.ValueAtPercentile(q*100)), d.max)
}

// tally is everything that is counted during a run.
type tally struct {
	planned, begun       int64 // measured requests: due, and sent
	ok, failed           int64
	unfinished, shed     int64
	warmup, warmupFailed int64
	ended, failures      int64 // of warm-up too
	answers              int64 // those that say how many tokens there were
	input, cached        int64
	output               int64
	sent, received       int64
	ttft, gap, perToken  *dist
	latency, lag         *dist
	statuses             map[int]int64
	errors               map[string]*ErrorCount
	workers              map[string]int64

	// What fell into the measured time: a request that was partly outside
	// counts for the part inside.
	okShare, endedShare     float64
	inputShare, outputShare float64

	lastEnd time.Time
}

// A recorder takes in answers from all goroutines of a run.
type recorder struct {
	from, until time.Time // constant; the measured time. until is zero if it has no set end

	mu sync.Mutex
	t  tally // guarded by mu
}

func newRecorder(from, until time.Time) *recorder {
	return &recorder{from: from, until: until, t: tally{
		ttft: newDist(), gap: newDist(), perToken: newDist(), latency: newDist(), lag: newDist(),
		statuses: map[int]int64{}, errors: map[string]*ErrorCount{}, workers: map[string]int64{},
	}}
}

func (r *recorder) measured(planned time.Time) bool { return !planned.Before(r.from) }

// begin counts a request that is sent.
func (r *recorder) begin(planned time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.measured(planned) {
		r.t.warmup++
		return
	}
	r.t.planned++
	r.t.begun++
}

// shed counts a request that was due and could not be sent.
func (r *recorder) shed(planned time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.measured(planned) {
		r.t.planned++
		r.t.shed++
	}
}

func (r *recorder) gaps(gaps []time.Duration, planned time.Time) {
	if !r.measured(planned) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range gaps {
		r.t.gap.add(g)
	}
}

// add takes in a and returns how many requests have failed so far.
func (r *recorder) add(a *answer) (failures int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.t
	if a.kind != "" {
		t.failures++
	}
	output := a.usage.output
	if output == 0 {
		output = a.events
	}
	if !a.unfinished {
		t.ended++
		share := r.share(a)
		t.endedShare += share
		if a.kind == "" {
			t.okShare += share
			t.outputShare += share * float64(output)
			t.inputShare += share * float64(a.usage.prompt())
		}
		if a.end.After(t.lastEnd) {
			t.lastEnd = a.end
		}
	}
	if !r.measured(a.planned) {
		if a.kind != "" {
			t.warmupFailed++
		}
		return t.failures
	}
	t.sent += a.sent
	t.received += a.received
	t.lag.add(a.begun.Sub(a.planned))
	if a.status != 0 {
		t.statuses[a.status]++
	}
	if a.worker != "" {
		t.countWorker(a.worker)
	}
	switch {
	case a.unfinished:
		t.unfinished++
	case a.kind != "":
		t.failed++
		e := t.errors[a.kind]
		if e == nil {
			e = &ErrorCount{Example: a.example}
			t.errors[a.kind] = e
		}
		e.Count++
	default:
		t.addOK(a, output)
	}
	return t.failures
}

func (t *tally) addOK(a *answer, output int64) {
	t.ok++
	if a.usage.seen {
		t.answers++
	}
	t.input += a.usage.prompt()
	t.cached += a.usage.hits()
	t.output += output
	t.latency.add(a.end.Sub(a.planned))
	if a.events > 0 {
		t.ttft.add(a.first.Sub(a.planned))
		if output > 1 {
			t.perToken.add(a.last.Sub(a.first) / time.Duration(output-1))
		}
	}
}

func (t *tally) countWorker(name string) {
	if len(name) > 256 {
		name = name[:256]
	}
	if _, ok := t.workers[name]; !ok && len(t.workers) >= maxWorkers {
		name = others
	}
	t.workers[name]++
}

// share returns which part of a, 0 to 1, fell into the measured time.
func (r *recorder) share(a *answer) float64 {
	begin, end := a.begun, a.end
	if begin.Before(r.from) {
		begin = r.from
	}
	if !r.until.IsZero() && end.After(r.until) {
		end = r.until
	}
	switch whole := a.end.Sub(a.begun); {
	case end.Before(begin):
		return 0
	case whole <= 0:
		return 1
	default:
		return float64(end.Sub(begin)) / float64(whole)
	}
}
