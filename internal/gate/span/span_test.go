package span

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"sluice/internal/infer"
	"sluice/internal/kit/bubble"
	"sluice/internal/kit/trace"
	"sluice/internal/kit/trace/tracetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire takes a reply and forgets it.
type wire struct{ header infer.Header }

func (w *wire) Header() *infer.Header       { return &w.header }
func (w *wire) WriteHeader(int)             {}
func (w *wire) Write(b []byte) (int, error) { return len(b), nil }
func (w *wire) Flush() error                { return nil }

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
	good    = "00-" + traceID + "-" + spanID + "-01"
)

// open returns a Tracer that sends to c until the test ends.
func open(t testing.TB, c *tracetest.Collector) *trace.Tracer {
	t.Helper()
	tr, err := trace.Open(t.Context(), trace.Config{Endpoint: c.Addr, ServiceName: "sluice", Delay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := tr.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// request is what access and the server have made of a chat, headers given as
// name: value.
func request(headers ...string) *infer.Request {
	r := &infer.Request{
		ID: "id-1", Endpoint: infer.Chat, Route: "/v1/chat/completions", Method: "POST", Path: "/v1/chat/completions",
		Query: "key=secret", Remote: netip.MustParseAddr("::ffff:192.0.2.7"), Received: time.Now(),
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.AddString(name, value)
	}
	return r
}

func TestASpanTellsTheStory(t *testing.T) {
	unreachable := &infer.Error{Status: 502, Code: "call_upstream_connection_failed", Msg: "m", Err: errors.New("secret")}
	base := map[string]string{
		"http.request.method": "POST", "http.route": "/v1/chat/completions", "url.path": "/v1/chat/completions",
		"client.address": "192.0.2.7", "sluice.request_id": "id-1", "gen_ai.operation.name": "chat",
		"http.response.status_code": "200", "sluice.stream": "false", "sluice.tries": "0",
	}
	tests := []struct {
		name   string
		change func(*infer.Request) // before the gate
		serve  func(context.CancelFunc, *infer.Request, *infer.Reply) error
		want   map[string]string // beside base; "" for not there
		status string            // "" for neither good nor bad
	}{
		{
			name: "a stream",
			serve: func(_ context.CancelFunc, r *infer.Request, w *infer.Reply) error {
				r.Model, r.Stream, r.Body = "m", true, []byte("secret")
				w.Served = infer.Served{Worker: "http://10.0.0.1:8000/sub", Tries: 2, FirstByte: 250 * time.Millisecond, Events: 9, Tokens: infer.Tokens{Input: 5, Cached: 4, Output: 3}}
				_, err := w.Write([]byte("secret"))
				return err
			},
			want: map[string]string{
				"gen_ai.request.model": "m", "sluice.stream": "true", "sluice.tries": "2", "server.address": "10.0.0.1", "server.port": "8000",
				"gen_ai.usage.input_tokens": "5", "gen_ai.usage.cache_read.input_tokens": "4", "gen_ai.usage.output_tokens": "3",
				"gen_ai.response.time_to_first_chunk": "0.25",
			},
		},
		{
			name: "a worker of version 6, which says nothing of tokens",
			serve: func(_ context.CancelFunc, r *infer.Request, w *infer.Reply) error {
				w.Served = infer.Served{Worker: "http://[2001:db8::1]:8000", Tries: 1, FirstByte: time.Second}
				return w.Send(200, "text/plain", nil)
			},
			want: map[string]string{"sluice.tries": "1", "server.address": "2001:db8::1", "server.port": "8000"},
		},
		{
			name: "no worker can be reached",
			serve: func(_ context.CancelFunc, r *infer.Request, w *infer.Reply) error {
				w.Served = infer.Served{Worker: "https://w", Tries: 3}
				return unreachable
			},
			want:   map[string]string{"http.response.status_code": "502", "error.type": "call_upstream_connection_failed", "sluice.tries": "3", "server.address": "w"},
			status: "call_upstream_connection_failed",
		},
		{
			name: "a stream breaks",
			serve: func(_ context.CancelFunc, r *infer.Request, w *infer.Reply) error {
				r.Stream = true
				w.Commit(200)
				return &infer.Error{Status: 502, Code: "call_upstream_body_error", Msg: "m"}
			},
			want:   map[string]string{"error.type": "stream_error", "sluice.stream": "true"},
			status: "call_upstream_body_error",
		},
		{
			name: "refused",
			serve: func(context.CancelFunc, *infer.Request, *infer.Reply) error {
				return &infer.Error{Status: 401, Code: "invalid_api_key", Msg: "m"}
			},
			want: map[string]string{"http.response.status_code": "401", "error.type": "invalid_api_key"},
		},
		{
			name: "a worker's own error, relayed",
			serve: func(_ context.CancelFunc, _ *infer.Request, w *infer.Reply) error {
				w.Header().Set("x-smg-error-code", "Not A Code\xff")
				return w.Send(503, "text/plain", nil)
			},
			want:   map[string]string{"http.response.status_code": "503", "error.type": "503"},
			status: "503",
		},
		{
			name: "a worker's own words after all tries",
			serve: func(context.CancelFunc, *infer.Request, *infer.Reply) error {
				return &infer.Error{Status: 502, Code: "call_upstream_error", Answer: &infer.Answer{Status: 429}}
			},
			want: map[string]string{"http.response.status_code": "429", "error.type": "call_upstream_error"},
		},
		{
			name: "the client leaves",
			serve: func(leave context.CancelFunc, _ *infer.Request, w *infer.Reply) error {
				w.Commit(200)
				leave()
				return errors.New("writing to client: gone")
			},
			want: map[string]string{"http.response.status_code": "499", "error.type": "client_closed_request"},
		},
		{
			name:   "bytes that are not text",
			change: func(r *infer.Request) { r.Path, r.Method = "/v1/\xff"+strings.Repeat("x", 1<<16), "\xffPOST" },
			serve: func(_ context.CancelFunc, r *infer.Request, w *infer.Reply) error {
				r.Model = "\xc3("
				return w.Send(200, "text/plain", nil)
			},
			want: map[string]string{"http.request.method": "_OTHER", "url.path": "/v1/?" + strings.Repeat("x", 251), "gen_ai.request.model": "?("},
		},
		{
			name: "a worker is added",
			change: func(r *infer.Request) {
				r.Endpoint, r.Route, r.Path = infer.Local, "/workers/{id}", "/workers/7"
			},
			serve: func(context.CancelFunc, *infer.Request, *infer.Reply) error { return nil },
			want: map[string]string{
				"http.route": "/workers/{id}", "url.path": "/workers/7", "gen_ai.operation.name": "", "sluice.stream": "", "sluice.tries": "",
			},
		},
	}
	c := tracetest.Start(t, nil)
	tr := open(t, c)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := request("authorization: Bearer secret", "traceparent: "+good)
			if test.change != nil {
				test.change(r)
			}
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			var returned error
			h := infer.Chain(infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
				returned = test.serve(leave, r, w)
				return returned
			}), Gate(tr))
			if err := h.Serve(ctx, r, infer.NewReply(new(wire))); err != returned {
				t.Errorf("the gate returned %v, want %v as it came", err, returned)
			}
			got := c.Next(t)
			want := map[string]string{}
			for k, v := range base {
				want[k] = v
			}
			for k, v := range test.want {
				if want[k] = v; v == "" {
					delete(want, k)
				}
			}
			if d := cmp.Diff(want, got.Attrs()); d != "" {
				t.Errorf("attributes (-want +got):\n%s", d)
			}
			if got.Status.GetMessage() != test.status || (test.status != "") != (got.Status.GetCode() == 2) {
				t.Errorf("status %v, want %q", got.Status, test.status)
			}
			if strings.Contains(got.String(), "secret") {
				t.Errorf("the span holds what it must not: %v", got.Span)
			}
			if got.EndTimeUnixNano < got.StartTimeUnixNano || int64(got.StartTimeUnixNano) != r.Received.UnixNano() {
				t.Errorf("from %d to %d, received %d", got.StartTimeUnixNano, got.EndTimeUnixNano, r.Received.UnixNano())
			}
		})
	}
}

