package bench

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"time"
)

// A Result is what a run measured. Its JSON is for programs: keys stay, and
// name their units.
type Result struct {
	Config      Echo      `json:"config"`
	StartedAt   time.Time `json:"started_at"`
	StoppedBy   string    `json:"stopped_by"` // duration, requests, trace, sessions, max_errors or interrupted
	Interrupted bool      `json:"interrupted"`
	MeasuredS   float64   `json:"measured_s"` // the measured time: after the warm-up, until sending ended
	DrainS      float64   `json:"drain_s"`    // from then until the last answer

	Requests         Requests         `json:"requests"`
	RequestsPerS     float64          `json:"requests_per_s"` // answered well
	Tokens           Tokens           `json:"tokens"`
	HitRatio         float64          `json:"hit_ratio"` // of the prompts' tokens, how much came from a cache
	Sessions         *Sessions        `json:"sessions,omitempty"`
	InputTokensPerS  float64          `json:"input_tokens_per_s"`
	OutputTokensPerS float64          `json:"output_tokens_per_s"`
	BytesSent        int64            `json:"body_bytes_sent"`
	BytesReceived    int64            `json:"body_bytes_received"`
	TTFT             Distribution     `json:"ttft_ms"`     // to the first output of a stream
	Gap              Distribution     `json:"gap_ms"`      // between two events with output, of any stream
	TPOT             Distribution     `json:"tpot_ms"`     // from the first output to the last, over the tokens between
	Latency          Distribution     `json:"latency_ms"`  // the whole answer
	SendLag          Distribution     `json:"send_lag_ms"` // how much later than planned requests were sent
	Statuses         map[string]int64 `json:"statuses"`    // answers by HTTP status, failed ones too

	Errors  map[string]ErrorCount `json:"errors"`
	Workers map[string]int64      `json:"workers"` // answers by the worker that the server named
	Process *Process              `json:"process,omitempty"`
	Client  Client                `json:"client"`
}

// Requests counts the measured ones: Planned = Shed + OK + Failed + Unfinished.
type Requests struct {
	Planned      int64 `json:"planned"`
	OK           int64 `json:"ok"`
	Failed       int64 `json:"failed"`
	Unfinished   int64 `json:"unfinished"` // cut because the run was
	Shed         int64 `json:"shed"`       // not sent: max-in-flight were running
	Warmup       int64 `json:"warmup"`     // sent before the measured time, and not measured
	WarmupFailed int64 `json:"warmup_failed"`
}

// Tokens counts those of requests that were answered well.
type Tokens struct {
	Input      int64 `json:"input"`  // as the server counts; cached ones included
	Cached     int64 `json:"cached"` // as the server counts
	Output     int64 `json:"output"` // as the server counts, else events with output
	WithUsage  int64 `json:"requests_with_usage"`
	NoUsageFor int64 `json:"requests_without_usage"`
}

// Sessions counts conversations, those of the warm-up too.
type Sessions struct {
	Begun int64 `json:"begun"`
	Whole int64 `json:"whole"` // played to their last turn
	Shed  int64 `json:"shed"`  // not begun: max-in-flight were running
}

// A Distribution is one of times, in milliseconds.
type Distribution struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99_9"`
	Max   float64 `json:"max"`

	bars []int64 // counts in columns of equal width between low and high, on a logarithmic scale
	low  time.Duration
	high time.Duration
}

// An ErrorCount says how often a kind of failure was seen, and shows the first.
type ErrorCount struct {
	Count   int64  `json:"count"`
	Example string `json:"example,omitempty"`
}

// Process is what the measured process used in the measured time.
type Process struct {
	PID             int     `json:"pid"`
	CPUSeconds      float64 `json:"cpu_s"`
	CPUPerRequestUS float64 `json:"cpu_per_request_us"` // over all requests that ended, failed ones too
	CPUCores        float64 `json:"cpu_cores"`          // mean
	RSSStart        int64   `json:"rss_start_bytes"`
	RSSMax          int64   `json:"rss_max_bytes"`
	RSSEnd          int64   `json:"rss_end_bytes"`
	Samples         int     `json:"samples"`
	Error           string  `json:"error,omitempty"` // why it was not measured to the end
}

