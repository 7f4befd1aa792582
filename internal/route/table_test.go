package route

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
	"sluice/internal/kit/metric"
)

// fleetOf returns a fleet of ready workers. Each is written as its models, and
// behind each its aliases: "m=a,b n"; "*" is a worker that names none.
func fleetOf(t testing.TB, workers ...string) *fleet.Registry {
	t.Helper()
	reg := registry(t, breaker.DefaultConfig())
	for i, text := range workers {
		add(t, reg, i, text)
	}
	return reg
}

func add(t testing.TB, reg *fleet.Registry, i int, text string) fleet.ID {
	t.Helper()
	spec := fleet.Spec{URL: fmt.Sprintf("http://10.1.0.%d:8000", i+1)}
	for m := range strings.FieldsSeq(text) {
		id, aliases, has := strings.Cut(m, "=")
		card := fleet.ModelCard{ID: id}
		if has {
			card.Aliases = strings.Split(aliases, ",")
		}
		spec.Models = append(spec.Models, card)
	}
	id, err := reg.Add(spec)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestNamesOfModels(t *testing.T) {
	tests := []struct {
		name    string
		workers []string
		ask     string // "" names no model
		body    string // the model as the worker is asked for it
		serve   int    // workers that may be asked
		code    string
		listed  string
	}{
		{"a worker's alias becomes the model's name", []string{"m1=a"}, "a", "m1", 1, "", "a m1"},
		{"an alias that two workers have of one model", []string{"m1=a", "m1=a"}, "a", "m1", 2, "", "a m1"},
		{"an alias of two models is asked for as it is", []string{"m1=a", "m2=a"}, "a", "a", 2, "", "a m1 m2"},
		{"an alias that is another worker's model", []string{"m1=a", "a"}, "a", "a", 2, "", "a m1"},
		{"a model is asked for by its workers only", []string{"m1=a", "a"}, "m1", "m1", 1, "", "a m1"},
		{"no model named: aliases make no second model", []string{"m1=a"}, "", "", 1, "", "a m1"},
		{"the gateway's alias is listed", []string{"m"}, "gpt", "m", 1, "", "gpt m"},
		{"and is not, if its model is not served", []string{"x"}, "gpt", "", 0, "model_not_found", "x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rt := router(t, DefaultConfig(), fleetOf(t, tt.workers...), backendFunc(func(_ context.Context, r *infer.Request, w *infer.Reply, _ fleet.Team) error {
				_, err := w.Write(r.Body)
				return err
			}))
			got, _, err := ask(rt, tt.ask)
			want := ""
			if tt.code == "" {
				want = `{"model":"` + tt.body + `"}`
			}
			if code(err) != tt.code || got.body.String() != want {
				t.Errorf("the worker got %s, %v; want %s, code %q", got.body.String(), err, want, tt.code)
			}
			if listed := strings.Join(rt.Table().Models(), " "); listed != tt.listed {
				t.Errorf("listed are %q, want %q", listed, tt.listed)
			}
			if own := rt.Table().Own(tt.ask); tt.ask != "" && tt.code == "" && own != tt.body {
				t.Errorf("its own name is %q, want %q", own, tt.body)
			}
			if own := rt.Table().Own("nobody's"); own != "nobody's" {
				t.Errorf("a name that nobody knows becomes %q", own)
			}
			if route, err := rt.Table().Find(&infer.Request{Model: tt.ask}); err == nil && len(route.draw(new(infer.Request)).lead.workers) != tt.serve {
				t.Errorf("%d workers serve it, want %d", len(route.draw(new(infer.Request)).lead.workers), tt.serve)
			}
		})
	}
}

// TestAnAliasThatDoesNothing is told when a worker's own model begins to have its
// name, and not at each change of the fleet.
func TestAnAliasThatDoesNothing(t *testing.T) {
	var out bytes.Buffer
	reg := fleetOf(t, "m")
	rt := New(Options{Config: DefaultConfig(), Policies: policies("round_robin"), Aliases: map[string]string{"gpt": "m"}, Log: slog.New(slog.NewTextHandler(&out, nil)), Backends: one(nobody)})
	reg.Watch(rt.Publish)
	want := func(when string, lines int, own string) {
		t.Helper()
		if n := strings.Count(out.String(), "a model alias does nothing"); n != lines || rt.Table().Own("gpt") != own {
			t.Errorf("%s: %d lines, requests go to %q; want %d, %q:\n%s", when, n, rt.Table().Own("gpt"), lines, own, &out)
		}
	}
	want("at first", 0, "m")
	id := add(t, reg, 1, "gpt")
	add(t, reg, 2, "other")
	want("when a worker has a model of that name", 1, "gpt")
	if err := reg.Remove(id); err != nil {
		t.Fatal(err)
	}
	want("when it has left", 1, "m")
	add(t, reg, 3, "m=gpt")
	want("when a worker says the same", 1, "m")
	add(t, reg, 4, "gpt")
	want("when one has it again", 2, "gpt")
}

func TestAnAliasOfAModelThatNobodyNames(t *testing.T) {
	rt := router(t, DefaultConfig(), nameless(t), backendFunc(func(_ context.Context, r *infer.Request, w *infer.Reply, _ fleet.Team) error {
		_, err := w.Write(r.Body)
		return err
	}))
	if got, _, err := ask(rt, "gpt"); err != nil || got.body.String() != `{"model":"m"}` {
		t.Errorf("the worker got %s, %v; want the model that the alias stands for", got.body.String(), err)
	}
}