func TestTheWorkerIsAChildOfTheGateway(t *testing.T) {
	tests := []struct {
		name    string
		headers []string
		trace   string // "" for a new one
		state   string
		quiet   bool // not recorded
	}{
		{"a client without a trace", nil, "", "", false},
		{"a client's trace", []string{"traceparent: " + good, "tracestate: a=1"}, traceID, "a=1", false},
		{"state in several fields", []string{"Tracestate: a=1", "Traceparent: " + good, "tracestate: b=2,c=3"}, traceID, "a=1,b=2,c=3", false},
		{"a trace that is not recorded", []string{"traceparent: 00-" + traceID + "-" + spanID + "-00", "tracestate: a=1"}, traceID, "a=1", true},
		{"a later version", []string{"traceparent: 01-" + traceID + "-" + spanID + "-01-more"}, traceID, "", false},
		{"a malformed parent", []string{"traceparent: 00-" + strings.ToUpper(traceID) + "-" + spanID + "-01", "tracestate: a=1"}, "", "", false},
		{"malformed state", []string{"traceparent: " + good, "tracestate: a=1", "tracestate: ="}, traceID, "", false},
		{"two parents", []string{"traceparent: " + good, "traceparent: " + good, "tracestate: a=1"}, "", "", false},
		{"state alone", []string{"tracestate: a=1"}, "", "", false},
	}
	c := tracetest.Start(t, nil)
	tr := open(t, c)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var sent []string // what the relay sees
			var state string
			h := infer.Chain(infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
				for v := range r.Header.Values("traceparent") {
					sent = append(sent, string(v))
				}
				for v := range r.Header.Values("tracestate") {
					state += string(v) + ";"
				}
				return w.Send(200, "text/plain", nil)
			}), Gate(tr))
			if err := h.Serve(t.Context(), request(test.headers...), infer.NewReply(new(wire))); err != nil {
				t.Fatal(err)
			}
			if len(sent) != 1 || len(sent[0]) != len(good) || strings.TrimSuffix(state, ";") != test.state {
				t.Fatalf("the worker gets traceparent %q and tracestate %q, want one and %q", sent, state, test.state)
			}
			p := strings.Split(sent[0], "-")
			if test.trace != "" && p[1] != test.trace || test.trace == "" && p[1] == traceID || p[2] == spanID {
				t.Errorf("the worker gets %q, want trace %q and another span", sent[0], test.trace)
			}
			if test.quiet {
				if p[3] != "00" {
					t.Errorf("the worker gets %q, want it not recorded", sent[0])
				}
				return
			}
			s := c.Next(t)
			parent := ""
			if test.trace != "" {
				parent = spanID
			}
			if hex.EncodeToString(s.TraceId) != p[1] || hex.EncodeToString(s.SpanId) != p[2] || hex.EncodeToString(s.ParentSpanId) != parent || p[3] != "01" {
				t.Errorf("the span is %x-%x under %x, the worker gets %q", s.TraceId, s.SpanId, s.ParentSpanId, sent[0])
			}
		})
	}
	if c.Len() != 0 {
		t.Errorf("%d more spans came", c.Len())
	}
}