// Client is what this program itself used: a client without a core to spare
// measures itself.
type Client struct {
	CPUSeconds      float64 `json:"cpu_s"`
	CPUPerRequestUS float64 `json:"cpu_per_request_us"`
	CPUCores        float64 `json:"cpu_cores"`
}

// Echo repeats the settings of a run without its secrets: of headers the names.
type Echo struct {
	URL          string   `json:"url"`
	Model        string   `json:"model"`
	Endpoint     string   `json:"endpoint"`
	Mode         string   `json:"mode"` // closed, open or trace
	Stream       bool     `json:"stream"`
	Concurrency  int      `json:"concurrency"`
	Rate         float64  `json:"rate_per_s"`
	Arrival      string   `json:"arrival"`
	MaxInFlight  int      `json:"max_in_flight"`
	DurationS    float64  `json:"duration_s"`
	WarmupS      float64  `json:"warmup_s"`
	Requests     int64    `json:"requests"`
	MaxErrors    int64    `json:"max_errors"`
	TimeoutS     float64  `json:"timeout_s"`
	PromptTokens int      `json:"prompt_tokens"`
	OutputTokens int      `json:"output_tokens"`
	IgnoreEOS    bool     `json:"ignore_eos"`
	SharedPrefix int      `json:"shared_prefix_tokens"`
	Prefixes     int      `json:"prefixes"`
	Seed         int64    `json:"seed"`
	Trace        string   `json:"trace"`
	Sessions     string   `json:"sessions"`
	MaxTurns     int      `json:"max_turns"`
	UserGapS     float64  `json:"user_gap_s"`
	ToolGapS     float64  `json:"tool_gap_s"`
	TraceSpeed   float64  `json:"trace_speed"`
	Connections  int      `json:"connections"`
	Keepalive    bool     `json:"keepalive"`
	Insecure     bool     `json:"insecure"`
	Headers      []string `json:"headers"`

	words string // the kind of load, for people
}

func echo(c Config, url string) Echo {
	e := Echo{
		URL: url, Model: c.Model, Endpoint: c.Endpoint, Mode: c.mode(), Stream: c.Stream,
		Concurrency: c.Concurrency, Rate: c.Rate, Arrival: c.Arrival, MaxInFlight: c.MaxInFlight,
		DurationS: c.Duration.Seconds(), WarmupS: c.Warmup.Seconds(), Requests: c.Requests, MaxErrors: c.MaxErrors, TimeoutS: c.Timeout.Seconds(),
		PromptTokens: c.PromptTokens, OutputTokens: c.OutputTokens, IgnoreEOS: c.IgnoreEOS,
		SharedPrefix: c.SharedPrefix, Prefixes: c.Prefixes, Seed: c.Seed, TraceSpeed: c.TraceSpeed,
		Connections: c.Connections, Keepalive: !c.NoKeepalive, Insecure: c.Insecure, Headers: []string{},
		words: c.describe(),
	}
	if c.Trace != "" {
		e.Trace = filepath.Base(c.Trace)
	}
	if c.Sessions != "" {
		e.Sessions, e.MaxTurns = filepath.Base(c.Sessions), c.MaxTurns
		e.UserGapS, e.ToolGapS = c.UserGap.Seconds()*c.GapScale, c.ToolGap.Seconds()*c.GapScale
	}
	names := map[string]bool{}
	for _, h := range c.Headers {
		if name, _, err := splitHeader(h); err == nil {
			names[name] = true
		}
	}
	e.Headers = append(e.Headers, slices.Sorted(maps.Keys(names))...)
	return e
}

