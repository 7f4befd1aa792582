package route

import (
	"cmp"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/metric"
)

// Metrics is what routing counts. The names and labels are the contract's.
// Label values that are the same for every request here: router_type and
// connection_mode are "http", backend_type and worker_type "regular".
type Metrics struct {
	Requests   *metric.CounterVec   `name:"smg_router_requests_total" labels:"router_type,backend_type,connection_mode,model,endpoint,streaming" help:"requests that were routed"`
	Duration   *metric.HistogramVec `name:"smg_router_request_duration_seconds" labels:"router_type,backend_type,connection_mode,model,endpoint" buckets:"duration" help:"time from the request's arrival to the last byte of its answer"`
	Errors     *metric.CounterVec   `name:"smg_router_request_errors_total" labels:"router_type,backend_type,connection_mode,model,endpoint,error_type" help:"requests that ended in an error of the gateway or of the last worker asked"`
	Upstream   *metric.CounterVec   `name:"smg_router_upstream_responses_total" labels:"router_type,status_code,error_code" help:"answers of workers, one for each attempt"`
	TTFT       *metric.HistogramVec `name:"smg_router_ttft_seconds" labels:"router_type,backend_type,model,endpoint" buckets:"duration" help:"time from the request's arrival to the first byte of its stream"`
	TPOT       *metric.HistogramVec `name:"smg_router_tpot_seconds" labels:"router_type,backend_type,model,endpoint" buckets:"duration" help:"mean time between two tokens of a stream"`
	Generation *metric.HistogramVec `name:"smg_router_generation_duration_seconds" labels:"router_type,backend_type,model,endpoint" buckets:"duration" help:"time from the request's arrival to the end of its stream"`
	Tokens     *metric.CounterVec   `name:"smg_router_tokens_total" labels:"router_type,backend_type,model,endpoint,token_type" help:"tokens as workers counted them; token_type is input, cached or output"`

	Selections *metric.CounterVec   `name:"smg_worker_selection_total" labels:"worker_type,connection_mode,model,policy" help:"choices of a worker"`
	Worker     *metric.CounterVec   `name:"smg_worker_requests_total" labels:"worker,model" help:"attempts sent to a worker"`
	WorkerErr  *metric.CounterVec   `name:"smg_worker_errors_total" labels:"worker_type,connection_mode,error_type" help:"attempts that failed"`
	Retries    *metric.CounterVec   `name:"smg_worker_retries_total" labels:"worker_type,endpoint" help:"attempts after the first"`
	Exhausted  *metric.CounterVec   `name:"smg_worker_retries_exhausted_total" labels:"worker_type,endpoint" help:"requests for which no further worker was left to try"`
	Backoff    *metric.HistogramVec `name:"smg_worker_retry_backoff_seconds" labels:"attempt" buckets:"duration" help:"pauses before further attempts"`

	Outcomes *metric.CounterVecFunc `name:"smg_worker_cb_outcomes_total" labels:"worker,outcome" help:"what attempts told a worker's circuit breaker: success, failure or neutral" max:"24576"`

	policy string
	good   [600]atomic.Pointer[metric.Counter] // of Upstream, by the status of answers without an error
}

const (
	routerType = "http"
	regular    = "regular"
	httpMode   = "http"
)

// modelMetrics are the metrics of one model. What a call needs is bound at its
// first request and kept.
type modelMetrics struct {
	of    *Metrics
	model string
	used  atomic.Bool // something was counted
	calls [infer.NumEndpoints][2]atomic.Pointer[callMetrics]

	selections atomic.Pointer[metric.Counter]
}

// A member is a worker of a model, with what is counted of it there.
type member struct {
	requests atomic.Pointer[metric.Counter]
}

// callMetrics are the metrics of one model, endpoint and way of answering.
type callMetrics struct {
	requests              *metric.Counter
	duration, ttft, tpot  *metric.Histogram
	generation            *metric.Histogram
	input, cached, output *metric.Counter
	model, endpoint       string
}

// of returns the metrics of a model, with nothing counted.
func (m *Metrics) of(model string) *modelMetrics {
	return &modelMetrics{of: m, model: cmp.Or(model, "unknown")}
}

// forget drops what was counted of a model that no worker serves any more. If
// workers could leave names behind, one that changes its own would use up
// everybody's sets of labels.
func (mm *modelMetrics) forget() {
	if !mm.used.Load() || mm.model == "unknown" {
		return
	}
	m := mm.of
	for _, v := range []interface{ DeleteLabel(name, value string) }{
		m.Requests, m.Duration, m.Errors, m.TTFT, m.TPOT, m.Generation, m.Tokens, m.Selections, m.Worker,
	} {
		v.DeleteLabel("model", mm.model)
	}
}

