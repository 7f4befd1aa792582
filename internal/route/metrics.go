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

// Metrics is what routing counts. The names and labels are the contract's, where
// they do not begin with sluice. router_type and connection_mode are always
// "http"; backend_type is regular, pd or external, worker_type regular, prefill,
// decode or external.
type Metrics struct {
	Requests   *metric.CounterVec   `name:"smg_router_requests_total" labels:"router_type,backend_type,connection_mode,model,endpoint,streaming" help:"requests that were routed"`
	Duration   *metric.HistogramVec `name:"smg_router_request_duration_seconds" labels:"router_type,backend_type,connection_mode,model,endpoint" buckets:"duration" help:"time from the request's arrival to the last byte of its answer"`
	Errors     *metric.CounterVec   `name:"smg_router_request_errors_total" labels:"router_type,backend_type,connection_mode,model,endpoint,error_type" help:"requests that ended in an error of the gateway or of the last worker asked"`
	Upstream   *metric.CounterVec   `name:"smg_router_upstream_responses_total" labels:"router_type,status_code,error_code" help:"answers of workers, one for each attempt"`
	TTFT       *metric.HistogramVec `name:"smg_router_ttft_seconds" labels:"router_type,backend_type,model,endpoint" buckets:"duration" help:"time from the request's arrival to the first byte of its stream"`
	TPOT       *metric.HistogramVec `name:"smg_router_tpot_seconds" labels:"router_type,backend_type,model,endpoint" buckets:"duration" help:"mean time between two tokens of a stream"`
	Generation *metric.HistogramVec `name:"smg_router_generation_duration_seconds" labels:"router_type,backend_type,model,endpoint" buckets:"duration" help:"time from the request's arrival to the end of its stream"`
	Tokens     *metric.CounterVec   `name:"smg_router_tokens_total" labels:"router_type,backend_type,model,endpoint,token_type" help:"tokens as workers counted them; token_type is input, cached or output"`

	Selections *metric.CounterVec     `name:"smg_worker_selection_total" labels:"worker_type,connection_mode,model,policy" help:"choices of a worker"`
	Worker     *metric.CounterVecFunc `name:"smg_worker_requests_total" labels:"worker,model" help:"attempts sent to a worker" max:"16384"`
	WorkerErr  *metric.CounterVec     `name:"smg_worker_errors_total" labels:"worker_type,connection_mode,error_type" help:"attempts that failed"`
	Retries    *metric.CounterVec     `name:"smg_worker_retries_total" labels:"worker_type,endpoint" help:"attempts after the first"`
	Exhausted  *metric.CounterVec     `name:"smg_worker_retries_exhausted_total" labels:"worker_type,endpoint" help:"requests for which no further worker was left to try"`
	Backoff    *metric.HistogramVec   `name:"smg_worker_retry_backoff_seconds" labels:"attempt" buckets:"duration" help:"pauses before further attempts"`

	Overload *metric.CounterVec `name:"smg_worker_overload_fallback_total" labels:"stage" help:"attempts sent to an overloaded worker because all were; stage is regular, prefill, decode or external"`
	Liveness *metric.CounterVec `name:"smg_worker_liveness_fallback_total" labels:"stage" help:"attempts sent to a worker that stalls or makes no tokens because all do"`
	Shed     *metric.CounterVec `name:"smg_worker_overload_shed_total" labels:"stage" help:"requests refused because all workers are overloaded (--worker-overload-shed)"`

	Outcomes *metric.CounterVecFunc `name:"smg_worker_cb_outcomes_total" labels:"worker,outcome" help:"what attempts told a worker's circuit breaker: success, failure or neutral" max:"24576"`

	Prompt     *metric.CounterVec   `name:"sluice_route_prompt_tokens_total" labels:"model" help:"tokens of the prompts that were routed, as the policy estimates them; policies that do not look at prompts count none"`
	Hit        *metric.CounterVec   `name:"sluice_route_hit_tokens_total" labels:"model" help:"of those, tokens that the chosen worker was thought to have in its cache"`
	Imbalance  *metric.GaugeVecFunc `name:"sluice_route_imbalance_ratio" labels:"model,worker_type,of" help:"the busiest worker's share of a model's load against the mean, 1 if all have the same; of is requests or prefill_tokens"`
	Decisions  *metric.HistogramVec `name:"sluice_route_decision_seconds" labels:"policy" buckets:"0.0000001,0.00000025,0.0000005,0.000001,0.0000025,0.000005,0.00001,0.000025,0.00005,0.0001,0.00025,0.0005,0.001,0.01" help:"time that the choice of a worker took; one in 64 is timed"`
	Unrecorded *metric.Counter      `name:"sluice_route_log_dropped_total" help:"lines of --route-log that could not be written fast enough, or not at all"`

	good [600]atomic.Pointer[metric.Counter] // of Upstream, by the status of answers without an error
}

