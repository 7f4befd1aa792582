package hook

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// refusing is a router whose last worker has answered with a status that another
// might have bettered: its answer comes as an error.
func refusing(status int) infer.HandlerFunc {
	return func(context.Context, *infer.Request, *infer.Reply) error {
		e := &infer.Error{Status: status, Code: "call_upstream_status_error", Answer: &infer.Answer{Status: status, Body: []byte(`{"key":"secret"}`)}}
		e.Answer.Header.AddString("Content-Type", "application/json")
		e.Answer.Header.AddString("X-Gone", "soon")
		e.Answer.Header.AddString("X-Seen", "by a guest")
		return e
	}
}

// TestAWorkersErrorIsAnAnswer holds that modules see what a worker answers also
// where the gateway would rather have had the answer of another: what they make
// of it is what the client gets, and it is no error to them.
func TestAWorkersErrorIsAnAnswer(t *testing.T) {
	for _, tt := range []struct{ does, want, told string }{
		{"", `500 Content-Length=16 X-Gone=soon {"key":"secret"}`, "end 500 0+0"},
		{"body", `500 Content-Length=24 X-Gone=soon {"said":"another thing"}`, "end 500 0+0"},
		{"no-body", `500 Content-Length=0 X-Gone=soon `, "end 500 0+0"},
		{"status", `201 Content-Length=16 X-Gone=soon {"key":"secret"}`, "end 201 0+0"},
		{"status-204", `204 Content-Length=0 X-Gone=soon `, "end 204 0+0"},
		{"reject", `403 Content-Length=16 X-Gone=soon {"key":"secret"}`, "end 403 0+0"},
		{"headers", `500 Content-Length=16 X-Set=new {"key":"secret"}`, "end 500 0+0"},
		{"trap", `503 Content-Length=18 wasm_module_failed`, "error 503 wasm_module_failed; end 503 0+0"},
	} {
		h := newHouse(t)
		h.add(t, "m", func(s *wasm.Spec) { s.FailClosed = true })
		c, err := h.ask(newRequest("response="+tt.does), refusing(500))
		if got := c.got("Content-Length", "X-Gone", "X-Set"); got != tt.want {
			t.Errorf("%s: got  %s\nwant %s", tt.does, got, tt.want)
		}
		if got := h.told(); got != tt.told {
			t.Errorf("%s: told %q, want %q", tt.does, got, tt.told)
		}
		if e := infer.AsError(err); tt.does != "trap" && e.Code != "call_upstream_status_error" {
			t.Errorf("%s: the log has %v", tt.does, err)
		}
		h.whole(t)
	}
	for _, status := range []int{408, 429, 502, 503, 504} {
		h := newHouse(t)
		h.add(t, "m", nil)
		if c, _ := h.ask(newRequest("response=body"), refusing(status)); c.status != status || c.body.String() != `{"said":"another thing"}` {
			t.Errorf("%d: got %s", status, c.got())
		}
	}
}

// TestAnAnswerThatWasTooLongToBeKept is the gateway's own: the worker's is not
// relayed.
func TestAnAnswerThatWasTooLongToBeKept(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", nil)
	_, _ = h.ask(newRequest("response=body"), func(context.Context, *infer.Request, *infer.Reply) error {
		return &infer.Error{Status: 500, Code: "call_upstream_status_error", Answer: &infer.Answer{Status: 500}}
	})
	if got := h.told(); got != "error 500 call_upstream_status_error; end 500 0+0" {
		t.Errorf("told %q", got)
	}
}

// TestHTTPWasmModulesSeeAWorkersError is the same for a guest that wants answers,
// and for one that has begun the answer.
func TestHTTPWasmModulesSeeAWorkersError(t *testing.T) {
	for letter, want := range map[string]string{"v": `501 <{"key":"secret"}>`, "B": `500 pre{"key":"secret"}`, "a": `500 {"key":"secret"}`, "C": `500 {"key":"secret"}`} {
		l := newLetterbox(t, nil, nil)
		c := new(client)
		r := newRequest("")
		r.Path += "/" + letter
		w := infer.NewReply(c)
		refuse(w, l.gate(refusing(500)).Serve(t.Context(), r, w))
		if got := c.got(); got != want {
			t.Errorf("%s: got %s, want %s", letter, got, want)
		}
		l.idle(t)
	}
}

