package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/linelog"
	"sluice/internal/kit/metric"
)

// fakeWire is a client that takes everything, until it breaks.
type fakeWire struct {
	header infer.Header
	status int
	body   bytes.Buffer
	broken error
}

func (w *fakeWire) Header() *infer.Header  { return &w.header }
func (w *fakeWire) WriteHeader(status int) { w.status = status }
func (w *fakeWire) Flush() error           { return w.broken }
func (w *fakeWire) Write(b []byte) (int, error) {
	if w.broken != nil {
		return 0, w.broken
	}
	return w.body.Write(b)
}

// rig is the gate with everything that it writes to.
type rig struct {
	cfg  Config
	log  bytes.Buffer
	reg  *metric.Registry
	m    Metrics
	opt  Options
	gate infer.Gate
	wire fakeWire
	req  infer.Request
}

var received = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// newRig returns a gate whose requests take 1.5 s.
func newRig(cfg Config) *rig {
	g := &rig{cfg: cfg, reg: metric.NewRegistry(nil)}
	metric.Fill(g.reg, &g.m)
	g.opt = options(&g.log, linelog.Config{JSON: true})
	g.opt.Metrics, g.opt.Now = &g.m, func() time.Time { return received.Add(1500 * time.Millisecond) }
	g.gate = Gate(cfg, g.opt)
	g.req = infer.Request{
		Endpoint: infer.Chat, Route: "/v1/chat/completions", Method: "POST", Path: "/v1/chat/completions",
		Query: "token=sekrit", Remote: netip.MustParseAddr("::ffff:192.0.2.7"), Received: received,
	}
	return g
}

// options are a gate's that logs to w.
func options(w io.Writer, cfg linelog.Config) Options {
	lines := linelog.New(w, cfg)
	return Options{Log: slog.New(lines.Handler()), Lines: lines}
}

// serve answers the rig's request with h, as a front end does.
func (g *rig) serve(ctx context.Context, h infer.HandlerFunc) error {
	defer g.opt.Lines.Flush()
	return g.gate(h).Serve(ctx, &g.req, infer.NewReply(&g.wire))
}

// line returns the one line of the log as a map, and that it was logged once.
func (g *rig) line(t *testing.T) map[string]any {
	t.Helper()
	var line map[string]any
	if err := json.Unmarshal(g.log.Bytes(), &line); err != nil {
		t.Fatalf("want one line of JSON: %v in %q", err, g.log.String())
	}
	return line
}

// metrics returns the samples that begin with prefix.
func (g *rig) metrics(prefix string) []string {
	rec := httptest.NewRecorder()
	g.reg.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	var lines []string
	for line := range strings.Lines(rec.Body.String()) {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func ok(_ context.Context, _ *infer.Request, w *infer.Reply) error {
	return w.Send(200, "application/json", []byte(`{}`))
}

func TestRequestID(t *testing.T) {
	generated := regexp.MustCompile(`^chatcmpl-[0-9A-Za-z]{24}$`)
	tests := []struct {
		name string
		sent []string // names and values in turn
		want string   // "" for a new one
	}{
		{"none sent", nil, ""},
		{"the client's", []string{"X-Request-Id", "abc-1"}, "abc-1"},
		{"the first configured, not the first sent", []string{"X-Trace-Id", "t", "X-Correlation-Id", "c"}, "c"},
		{"header that is not configured", []string{"X-Amzn-Trace-Id", "t"}, ""},
		{"with spaces", []string{"X-Request-Id", "a b c"}, ""},
		{"empty", []string{"X-Request-Id", ""}, ""},
		{"not ASCII", []string{"X-Request-Id", "é"}, ""},
		{"control characters", []string{"X-Request-Id", "a\tb"}, ""},
		{"128 characters", []string{"X-Request-Id", strings.Repeat("x", 128)}, strings.Repeat("x", 128)},
		{"129 characters", []string{"X-Request-Id", strings.Repeat("x", 129)}, ""},
		{"the next one that will do", []string{"X-Request-Id", "a b", "X-Trace-Id", "t"}, "t"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(DefaultConfig())
			for i := 0; i < len(tt.sent); i += 2 {
				g.req.Header.AddString(tt.sent[i], tt.sent[i+1])
			}
			var seen string
			if err := g.serve(t.Context(), func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
				seen = r.ID
				return ok(ctx, r, w)
			}); err != nil {
				t.Fatal(err)
			}
			if tt.want != "" && seen != tt.want || tt.want == "" && !generated.MatchString(seen) {
				t.Errorf("the request's id is %q, want %q", seen, tt.want)
			}
			if got := string(g.wire.header.Get("x-request-id")); got != seen {
				t.Errorf("the client reads %q, the request's id is %q", got, seen)
			}
		})
	}
}

func TestIDsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := newID("msg_")
		if seen[id] {
			t.Fatalf("%q came twice", id)
		}
		seen[id] = true
	}
}

// FuzzRequestID holds that no id can break a header or a log, whatever a
// client sends.
func FuzzRequestID(f *testing.F) {
	f.Add([]byte("abc"))
	f.Add([]byte("a\r\nset-cookie: x"))
	f.Fuzz(func(t *testing.T, v []byte) {
		r := &infer.Request{}
		r.Header.Add([]byte("x-request-id"), v)
		id := requestID(r, []string{"x-request-id"})
		if !isID([]byte(id)) {
			t.Errorf("%q gave the id %q", v, id)
		}
	})
}

func TestAnErrorIsAnsweredWithTheID(t *testing.T) {
	g := newRig(DefaultConfig())
	g.req.Header.AddString("x-request-id", "abc")
	reply := infer.NewReply(&g.wire)
	err := g.gate(infer.HandlerFunc(func(context.Context, *infer.Request, *infer.Reply) error {
		return &infer.Error{Status: 404, Code: "model_not_found"}
	})).Serve(t.Context(), &g.req, reply)
	if infer.AsError(err).Code != "model_not_found" {
		t.Fatalf("the gate changed the error to %v", err)
	}
	if err := reply.Send(404, "application/json", []byte("{}")); err != nil { // as the server does
		t.Fatal(err)
	}
	if got := string(g.wire.header.Get("x-request-id")); got != "abc" {
		t.Errorf("the error is answered with id %q, want abc", got)
	}
}

