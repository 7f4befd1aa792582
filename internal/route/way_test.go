package route

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
	"sluice/internal/kit/metric"
	"sluice/internal/policy"
)

// kinds returns a fleet of ready workers of model m, one a word: r is one that
// serves requests whole, p computes prompts, d answers, x is a provider's. What
// follows a dash is its policy label.
func kinds(t testing.TB, words string) *fleet.Registry {
	t.Helper()
	reg := registry(t, breaker.DefaultConfig())
	for i, word := range strings.Fields(words) {
		addKind(t, reg, i, word)
	}
	return reg
}

func addKind(t testing.TB, reg *fleet.Registry, i int, word string) fleet.ID {
	t.Helper()
	kind, label, _ := strings.Cut(word, "-")
	id, err := reg.Add(fleet.Spec{
		URL: fmt.Sprintf("http://%s.1.%d:8000", kind, i), Models: []fleet.ModelCard{{ID: "m"}},
		Labels: map[string]string{"kind": kind, labelPolicy: label},
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// byLabel is placeOf for such a fleet.
func byLabel(w *fleet.Worker) (place, bool) {
	p, ok := map[string]place{"r": regular, "p": prefill, "d": decode, "x": provider}[w.Info().Labels["kind"]]
	return p, ok
}

// before returns a Router before such a fleet, whose families all have b.
func before(t testing.TB, reg *fleet.Registry, o Options, b Backend) *Router {
	t.Helper()
	if o.Policies.New == nil {
		o.Policies = policies("round_robin")
	}
	o.Config = DefaultConfig()
	o.Config.Jitter = 0
	o.Backends = Backends{b, b, b}
	rt := New(o)
	rt.placeOf = byLabel
	reg.Watch(rt.Publish)
	return rt
}

// kindOf names who serves: "r", "pd" or "x".
func kindOf(team fleet.Team) string {
	s, _, _ := strings.Cut(team.Lead.URL().Host, ".")
	if team.Prefill != nil {
		p, _, _ := strings.Cut(team.Prefill.URL().Host, ".")
		s = p + s
	}
	return s
}

// TestAFleetMovesFromOneFamilyToAnother holds that each family is given the share
// of requests that its workers are of all.
func TestAFleetMovesFromOneFamilyToAnother(t *testing.T) {
	tests := []struct {
		fleet  string
		header string // x-prefer-pd
		want   map[string]float64
	}{
		{"r r", "", map[string]float64{"r": 1}},
		{"r r p", "", map[string]float64{"r": 1}},                           // half a team is none
		{"r r d", "true", map[string]float64{"r": 1}},                       // whatever is preferred
		{"r r p d", "", map[string]float64{"r": 0.5, "pd": 0.5}},            //
		{"r p d d", "", map[string]float64{"r": 0.25, "pd": 0.75}},          //
		{"r r r p d", "True", map[string]float64{"pd": 1}},                  //
		{"r r r p d", "1", map[string]float64{"pd": 1}},                     //
		{"r r p d", "false", map[string]float64{"r": 0.5, "pd": 0.5}},       //
		{"r x p d", "", map[string]float64{"r": 0.25, "x": 0.25, "pd": .5}}, //
		{"p d", "", map[string]float64{"pd": 1}},
		{"x", "true", map[string]float64{"x": 1}},
	}
	for _, tt := range tests {
		t.Run(tt.fleet+" "+tt.header, func(t *testing.T) {
			got := make(map[string]float64)
			const n = 4000
			rt := before(t, kinds(t, tt.fleet), Options{}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, team fleet.Team) error {
				got[kindOf(team)] += 1.0 / n
				_, err := w.Write([]byte("ok"))
				return err
			}))
			for range n {
				r := &infer.Request{Endpoint: infer.Chat, Model: "m"}
				if tt.header != "" {
					r.Header.AddString("X-Prefer-PD", tt.header)
				}
				if err := rt.Serve(t.Context(), r, infer.NewReply(new(wire))); err != nil {
					t.Fatal(err)
				}
			}
			for kind, share := range got {
				if math.Abs(share-tt.want[kind]) > 0.04 {
					t.Errorf("%s serves %.3f of the requests, want %.2f", kind, share, tt.want[kind])
				}
			}
			if len(got) != len(tt.want) {
				t.Errorf("%d families serve, want %d", len(got), len(tt.want))
			}
		})
	}
}

func TestHalfATeamServesNothing(t *testing.T) {
	rt := before(t, kinds(t, "p p"), Options{}, backendFunc(nobody))
	_, _, err := ask(rt, "m")
	if e := infer.AsError(err); e.Code != "no_available_workers" || e.RetryAfter == 0 {
		t.Errorf("got %v, want no_available_workers and when to ask again", err)
	}
}

// TestAKindThatNobodySpeaksToIsNotAsked holds that workers without a backend are
// as if they were not there.
func TestAKindThatNobodySpeaksToIsNotAsked(t *testing.T) {
	reg := kinds(t, "p d x")
	rt := New(Options{Config: DefaultConfig(), Policies: policies("random"), Backends: one(nobody)})
	rt.placeOf = byLabel
	reg.Watch(rt.Publish)
	if got := rt.Table().Models(); len(got) != 0 {
		t.Errorf("listed are %q", got)
	}
	_, _, err := ask(rt, "m")
	if code(err) != "no_available_workers" {
		t.Errorf("got %v", err)
	}
}

// estimating is a policy that knows how long prompts are, and what the worker
// holds of them.
type estimating struct{ policy.Policy }

func (e estimating) Bind(ws []*fleet.Worker) policy.Picker {
	return estimatingPicker{e.Policy.Bind(ws)}
}

type estimatingPicker struct{ policy.Picker }

func (p estimatingPicker) Pick(r *infer.Request, c *policy.Choice) *fleet.Worker {
	w := p.Picker.Pick(r, c)
	c.Prompt, c.Uncached, c.Blocks, c.Hit, c.Why = 1000, 600, 8, 3, "cheapest"
	c.Queue, c.Price, c.Considered = 50, 650, 2
	c.Keys = append(c.Keys, 11, math.MaxUint64)
	return w
}

func estimates() Policies {
	return Policies{Name: "round_robin", New: func(name string) (policy.Policy, error) {
		p, err := policy.New(name, policy.DefaultSettings())
		return estimating{p}, err
	}}
}

// TestBothWorkersOfATeamAreBusy holds that load is counted from the pick to the
// last byte: that of the worker which computes the prompt until the answer
// begins, that of the other until it ends.
func TestBothWorkersOfATeamAreBusy(t *testing.T) {
	reg := kinds(t, "p d")
	check := func(w *fleet.Worker, inflight, prefill, context int64, when string) {
		t.Helper()
		if w.InFlight() != inflight || w.Prefill() != prefill || w.Context() != context {
			t.Errorf("%s: %s has %d requests, %d tokens to compute, %d in its context; want %d, %d, %d",
				when, w.Base(), w.InFlight(), w.Prefill(), w.Context(), inflight, prefill, context)
		}
	}
	var team fleet.Team
	rt := before(t, reg, Options{Policies: estimates()}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, tm fleet.Team) error {
		team = tm
		check(team.Prefill, 1, 600, 1000, "at first")
		check(team.Lead, 1, 0, 1000, "at first")
		_, err := w.Write([]byte("data: 1\n\n"))
		check(team.Prefill, 0, 0, 0, "when the answer has begun")
		check(team.Lead, 1, 0, 1000, "when the answer has begun")
		return err
	}))
	if _, _, err := ask(rt, "m"); err != nil {
		t.Fatal(err)
	}
	check(team.Prefill, 0, 0, 0, "at the end")
	check(team.Lead, 0, 0, 0, "at the end")
	for _, w := range reg.Snapshot().All {
		if success, failure, neutral := w.Outcomes(); success != 1 || failure+neutral != 0 {
			t.Errorf("%s: %d successes, %d failures, %d neither; want one success", w.Base(), success, failure, neutral)
		}
	}
}

