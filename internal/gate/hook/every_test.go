package hook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// TestWhatBecomesOfARequest holds what a module's action does to a request, and
// that one that cannot be done is a failure of the module: the request goes on as
// it was, or is refused.
func TestWhatBecomesOfARequest(t *testing.T) {
	const was = "m " + chat + " x-gone=soon x-set=old"
	tests := []struct {
		does, want string // the status alone if it is refused; else what the worker gets
		kind       string // of failure, "" for none
	}{
		{"", was, ""},
		{"reject", "403", ""},
		{"reject-0", "400", ""},
		{"reject-999", "400", ""},
		{"headers", "m " + chat + " x-set=new x-more=1 x-more=2", ""},
		{"body", `other {"model":"other","messages":[{"role":"user","content":"a longer text than there was"}]} x-gone=soon x-set=old`, ""},
		{"tell", was + " x-model=m", ""},
		{"blanks", "m " + chat + " x-gone=soon x-set=lead and trail", ""},
		{"framing", was, ""},
		{"chunked", was, ""},
		{"nonsense", was, "answer"},
		{"no-body", was, "answer"},
		{"huge-body", was, "answer"},
		{"line-end", was, "answer"},
		{"control", was, "answer"},
		{"bad-name", was, "answer"},
		{"no-name", was, "answer"},
		{"not-utf8", was, "answer"},
		{"outside", was, "answer"},
		{"huge-list", was, "answer"},
		{"bad-form", was, "answer"},
		{"trap", was, "trap"},
		{"spin", was, "timeout"},
		{"deep", was, "stack"},
		{"bomb", was, ""},
		{"lines", was, ""},
	}
	for _, closed := range []bool{false, true} {
		patient, hurried := newHouse(t), newHouse(t)
		patient.add(t, "m", func(s *wasm.Spec) { s.FailClosed = closed })
		hurried.add(t, "m", func(s *wasm.Spec) { s.FailClosed, s.Settings.Time = closed, soon })
		for _, tt := range tests {
			h := patient
			if tt.kind == "timeout" {
				h = hurried
			}
			t.Run(fmt.Sprintf("%s/closed=%t", tt.does, closed), func(t *testing.T) {
				worked := ""
				c, err := h.ask(newRequest("request="+tt.does), func(_ context.Context, r *infer.Request, w *infer.Reply) error {
					worked = seen(r)
					return w.Send(200, "text/plain", []byte("ok"))
				})
				want, status := tt.want, 200
				switch {
				case tt.kind != "" && closed:
					want, status = "", 503
				case len(tt.want) == 3:
					_, _ = fmt.Sscan(tt.want, &status)
					want = ""
				}
				if worked != want || c.status != status {
					t.Errorf("got %d, the worker %q (%v)\nwant %d and %q", c.status, worked, err, status, want)
				}
				if status == 503 && c.body.String() != "wasm_module_failed" {
					t.Errorf("the client is told %q", c.body.String())
				}
				if status >= 400 && status < 500 && c.got("Content-Length") != fmt.Sprint(status, " Content-Length=0 ") {
					t.Errorf("a rejected request is answered %q", c.got("Content-Length"))
				}
				if got := strings.Join(h.failures(wasm.OnRequest), " "); got != tt.kind {
					t.Errorf("counted: %q, want %q", got, tt.kind)
				}
				h.whole(t)
			})
		}
	}
}

