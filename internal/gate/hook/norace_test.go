//go:build !race

package hook

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// A sink is a wire that keeps nothing.
type sink struct {
	header infer.Header
	n      int
}

func (s *sink) Header() *infer.Header       { return &s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(b []byte) (int, error) { s.n += len(b); return len(b), nil }
func (s *sink) Flush() error                { return nil }

// pass sends r past the gate again and again.
type pass struct {
	r *infer.Request
	w *infer.Reply
	s sink
}

func (p *pass) once(h infer.Handler) error {
	p.s.header.Reset()
	p.w.Reset(&p.s)
	return h.Serve(context.Background(), p.r, p.w)
}

func newPass(query string) *pass {
	p := &pass{r: newRequest(query)}
	p.w = infer.NewReply(&p.s)
	return p
}

var answer = []byte(`{"choices":[{"message":{"content":"hi"}}]}`)

// long is an answer of usual length, whose digits are not among those that Go
// keeps ready.
func long(_ context.Context, _ *infer.Request, w *infer.Reply) error {
	w.Header().AddString("Content-Type", "application/json")
	w.Header().AddString("Content-Length", "12345")
	w.Commit(200)
	for range 100 {
		if _, err := w.Write(answer); err != nil {
			return err
		}
	}
	return nil
}

func answering(_ context.Context, _ *infer.Request, w *infer.Reply) error {
	w.Header().AddString("Content-Type", "application/json")
	w.Commit(200)
	_, err := w.Write(answer)
	return err
}

var event = []byte("data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n")

func streaming(n int) infer.HandlerFunc {
	return func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Header().AddString("Content-Type", "text/event-stream")
		w.Commit(200)
		for range n {
			if _, err := w.Write(event); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestRequestsDoNotAllocate holds that a request takes no memory, whether a
// module is for it or not.
func TestRequestsDoNotAllocate(t *testing.T) {
	contract := func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnRequest, wasm.OnResponse} }
	for _, tt := range []struct {
		name   string
		change func(*wasm.Spec)
		next   infer.HandlerFunc
	}{
		{"for nobody", func(s *wasm.Spec) { s.Paths, s.Models = []string{"/v1/chat/*"}, []string{"x", "y*"} }, answering},
		{"for another tenant", func(s *wasm.Spec) { s.Tenants = []string{"acme", "a*"} }, answering},
		{"disabled", func(s *wasm.Spec) { s.Disabled = true }, answering},
		{"request and response", contract, answering},
		{"a longer response", contract, long},
		{"a stream that nobody looks at", contract, streaming(16)},
		{"a stream", func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnRequest, wasm.OnChunk, wasm.OnError} }, streaming(16)},
	} {
		h := newHouse(t)
		h.add(t, "m", tt.change)
		g, p := h.gate(tt.next), newPass("chunk=replace")
		if n := testing.AllocsPerRun(200, func() {
			if err := p.once(g); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}

// TestWhatFollowsDoesNotAllocate is the same for what is done when the answer has
// ended.
func TestWhatFollowsDoesNotAllocate(t *testing.T) {
	l := newLetterbox(t, nil, nil)
	for _, promised := range []bool{false, true} {
		g, p := l.gate(infer.HandlerFunc(answering)), newPass("")
		p.r.Path += "/a"
		if n := testing.AllocsPerRun(200, func() {
			p.s.header.Reset()
			p.w.Reset(&p.s)
			if promised {
				p.w.Promise()
			}
			if err := g.Serve(context.Background(), p.r, p.w); err != nil {
				t.Fatal(err)
			}
			if p.w.Awaited() != promised {
				t.Fatalf("something is awaited: %t, want %t", !promised, promised)
			}
			p.w.End()
		}); n > 0 {
			t.Errorf("promised %t: %v allocations", promised, n)
		}
	}
	l.idle(t)
}

// spent is the processor time that the process has used: on a machine with other
// work, the clock on the wall tells of that.
func spent(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perCall runs f and reports the processor time of a call of it.
func perCall(b *testing.B, f func()) {
	b.ReportAllocs()
	begin := spent(b)
	f()
	b.ReportMetric(float64((spent(b)-begin).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func BenchmarkGate(b *testing.B) {
	for _, bb := range []struct {
		name   string
		change func(*wasm.Spec)
		next   infer.HandlerFunc
	}{
		{"no module", nil, answering},
		{"for nobody", func(s *wasm.Spec) { s.Paths = []string{"/v1/messages"} }, answering},
		{"request", func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnRequest} }, answering},
		{"request and response", func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnRequest, wasm.OnResponse} }, answering},
		{"100 events", func(s *wasm.Spec) { s.Attach = []wasm.Hook{wasm.OnChunk} }, streaming(100)},
	} {
		h := newHouse(b)
		if bb.name != "no module" {
			h.add(b, "m", bb.change)
		}
		g := h.gate(bb.next)
		for _, procs := range []int{1, 8} { // by GOMAXPROCS
			b.Run(fmt.Sprintf("%s/%d", bb.name, procs), func(b *testing.B) {
				b.SetParallelism(procs)
				perCall(b, func() {
					if procs == 1 {
						p := newPass("")
						for b.Loop() {
							if err := p.once(g); err != nil {
								b.Fatal(err)
							}
						}
						return
					}
					b.RunParallel(func(pb *testing.PB) {
						p := newPass("")
						for pb.Next() {
							if err := p.once(g); err != nil {
								b.Error(err)
								return
							}
						}
					})
				})
			})
		}
	}
}
