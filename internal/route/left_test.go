package route

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/policy"
)

// reading is a policy that looks into prompts.
type reading struct{ policy.Policy }

func (reading) NeedsText() bool { return true }

// TestWhenBodiesNeedNotBeRead holds that they need not only if every request,
// whatever it names, goes the same way as it is.
func TestWhenBodiesNeedNotBeRead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		models  []string // of the workers; the first may be "", which takes any
		aliases map[string]string
		reads   bool // the policy
		want    bool
	}{
		{"nobody is there", nil, nil, false, false},
		{"one model", []string{"m", "m"}, nil, false, true},
		{"one model, of which the prompt matters", []string{"m"}, nil, true, false},
		{"two models", []string{"m", "n"}, nil, false, false},
		{"a worker that takes any", []string{""}, nil, false, true},
		{"a worker that takes any, and the prompt matters", []string{""}, nil, true, false},
		{"one model, and a worker that takes any", []string{"", "m"}, nil, false, false},
		{"an alias", []string{"m"}, map[string]string{"a": "m"}, false, false},
		{"an alias of what nobody has", []string{"m"}, map[string]string{"a": "x"}, false, true},
		{"an alias, and a worker that takes any", []string{""}, map[string]string{"a": "x"}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ps := policies("round_robin")
			if tt.reads {
				ps.New = func(name string) (policy.Policy, error) {
					p, err := policy.New(name, policy.DefaultSettings())
					return reading{p}, err
				}
			}
			rt := New(Options{Config: DefaultConfig(), Aliases: tt.aliases, Policies: ps, Backends: one(nobody)})
			reg := registry(t, breaker.DefaultConfig())
			for i, m := range tt.models {
				if m == "" {
					reg = nameless(t)
				} else {
					add(t, reg, i, m)
				}
			}
			reg.Watch(rt.Publish)
			for end := time.Now().Add(10 * time.Second); len(rt.Table().snap.All) < len(tt.models); {
				if time.Now().After(end) {
					t.Fatal("the workers do not come")
				}
				<-time.After(time.Millisecond)
			}
			if got := rt.Blind(); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if got := rt.TakesText(); got != tt.reads {
				t.Errorf("texts are looked at: %v, want %v", got, tt.reads)
			}
		})
	}
}

// askLeft asks with a body that was left with its client.
func askLeft(rt *Router) (*wire, *infer.Reply, error) {
	wi := new(wire)
	w := infer.NewReply(wi)
	r := &infer.Request{Endpoint: infer.Chat, Received: time.Now()}
	r.SetBody(infer.NewBody(strings.NewReader(`{"model":"whatever"}`), -1))
	r.LeaveBody(100)
	return wi, w, rt.Serve(context.Background(), r, w)
}

// TestBodiesThatWereLeftAreSentOnce holds that another worker is asked until one
// has begun to take the body, and none after that; and that a worker is not
// blamed for its client.
func TestBodiesThatWereLeftAreSentOnce(t *testing.T) {
	for _, tt := range []struct {
		name     string
		takes    bool
		err      error
		code     string
		tries    int
		failures bool
	}{
		{"nobody can be reached", false, broken, "call_upstream_connection_failed", 2, true},
		{"it breaks", true, broken, "call_upstream_connection_failed", 1, true},
		{"it is too busy", true, &infer.Error{Status: 503, Code: "busy", Retry: true, Answer: &infer.Answer{Status: 503}}, "busy", 1, true},
		{"the client's body is torn", true, infer.Unreadable(io.ErrUnexpectedEOF), "request_body_unreadable", 1, false},
		{"the client's body is too large", true, infer.TooLarge, "request_body_too_large", 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Initial, cfg.Max = time.Millisecond, time.Millisecond
			reg := registry(t, breaker.DefaultConfig(), "m", "m")
			rt := New(Options{Config: cfg, Policies: policies("round_robin"), Backends: one(func(_ context.Context, r *infer.Request, _ *infer.Reply, _ fleet.Team) error {
				if tt.takes {
					if err := r.PassBody(io.Discard); err != nil {
						t.Error(err)
					}
				}
				return tt.err
			})})
			reg.Watch(rt.Publish)
			_, w, err := askLeft(rt)
			if code(err) != tt.code || w.Served.Tries != tt.tries {
				t.Errorf("got %v after %d tries, want %s after %d", err, w.Served.Tries, tt.code, tt.tries)
			}
			failed := false
			for _, one := range reg.Snapshot().All {
				failed = failed || one.Breaker().Failures() > 0
			}
			if failed != tt.failures {
				t.Errorf("a worker is blamed: %v, want %v", failed, tt.failures)
			}
		})
	}
}

// TestTheFleetChangesBeneathABody holds that a body which nobody has looked into
// goes to no worker when that has become necessary.
func TestTheFleetChangesBeneathABody(t *testing.T) {
	rt := router(t, DefaultConfig(), registry(t, breaker.DefaultConfig(), "m", "n"), backendFunc(func(context.Context, *infer.Request, *infer.Reply, fleet.Team) error {
		t.Error("a worker was asked")
		return nil
	}))
	_, _, err := askLeft(rt)
	if e := infer.AsError(err); e.Status != 503 || e.RetryAfter == 0 {
		t.Errorf("got %v", err)
	}
}
