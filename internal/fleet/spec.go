package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"sluice/internal/kit/breaker"
	"sluice/internal/kit/secret"
)

// Bounds of what a worker, or who registers one, may make the gateway keep.
const (
	maxModels = 256 // of one worker
	maxName   = 256 // bytes of a model's name, an alias, a label's key
	maxLabels = 128
	maxValue  = 1024 // bytes of a label's value and of other text
)

// A FieldError says which field of a Spec is refused and why.
type FieldError struct {
	Field string
	Value string // as it may be shown
	Want  string
}

// Error has the contract's words, which clients of its API know.
func (e *FieldError) Error() string {
	return fmt.Sprintf("Invalid value for field '%s': %s - %s", e.Field, e.Value, e.Want)
}

// A ModelCard describes one model of a worker.
type ModelCard struct {
	ID              string            `json:"id"`
	DisplayName     string            `json:"display_name,omitempty"`
	Aliases         []string          `json:"aliases,omitempty"`
	ModelType       []string          `json:"model_type,omitempty"`
	HFModelType     string            `json:"hf_model_type,omitempty"`
	Architectures   []string          `json:"architectures,omitempty"`
	Provider        string            `json:"provider,omitempty"`
	ContextLength   int               `json:"context_length,omitempty"`
	TokenizerPath   string            `json:"tokenizer_path,omitempty"`
	ChatTemplate    string            `json:"chat_template,omitempty"`
	ReasoningParser string            `json:"reasoning_parser,omitempty"`
	ToolParser      string            `json:"tool_parser,omitempty"`
	Metadata        map[string]any    `json:"metadata,omitempty"`
	ID2Label        map[string]string `json:"id2label,omitempty"`
	NumLabels       int               `json:"num_labels,omitempty"`
}

// A Spec is a worker as it is registered. Only URL is required; zero values
// are found out from the worker or take the gateway's settings.
type Spec struct {
	URL                   string            `json:"url"`
	Models                []ModelCard       `json:"models,omitempty"`
	WorkerType            string            `json:"worker_type,omitempty"`
	ConnectionMode        string            `json:"connection_mode,omitempty"`
	RuntimeType           string            `json:"runtime_type,omitempty"`
	Runtime               string            `json:"runtime,omitempty"` // another name for RuntimeType
	Provider              string            `json:"provider,omitempty"`
	Labels                map[string]string `json:"labels,omitempty"`
	Priority              *int              `json:"priority,omitempty"`
	Cost                  *float64          `json:"cost,omitempty"`
	APIKey                secret.String     `json:"api_key"`
	BootstrapPort         *int              `json:"bootstrap_port,omitempty"`
	Health                *HealthSpec       `json:"health,omitempty"`
	Resilience            *Resilience       `json:"resilience,omitempty"`
	MaxConnectionAttempts *int              `json:"max_connection_attempts,omitempty"`
	DPSize                *int              `json:"dp_size,omitempty"` // data-parallel ranks, if the engine does not say; with DPAware
	KVTokens              int               `json:"-"`                 // of a worker that nobody can ask, in a simulation; its own word goes before

	// Of the contract, not built; Validate refuses them.

	KVConnector    *string        `json:"kv_connector,omitempty"`
	KVRole         *string        `json:"kv_role,omitempty"`
	KVEngineID     *string        `json:"kv_engine_id,omitempty"`
	KVBlockSize    *int           `json:"kv_block_size,omitempty"`
	HTTPPool       map[string]any `json:"http_pool,omitempty"`
	LoadInterval   *int           `json:"load_monitor_interval_secs,omitempty"`
	TensorTransfer *string        `json:"multimodal_tensor_transport,omitempty"`
	ShmMinBytes    *int           `json:"multimodal_shm_min_bytes,omitempty"`
	ZMQHandshake   *string        `json:"zmq_handshake_address,omitempty"`
}

// A HealthSpec replaces the gateway's health settings for one worker, as far
// as its fields are set.
type HealthSpec struct {
	TimeoutSecs       *int  `json:"timeout_secs,omitempty"`
	CheckIntervalSecs *int  `json:"check_interval_secs,omitempty"`
	SuccessThreshold  *int  `json:"success_threshold,omitempty"`
	FailureThreshold  *int  `json:"failure_threshold,omitempty"`
	Disable           *bool `json:"disable_health_check,omitempty"`
	DrainSettleSecs   *int  `json:"drain_settle_secs,omitempty"`
}

