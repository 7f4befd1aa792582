package fleet

import (
	"math"
	"sync/atomic"
	"time"

	"sluice/internal/kit/breaker"
)

// A Meter shows how busy a worker is: what this gateway has given it, and the
// essence of its last report. Whoever compares many workers keeps their Meters
// at hand instead of the Workers.
//
// It is one cache line, and Meters lie side by side. Every request writes to one,
// from any core, and what is compared is read with it; nothing else is near.
type Meter struct {
	inflight atomic.Int32
	queued   atomic.Uint32 // requests that waited in it, if it did not say how many tokens
	sent     atomic.Int64  // tokens of prompts sent since the worker was made
	prefill  atomic.Int64  // tokens of prompts, not yet answered, that it has to compute
	context  atomic.Int64  // tokens of the prompts of requests that have not ended
	success  atomic.Uint64 // requests that have ended well

	// Of the last report. They are written one after another: who reads
	// meanwhile has some of the one before, once.
	ahead atomic.Int64  // tokens that waited in it, less those sent until then
	pace  atomic.Uint64 // float32 of the seconds that a token takes it, and of its cache's pressure
	until atomic.Int64  // the Unix time in nanoseconds to which it is believed, 0 for no report
}

// reach is for how long a Meter's report is believed at most, whoever's clock is
// wrong.
const reach = time.Hour + farAhead

// Reported reports whether the worker's last report is to be believed at a time,
// the Unix time in nanoseconds.
func (m *Meter) Reported(unixNano int64) bool {
	return uint64(m.until.Load()-unixNano) <= uint64(reach)
}

// Ahead returns, by the last report, how many tokens wait to be computed or were
// sent since, and how many requests wait of which it was not told how many tokens
// they have.
func (m *Meter) Ahead() (tokens, requests float64) {
	ahead := m.ahead.Load() // first: sent only grows, so the sum is never negative
	return float64(ahead + m.sent.Load()), float64(m.queued.Load())
}

// Pace returns, by the last report, how many seconds a token takes, 0 if that is
// unknown, and k/(1-k) of the used part k of the worker's cache, at most 999.
func (m *Meter) Pace() (perToken, pressure float64) {
	p := m.pace.Load()
	return float64(math.Float32frombits(uint32(p >> 32))), float64(math.Float32frombits(uint32(p)))
}

// report takes over what l says.
func (m *Meter) report(l *Load) {
	requests := uint32(0)
	if l.WaitingTokens == 0 {
		requests = uint32(min(l.Waiting, math.MaxUint32))
	}
	perToken := 0.0
	if l.Throughput > 0 {
		perToken = min(1/l.Throughput, math.MaxFloat32)
	}
	usage := min(l.TokenUsage, 0.999)
	m.queued.Store(requests)
	m.ahead.Store(l.WaitingTokens - l.Sent)
	m.pace.Store(uint64(math.Float32bits(float32(perToken)))<<32 | uint64(math.Float32bits(float32(usage/(1-usage)))))
	m.until.Store(min(l.until, l.At.Add(time.Hour).UnixNano()))
}

// InFlight returns how many requests this gateway has with the worker.
func (m *Meter) InFlight() int64 { return int64(m.inflight.Load()) }

// Prefill returns how many tokens the worker has to compute, by the estimate of
// those who sent them, before it has begun to answer all of this gateway's
// requests.
func (m *Meter) Prefill() int64 { return m.prefill.Load() }

// Context returns how many tokens the prompts of the worker's running requests of
// this gateway have.
func (m *Meter) Context() int64 { return m.context.Load() }

// Sent returns how many tokens of prompts this gateway has sent to the worker. It
// only grows.
func (m *Meter) Sent() int64 { return m.sent.Load() }

// Meter returns what shows how busy w is. It is always the same.
func (w *Worker) Meter() *Meter { return w.meter }

// InFlight is that of w's Meter, and so are the others.
func (w *Worker) InFlight() int64 { return w.meter.InFlight() }

// Prefill is that of w's Meter.
func (w *Worker) Prefill() int64 { return w.meter.Prefill() }

// Context is that of w's Meter.
func (w *Worker) Context() int64 { return w.meter.Context() }

// Sent is that of w's Meter.
func (w *Worker) Sent() int64 { return w.meter.Sent() }

// Served returns how many requests of this gateway have ended at w.
func (w *Worker) Served() uint64 {
	success, failure, neutral := w.Outcomes()
	return success + failure + neutral
}

// Outcomes returns how the requests of Served ended. Each number only grows.
func (w *Worker) Outcomes() (success, failure, neutral uint64) {
	return w.meter.success.Load(), w.failure.Load(), w.neutral.Load()
}

// end counts how a request ended.
func (w *Worker) end(o breaker.Outcome) {
	switch o {
	case breaker.Success:
		w.meter.success.Add(1)
	case breaker.Failure:
		w.failure.Add(1)
	default:
		w.neutral.Add(1)
	}
}