const (
	routerType = "http"
	httpMode   = "http"
)

// modelMetrics are the metrics of one model. What a call needs is bound at its
// first request and kept.
type modelMetrics struct {
	of    *Metrics
	model string
	used  atomic.Bool // something was counted
	calls [numFamilies][infer.NumEndpoints][2]atomic.Pointer[callMetrics]

	prompt, hit atomic.Pointer[metric.Counter]
}

// callMetrics are the metrics of one model, endpoint and way of answering.
type callMetrics struct {
	requests              *metric.Counter
	duration, ttft, tpot  *metric.Histogram
	generation            *metric.Histogram
	input, cached, output *metric.Counter
	model, endpoint       string
	family                Family
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
		m.Requests, m.Duration, m.Errors, m.TTFT, m.TPOT, m.Generation, m.Tokens, m.Selections, m.Prompt, m.Hit,
	} {
		v.DeleteLabel("model", mm.model)
	}
}

// bound returns the metrics of r's call to a family.
func (mm *modelMetrics) bound(f Family, r *infer.Request) *callMetrics {
	s := 0
	if r.Stream {
		s = 1
	}
	slot := &mm.calls[f][r.Endpoint][s]
	if c := slot.Load(); c != nil {
		return c
	}
	mm.used.Store(true)
	m, e, b := mm.of, r.Endpoint.Label(), f.label()
	c := &callMetrics{
		requests:   m.Requests.With(routerType, b, httpMode, mm.model, e, strconv.FormatBool(r.Stream)),
		duration:   m.Duration.With(routerType, b, httpMode, mm.model, e),
		ttft:       m.TTFT.With(routerType, b, mm.model, e),
		tpot:       m.TPOT.With(routerType, b, mm.model, e),
		generation: m.Generation.With(routerType, b, mm.model, e),
		input:      m.Tokens.With(routerType, b, mm.model, e, "input"),
		cached:     m.Tokens.With(routerType, b, mm.model, e, "cached"),
		output:     m.Tokens.With(routerType, b, mm.model, e, "output"),
		model:      mm.model, endpoint: e, family: f,
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
		m.Errors.With(routerType, c.family.label(), httpMode, c.model, c.endpoint, errorType(err)).Inc()
	}
}

// unrouted records a request that no route was found for. Its model is not a
// label: anybody can invent names.
func (m *Metrics) unrouted(r *infer.Request, err error) {
	m.Errors.With(routerType, HTTPRegular.label(), httpMode, "unknown", r.Endpoint.Label(), errorType(err)).Inc()
}

// selected records that t's team was chosen, for which attempt.
func (rt *Route) selected(w *way, t *trip, try int) {
	k := metric.Take()
	rt.chosen(w.lead, t.team.Lead).AddWith(k, 1)
	c := &t.lead.choice
	if t.paired {
		rt.chosen(w.prefill, t.team.Prefill).AddWith(k, 1)
		c = &t.prefill.choice
	}
	if c.Prompt > 0 && try == 1 {
		mm := rt.metrics
		mm.counter(&mm.prompt, mm.of.Prompt).AddWith(k, float64(c.Prompt))
		mm.counter(&mm.hit, mm.of.Hit).AddWith(k, float64(c.Prompt-c.Uncached))
	}
	k.Give()
}