// TestANewTeamForEachTry holds that no team is asked twice, and that a worker of
// which there is one only is in the next team too.
func TestANewTeamForEachTry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for words, want := range map[string]int{"p d": 1, "p d d d": 3, "p p d": 2, "p p p d d d": 3, "p d r r": 3} {
			seen := make(map[fleet.Team]bool)
			reg := kinds(t, words)
			rt := before(t, reg, Options{}, backendFunc(func(_ context.Context, _ *infer.Request, _ *infer.Reply, team fleet.Team) error {
				if seen[team] {
					t.Errorf("%s: the team %s was asked twice", words, kindOf(team))
				}
				seen[team] = true
				return broken
			}))
			r := &infer.Request{Endpoint: infer.Chat, Model: "m"}
			r.Header.AddString(headerPreferPD, "1")
			if err := rt.Serve(t.Context(), r, infer.NewReply(new(wire))); !errors.Is(err, broken) || len(seen) != want {
				t.Errorf("%s: %d teams were asked, %v; want %d", words, len(seen), err, want)
			}
			for _, w := range reg.Snapshot().All {
				if w.InFlight() != 0 {
					t.Errorf("%s: %d requests are still counted", words, w.InFlight())
				}
			}
		}
	})
}

// TestTheFirstWorkersLabelNamesThePolicy holds that of each place, that a change
// of the label is followed, and that a name which cannot be followed is told of
// once.
func TestTheFirstWorkersLabelNamesThePolicy(t *testing.T) {
	reg := kinds(t, "r-random r p d-least_load")
	var out bytes.Buffer
	ps := policies("round_robin")
	ps.Prefill = "power_of_two"
	rt := before(t, reg, Options{Policies: ps, Log: slog.New(slog.NewTextHandler(&out, nil))}, backendFunc(nobody))
	want := func(names string) {
		t.Helper()
		route := rt.Table().models["m"]
		var got []string
		for i := range route.ways {
			for s := range route.ways[i].sides {
				got = append(got, s.place.label()+" "+s.name)
			}
		}
		if got := strings.Join(got, ", "); got != names {
			t.Errorf("got %s; want %s", got, names)
		}
	}
	want("regular random, decode least_load, prefill power_of_two")
	first := reg.Snapshot().All[0]
	label := func(name string) {
		if err := reg.Update(first.ID(), fleet.Patch{Labels: map[string]string{labelPolicy: name}}); err != nil {
			t.Fatal(err)
		}
	}
	label("power_of_two")
	want("regular power_of_two, decode least_load, prefill power_of_two")
	kept := rt.models["m"].parts[decode]
	label("best_effort")
	want("regular round_robin, decode least_load, prefill power_of_two")
	addKind(t, reg, 9, "r")
	label("best_effort")
	if n := strings.Count(out.String(), "policy=best_effort"); n != 1 || !strings.Contains(out.String(), first.Base()) {
		t.Errorf("the label was warned of %d times, want once, with the worker:\n%s", n, out.String())
	}
	label("")
	want("regular round_robin, decode least_load, prefill power_of_two")
	label("best_effort")
	if n := strings.Count(out.String(), "policy=best_effort"); n != 2 {
		t.Errorf("a label that came again was warned of %d times, want twice", n)
	}
	if rt.models["m"].parts[decode] != kept {
		t.Error("what the policy of another place has learned is lost")
	}
	if err := reg.Remove(first.ID()); err != nil {
		t.Fatal(err)
	}
	want("regular round_robin, decode least_load, prefill power_of_two")
}