// TestHTTPWasmModulesAreToldOfAWorkersError holds that handle_response, of a
// guest that does not want answers, is told of one as of any answer.
func TestHTTPWasmModulesAreToldOfAWorkersError(t *testing.T) {
	l := newLetterbox(t, nil, nil)
	for _, tt := range []struct {
		next infer.HandlerFunc
		want string // whether there was an error, and the status; and of the answer's header
		seen bool
	}{
		{refusing(500), "text=05", true},
		{func(context.Context, *infer.Request, *infer.Reply) error { return &infer.Error{Status: 502, Code: "x"} }, "text=15", false},
	} {
		l.log.reset()
		_, _, _ = l.ask(t.Context(), "D", tt.next)
		if got := l.log.String(); !strings.Contains(got, tt.want) || strings.Contains(got, "by a guest") != tt.seen {
			t.Errorf("it was told %s, want %s", got, tt.want)
		}
	}
	l.idle(t)
}

// refuse answers an error as the server does.
func refuse(w *infer.Reply, err error) {
	e := infer.AsError(err)
	if a := e.Answer; a != nil && a.Body != nil {
		for _, f := range a.Header.Fields() {
			w.Header().AddCopy(f.Name, f.Value)
		}
		_ = w.Send(a.Status, "application/json", a.Body)
		return
	}
	_ = w.Send(e.Status, "text/plain", []byte(e.Code))
}

// TestAModuleThatHangsInAStream holds that a stream waits once for a module that
// hangs at events, and that the module is told of its end.
func TestAModuleThatHangsInAStream(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", func(s *wasm.Spec) { s.Settings.Time = soon })
	h.add(t, "other", func(s *wasm.Spec) {
		s.Order, s.Attach, s.Settings.Time = 1, []wasm.Hook{wasm.OnRequest, wasm.OnChunk}, soon
	})
	h.add(t, "trap", func(s *wasm.Spec) { s.Settings.Time = soon })
	for range 2 {
		h.log.reset()
		c, err := h.ask(newRequest("chunk=spin"), events("text/event-stream", "data: 1\n\n", "data: 2\n\n", "data: 3\n\n"))
		if want := "data: 1\n\ndata: 2\n\ndata: 3\n\n"; err != nil || c.body.String() != want {
			t.Errorf("got %q, %v", c.body.String(), err)
		}
		if !strings.Contains(h.told(), "end 200 0+0") {
			t.Errorf("told %q", h.told())
		}
	}
	got := h.scrape("sluice_wasm_errors_total")
	if !has(got, `sluice_wasm_errors_total{hook="OnChunk",kind="timeout",module="m"} 2`) {
		t.Errorf("of two streams: %v", got)
	}
	h.whole(t)
}

// TestAStreamWaitsOnceForABusyModule holds that a module whose instances are all
// with others is waited for at one event of a stream, and not at each.
func TestAStreamWaitsOnceForABusyModule(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", func(s *wasm.Spec) { s.Settings.Time, s.Settings.Instances = 20*time.Millisecond, 1 })
	var seen []string // what came of those of the stream that runs
	g := h.gateWith(func(o *Options) {
		o.Saw = func(_ *wasm.Attached, hook wasm.Hook, action string, _ time.Duration, err error) {
			if hook == wasm.OnChunk && err != nil {
				action = kinds[kindOf(err)]
			}
			if hook == wasm.OnChunk {
				seen = append(seen, action)
			}
		}
	})
	stop := make(chan struct{})
	var others sync.WaitGroup
	defer others.Wait()
	defer close(stop)
	for range 8 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = h.ask(newRequest("request=spin"), worker("text/plain", "ok"))
				}
			}
		})
	}
	for begun := time.Now(); time.Since(begun) < 30*time.Second; runtime.Gosched() { // until one has to wait in its stream
		c := new(client)
		seen = seen[:0]
		if err := g(events("text/event-stream", "data: 1\n\n", "data: 2\n\n", "data: 3\n\n")).Serve(t.Context(), newRequest(""), infer.NewReply(c)); err != nil || c.body.Len() != 27 {
			t.Fatalf("%q, %v", c.body.String(), err)
		}
		if i := slices.Index(seen, "busy"); i >= 0 && i < 2 {
			if len(seen) > i+1 {
				t.Errorf("of three events: %q; want none after the one that has waited", seen)
			}
			return
		}
	}
	t.Error("the module was never busy")
}