func TestAnthropicsSDKsFindTheID(t *testing.T) {
	for endpoint, want := range map[infer.Endpoint]string{infer.Messages: "abc", infer.CountTokens: "abc", infer.Chat: "the worker's"} {
		g := newRig(DefaultConfig())
		g.req.Endpoint = endpoint
		g.req.Header.AddString("x-request-id", "abc")
		err := g.serve(t.Context(), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().AddString("Request-Id", "the worker's")
			_, err := w.Write([]byte("x"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for v := range g.wire.header.Values("request-id") {
			ids = append(ids, string(v))
		}
		if !slices.Equal(ids, []string{want}) {
			t.Errorf("%v: request-id is %q, want only %q", endpoint, ids, want)
		}
	}
}

func TestAWorkersHeadersDoNotSpeakForTheGateway(t *testing.T) {
	relay := func(_ context.Context, r *infer.Request, w *infer.Reply) error {
		w.Served.Worker = "http://10.0.0.5:8000"
		w.Header().AddString("X-Request-ID", "the worker's")
		w.Header().AddString("X-SMG-Routed-Worker-Id", "http://10.9.9.9:1")
		_, err := w.Write([]byte("x"))
		return err
	}
	for show, want := range map[bool]string{false: "", true: "http://10.0.0.5:8000"} {
		cfg := DefaultConfig()
		cfg.ShowWorker = show
		g := newRig(cfg)
		if err := g.serve(t.Context(), relay); err != nil {
			t.Fatal(err)
		}
		var ids []string
		for v := range g.wire.header.Values("x-request-id") {
			ids = append(ids, string(v))
		}
		if !slices.Equal(ids, []string{g.req.ID}) {
			t.Errorf("ids %q, want only %q", ids, g.req.ID)
		}
		if got := string(g.wire.header.Get("x-smg-routed-worker-id")); got != want {
			t.Errorf("with ShowWorker %v the client reads worker %q, want %q", show, got, want)
		}
	}
}

func TestWhatIsLogged(t *testing.T) {
	g := newRig(DefaultConfig())
	g.req.Header.AddString("Authorization", "Bearer sekrit")
	err := g.serve(t.Context(), func(_ context.Context, r *infer.Request, w *infer.Reply) error {
		r.Size, r.Model, r.Stream = 12, "m1", true
		w.Served = infer.Served{Worker: "http://w1", Tries: 2, FirstByte: 250 * time.Millisecond, Tokens: infer.Tokens{Input: 9, Cached: 4, Output: 5}, Module: "guard"}
		for range 3 {
			if _, err := w.Write([]byte("sekrit.")); err != nil {
				return err
			}
		}
		return w.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	got := g.line(t)
	want := map[string]any{
		"level": "INFO", "msg": "request", "time": "2026-11-21T12:00:01.5Z",
		"id": g.req.ID, "method": "POST", "path": "/v1/chat/completions", "status": 200.0,
		"duration_ms": 1500.0, "ttft_ms": 250.0, "bytes_in": 12.0, "bytes_out": 21.0, "remote": "192.0.2.7",
		"model": "m1", "stream": true, "worker": "http://w1", "tries": 2.0,
		"input_tokens": 9.0, "cached_tokens": 4.0, "output_tokens": 5.0,
		"module": "guard",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if strings.Contains(g.log.String(), "sekrit") {
		t.Errorf("a header, the query or a body was logged: %s", g.log.String())
	}
}

func TestHostileValuesStayInTheirLine(t *testing.T) {
	for name, cfg := range map[string]linelog.Config{"text": {}, "json": {JSON: true}} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			g := newRig(DefaultConfig())
			g.req.Path = "/x\nlevel=ERROR msg=\"all is lost\"\x1b[31m"
			g.req.Method = strings.Repeat("M", 5000)
			opt := options(&log, cfg)
			h := Gate(DefaultConfig(), opt)(infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
				r.Model = strings.Repeat("é", 5000)
				return &infer.Error{Status: 502, Code: "worker_unreachable", Err: errors.New("dial\nrefused")}
			}))
			if err := h.Serve(t.Context(), &g.req, infer.NewReply(&g.wire)); err == nil {
				t.Fatal("the error was lost")
			}
			opt.Lines.Flush()
			if n := bytes.Count(log.Bytes(), []byte("\n")); n != 1 {
				t.Errorf("got %d lines, want one: %q", n, log.String())
			}
			if bytes.Contains(log.Bytes(), []byte{0x1b}) || log.Len() > 2000 {
				t.Errorf("%d bytes, perhaps with an escape: %q", log.Len(), log.String())
			}
		})
	}
}

// TestHowRequestsEnd is what the log and the metrics say of each way to end.
func TestHowRequestsEnd(t *testing.T) {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithTimeout(context.Background(), -1)
	defer cancel()
	draining, stop := context.WithCancelCause(context.Background())
	stop(errors.New("grace period is over"))

	fails := func(e error) infer.HandlerFunc {
		return func(context.Context, *infer.Request, *infer.Reply) error { return e }
	}
	breaks := func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		if _, err := w.Write([]byte("data: x\n\n")); err != nil {
			return err
		}
		return &infer.Error{Status: 502, Code: "worker_broke_off", Msg: "x"}
	}
	tunnels := func(status int, code string) infer.HandlerFunc {
		return func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Commit(http.StatusSwitchingProtocols)
			return &infer.Error{Status: status, Code: code}
		}
	}
	answers := func(status int, code string) infer.HandlerFunc {
		return func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			if code != "" {
				w.Header().Set("X-SMG-Error-Code", code)
			}
			return w.Send(status, "application/json", []byte("{}"))
		}
	}
	tests := []struct {
		name   string
		ctx    context.Context
		h      infer.HandlerFunc
		status float64
		code   string
		level  string
	}{
		{"whole answer", nil, ok, 200, "", "INFO"},
		{"empty answer", nil, fails(nil), 200, "", "INFO"},
		{"refused", nil, fails(&infer.Error{Status: 404, Code: "model_not_found"}), 404, "model_not_found", "INFO"},
		{"nobody can serve", nil, fails(&infer.Error{Status: 503, Code: "no_workers"}), 503, "no_workers", "WARN"},
		{"a failure that nobody named", nil, fails(errors.New("disk")), 500, "internal_error", "WARN"},
		{"a worker's error is passed on", nil, fails(&infer.Error{Status: 500, Code: "call_upstream_status_error", Answer: &infer.Answer{Status: 422}}), 422, "call_upstream_status_error", "INFO"},
		{"a handler answers an error", nil, answers(409, "worker_exists"), 409, "worker_exists", "INFO"},
		{"an error code that is none", nil, answers(409, "A b"), 409, "", "INFO"},
		{"an error code that is long", nil, answers(500, strings.Repeat("x", 65)), 500, "", "WARN"},
		{"stream breaks", nil, breaks, 200, "stream_error", "WARN"},
		{"client left before the answer", gone, fails(context.Canceled), 499, "client_closed_request", "INFO"},
		{"client left in the stream", gone, breaks, 499, "client_closed_request", "INFO"},
		{"client left, but has it all", gone, ok, 200, "", "INFO"},
		{"out of time", late, fails(&infer.Error{Status: 504, Code: "call_upstream_timeout"}), 504, "call_upstream_timeout", "WARN"},
		{"the gateway stops", draining, breaks, 200, "stream_error", "WARN"},
		{"a tunnel is idle", nil, tunnels(infer.StatusClientGone, "tunnel_idle"), 101, "tunnel_idle", "INFO"},
		{"the gateway stops in a tunnel", draining, tunnels(503, "gateway_stopping"), 101, "gateway_stopping", "INFO"},
		{"the client of a tunnel was reset", gone, tunnels(infer.StatusClientGone, "client_closed_request"), 499, "client_closed_request", "INFO"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(DefaultConfig())
			ctx := tt.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			_ = g.serve(ctx, tt.h) // what it returns is the server's to answer
			line := g.line(t)
			code, _ := line["error"].(string)
			if line["status"] != tt.status || code != tt.code || line["level"] != tt.level {
				t.Errorf("logged %v %q %v, want %v %q %v", line["status"], code, line["level"], tt.status, tt.code, tt.level)
			}
			want := `smg_http_responses_total{error_code="` + tt.code + `",path="/v1/chat/completions",status_code="` + jsonText(t, tt.status) + `"} 1`
			if got := g.metrics("smg_http_responses_total"); !slices.Equal(got, []string{want}) {
				t.Errorf("counted %q, want %q", got, want)
			}
		})
	}
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestWhatHasNoBodySendsNone holds that bytes which a handler writes and nobody
// is sent are not logged as sent.
func TestWhatHasNoBodySendsNone(t *testing.T) {
	for _, tt := range []struct {
		method string
		status int
		want   float64
	}{{"GET", 200, 4}, {"HEAD", 200, 0}, {"GET", 204, 0}, {"GET", 304, 0}} {
		g := newRig(DefaultConfig())
		g.req.Method = tt.method
		if err := g.serve(t.Context(), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			return w.Send(tt.status, "text/plain", []byte("four"))
		}); err != nil {
			t.Fatal(err)
		}
		if line := g.line(t); line["bytes_out"] != tt.want {
			t.Errorf("%s, %d: logged %v bytes, want %v", tt.method, tt.status, line["bytes_out"], tt.want)
		}
	}
}