func TestOverloadedWorkersAreSpared(t *testing.T) {
	for _, shed := range []bool{false, true} {
		reg := kinds(t, "r r")
		asked := make(map[*fleet.Worker]int)
		set := metric.NewRegistry(nil)
		m := new(Metrics)
		metric.Fill(set, m)
		rt := before(t, reg, Options{Shed: shed, Metrics: m}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, team fleet.Team) error {
			asked[team.Lead]++
			_, err := w.Write([]byte("ok"))
			return err
		}))
		ws := reg.Snapshot().All
		overload := func(w *fleet.Worker, waiting int) {
			if !w.Report(&fleet.Load{At: time.Now(), Running: 10, Waiting: waiting}) {
				t.Fatal("the report is not believed")
			}
			rt.Publish(reg.Snapshot()) // the registry does not run
		}
		overload(ws[0], 100)
		for range 10 {
			if _, _, err := ask(rt, "m"); err != nil {
				t.Fatal(err)
			}
		}
		if asked[ws[0]] != 0 {
			t.Errorf("an overloaded worker was asked %d times", asked[ws[0]])
		}
		overload(ws[1], 100)
		_, _, err := ask(rt, "m")
		if e := infer.AsError(err); shed && (e.Code != "worker_overload_protection_shed" || e.Status != 503 || e.RetryAfter == 0) || !shed && err != nil {
			t.Errorf("all are overloaded, shed: %v: got %v", shed, err)
		}
		want := `smg_worker_overload_fallback_total{stage="regular"} 1`
		if shed {
			want = `smg_worker_overload_shed_total{stage="regular"} 1`
		}
		overload(ws[0], 0)
		if _, _, err := ask(rt, "m"); err != nil {
			t.Errorf("one has room again: %v", err)
		}
		if got := scrape(t, set); !strings.Contains(got, want+"\n") || strings.Contains(got, "liveness_fallback_total{") {
			t.Errorf("shed %v: %s is not counted:\n%s", shed, want, got)
		}
	}
}