// TestWhatAModuleCouldNotLookAt holds that an error names what it was.
func TestWhatAModuleCouldNotLookAt(t *testing.T) {
	for query, want := range map[string]string{"request=trap": "request", "response=trap": "answer", "chunk=trap": "answer"} {
		h := newHouse(t)
		h.add(t, "m", func(s *wasm.Spec) { s.FailClosed = true })
		next := worker("text/plain", "ok")
		if strings.HasPrefix(query, "chunk") {
			next = events("text/event-stream", "data: 1\n\n")
		}
		_, err := h.ask(newRequest(query), next)
		e, ok := errors.AsType[*infer.Error](err)
		if !ok || e.Status != http.StatusServiceUnavailable || e.Msg != `The module "m" could not look at the `+want+"." {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// TestAWorkersErrorIsNoStream holds that what a worker answers with an error's
// status is a whole answer, whatever its Content-Type says: on-response sees it,
// and on-chunk does not.
func TestAWorkersErrorIsNoStream(t *testing.T) {
	for _, status := range []int{399, 400, 401, 403, 404, 409, 413, 422, 500, 529, 599} {
		for _, kind := range []string{"text/event-stream", "Text/Event-Stream; charset=utf-8", "application/x-ndjson"} {
			h := newHouse(t)
			h.add(t, "m", nil)
			c, err := h.ask(newRequest("response=body&chunk=replace"), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
				w.Header().AddString("Content-Type", kind)
				w.Commit(status)
				for _, p := range []string{"data: secret\n\n", "data: and more\n\n"} {
					if _, err := w.Write([]byte(p)); err != nil {
						return err
					}
					if err := w.Flush(); err != nil {
						return err
					}
				}
				return nil
			})
			want := `{"said":"another thing"}`
			if status < 400 {
				want = "[data: secret\n\n][data: and more\n\n]"
				if kind == "application/x-ndjson" {
					want = "[data: secret\n]\n[data: and more\n]\n"
				}
			}
			if err != nil || c.status != status || c.body.String() != want {
				t.Errorf("%d, %s: got %d %q, %v; want %q", status, kind, c.status, c.body.String(), err, want)
			}
		}
	}
}

// TestAWorkersErrorPassesNoModule is the same where a worker's chunks could pass
// as they are, for modules that look at whole answers only.
func TestAWorkersErrorPassesNoModule(t *testing.T) {
	for _, tt := range []struct {
		status int
		want   string
	}{
		{200, "data: secret\n\ndata: more\n\n"},
		{400, `{"said":"another thing"}`},
	} {
		h := newHouse(t)
		h.add(t, "m", func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnRequest, wasm.OnResponse} })
		c := new(line)
		spliced := 0
		err := h.gate(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().AddString("Content-Type", "text/event-stream")
			for _, p := range []string{"data: secret\n\n", "data: more\n\n"} {
				splices := w.Splices()
				w.Commit(tt.status)
				if splices {
					spliced++
					if err := w.Splice([]byte(p), len(p)); err != nil {
						return err
					}
				} else if _, err := w.Write([]byte(p)); err != nil {
					return err
				}
			}
			return nil
		})).Serve(t.Context(), newRequest("response=body"), infer.NewReply(c))
		if err != nil || c.status != tt.status || c.body.String() != tt.want {
			t.Errorf("%d: got %d %q, %v; want %q", tt.status, c.status, c.body.String(), err, tt.want)
		}
		if (spliced > 0) != (tt.status == 200) {
			t.Errorf("%d: %d pieces have passed as they were", tt.status, spliced)
		}
	}
}

// TestAnErrorThatIsTooLong holds that an error is bounded as other answers that are
// whole, also if it has no end.
func TestAnErrorThatIsTooLong(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", func(s *wasm.Spec) { s.MaxBody = 100 })
	n := 0
	c, _ := h.ask(newRequest(""), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Header().AddString("Content-Type", "text/event-stream")
		w.Commit(400)
		for ; n < 1000; n++ {
			if _, err := w.Write([]byte("data: x\n\n")); err != nil {
				return err
			}
		}
		return nil
	})
	if c.got() != "500 wasm_body_too_large" || n != 11 {
		t.Errorf("got %s after %d pieces", c.got(), n)
	}
	h.tooLong(t, wasm.OnResponse)
}

