package app

import (
	"strconv"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/metric"
)

// workerMetrics is what is told of each worker. What workers know themselves is
// read when somebody asks, so it costs requests nothing.
type workerMetrics struct {
	Pool      *metric.GaugeVecFunc   `name:"smg_worker_pool_size" labels:"worker_type,connection_mode,model" help:"workers that are ready, by model"`
	Active    *metric.GaugeVecFunc   `name:"smg_worker_requests_active" labels:"worker" help:"requests of this gateway that a worker has" max:"8192"`
	Healthy   *metric.GaugeVecFunc   `name:"smg_worker_health" labels:"worker" help:"1 if a worker takes requests, else 0" max:"8192"`
	State     *metric.GaugeVecFunc   `name:"smg_worker_cb_state" labels:"worker" help:"circuit breaker: 0 closed, 1 open, 2 half-open" max:"8192"`
	Fails     *metric.GaugeVecFunc   `name:"smg_worker_cb_consecutive_failures" labels:"worker" help:"failures since the last success" max:"8192"`
	Wins      *metric.GaugeVecFunc   `name:"smg_worker_cb_consecutive_successes" labels:"worker" help:"successes since the breaker became half-open" max:"8192"`
	Turns     *metric.CounterVec     `name:"smg_worker_cb_transitions_total" labels:"worker,from,to" help:"changes of a breaker's state"`
	Readmits  *metric.CounterVec     `name:"smg_worker_cb_health_readmissions_total" labels:"worker" help:"breakers closed because the worker passed its health checks again"`
	Vetoed    *metric.GaugeVecFunc   `name:"sluice_worker_vetoed" labels:"worker,reason" help:"1 while a worker that is ready is not given requests if others can take them; reason is overloaded, stalled or wedged" max:"8192"`
	Vetoes    *metric.CounterVec     `name:"sluice_worker_vetoes_total" labels:"worker,reason" help:"how often that began"`
	Checks    *metric.CounterVec     `name:"smg_worker_health_checks_total" labels:"worker_type,result" help:"health checks; result is success or failure"`
	Reports   *metric.CounterVecFunc `name:"sluice_worker_load_reports_total" labels:"worker,result" help:"questions to a worker for its load; result is success, absent (it has no such endpoint), timeout, unreadable (or it cannot be true) or failure (no connection, or a bad status)" max:"24576"`
	Running   *metric.GaugeVecFunc   `name:"smg_engine_running_requests" labels:"worker,model,dp_rank" help:"requests that an engine runs, as it says (--engine-metrics)" max:"8192"`
	Waiting   *metric.GaugeVecFunc   `name:"smg_engine_waiting_requests" labels:"worker,model,dp_rank" help:"requests that wait in an engine, as it says (--engine-metrics)" max:"8192"`
	Usage     *metric.GaugeVecFunc   `name:"smg_engine_token_usage" labels:"worker,model,dp_rank" help:"part of an engine's KV cache in use, 0 to 1 (--engine-metrics)" max:"8192"`
	GenRate   *metric.GaugeVecFunc   `name:"smg_engine_gen_throughput" labels:"worker,model,dp_rank" help:"tokens per second that an engine generates (--engine-metrics)" max:"8192"`
	CacheHits *metric.GaugeVecFunc   `name:"smg_engine_cache_hit_rate" labels:"worker,model,dp_rank" help:"part of prompt tokens found in an engine's prefix cache, 0 to 1 (--engine-metrics)" max:"8192"`
}

// events are what the registry tells as it happens; forget forgets with m.
func (m *workerMetrics) events(forget func(*fleet.Worker)) fleet.Events {
	return fleet.Events{
		OnForget: m.forget(forget),
		OnProbe: func(w *fleet.Worker, ok bool) {
			result := "failure"
			if ok {
				result = "success"
			}
			m.Checks.With(w.Info().Role.String(), result).Inc()
		},
		OnBreaker: func(w *fleet.Worker, from, to breaker.State) {
			m.Turns.With(w.Base(), from.String(), to.String()).Inc()
		},
		OnReadmit: func(w *fleet.Worker) { m.Readmits.With(w.Base()).Inc() },
		OnVeto: func(w *fleet.Worker, from, to fleet.Veto) {
			for reason := range (to &^ from).Reasons {
				m.Vetoes.With(w.Base(), reason.String()).Inc()
			}
		},
	}
}