// Resilience replaces the gateway's circuit breaker settings for one worker,
// as far as its fields are set.
type Resilience struct {
	FailureThreshold *int  `json:"cb_failure_threshold,omitempty"`
	SuccessThreshold *int  `json:"cb_success_threshold,omitempty"`
	TimeoutSecs      *int  `json:"cb_timeout_secs,omitempty"`
	WindowSecs       *int  `json:"cb_window_secs,omitempty"`
	DisableBreaker   *bool `json:"disable_circuit_breaker,omitempty"`

	// Of the contract, not built; Validate refuses them.

	MaxRetries        *int     `json:"max_retries,omitempty"`
	InitialBackoffMS  *int     `json:"initial_backoff_ms,omitempty"`
	MaxBackoffMS      *int     `json:"max_backoff_ms,omitempty"`
	BackoffMultiplier *float64 `json:"backoff_multiplier,omitempty"`
	JitterFactor      *float64 `json:"jitter_factor,omitempty"`
	DisableRetry      *bool    `json:"disable_retry,omitempty"`
	RetryableStatus   []int    `json:"retryable_status_codes,omitempty"`
}

// Validate reports everything that is wrong with s; each fault is a
// *FieldError. What the contract knows and this gateway does not yet is
// refused by name.
func (s Spec) Validate() error {
	var errs []error
	bad := func(field string, value any, want string) {
		errs = append(errs, &FieldError{Field: field, Value: printable(fmt.Sprint(value)), Want: want})
	}
	if _, err := ParseURL(s.URL, false); err != nil {
		errs = append(errs, err)
	}
	oneOf := func(field, value, built, known string) {
		switch {
		case value == "" || contains(built, value):
		case contains(known, value):
			bad(field, value, "not supported yet; want "+strings.ReplaceAll(built, " ", " or "))
		default:
			bad(field, value, "unknown; want "+strings.ReplaceAll(built, " ", " or "))
		}
	}
	oneOf("worker_type", s.WorkerType, "regular", "prefill decode encode")
	oneOf("connection_mode", s.ConnectionMode, "http", "grpc zmq")
	oneOf("runtime_type", s.runtime(), "unspecified sglang vllm trtllm mlx tokenspeed", "external")
	if s.Provider != "" {
		bad("provider", s.Provider, "not supported yet")
	}
	for field, set := range map[string]bool{
		"kv_connector": s.KVConnector != nil, "kv_role": s.KVRole != nil, "kv_engine_id": s.KVEngineID != nil, "kv_block_size": s.KVBlockSize != nil,
		"http_pool": len(s.HTTPPool) > 0, "load_monitor_interval_secs": s.LoadInterval != nil,
		"multimodal_tensor_transport": s.TensorTransfer != nil, "multimodal_shm_min_bytes": s.ShmMinBytes != nil, "zmq_handshake_address": s.ZMQHandshake != nil,
	} {
		if set {
			bad(field, "set", "not supported yet")
		}
	}
	atLeast(bad, "dp_size", s.DPSize, 1)
	s.validateText(bad)
	if s.Health != nil {
		s.Health.validate(bad)
	}
	if s.Resilience != nil {
		s.Resilience.validate(bad)
	}
	if p := s.BootstrapPort; p != nil && (*p < 1 || *p > 65535) {
		bad("bootstrap_port", *p, "want 1 to 65535")
	}
	if c := s.Cost; c != nil && !(*c >= 0 && *c <= 1e12) {
		bad("cost", *c, "want a number of 0 or more")
	}
	return errors.Join(errs...)
}

// validateText checks what ends up in tables, headers and answers.
func (s Spec) validateText(bad func(field string, value any, want string)) {
	if k := s.APIKey.Reveal(); strings.ContainsFunc(k, func(r rune) bool { return r <= ' ' || r > '~' }) || len(k) > 8192 {
		bad("api_key", s.APIKey, "want visible ASCII, at most 8192 bytes")
	}
	if len(s.Models) > maxModels {
		bad("models", len(s.Models), fmt.Sprintf("want at most %d", maxModels))
	}
	for _, m := range s.Models {
		for _, name := range append([]string{m.ID}, m.Aliases...) {
			if !goodName(name) {
				bad("models", fmt.Sprintf("%q", printable(name)), fmt.Sprintf("a name is 1 to %d bytes of UTF-8 without control characters", maxName))
			}
		}
		if len(m.Aliases) > maxModels {
			bad("models", m.ID, fmt.Sprintf("want at most %d aliases", maxModels))
		}
	}
	validateLabels(s.Labels, bad)
}

func validateLabels(labels map[string]string, bad func(field string, value any, want string)) {
	if len(labels) > maxLabels {
		bad("labels", len(labels), fmt.Sprintf("want at most %d", maxLabels))
	}
	for k, v := range labels {
		if !goodName(k) || len(v) > maxValue || !utf8.ValidString(v) {
			bad("labels", fmt.Sprintf("%q", printable(k)), fmt.Sprintf("a label has a name of 1 to %d bytes and a value of at most %d, both UTF-8", maxName, maxValue))
		}
		if k == "model_id" && v != "" && !goodName(v) {
			bad("labels", k, fmt.Sprintf("a model's name is 1 to %d bytes of UTF-8 without control characters", maxName))
		}
	}
}

// maxSecs keeps seconds far from where time.Duration overflows.
const maxSecs = 10 * 365 * 24 * 3600

