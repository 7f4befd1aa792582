package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"sluice/internal/infer"
	"sluice/internal/kit/linelog"
)

var errTorn = errors.New("cut the connection")

// refuse is the server's, in few words.
func refuse(_ *infer.Request, w *infer.Reply, err error) error {
	e := infer.AsError(err)
	if e.Status == infer.StatusClientGone {
		return errTorn
	}
	var sent error
	switch {
	case w.Committed():
		_, sent = w.Write([]byte("data: error\n\n"))
	case e.Answer != nil:
		sent = w.Send(e.Answer.Status, "application/json", e.Answer.Body)
	default:
		sent = w.Send(e.Status, "application/json", []byte(`{"error":1}`))
	}
	if sent != nil {
		return errTorn
	}
	return nil
}

// TestRefusals is what the log and the front end know of requests that the gate
// has answered with their handler's error.
func TestRefusals(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	fails := func(e error) infer.HandlerFunc {
		return func(context.Context, *infer.Request, *infer.Reply) error { return e }
	}
	breaks := func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		if _, err := w.Write([]byte("data: x\n\n")); err != nil {
			return err
		}
		return &infer.Error{Status: 502, Code: "worker_broke_off", Err: io.ErrUnexpectedEOF}
	}
	unreachable := &infer.Error{Status: 502, Code: "worker_unreachable", Err: errors.New("dial: refused")}
	tests := []struct {
		name   string
		ctx    context.Context
		broken error // why the client takes nothing
		h      infer.HandlerFunc
		status float64
		code   string
		cause  any
		sent   float64 // bytes
		want   error
	}{
		{"nothing was sent", nil, nil, fails(unreachable), 502, "worker_unreachable", "dial: refused", 11, nil},
		{"a worker's answer", nil, nil, fails(&infer.Error{Status: 500, Code: "call_upstream_status_error", Answer: &infer.Answer{Status: 422, Body: []byte("{}")}}), 422, "call_upstream_status_error", nil, 2, nil},
		{"a stream had begun", nil, nil, breaks, 200, "stream_error", "unexpected EOF", 22, nil},
		{"a panic", nil, nil, func(context.Context, *infer.Request, *infer.Reply) error { panic("x") }, 500, "internal_error", "handler panicked", 11, nil},
		{"the client left, it says", nil, nil, fails(&infer.Error{Status: infer.StatusClientGone, Code: "client_closed_request"}), 499, "client_closed_request", nil, 0, errTorn},
		{"the client left, and a worker failed", gone, nil, fails(unreachable), 499, "client_closed_request", "dial: refused", 11, nil},
		{"the client does not take it", nil, io.ErrClosedPipe, fails(unreachable), 499, "client_closed_request", "dial: refused", 0, errTorn},
		{"an empty answer", nil, nil, fails(nil), 200, "", nil, 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(DefaultConfig())
			g.opt.Refuse = refuse
			g.gate = Gate(DefaultConfig(), g.opt)
			g.wire.broken = tt.broken
			ctx := tt.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			reply := infer.NewReply(&g.wire)
			err := g.gate(tt.h).Serve(ctx, &g.req, reply)
			g.opt.Lines.Flush()
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("the front end is told %v, want %v", err, tt.want)
			}
			if err == nil && !reply.Committed() {
				t.Error("the front end is told that there is a whole answer, and none was sent")
			}
			log := g.log.Bytes()
			if i := lastLine(log); i > 0 { // behind the panic's
				g.log.Next(i)
			}
			line := g.line(t)
			code, _ := line["error"].(string)
			if line["status"] != tt.status || code != tt.code || line["cause"] != tt.cause || line["bytes_out"] != tt.sent {
				t.Errorf("logged %v %q, cause %v, %v bytes; want %v %q, cause %v, %v bytes", line["status"], code, line["cause"], line["bytes_out"], tt.status, tt.code, tt.cause, tt.sent)
			}
			if got := string(g.wire.header.Get("x-request-id")); got != g.req.ID {
				t.Errorf("the client reads id %q, want %q", got, g.req.ID)
			}
			if got, want := g.metrics("smg_http_responses_total"), fmt.Sprintf(`smg_http_responses_total{error_code=%q,path="/v1/chat/completions",status_code="%v"} 1`, tt.code, tt.status); len(got) != 1 || got[0] != want {
				t.Errorf("counted %q, want %q", got, want)
			}
		})
	}
}

// lastLine returns where the last line of b begins.
func lastLine(b []byte) int {
	for i := len(b) - 2; i >= 0; i-- {
		if b[i] == '\n' {
			return i + 1
		}
	}
	return 0
}

