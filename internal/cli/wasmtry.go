package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sluice/internal/gate/hook"
	"sluice/internal/infer"
	"sluice/internal/kit/metric"
	"sluice/internal/kit/sse"
	"sluice/internal/server"
	"sluice/internal/wasm"
)

const tryHelp = `Run requests through a module, as the gateway would, and show what it changes.

  sluice wasm test my-module.wasm --request test.http
  sluice wasm test my-module.wasm --request test.http --json

The file has messages as they stand on the wire, with lines of ### in between: a
request, the worker's answer to it, the next request. An answer may be a stream,
and may be left out; it is 200 {} then. ERROR 502 code text stands for an error of
the gateway's.

  POST /v1/chat/completions HTTP/1.1
  Content-Type: application/json

  {"model":"m1","stream":true,"messages":[{"role":"user","content":"hello"}]}
  ###
  HTTP/1.1 200 OK
  Content-Type: text/event-stream

  data: {"choices":[{"index":0,"delta":{"content":"Hello."}}]}

  data: [DONE]

The exit code is 1 if the module failed in a call.
`

// tryOptions are the flags of "sluice wasm test".
type tryOptions struct {
	Request   string `flag:"request" help:"file with requests and answers"`
	Isolation string `flag:"isolation" choices:"snapshot,fresh,shared" help:"how instances are shared between calls"`
	Closed    bool   `flag:"fail-closed" help:"refuse a request if the module fails, instead of going on without it"`
	Config    string `flag:"config" help:"what an http-wasm module gets as its configuration"`
	JSON      bool   `flag:"json" help:"print the result as JSON, or as error why there is none"`
}

// wasmTry runs requests through a module.
func wasmTry(args []string, std streams) int {
	opt := tryOptions{Isolation: string(wasm.Snapshot)}
	fs := flagsOf("wasm test", &opt)
	if wantsHelp(args) {
		usage(std.out, tryHelp, fs)
		return exitOK
	}
	file, err := takeOne(fs, args, "the module's file")
	if err == nil && opt.Request == "" {
		err = errors.New("request is missing; name a file with a request, such as the test.http of sluice wasm new")
	}
	if err != nil {
		return refuse(std, "wasm test", err)
	}
	std.json = opt.JSON
	module, err := readModule(file, noModule)
	if err != nil {
		return failed(std, "wasm test", err)
	}
	turns, err := readRequests(opt.Request)
	if err != nil {
		return failed(std, "wasm test", err)
	}
	ctx, end := untilSignal()
	defer end()
	tr, err := try(ctx, opt, file, module, turns)
	if err != nil {
		return failed(std, "wasm test", noComponent(file, fmt.Errorf("%s: %w", filepath.Base(file), err)))
	}
	if opt.JSON {
		if err := printJSON(std.out, tr); err != nil {
			return failed(std, "wasm test", err)
		}
	} else {
		_, colour := onTerminal(std.out)
		tr.print(std.out, colour)
	}
	if tr.failed() {
		return exitFailed
	}
	return exitOK
}

// A trial is what came of requests.
type trial struct {
	Module   string            `json:"module"`
	Requests []*tried          `json:"requests"`
	Counters map[string]uint64 `json:"counters,omitempty"` // that the module counted
}

// A tried is what came of one request.
type tried struct {
	Request string  `json:"request"`
	Steps   []*step `json:"steps"`
	Status  int     `json:"status"` // that the client gets
	Bytes   int     `json:"bytes"`
	Events  int     `json:"events,omitempty"`
	Refused string  `json:"refused,omitempty"` // by the gateway, and why
	Note    string  `json:"note,omitempty"`
}

// A step is one call of the module.
type step struct {
	Hook   string   `json:"hook"`
	Event  int      `json:"event,omitempty"` // of the stream, from 1
	Action string   `json:"action"`
	Micros float64  `json:"us"`
	Error  string   `json:"error,omitempty"`
	Says   []string `json:"says,omitempty"`
	Diff   []change `json:"diff,omitempty"`
}

// A change is a line that went or came.
type change struct {
	Op   string `json:"op"` // - or +
	Text string `json:"text"`
}

// A player plays the gateway around a module, one request at a time.
type player struct {
	trial
	gate infer.Gate
	now  *tried
	says []string // since the last step
}

