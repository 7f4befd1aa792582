package bench

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/secret"
	"sluice/internal/kit/tracefile"
)

// Bounds of what a run may be asked for. They keep a slip of the hand from
// filling the memory of the machine that measures.
const (
	maxConcurrency = 1 << 16
	maxRate        = 1e6
	maxTokens      = tracefile.MaxTokens
	maxPrefixes    = 1 << 20

	defaultConcurrency = 8
	defaultOutput      = 64
	defaultDuration    = 10 * time.Second
)

// Config says what is asked, how hard, and for how long.
type Config struct {
	URL      string        `yaml:"url" flag:"url" help:"server to ask: a base URL (http://host:port, with or without /v1), or one with a path of its own, which is then asked as it is"`
	Model    string        `yaml:"model" flag:"model" help:"model name to send"`
	Endpoint string        `yaml:"endpoint" flag:"endpoint" choices:"chat,completions,responses,messages,generate,embeddings" help:"API call to make"`
	APIKey   secret.String `yaml:"api_key" flag:"api-key" help:"key to send as a bearer token"`
	Headers  []string      `yaml:"headers" flag:"header" help:"further request headers, each as name:value"`
	Insecure bool          `yaml:"insecure" flag:"insecure" help:"take any TLS certificate"`

	Concurrency int           `yaml:"concurrency" flag:"concurrency" help:"closed loop: requests, or sessions, kept running at once; 0 for 8, unless rate or trace is given"`
	Rate        float64       `yaml:"rate" flag:"rate" help:"open loop: requests, or sessions, begun per second, however fast the answers are; latency counts from the planned time"`
	Arrival     string        `yaml:"arrival" flag:"arrival" choices:"poisson,constant" help:"open loop: how requests are spread in time"`
	MaxInFlight int           `yaml:"max_in_flight" flag:"max-in-flight" help:"open loop: requests, or sessions, that may run at once; those due beyond it are not sent but counted as shed"`
	Duration    time.Duration `yaml:"duration" flag:"duration" help:"how long to send; 0 for 10s, unless requests, trace or sessions ends the run"`
	Warmup      time.Duration `yaml:"warmup" flag:"warmup" help:"how long to send before the measured time begins"`
	Requests    int64         `yaml:"requests" flag:"requests" help:"end after so many measured requests; 0 for no such bound"`
	MaxErrors   int64         `yaml:"max_errors" flag:"max-errors" help:"end after so many failed requests; 0 for no such bound"`
	Timeout     time.Duration `yaml:"timeout" flag:"timeout" help:"how long one request may take, its stream included"`

	Stream       bool   `yaml:"stream" flag:"stream" help:"ask for streamed answers"`
	PromptTokens int    `yaml:"prompt_tokens" flag:"prompt-tokens" help:"length of a synthetic prompt, shared prefix included; a token is a short word"`
	OutputTokens int    `yaml:"output_tokens" flag:"output-tokens" help:"longest answer to ask for; 0 for 64, or what was recorded of a session"`
	IgnoreEOS    bool   `yaml:"ignore_eos" flag:"ignore-eos" help:"ask the engine to go on to output-tokens; SGLang and vLLM know this field, others may refuse it"`
	SharedPrefix int    `yaml:"shared_prefix_tokens" flag:"shared-prefix-tokens" help:"how much of a synthetic prompt it shares with others"`
	Prefixes     int    `yaml:"prefixes" flag:"prefixes" help:"how many different shared prefixes there are"`
	Seed         int64  `yaml:"seed" flag:"seed" help:"prompts and arrival times follow from it; 0 for one drawn by chance, which the result tells: a server that has seen a prompt answers it from its cache"`
	Trace        string `yaml:"trace" flag:"trace" help:"Mooncake trace (JSON lines, .gz or not) that gives lengths, shared blocks and, without concurrency or rate, times"`

	TraceSpeed float64 `yaml:"trace_speed" flag:"trace-speed" help:"how much faster than its timestamps a trace is sent"`
	TraceBlock int     `yaml:"trace_block_tokens" flag:"trace-block-tokens" help:"tokens that one hash id of the trace stands for; 0 for what the trace says (block_tokens), or 512"`

	Sessions string        `yaml:"sessions" flag:"sessions" help:"conversations to play turn by turn (JSON lines, .gz or not): {tools}, then a line {messages} for each; each is played once unless duration or requests ends the run"`
	MaxTurns int           `yaml:"max_turns" flag:"max-turns" help:"turns of a session at most; 0 for all"`
	UserGap  time.Duration `yaml:"user_gap" flag:"user-gap" help:"how long a session's user takes to answer, as a median; lognormal"`
	ToolGap  time.Duration `yaml:"tool_gap" flag:"tool-gap" help:"how long a session's tool takes to answer, as a median; lognormal"`
	GapScale float64       `yaml:"gap_scale" flag:"gap-scale" help:"factor of both gaps; 0 for none"`

	Connections int  `yaml:"connections" flag:"connections" help:"connections to the server at most; 0 for as many as requests run"`
	NoKeepalive bool `yaml:"no_keepalive" flag:"no-keepalive" help:"open a connection for every request"`
	PID         int  `yaml:"pid" flag:"pid" help:"process whose CPU time and memory are measured; Linux only, 0 for none"`
}