// TestWhatIsKeptOfModelsIsBounded holds that a worker which changes what it
// calls its models leaves nothing behind.
func TestWhatIsKeptOfModelsIsBounded(t *testing.T) {
	set := metric.NewRegistry(nil)
	m := new(Metrics)
	metric.Fill(set, m)
	reg := fleetOf(t)
	rt := router(t, DefaultConfig(), reg, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
		_, err := w.Write([]byte("ok"))
		return err
	}))
	rt.metrics = m
	for i := range 50 {
		id := add(t, reg, 0, fmt.Sprintf("m%d", i))
		if _, _, err := ask(rt, fmt.Sprintf("m%d", i)); err != nil {
			t.Fatal(err)
		}
		if err := reg.Remove(id); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(rt.models); n != 0 {
		t.Errorf("%d models are kept, want 0", n)
	}
	if text := scrape(t, set); strings.Contains(text, `model="m`) {
		t.Errorf("metrics name models that are gone:\n%s", text)
	}
}

// TestWhatIsToldOfAWorkerGoesWithIt holds that a worker's numbers are shown while
// it is there, and begin anew when another one comes to its address.
func TestWhatIsToldOfAWorkerGoesWithIt(t *testing.T) {
	set := metric.NewRegistry(nil)
	m := new(Metrics)
	metric.Fill(set, m)
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	reg := fleet.New(fleet.DefaultConfig(), health, breaker.DefaultConfig(), fleet.Options{})
	rt := New(Options{
		Config: DefaultConfig(), Metrics: m,
		Policies: policies("random"),
		Backends: one(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
			_, err := w.Write([]byte("ok"))
			return err
		}),
	})
	reg.Watch(rt.Publish)
	for _, asked := range []int{3, 2} {
		id := add(t, reg, 0, "m")
		for range asked {
			if _, _, err := ask(rt, "m"); err != nil {
				t.Fatal(err)
			}
		}
		text := scrape(t, set)
		for _, want := range []string{
			`smg_worker_requests_total{model="m",worker="http://10.1.0.1:8000"} %d`,
			`smg_worker_cb_outcomes_total{outcome="success",worker="http://10.1.0.1:8000"} %d`,
		} {
			if want := fmt.Sprintf(want, asked); !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
		if strings.Contains(text, `outcome="failure"`) {
			t.Error("an outcome is shown that never was")
		}
		if err := reg.Remove(id); err != nil {
			t.Fatal(err)
		}
		if text := scrape(t, set); strings.Contains(text, "10.1.0.1") {
			t.Errorf("a worker that is gone is shown:\n%s", text)
		}
	}
}

// TestAWorkerThatComesDuringAPause holds that a retry is among the workers that
// there are when it begins.
func TestAWorkerThatComesDuringAPause(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		reg := fleetOf(t, "m", "m")
		var asked []string
		rt := router(t, DefaultConfig(), reg, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, team fleet.Team) error {
			asked = append(asked, team.Lead.Base())
			if len(asked) > 1 {
				_, err := w.Write([]byte("ok"))
				return err
			}
			for _, w := range reg.Snapshot().All { // the other one leaves, a third comes
				if w != team.Lead {
					if err := reg.Remove(w.ID()); err != nil {
						t.Error(err)
					}
				}
			}
			add(t, reg, 2, "m")
			return broken
		}))
		if _, _, err := ask(rt, "m"); err != nil || len(asked) != 2 || asked[1] != "http://10.1.0.3:8000" {
			t.Errorf("asked were %q, %v; want the new worker to be the second", asked, err)
		}
	})
}

// TestAnUnwillingWorkerCostsNoPause holds that pauses are between attempts.
func TestAnUnwillingWorkerCostsNoPause(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.Jitter = 0
		reg := registry(t, breaker.Config{Failures: 1, Successes: 1, Rest: time.Hour}, "m", "m", "m", "m", "m")
		n := 0
		rt := router(t, cfg, reg, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, team fleet.Team) error {
			if n++; n == 2 {
				_, err := w.Write([]byte("ok"))
				return err
			}
			left := slices.DeleteFunc(slices.Clone(reg.Snapshot().All), func(w *fleet.Worker) bool { return w == team.Lead })
			for _, w := range left[:3] { // their breakers open; the table does not know yet
				lease, _ := w.Acquire(time.Now())
				lease.Release(time.Now(), breaker.Failure)
			}
			return broken
		}))
		begin := time.Now()
		if _, _, err := ask(rt, "m"); err != nil || time.Since(begin) != cfg.Initial {
			t.Errorf("got %v after %s, want an answer after one pause of %s", err, time.Since(begin), cfg.Initial)
		}
	})
}

// nameless returns a fleet of one ready worker that says nothing of itself.
func nameless(t *testing.T) *fleet.Registry {
	t.Helper()
	s := httptest.NewServer(http.NotFoundHandler())
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	reg := fleet.New(fleet.DefaultConfig(), health, breaker.DefaultConfig(), fleet.Options{})
	if _, err := reg.Add(fleet.Spec{URL: s.URL}); err != nil {
		t.Fatal(err)
	}
	joined := make(chan struct{})
	var once sync.Once
	reg.Watch(func(snap *fleet.Snapshot) {
		if snap.All[0].Joined() {
			once.Do(func() { close(joined) })
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = reg.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); s.Close() })
	select {
	case <-joined:
	case <-time.After(10 * time.Second):
		t.Fatal("the worker has not joined")
	}
	return reg
}

func scrape(t *testing.T, set *metric.Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	set.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}