func (h *HealthSpec) validate(bad func(field string, value any, want string)) {
	atLeast(bad, "health.timeout_secs", h.TimeoutSecs, 1)
	atLeast(bad, "health.check_interval_secs", h.CheckIntervalSecs, 1)
	atLeast(bad, "health.success_threshold", h.SuccessThreshold, 1)
	atLeast(bad, "health.failure_threshold", h.FailureThreshold, 1)
	atLeast(bad, "health.drain_settle_secs", h.DrainSettleSecs, 0)
}

func (r *Resilience) validate(bad func(field string, value any, want string)) {
	atLeast(bad, "resilience.cb_failure_threshold", r.FailureThreshold, 1)
	atLeast(bad, "resilience.cb_success_threshold", r.SuccessThreshold, 1)
	atLeast(bad, "resilience.cb_timeout_secs", r.TimeoutSecs, 0)
	atLeast(bad, "resilience.cb_window_secs", r.WindowSecs, 0)
	for field, set := range map[string]bool{
		"max_retries": r.MaxRetries != nil, "initial_backoff_ms": r.InitialBackoffMS != nil, "max_backoff_ms": r.MaxBackoffMS != nil, "backoff_multiplier": r.BackoffMultiplier != nil,
		"jitter_factor": r.JitterFactor != nil, "disable_retry": r.DisableRetry != nil, "retryable_status_codes": len(r.RetryableStatus) > 0,
	} {
		if set {
			bad("resilience."+field, "set", "not supported yet")
		}
	}
}

func atLeast(bad func(field string, value any, want string), field string, v *int, least int) {
	if v != nil && (*v < least || *v > maxSecs) {
		bad(field, *v, fmt.Sprintf("want %d or more", least))
	}
}

// runtime returns the engine's kind under either of its names.
func (s Spec) runtime() string {
	return cmp.Or(s.RuntimeType, s.Runtime)
}

// breaker returns c with what s says otherwise.
func (s Spec) breaker(c breaker.Config) breaker.Config {
	r := s.Resilience
	if r == nil {
		return c
	}
	set(&c.Failures, r.FailureThreshold)
	set(&c.Successes, r.SuccessThreshold)
	set(&c.Disabled, r.DisableBreaker)
	setSecs(&c.Rest, r.TimeoutSecs)
	setSecs(&c.Window, r.WindowSecs)
	return c
}

// apply returns c and the drain time with what h says otherwise; h may be nil.
func (h *HealthSpec) apply(c HealthConfig, settle time.Duration) (HealthConfig, time.Duration) {
	if h == nil {
		return c, settle
	}
	set(&c.Failures, h.FailureThreshold)
	set(&c.Successes, h.SuccessThreshold)
	set(&c.Disabled, h.Disable)
	setSecs(&c.Timeout, h.TimeoutSecs)
	setSecs(&c.Interval, h.CheckIntervalSecs)
	setSecs(&settle, h.DrainSettleSecs)
	return c, settle
}

// merge returns h with what p says otherwise; both may be nil.
func (h *HealthSpec) merge(p *HealthSpec) *HealthSpec {
	if h == nil || p == nil {
		return cmp.Or(h, p)
	}
	m := *h
	for _, f := range []struct{ to, v **int }{
		{&m.TimeoutSecs, &p.TimeoutSecs}, {&m.CheckIntervalSecs, &p.CheckIntervalSecs}, {&m.SuccessThreshold, &p.SuccessThreshold},
		{&m.FailureThreshold, &p.FailureThreshold}, {&m.DrainSettleSecs, &p.DrainSettleSecs},
	} {
		*f.to = cmp.Or(*f.v, *f.to)
	}
	m.Disable = cmp.Or(p.Disable, m.Disable)
	return &m
}

// mergeLabels returns labels with what p says otherwise.
func mergeLabels(labels, p map[string]string) map[string]string {
	out := maps.Clone(labels)
	for k, v := range p {
		if v == "" {
			delete(out, k)
			continue
		}
		if out == nil {
			out = make(map[string]string)
		}
		out[k] = v
	}
	return out
}

// clone returns a copy that shares nothing the caller may write to.
func (s Spec) clone() Spec {
	s.Labels = maps.Clone(s.Labels)
	s.Models = append([]ModelCard(nil), s.Models...)
	for i := range s.Models {
		s.Models[i].Aliases = append([]string(nil), s.Models[i].Aliases...)
	}
	if s.Health != nil {
		h := *s.Health
		s.Health = &h
	}
	return s
}

func set[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

func setSecs(to *time.Duration, v *int) {
	if v != nil {
		*to = time.Duration(*v) * time.Second
	}
}

// goodName reports whether s can name a model.
func goodName(s string) bool {
	return s != "" && len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r <= 0x9f })
}

// contains reports whether word is one of the words of list.
func contains(list, word string) bool {
	for w := range strings.FieldsSeq(list) {
		if w == word {
			return true
		}
	}
	return false
}
