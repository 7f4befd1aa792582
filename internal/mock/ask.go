package mock

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// An ask is one call for inference, in whatever dialect it came. It is
// immutable once it is prepared.
type ask struct {
	model     string // "" if the body names none
	stream    bool
	usage     bool // a stream ends with usage
	usageEach bool // each event of a stream has usage
	prompts   [][]token
	n         int  // answers to each prompt
	limit     int  // of tokens, 0 for none
	soft      bool // the limit is a bound, not a wish
	stop      []string
	seed      uint64
	think     bool
	tool      *tool  // to be called, nil for none
	fault     string // the body's own
	rid       string // the body's request id
	batch     bool   // the prompt was a list, so the answer is
	count     bool   // the prompt is only counted, so it may be too long
	texts     []string
	query     string // of a rerank
	dims      int    // of an embedding, 0 for the engine's own
	base64    bool
	top       int  // documents wanted of a rerank, 0 for all
	documents bool // a rerank returns the texts

	// Filled by prepare.

	plans []plan // n for each prompt
	needs []need // one for each prompt
}

// A refusal is why a request is not served.
type refusal struct {
	status int
	msg    string
	param  string
	code   string // for programs, "" for none
}

func (f *refusal) Error() string { return f.msg }

func refuse(param, format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, param: param, msg: fmt.Sprintf(format, args...)}
}

const (
	maxAnswers    = 128  // of one prompt
	maxPrompts    = 2048 // in one request
	maxDimensions = 8192
	maxStops      = 64
)

// decode reads a JSON object into v.
func decode(body []byte, v any) *refusal {
	if err := json.Unmarshal(body, v); err != nil {
		return refuse("", "invalid JSON body: %v", err)
	}
	if b := bytes.TrimLeft(body, " \t\r\n"); b[0] != '{' {
		return refuse("", "the body must be a JSON object")
	}
	return nil
}

