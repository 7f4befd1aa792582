package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/metric"
	"sluice/internal/wasm"
)

// A letterbox is a gate with the http-wasm guest of the tests, which does what
// the last letter of a request's path stands for
// (internal/wasm/httpwasm/testdata/guest.wat).
type letterbox struct {
	gate    infer.Gate
	modules *wasm.Registry
	log     *notes
	look    func(*infer.Request) error
}

func newLetterbox(t testing.TB, change func(*wasm.Spec), endpoint func(method, path string) (infer.Endpoint, bool)) *letterbox {
	t.Helper()
	b, err := os.ReadFile("../../wasm/httpwasm/testdata/guest.wasm")
	if err != nil {
		t.Fatal(err)
	}
	said := new(notes)
	log := slog.New(slog.NewTextHandler(said, nil))
	e, err := wasm.NewEngine(compiled, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	r := wasm.NewRegistry(e, "", log)
	t.Cleanup(func() {
		r.Close()
		cancel()
		<-done
	})
	s := wasm.Spec{Name: "letters", Settings: wasm.DefaultSettings()}
	if change != nil {
		change(&s)
	}
	if _, err := r.Add(ctx, s, b); err != nil {
		t.Fatal(err)
	}
	m := new(Metrics)
	metric.Fill(metric.NewRegistry([]float64{0.001, 1}), m)
	l := &letterbox{modules: r, log: said, look: func(r *infer.Request) error { r.Model = "looked at"; return nil }}
	l.gate = Gate(Options{Modules: r, Look: func(r *infer.Request) error { return l.look(r) }, Endpoint: endpoint, Log: log, Metrics: m})
	return l
}

// idle fails unless all instances stand ready.
func (l *letterbox) idle(t *testing.T) {
	t.Helper()
	for _, m := range l.modules.Set().All {
		if s := m.Module.Stats(); s.Idle != s.Instances || s.Instances == 0 {
			t.Errorf("%d of %d instances stand ready", s.Idle, s.Instances)
		}
	}
}

// A client is a wire that keeps what it gets. It takes chunks as they are.
type client struct {
	header infer.Header
	status int
	body   strings.Builder
}

func (c *client) Header() *infer.Header        { return &c.header }
func (c *client) WriteHeader(status int)       { c.status = status }
func (c *client) Write(b []byte) (int, error)  { return c.body.Write(b) }
func (c *client) Flush() error                 { return nil }
func (c *client) Splices() bool                { return true }
func (c *client) Splice(b []byte, _ int) error { _, err := c.body.Write(b); return err }
func (c *client) got(names ...string) string {
	s := fmt.Sprint(c.status)
	for _, n := range names {
		for v := range c.header.Values(n) {
			s += " " + n + "=" + string(v)
		}
	}
	return s + " " + c.body.String()
}

// ask sends a request for a letter past the gate, to next.
func (l *letterbox) ask(ctx context.Context, letter string, next infer.HandlerFunc) (*client, *infer.Request, error) {
	c := new(client)
	r := &infer.Request{ID: "id", Method: "POST", Path: "/v1/chat/completions/" + letter, Endpoint: infer.Chat, Received: time.Now()}
	r.Header.AddString("X-Drop", "me")
	r.SetBytes([]byte(`{"model":"m"}`))
	w := infer.NewReply(c)
	err := l.gate(next).Serve(ctx, r, w)
	if err != nil && !w.Committed() { // as the server does
		e := infer.AsError(err)
		w.Header().Reset()
		err = errors.Join(err, w.Send(e.Status, "text/plain", []byte(e.Code)))
	}
	return c, r, err
}

// worker answers with a body.
func worker(kind, body string) infer.HandlerFunc {
	return func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Header().AddString("Content-Type", kind)
		w.Header().AddString("Content-Length", fmt.Sprint(len(body)))
		w.Commit(http.StatusOK)
		_, err := w.Write([]byte(body))
		return err
	}
}

const (
	plain  = "text/plain"
	stream = "text/event-stream"
)