func TestAClientThatStopsReadingHasLeft(t *testing.T) {
	g := newRig(DefaultConfig())
	err := g.serve(t.Context(), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		if _, err := w.Write([]byte("half")); err != nil {
			return err
		}
		g.wire.broken = io.ErrClosedPipe
		_, err := w.Write([]byte("the rest"))
		return err
	})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Fatalf("got %v", err)
	}
	if line := g.line(t); line["status"] != 499.0 || line["bytes_out"] != 4.0 {
		t.Errorf("got %v, want status 499 after 4 bytes", line)
	}
}

func TestMetrics(t *testing.T) {
	g := newRig(DefaultConfig())
	err := g.serve(t.Context(), func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		if got := g.metrics("smg_http_connections_active"); !slices.Equal(got, []string{"smg_http_connections_active 1"}) {
			t.Errorf("while it is answered: %q", got)
		}
		return ok(ctx, r, w)
	})
	if err != nil {
		t.Fatal(err)
	}
	g.req.Method, g.req.Route, g.req.Path = "BREW", "", "/nope"
	_ = g.serve(t.Context(), func(context.Context, *infer.Request, *infer.Reply) error {
		return &infer.Error{Status: 404, Code: "unknown_url"}
	})
	for prefix, want := range map[string][]string{
		"smg_http_requests_total": {
			`smg_http_requests_total{method="POST",path="/v1/chat/completions"} 1`,
			`smg_http_requests_total{method="other",path="other"} 1`},
		"smg_http_request_duration_seconds_sum": {
			`smg_http_request_duration_seconds_sum{method="POST",path="/v1/chat/completions"} 1.5`,
			`smg_http_request_duration_seconds_sum{method="other",path="other"} 1.5`},
		"smg_http_responses_total": {
			`smg_http_responses_total{error_code="",path="/v1/chat/completions",status_code="200"} 1`,
			`smg_http_responses_total{error_code="unknown_url",path="other",status_code="404"} 1`},
		"smg_http_connections_active": {"smg_http_connections_active 0"},
	} {
		if got := g.metrics(prefix); !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

func TestAPanicIsAnswered(t *testing.T) {
	g := newRig(DefaultConfig())
	err := g.serve(t.Context(), func(context.Context, *infer.Request, *infer.Reply) error { panic("the table\nis empty") })
	var e *infer.Error
	if !errors.As(err, &e) || e.Status != 500 || e.Code != "internal_error" || strings.Contains(e.Msg, "table") {
		t.Fatalf("got %v, want a 500 that says nothing of the cause", err)
	}
	log := g.log.String()
	if n := strings.Count(log, "the table"); n != 1 {
		t.Errorf("the panic is in the log %d times, want once: %s", n, log)
	}
	for _, want := range []string{`"level":"ERROR"`, `"msg":"handler panicked"`, "access_test.go", `"id":"` + g.req.ID} {
		if !strings.Contains(log, want) {
			t.Errorf("no %s in %s", want, log)
		}
	}
	if got := g.metrics("smg_http_connections_active"); !slices.Equal(got, []string{"smg_http_connections_active 0"}) {
		t.Errorf("after it: %q", got)
	}
}

func TestAPanicInAnAnswerCutsTheConnection(t *testing.T) {
	tests := []struct {
		name      string
		committed bool
		p         any
		status    float64
		code      string
		stack     bool
	}{
		{"after the first byte", true, "boom", 200, "stream_error", true},
		{"a handler that asks for it", true, http.ErrAbortHandler, 200, "stream_error", false},
		{"a handler that asks for it at once", false, http.ErrAbortHandler, 500, "connection_aborted", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(DefaultConfig())
			defer func() {
				if p := recover(); p != http.ErrAbortHandler {
					t.Errorf("panicked with %v, want http.ErrAbortHandler", p)
				}
				lines := strings.Split(strings.TrimSpace(g.log.String()), "\n")
				if stack := strings.Contains(lines[0], `"stack"`); stack != tt.stack {
					t.Errorf("logged a stack: %v, want %v", stack, tt.stack)
				}
				var line map[string]any
				if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil {
					t.Fatal(err)
				}
				if line["status"] != tt.status || line["error"] != tt.code {
					t.Errorf("logged %v %v, want %v %v", line["status"], line["error"], tt.status, tt.code)
				}
			}()
			_ = g.serve(t.Context(), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
				if tt.committed {
					w.Commit(200)
				}
				panic(tt.p)
			})
		})
	}
}