// DefaultConfig returns a short closed loop of chat requests. URL and Model
// have no default.
func DefaultConfig() Config {
	return Config{
		Endpoint: infer.Chat.Label(), Arrival: "poisson", MaxInFlight: 4096, Timeout: 300 * time.Second,
		PromptTokens: 128, Prefixes: 1, TraceSpeed: 1,
		UserGap: 5 * time.Second, ToolGap: 500 * time.Millisecond, GapScale: 1,
	}
}

// endpoints are those that a load can be made for.
var endpoints = []infer.Endpoint{infer.Chat, infer.Completions, infer.Responses, infer.Messages, infer.Generate, infer.Embeddings}

func endpointNamed(name string) (infer.Endpoint, bool) {
	i := slices.IndexFunc(endpoints, func(e infer.Endpoint) bool { return e.Label() == name })
	if i < 0 {
		return infer.Local, false
	}
	return endpoints[i], true
}

// withDefaults fills in what 0 stands for.
func (c Config) withDefaults() Config {
	if c.Seed == 0 {
		c.Seed = 1 + rand.Int64N(1<<31)
	}
	if c.Concurrency == 0 && c.Rate == 0 && c.Trace == "" {
		c.Concurrency = defaultConcurrency
	}
	if c.OutputTokens == 0 && c.Sessions == "" {
		c.OutputTokens = defaultOutput
	}
	if c.Duration == 0 && c.Requests == 0 && c.Trace == "" && c.Sessions == "" {
		c.Duration = defaultDuration
	}
	return c
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	e, ok := endpointNamed(c.Endpoint)
	if !ok {
		bad("endpoint %q is none of chat, completions, responses, messages, generate, embeddings", c.Endpoint)
	}
	if _, err := targetURL(c.URL, e); err != nil {
		errs = append(errs, err)
	}
	if c.Model == "" {
		bad("model is missing; name the model to ask for")
	}
	for _, h := range c.Headers {
		if _, _, err := splitHeader(h); err != nil {
			errs = append(errs, err)
		}
	}
	if !validHeaderValue(c.APIKey.Reveal()) {
		bad("api-key holds a character that no header may hold")
	}
	if ok && e == infer.Embeddings && c.Stream {
		bad("stream is not possible with endpoint embeddings")
	}
	errs = append(append(errs, c.validateLoad()...), c.validatePrompt()...)
	return errors.Join(append(errs, c.validateSessions()...)...)
}

