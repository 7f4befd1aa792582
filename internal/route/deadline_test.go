package route

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
)

type keyOf string

// TestADeadlineIsLikeAnyContext holds that nobody can tell it from what
// context.WithDeadline returns, whether or not Done was asked for before. In a
// script "+1s" lets time go by, "leave" and "stop" end the parent, and "look"
// asks for Err. The deadline is after a second.
func TestADeadlineIsLikeAnyContext(t *testing.T) {
	whyLeft := errors.New("the client left")
	tests := []struct {
		name   string
		script string
		err    error
		cause  error
		code   string // of infer.Ended
	}{
		{"nothing has happened", "", nil, nil, ""},
		{"just before its time", "+999999999ns look", nil, nil, ""},
		{"its time is up", "+1s", context.DeadlineExceeded, context.DeadlineExceeded, "call_upstream_timeout"},
		{"the client leaves", "leave", context.Canceled, whyLeft, "client_closed_request"},
		{"the gateway stops", "stop", context.Canceled, infer.Stopping, "gateway_stopping"},
		{"the client leaves, then its time is up", "leave +2s", context.Canceled, whyLeft, "client_closed_request"},
		{"its time is up, seen, then the client leaves", "+1s look leave", context.DeadlineExceeded, context.DeadlineExceeded, "call_upstream_timeout"},
	}
	forms := []struct {
		name string
		make func(parent context.Context, at time.Time) (context.Context, func())
	}{
		{"of package context", func(p context.Context, at time.Time) (context.Context, func()) {
			ctx, cancel := context.WithDeadline(p, at)
			return ctx, cancel
		}},
		{"ours", func(p context.Context, at time.Time) (context.Context, func()) {
			d := begin(p, time.Now(), time.Until(at))
			return d, d.end
		}},
		{"ours, asked for Done", func(p context.Context, at time.Time) (context.Context, func()) {
			d := begin(p, time.Now(), time.Until(at))
			d.Done()
			return d, d.end
		}},
		{"derived from ours", func(p context.Context, at time.Time) (context.Context, func()) {
			d := begin(p, time.Now(), time.Until(at))
			ctx, cancel := context.WithCancel(d)
			return ctx, func() { cancel(); d.end() }
		}},
		{"ours, with a value", func(p context.Context, at time.Time) (context.Context, func()) {
			d := begin(p, time.Now(), time.Until(at))
			return context.WithValue(d, keyOf("other"), 1), d.end
		}},
	}
	for _, form := range forms {
		for _, tt := range tests {
			t.Run(form.name+"/"+tt.name, func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					parent, leave := context.WithCancelCause(context.WithValue(t.Context(), keyOf("id"), "r1"))
					defer leave(nil)
					at := time.Now().Add(time.Second)
					ctx, end := form.make(parent, at)
					defer end()
					for step := range strings.FieldsSeq(tt.script) {
						switch step {
						case "leave":
							leave(whyLeft)
						case "stop":
							leave(infer.Stopping)
						case "look":
							_ = ctx.Err()
						default:
							d, err := time.ParseDuration(step)
							if err != nil {
								t.Fatal(err)
							}
							time.Sleep(d)
						}
						synctest.Wait()
					}
					if got, ok := ctx.Deadline(); !ok || !got.Equal(at) {
						t.Errorf("Deadline() = %v, %v; want %v", got, ok, at)
					}
					if got := ctx.Value(keyOf("id")); got != "r1" {
						t.Errorf("Value() = %v, want what the parent has", got)
					}
					for _, asked := range []string{"before", "after"} {
						if err := ctx.Err(); !errors.Is(err, tt.err) {
							t.Errorf("%s Done was asked for: Err() = %v, want %v", asked, err, tt.err)
						}
						if err := context.Cause(ctx); !errors.Is(err, tt.cause) {
							t.Errorf("%s Done was asked for: the cause is %v, want %v", asked, err, tt.cause)
						}
						if e := infer.Ended(ctx, nil); (e == nil) != (tt.code == "") || e != nil && e.Code != tt.code {
							t.Errorf("%s Done was asked for: a client is told %v, want %q", asked, e, tt.code)
						}
						select {
						case <-ctx.Done():
							if tt.err == nil {
								t.Error("Done is closed, and nothing has happened")
							}
						default:
							if tt.err != nil {
								t.Error("Done is not closed")
							}
						}
					}
				})
			})
		}
	}
}

func TestTheSoonerDeadlineHolds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		soon := time.Now().Add(time.Second)
		parent, cancel := context.WithDeadline(t.Context(), soon)
		defer cancel()
		d := begin(parent, soon, time.Second)
		defer d.end()
		if at, _ := d.Deadline(); !at.Equal(soon) {
			t.Errorf("Deadline() = %v, want the parent's, %v", at, soon)
		}
	})
}

// Whoever waits is woken, and whoever keeps a context it has waited on sees
// that the request has ended.
func TestManyWaitForOneDeadline(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for range 20 {
			d := begin(t.Context(), time.Now(), time.Second)
			begin := time.Now()
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					<-d.Done()
					if err := d.Err(); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
						t.Errorf("woken with %v after %s, want the deadline after 1s", err, time.Since(begin))
					}
				})
				wg.Go(func() {
					_, _ = d.Err(), d.Value(keyOf("id"))
					_ = context.Cause(d)
				})
			}
			wg.Wait()
			d.end()
		}
		d := begin(t.Context(), time.Now(), time.Hour)
		done := d.Done()
		d.end()
		other := begin(t.Context(), time.Now(), time.Hour)
		defer other.end()
		<-done
		if err := d.Err(); !errors.Is(err, context.Canceled) || other.Err() != nil {
			t.Errorf("after its end a context that was waited on says %v, want that it was canceled; the next request's says %v", err, other.Err())
		}
	})
}

// TestTheTimeOfARequestBeginsWhenItComes holds that what a request has waited for
// before it is routed, modules or a queue, is of the time that it may take; if all
// of that is gone, no worker is asked.
func TestTheTimeOfARequestBeginsWhenItComes(t *testing.T) {
	for _, tt := range []struct {
		waited, left time.Duration // left is 0 for a request that is not sent
	}{{0, time.Second}, {900 * time.Millisecond, 100 * time.Millisecond}, {time.Second, 0}, {time.Minute, 0}} {
		bubble.Test(t, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Timeout = time.Second
			reg := registry(t, breaker.DefaultConfig(), "m")
			attempts := 0
			rt := router(t, cfg, reg, backendFunc(func(ctx context.Context, _ *infer.Request, _ *infer.Reply, _ fleet.Team) error {
				attempts++
				<-ctx.Done()
				return infer.Ended(ctx, nil)
			}))
			r := &infer.Request{Endpoint: infer.Chat, Model: "m", Received: time.Now()}
			time.Sleep(tt.waited)
			begun := time.Now()
			err := rt.Serve(t.Context(), r, infer.NewReply(&nowhere{}))
			if e := infer.AsError(err); e.Status != 504 || e.Code != "call_upstream_timeout" {
				t.Errorf("after %v: got %v, want call_upstream_timeout", tt.waited, err)
			}
			if took := time.Since(begun); took != tt.left || (attempts > 0) != (tt.left > 0) {
				t.Errorf("after %v: %d attempts, for %v, want %v", tt.waited, attempts, took, tt.left)
			}
		})
	}
}
