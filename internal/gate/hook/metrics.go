package hook

import (
	"errors"
	"time"

	"sluice/internal/kit/metric"
	"sluice/internal/wasm"
)

// Metrics is what is counted of modules.
type Metrics struct {
	Calls    *metric.CounterVec   `name:"sluice_wasm_calls_total" labels:"module,hook,action" help:"calls of WebAssembly modules, by what they answered; action is continue, reject, modify, pass, drop, replace, finish or error"`
	Errors   *metric.CounterVec   `name:"sluice_wasm_errors_total" labels:"module,hook,kind" help:"calls that failed; kind is trap, timeout, stack, answer or busy"`
	Duration *metric.HistogramVec `name:"sluice_wasm_call_duration_seconds" labels:"module,hook" buckets:"duration" help:"how long calls took, waiting for an instance included"`
}

// called counts a call.
func (m *Metrics) called(a *wasm.Attached, h wasm.Hook, took time.Duration, action string, err error) {
	hook := h.String()
	m.Duration.With(a.Name, hook).Observe(took.Seconds())
	if err == nil {
		m.Calls.With(a.Name, hook, action).Inc()
		return
	}
	m.Calls.With(a.Name, hook, "error").Inc()
	kind := "trap"
	if c, ok := errors.AsType[*wasm.CallError](err); ok {
		kind = c.Kind
	}
	m.Errors.With(a.Name, hook, kind).Inc()
}