// TestRetriesInALargeFleet holds that another attempt looks at few workers, finds
// one that is there, and does not ask those that are known to refuse.
func TestRetriesInALargeFleet(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		models := make([]string, 1000)
		for i := range models {
			models[i] = "m"
		}
		reg := registry(t, breaker.Config{Failures: 1, Successes: 1, Rest: time.Hour}, models...)
		asked := make(map[*fleet.Worker]bool)
		rt := New(Options{Config: DefaultConfig(), Policies: policies("round_robin"), Receipts: 16, Backends: one(func(_ context.Context, _ *infer.Request, _ *infer.Reply, team fleet.Team) error {
			asked[team.Lead] = true
			return broken
		})})
		snap := reg.Snapshot()
		rt.Publish(snap)
		for _, w := range snap.All[10:] { // their breakers open; the table does not know yet
			lease, _ := w.Acquire(time.Now())
			lease.Release(time.Now(), breaker.Failure)
		}
		_, w, err := ask(rt, "m")
		if !errors.Is(err, broken) || w.Served.Tries != 5 || len(asked) != 5 {
			t.Errorf("%d workers were asked in %d tries, %v; want 5 of those that are well", len(asked), w.Served.Tries, err)
		}
		for _, r := range rt.Recent(10, func(r *Receipt) bool { return r.Try > 1 }) {
			if r.Considered > compared || r.Considered == 0 {
				t.Errorf("for try %d %d workers were compared, want up to %d", r.Try, r.Considered, compared)
			}
		}
	})
}

// TestAVetoThatComesAndGoesWhileATableIsMade holds that a worker is not left out
// for longer than it is vetoed, whenever that begins.
func TestAVetoThatComesAndGoesWhileATableIsMade(t *testing.T) {
	reg := kinds(t, "r r")
	w := reg.Snapshot().All[0]
	report := func(waiting int) {
		if !w.Report(&fleet.Load{At: time.Now(), Waiting: waiting}) {
			t.Fatal("the report is not believed")
		}
	}
	ps := policies("round_robin")
	made := ps.New
	ps.New = func(name string) (policy.Policy, error) { // when it is known already who claims the model
		report(100)
		return made(name)
	}
	asked := make(map[*fleet.Worker]int)
	rt := before(t, reg, Options{Policies: ps}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, team fleet.Team) error {
		asked[team.Lead]++
		_, err := w.Write([]byte("ok"))
		return err
	}))
	report(0)
	rt.Publish(reg.Snapshot())
	for range 10 {
		if _, _, err := ask(rt, "m"); err != nil {
			t.Fatal(err)
		}
	}
	if asked[w] != 5 {
		t.Errorf("a worker that was overloaded for a moment is asked %d times of 10, want 5", asked[w])
	}
}