func TestHTTPWasmModulesAtTheGate(t *testing.T) {
	for _, tt := range []struct{ name, letter, kind, want string }{
		{"goes on", "a", plain, "200 content-type=text/plain content-length=6 answer"},
		{"answers itself", "b", plain, "403 x-why=1 content-length=8 kept out"},
		{"changes an answer that it asked for", "v", plain, "201 content-type=text/plain content-length=8 x-ctx=7 <answer>"},
		{"has a stream as a whole if it asked for it", "v", stream, "201 content-type=text/event-stream content-length=8 x-ctx=7 <answer>"},
		{"lets a stream pass", "a", stream, "200 content-type=text/event-stream content-length=6 answer"},
		{"begins an answer", "B", plain, "200 x-early=1 content-type=text/plain content-length=9 preanswer"},
		{"begins a stream", "B", stream, "200 x-early=1 content-type=text/event-stream content-length=9 preanswer"},
		{"traps when all has been sent", "C", plain, "200 content-type=text/plain content-length=6 answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLetterbox(t, func(s *wasm.Spec) { s.FailClosed = true }, nil)
			for range 2 {
				c, _, err := l.ask(t.Context(), tt.letter, worker(tt.kind, "answer"))
				got := fmt.Sprint(c.status)
				for _, f := range c.header.Fields() {
					got += " " + strings.ToLower(string(f.Name)) + "=" + string(f.Value)
				}
				if got += " " + c.body.String(); err != nil || got != tt.want {
					t.Errorf("got %s, %v\nwant %s", got, err, tt.want)
				}
			}
			l.idle(t)
		})
	}
}

func TestHTTPWasmModulesChangeRequests(t *testing.T) {
	calls := func(method, path string) (infer.Endpoint, bool) {
		return infer.Completions, method == "PUT" && path == "/v1/completions"
	}
	nowhere := func(string, string) (infer.Endpoint, bool) { return 0, false }
	for _, tt := range []struct {
		name, letter string
		endpoint     func(method, path string) (infer.Endpoint, bool)
		want         string
	}{
		{"nothing", "a", calls, `POST /v1/chat/completions/a ? X-Drop=me; {"model":"m"} chat`},
		{"its header", "c", calls, `POST /v1/chat/completions/c ? x-a=1;x-a=2; {"model":"m"} chat`},
		{"its header, with blanks around values", "K", calls, `POST /v1/chat/completions/K ? X-Drop=me;x-a=1;x-a=; {"model":"m"} chat`},
		{"its body", "d", calls, `POST /v1/chat/completions/d ? X-Drop=me; changed chat looked at`},
		{"which call it is", "e", calls, `PUT /v1/completions ?q=1 X-Drop=me; {"model":"m"} completions looked at`},
		{"which call it is, if nobody minds", "e", nil, `PUT /v1/completions ?q=1 X-Drop=me; {"model":"m"} chat`},
		{"into one that nobody answers, and does not", "e", nowhere, `POST /v1/chat/completions/e ? X-Drop=me; {"model":"m"} chat`},
		{"nothing, and traps", "f", calls, `POST /v1/chat/completions/f ? X-Drop=me; {"model":"m"} chat`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLetterbox(t, nil, tt.endpoint)
			got := ""
			_, _, err := l.ask(t.Context(), tt.letter, func(_ context.Context, r *infer.Request, w *infer.Reply) error {
				got = r.Method + " " + r.Path + " ?" + r.Query + " "
				for _, f := range r.Header.Fields() {
					got += fmt.Sprintf("%s=%s;", f.Name, f.Value)
				}
				got = strings.TrimSpace(fmt.Sprintf("%s %s %s %s", got, r.Body, r.Endpoint.Label(), r.Model))
				w.Commit(http.StatusNoContent)
				return nil
			})
			if err != nil || got != tt.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
			}
			l.idle(t)
		})
	}
}

func TestHTTPWasmModulesThatFail(t *testing.T) {
	for _, letter := range []string{"f", "j", "h", "u"} {
		open := newLetterbox(t, nil, nil)
		if c, _, err := open.ask(t.Context(), letter, worker(plain, "answer")); err != nil || c.status != 200 || c.body.String() != "answer" {
			t.Errorf("%s, fail-open: %s, %v", letter, c.got(), err)
		}
		open.idle(t)
		closed := newLetterbox(t, func(s *wasm.Spec) { s.FailClosed = true }, nil)
		c, _, err := closed.ask(t.Context(), letter, func(context.Context, *infer.Request, *infer.Reply) error {
			t.Error("a request goes on that a module could not look at")
			return nil
		})
		if err == nil || c.status != 503 || c.body.String() != "wasm_module_failed" {
			t.Errorf("%s, fail-closed: %s, %v", letter, c.got(), err)
		}
		closed.idle(t)
	}
}

