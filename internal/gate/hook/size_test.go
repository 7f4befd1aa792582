package hook

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// TestBodiesThatAreTooLong holds the contract's answers.
func TestBodiesThatAreTooLong(t *testing.T) {
	h := newHouse(t)
	h.add(t, "m", func(s *wasm.Spec) { s.MaxBody = 100 })
	r := newRequest("")
	r.SetBytes([]byte(`{"model":"m","messages":"` + strings.Repeat("x", 100) + `"}`))
	if c, err := h.ask(r, worker("text/plain", "")); c.got() != "400 wasm_body_too_large" || !strings.Contains(err.Error(), `the module "m" takes at most 100`) {
		t.Errorf("a request: %s, %v", c.got(), err)
	}
	h.tooLong(t, wasm.OnRequest)
	n := 0
	c, err := h.ask(newRequest(""), func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		for n = range 100 {
			if _, err := w.Write(make([]byte, 50)); err != nil {
				return err
			}
		}
		return nil
	})
	if c.got() != "500 wasm_body_too_large" || n != 2 {
		t.Errorf("an answer: %s, %v, after %d pieces", c.got(), err, n)
	}
	h.tooLong(t, wasm.OnResponse)
	if c, err = h.ask(newRequest(""), events("text/event-stream", strings.Repeat("data: x\n\n", 100))); c.status != 200 || c.body.Len() != 900 {
		t.Errorf("a stream: %d, %d bytes, %v", c.status, c.body.Len(), err)
	}
}

// tooLong fails unless it was counted and logged since the last look that the one
// module could not be shown a body at a hook.
func (h *house) tooLong(t *testing.T, hook wasm.Hook) {
	t.Helper()
	if got := h.failures(hook); !slices.Equal(got, []string{"size"}) {
		t.Errorf("%s: counted %q, want a size", hook, got)
	}
	if log := h.log.String(); strings.Count(log, "a module failed") != 1 || !strings.Contains(log, "hook="+hook.String()) {
		t.Errorf("%s: logged %s", hook, log)
	}
	h.log.reset()
}

// TestWhoseLimitItIs holds that a body that is too long counts for the modules
// that would have been shown it, and for no other.
func TestWhoseLimitItIs(t *testing.T) {
	size := func(hook, module string) string {
		return `sluice_wasm_errors_total{hook="` + hook + `",kind="size",module="` + module + `"} 1`
	}
	type limited struct {
		name string
		most int64
		at   wasm.Hook
	}
	asked := []limited{{"wide", 1000, wasm.OnRequest}, {"middle", 12, wasm.OnRequest}, {"short", 10, wasm.OnRequest}, {"events", 1, wasm.OnChunk}}
	left := func(limit int64) *infer.Request {
		r := &infer.Request{ID: "id", Method: "POST", Path: "/v1/chat/completions", Endpoint: infer.Chat, Received: time.Now()}
		r.SetBody(infer.NewBody(strings.NewReader(chat), -1))
		r.LeaveBody(limit)
		return r
	}
	tests := []struct {
		name    string
		modules []limited
		r       *infer.Request
		code    string
		want    []string
	}{
		{"the first that it is too long for", asked, newRequest(""), "wasm_body_too_large", []string{size("OnRequest", "middle")}},
		{"an answer", []limited{asked[0], {"answers", 10, wasm.OnResponse}}, newRequest(""), "wasm_body_too_large", []string{size("OnResponse", "answers")}},
		{"left with the client", asked[1:], left(1 << 20), "wasm_body_too_large", []string{size("OnRequest", "middle"), size("OnRequest", "short")}},
		{"the gateway's own limit", asked[1:], left(11), "request_body_too_large", nil},
	}
	for _, tt := range tests {
		h := newHouse(t)
		for _, m := range tt.modules {
			h.add(t, m.name, func(s *wasm.Spec) { s.MaxBody, s.Attach = m.most, []wasm.Hook{m.at} })
		}
		_, err := h.ask(tt.r, worker("text/plain", "an answer of 23 bytes.."))
		if e := infer.AsError(err); e.Code != tt.code {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.code)
		}
		if got := h.scrape("sluice_wasm_errors_total"); !slices.Equal(got, tt.want) {
			t.Errorf("%s: counted %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestWhoIsBlamed holds which module the log names: one that has answered, and one
// because of which a request or its answer was refused. One that fails and lets it
// pass is none.
func TestWhoIsBlamed(t *testing.T) {
	for _, tt := range []struct {
		query  string
		closed bool
		most   int64
		next   infer.HandlerFunc
		want   string
	}{
		{"request=reject", false, 0, worker("text/plain", "ok"), "guard"},
		{"response=reject", false, 0, worker("text/plain", "ok"), "guard"},
		{"response=reject", false, 0, refusing(500), "guard"},
		{"request=trap", true, 0, worker("text/plain", "ok"), "guard"},
		{"response=trap", true, 0, worker("text/plain", "ok"), "guard"},
		{"chunk=trap", true, 0, events("text/event-stream", "data: 1\n\n"), "guard"},
		{"", false, 5, worker("text/plain", "ok"), "guard"},
		{"", false, 30, worker("text/plain", strings.Repeat("x", 31)), "guard"},
		{"request=trap&response=trap", false, 0, worker("text/plain", "ok"), ""},
		{"request=headers&response=body&chunk=replace", false, 0, worker("text/plain", "ok"), ""},
		{"chunk=finish", false, 0, events("text/event-stream", "data: 1\n\n"), ""},
		{"", false, 0, refusing(500), ""},
	} {
		h := newHouse(t)
		h.add(t, "before", nil)
		h.add(t, "guard", func(s *wasm.Spec) {
			s.Order, s.FailClosed, s.MaxBody = -1, tt.closed, tt.most
			if tt.most == 0 {
				s.MaxBody = wasm.DefaultMaxBody
			}
		})
		w := infer.NewReply(new(client))
		_ = h.gate(tt.next).Serve(t.Context(), newRequest(tt.query), w)
		if w.Served.Module != tt.want {
			t.Errorf("%s, closed %t, at most %d: %q, want %q", tt.query, tt.closed, tt.most, w.Served.Module, tt.want)
		}
	}
}