// TestWhatIsCutIsNotRefused holds that nothing is added to an answer that a
// panic has torn.
func TestWhatIsCutIsNotRefused(t *testing.T) {
	for name, h := range map[string]infer.HandlerFunc{
		"a panic in an answer":   func(_ context.Context, _ *infer.Request, w *infer.Reply) error { w.Commit(200); panic("x") },
		"a handler that cuts it": func(context.Context, *infer.Request, *infer.Reply) error { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(DefaultConfig())
			g.opt.Refuse = refuse
			g.gate = Gate(DefaultConfig(), g.opt)
			defer func() {
				if p := recover(); p != http.ErrAbortHandler {
					t.Errorf("panicked with %v, want http.ErrAbortHandler", p)
				}
				if g.wire.body.Len() > 0 {
					t.Errorf("%q was sent", g.wire.body.String())
				}
			}()
			_ = g.serve(t.Context(), h)
		})
	}
}

// chunky is a client that reads chunks.
type chunky struct {
	fakeWire
	spliced string
}

func (w *chunky) Splices() bool { return w.status == 200 }
func (w *chunky) Splice(framed []byte, _ int) error {
	if w.broken != nil {
		return w.broken
	}
	w.spliced += string(framed)
	return nil
}

func TestChunksPassAsTheyAre(t *testing.T) {
	const framed = "5\r\nhello\r\n"
	tests := []struct {
		name   string
		wire   infer.Wire
		broken error
		want   bool
		sent   float64
		status float64
	}{
		{"to a client that reads them", &chunky{}, nil, true, 5, 200},
		{"to one that has left", &chunky{fakeWire: fakeWire{broken: io.ErrClosedPipe}}, io.ErrClosedPipe, true, 0, 499},
		{"not to another", &fakeWire{}, nil, false, 0, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(DefaultConfig())
			err := g.gate(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
				if w.Splices() {
					t.Error("chunks may pass before there is a header")
				}
				w.Commit(200)
				if got := w.Splices(); got != tt.want {
					t.Fatalf("chunks may pass: %v, want %v", got, tt.want)
				} else if !got {
					return nil
				}
				return w.Splice([]byte(framed), 5)
			})).Serve(t.Context(), &g.req, infer.NewReply(tt.wire))
			g.opt.Lines.Flush()
			if !errors.Is(err, tt.broken) {
				t.Errorf("got %v, want %v", err, tt.broken)
			}
			if line := g.line(t); line["bytes_out"] != tt.sent || line["status"] != tt.status {
				t.Errorf("logged status %v and %v bytes, want %v and %v", line["status"], line["bytes_out"], tt.status, tt.sent)
			}
			if c, ok := tt.wire.(*chunky); ok && tt.broken == nil && c.spliced != framed {
				t.Errorf("the client read %q, want %q", c.spliced, framed)
			}
		})
	}
}

// TestRequestsDoNotMeet holds that what requests share in turn is of one at a
// time.
func TestRequestsDoNotMeet(t *testing.T) {
	opt := options(io.Discard, linelog.Config{})
	opt.Refuse = refuse
	h := Gate(DefaultConfig(), opt)(infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
		if r.Method == "GET" {
			return &infer.Error{Status: 404, Code: "unknown_url"}
		}
		w.Served.Worker = r.ID
		w.Header().Set("x-request-id", "the worker's")
		return w.Send(200, "text/plain", []byte(r.ID))
	}))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 1000 {
				wire, r := &fakeWire{}, &infer.Request{Method: []string{"GET", "POST"}[i%2]}
				if err := h.Serve(t.Context(), r, infer.NewReply(wire)); err != nil {
					t.Error(err)
				}
				if got := string(wire.header.Get("x-request-id")); got != r.ID || r.Method == "POST" && wire.body.String() != r.ID {
					t.Errorf("%s: the client read id %q and %q, the request's is %q", r.Method, got, wire.body.String(), r.ID)
				}
			}
		})
	}
	wg.Wait()
}

// TestIDsStay holds that an id is the same as long as somebody has it.
func TestIDsStay(t *testing.T) {
	type pair struct{ id, same string }
	var kept []pair
	for i := range 3000 {
		want := fmt.Sprintf("id-%d", i)
		kept = append(kept, pair{keep([]byte(want)), want}, pair{newID("req-"), ""})
	}
	seen := map[string]bool{}
	for _, p := range kept {
		if p.same != "" && p.id != p.same || seen[p.id] || !isID([]byte(p.id)) {
			t.Fatalf("an id reads %q, want %q, once", p.id, p.same)
		}
		seen[p.id] = true
	}
}