// watch makes m read from reg.
func (m *workerMetrics) watch(reg *fleet.Registry) {
	each := func(g *metric.GaugeVecFunc, value func(*fleet.Worker) float64) {
		g.Set(func(yield func(float64, ...string)) {
			for _, w := range reg.Snapshot().All {
				yield(value(w), w.Base())
			}
		})
	}
	each(m.Active, func(w *fleet.Worker) float64 { return float64(w.InFlight()) })
	each(m.State, func(w *fleet.Worker) float64 { return float64(w.Breaker().State()) })
	each(m.Fails, func(w *fleet.Worker) float64 { return float64(w.Breaker().Failures()) })
	each(m.Wins, func(w *fleet.Worker) float64 { return float64(w.Breaker().Successes()) })
	each(m.Healthy, func(w *fleet.Worker) float64 {
		if w.Status() == fleet.Ready && w.Breaker().State() != breaker.Open {
			return 1
		}
		return 0
	})
	m.Vetoed.Set(func(yield func(float64, ...string)) {
		for _, w := range reg.Snapshot().All {
			for reason := range w.Veto().Reasons {
				yield(1, w.Base(), reason.String())
			}
		}
	})
	m.Pool.Set(func(yield func(float64, ...string)) {
		type group struct {
			role  fleet.Role
			model string
		}
		n := make(map[group]int)
		for _, w := range reg.Snapshot().Ready {
			n[group{w.Info().Role, firstModel(w)}]++
		}
		for g, count := range n {
			yield(float64(count), g.role.String(), "http", g.model)
		}
	})
	m.Reports.Set(func(yield func(float64, ...string)) {
		for _, w := range reg.Snapshot().All {
			for result, n := range w.Reports {
				yield(float64(n), w.Base(), result)
			}
		}
	})
	m.engine(m.Running, reg, func(l *fleet.Load) float64 { return float64(l.Running) }, func(r fleet.RankLoad) float64 { return float64(r.Running) })
	m.engine(m.Waiting, reg, func(l *fleet.Load) float64 { return float64(l.Waiting) }, func(r fleet.RankLoad) float64 { return float64(r.Waiting) })
	m.engine(m.Usage, reg, func(l *fleet.Load) float64 { return l.TokenUsage }, func(r fleet.RankLoad) float64 { return r.TokenUsage })
	m.engine(m.GenRate, reg, func(l *fleet.Load) float64 { return l.Throughput }, func(r fleet.RankLoad) float64 { return r.Throughput })
	m.engine(m.CacheHits, reg, func(l *fleet.Load) float64 { return l.HitRate }, func(r fleet.RankLoad) float64 { return r.HitRate })
}

// engine makes g read what engines last said, while that is believed, by
// data-parallel rank if they have several.
func (m *workerMetrics) engine(g *metric.GaugeVecFunc, reg *fleet.Registry, whole func(*fleet.Load) float64, rank func(fleet.RankLoad) float64) {
	g.Set(func(yield func(float64, ...string)) {
		now := time.Now()
		for _, w := range reg.Snapshot().All {
			l := w.Believed(now)
			if l == nil {
				continue
			}
			if len(l.Ranks) == 0 {
				yield(whole(l), w.Base(), firstModel(w), "0")
			}
			for _, r := range l.Ranks {
				yield(rank(r), w.Base(), firstModel(w), strconv.Itoa(r.Rank))
			}
		}
	})
}

// firstModel is the model that a worker is counted under.
func firstModel(w *fleet.Worker) string {
	if i := w.Info(); len(i.Models) > 0 {
		return i.Models[0].ID
	}
	return "unknown"
}

// forget is called when a worker is gone: what was counted for it goes too.
func (m *workerMetrics) forget(forget func(*fleet.Worker)) func(*fleet.Worker) {
	return func(w *fleet.Worker) {
		forget(w)
		m.Turns.DeleteLabel("worker", w.Base())
		m.Readmits.DeleteLabel("worker", w.Base())
		m.Vetoes.DeleteLabel("worker", w.Base())
	}
}
