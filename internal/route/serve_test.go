package route

import (
	"context"
	"fmt"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/metric"
)

// nowhere is a client that takes everything.
type nowhere struct{ header infer.Header }

func (w *nowhere) Header() *infer.Header       { return &w.header }
func (w *nowhere) WriteHeader(int)             {}
func (w *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (w *nowhere) Flush() error                { return nil }

// counted returns a Router before n workers of one model, with metrics, whose
// backend answers at once.
func counted(t testing.TB, n int) *Router {
	t.Helper()
	m := new(Metrics)
	metric.Fill(metric.NewRegistry(nil), m)
	models := make([]string, n)
	for i := range models {
		models[i] = "m"
	}
	rt := New(Options{
		Config: DefaultConfig(), Policies: policies("round_robin"), Metrics: m, Receipts: 4096,
		Backends: one(func(ctx context.Context, r *infer.Request, w *infer.Reply, _ fleet.Team) error {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("the backend does not know until when it may take")
			}
			w.Served.FirstByte = time.Since(r.Received)
			w.Served.Tokens = infer.Tokens{Input: 10, Output: 20}
			_, err := w.Write(r.Body)
			return err
		}),
	})
	registry(t, breaker.DefaultConfig(), models...).Watch(rt.Publish)
	return rt
}

// A caller sends one request after the other, as a front end does for a
// connection.
type caller struct {
	ctx  context.Context
	rt   *Router
	r    infer.Request
	w    infer.Reply
	wire nowhere
	body []byte
}

func (c *caller) call(stream bool) error {
	c.r.Reset()
	c.r.Endpoint, c.r.Model, c.r.Body, c.r.Stream = infer.Chat, "m", c.body, stream
	c.r.Received = time.Now()
	c.w.Reset(&c.wire)
	return c.rt.Serve(c.ctx, &c.r, &c.w)
}

func TestServingAllocatesNothing(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	for _, stream := range []bool{false, true} {
		rt := counted(t, 64)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := &caller{ctx: ctx, rt: rt, body: []byte(`{"model":"m"}`)}
		serve := func() {
			if err := c.call(stream); err != nil {
				t.Fatal(err)
			}
		}
		for range 64 { // every worker's first request binds its metrics
			serve()
		}
		if got := testing.AllocsPerRun(1000, serve); got != 0 {
			t.Errorf("a request (stream: %v) allocates %v times, want 0", stream, got)
		}
	}
}

// BenchmarkRouterServe is all of a request but the front end and the backend.
func BenchmarkRouterServe(b *testing.B) {
	for _, n := range []int{1, 64, 4096} {
		rt := counted(b, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				c := &caller{ctx: ctx, rt: rt, body: []byte(`{"model":"m"}`)}
				for pb.Next() {
					if err := c.call(true); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
