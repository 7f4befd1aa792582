package route

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
	"sluice/internal/policy"
)

// backendFunc lets a function be a Backend.
type backendFunc func(ctx context.Context, r *infer.Request, w *infer.Reply, t fleet.Team) error

func (f backendFunc) Serve(ctx context.Context, r *infer.Request, w *infer.Reply, t fleet.Team) error {
	return f(ctx, r, w, t)
}

// wire keeps what a client would get.
type wire struct {
	header infer.Header
	status int
	body   strings.Builder
}

func (w *wire) Header() *infer.Header       { return &w.header }
func (w *wire) WriteHeader(status int)      { w.status = status }
func (w *wire) Write(b []byte) (int, error) { return w.body.Write(b) }
func (w *wire) Flush() error                { return nil }

// registry returns a fleet of ready workers: one for each model named; "" is a
// worker that names none.
func registry(t testing.TB, br breaker.Config, models ...string) *fleet.Registry {
	t.Helper()
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	reg := fleet.New(fleet.DefaultConfig(), health, br, fleet.Options{})
	for i, m := range models {
		spec := fleet.Spec{URL: fmt.Sprintf("http://10.0.%d.%d:8000", i/250, 1+i%250)}
		if m != "" {
			spec.Models = []fleet.ModelCard{{ID: m}}
		}
		if _, err := reg.Add(spec); err != nil {
			t.Fatal(err)
		}
	}
	return reg
}

// policies makes the built-in ones, of one name where nothing else is said.
func policies(name string) Policies {
	return Policies{Name: name, New: func(name string) (policy.Policy, error) { return policy.New(name, policy.DefaultSettings()) }}
}

// one returns a backend for workers that serve requests from end to end.
func one(f backendFunc) Backends { return Backends{HTTPRegular: f} }

// nobody is a backend that is not asked.
func nobody(context.Context, *infer.Request, *infer.Reply, fleet.Team) error {
	panic("a worker was asked")
}

func router(t testing.TB, cfg Config, reg *fleet.Registry, b Backend) *Router {
	t.Helper()
	rt := New(Options{
		Config: cfg, Backends: Backends{HTTPRegular: b}, Policies: policies("round_robin"), Aliases: map[string]string{"gpt": "m"},
		BackPressure: func(err error) bool { return strings.Contains(err.Error(), "queue full") },
	})
	reg.Watch(rt.Publish)
	return rt
}

func ask(rt *Router, model string) (*wire, *infer.Reply, error) {
	wi := new(wire)
	w := infer.NewReply(wi)
	r := &infer.Request{Endpoint: infer.Chat, Model: model, Body: []byte(`{"model":"` + model + `"}`), ModelAt: 9, ModelEnd: 11 + len(model), Received: time.Now()}
	return wi, w, rt.Serve(context.Background(), r, w)
}

var broken = &infer.Error{Status: 502, Code: "call_upstream_connection_failed", Msg: "gone", Retry: true}

func code(err error) string {
	if err == nil {
		return ""
	}
	return infer.AsError(err).Code
}

func TestWhoIsAskedForWhichModel(t *testing.T) {
	answer := backendFunc(func(_ context.Context, r *infer.Request, w *infer.Reply, _ fleet.Team) error {
		_, err := w.Write(r.Body)
		return err
	})
	tests := []struct {
		name   string
		models []string // of the workers
		ask    string
		want   string // the body as the worker saw it
		code   string
	}{
		{"the model's worker", []string{"m", "n"}, "n", `{"model":"n"}`, ""},
		{"an alias becomes the model's name", []string{"m"}, "gpt", `{"model":"m"}`, ""},
		{"a worker's own name goes before an alias", []string{"m", "gpt"}, "gpt", `{"model":"gpt"}`, ""},
		{"an unknown model", []string{"m"}, "x", "", "model_not_found"},
		{"no workers", nil, "m", "", "no_workers"},
		{"no model named, one served", []string{"m", "m"}, "", `{"model":""}`, ""},
		{"no model named, two served", []string{"m", "n"}, "", "", "missing_model"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rt := router(t, DefaultConfig(), registry(t, breaker.DefaultConfig(), tt.models...), answer)
			got, _, err := ask(rt, tt.ask)
			if code(err) != tt.code || got.body.String() != tt.want {
				t.Errorf("got %q, %v; want %q, code %q", got.body.String(), err, tt.want, tt.code)
			}
		})
	}
}

