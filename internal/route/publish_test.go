package route

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
	"sluice/internal/policy"
)

// without returns snap as it is when worker i is not ready.
func without(snap *fleet.Snapshot, i int) *fleet.Snapshot {
	return &fleet.Snapshot{Epoch: snap.Epoch + 1, All: snap.All, Ready: slices.Delete(slices.Clone(snap.Ready), i, i+1)}
}

// many returns a Router before n workers of one model, and their snapshot.
func many(t testing.TB, n int) (*Router, *fleet.Snapshot) {
	t.Helper()
	models := make([]string, n)
	for i := range models {
		models[i] = "m"
	}
	rt := New(Options{Config: DefaultConfig(), Policies: policies("round_robin"), Backends: one(nobody)})
	snap := registry(t, breaker.DefaultConfig(), models...).Snapshot()
	rt.Publish(snap)
	return rt, snap
}

// TestABurstOfChangesIsOneTable holds that the first change after a quiet time is
// seen at once, that tables are at least 5 ms apart however many changes there
// are, and that the last change is never lost.
func TestABurstOfChangesIsOneTable(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		rt, snap := many(t, 4)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = rt.Run(ctx) })
		synctest.Wait()
		publish := func(epoch uint64) {
			rt.Publish(&fleet.Snapshot{Epoch: epoch, All: snap.All, Ready: snap.Ready})
			synctest.Wait()
		}
		for round := range 3 {
			time.Sleep(time.Second)
			first := uint64(1000 * (round + 1))
			publish(first)
			if got := rt.Table().snap.Epoch; got != first {
				t.Errorf("after a quiet time the table is of epoch %d, want %d at once", got, first)
			}
			for i := range uint64(100) {
				publish(first + 1 + i)
			}
			if got := rt.Table().snap.Epoch; got != first {
				t.Errorf("a table of epoch %d follows at once, want a pause", got)
			}
			time.Sleep(calm)
			synctest.Wait()
			if got := rt.Table().snap.Epoch; got != first+100 {
				t.Errorf("after a pause the table is of epoch %d, want the last, %d", got, first+100)
			}
		}
		publish(8000)
		publish(9000) // waits
		cancel()
		wg.Wait()
		if got := rt.Table().snap.Epoch; got != 9000 {
			t.Errorf("at the end the table is of epoch %d, want 9000", got)
		}
		rt.Publish(&fleet.Snapshot{Epoch: 9001, All: snap.All, Ready: snap.Ready})
		if got := rt.Table().snap.Epoch; got != 9001 {
			t.Errorf("while nobody runs, the table is of epoch %d, want 9001 at once", got)
		}
	})
}

func TestRunLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	rt, snap := many(t, 4)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = rt.Run(ctx) })
	for range 100 {
		rt.Publish(snap)
	}
	cancel()
	wg.Wait()
}

// TestWhatHasNotChangedIsKept holds that a change of one model's workers binds
// no other model's policy again.
func TestWhatHasNotChangedIsKept(t *testing.T) {
	reg := fleetOf(t, "m", "m", "n=x", "n", "o")
	rt := router(t, DefaultConfig(), reg, backendFunc(nobody))
	binds := make(map[string]int)
	rt.policies.New = func(name string) (policy.Policy, error) {
		p, err := policy.New(name, policy.DefaultSettings())
		return counting{p, func(ws []*fleet.Worker) { binds[ws[0].Info().Models[0].ID]++ }}, err
	}
	rt.models = make(map[string]*model) // as if all were new
	snap := reg.Snapshot()
	rt.Publish(snap)
	before := *rt.Table()
	rt.Publish(without(snap, 0))
	after := rt.Table()
	for _, name := range []string{"n", "x", "o"} {
		if before.models[name] != after.models[name] {
			t.Errorf("the route of %s is another one although its workers are the same", name)
		}
	}
	if binds["m"] != 2 || binds["n"] != 1 || binds["o"] != 1 {
		t.Errorf("the policies were bound %v times, want m twice and the others once", binds)
	}
	rt.Publish(snap)
	if len(after.models["m"].draw(new(infer.Request)).lead.workers) != 1 || len(rt.Table().models["m"].draw(new(infer.Request)).lead.workers) != 2 {
		t.Error("a worker that is back is not asked, or an old table was written to")
	}
}