// TestWhoWantsOneWorkerIsGivenNoOther holds that a client which names a worker is
// served by that one or not at all, also when it fails.
func TestWhoWantsOneWorkerIsGivenNoOther(t *testing.T) {
	reg := kinds(t, "r r r")
	ws := reg.Snapshot().All
	var asked []*fleet.Worker
	rt := before(t, reg, Options{Policies: policies("consistent_hashing")}, backendFunc(func(_ context.Context, _ *infer.Request, _ *infer.Reply, team fleet.Team) error {
		asked = append(asked, team.Lead)
		return broken
	}))
	r := &infer.Request{Endpoint: infer.Chat, Model: "m"}
	r.Header.AddString("X-SMG-Target-Worker", "1")
	if err := rt.Serve(t.Context(), r, infer.NewReply(new(wire))); !errors.Is(err, broken) {
		t.Errorf("it got %v, want the worker's own failure", err)
	}
	if len(asked) != 1 || asked[0] != ws[1] {
		t.Errorf("%d workers were asked, want the one that the client wanted, once", len(asked))
	}
	for range 20 { // until its breaker keeps requests away
		lease, ok := ws[1].Acquire(time.Now())
		if !ok {
			break
		}
		lease.Release(time.Now(), breaker.Failure)
	}
	r.Model = "m"
	if err := rt.Serve(t.Context(), r, infer.NewReply(new(wire))); !errors.Is(err, errAlone) || len(asked) != 1 {
		t.Errorf("it got %v after %d attempts, want to hear that the worker takes none", err, len(asked))
	}
	r.Header.Set("X-SMG-Target-Worker", "3")
	if err := rt.Serve(t.Context(), r, infer.NewReply(new(wire))); !errors.Is(err, errAlone) {
		t.Errorf("it got %v, want to hear that there is no such worker", err)
	}
}

// TestNumbersOfWorkersStay holds that a client which names a worker by its number
// is served by that one, whichever others are away or overloaded, and even if it is
// overloaded itself.
func TestNumbersOfWorkersStay(t *testing.T) {
	reg := kinds(t, "r r r r")
	ws := reg.Snapshot().All
	rt := before(t, reg, Options{Policies: policies("consistent_hashing")}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
		_, err := w.Write([]byte("ok"))
		return err
	}))
	check := func(when string, want ...*fleet.Worker) {
		t.Helper()
		for i, worker := range want {
			r := &infer.Request{Endpoint: infer.Chat, Model: "m"}
			r.Header.AddString("X-SMG-Target-Worker", fmt.Sprint(i))
			w := infer.NewReply(new(wire))
			switch err := rt.Serve(t.Context(), r, w); {
			case worker == nil && !errors.Is(err, errAlone):
				t.Errorf("%s: number %d got %v, %q; want to hear that it takes none", when, i, err, w.Served.Worker)
			case worker != nil && (err != nil || w.Served.Worker != worker.Base()):
				t.Errorf("%s: number %d is served by %q, %v; want %s", when, i, w.Served.Worker, err, worker.Base())
			}
		}
	}
	check("all are well", ws[0], ws[1], ws[2], ws[3], nil)
	if !ws[0].Report(&fleet.Load{At: time.Now(), Waiting: 100}) {
		t.Fatal("the report is not believed")
	}
	rt.Publish(reg.Snapshot())
	check("the first is overloaded", ws[0], ws[1], ws[2], ws[3], nil)
	snap := *reg.Snapshot()
	snap.Ready = []*fleet.Worker{ws[0], ws[2], ws[3]}
	rt.Publish(&snap)
	check("the second is not ready", ws[0], nil, ws[2], ws[3], nil)
	snap = *reg.Snapshot()
	snap.Ready = []*fleet.Worker{ws[2], ws[3]} // of those that may be chosen none has changed
	rt.Publish(&snap)
	check("nor is the first", nil, nil, ws[2], ws[3], nil)
}