// TestWhatBecomesOfAnAnswer is the same for answers. The client gets the right
// length, and has been sent nothing before the module has spoken.
func TestWhatBecomesOfAnAnswer(t *testing.T) {
	const was = `200 content-length=13 x-gone=soon {"said":"hi"}`
	tests := []struct {
		does, want string // status, length, fields, body
		kind       string // of failure, "" for none
	}{
		{"", was, ""},
		{"body", `200 content-length=24 x-gone=soon {"said":"another thing"}`, ""},
		{"no-body", `200 content-length=0 x-gone=soon `, ""},
		{"status", `201 content-length=13 x-gone=soon {"said":"hi"}`, ""},
		{"status-0", was, "answer"},
		{"status-204", `204 x-gone=soon `, ""},
		{"status-999", was, "answer"},
		{"reject", `403 content-length=13 x-gone=soon {"said":"hi"}`, ""},
		{"reject-999", `400 content-length=13 x-gone=soon {"said":"hi"}`, ""},
		{"headers", `200 content-length=13 x-set=new x-more=1 x-more=2 {"said":"hi"}`, ""},
		{"blanks", `200 content-length=13 x-gone=soon x-set=lead and trail {"said":"hi"}`, ""},
		{"framing", was, ""},
		{"chunked", was, ""},
		{"line-end", was, "answer"},
		{"huge-body", was, "answer"},
		{"outside", was, "answer"},
		{"trap", was, "trap"},
		{"spin", was, "timeout"},
		{"deep", was, "stack"},
	}
	for _, closed := range []bool{false, true} {
		patient, hurried := newHouse(t), newHouse(t)
		patient.add(t, "m", func(s *wasm.Spec) { s.FailClosed = closed })
		hurried.add(t, "m", func(s *wasm.Spec) { s.FailClosed, s.Settings.Time = closed, soon })
		for _, tt := range tests {
			h := patient
			if tt.kind == "timeout" {
				h = hurried
			}
			t.Run(fmt.Sprintf("%s/closed=%t", tt.does, closed), func(t *testing.T) {
				c, err := h.ask(newRequest("response="+tt.does), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
					w.Header().AddString("X-Gone", "soon")
					w.Header().AddString("Content-Type", "application/json")
					w.Header().AddString("Content-Length", "13")
					w.Commit(200)
					for _, s := range []string{`{"said":`, `"hi"}`} {
						if _, err := w.Write([]byte(s)); err != nil {
							return err
						}
					}
					return w.Flush()
				})
				want := tt.want
				if tt.kind != "" && closed {
					want = "503 content-length=18 wasm_module_failed"
				}
				if got := c.got("content-length", "x-gone", "x-set", "x-more"); got != want {
					t.Errorf("got  %s (%v)\nwant %s", got, err, want)
				}
				if got := strings.Join(h.failures(wasm.OnResponse), " "); got != tt.kind {
					t.Errorf("counted: %q, want %q", got, tt.kind)
				}
				h.whole(t)
			})
		}
	}
}