// chosen counts an attempt of w, and returns where choices are counted.
func (rt *Route) chosen(s *side, w *fleet.Worker) *metric.Counter {
	rt.members[w.Slot()].requests.Add(1)
	if s.worst != nil {
		s.worst.Inc()
	}
	selections := s.selections.Load()
	if selections == nil {
		mm := rt.metrics
		selections = mm.of.Selections.With(s.place.label(), httpMode, mm.model, s.name)
		s.selections.Store(selections)
	}
	return selections
}

// counter returns the model's counter of v, which it keeps in slot.
func (mm *modelMetrics) counter(slot *atomic.Pointer[metric.Counter], v *metric.CounterVec) *metric.Counter {
	c := slot.Load()
	if c == nil {
		c = v.With(mm.model)
		slot.Store(c)
	}
	return c
}

// routes calls yield with each route that there is.
func (t *Table) routes(yield func(*Route) bool) {
	if t.wild != nil && !yield(t.wild) {
		return
	}
	for name, rt := range t.models {
		if name == rt.Model && !yield(rt) { // not an alias
			return
		}
	}
}

// requests yields how many attempts the workers that there are were sent.
func (rt *Router) requests(yield func(value float64, labels ...string)) {
	for r := range rt.table.Load().routes {
		for _, w := range r.claimed {
			if n := r.members[w.Slot()].requests.Load(); n > 0 {
				yield(float64(n), w.Base(), r.metrics.model)
			}
		}
	}
}

// imbalances yields how unevenly models' workers are busy. Of models that have
// nothing to do there is nothing to say.
func (rt *Router) imbalances(yield func(value float64, labels ...string)) {
	for r := range rt.table.Load().routes {
		for i := range r.ways {
			for s := range r.ways[i].sides {
				if len(s.workers) < 2 {
					continue
				}
				for of, load := range loads {
					if v := imbalance(s.workers, load); v > 0 {
						yield(v, r.metrics.model, s.place.label(), of)
					}
				}
			}
		}
	}
}

var loads = map[string]func(*fleet.Worker) int64{"requests": (*fleet.Worker).InFlight, "prefill_tokens": (*fleet.Worker).Prefill}

// imbalance is the greatest load against the mean, 0 if there is no load.
func imbalance(ws []*fleet.Worker, load func(*fleet.Worker) int64) float64 {
	most, sum := int64(0), int64(0)
	for _, w := range ws {
		n := max(load(w), 0)
		most, sum = max(most, n), sum+n
	}
	if sum == 0 {
		return 0
	}
	return float64(most) * float64(len(ws)) / float64(sum)
}

// outcomes yields what requests showed of the workers that there are. They
// count that themselves.
func (rt *Router) outcomes(yield func(value float64, labels ...string)) {
	for _, w := range rt.table.Load().snap.All {
		var n [3]uint64
		n[breaker.Success], n[breaker.Failure], n[breaker.Neutral] = w.Outcomes()
		for o, n := range n {
			if n > 0 {
				yield(float64(n), w.Base(), breaker.Outcome(o).String())
			}
		}
	}
}

// refused records a request that only overloaded workers of w could serve.
func (m *Metrics) refused(w *way) {
	for s := range w.sides {
		if s.shed {
			m.Shed.With(s.place.label()).Inc()
			return
		}
	}
}

// answered records an attempt's end.
func (m *Metrics) answered(way *way, w *infer.Reply, err error) {
	if err != nil {
		e := infer.AsError(err)
		m.Upstream.With(routerType, strconv.Itoa(e.Status), e.Code).Inc()
		m.WorkerErr.With(way.lead.place.label(), httpMode, errorType(err)).Inc()
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

func (m *Metrics) retry(way *way, r *infer.Request, n int, d time.Duration) {
	m.Retries.With(way.lead.place.label(), r.Endpoint.Label()).Inc()
	m.Backoff.With(strconv.Itoa(min(n, 10))).Observe(d.Seconds())
}

func (m *Metrics) exhausted(way *way, r *infer.Request) {
	m.Exhausted.With(way.lead.place.label(), r.Endpoint.Label()).Inc()
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
	case e.Code == "no_workers" || e.Code == "no_available_workers" || e.Code == "model_not_found" || e.Code == errShed.Code:
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