// TestOverloadMovesNoSession holds that a key stays at a worker that is overloaded,
// and leaves one that makes no tokens.
func TestOverloadMovesNoSession(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		reg := kinds(t, "r r")
		rt := before(t, reg, Options{Policies: policies("manual")}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
			_, err := w.Write([]byte("ok"))
			return err
		}))
		ask := func() string {
			t.Helper()
			r := &infer.Request{Endpoint: infer.Chat, Model: "m"}
			r.Header.AddString("X-SMG-Routing-Key", "alice")
			w := infer.NewReply(new(wire))
			if err := rt.Serve(t.Context(), r, w); err != nil {
				t.Fatal(err)
			}
			return w.Served.Worker
		}
		home := ask()
		i := slices.IndexFunc(reg.Snapshot().All, func(w *fleet.Worker) bool { return w.Base() == home })
		worker := reg.Snapshot().All[i]
		lease, _ := worker.Acquire(time.Now())
		defer func() { lease.Release(time.Now(), breaker.Neutral) }()
		report := func(want fleet.Veto) {
			t.Helper()
			if worker.Report(&fleet.Load{At: time.Now(), Running: 1, Waiting: 100}); worker.Veto() != want {
				t.Fatalf("veto %q, want %q", worker.Veto(), want)
			}
			rt.Publish(reg.Snapshot())
		}
		report(fleet.Overloaded)
		if got := ask(); got != home {
			t.Errorf("its worker is overloaded: the session went from %s to %s", home, got)
		}
		time.Sleep(time.Minute)
		report(fleet.Overloaded)
		time.Sleep(time.Minute)
		report(fleet.Overloaded | fleet.Wedged)
		if got := ask(); got == home {
			t.Errorf("its worker is wedged: the session is still at %s", got)
		}
	})
}

// TestTheLastResortIsCounted holds that it can be seen when requests go to workers
// that make no tokens, because no other is there.
func TestTheLastResortIsCounted(t *testing.T) {
	reg := kinds(t, "r r")
	set := metric.NewRegistry(nil)
	m := new(Metrics)
	metric.Fill(set, m)
	rt := before(t, reg, Options{Metrics: m}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
		_, err := w.Write([]byte("ok"))
		return err
	}))
	for i, w := range reg.Snapshot().All {
		if _, _, err := ask(rt, "m"); err != nil || strings.Contains(scrape(t, set), "fallback_total{") {
			t.Errorf("with %d of 2 wedged: %v, %s", i, err, scrape(t, set))
		}
		lease, _ := w.Acquire(time.Now())
		defer func() { lease.Release(time.Now(), breaker.Neutral) }()
		for _, at := range []time.Time{time.Now().Add(-time.Minute), time.Now()} {
			w.Report(&fleet.Load{At: at, Running: 1, Waiting: 1})
		}
		if w.Veto() != fleet.Wedged {
			t.Fatalf("veto %q", w.Veto())
		}
		rt.Publish(reg.Snapshot())
	}
	if _, _, err := ask(rt, "m"); err != nil || !strings.Contains(scrape(t, set), "smg_worker_liveness_fallback_total{stage=\"regular\"} 1\n") {
		t.Errorf("%v, %s", err, scrape(t, set))
	}
}

// TestAFullFleetSaysWhichLimit: who is refused because too many requests wait is
// told which setting says so, and how many.
func TestAFullFleetSaysWhichLimit(t *testing.T) {
	settings := policy.DefaultSettings()
	settings.LeastLoad.MaxWaiting = 7
	made := Policies{Name: "least_load", New: func(name string) (policy.Policy, error) { return policy.New(name, settings) }}
	reg := kinds(t, "r r")
	rt := before(t, reg, Options{Policies: made}, backendFunc(nobody))
	for _, w := range reg.Snapshot().All {
		w.Report(&fleet.Load{At: time.Now(), Waiting: 7})
	}
	_, _, err := ask(rt, "m")
	e := infer.AsError(err)
	if e.Status != 503 || e.Code != "no_available_workers" || e.RetryAfter == 0 || !strings.Contains(e.Msg, "7 requests waiting") || !strings.Contains(e.Msg, "--least-load-max-waiting-requests") {
		t.Errorf("got %d %s %q", e.Status, e.Code, e.Msg)
	}
}