func TestProbesHaveNoSpan(t *testing.T) {
	c := tracetest.Start(t, nil)
	tr := open(t, c)
	for _, route := range []string{"/health", "/liveness", "/readiness", "/metrics", "/v1/models", ""} {
		r := request("traceparent: what-the-client-said")
		r.Endpoint, r.Route, r.Method = infer.Local, route, "GET"
		h := infer.Chain(infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
			if got := string(r.Header.Get("traceparent")); got != "what-the-client-said" {
				t.Errorf("%s: traceparent became %q", route, got)
			}
			return w.Send(200, "text/plain", nil)
		}), Gate(tr))
		if err := h.Serve(t.Context(), r, infer.NewReply(new(wire))); err != nil {
			t.Fatal(err)
		}
	}
	// What is sent after them comes after them.
	h := infer.Chain(infer.HandlerFunc(func(context.Context, *infer.Request, *infer.Reply) error { return nil }), Gate(tr))
	if err := h.Serve(t.Context(), request(), infer.NewReply(new(wire))); err != nil {
		t.Fatal(err)
	}
	if s := c.Next(t); s.Name != "POST /v1/chat/completions" || c.Len() != 0 {
		t.Errorf("got the span of %q and %d more, want that of the chat alone", s.Name, c.Len())
	}
}

func TestAPanicEndsItsSpan(t *testing.T) {
	c := tracetest.Start(t, nil)
	tr := open(t, c)
	for _, committed := range []bool{false, true} {
		func() {
			defer func() {
				if p := recover(); p != http.ErrAbortHandler {
					t.Errorf("the panic became %v", p)
				}
			}()
			h := infer.Chain(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
				if committed {
					w.Commit(200)
				}
				panic(http.ErrAbortHandler)
			}), Gate(tr))
			_ = h.Serve(t.Context(), request(), infer.NewReply(new(wire)))
		}()
		want := map[bool]string{false: "500", true: "200"}[committed]
		if s := c.Next(t); s.Attrs()["http.response.status_code"] != want || s.Status.Message != "internal_error" {
			t.Errorf("committed %v: %v", committed, s.Span)
		}
	}
}

// A collector that is not there must not be noticed by a request.
func TestRequestsGoOnWithoutACollector(t *testing.T) {
	tr, err := trace.Open(t.Context(), trace.Config{Endpoint: "127.0.0.1:1", ServiceName: "sluice"})
	if err != nil {
		t.Fatal(err)
	}
	h := infer.Chain(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		return w.Send(200, "text/plain", nil)
	}), Gate(tr))
	const n = 10_000 // more than the queue holds
	watch := bubble.Begin(t)
	for range n {
		if err := h.Serve(t.Context(), request(), infer.NewReply(new(wire))); err != nil {
			t.Fatal(err)
		}
	}
	if took, awake := watch.End(); awake > 10*time.Second {
		t.Errorf("%d requests took %s, %s of it awake", n, took, awake)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := tr.Close(ctx); err != nil {
		t.Errorf("a refused connection took Close more than its time: %v", err)
	}
	if tr.Dropped() != n {
		t.Errorf("%d spans dropped, want %d", tr.Dropped(), n)
	}
}

func BenchmarkGate(b *testing.B) {
	tr, err := trace.Open(b.Context(), trace.Config{Endpoint: "127.0.0.1:1", ServiceName: "sluice"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = tr.Close(ctx) // there is no collector
	}()
	for name, flags := range map[string]string{"recorded": "01", "ignored": "00"} {
		b.Run(name, func(b *testing.B) {
			h := infer.Chain(infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
				r.Model, w.Served = "m", infer.Served{Worker: "http://10.0.0.1:8000", Tries: 1, Tokens: infer.Tokens{Input: 5, Output: 3}}
				w.Commit(200)
				return nil
			}), Gate(tr))
			b.ReportAllocs()
			for b.Loop() {
				r := request("traceparent: 00-" + traceID + "-" + spanID + "-" + flags)
				if err := h.Serve(b.Context(), r, infer.NewReply(&wire{})); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