// bound returns the metrics of r's call.
func (mm *modelMetrics) bound(r *infer.Request) *callMetrics {
	s := 0
	if r.Stream {
		s = 1
	}
	slot := &mm.calls[r.Endpoint][s]
	if c := slot.Load(); c != nil {
		return c
	}
	mm.used.Store(true)
	m, e := mm.of, r.Endpoint.Label()
	c := &callMetrics{
		requests:   m.Requests.With(routerType, regular, httpMode, mm.model, e, strconv.FormatBool(r.Stream)),
		duration:   m.Duration.With(routerType, regular, httpMode, mm.model, e),
		ttft:       m.TTFT.With(routerType, regular, mm.model, e),
		tpot:       m.TPOT.With(routerType, regular, mm.model, e),
		generation: m.Generation.With(routerType, regular, mm.model, e),
		input:      m.Tokens.With(routerType, regular, mm.model, e, "input"),
		cached:     m.Tokens.With(routerType, regular, mm.model, e, "cached"),
		output:     m.Tokens.With(routerType, regular, mm.model, e, "output"),
		model:      mm.model, endpoint: e,
	}
	slot.Store(c) // a second goroutine binds the same ones
	return c
}

// served records what became of a request.
func (m *Metrics) served(c *callMetrics, r *infer.Request, w *infer.Reply, err error, now time.Time) {
	took, n := now.Sub(r.Received), w.Served.Tokens
	t := metric.Take()
	c.duration.ObserveWith(t, took.Seconds())
	c.input.AddWith(t, float64(n.Input))
	c.cached.AddWith(t, float64(n.Cached))
	c.output.AddWith(t, float64(n.Output))
	if r.Stream && w.Committed() && w.Status() < 400 {
		c.ttft.ObserveWith(t, w.Served.FirstByte.Seconds())
		c.generation.ObserveWith(t, took.Seconds())
		pieces := n.Output
		if pieces == 0 {
			pieces = w.Served.Events
		}
		if pieces > 1 {
			c.tpot.ObserveWith(t, (took-w.Served.FirstByte).Seconds()/float64(pieces-1))
		}
	}
	t.Give()
	if err != nil {
		m.Errors.With(routerType, regular, httpMode, c.model, c.endpoint, errorType(err)).Inc()
	}
}

// unrouted records a request that no route was found for. Its model is not a
// label: anybody can invent names.
func (m *Metrics) unrouted(r *infer.Request, err error) {
	m.Errors.With(routerType, regular, httpMode, "unknown", r.Endpoint.Label(), errorType(err)).Inc()
}

// selected records that w was chosen.
func (rt *Route) selected(w *fleet.Worker) {
	mm, m := rt.metrics, rt.members[w]
	selections, requests := mm.selections.Load(), m.requests.Load()
	if selections == nil {
		selections = mm.of.Selections.With(regular, httpMode, mm.model, mm.of.policy)
		mm.selections.Store(selections)
	}
	// A worker that drains is soon forgotten, or is: what began now would stay
	// for ever.
	if requests == nil && w.Status() != fleet.Draining {
		requests = mm.of.Worker.With(w.Base(), mm.model)
		m.requests.Store(requests)
	}
	t := metric.Take()
	selections.AddWith(t, 1)
	requests.AddWith(t, 1)
	t.Give()
}

// outcomes yields what requests showed of the workers that there are. They
// count that themselves.
func (rt *Router) outcomes(yield func(value float64, labels ...string)) {
	for _, w := range rt.table.Load().workers {
		var n [3]uint64
		n[breaker.Success], n[breaker.Failure], n[breaker.Neutral] = w.Outcomes()
		for o, n := range n {
			if n > 0 {
				yield(float64(n), w.Base(), breaker.Outcome(o).String())
			}
		}
	}
}

// answered records an attempt's end.
func (m *Metrics) answered(w *infer.Reply, err error) {
	if err != nil {
		e := infer.AsError(err)
		m.Upstream.With(routerType, strconv.Itoa(e.Status), e.Code).Inc()
		m.WorkerErr.With(regular, httpMode, errorType(err)).Inc()
		return
	}
	status := w.Status()
	if status < 0 || status >= len(m.good) {
		m.Upstream.With(routerType, strconv.Itoa(status), "").Inc()
		return
	}
	c := m.good[status].Load()
	if c == nil {
		c = m.Upstream.With(routerType, strconv.Itoa(status), "")
		m.good[status].Store(c)
	}
	c.Inc()
}

func (m *Metrics) retry(r *infer.Request, n int, d time.Duration) {
	m.Retries.With(regular, r.Endpoint.Label()).Inc()
	m.Backoff.With(strconv.Itoa(min(n, 10))).Observe(d.Seconds())
}

func (m *Metrics) exhausted(r *infer.Request) {
	m.Exhausted.With(regular, r.Endpoint.Label()).Inc()
}

// Forget drops the metrics of workers that have left.
func (m *Metrics) Forget(worker string) {
	m.Worker.DeleteLabel("worker", worker)
}

// errorType is err in the contract's few words.
func errorType(err error) string {
	var e *infer.Error
	if !errors.As(err, &e) {
		return "internal_error"
	}
	switch {
	case e.Status == infer.StatusClientGone:
		return "client_closed"
	case e.Code == "no_workers" || e.Code == "no_available_workers" || e.Code == "model_not_found":
		return "no_workers"
	case e.Status == 504 && e.Answer == nil:
		return "timeout"
	case e.Status < 500 && e.Answer == nil:
		return "validation_error"
	case e.Code == "internal_error":
		return "internal_error"
	}
	return "backend_error"
}
