package policy

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

func TestLeastLoadFindsTheIdleWorker(t *testing.T) {
	for _, n := range []int{2, scanAll} {
		ws := workers(t, n)
		for i, w := range ws {
			if i != n/2 {
				busy(t, w, 1+i%3)
			}
		}
		pick := mustNew(t, "least_load").Bind(ws)
		for range 100 {
			if w := pick.Pick(&infer.Request{}, new(Choice)); w != ws[n/2] {
				t.Fatalf("of %d workers it picked one with %d requests, and one has none", n, w.InFlight())
			}
		}
	}
}

// TestWaits compares two workers by the contract's formula.
func TestWaits(t *testing.T) {
	tests := []struct {
		name string
		a, b fleet.Load
		busy [2]int
		want string
	}{
		{"fewer wait", fleet.Load{Waiting: 2}, fleet.Load{Waiting: 1}, [2]int{}, "b"},
		{"fewer tokens wait, although more requests do", fleet.Load{Waiting: 5, WaitingTokens: 100}, fleet.Load{Waiting: 1, WaitingTokens: 5000}, [2]int{}, "a"},
		{"it is faster", fleet.Load{Waiting: 2, Throughput: 4000}, fleet.Load{Waiting: 1, Throughput: 1000}, [2]int{}, "a"},
		{"its cache is nearly full", fleet.Load{TokenUsage: 0.99}, fleet.Load{Waiting: 1}, [2]int{}, "b"},
		{"its cache is half full", fleet.Load{TokenUsage: 0.5}, fleet.Load{Waiting: 1}, [2]int{}, "a"},
		{"its cache is full", fleet.Load{TokenUsage: 1}, fleet.Load{Waiting: 100}, [2]int{}, "b"},
		{"one has not said", fleet.Load{Waiting: 3}, fleet.Load{At: time.Unix(1, 0)}, [2]int{0, 2}, "b"},
		{"one has not said, and has more", fleet.Load{Waiting: 1}, fleet.Load{At: time.Unix(1, 0)}, [2]int{0, 2}, "a"},
		{"nobody has said", fleet.Load{At: time.Unix(1, 0), Waiting: 9}, fleet.Load{At: time.Unix(1, 0)}, [2]int{1, 2}, "a"},
	}
	for _, tt := range tests {
		for _, name := range []string{"least_load", "power_of_two"} {
			ws := workers(t, 2)
			for i, l := range []*fleet.Load{&tt.a, &tt.b} {
				report := *l
				if report.At.IsZero() {
					report.At = time.Now()
				}
				busy(t, ws[i], tt.busy[i])
				if !ws[i].Report(&report) {
					t.Fatal("the report was not taken")
				}
			}
			pick := mustNew(t, name).Bind(ws)
			for range 20 {
				c := new(Choice)
				w := pick.Pick(&infer.Request{Received: time.Now()}, c)
				if got := string("ab"[indexOf(ws, w)]); got != tt.want {
					t.Errorf("%s, %s: %s was picked (%+v), want %s", name, tt.name, got, c, tt.want)
					break
				}
			}
		}
	}
}

func indexOf(ws []*fleet.Worker, w *fleet.Worker) int {
	for i := range ws {
		if ws[i] == w {
			return i
		}
	}
	return -1
}

// TestNoReportBreaksAPolicy: whatever workers say, everybody is answered.
func TestNoReportBreaksAPolicy(t *testing.T) {
	ws := workers(t, 3)
	for i, f := range []float64{math.NaN(), math.Inf(1), -1, 1e300, 0, 1, 1e-300} {
		for _, at := range []time.Time{time.Now(), {}, time.Now().Add(time.Hour), time.Now().Add(-time.Hour), time.Unix(1<<60, 0)} {
			for _, w := range ws {
				w.Report(&fleet.Load{At: at, TokenUsage: f, Throughput: f, Waiting: i - 1})
			}
			for _, name := range []string{"least_load", "power_of_two"} {
				for _, now := range []time.Time{time.Now(), {}} {
					if mustNew(t, name).Bind(ws).Pick(&infer.Request{Received: now}, new(Choice)) == nil {
						t.Errorf("%s picked nobody at %v, with %v reported at %v", name, now, f, at)
					}
				}
			}
		}
	}
}

func TestALargeFleetHasALimitToo(t *testing.T) {
	s := DefaultSettings()
	s.LeastLoad.MaxWaiting = 2
	p, err := New("least_load", s)
	if err != nil {
		t.Fatal(err)
	}
	ws := workers(t, 100)
	for i, w := range ws {
		w.Report(&fleet.Load{At: time.Now(), Waiting: 2})
		if i == 42 {
			w.Report(&fleet.Load{At: time.Now(), Waiting: 1})
		}
	}
	pick := p.Bind(ws)
	r, c := &infer.Request{Received: time.Now()}, new(Choice)
	for range 50 {
		if w := pick.Pick(r, c); w != ws[42] {
			t.Fatalf("it picked %v, want the only one that is not full", w)
		}
	}
	busy(t, ws[42], 1)
	if w := pick.Pick(r, c); w != nil || c.Why != "full" {
		t.Errorf("it picked %v (%s), and all are full", w, c.Why)
	}
}

