package mock

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sluice/internal/kit/secret"
)

// The engines that can be imitated.
const (
	SGLang   = "sglang"
	VLLM     = "vllm"
	LlamaCPP = "llamacpp"
)

// Config says what is simulated: how many engines, of which make, how fast
// they are, and what goes wrong.
type Config struct {
	Host   string        `yaml:"host" flag:"host" help:"address to listen on"`
	Port   int           `yaml:"port" flag:"port" help:"port of the first engine, the others follow it; 0 for any free ones"`
	Count  int           `yaml:"count" flag:"count" help:"how many engines to simulate"`
	Models []string      `yaml:"models" flag:"model" help:"model names that each engine serves; the first is its own"`
	Engine string        `yaml:"engine" flag:"engine" choices:"sglang,vllm,llamacpp" help:"which engine's answers, errors and metrics to imitate"`
	APIKey secret.String `yaml:"api_key" flag:"api-key" help:"key that callers must send as a bearer token or x-api-key"`

	Speed          float64       `yaml:"speed" flag:"speed" help:"how much faster than real time an engine runs; 0 answers at once, for measurements of what stands before it"`
	PrefillRate    float64       `yaml:"prefill_rate" flag:"prefill-rate" help:"prompt tokens computed per second"`
	DoubleContext  int           `yaml:"double_context" flag:"double-context" help:"context, in tokens, at which attention doubles what a prompt's token costs; 0 for never"`
	PrefillChunk   int           `yaml:"prefill_chunk" flag:"prefill-chunk" help:"most prompt tokens in one step; decoding streams wait that long"`
	DecodeRate     float64       `yaml:"decode_rate" flag:"decode-rate" help:"tokens per second of one stream that runs alone; no step is shorter than one of these tokens, because each reads all weights"`
	DecodeSlowdown float64       `yaml:"decode_slowdown" flag:"decode-slowdown" help:"part by which each further running stream lengthens a step"`
	ContextTime    time.Duration `yaml:"context_time" flag:"context-time" help:"what each token of the running streams' contexts adds to a step"`
	MaxRunning     int           `yaml:"max_running" flag:"max-running" help:"requests that run at once; more wait"`
	QueueLimit     int           `yaml:"queue_limit" flag:"queue-limit" help:"requests that may wait; more are refused"`
	QueueStatus    int           `yaml:"queue_status" flag:"queue-status" help:"status of the refusal when the queue is full: 503 or 429"`
	KVTokens       int           `yaml:"kv_tokens" flag:"kv-tokens" help:"tokens that the KV cache holds, running requests and cached prefixes together"`
	BlockSize      int           `yaml:"block_size" flag:"block-size" help:"tokens in a block of the KV cache"`

	ContextLength  int   `yaml:"context_length" flag:"context-length" help:"most tokens of a prompt and its answer together"`
	OutputTokens   int   `yaml:"output_tokens" flag:"output-tokens" help:"length of an answer for which the request sets no limit"`
	EmbeddingSize  int   `yaml:"embedding_size" flag:"embedding-size" help:"dimensions of an embedding for which the request sets none"`
	EventsPerWrite int   `yaml:"events_per_write" flag:"events-per-write" help:"most stream events in one write to the client; 1 is a token at a time"`
	MaxBody        int64 `yaml:"max_body" flag:"max-body" help:"largest request body in bytes"`

	StartupDelay   time.Duration `yaml:"startup_delay_secs" flag:"startup-delay-secs" unit:"s" help:"how long an engine answers 503 after each start, as if it loaded weights"`
	Seed           int64         `yaml:"seed" flag:"seed" help:"begins the dice that --fault-rate throws"`
	Faults         []string      `yaml:"faults" flag:"fault" help:"faults that requests meet, such as status=503;retry-after=2 or cut=3; one is drawn for each request"`
	FaultRate      float64       `yaml:"fault_rate" flag:"fault-rate" help:"part of the requests that meet a fault, 0 to 1"`
	FaultCount     int           `yaml:"fault_count" flag:"fault-count" help:"faults of an engine after which it behaves; 0 for no end"`
	FaultEndpoints []string      `yaml:"fault_endpoints" flag:"fault-endpoints" help:"paths that meet faults; none for all that infer"`
}