// try plays all turns.
func try(ctx context.Context, opt tryOptions, file string, module []byte, turns []turn) (*trial, error) {
	p := &player{trial: trial{Module: filepath.Base(file)}}
	log := slog.New(&listener{p})
	e, stop, err := engine(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer stop()
	reg := wasm.NewRegistry(e, "", slog.New(slog.DiscardHandler))
	defer reg.Close()
	spec := wasm.Spec{Name: strings.TrimSuffix(filepath.Base(file), ".wasm"), Settings: wasm.DefaultSettings(), FailClosed: opt.Closed}
	spec.Settings.Isolation, spec.Settings.Config = wasm.Isolation(opt.Isolation), opt.Config
	m, err := reg.Add(ctx, spec, module)
	if err != nil {
		return nil, err
	}
	metrics := new(hook.Metrics)
	metric.Fill(metric.NewRegistry(nil), metrics)
	p.gate = hook.Gate(hook.Options{Modules: reg, Look: server.Look, LookHeader: server.LookHeader, Endpoint: called, Log: log, Metrics: metrics, Saw: p.saw})
	for _, t := range turns {
		p.play(ctx, t)
	}
	m.Store.Counters(func(name string, n uint64) {
		if p.Counters == nil {
			p.Counters = make(map[string]uint64)
		}
		p.Counters[name] = n
	})
	return &p.trial, nil
}

// saw notes a call.
func (p *player) saw(_ *wasm.Attached, h wasm.Hook, action string, took time.Duration, err error) {
	s := &step{Hook: hookName(h), Action: action, Micros: float64(took.Nanoseconds()) / 1e3, Says: p.says}
	switch h {
	case wasm.OnChunk:
		s.Event = p.now.Events + 1
	case wasm.OnError, wasm.OnEnd:
		s.Action = "done"
	}
	if err != nil {
		s.Action, s.Error = "failed", err.Error()
	}
	p.says = nil
	p.now.Steps = append(p.now.Steps, s)
}

// hookName is h as the world has it.
func hookName(h wasm.Hook) string {
	return [...]string{"on-request", "on-response", "on-chunk", "on-error", "on-end"}[h]
}

// last returns the last call of a hook, nil if there was none.
func (t *tried) last(hook string) *step {
	for i := len(t.Steps) - 1; i >= 0; i-- {
		if t.Steps[i].Hook == hook {
			return t.Steps[i]
		}
	}
	return nil
}

// play sends one request past the module.
func (p *player) play(ctx context.Context, t turn) {
	m := t.request
	p.now = &tried{Request: m.method + " " + m.path}
	p.Requests = append(p.Requests, p.now)
	r := &infer.Request{
		ID: "test-" + strconv.Itoa(len(p.Requests)), Method: m.method, Path: m.path, Query: m.query, Endpoint: endpoint(m.path),
		Received: time.Now(), Body: m.body, Size: int64(len(m.body)),
	}
	for _, f := range m.header.Fields() {
		r.Header.Add(f.Name, f.Value)
	}
	if r.Endpoint == infer.Local {
		p.now.Note = "the gateway answers this path itself and calls no module for it"
	}
	r.Fault = server.Look(r)
	wire := new(recorder)
	w := infer.NewReply(wire)
	worker := infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
		if s := p.now.last("on-request"); s != nil {
			s.Diff = append(diffFields(&m.header, &r.Header), diffBody(m.body, r.Body)...)
		}
		return p.answer(t.answer, wire, w)
	})
	err := p.gate(server.Sound(worker)).Serve(ctx, r, w)
	if err != nil && !w.Committed() {
		p.now.refuse(err)
		return
	}
	if err != nil {
		p.now.Note = "the connection ends: " + err.Error()
	}
	p.now.Status, p.now.Bytes = wire.status, len(wire.body)
	if s := p.now.last("on-response"); s != nil && t.answer != nil {
		if t.answer.status != wire.status {
			s.Diff = append(s.Diff, change{"-", "status " + strconv.Itoa(t.answer.status)}, change{"+", "status " + strconv.Itoa(wire.status)})
		}
		s.Diff = append(append(s.Diff, diffFields(&t.answer.header, &wire.header)...), diffBody(t.answer.body, wire.body)...)
	}
}

func (t *tried) refuse(err error) {
	e := infer.AsError(err)
	t.Status, t.Refused = e.Status, e.Code+": "+e.Msg
}

// noAnswer is the worker's if the file has none.
var noAnswer = func() *message {
	m := &message{kind: anAnswer, status: 200, body: []byte("{}")}
	m.header.AddString("Content-Type", "application/json")
	return m
}()

