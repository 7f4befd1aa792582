package hook

import (
	"errors"
	"slices"
	"time"

	"sluice/internal/kit/metric"
	"sluice/internal/wasm"
)

// Metrics is what is counted of modules. A module's label is its name, which the
// operator gives; its series go with the last module of that name.
type Metrics struct {
	Calls     *metric.CounterVec     `name:"sluice_wasm_calls_total" labels:"module,hook,action" help:"calls of WebAssembly modules, by what they answered; action is continue, reject, modify, pass, drop, replace, finish or error"`
	Errors    *metric.CounterVec     `name:"sluice_wasm_errors_total" labels:"module,hook,kind" help:"calls that failed; kind is trap, timeout, stack, answer, size or busy"`
	Duration  *metric.HistogramVec   `name:"sluice_wasm_call_duration_seconds" labels:"module,hook" buckets:"0.000001,0.0000025,0.000005,0.00001,0.000025,0.00005,0.0001,0.00025,0.001,0.01,0.1,1,10" help:"how long calls took, waiting for an instance included"`
	Instances *metric.GaugeVecFunc   `name:"sluice_wasm_instances" labels:"module,state" help:"instances of a module; state is idle, which stand ready, or busy"`
	Made      *metric.CounterVecFunc `name:"sluice_wasm_instances_made_total" labels:"module" help:"instances that were made of a module, those of its earlier versions included"`
	Memory    *metric.GaugeVecFunc   `name:"sluice_wasm_memory_bytes" labels:"module" help:"memory that the instances of a module have, shared pages counted for each"`
	Guest     *metric.CounterVecFunc `name:"sluice_wasm_guest_total" labels:"module,name" max:"20000" help:"what modules count themselves, with count; at most 64 names a module, others are counted as other"`
}

// actions are what modules may answer, by hook; the last is an error.
var actions = [wasm.NumHooks][]string{
	wasm.OnRequest:  {"continue", "reject", "modify", "error"},
	wasm.OnResponse: {"continue", "reject", "modify", "error"},
	wasm.OnChunk:    {"pass", "drop", "replace", "finish", "error"},
	wasm.OnError:    {"continue", "error"},
	wasm.OnEnd:      {"continue", "error"},
}

// counters are what is counted of a module at a hook, found once.
type counters struct {
	took  *metric.Histogram
	calls [5]*metric.Counter // by place among the actions
	bad   int                // which of them is an error
}

// bind finds the counters of a module at a hook.
func (m *Metrics) bind(name string, h wasm.Hook) (c counters) {
	c.took = m.Duration.With(name, h.String())
	for i, a := range actions[h] {
		c.calls[i] = m.Calls.With(name, h.String(), a)
	}
	c.bad = len(actions[h]) - 1
	return c
}

// called counts a call.
func (c *counters) called(took time.Duration, action int, err error) {
	t := metric.Take()
	c.took.ObserveWith(t, took.Seconds())
	if err != nil {
		action = c.bad
	}
	c.calls[action].AddWith(t, 1)
	t.Give()
}

// kinds are how calls fail.
var kinds = [...]string{"trap", "timeout", "stack", "answer", "size", "busy"}

// kindOf is the place of err's kind among them.
func kindOf(err error) int {
	if c, ok := errors.AsType[*wasm.CallError](err); ok {
		return max(0, slices.Index(kinds[:], c.Kind))
	}
	return 0
}

// forget removes what was counted of those before that are not in set any more.
func (m *Metrics) forget(before []*module, set *wasm.Set) {
	names := make(map[string]bool)
	for _, a := range set.All {
		names[a.Name] = true
	}
	for _, old := range before {
		if !names[old.Name] {
			m.Calls.DeleteLabel("module", old.Name)
			m.Errors.DeleteLabel("module", old.Name)
			m.Duration.DeleteLabel("module", old.Name)
		}
	}
}

// watch makes m read from reg what modules know themselves. Modules of one name
// are added up.
func (m *Metrics) watch(reg *wasm.Registry) {
	type key struct{ module, label string }
	sums := func(each func(a *wasm.Attached, add func(label string, n float64))) map[key]float64 {
		all := make(map[key]float64)
		for _, a := range reg.Set().All {
			each(a, func(label string, n float64) { all[key{a.Name, label}] += n })
		}
		return all
	}
	m.Instances.Set(func(yield func(float64, ...string)) {
		for k, n := range sums(func(a *wasm.Attached, add func(string, float64)) {
			s := a.Module.Stats()
			add("idle", float64(s.Idle))
			add("busy", float64(max(s.Instances-s.Idle, 0)))
		}) {
			yield(n, k.module, k.label)
		}
	})
	m.Made.Set(func(yield func(float64, ...string)) {
		for k, n := range sums(func(a *wasm.Attached, add func(string, float64)) { add("", float64(a.Module.Stats().Made)) }) {
			yield(n, k.module)
		}
	})
	m.Memory.Set(func(yield func(float64, ...string)) {
		for k, n := range sums(func(a *wasm.Attached, add func(string, float64)) { add("", float64(a.Module.Stats().Memory)) }) {
			yield(n, k.module)
		}
	})
	m.Guest.Set(func(yield func(float64, ...string)) {
		for k, n := range sums(func(a *wasm.Attached, add func(string, float64)) {
			a.Store.Counters(func(name string, n uint64) { add(name, float64(n)) })
		}) {
			yield(n, k.module, k.label)
		}
	})
}
