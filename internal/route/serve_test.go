package route

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
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

// TestNumbersThatCannotBe holds that a worker that counts more tokens than any
// answer has spoils neither sums nor receipts; what else it says counts.
func TestNumbersThatCannotBe(t *testing.T) {
	set, m := metric.NewRegistry(nil), new(Metrics)
	metric.Fill(set, m)
	says := infer.Tokens{}
	rt := New(Options{
		Config: DefaultConfig(), Policies: policies("cost"), Metrics: m, Receipts: 16,
		Backends: one(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
			w.Served.Tokens = says
			_, err := w.Write([]byte("{}"))
			return err
		}),
	})
	registry(t, breaker.DefaultConfig(), "m").Watch(rt.Publish)
	c := &caller{ctx: t.Context(), rt: rt, body: []byte(`{"model":"m"}`)}
	for _, says = range []infer.Tokens{{Input: 10, Cached: 3, Output: 7}, {Input: 1e15, Cached: 4, Output: 1e15}, {Input: 10, Cached: 1e15, Output: -5}} {
		if err := c.call(false); err != nil {
			t.Fatal(err)
		}
	}
	got := httptest.NewRecorder()
	set.Handler().ServeHTTP(got, httptest.NewRequest("GET", "/metrics", nil))
	for kind, want := range map[string]string{"input": "20", "cached": "7", "output": "7"} {
		has := ""
		for line := range strings.Lines(got.Body.String()) {
			if strings.HasPrefix(line, "smg_router_tokens_total") && strings.Contains(line, `"`+kind+`"`) {
				_, has, _ = strings.Cut(strings.TrimSpace(line), "} ")
			}
		}
		if has != want {
			t.Errorf("%s tokens: %s, want %s", kind, has, want)
		}
	}
	for _, r := range rt.Recent(16, func(*Receipt) bool { return true }) {
		if r.Tokens > 10 || r.Cached > 4 || r.Outputs > 7 || r.Outputs < 0 {
			t.Errorf("a receipt of %d, %d and %d tokens", r.Tokens, r.Cached, r.Outputs)
		}
	}
}