// DefaultConfig returns one engine that behaves like SGLang with a small model
// on a strong GPU. These rates are assumptions, not measurements.
func DefaultConfig() Config {
	return Config{
		Host: "127.0.0.1", Port: 9101, Count: 1, Models: []string{"mock"}, Engine: SGLang,
		Speed: 1, PrefillRate: 20000, DoubleContext: 60_000, PrefillChunk: 1024, DecodeRate: 100, DecodeSlowdown: 0.005, ContextTime: 15 * time.Nanosecond,
		MaxRunning: 64, QueueLimit: 4096, QueueStatus: 503, KVTokens: 200_000, BlockSize: 16,
		ContextLength: 32768, OutputTokens: 32, EmbeddingSize: 128, EventsPerWrite: 1, MaxBody: 64 << 20,
		Seed: 1, FaultRate: 1,
	}
}

// maxEngines bounds Count: each engine has a port.
const maxEngines = 4096

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, err := netip.ParseAddr(c.Host); err != nil && c.Host != "localhost" {
		bad("host %q is not an IP address", c.Host)
	}
	if c.Count < 1 || c.Count > maxEngines {
		bad("count %d is not between 1 and %d", c.Count, maxEngines)
	}
	if c.Port < 0 || c.Port+max(c.Count, 1)-1 > 65535 {
		bad("ports %d to %d are not all between 0 and 65535", c.Port, c.Port+c.Count-1)
	}
	if len(c.Models) == 0 || slices.Contains(c.Models, "") {
		bad("model must name at least one model, and no name may be empty")
	}
	if engines := []string{SGLang, VLLM, LlamaCPP}; !slices.Contains(engines, c.Engine) {
		bad("engine %q is unknown; want one of %s", c.Engine, strings.Join(engines, ", "))
	}
	for _, f := range []struct {
		flag string
		v    float64
	}{{"prefill-rate", c.PrefillRate}, {"decode-rate", c.DecodeRate}} {
		if !(f.v > 0 && f.v <= 1e9) {
			bad("%s %v is not above 0 and at most 1e9", f.flag, f.v)
		}
	}
	if !(c.Speed >= 0 && c.Speed <= 1e6) {
		bad("speed %v is not between 0 and 1e6", c.Speed)
	}
	if !(c.DecodeSlowdown >= 0 && c.DecodeSlowdown <= 1000) {
		bad("decode-slowdown %v is not between 0 and 1000", c.DecodeSlowdown)
	}
	if c.DoubleContext < 0 {
		bad("double-context must not be negative")
	}
	if c.ContextTime < 0 || c.ContextTime > time.Second {
		bad("context-time %v is not between 0 and 1s", c.ContextTime)
	}
	for _, f := range []struct {
		flag    string
		v, most int
	}{
		{"prefill-chunk", c.PrefillChunk, 1 << 30}, {"max-running", c.MaxRunning, 1 << 20}, {"block-size", c.BlockSize, 1 << 20},
		{"context-length", c.ContextLength, 1 << 30}, {"output-tokens", c.OutputTokens, c.ContextLength},
		{"embedding-size", c.EmbeddingSize, maxDimensions}, {"events-per-write", c.EventsPerWrite, 1 << 20},
	} {
		if f.v < 1 || f.v > f.most {
			bad("%s %d is not between 1 and %d", f.flag, f.v, f.most)
		}
	}
	if c.QueueLimit < 0 {
		bad("queue-limit must not be negative")
	}
	if c.QueueStatus != 503 && c.QueueStatus != 429 {
		bad("queue-status %d is neither 503 nor 429", c.QueueStatus)
	}
	if c.KVTokens < c.ContextLength || c.KVTokens > 1<<31 {
		bad("kv-tokens %d is not between context-length %d and 2^31", c.KVTokens, c.ContextLength)
	}
	if c.MaxBody < 1 {
		bad("max-body must be at least 1")
	}
	if c.StartupDelay < 0 {
		bad("startup-delay-secs must not be negative")
	}
	errs = append(errs, c.validateFaults()...)
	return errors.Join(errs...)
}

func (c Config) validateFaults() []error {
	var errs []error
	for _, s := range c.Faults {
		if _, err := ParseFault(s); err != nil {
			errs = append(errs, err)
		}
	}
	if !(c.FaultRate >= 0 && c.FaultRate <= 1) {
		errs = append(errs, fmt.Errorf("fault-rate %v is not between 0 and 1", c.FaultRate))
	}
	if c.FaultCount < 0 {
		errs = append(errs, errors.New("fault-count must not be negative"))
	}
	for _, p := range c.FaultEndpoints {
		if _, ok := inferences[p]; !ok {
			errs = append(errs, fmt.Errorf("fault-endpoints: %q is no path that infers", p))
		}
	}
	return errs
}