// TestHTTPWasmRequestsThatFail holds that an error behind the modules is answered
// as ever, and that no instance stays with its request.
func TestHTTPWasmRequestsThatFail(t *testing.T) {
	l := newLetterbox(t, nil, nil)
	for _, letter := range []string{"a", "v", "B", "w"} {
		c, _, _ := l.ask(t.Context(), letter, func(context.Context, *infer.Request, *infer.Reply) error {
			return &infer.Error{Status: 502, Code: "worker_unreachable", Msg: "x"}
		})
		if got := c.got(); got != "502 worker_unreachable" {
			t.Errorf("%s: got %s", letter, got)
		}
		ctx, leave := context.WithCancel(t.Context())
		_, _, err := l.ask(ctx, letter, func(ctx context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().AddString("Content-Type", stream)
			w.Commit(http.StatusOK)
			_, _ = w.Write([]byte("data: 1\n\n"))
			leave()
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: a client leaves: %v", letter, err)
		}
	}
	l.idle(t)
}

// TestHTTPWasmStreamsAreNotUnpacked holds that a module that does not ask for
// answers costs a stream nothing.
func TestHTTPWasmStreamsAreNotUnpacked(t *testing.T) {
	l := newLetterbox(t, nil, nil)
	for letter, want := range map[string]bool{"a": true, "c": true, "v": false} {
		_, _, err := l.ask(t.Context(), letter, func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			if got := w.Splices(); got != want {
				t.Errorf("%s: chunks pass as they are: %v, want %v", letter, got, want)
			}
			w.Commit(http.StatusNoContent)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestHTTPWasmBodiesThatAreTooLong(t *testing.T) {
	l := newLetterbox(t, func(s *wasm.Spec) { s.MaxBody = 20 }, nil)
	c, _, _ := l.ask(t.Context(), "v", worker(plain, strings.Repeat("x", 21)))
	if got := c.got(); !strings.HasPrefix(got, "500 ") || !strings.Contains(got, "wasm_body_too_large") {
		t.Errorf("an answer of 21 bytes for one who takes 20: %s", got)
	}
	if c, _, err := l.ask(t.Context(), "a", worker(plain, strings.Repeat("x", 21))); err != nil || c.status != 200 {
		t.Errorf("of one who does not ask for answers: %s, %v", c.got(), err)
	}
	l.idle(t)
	short := newLetterbox(t, func(s *wasm.Spec) { s.MaxBody = 5 }, nil)
	if c, _, _ := short.ask(t.Context(), "a", worker(plain, "")); c.got() != "400 wasm_body_too_large" {
		t.Errorf("a request of 13 bytes for one who takes 5: %s", c.got())
	}
}

func TestHTTPWasmAttachment(t *testing.T) {
	l := newLetterbox(t, func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnRequest} }, nil)
	if c, _, err := l.ask(t.Context(), "v", worker(plain, "answer")); err != nil || c.got() != "200 answer" {
		t.Errorf("one that is not to see answers: %s, %v", c.got(), err)
	}
	l.idle(t)
	m := l.modules.Set().All[0]
	both := *m
	both.Attach = []wasm.Hook{wasm.OnRequest, wasm.OnResponse}
	for h, want := range map[wasm.Hook]bool{wasm.OnRequest: true, wasm.OnResponse: true, wasm.OnEnd: true, wasm.OnChunk: false, wasm.OnError: false} {
		if both.Attaches(h) != want {
			t.Errorf("attached to requests and answers, at %s: %v, want %v", h, !want, want)
		}
	}
	b, err := os.ReadFile("../../wasm/httpwasm/testdata/guest.wasm")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.modules.Remove(m.ID); err != nil {
		t.Fatal(err)
	}
	_, err = l.modules.Add(t.Context(), wasm.Spec{Name: "x", Settings: wasm.DefaultSettings(), Attach: []wasm.Hook{wasm.OnResponse}}, b)
	if err == nil || !strings.Contains(err.Error(), "not to OnRequest") {
		t.Errorf("one that is to see answers only: %v", err)
	}
}