// counting tells of each Bind.
type counting struct {
	policy.Policy
	bound func([]*fleet.Worker)
}

func (c counting) Bind(ws []*fleet.Worker) policy.Picker {
	c.bound(ws)
	return c.Policy.Bind(ws)
}

// BenchmarkPublish is what a table costs when one of n workers comes or goes.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{64, 1024, 4096} {
		rt, snap := many(b, n)
		snaps := [2]*fleet.Snapshot{without(snap, n/2), snap}
		b.Run(fmt.Sprintf("one model/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				rt.Publish(snaps[i%2])
			}
		})
	}
	const n = 4096
	for _, name := range policy.Names() {
		rt, snap := many(b, n)
		rt.policies = policies(name)
		rt.Publish(without(snap, n/3)) // what it learns at first it knows from then on
		rt.Publish(snap)
		snaps := [2]*fleet.Snapshot{without(snap, n/2), snap}
		b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				rt.Publish(snaps[i%2])
			}
		})
	}
	workers := make([]string, n)
	for i := range workers {
		workers[i] = fmt.Sprintf("m%d", i)
	}
	rt := New(Options{Config: DefaultConfig(), Policies: policies("round_robin"), Backends: one(nobody)})
	snap := registry(b, breaker.DefaultConfig(), workers...).Snapshot()
	snaps := [2]*fleet.Snapshot{without(snap, n/2), snap}
	rt.Publish(snap)
	b.Run(fmt.Sprintf("a model each/%d", n), func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			rt.Publish(snaps[i%2])
		}
	})
}

// BenchmarkPickWhilePublishing is how long lookups and picks among 4,096 workers
// take, each by itself and with what the clock takes: in a quiet fleet, and while
// 200 tables a second are published, in each of which one worker is or is not.
func BenchmarkPickWhilePublishing(b *testing.B) {
	const n = 4096
	models := make([]string, n)
	for i := range models {
		models[i] = "m"
	}
	snap := registry(b, breaker.DefaultConfig(), models...).Snapshot()
	snaps := [2]*fleet.Snapshot{without(snap, 2000), snap}
	for i, w := range snap.All {
		w.Report(&fleet.Load{At: time.Now().Add(time.Minute), Waiting: i % 5, TokenUsage: float64(i%10) / 10, Throughput: float64(1000 + i%50)})
	}
	r := &infer.Request{Model: "m", Received: time.Now()}
	r.Header.AddString("x-smg-routing-key", "user-17")
	r.Body = []byte(strings.Repeat("You are a pilot. ", 64))
	r.Extract = func(dst, body []byte) []byte { return append(dst, body...) }
	for _, name := range []string{"round_robin", "least_load", "consistent_hashing", "prefix_hash", "cost"} {
		rt := New(Options{Config: DefaultConfig(), Policies: policies(name), Backends: one(nobody)})
		rt.Publish(snap)
		for _, rate := range []int{0, 200} {
			b.Run(fmt.Sprintf("%s/%d a second", name, rate), func(b *testing.B) {
				stop := flap(rt, snaps, rate)
				c := new(policy.Choice)
				var took [1 << 16]int // by nanoseconds, longer ones at the end
				begin := time.Now()
				for b.Loop() {
					route, _ := rt.table.Load().Find(r)
					route.draw(r).lead.next(r, nil, begin, c)
					end := time.Now()
					took[min(int(end.Sub(begin)), len(took)-1)]++
					begin = end
				}
				stop()
				b.ReportMetric(quantile(took[:], 0.5), "p50-ns")
				b.ReportMetric(quantile(took[:], 0.99), "p99-ns")
				b.ReportMetric(quantile(took[:], 0.999), "p999-ns")
			})
		}
	}
}

// flap publishes snaps in turn, so often in a second. The caller must stop it.
func flap(rt *Router, snaps [2]*fleet.Snapshot, rate int) (stop func()) {
	if rate == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = rt.Run(ctx) })
	wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				rt.Publish(snaps[i%2])
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// quantile returns the value that a share of all is not above; counts says how
// often each is there.
func quantile(counts []int, share float64) float64 {
	all := 0
	for _, n := range counts {
		all += n
	}
	left := int(share * float64(all))
	for v, n := range counts {
		if left -= n; left < 0 {
			return float64(v)
		}
	}
	return 0
}
