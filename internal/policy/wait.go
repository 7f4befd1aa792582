package policy

import (
	"errors"
	"fmt"
	"math"
	"time"

	"sluice/internal/fleet"
)

// LeastLoadConfig says how long a worker's queue is thought to be. It is that of
// least_load; others that compare waits use the defaults.
type LeastLoadConfig struct {
	Pressure    float64 `yaml:"kv_pressure_weight" flag:"least-load-kv-pressure-weight" help:"seconds that a half full KV cache counts as; a fuller one counts as much more, 0 leaves it out"`
	Throughput  float64 `yaml:"default_throughput" flag:"least-load-default-throughput" help:"tokens per second that a worker is thought to generate if it does not say"`
	MeanPrefill int     `yaml:"mean_prefill_tokens" flag:"least-load-mean-prefill-tokens" help:"tokens that a prompt is thought to have"`
	MaxWaiting  int     `yaml:"max_waiting_requests" flag:"least-load-max-waiting-requests" help:"waiting requests, with those sent since the last report, from which a worker is passed over; requests are refused while all are; 0 for no limit"`
}

// DefaultLeastLoadConfig returns the contract's defaults.
func DefaultLeastLoadConfig() LeastLoadConfig {
	return LeastLoadConfig{Pressure: 0.15, Throughput: 2000, MeanPrefill: 1024}
}

// maxTuning bounds settings that are multiplied.
const maxTuning = 1e9

// Validate reports everything that is wrong with c.
func (c LeastLoadConfig) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !(c.Pressure >= 0 && c.Pressure <= maxTuning) {
		bad("least-load-kv-pressure-weight %v is not between 0 and 1e9", c.Pressure)
	}
	if !(c.Throughput > 0 && c.Throughput <= maxTuning) {
		bad("least-load-default-throughput %v is not above 0 and at most 1e9", c.Throughput)
	}
	if c.MeanPrefill < 1 || c.MeanPrefill > maxTuning {
		bad("least-load-mean-prefill-tokens %d is not between 1 and 1e9", c.MeanPrefill)
	}
	if c.MaxWaiting < 0 {
		bad("least-load-max-waiting-requests %d is negative", c.MaxWaiting)
	}
	return errors.Join(errs...)
}

// waits compares how long workers are thought to let a request wait: the tokens
// that wait in one and that were sent to it since it reported, times what each
// takes, and a penalty for a KV cache that is nearly full. Workers that have not
// reported lately are compared with the others by their requests, and among
// each other too.
type waits struct {
	pressure, perToken, mean float64
	limited                  bool    // by maxWaiting
	maxWaiting               float64 // requests
}

func newWaits(c LeastLoadConfig) waits {
	return waits{pressure: c.Pressure, perToken: 1 / c.Throughput, mean: float64(c.MeanPrefill), limited: c.MaxWaiting > 0, maxWaiting: float64(c.MaxWaiting)}
}

// shortest returns the worker with the shortest wait among count of a crew, from
// that at start on, each step further. Among equals the first wins. It returns
// nil if all have reported too many requests that wait.
func (p *waits) shortest(ws crew, start, step, count int, now time.Time, c *Choice) *fleet.Worker {
	best, unsaid := -1, -1 // of those that have reported, and those that have not
	wait, queue, all := math.Inf(1), 0.0, 0.0
	load, told := int64(0), 0
	at := now.UnixNano()
	for i := start; count > 0; {
		// Some are looked at before any is compared, so that the processor
		// waits for the Meters of all at once.
		var seen [atOnce]struct {
			i            int
			wait, tokens float64
		}
		n := 0
		for ; n < atOnce && count > 0; count-- {
			k, m := i, ws.meters[i]
			i = onward(i, step, len(ws.meters))
			if !m.Reported(at) {
				if n := m.InFlight(); unsaid < 0 || n < load {
					unsaid, load = k, n
				}
				continue
			}
			tokens, requests := m.Ahead()
			perToken, pressure := m.Pace()
			if perToken == 0 {
				perToken = p.perToken
			}
			told++
			all += perToken
			if p.limited && p.full(ws.workers[k]) {
				continue
			}
			s := &seen[n]
			s.i, s.tokens = k, tokens+requests*p.mean
			s.wait = s.tokens*perToken + pressure*p.pressure
			n++
		}
		for ; n < atOnce; n++ {
			seen[n].wait = math.Inf(1)
		}
		// Which is shortest is anybody's guess, and the processor's would be wrong
		// as often: there is no branch for it to take.
		a, b := less(seen[1].wait, seen[0].wait), 2+less(seen[3].wait, seen[2].wait)
		a += (b - a) & -less(seen[b].wait, seen[a].wait)
		if s := &seen[a]; s.wait < wait {
			best, wait, queue = s.i, s.wait, s.tokens
		}
	}
	if unsaid >= 0 {
		tokens := float64(load) * p.mean
		if best < 0 || tokens*all < wait*float64(told) {
			best, queue = unsaid, tokens
		}
	}
	// The prompt counts as one of the mean length: these policies do not read
	// it, and what they send must weigh something until the next report.
	c.Why, c.Queue, c.Prompt, c.Uncached = "soonest", int64(queue), int64(p.mean), int64(p.mean)
	if told == 0 {
		c.Why = "fewest"
	}
	if best < 0 {
		return nil
	}
	return ws.workers[best]
}

// less returns 1 if a is less than b, else 0. Neither may be negative: the bits of
// such floats are in order too.
func less(a, b float64) int { return int((math.Float64bits(a) - math.Float64bits(b)) >> 63) }

// full reports whether too many requests wait in w, by its last report.
func (p *waits) full(w *fleet.Worker) bool {
	l := w.Load()
	since := max(int64(w.Started()-l.Started), 0) // one that is just ending may be missed in either
	return float64(l.Waiting)+float64(since) >= p.maxWaiting
}

// atOnce is how many workers are looked at at once.
const atOnce = 4

// A crew is workers with their Meters beside them: comparing some of thousands
// must not wait for anything but those.
type crew struct {
	workers []*fleet.Worker
	meters  []*fleet.Meter // of workers, each
}

func crewOf(ws []*fleet.Worker) crew {
	c := crew{ws, make([]*fleet.Meter, len(ws))}
	for i, w := range ws {
		c.meters[i] = w.Meter()
	}
	return c
}