func TestPassthroughWarnsOnce(t *testing.T) {
	var log bytes.Buffer
	s := DefaultSettings()
	s.Log = slog.New(slog.NewTextHandler(&log, nil))
	p, err := New("passthrough", s)
	if err != nil {
		t.Fatal(err)
	}
	ws := workers(t, 3)
	p.Bind(ws[:1])
	if log.Len() != 0 {
		t.Errorf("it said of one worker: %s", &log)
	}
	p.Bind(ws)
	p.Bind(ws[:2])
	if n := strings.Count(log.String(), "several"); n != 1 {
		t.Errorf("it warned %d times, want once: %s", n, &log)
	}
}

func TestTuningIsChecked(t *testing.T) {
	if err := DefaultLeastLoadConfig().Validate(); err != nil {
		t.Error(err)
	}
	if err := DefaultPowerOfTwoConfig().Validate(); err != nil {
		t.Error(err)
	}
	bad := LeastLoadConfig{Pressure: math.NaN(), Throughput: math.Inf(1), MeanPrefill: 0, MaxWaiting: -1}
	want := "least-load-kv-pressure-weight NaN is not between 0 and 1e9\nleast-load-default-throughput +Inf is not above 0 and at most 1e9\n" +
		"least-load-mean-prefill-tokens 0 is not between 1 and 1e9\nleast-load-max-waiting-requests -1 is negative"
	if err := bad.Validate(); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if err := (PowerOfTwoConfig{Metric: "tokens"}).Validate(); err == nil || !strings.Contains(err.Error(), `"tokens" is none of expected_wait, requests`) {
		t.Error(err)
	}
	if got := fmt.Sprint(newWaits(DefaultLeastLoadConfig()).mean); got != "1024" {
		t.Errorf("mean %s", got)
	}
}

// TestARankCostsNothing: the scheduler of ranks allocates nothing, and leaves
// Learners what they are.
func TestARankCostsNothing(t *testing.T) {
	ws := workers(t, 2)
	s := DefaultSettings()
	s.Ranks.MinTokens = true
	for _, name := range Names() {
		p, err := New(name, s)
		if err != nil {
			t.Fatal(err)
		}
		inner := mustNew(t, name)
		if NeedsText(p) != NeedsText(inner) {
			t.Errorf("%s: NeedsText() is %v with it", name, NeedsText(p))
		}
		pick := minTokensPicker{inner.Bind(ws), map[*fleet.Worker][]*fleet.Worker{ws[0]: ws, ws[1]: ws}}
		r, c := &infer.Request{Model: "m", Received: time.Now()}, new(Choice)
		if raced {
			continue
		}
		if n := testing.AllocsPerRun(100, func() { pick.Pick(r, c) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

// TestWrappedPoliciesAreWhatTheyAre holds that a policy minds the same vetoes and
// texts with the scheduler of ranks, with routing keys, and with both.
func TestWrappedPoliciesAreWhatTheyAre(t *testing.T) {
	for _, name := range Names() {
		plain := mustNew(t, name)
		for i := 1; i < 4; i++ {
			s := DefaultSettings()
			s.Ranks.MinTokens, s.RoutingKey.Override = i&1 != 0, i&2 != 0
			p, err := New(name, s)
			if err != nil {
				t.Fatal(err)
			}
			if Minds(p) != Minds(plain) || NeedsText(p) != NeedsText(plain) || TakesText(p) != TakesText(plain) {
				t.Errorf("%s, ranks %v, keys %v: minds %q, needs text: %v, takes it: %v; by itself %q, %v, %v",
					name, s.Ranks.MinTokens, s.RoutingKey.Override, Minds(p), NeedsText(p), TakesText(p), Minds(plain), NeedsText(plain), TakesText(plain))
			}
		}
	}
}

// TestTheRankThatWasAskedFor holds that a client which names a worker is not given
// another rank of its engine.
func TestTheRankThatWasAskedFor(t *testing.T) {
	ws := workers(t, 2)
	ws[0].Report(&fleet.Load{At: time.Now(), UsedTokens: 1000})
	ws[1].Report(&fleet.Load{At: time.Now()})
	pick := minTokensPicker{mustNew(t, "consistent_hashing").Bind(ws), map[*fleet.Worker][]*fleet.Worker{ws[0]: ws, ws[1]: ws}}
	r := &infer.Request{Model: "m", Received: time.Now()}
	r.Header.AddString(targetHeader, "0")
	if w := pick.Pick(r, new(Choice)); w != ws[0] {
		t.Errorf("it picked %v", w)
	}
}

// TestARequestThatEndsFillsNobody holds that a worker is not thought to be full
// because a request ended while those that it was given were counted.
func TestARequestThatEndsFillsNobody(t *testing.T) {
	s := DefaultSettings()
	s.LeastLoad.MaxWaiting = 2
	p, err := New("least_load", s)
	if err != nil {
		t.Fatal(err)
	}
	ws := workers(t, 1)
	ws[0].Report(&fleet.Load{At: time.Now()})
	ws[0].Load().Started++ // as it is if one was counted twice then, or is missed now
	if w := p.Bind(ws).Pick(&infer.Request{Received: time.Now()}, new(Choice)); w != ws[0] {
		t.Error("a worker without any request is full")
	}
}