func TestAWorkerIsAskedOnceForARequest(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, n := range []int{1, 3, 8} {
			asked := make(map[string]int)
			b := backendFunc(func(_ context.Context, _ *infer.Request, _ *infer.Reply, team fleet.Team) error {
				asked[team.Lead.Base()]++
				return broken
			})
			models := make([]string, n)
			for i := range models {
				models[i] = "m"
			}
			rt := router(t, DefaultConfig(), registry(t, breaker.DefaultConfig(), models...), b)
			_, w, err := ask(rt, "m")
			if !errors.Is(err, broken) {
				t.Errorf("of %d workers the last one's word was %v", n, err)
			}
			if want := min(n, 5); len(asked) != want || w.Served.Tries != want {
				t.Errorf("of %d workers %d were asked in %d tries, want %d", n, len(asked), w.Served.Tries, want)
			}
			for base, times := range asked {
				if times != 1 {
					t.Errorf("%s was asked %d times", base, times)
				}
			}
		}
	})
}

func TestWhenThereIsNoSecondTry(t *testing.T) {
	tests := []struct {
		name string
		cfg  func(*Config)
		do   func(w *infer.Reply) error
		want int // attempts
	}{
		{"retries disabled", func(c *Config) { c.Disabled = true }, func(*infer.Reply) error { return broken }, 1},
		{"an error that no other worker would better", nil, func(*infer.Reply) error {
			return &infer.Error{Status: 400, Code: "bad"}
		}, 1},
		{"the answer has begun", nil, func(w *infer.Reply) error {
			_, _ = w.Write([]byte("data: "))
			return broken
		}, 1},
		{"two attempts allowed", func(c *Config) { c.MaxRetries = 2 }, func(*infer.Reply) error { return broken }, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				cfg := DefaultConfig()
				if tt.cfg != nil {
					tt.cfg(&cfg)
				}
				n := 0
				b := backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
					n++
					return tt.do(w)
				})
				rt := router(t, cfg, registry(t, breaker.DefaultConfig(), "m", "m", "m"), b)
				if _, _, err := ask(rt, "m"); err == nil || n != tt.want {
					t.Errorf("%d attempts and error %v, want %d attempts and an error", n, err, tt.want)
				}
			})
		})
	}
}

func TestWhatTripsABreaker(t *testing.T) {
	answer := func(status int) error {
		return &infer.Error{Status: status, Code: "call_upstream_status_error", Retry: true, Answer: &infer.Answer{Status: status}}
	}
	full := answer(503)
	full.(*infer.Error).Err = errors.New("queue full")
	tests := []struct {
		name string
		err  error
		open bool
	}{
		{"500s do", answer(500), true},
		{"a worker that cannot be reached does", broken, true},
		{"a time out does", &infer.Error{Status: 504, Code: "call_upstream_timeout"}, true},
		{"want of descriptors does not", &infer.Error{Status: 502, Code: "call_upstream_connection_failed", Err: os.NewSyscallError("socket", syscall.EMFILE)}, false},
		{"429 does not", answer(429), false},
		{"a full queue does not", full, false},
		{"a client that leaves does not", &infer.Error{Status: infer.StatusClientGone, Code: "client_closed_request"}, false},
		{"a bad request does not", answer(408), false},
		{"a call that the worker does not have does not", &infer.Error{Status: 501, Code: "call_upstream_status_error", Answer: &infer.Answer{Status: 501}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				br := breaker.DefaultConfig()
				br.Failures = 3
				reg := registry(t, br, "m")
				rt := router(t, DefaultConfig(), reg, backendFunc(func(context.Context, *infer.Request, *infer.Reply, fleet.Team) error { return tt.err }))
				w := reg.Snapshot().All[0]
				for range 3 {
					_, _, _ = ask(rt, "m")
				}
				if open := w.Breaker().State() == breaker.Open; open != tt.open {
					t.Errorf("after three such the breaker is open: %v, want %v", open, tt.open)
				}
				if n := w.InFlight(); n != 0 {
					t.Errorf("%d requests are still counted, want 0", n)
				}
			})
		})
	}
}

func TestALongStreamsTimeIsUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.Timeout = time.Second
		reg := registry(t, breaker.Config{Failures: 1, Successes: 1, Rest: time.Hour}, "m")
		rt := router(t, cfg, reg, backendFunc(func(ctx context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
			_, _ = w.Write([]byte("data: 1\n\n"))
			<-ctx.Done()
			return &infer.Error{Status: 504, Code: "call_upstream_timeout"}
		}))
		if _, _, err := ask(rt, "m"); code(err) != "call_upstream_timeout" {
			t.Errorf("got %v, want call_upstream_timeout", err)
		}
		if s := reg.Snapshot().All[0].Breaker().State(); s != breaker.Closed {
			t.Errorf("the breaker of a worker that was still answering is %s", s)
		}
	})
}

// A restart breaks all streams of a worker at once. It must take requests again
// when it is back, not when the breaker's rest is over.
func TestConnectionsThatBreakTogetherAreOneFailure(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		open bool
	}{
		"connections": {broken, false},
		"answers":     {&infer.Error{Status: 500, Code: "call_upstream_status_error", Answer: &infer.Answer{Status: 500}, Retry: true}, true},
		"time outs":   {&infer.Error{Status: 504, Code: "call_upstream_timeout"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				br := breaker.DefaultConfig()
				br.Failures = 3
				reg := registry(t, br, "m")
				moment := make(chan struct{})
				rt := router(t, DefaultConfig(), reg, backendFunc(func(context.Context, *infer.Request, *infer.Reply, fleet.Team) error {
					<-moment
					return tt.err
				}))
				w := reg.Snapshot().All[0]
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() { _, _, _ = ask(rt, "m") })
				}
				synctest.Wait()
				for range 20 { // one after the other, but all began before the first broke
					moment <- struct{}{}
					synctest.Wait()
				}
				wg.Wait()
				if open := w.Breaker().State() == breaker.Open; open != tt.open {
					t.Errorf("the breaker is open: %v, want %v", open, tt.open)
				}
			})
		})
	}
}

// Streams last for minutes: a worker that is back is used again when they have
// begun, not when they end.
func TestStreamsThatBeginBringAWorkerBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		reg := registry(t, breaker.Config{Failures: 1, Successes: 3, Rest: time.Second}, "m")
		var begun, refused atomic.Int64
		rest := make(chan error)
		rt := router(t, DefaultConfig(), reg, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
			_, _ = w.Write([]byte("data: 1\n\n"))
			begun.Add(1)
			return <-rest
		}))
		w := reg.Snapshot().All[0]
		lease, _ := w.Acquire(time.Now())
		lease.Release(time.Now(), breaker.Failure)
		time.Sleep(time.Second)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				_, _, err := ask(rt, "m")
				if code(err) == "no_available_workers" {
					refused.Add(1)
				}
			})
			synctest.Wait()
		}
		if begun.Load() != 20 || refused.Load() != 0 || w.Breaker().State() != breaker.Closed {
			t.Errorf("%d streams run, %d were refused, the breaker is %v; want 20, 0, closed", begun.Load(), refused.Load(), w.Breaker().State())
		}
		for range 20 {
			rest <- nil
		}
		wg.Wait()
		if success, failure, _ := w.Outcomes(); success != 20 || failure != 1 || w.InFlight() != 0 {
			t.Errorf("%d successes, %d failures, %d in flight; want 20, 1, 0", success, failure, w.InFlight())
		}
	})
}

func TestAWorkerThatRefusesIsNoTry(t *testing.T) {
	reg := registry(t, breaker.Config{Failures: 1, Successes: 1, Rest: time.Hour}, "m", "m")
	var asked atomic.Int64
	rt := router(t, DefaultConfig(), reg, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
		asked.Add(1)
		_, err := w.Write([]byte("ok"))
		return err
	}))
	w := reg.Snapshot().All[0]
	lease, _ := w.Acquire(time.Now())
	lease.Release(time.Now(), breaker.Failure) // its breaker opens; the table does not know yet
	for range 4 {
		if _, reply, err := ask(rt, "m"); err != nil || reply.Served.Tries != 1 {
			t.Fatalf("got %v after %d tries, want an answer at the first", err, reply.Served.Tries)
		}
	}
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	c := Config{Initial: 50 * time.Millisecond, Max: 200 * time.Millisecond, Multiplier: 2, Jitter: 0.2}
	f := func(n int, chance float64, want time.Duration) {
		t.Helper()
		if got := c.backoff(n, chance); got != want {
			t.Errorf("backoff(%d, %v) = %s, want %s", n, chance, got, want)
		}
	}
	f(1, 0.5, 50*time.Millisecond)
	f(2, 0.5, 100*time.Millisecond)
	f(3, 0.5, 200*time.Millisecond)
	f(1000000, 0.5, 200*time.Millisecond)
	f(1, 0, 40*time.Millisecond)
	f(1, 1, 60*time.Millisecond)
}