func TestNothingIsLoggedWhenNotAsked(t *testing.T) {
	cfg := DefaultConfig()
	cfg.NoAccessLog = true
	g := newRig(cfg)
	_ = g.serve(t.Context(), func(context.Context, *infer.Request, *infer.Reply) error { return errors.New("x") })
	if g.log.Len() != 0 {
		t.Errorf("with the access log off: %s", g.log.String())
	}

	var log bytes.Buffer
	g = newRig(DefaultConfig())
	quiet := options(&log, linelog.Config{Level: slog.LevelWarn})
	h := Gate(DefaultConfig(), quiet)(infer.HandlerFunc(ok))
	err := h.Serve(t.Context(), &g.req, infer.NewReply(&g.wire))
	if quiet.Lines.Flush(); err != nil || log.Len() != 0 {
		t.Errorf("at level warn: %v, %s", err, log.String())
	}
}

func TestProbesDoNotFillTheLog(t *testing.T) {
	g := newRig(DefaultConfig())
	for route, want := range map[string]bool{"/readiness": false, "/health": false, "/v1/models": true} {
		var log bytes.Buffer
		opt := options(&log, linelog.Config{})
		h := Gate(DefaultConfig(), opt)(infer.HandlerFunc(func(context.Context, *infer.Request, *infer.Reply) error {
			return &infer.Error{Status: 503, Code: "no_workers", Msg: "None."}
		}))
		r := &infer.Request{Method: "GET", Path: route, Route: route}
		_ = h.Serve(t.Context(), r, infer.NewReply(&g.wire))
		opt.Lines.Flush()
		if got := log.Len() > 0; got != want {
			t.Errorf("a 503 of %s is logged: %v, want %v", route, got, want)
		}
	}
}