// newResult sums up a run that has ended: nothing else touches l and m any more.
func newResult(cfg Config, url string, l *load, m *meter) *Result {
	t := &l.rec.t
	r := &Result{
		Config: echo(cfg, url), StartedAt: l.start.UTC(), StoppedBy: l.why(), MeasuredS: m.length.Seconds(),
		Requests: Requests{
			Planned: t.planned, OK: t.ok, Failed: t.failed, Unfinished: t.unfinished, Shed: t.shed,
			Warmup: t.warmup, WarmupFailed: t.warmupFailed,
		},
		Tokens:    Tokens{Input: t.input, Cached: t.cached, Output: t.output, WithUsage: t.answers, NoUsageFor: t.ok - t.answers},
		BytesSent: t.sent, BytesReceived: t.received,
		TTFT: t.ttft.distribution(), Gap: t.gap.distribution(), TPOT: t.perToken.distribution(), Latency: t.latency.distribution(), SendLag: t.lag.distribution(),
		Statuses: map[string]int64{}, Errors: map[string]ErrorCount{}, Workers: t.workers,
	}
	r.Interrupted = r.StoppedBy == stoppedByCancel
	r.HitRatio = per(float64(t.cached), float64(t.input))
	if l.player != nil {
		r.Sessions = &Sessions{Begun: l.sessions.begun.Load(), Whole: l.sessions.whole.Load(), Shed: l.sessions.shed.Load()}
	}
	for status, n := range t.statuses {
		r.Statuses[fmt.Sprint(status)] = n
	}
	for kind, e := range t.errors {
		r.Errors[kind] = *e
	}
	if over := l.rec.from.Add(m.length); m.begun && t.lastEnd.After(over) {
		r.DrainS = t.lastEnd.Sub(over).Seconds()
	}
	r.RequestsPerS = per(t.okShare, r.MeasuredS)
	r.InputTokensPerS = per(t.inputShare, r.MeasuredS)
	r.OutputTokensPerS = per(t.outputShare, r.MeasuredS)
	if m.selfKnown {
		s := m.self.Seconds()
		r.Client = Client{CPUSeconds: s, CPUPerRequestUS: per(s*1e6, t.endedShare), CPUCores: per(s, r.MeasuredS)}
	}
	if m.proc != nil {
		s := (m.now.cpu - m.first.cpu).Seconds()
		r.Process = &Process{
			PID: cfg.PID, CPUSeconds: s, CPUPerRequestUS: per(s*1e6, t.endedShare), CPUCores: per(s, r.MeasuredS),
			RSSStart: m.first.rss, RSSMax: m.maxRSS, RSSEnd: m.now.rss, Samples: m.samples,
		}
		if m.err != nil {
			r.Process.Error = m.err.Error()
		}
	}
	return r
}

// per is a/b, and 0 where there is nothing to divide by.
func per(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

const columns = 40 // of a drawn distribution

// distribution sums d up.
func (d *dist) distribution() Distribution {
	if d.n == 0 {
		return Distribution{}
	}
	r := Distribution{
		Count: d.n, Mean: d.sum / float64(d.n) / float64(time.Millisecond), Max: ms(d.max),
		P50: ms(d.at(.50)), P90: ms(d.at(.90)), P95: ms(d.at(.95)), P99: ms(d.at(.99)), P999: ms(d.at(.999)),
	}
	r.low, r.high = max(time.Duration(d.h.Min()), finest), max(d.max, finest+1)
	r.bars = make([]int64, columns)
	span := math.Log(float64(r.high) / float64(r.low))
	for _, b := range d.h.Distribution() {
		if b.Count == 0 {
			continue
		}
		i := 0
		if v := float64(max(b.From, int64(r.low))); span > 0 {
			i = int(math.Log(v/float64(r.low)) / span * columns)
		}
		r.bars[min(max(i, 0), columns-1)] += b.Count
	}
	return r
}
