package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
)

// workers returns n workers that are ready.
func workers(t testing.TB, n int) []*fleet.Worker {
	t.Helper()
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	reg := fleet.New(fleet.DefaultConfig(), health, breaker.DefaultConfig(), fleet.Options{})
	for i := range n {
		_, err := reg.Add(fleet.Spec{URL: fmt.Sprintf("http://10.%d.%d.%d:8000", i>>16, i>>8&255, i&255), Models: []fleet.ModelCard{{ID: "m"}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	ws := reg.Snapshot().Ready
	if len(ws) != n {
		t.Fatalf("%d workers are ready, want %d", len(ws), n)
	}
	return ws
}

// busy gives w n requests that do not end.
func busy(t testing.TB, w *fleet.Worker, n int) {
	t.Helper()
	for range n {
		if _, ok := w.Acquire(time.Now()); !ok {
			t.Fatal("a worker refused a request")
		}
	}
}

func mustNew(t testing.TB, name string) Policy {
	t.Helper()
	p, err := New(name, DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestEveryPolicy holds what is asked of any policy: an answer for every size
// of fleet, from the set it was bound to, that costs no allocation.
func TestEveryPolicy(t *testing.T) {
	all := workers(t, 70)
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			p := mustNew(t, name)
			r, c := &infer.Request{Model: "m"}, new(Choice)
			for _, n := range []int{1, 2, 3, 16, 17, 70, 1} {
				ws := all[:n]
				in := make(map[*fleet.Worker]bool, n)
				for _, w := range ws {
					in[w] = true
				}
				pick := p.Bind(ws)
				for range 200 {
					if w := pick.Pick(r, c); !in[w] {
						t.Fatalf("of %d workers it picked %v, which is none of them", n, w)
					}
				}
				if got := testing.AllocsPerRun(200, func() { pick.Pick(r, c) }); got != 0 {
					t.Errorf("a pick of %d allocates %v times, want 0", n, got)
				}
			}
		})
	}
}

func TestEveryIdleWorkerGetsItsShare(t *testing.T) {
	ws := workers(t, 8)
	for _, name := range Names() {
		if name == "passthrough" {
			continue // it is for one
		}
		t.Run(name, func(t *testing.T) {
			pick := mustNew(t, name).Bind(ws)
			got := make(map[*fleet.Worker]int)
			const picks = 8000
			for range picks {
				got[pick.Pick(&infer.Request{}, new(Choice))]++
			}
			for _, w := range ws {
				if n := got[w]; n < picks/8*7/10 || n > picks/8*13/10 {
					t.Errorf("%s was picked %d times of %d, want about %d", w.Base(), n, picks, picks/8)
				}
			}
		})
	}
}

func TestRoundRobinGoesInOrder(t *testing.T) {
	ws := workers(t, 3)
	p := mustNew(t, "round_robin")
	pick := p.Bind(ws)
	first := pick.Pick(&infer.Request{}, new(Choice))
	second := pick.Pick(&infer.Request{}, new(Choice))
	third := p.Bind(ws).Pick(&infer.Request{}, new(Choice)) // a new table goes on where the old one was
	if first == second || second == third || first == third {
		t.Errorf("three picks of three workers were %s, %s, %s", first.Base(), second.Base(), third.Base())
	}
}

func TestBusyWorkersAreAvoided(t *testing.T) {
	for _, name := range []string{"least_load", "power_of_two"} {
		t.Run(name, func(t *testing.T) {
			ws := workers(t, 64)
			for _, w := range ws[:32] {
				busy(t, w, 10)
			}
			pick := mustNew(t, name).Bind(ws)
			bad := 0
			for range 10_000 {
				if pick.Pick(&infer.Request{}, new(Choice)).InFlight() > 0 {
					bad++
				}
			}
			// Two choices miss the idle half with chance 1/4, four with 1/16.
			if bad > 2700 {
				t.Errorf("a busy worker was picked %d times of 10,000, want at most about 2,500", bad)
			}
		})
	}
}

func TestAnUnknownPolicyIsNamed(t *testing.T) {
	_, err := New("best_effort", DefaultSettings())
	if want := `unknown policy "best_effort"; want one of ` + strings.Join(Names(), ", "); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func BenchmarkPick(b *testing.B) {
	all := workers(b, 4096)
	for i, w := range all {
		busy(b, w, 1+i%7) // an idle worker would end a search early
	}
	for _, told := range []string{"", "/told"} {
		if told != "" {
			for i, w := range all {
				w.Report(&fleet.Load{At: time.Now(), Running: 1 + i%7, Waiting: i % 5, TokenUsage: float64(i%10) / 10, Throughput: float64(1000 + i%50)})
			}
		}
		for _, name := range Names() {
			for _, n := range []int{1, 4, 64, 4096} {
				pick := mustNew(b, name).Bind(all[:n])
				b.Run(fmt.Sprintf("%s/%d%s", name, n, told), func(b *testing.B) {
					now := time.Now()
					b.ReportAllocs()
					b.RunParallel(func(pb *testing.PB) {
						r, c := &infer.Request{Model: "m", Received: now}, new(Choice)
						for pb.Next() {
							pick.Pick(r, c)
						}
					})
				})
			}
		}
	}
}