func TestAClientThatLeavesBetweenTries(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		rt := router(t, DefaultConfig(), registry(t, breaker.DefaultConfig(), "m", "m"), backendFunc(func(context.Context, *infer.Request, *infer.Reply, fleet.Team) error {
			time.AfterFunc(10*time.Millisecond, cancel)
			return broken
		}))
		begin := time.Now()
		err := rt.Serve(ctx, &infer.Request{Endpoint: infer.Chat, Model: "m"}, infer.NewReply(new(wire)))
		if infer.AsError(err).Status != infer.StatusClientGone || time.Since(begin) > 11*time.Millisecond {
			t.Errorf("got %v after %s, want the client's leaving, at once", err, time.Since(begin))
		}
		synctest.Wait()
	})
}

func TestNoReadyWorkerIsNoUnknownModel(t *testing.T) {
	reg := registry(t, breaker.Config{Failures: 1, Successes: 1, Rest: time.Hour}, "m")
	rt := New(Options{Config: DefaultConfig(), Policies: policies("random"), Backends: one(nobody)})
	rt.Publish(&fleet.Snapshot{All: reg.Snapshot().All}) // known, none ready
	_, _, err := ask(rt, "m")
	if e := infer.AsError(err); e.Status != http.StatusServiceUnavailable || e.RetryAfter == 0 {
		t.Errorf("got %v, want 503 with Retry-After", err)
	}
	_, _, err = ask(rt, "x")
	if code(err) != "model_not_found" {
		t.Errorf("got %v, want model_not_found", err)
	}
}

// BenchmarkDecide is a request's way to its worker: the lookup of the table and
// of its model's route, and the pick. The workers of those that are told have
// reported how they are.
func BenchmarkDecide(b *testing.B) {
	for _, name := range policy.Names() {
		for _, n := range []int{1, 64, 4096} {
			models := make([]string, n)
			for i := range models {
				models[i] = "m"
			}
			reg := registry(b, breaker.DefaultConfig(), models...)
			rt := New(Options{Config: DefaultConfig(), Policies: policies(name), Backends: one(nobody)})
			reg.Watch(rt.Publish)
			now := time.Now()
			decide := func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					r, c := &infer.Request{Model: "m", Received: now}, new(policy.Choice)
					for pb.Next() {
						route, _ := rt.table.Load().Find(r)
						if route.draw(r).lead.next(r, nil, now, c) == nil {
							b.Fail()
						}
					}
				})
			}
			b.Run(fmt.Sprintf("%s/%d", name, n), decide)
			if name != "least_load" && name != "power_of_two" {
				continue
			}
			for i, w := range reg.Snapshot().All {
				w.Report(&fleet.Load{At: now, Running: 1 + i%7, Waiting: i % 5, TokenUsage: float64(i%10) / 10, Throughput: float64(1000 + i%50)})
			}
			b.Run(fmt.Sprintf("%s/%d/told", name, n), decide)
		}
	}
}

func TestLookupAndPickAllocateNothing(t *testing.T) {
	rt := router(t, DefaultConfig(), registry(t, breaker.DefaultConfig(), "m", "m"), backendFunc(nobody))
	r, c := &infer.Request{Model: "m"}, new(policy.Choice)
	if got := testing.AllocsPerRun(1000, func() {
		route, _ := rt.table.Load().Find(r)
		route.draw(r).lead.next(r, nil, time.Time{}, c)
	}); got != 0 {
		t.Errorf("a decision allocates %v times, want 0", got)
	}
}