func TestTablesAreBounded(t *testing.T) {
	var tab table[int, *int]
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for i := range maxTable + 100 {
				if got := tab.get(i, func() *int { return &i }); *got != i {
					t.Errorf("got %d, want %d", *got, i)
				}
			}
		})
	}
	wg.Wait()
	if n := len(tab.now.Load().all); n != maxTable {
		t.Errorf("a table has %d entries, want at most %d", n, maxTable)
	}
}

// discard is a client that keeps nothing.
type discard struct{ header infer.Header }

func (w *discard) Header() *infer.Header       { return &w.header }
func (w *discard) WriteHeader(int)             {}
func (w *discard) Write(b []byte) (int, error) { return len(b), nil }
func (w *discard) Flush() error                { return nil }

// steady returns a request through the gate as a front end that reuses its
// memory makes it. After each hundred lines they are written.
func steady(cfg Config, lines *linelog.Log) func() {
	m := new(Metrics)
	metric.Fill(metric.NewRegistry(nil), m)
	answer := []byte("{}")
	h := Gate(cfg, Options{Log: slog.New(slog.DiscardHandler), Lines: lines, Metrics: m})(infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
		r.Model = "m1"
		w.Commit(200)
		_, err := w.Write(answer)
		return err
	}))
	wire, req, reply, ctx := &discard{}, &infer.Request{}, &infer.Reply{}, context.Background()
	received, n := time.Now(), 0
	fields := [][2]string{{"Host", "gateway"}, {"User-Agent", "OpenAI/Python 2.8.0"}, {"Accept", "application/json"}, {"Content-Type", "application/json"}, {"Authorization", "Bearer k"}}
	return func() {
		wire.header.Reset()
		reply.Reset(wire)
		req.Reset()
		for _, f := range fields {
			req.Header.AddString(f[0], f[1])
		}
		req.Endpoint, req.Route, req.Method, req.Path = infer.Chat, "/v1/chat/completions", "POST", "/v1/chat/completions"
		req.Remote, req.Received = netip.AddrFrom4([4]byte{127, 0, 0, 1}), received
		if err := h.Serve(ctx, req, reply); err != nil {
			panic(err)
		}
		if n++; n%100 == 0 && lines != nil {
			lines.Flush()
		}
	}
}

func TestAllocations(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	for name, lines := range map[string]*linelog.Log{
		"no log": nil, "text": linelog.New(io.Discard, linelog.Config{}), "json": linelog.New(io.Discard, linelog.Config{JSON: true}),
	} {
		// Ids share an allocation among a hundred.
		if n := testing.AllocsPerRun(10_000, steady(DefaultConfig(), lines)); n != 0 {
			t.Errorf("%s: the gate allocates %v times a request, want not at all", name, n)
		}
	}
}

func BenchmarkGate(b *testing.B) {
	for _, bb := range []struct {
		name  string
		lines *linelog.Log
	}{
		{"no log", nil},
		{"text", linelog.New(io.Discard, linelog.Config{})},
		{"json", linelog.New(io.Discard, linelog.Config{JSON: true})},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				serve := steady(DefaultConfig(), bb.lines)
				for pb.Next() {
					serve()
				}
			})
		})
	}
}

func TestValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	err := Config{IDHeaders: []string{"x-ok", "two words", ""}}.Validate()
	if err == nil || !strings.Contains(err.Error(), `"two words"`) || !strings.Contains(err.Error(), `""`) {
		t.Errorf("got %v, want both faults", err)
	}
}