// events answers with events, in pieces.
func events(kind string, pieces ...string) infer.HandlerFunc {
	return func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Header().AddString("Content-Type", kind)
		w.Commit(http.StatusOK)
		for _, p := range pieces {
			if _, err := w.Write([]byte(p)); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestWhatBecomesOfAStream holds what modules see of streams, and what is left.
func TestWhatBecomesOfAStream(t *testing.T) {
	const sse, lines = "text/event-stream", "application/x-ndjson; charset=utf-8"
	three := []string{"data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"}
	long := "data: " + strings.Repeat("x", maxEvent) + "\n"
	tests := []struct {
		name, does, kind string
		pieces           []string
		want             string
		failure          string // kind, "" for none
		shut             string // what is sent if the module keeps the door
	}{
		{"passed", "", sse, three, "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n", "", ""},
		{"dropped", "drop", sse, three, "", "", ""},
		{"replaced", "replace", sse, three[:1], "[data: 1\n\n]", "", ""},
		{"replaced by nothing", "empty", sse, three, "", "", ""},
		{"ended", "finish", sse, three, "data: the end\n\n", "", ""},
		{"in pieces", "replace", sse, []string{"da", "ta: 1", "\r", "\n\r\nda", "ta: 2\n", "\n"}, "[data: 1\r\n\r\n][data: 2\n\n]", "", ""},
		{"without an end", "replace", sse, []string{"data: 1\n\ndata: 2"}, "[data: 1\n\n][data: 2]", "", ""},
		{"empty lines are no events", "replace", sse, []string{"\n\n\ndata: 1\n\n\n"}, "\n\n\n[data: 1\n\n]\n", "", ""},
		{"lines", "replace", lines, []string{`{"a`, `":1}` + "\n" + `{"b":2}` + "\n"}, `[{"a":1}` + "\n]" + `[{"b":2}` + "\n]", "", ""},
		{"with CRs, each as it comes", "replace", sse, []string{"data: 1\r\r", "\ndata: 2\r", "\rdata: 3"}, "[data: 1\r\r]\n[data: 2\r\r][data: 3]", "", ""},
		{"a word", "secret", sse, []string{"data: a sec", "ret\n\n", "data: b\n\n"}, "data: ***\n\ndata: b\n\n", "", ""},
		{"too long to be seen", "replace", sse, []string{"data: 1\n\n", long, "data: tail\n\n", "data: 2\n\n"}, "[data: 1\n\n]" + long + "data: tail\n\n[data: 2\n\n]", "size", "[data: 1\n\n]"},
		{"too long, in the middle of a line", "replace", sse, []string{strings.TrimSpace(long), "\ndata: tail\n\n", "data: 2\n\n"}, long + "data: tail\n\n[data: 2\n\n]", "size", ""},
		{"too long, in the middle of a line's end", "replace", sse, []string{strings.TrimSpace(long) + "\r", "\n", "data: tail\r\n\r", "\ndata: 2\n\n"}, strings.TrimSpace(long) + "\r\ndata: tail\r\n\r\n[data: 2\n\n]", "size", ""},
		{"too long, to the stream's end", "replace", sse, []string{strings.TrimSpace(long)}, strings.TrimSpace(long), "size", ""},
		{"a trap", "trap", sse, three[:2], "data: 1\n\ndata: 2\n\n", "trap", ""},
		{"without end", "spin", sse, three[:1], "data: 1\n\n", "timeout", ""},
		{"nonsense", "bad-form", sse, three[:1], "data: 1\n\n", "answer", ""},
		{"outside of memory", "outside", sse, three[:1], "data: 1\n\n", "answer", ""},
		{"more than is allowed", "huge", sse, three[:1], "data: 1\n\n", "answer", ""},
	}
	for _, closed := range []bool{false, true} {
		patient, hurried := newHouse(t), newHouse(t)
		patient.add(t, "m", func(s *wasm.Spec) { s.FailClosed = closed })
		hurried.add(t, "m", func(s *wasm.Spec) { s.FailClosed, s.Settings.Time = closed, soon })
		for _, tt := range tests {
			h := patient
			if tt.failure == "timeout" {
				h = hurried
			}
			t.Run(fmt.Sprintf("%s/closed=%t", tt.name, closed), func(t *testing.T) {
				c, err := h.ask(newRequest("chunk="+tt.does), events(tt.kind, tt.pieces...))
				want := tt.want
				if closed && tt.failure != "" {
					want = tt.shut
					if e := infer.AsError(err); e.Code != "wasm_module_failed" {
						t.Errorf("the stream ends with %v", err)
					}
				} else if err != nil {
					t.Error(err)
				}
				if got := c.body.String(); c.status != 200 || got != want {
					t.Errorf("got %d %.300q\nwant %.300q", c.status, got, want)
				}
				if got := strings.Join(h.failures(wasm.OnChunk), " "); got != tt.failure {
					t.Errorf("counted: %q, want %q", got, tt.failure)
				}
				h.whole(t)
			})
		}
	}
}

// TestAStreamThatIsEndedEndsItsWorker holds that nothing more is taken of a
// worker once a module has ended the stream.
func TestAStreamThatIsEndedEndsItsWorker(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", nil)
	n := 0
	c, err := h.ask(newRequest("chunk=finish"), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Header().AddString("Content-Type", "text/event-stream")
		for n = range 1000 {
			if _, err := w.Write([]byte("data: x\n\n")); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || n > 1 || c.body.String() != "data: the end\n\n" {
		t.Errorf("%d events were taken, the client got %q, %v", n+1, c.body.String(), err)
	}
}

// TestAStreamThatBreaksOff holds that the beginning of an event goes past no
// module.
func TestAStreamThatBreaksOff(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", nil)
	broken := errors.New("broken")
	c, err := h.ask(newRequest("chunk=secret"), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Header().AddString("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("data: 1\n\ndata: secr"))
		return broken
	})
	if !errors.Is(err, broken) || c.body.String() != "data: 1\n\n" {
		t.Errorf("got %q, %v", c.body.String(), err)
	}
}

// TestAnAnswerThatBreaksOff holds that an answer that is kept and breaks off is
// an error as if nothing had come.
func TestAnAnswerThatBreaksOff(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", nil)
	c, _ := h.ask(newRequest(""), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Header().AddString("X-Of-Worker", "1")
		w.Header().AddString("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"half`))
		return &infer.Error{Status: 502, Code: "call_upstream_body_error"}
	})
	if got := c.got("X-Of-Worker", "Content-Length"); got != "502 Content-Length=24 call_upstream_body_error" {
		t.Errorf("got %q", got)
	}
	if log := h.log.String(); !strings.Contains(log, "error 502 call_upstream_body_error") || !strings.Contains(log, "end 502 0+0") {
		t.Errorf("the module was not told: %s", log)
	}
}

// TestHowARequestEnded holds what modules are told at the end.
func TestHowARequestEnded(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", nil)
	_, err := h.ask(newRequest(""), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Served.Tokens = infer.Tokens{Input: 7, Output: 9}
		return w.Send(200, "application/json", []byte("{}"))
	})
	if err != nil || !strings.Contains(h.log.String(), "end 200 7+9") || strings.Contains(h.log.String(), "text=\"error ") {
		t.Errorf("%v, log: %s", err, h.log)
	}
	_, _ = h.ask(newRequest(""), func(context.Context, *infer.Request, *infer.Reply) error {
		return &infer.Error{Status: 503, Code: "no_workers"}
	})
	if log := h.log.String(); !strings.Contains(log, "error 503 no_workers") || !strings.Contains(log, "end 503 0+0") {
		t.Errorf("log: %s", log)
	}
	_, _ = h.ask(newRequest("error=trap&end=trap"), func(context.Context, *infer.Request, *infer.Reply) error {
		return &infer.Error{Status: 503, Code: "no_workers"}
	})
	got := h.scrape("sluice_wasm_errors_total")
	for _, want := range []string{`sluice_wasm_errors_total{hook="OnError",kind="trap",module="m"} 1`, `sluice_wasm_errors_total{hook="OnEnd",kind="trap",module="m"} 1`} {
		if !has(got, want) {
			t.Errorf("%s is missing in %v", want, got)
		}
	}
}

// TestEveryEndIsToldOnce holds that each request that a module takes part in ends
// for it once, however it ends, and that it is told of every error once, also when
// the client has got a part of the answer.
func TestEveryEndIsToldOnce(t *testing.T) {
	const sse = "text/event-stream"
	broken := &infer.Error{Status: 502, Code: "call_upstream_body_error"}
	after := func(kind string, err error, pieces ...string) infer.HandlerFunc { // an answer that ends with err
		return func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			if werr := events(kind, pieces...)(ctx, r, w); werr != nil {
				return werr
			}
			return err
		}
	}
	tests := []struct {
		name, query string
		next        infer.HandlerFunc
		change      func(*wasm.Spec)
		want        string
	}{
		{"well", "", after(sse, nil, "data: 1\n\n"), nil, "end 200 0+0"},
		{"a stream that breaks off", "", after(sse, broken, "data: 1\n\n"), nil, "error 502 call_upstream_body_error; end 200 0+0"},
		{"in the middle of an event", "", after(sse, broken, "data: 1\n\nda"), nil, "error 502 call_upstream_body_error; end 200 0+0"},
		{"after its first event is dropped", "chunk=drop", after(sse, broken, "data: 1\n\n"), nil, "error 502 call_upstream_body_error; end 200 0+0"},
		{"a stream that passes", "", after(sse, broken, "data: 1\n\n"), func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnRequest, wasm.OnError, wasm.OnEnd} }, "error 502 call_upstream_body_error; end 200 0+0"},
		{"an answer that is kept", "", after("text/plain", broken, "half"), nil, "error 502 call_upstream_body_error; end 502 0+0"},
		{"an answer that passes", "", after("text/plain", broken, "half"), func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnRequest, wasm.OnError, wasm.OnEnd} }, "error 502 call_upstream_body_error; end 200 0+0"},
		{"a stream that the module ends", "chunk=finish", after(sse, nil, "data: 1\n\n", "data: 2\n\n"), nil, "end 200 0+0"},
		{"a module that fails in a stream", "chunk=trap", after(sse, nil, "data: 1\n\n"), func(s *wasm.Spec) { s.FailClosed = true }, "error 503 wasm_module_failed; end 200 0+0"},
		{"refused by the module", "request=reject", after(sse, nil), nil, "end 403 0+0"},
		{"a module that fails before", "request=trap", after(sse, nil), func(s *wasm.Spec) { s.FailClosed = true }, "error 503 wasm_module_failed; end 503 0+0"},
		{"no worker", "", func(context.Context, *infer.Request, *infer.Reply) error {
			return &infer.Error{Status: 503, Code: "no_workers"}
		}, nil, "error 503 no_workers; end 503 0+0"},
		{"a panic", "", func(context.Context, *infer.Request, *infer.Reply) error { panic("oh") }, nil, "error 500 internal_error; end 500 0+0"},
		{"a panic in a stream", "", func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			_ = events(sse, "data: 1\n\n")(ctx, r, w)
			panic("oh")
		}, nil, "error 500 internal_error; end 200 0+0"},
	}
	for _, tt := range tests {
		for _, promised := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/promised=%t", tt.name, promised), func(t *testing.T) {
				h := newHouse(t)
				h.add(t, "m", tt.change)
				c := new(client)
				w := infer.NewReply(c)
				if promised {
					w.Promise()
				}
				func() {
					defer func() { _ = recover() }()
					err := h.gate(tt.next).Serve(context.Background(), newRequest(tt.query), w)
					if err != nil && !w.Committed() {
						refuse(w, err)
					}
				}()
				if promised {
					if got := h.told(); got != "" || !w.Awaited() {
						t.Errorf("told %q before the answer has ended", got)
					}
					w.End()
					w.End()
				}
				if got := h.told(); got != tt.want {
					t.Errorf("told %q, want %q", got, tt.want)
				}
				if w.Awaited() {
					t.Error("something is still to be done")
				}
				h.whole(t)
			})
		}
	}
}

var toldLine = regexp.MustCompile(`text="?((?:error|end) [^"\n]*)`)

// told is what the module of the tests was told of errors and ends.
func (h *house) told() string {
	var all []string
	for _, m := range toldLine.FindAllStringSubmatch(h.log.String(), -1) {
		all = append(all, m[1])
	}
	return strings.Join(all, "; ")
}

// TestAClientThatLeavesInAStream: what is written goes nowhere, which is no fault
// of the gateway's.
func TestAClientThatLeavesInAStream(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", nil)
	ctx, leave := context.WithCancel(context.Background())
	err := h.gate(infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		_ = events("text/event-stream", "data: 1\n\n")(ctx, r, w)
		leave()
		return errors.New("broken pipe")
	})).Serve(ctx, newRequest(""), infer.NewReply(new(client)))
	if got := h.told(); err == nil || got != "error 499 client_closed_request; end 200 0+0" {
		t.Errorf("told %q, %v", got, err)
	}
}

// TestABodyThatCannotBeRead: modules that look at errors and ends see those of
// requests that no module could be shown.
func TestABodyThatCannotBeRead(t *testing.T) {
	for name, tt := range map[string]struct{ body, want string }{
		"too long": {chat, "error 400 wasm_body_too_large; end 400 0+0"},
		"no JSON":  {"{", "error 400 json_parse_error; end 400 0+0"}, // which modules are shown
	} {
		h := newHouse(t)
		h.add(t, "m", func(s *wasm.Spec) { s.MaxBody = 10 })
		r := &infer.Request{ID: "id", Method: "POST", Path: "/v1/chat/completions", Endpoint: infer.Chat, Received: time.Now()}
		r.SetBody(infer.NewBody(strings.NewReader(tt.body), int64(len(tt.body))))
		r.LeaveBody(1 << 20)
		_, _ = h.ask(r, func(context.Context, *infer.Request, *infer.Reply) error {
			t.Errorf("%s: it is served", name)
			return nil
		})
		if got := h.told(); got != tt.want {
			t.Errorf("%s: told %q, want %q", name, got, tt.want)
		}
		h.whole(t)
	}
}

// TestAModuleInRust holds that each hook of our own world works in Rust, as the
// bindings that sluice wasm new writes have them (internal/wasm/testdata/hooks.rs).
func TestAModuleInRust(t *testing.T) {
	b, err := os.ReadFile("../../wasm/testdata/hooks.wasm")
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t)
	m, err := h.modules.Add(t.Context(), wasm.Spec{Name: "rust", Settings: wasm.DefaultSettings()}, b)
	if err != nil {
		t.Fatal(err)
	}
	for hook := range wasm.NumHooks {
		if !m.Attaches(hook) {
			t.Errorf("it has no %s", hook)
		}
	}
	if is, why := m.Module.Isolation(); is != wasm.Snapshot {
		t.Errorf("it runs as %s because %s", is, why)
	}
	broken := &infer.Error{Status: 502, Code: "call_upstream_body_error"}
	tests := []struct {
		name, query string
		next        infer.HandlerFunc
		want        string // that the client gets
		told        string // of errors and ends
	}{
		{"it is passed", "", worker("text/plain", "ok"), "200 ok", "end 200 0+0"},
		{"rejected", "request=reject", worker("text/plain", "ok"), "403 ", "end 403 0+0"},
		{"what it sees", "request=tell", func(_ context.Context, r *infer.Request, w *infer.Reply) error {
			return w.Send(200, "text/plain", []byte(seen(r)))
		}, "200 m " + chat + " x-set=POST /v1/chat/completions m old 3 x-more=1", "end 200 0+0"},
		{"another body", "request=body", func(_ context.Context, r *infer.Request, w *infer.Reply) error {
			return w.Send(200, "text/plain", []byte(r.Model))
		}, "200 other", "end 200 0+0"},
		{"another status", "response=status", worker("text/plain", "ok"), "201 ok", "end 201 0+0"},
		{"another answer", "response=body", worker("text/plain", "ok"), "200 [ok]", "end 200 0+0"},
		{"a stream", "", events("text/event-stream", "data: 1\n\n", "data: 2\n\n"), "200 data: 1\n\ndata: 2\n\n", "end 200 0+0"},
		{"events replaced", "chunk=replace", events("text/event-stream", "data: 1\n\n", "data: 2\n\n"), "200 [data: 1\n\n][data: 2\n\n]", "end 200 0+0"},
		{"events dropped", "chunk=drop", events("text/event-stream", "data: 1\n\n"), "200 ", "end 200 0+0"},
		{"a stream ended", "chunk=finish", events("text/event-stream", "data: 1\n\n", "data: 2\n\n"), "200 data: the end\n\n", "end 200 0+0"},
		{"a stream that breaks off", "chunk=replace", func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			_ = events("text/event-stream", "data: 1\n\n")(ctx, r, w)
			return broken
		}, "200 [data: 1\n\n]", "error 502 call_upstream_body_error; end 200 0+0"},
		{"no worker", "", func(context.Context, *infer.Request, *infer.Reply) error { return broken }, "502 call_upstream_body_error", "error 502 call_upstream_body_error; end 502 0+0"},
		{"a panic at every hook", "request=panic&response=panic&end=panic", worker("text/plain", "ok"), "200 ok", ""},
		{"and after it", "response=body", worker("text/plain", "ok"), "200 [ok]", "end 200 0+0"},
	}
	for _, tt := range tests {
		h.log.reset()
		c, _ := h.ask(newRequest(tt.query), tt.next)
		if got := c.got(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if got := h.told(); got != tt.told {
			t.Errorf("%s: told %q, want %q", tt.name, got, tt.told)
		}
		h.whole(t)
	}
}

// TestModulesComeOneAfterAnother holds the order, that each sees what the one
// before has made, and that the first to reject is the last to be asked.
func TestModulesComeOneAfterAnother(t *testing.T) {
	h := newHouse(t)
	h.add(t, "second", func(s *wasm.Spec) { s.Order = 2 })
	h.add(t, "third", func(s *wasm.Spec) { s.Order = 2 }) // of equal ones the older first
	h.add(t, "first", func(s *wasm.Spec) { s.Order = -1 })
	c, _ := h.ask(newRequest("chunk=replace"), events("text/event-stream", "data: 1\n\n"))
	if got := c.body.String(); got != "[[[data: 1\n\n]]]" {
		t.Errorf("a stream through three modules is %q", got)
	}
	if c, _ = h.ask(newRequest("request=reject"), worker("text/plain", "no")); c.status != 403 {
		t.Errorf("got %d", c.status)
	}
	got := h.scrape("sluice_wasm_calls_total")
	if !has(got, `sluice_wasm_calls_total{action="reject",hook="OnRequest",module="first"} 1`) || has(got, `sluice_wasm_calls_total{action="reject",hook="OnRequest",module="second"}`) {
		t.Errorf("after a rejection: %v", got)
	}
}

// TestModulesRemember holds what a module remembers of a request between its
// hooks, and what its requests share, also when it is updated.
func TestModulesRemember(t *testing.T) {
	h := newHouse(t)
	m := h.add(t, "m", nil)
	for i, want := range []string{"1", "2", "3"} {
		if i == 2 { // another version of it
			b, _ := everything()
			if _, err := h.modules.Update(t.Context(), m.ID, func(*wasm.Spec) {}, append(slices.Clone(b), 0, 2, 1, 'v')); err != nil {
				t.Fatal(err)
			}
		}
		c, _ := h.ask(newRequest("request=tell&response=status"), func(_ context.Context, r *infer.Request, w *infer.Reply) error {
			return w.Send(200, "text/plain", r.Header.Get("x-seen"))
		})
		if got := c.got(); got != "201 "+want {
			t.Errorf("request %d: got %s, want 201 %s", i+1, got, want)
		}
	}
}

// TestARequestKeepsItsModules holds that what was begun with a module does not go
// on without it: another version, and a removal, are for the requests that come.
func TestARequestKeepsItsModules(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, h *house, m *wasm.Attached)
	}{
		{"replaced", func(t *testing.T, h *house, m *wasm.Attached) {
			b, _ := everything()
			if _, err := h.modules.Update(t.Context(), m.ID, func(*wasm.Spec) {}, append(slices.Clone(b), 0, 2, 1, 'v')); err != nil {
				t.Error(err)
			}
		}},
		{"removed", func(t *testing.T, h *house, m *wasm.Attached) {
			if err := h.modules.Remove(m.ID); err != nil {
				t.Error(err)
			}
		}},
		{"disabled", func(t *testing.T, h *house, m *wasm.Attached) {
			if _, err := h.modules.Update(t.Context(), m.ID, func(s *wasm.Spec) { s.Disabled = true }, nil); err != nil {
				t.Error(err)
			}
		}},
	} {
		h := newHouse(t)
		m := h.add(t, "m", func(s *wasm.Spec) { s.FailClosed = true })
		c, err := h.ask(newRequest("chunk=replace"), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().AddString("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte("data: 1\n\n"))
			tt.change(t, h, m)
			_, err := w.Write([]byte("data: 2\n\n"))
			return err
		})
		if want := "[data: 1\n\n][data: 2\n\n]"; err != nil || c.body.String() != want {
			t.Errorf("%s in the middle of a stream: %q, %v; want %q", tt.name, c.body.String(), err, want)
		}
		if c, err = h.ask(newRequest("response=status"), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			return w.Send(200, "text/plain", nil)
		}); err != nil || (c.status == 201) != (tt.name == "replaced") {
			t.Errorf("%s, the next request: %d, %v", tt.name, c.status, err)
		}
		if s := m.Module.Stats(); tt.name != "disabled" && s.Memory != 0 {
			t.Errorf("%s: %d bytes are kept after its last request", tt.name, s.Memory)
		}
		h.whole(t)
	}
}

// A line is a client that can be given a WebSocket.
type line struct{ client }

func (*line) Tunnels() bool                     { return true }
func (*line) Tunnel() (net.Conn, []byte, error) { return nil, nil, nil }

// TestWebSocketsAreGuarded holds that modules see the request for a WebSocket,
// and leave alone what is said in it.
func TestWebSocketsAreGuarded(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", nil)
	for _, tt := range []struct {
		query string
		want  string // "" for a WebSocket
	}{
		{"", ""}, {"request=reject", "403 "}, {"request=headers", ""}, {"request=body", ""}, {"request=no-body", ""}, {"response=status&chunk=replace", ""},
	} {
		r := newRequest(tt.query)
		r.Method, r.Path, r.Endpoint = "GET", "/v1/realtime", infer.Realtime
		r.SetBytes(nil)
		c, opened := new(line), false
		err := h.gate(infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
			if opened = w.Tunnels(); len(r.Body) > 0 || r.Model != "m" {
				t.Errorf("%s: the body is %q, the model %q", tt.query, r.Body, r.Model)
			}
			if set := string(r.Header.Get("x-set")); (set == "new") != (tt.query == "request=headers") {
				t.Errorf("%s: the header has x-set %q", tt.query, set)
			}
			_, _, err := w.Tunnel()
			return err
		})).Serve(t.Context(), r, infer.NewReply(c))
		if err != nil || opened != (tt.want == "") || !opened && c.got() != tt.want {
			t.Errorf("%s: opened %t, answered %s, %v", tt.query, opened, c.got(), err)
		}
	}
	if got := h.failures(wasm.OnRequest); !slices.Equal(got, []string{"answer"}) {
		t.Errorf("failures: %v, want that of the body", got)
	}
	if !strings.Contains(h.log.String(), "end 101") {
		t.Errorf("on-end is not told of a WebSocket: %s", h.log)
	}
	h.whole(t)
}

// TestABodyThatIsLeft holds that a body that was left with the client is read if
// a module wants it, or its model, and otherwise stays there.
func TestABodyThatIsLeft(t *testing.T) {
	tests := []struct {
		name   string
		change func(*wasm.Spec)
		left   bool
		status int
	}{
		{"wanted", nil, false, 200},
		{"for another path", func(s *wasm.Spec) { s.Paths = []string{"/x"} }, true, 200},
		{"for another tenant", func(s *wasm.Spec) { s.Tenants = []string{"beta"} }, true, 200},
		{"for another tenant's model", func(s *wasm.Spec) { s.Tenants, s.Models = []string{"beta"}, []string{"m"} }, true, 200},
		{"for its tenant's model", func(s *wasm.Spec) { s.Tenants, s.Models = []string{"acme"}, []string{"m"} }, false, 200},
		{"for its model", func(s *wasm.Spec) { s.Models = []string{"m"} }, false, 200},
		{"perhaps for its model", func(s *wasm.Spec) { s.Models, s.Attach = []string{"x"}, []wasm.Hook{wasm.OnChunk} }, false, 200},
		{"only its answer", func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnResponse} }, true, 200},
		{"too long", func(s *wasm.Spec) { s.MaxBody = 10 }, false, 400},
	}
	for _, tt := range tests {
		h := newHouse(t)
		h.add(t, "m", tt.change)
		r := &infer.Request{ID: "id", Method: "POST", Path: "/v1/chat/completions", Endpoint: infer.Chat, Tenant: "acme", Received: time.Now()}
		r.SetBody(infer.NewBody(strings.NewReader(chat), int64(len(chat))))
		r.LeaveBody(1 << 20)
		c, err := h.ask(r, func(_ context.Context, r *infer.Request, w *infer.Reply) error {
			if r.Left() != tt.left || !tt.left && (string(r.Body) != chat || r.Model != "m") {
				t.Errorf("%s: left %t, body %q of model %q", tt.name, r.Left(), r.Body, r.Model)
			}
			return w.Send(200, "text/plain", nil)
		})
		if c.status != tt.status {
			t.Errorf("%s: got %d %s, %v", tt.name, c.status, c.body.String(), err)
		}
	}
}

// TestTheClientLeaves holds that a module which is called when the client has
// left does its work, and that nobody waits for an instance then.
func TestTheClientLeaves(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", nil)
	ctx, leave := context.WithCancel(context.Background())
	c := new(client)
	err := h.gate(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, _ *infer.Reply) error {
		leave()
		return infer.Ended(ctx, ctx.Err())
	})).Serve(ctx, newRequest(""), infer.NewReply(c))
	if infer.AsError(err).Status != infer.StatusClientGone || !strings.Contains(h.log.String(), "end 499 0+0") {
		t.Errorf("%v; log: %s", err, h.log)
	}
	h.whole(t)
}

// TestFailuresAreLoggedOnceASecond: a storm of them says no more than one.
func TestFailuresAreLoggedOnceASecond(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", nil)
	begin := time.Now()
	for range 1000 {
		if c, err := h.ask(newRequest("request=trap"), worker("text/plain", "ok")); c.status != 200 || err != nil {
			t.Fatal(c.status, err)
		}
	}
	most := int(time.Since(begin)/time.Second) + 2
	if n := strings.Count(h.log.String(), "a module failed"); n < 1 || n > most {
		t.Errorf("1,000 failures made %d lines, want 1 to %d", n, most)
	}
	if m := h.modules.Set().All[0]; m.Counts.Failed.Load() != 1000 {
		t.Errorf("%d failures are counted", m.Counts.Failed.Load())
	}
	h.whole(t)
}

// TestWhatAGuestWritesIsBounded: lines, counters and keys.
func TestWhatAGuestWritesIsBounded(t *testing.T) {
	h := newHouse(t)
	m := h.add(t, "m", nil)
	_, _ = h.ask(newRequest("request=lines"), worker("text/plain", "ok"))
	if n := strings.Count(h.log.String(), "a line"); n != 64 {
		t.Errorf("1,000 lines of one call are %d in the log", n)
	}
	_, _ = h.ask(newRequest("request=counters"), worker("text/plain", "ok"))
	if n := len(h.scrape(`sluice_wasm_guest_total{module="m"`)); n < 60 || n > 65 || !has(h.scrape("sluice_wasm_guest"), `sluice_wasm_guest_total{module="m",name="other"}`) {
		t.Errorf("1,000 counters are %d: %v", n, h.scrape("sluice_wasm_guest"))
	}
	_, _ = h.ask(newRequest("request=keys"), worker("text/plain", "ok"))
	if m.Store.Get("k9999") != 1 || m.Store.Get("k0") != 0 || m.Store.Get("seen") != 0 {
		t.Errorf("of 10,000 keys: the last is %d, the first %d", m.Store.Get("k9999"), m.Store.Get("k0"))
	}
}

// TestMetricsGoWithTheirModule holds what is counted, and that it goes with the
// last module of a name.
func TestMetricsGoWithTheirModule(t *testing.T) {
	h := newHouse(t)
	a, b := h.add(t, "m", nil), h.add(t, "m", nil)
	_, _ = h.ask(newRequest(""), worker("text/plain", "ok"))
	_, _ = h.ask(newRequest("request=trap"), worker("text/plain", "ok"))
	all := h.scrape("sluice_wasm_")
	for _, want := range []string{
		`sluice_wasm_calls_total{action="continue",hook="OnRequest",module="m"} 2`,
		`sluice_wasm_calls_total{action="error",hook="OnRequest",module="m"} 2`,
		`sluice_wasm_call_duration_seconds_count{hook="OnRequest",module="m"} 4`,
		`sluice_wasm_instances{module="m",state="idle"} 2`,
		`sluice_wasm_instances_made_total{module="m"} 2`,
		`sluice_wasm_memory_bytes{module="m"}`,
		`sluice_wasm_guest_total{module="m",name="request"} 4`,
	} {
		if !has(all, want) {
			t.Errorf("%s is missing in %s", want, strings.Join(all, "\n"))
		}
	}
	made := func() (n float64) {
		for _, line := range h.scrape(`sluice_wasm_instances_made_total{module="m"}`) {
			_, value, _ := strings.Cut(line, "} ")
			var err error
			if n, err = strconv.ParseFloat(value, 64); err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	guest, err := everything()
	if err != nil {
		t.Fatal(err)
	}
	for n := range byte(3) {
		before := made()
		version := append(slices.Clone(guest), 0, 3, 1, 'v', (n+1)/2) // the last has the bytes of the one before
		if _, err := h.modules.Update(t.Context(), a.ID, func(*wasm.Spec) {}, version); err != nil {
			t.Fatal(err)
		}
		if now := made(); now < before+1 {
			t.Errorf("%v instances were made before an update, and %v with it", before, now)
		}
	}
	if err := h.modules.Remove(a.ID); err != nil {
		t.Fatal(err)
	}
	if !has(h.scrape("sluice_wasm_"), `sluice_wasm_calls_total{action="continue",hook="OnRequest",module="m"} 2`) {
		t.Error("what was counted went with the first of two modules of one name")
	}
	if err := h.modules.Remove(b.ID); err != nil {
		t.Fatal(err)
	}
	if left := h.scrape("sluice_wasm_"); len(left) > 0 {
		t.Errorf("left of a module that is gone: %v", left)
	}
	last := h.add(t, "last", nil)
	_, _ = h.ask(newRequest("response=trap"), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		if err := h.modules.Remove(last.ID); err != nil {
			t.Error(err)
		}
		return w.Send(200, "text/plain", nil)
	})
	if left := h.scrape("sluice_wasm_"); len(left) > 0 {
		t.Errorf("left of a module that went before its last request failed: %v", left)
	}
}