func (c Config) validateLoad() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Concurrency < 0 || c.Concurrency > maxConcurrency {
		bad("concurrency %d is not between 1 and %d", c.Concurrency, maxConcurrency)
	}
	if !(c.Rate >= 0 && c.Rate <= maxRate) {
		bad("rate %v is not between 0 and %v", c.Rate, float64(maxRate))
	}
	if c.Concurrency > 0 && c.Rate > 0 {
		bad("concurrency and rate exclude each other: a closed loop has the one, an open loop the other")
	}
	if c.Arrival != "poisson" && c.Arrival != "constant" {
		bad("arrival %q is neither poisson nor constant", c.Arrival)
	}
	if c.MaxInFlight < 1 || c.MaxInFlight > maxConcurrency {
		bad("max-in-flight %d is not between 1 and %d", c.MaxInFlight, maxConcurrency)
	}
	if c.Duration < 0 || c.Warmup < 0 {
		bad("duration and warmup must not be negative")
	}
	if c.Requests < 0 || c.MaxErrors < 0 {
		bad("requests and max-errors must not be negative")
	}
	if c.Timeout <= 0 || c.Timeout > longest {
		bad("timeout %v is not between 0 and %v", c.Timeout, longest)
	}
	if c.Connections < 0 {
		bad("connections must not be negative")
	}
	if c.PID < 0 {
		bad("pid must not be negative")
	}
	return errs
}

func (c Config) validatePrompt() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.PromptTokens < 1 || c.PromptTokens > maxTokens {
		bad("prompt-tokens %d is not between 1 and %d", c.PromptTokens, maxTokens)
	}
	if c.OutputTokens < 0 || c.OutputTokens > maxTokens {
		bad("output-tokens %d is not between 1 and %d", c.OutputTokens, maxTokens)
	}
	if c.SharedPrefix < 0 || c.SharedPrefix > 0 && c.SharedPrefix >= c.PromptTokens {
		bad("shared-prefix-tokens %d is not between 0 and one less than prompt-tokens, %d", c.SharedPrefix, c.PromptTokens)
	}
	if c.Prefixes < 1 || c.Prefixes > maxPrefixes {
		bad("prefixes %d is not between 1 and %d", c.Prefixes, maxPrefixes)
	}
	if !(c.TraceSpeed > 0) || math.IsInf(c.TraceSpeed, 0) {
		bad("trace-speed %v must be above 0", c.TraceSpeed)
	}
	if c.TraceBlock < 0 || c.TraceBlock > maxTokens {
		bad("trace-block-tokens %d is not between 0 and %d", c.TraceBlock, maxTokens)
	}
	return errs
}

func (c Config) validateSessions() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.MaxTurns < 0 {
		bad("max-turns must not be negative")
	}
	if c.UserGap < 0 || c.UserGap > longest || c.ToolGap < 0 || c.ToolGap > longest {
		bad("user-gap %v or tool-gap %v is not between 0 and %v", c.UserGap, c.ToolGap, longest)
	}
	if !(c.GapScale >= 0) || math.IsInf(c.GapScale, 0) {
		bad("gap-scale %v must not be negative", c.GapScale)
	}
	if c.Sessions == "" {
		return errs
	}
	if c.Trace != "" {
		bad("sessions and trace exclude each other")
	}
	if c.Endpoint != infer.Chat.Label() {
		bad("sessions are chats; endpoint %s cannot be asked with them", c.Endpoint)
	}
	return errs
}

// splitHeader reads name:value. Its error does not show the value: it may be
// a secret.
func splitHeader(h string) (name, value string, err error) {
	name, value, ok := strings.Cut(h, ":")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	switch {
	case !ok || !validToken(name):
		if !ok || len(name) > 64 {
			name = "…"
		}
		return "", "", fmt.Errorf("header %q is not written name:value", name)
	case !validHeaderValue(value):
		return "", "", fmt.Errorf("header %q has a value with a character that no header may hold", name)
	}
	switch n := textproto.CanonicalMIMEHeaderKey(name); n {
	case "Content-Length", "Transfer-Encoding", "Connection", "Host", "Trailer", "Upgrade":
		return "", "", fmt.Errorf("header %q is the client's own and cannot be set", n)
	default:
		return n, value, nil
	}
}

func validToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

func validHeaderValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
