package sim

import (
	"errors"
	"fmt"
	"math"
	"time"

	"sluice/internal/fleet"
)

// Bounds of what may be simulated. They keep a slip of the hand from filling the
// machine's memory.
const (
	maxWorkers  = 4096
	maxGateways = 256
	maxRequests = 1 << 22
	maxBlocks   = 1 << 26 // in all prompts together: 256 MiB
	maxTime     = 1 << 30 * time.Second
	longest     = time.Hour // of what a part of a step may take
)

// Config says which fleet is simulated and how a trace is brought to it.
type Config struct {
	Workers  int     `flag:"workers" help:"engines of the fleet"`
	KVTokens int     `flag:"kv-tokens" help:"tokens that an engine's KV cache holds, running requests and cached prefixes together"`
	Speed    float64 `flag:"speed" help:"how much faster than its timestamps the trace comes; of sessions, how many more begin"`

	Copies   int           `flag:"copies" help:"how often the trace comes at once, each copy with prompts of its own (what most requests share stays shared); 0 for one for every four workers, or one if it is a recording of this gateway's"`
	First    time.Duration `flag:"first" help:"take only the requests of the trace's first so many seconds; 0 for all"`
	Rate     float64       `flag:"session-rate" help:"traces of sessions: how many begin a second and worker"`
	Duration time.Duration `flag:"session-time" help:"traces of sessions: how long new ones begin"`

	Crowd       float64 `flag:"crowd" help:"flash crowd: requests over one shared document in the middle third of the time, for each of the trace's own there; 0 for none"`
	CrowdTokens int     `flag:"crowd-tokens" help:"length of that document"`

	Gateways     int           `flag:"gateways" help:"gateways that share the fleet and know nothing of each other; requests go to them in turn"`
	LoadInterval time.Duration `flag:"load-monitor-interval" help:"pause between two load reports of an engine"`

	Protect     bool    `flag:"worker-overload-protection" help:"give engines that report too much load no requests while others can serve them"`
	OverWaiting int     `flag:"worker-overload-waiting-requests" help:"waiting requests from which an engine counts as overloaded"`
	OverUsage   float64 `flag:"worker-overload-token-usage" help:"used part of its KV cache from which an engine counts as overloaded"`

	SLO    time.Duration `flag:"slo" help:"also find each policy's capacity: the most requests a second and worker with a p90 of the first token's time of at most this; 0 not to"`
	Warmup float64       `flag:"warmup" help:"share of the time whose requests are not counted, at the beginning"`
	Seed   int64         `flag:"seed" help:"chance follows from it: the same seed gives the same figures"`

	PrefillRate   float64       `flag:"prefill-rate" help:"engine: tokens of prompts that it computes a second, without context"`
	DoubleContext int           `flag:"double-context" help:"engine: context, in tokens, at which attention doubles what a prompt's token costs"`
	Chunk         int           `flag:"prefill-chunk" help:"engine: tokens of prompts that one step computes at most"`
	MaxRunning    int           `flag:"max-running" help:"engine: requests that run at once; more wait"`
	StepTime      time.Duration `flag:"step-time" help:"engine: what a step takes at least"`
	SequenceTime  time.Duration `flag:"sequence-time" help:"engine: what each running answer adds to a step"`
	ContextTime   time.Duration `flag:"context-time" help:"engine: what each token of their contexts adds to a step"`
}

// DefaultConfig returns 16 workers. The engine is about what serves a model of
// 70 billion parameters in FP8 on four H100: assumed, not measured.
func DefaultConfig() Config {
	served := fleet.DefaultConfig()
	return Config{
		Workers: 16, KVTokens: 1_000_000, Speed: 1, Rate: 1, Duration: 10 * time.Minute, CrowdTokens: 16_384,
		Gateways: 1, LoadInterval: served.LoadInterval, Protect: served.Protect, OverWaiting: served.OverWaiting, OverUsage: served.OverUsage, Warmup: 0.1, Seed: 1,
		PrefillRate: 15_000, DoubleContext: 60_000, Chunk: 4096, MaxRunning: 256,
		StepTime: 12 * time.Millisecond, SequenceTime: 40 * time.Microsecond, ContextTime: 15 * time.Nanosecond,
	}
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	count := func(name string, n, least, most int) {
		if n < least || n > most {
			errs = append(errs, fmt.Errorf("%s %d is not between %d and %d", name, n, least, most))
		}
	}
	number := func(name string, v, above, most float64) {
		if !(v > above && v <= most) {
			errs = append(errs, fmt.Errorf("%s %v is not above %v and at most %v", name, v, above, most))
		}
	}
	span := func(name string, d, least, most time.Duration) {
		if d < least || d > most {
			errs = append(errs, fmt.Errorf("%s %v is not between %v and %v", name, d, least, most))
		}
	}
	count("workers", c.Workers, 1, maxWorkers)
	count("kv-tokens", c.KVTokens, 1, math.MaxInt32)
	number("speed", c.Speed, 0, 1e6)
	count("copies", c.Copies, 0, 1<<16)
	span("first", c.First, 0, maxTime)
	number("session-rate", c.Rate, 0, 1e6)
	span("session-time", c.Duration, time.Second, maxTime)
	if !(c.Crowd >= 0 && c.Crowd <= 1000) {
		errs = append(errs, fmt.Errorf("crowd %v is not between 0 and 1000", c.Crowd))
	}
	count("crowd-tokens", c.CrowdTokens, 1, 1<<22)
	count("gateways", c.Gateways, 1, maxGateways)
	span("load-monitor-interval", c.LoadInterval, 10*time.Millisecond, 24*time.Hour)
	count("worker-overload-waiting-requests", c.OverWaiting, 1, 1<<30)
	number("worker-overload-token-usage", c.OverUsage, 0, 1)
	span("slo", c.SLO, 0, time.Hour)
	if !(c.Warmup >= 0 && c.Warmup <= 0.9) {
		errs = append(errs, fmt.Errorf("warmup %v is not between 0 and 0.9", c.Warmup))
	}
	if !(c.PrefillRate >= 1 && c.PrefillRate <= 1e9) {
		errs = append(errs, fmt.Errorf("prefill-rate %v is not between 1 and 1e+09 tokens a second", c.PrefillRate))
	}
	count("double-context", c.DoubleContext, 1, math.MaxInt32)
	count("prefill-chunk", c.Chunk, 1, 1<<30)
	count("max-running", c.MaxRunning, 1, 1<<20)
	span("step-time", c.StepTime, time.Microsecond, longest)
	span("sequence-time", c.SequenceTime, 0, longest)
	span("context-time", c.ContextTime, 0, longest)
	return errors.Join(errs...)
}