// answer plays the worker.
func (p *player) answer(m *message, wire *recorder, w *infer.Reply) error {
	if m == nil {
		m = noAnswer
		if p.now.Note == "" {
			p.now.Note = "the file has no answer to it; the worker's is 200 {}"
		}
	}
	if m.kind == anError {
		return &infer.Error{Status: m.status, Code: m.code, Msg: m.text}
	}
	for _, f := range m.header.Fields() {
		w.Header().Add(f.Name, f.Value)
	}
	w.Commit(m.status)
	if !m.streams() {
		if u, ok := sse.UsageOf(m.body); ok {
			w.Served.Tokens = infer.Tokens{Input: u.Input, Cached: u.Cached, Output: u.Output}
		}
		_, err := w.Write(m.body)
		return err
	}
	var watch sse.Watcher
	watch.Feed(m.body)
	if u, ok := watch.Usage(); ok {
		w.Served.Tokens = infer.Tokens{Input: u.Input, Cached: u.Cached, Output: u.Output}
	}
	for rest := m.body; len(rest) > 0; {
		event, after, ok := sse.Cut(rest)
		if !ok {
			event, after = rest, nil
		}
		rest = after
		before := len(wire.body)
		if _, err := w.Write(event); err != nil {
			return err
		}
		if s := p.now.last("on-chunk"); s != nil && s.Event == p.now.Events+1 {
			s.Diff = diffBody(event, wire.body[min(before, len(wire.body)):])
		}
		p.now.Events++
	}
	return nil
}

// A recorder is the client.
type recorder struct {
	header infer.Header
	status int
	body   []byte
}

func (w *recorder) Header() *infer.Header  { return &w.header }
func (w *recorder) WriteHeader(status int) { w.status = status }
func (w *recorder) Flush() error           { return nil }
func (w *recorder) Write(b []byte) (int, error) {
	w.body = append(w.body, b...)
	return len(b), nil
}

// A listener hears what the module writes to the log.
type listener struct{ p *player }

func (l *listener) Enabled(context.Context, slog.Level) bool { return true }
func (l *listener) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *listener) WithGroup(string) slog.Handler            { return l }
func (l *listener) Handle(_ context.Context, r slog.Record) error {
	text := ""
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "text" {
			text = strings.TrimRight(a.Value.String(), "\n")
		}
		return true
	})
	switch r.Message {
	case "a module says":
		l.p.says = append(l.p.says, strings.ToLower(r.Level.String())+": "+text)
	case "a module writes": // once the call is over
		s := l.p.now.Steps[len(l.p.now.Steps)-1]
		for line := range strings.Lines(text) {
			s.Says = append(s.Says, "prints: "+strings.TrimRight(line, "\n"))
		}
	}
	return nil
}

// diffFields compares header lines; their order does not matter.
func diffFields(old, now *infer.Header) (cs []change) {
	count := make(map[string]int)
	line := func(f infer.Field) string { return string(f.Name) + ": " + string(f.Value) }
	for _, f := range now.Fields() {
		count[line(f)]++
	}
	for _, f := range old.Fields() {
		if l := line(f); count[l] > 0 {
			count[l]--
		} else {
			cs = append(cs, change{"-", l})
		}
	}
	for _, f := range now.Fields() {
		l := line(f)
		if count[l] > 0 && !bytes.EqualFold(f.Name, []byte("content-length")) {
			count[l]--
			cs = append(cs, change{"+", l})
		}
	}
	return cs
}

// diffBody compares bodies, cut to what differs and a little around it.
func diffBody(old, now []byte) []change {
	if bytes.Equal(old, now) {
		return nil
	}
	const around = 24
	begin, end := 0, 0
	for begin < min(len(old), len(now)) && old[begin] == now[begin] {
		begin++
	}
	for end < min(len(old), len(now))-begin && old[len(old)-1-end] == now[len(now)-1-end] {
		end++
	}
	part := func(b []byte) string {
		from, to := max(begin-around, 0), min(len(b)-end+around, len(b))
		s := strings.TrimRight(string(b[from:to]), "\n")
		if from > 0 {
			s = "…" + s
		}
		if to < len(bytes.TrimRight(b, "\n")) {
			s += "…"
		}
		const most = 2 << 10
		if len(s) > most {
			s = s[:most] + "…"
		}
		return strings.ToValidUTF8(s, "�")
	}
	var cs []change
	if len(old) > 0 {
		cs = append(cs, change{"-", part(old)})
	}
	if len(now) > 0 {
		cs = append(cs, change{"+", part(now)})
	}
	return cs
}

// failed reports whether the module failed in a call.
func (t *trial) failed() bool {
	for _, r := range t.Requests {
		for _, s := range r.Steps {
			if s.Error != "" {
				return true
			}
		}
	}
	return false
}