// TestLinesThatAreRefused holds that an answer in lines, which has no line for an
// error, is refused as any other while none of it is sent; then the client has the
// lines before.
func TestLinesThatAreRefused(t *testing.T) {
	const lines = "application/x-ndjson"
	broken := &infer.Error{Status: 502, Code: "call_upstream_body_error"}
	for _, tt := range []struct {
		name, does string
		pieces     []string
		err        error
		want, told string
	}{
		{"the first", "trap", []string{"{\"a\":1}\n{\"b\":2}\n"}, nil, "503 Content-Length=18 wasm_module_failed", "error 503 wasm_module_failed; end 503 0+0"},
		{"without an end", "trap", []string{`{"a":1}`}, nil, "503 Content-Length=18 wasm_module_failed", "error 503 wasm_module_failed; end 503 0+0"},
		{"a worker that dies before", "", []string{`{"a"`}, broken, "502 Content-Length=24 call_upstream_body_error", "error 502 call_upstream_body_error; end 502 0+0"},
		{"a worker that dies later", "", []string{"{\"a\":1}\n{"}, broken, "200 {\"a\":1}\n", "error 502 call_upstream_body_error; end 200 0+0"},
		{"too long, behind another", "", []string{"{\"a\":1}\n" + strings.Repeat("x", maxEvent+9)}, nil, "200 {\"a\":1}\n", "error 503 wasm_module_failed; end 200 0+0"},
		{"all dropped", "drop", []string{"{\"a\":1}\n", `{"b":2}`}, nil, "200 ", "end 200 0+0"},
		{"none", "", nil, nil, "200 ", "end 200 0+0"},
	} {
		h := newHouse(t)
		h.add(t, "m", func(s *wasm.Spec) { s.FailClosed = true })
		c, flushed := new(flusher), ""
		c.flush = func() { flushed = c.body.String() }
		w := infer.NewReply(c)
		err := h.gate(infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			if err := events(lines, tt.pieces...)(ctx, r, w); err != nil {
				return err
			}
			return tt.err
		})).Serve(t.Context(), newRequest("chunk="+tt.does), w)
		if err != nil && !w.Committed() {
			refuse(w, err)
		} else if c.body.String() != flushed {
			t.Errorf("%s: the client has %q of %q when the connection is cut", tt.name, flushed, c.body.String())
		}
		if got := c.got("Content-Length"); got != tt.want || h.told() != tt.told {
			t.Errorf("%s: got %s, told %q; want %s, %q", tt.name, got, h.told(), tt.want, tt.told)
		}
	}
}

// A flusher is a client that is asked to send what it has.
type flusher struct {
	client
	flush func()
}

func (f *flusher) Flush() error {
	f.flush()
	return nil
}

// TestAnEventThatIsHeld holds that who writes the beginning of an event is told
// whether any of it was sent: an end of it would make a whole one of it.
func TestAnEventThatIsHeld(t *testing.T) {
	broken := &infer.Error{Status: 502, Code: "call_upstream_body_error"}
	for _, tt := range []struct {
		name string
		n    int
		at   []wasm.Hook // nil for all
		want bool
	}{
		{"short", 100, nil, true},
		{"long", 200_000, nil, true},
		{"too long to be shown", maxEvent + 100, nil, false},
		{"that no module is to see", 100, []wasm.Hook{wasm.OnRequest, wasm.OnResponse}, false},
	} {
		h := newHouse(t)
		h.add(t, "m", func(s *wasm.Spec) { s.Attach = tt.at })
		c, _ := h.ask(newRequest("chunk=replace"), func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			if err := events("text/event-stream", "data: 1\n\n", "data: "+strings.Repeat("x", tt.n))(ctx, r, w); err != nil {
				return err
			}
			if got := w.Holds(); got != tt.want {
				t.Errorf("%s: held %t, want %t", tt.name, got, tt.want)
			}
			return broken
		})
		if sent := strings.Contains(c.body.String(), "x"); sent == tt.want {
			t.Errorf("%s: the client has been sent a part of it: %t", tt.name, sent)
		}
	}
}