// sampling is what the OpenAI-like bodies have in common.
type sampling struct {
	Model       string          `json:"model"`
	Stream      bool            `json:"stream"`
	StreamOpts  *streamOptions  `json:"stream_options"`
	N           *int            `json:"n"`
	MaxTokens   *int            `json:"max_tokens"`
	Stop        oneOrMore       `json:"stop"`
	Seed        *int64          `json:"seed"`
	Temperature *float64        `json:"temperature"`
	TopP        *float64        `json:"top_p"`
	User        string          `json:"user"`
	Metadata    json.RawMessage `json:"metadata"`
	RID         string          `json:"rid"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
	Continuous   bool `json:"continuous_usage_stats"`
}

// fill moves s into a and checks it. Whatever it refuses, the fault that the
// body asks for is known.
func (s *sampling) fill(a *ask) *refusal {
	a.model, a.stream, a.rid = s.Model, s.Stream, s.RID
	a.fault = bodyFault(s.User, s.Metadata)
	if o := s.StreamOpts; o != nil {
		a.usage, a.usageEach = o.IncludeUsage || o.Continuous, o.Continuous
	}
	a.n = 1
	if s.N != nil {
		a.n = *s.N
	}
	if a.n < 1 || a.n > maxAnswers {
		return refuse("n", "n must be between 1 and %d, got %d.", maxAnswers, a.n)
	}
	if f := a.setLimit("max_tokens", s.MaxTokens); f != nil {
		return f
	}
	if s.Temperature != nil && (*s.Temperature < 0 || *s.Temperature > 2) {
		return refuse("temperature", "temperature must be between 0 and 2, got %v.", *s.Temperature)
	}
	if s.TopP != nil && (*s.TopP <= 0 || *s.TopP > 1) {
		return refuse("top_p", "top_p must be in (0, 1], got %v.", *s.TopP)
	}
	if s.Seed != nil {
		a.seed = uint64(*s.Seed)
	}
	return a.setStop("stop", s.Stop)
}

func (a *ask) setLimit(param string, v *int) *refusal {
	if v == nil {
		return nil
	}
	if *v < 1 {
		return refuse(param, "%s must be at least 1, got %d.", param, *v)
	}
	a.limit = *v
	return nil
}

func (a *ask) setStop(param string, stop []string) *refusal {
	if len(stop) > maxStops {
		return refuse(param, "%s has %d entries, at most %d are taken.", param, len(stop), maxStops)
	}
	for _, s := range stop {
		if s == "" {
			return refuse(param, "%s cannot contain an empty string.", param)
		}
	}
	a.stop = stop
	return nil
}

// bodyFault finds the fault that a body asks for, "" for none.
func bodyFault(user string, metadata json.RawMessage) string {
	if spec, ok := strings.CutPrefix(user, "mock:"); ok {
		return spec
	}
	if !bytes.Contains(metadata, []byte(`mock`)) {
		return ""
	}
	var m struct {
		Fault string `json:"mock_fault"`
		User  string `json:"user_id"` // Anthropic's place for the user
	}
	if json.Unmarshal(metadata, &m) != nil {
		return "" // metadata is the caller's own; what it holds is no error
	}
	if spec, ok := strings.CutPrefix(m.User, "mock:"); ok && m.Fault == "" {
		return spec
	}
	return m.Fault
}

// oneOrMore is a string or a list of strings.
type oneOrMore []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *oneOrMore) UnmarshalJSON(b []byte) error {
	if b[0] == '[' {
		return json.Unmarshal(b, (*[]string)(l))
	}
	var s *string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("want a string or a list of strings: %w", err)
	}
	*l = nil
	if s != nil {
		*l = oneOrMore{*s}
	}
	return nil
}

// inputs is a prompt as text or token ids, or a list of either.
type inputs struct {
	prompts [][]token
	texts   []string
	list    bool
	given   bool
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *inputs) UnmarshalJSON(b []byte) error {
	*p = inputs{given: true}
	switch {
	case string(b) == "null":
		p.given = false
		return nil
	case b[0] == '"':
		return p.addText(b)
	case b[0] != '[':
		return fmt.Errorf("want text, token ids, or a list of either")
	}
	var items []json.RawMessage
	if err := json.Unmarshal(b, &items); err != nil {
		return err
	}
	if len(items) > 0 && items[0][0] != '"' && items[0][0] != '[' {
		return p.addIDs(b)
	}
	p.list = true
	for _, it := range items {
		add := p.addText
		if it[0] == '[' {
			add = p.addIDs
		}
		if err := add(it); err != nil {
			return err
		}
	}
	return nil
}

func (p *inputs) addText(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	p.prompts = append(p.prompts, appendTokens(nil, s))
	p.texts = append(p.texts, s)
	return nil
}

func (p *inputs) addIDs(b []byte) error {
	var ids []int64
	if err := json.Unmarshal(b, &ids); err != nil {
		return err
	}
	ts := make([]token, len(ids))
	for i, id := range ids {
		ts[i] = token(mix(uint64(id)))
	}
	p.prompts = append(p.prompts, ts)
	p.texts = append(p.texts, string(b))
	return nil
}

// fill moves p into a.
func (p *inputs) fill(a *ask, param string) *refusal {
	if !p.given || len(p.prompts) == 0 {
		return refuse(param, "%s is required and must not be empty.", param)
	}
	if len(p.prompts) > maxPrompts {
		return refuse(param, "%s has %d entries, at most %d are taken.", param, len(p.prompts), maxPrompts)
	}
	a.prompts, a.texts, a.batch = p.prompts, p.texts, p.list
	return nil
}

// prepare plans the answers to a and what they need of the cache.
func (a *ask) prepare(cfg Config) *refusal {
	a.n = max(a.n, 1)
	a.needs = make([]need, len(a.prompts))
	a.plans = make([]plan, 0, len(a.prompts)*a.n)
	for i, ts := range a.prompts {
		if len(ts) == 0 {
			ts = []token{0} // what an engine puts before every text
			a.prompts[i] = ts
		}
		want, f := a.want(cfg, len(ts))
		if f != nil {
			return f
		}
		s := need{prompt: len(ts), width: a.n, hashes: chain(nil, ts, cfg.BlockSize, cfg.tails())}
		for c := range a.n {
			p := a.plan(seedOf(ts, a.seed^uint64(c)), want)
			s.out = max(s.out, len(p.pieces))
			a.plans = append(a.plans, p)
		}
		if p := &a.plans[len(a.plans)-1]; a.n == 1 && len(p.pieces) > 0 && p.tool == nil {
			all := appendTokens(ts[:len(ts):len(ts)], p.text())
			s.after = chain(nil, all, cfg.BlockSize, false)[len(ts)/cfg.BlockSize:]
		}
		a.needs[i] = s
	}
	return nil
}

// length says how many tokens an answer has, and whether that is the limit's
// doing.
type length struct {
	tokens int
	cut    bool
}

// want is how long an answer to a prompt of this many tokens is to be.
func (a *ask) want(cfg Config, prompt int) (length, *refusal) {
	if a.count {
		return length{}, nil
	}
	room := cfg.ContextLength - prompt
	if prompt > cfg.ContextLength || a.limit > room || a.limit == 0 && !a.reads() && room == 0 {
		return length{}, &refusal{
			status: http.StatusBadRequest, code: "context_length_exceeded", param: "messages",
			msg: fmt.Sprintf("This model's maximum context length is %d tokens. However, you requested %d tokens (%d in the messages, %d in the completion). Please reduce the length of the messages or completion.", cfg.ContextLength, prompt+max(a.limit, 0), prompt, max(a.limit, 0)),
		}
	}
	switch {
	case a.reads():
		return length{}, nil
	case a.limit == 0:
		return length{min(cfg.OutputTokens, room), cfg.OutputTokens > room}, nil
	case a.soft && a.limit >= cfg.OutputTokens:
		return length{cfg.OutputTokens, false}, nil
	}
	return length{a.limit, true}, nil
}

// reads reports whether a wants a prompt read and no answer written.
func (a *ask) reads() bool { return a.limit < 0 }

// readOnly is the limit of calls that want no answer.
const readOnly = -1
