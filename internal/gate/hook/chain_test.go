package hook

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// TestTheLengthFollowsTheBody holds that a module behind another sees the length
// of the body that this one has made, and that there is no length where there was
// none.
func TestTheLengthFollowsTheBody(t *testing.T) {
	var header func() []byte
	var seen []string
	h := newHouse(t)
	h.add(t, "first", nil)
	h.add(t, "second", func(s *wasm.Spec) { s.Order = 1 })
	g := h.gateWith(func(o *Options) {
		o.Saw = func(m *wasm.Attached, hook wasm.Hook, _ string, _ time.Duration, _ error) {
			if m.Name == "second" && hook <= wasm.OnResponse {
				seen = append(seen, fmt.Sprintf("%s %s", hook, header()))
			}
		}
	})
	const long = "87" // of the body that the module puts in a request's place
	for _, tt := range []struct {
		does, had string
		want      []string
	}{
		{"request=body", "27", []string{"OnRequest " + long, "OnResponse 13"}},
		{"request=body", "", []string{"OnRequest ", "OnResponse 13"}},
		{"request=headers", "27", []string{"OnRequest 27", "OnResponse 13"}},
		{"request=nonsense", "27", []string{"OnRequest 27", "OnResponse 13"}}, // it is not made
		{"response=body", "27", []string{"OnRequest 27", "OnResponse 24"}},
		{"response=no-body", "27", []string{"OnRequest 27", "OnResponse 0"}},
	} {
		seen = nil
		r, c := newRequest(tt.does), new(client)
		if tt.had != "" {
			r.Header.AddString("content-length", tt.had)
		}
		header = func() []byte { return r.Header.Get("Content-Length") }
		err := g(infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			if got := string(header()); got != "" && got != fmt.Sprint(len(r.Body)) {
				t.Errorf("%s: behind the modules the length is %s, of a body of %d bytes", tt.does, got, len(r.Body))
			}
			header = func() []byte { return c.header.Get("Content-Length") }
			return worker("application/json", `{"said":"hi"}`)(ctx, r, w)
		})).Serve(t.Context(), r, infer.NewReply(c))
		if err != nil || !slices.Equal(seen, tt.want) {
			t.Errorf("%s: the second module saw %q, %v; want %q", tt.does, seen, err, tt.want)
		}
	}
}

// TestWhoRejectsAnAnswerIsNotTheLast holds that those behind a module that rejects
// an answer see it, with its new status: one that takes something out of answers
// is passed by nothing.
func TestWhoRejectsAnAnswerIsNotTheLast(t *testing.T) {
	h := newHouse(t)
	h.add(t, "rejects", nil)
	b, err := os.ReadFile("../../wasm/httpwasm/testdata/guest.wasm")
	if err != nil {
		t.Fatal(err)
	}
	// It puts bodies in brackets, and adds 1 to the status.
	if _, err := h.modules.Add(t.Context(), wasm.Spec{Name: "brackets", Order: 1, Settings: wasm.DefaultSettings()}, b); err != nil {
		t.Fatal(err)
	}
	for _, next := range []infer.HandlerFunc{worker("application/json", `{"key":"secret"}`), refusing(500)} {
		r := newRequest("response=reject&letter=v")
		c, err := h.ask(r, next)
		if got, want := c.got("Content-Length"), `404 Content-Length=18 <{"key":"secret"}>`; got != want {
			t.Errorf("got %s (%v)\nwant %s", got, err, want)
		}
	}
	h.whole(t)
}

// TestModulesHaveTheRequestsTime holds that what modules do is of the time that a
// request may take: when it is up they are stopped, though their own limit is
// longer, and the request has failed, whether or not they guard a door.
func TestModulesHaveTheRequestsTime(t *testing.T) {
	for _, closed := range []bool{false, true} {
		h := newHouse(t)
		h.add(t, "m", func(s *wasm.Spec) { s.FailClosed, s.Settings.Time = closed, 5*time.Minute })
		h.gate = h.gateWith(func(o *Options) { o.Timeout = soon })
		for _, tt := range []struct {
			does, came string // what the client has been sent
			asked      bool   // the worker
			old        bool   // the request's time is up before a module is asked
		}{
			{"request=spin", "504 call_upstream_timeout", false, false},
			{"request=", "504 call_upstream_timeout", false, true},
			{"response=spin", "504 call_upstream_timeout", true, false},
			{"chunk=spin", "200 ", true, false},
		} {
			asked := false
			next := worker("application/json", `{"said":"hi"}`)
			if strings.HasPrefix(tt.does, "chunk") {
				next = events("text/event-stream", "data: 1\n\n", "data: 2\n\n")
			}
			r := newRequest(tt.does)
			if tt.old {
				r.Received = r.Received.Add(-time.Minute)
			}
			c, err := h.ask(r, func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
				asked = true
				return next(ctx, r, w)
			})
			if e := infer.AsError(err); e.Code != "call_upstream_timeout" || c.got() != tt.came || asked != tt.asked {
				t.Errorf("%s, closed %t: got %s, %v, the worker was asked: %t; want %s", tt.does, closed, c.got(), err, asked, tt.came)
			}
			if told := h.told(); !strings.Contains(told, "call_upstream_timeout") && !tt.old {
				t.Errorf("%s, closed %t: on-error is told %q", tt.does, closed, told)
			}
			h.whole(t)
		}
		r := newRequest("")
		r.Received = time.Now().Add(time.Hour) // there is time enough
		if c, err := h.ask(r, worker("application/json", `{"said":"hi"}`)); err != nil || c.status != 200 {
			t.Errorf("closed %t: a request in time is answered %s, %v", closed, c.got(), err)
		}
	}
}
