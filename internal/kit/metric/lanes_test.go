package metric

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
)

func TestLanesFor(t *testing.T) {
	f := func(procs, want int) {
		t.Helper()
		if got := lanesFor(procs); got != want {
			t.Errorf("lanesFor(%d) = %d, want %d", procs, got, want)
		}
	}
	f(1, 1)
	f(2, 4)
	f(3, 8)
	f(32, 64)
	f(192, 64)
}

// TestNothingIsLostBetweenLanes holds that what many cores count at once adds
// up, however many lanes there are.
func TestNothingIsLostBetweenLanes(t *testing.T) {
	for _, lanes := range []int{1, 2, 64} {
		var p struct {
			Hits *Counter   `name:"smg_hits_total" help:"hits"`
			Size *Histogram `name:"sluice_size_bytes" buckets:"1,10,100" help:"how large it was"`
		}
		r := NewRegistry(nil)
		Fill(r, &p)
		p.Hits.lanes = make([]atomic.Pointer[tally], lanes)
		p.Size.lanes = make([]atomic.Pointer[buckets], lanes)
		const each = 1000
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range each {
					p.Hits.Inc()
					p.Hits.Add(0.5)
					p.Size.Observe(1) // as much as the bound is not above it
					k := Take()
					p.Hits.AddWith(k, 2)
					p.Size.ObserveWith(k, 200)
					p.Size.ObserveWith(k, math.NaN())
					k.Give()
				}
			})
		}
		wg.Wait()
		wantLines(t, scrape(t, r, "smg_hits"), "smg_hits_total 28000")
		wantLines(t, scrape(t, r, "sluice_size"),
			`sluice_size_bytes_bucket{le="1"} 8000`, `sluice_size_bytes_bucket{le="10"} 8000`, `sluice_size_bytes_bucket{le="100"} 8000`,
			`sluice_size_bytes_bucket{le="+Inf"} 16000`, `sluice_size_bytes_sum 1.608e+06`, `sluice_size_bytes_count 16000`)
	}
}

// TestWhoMeetsAnotherMovesOn holds that cores which were given the same lane do
// not stay in it.
func TestWhoMeetsAnotherMovesOn(t *testing.T) {
	k := &Ticket{lane: 1}
	k.met()
	if k.lane == 1 {
		t.Error("a ticket leads to the lane where another core was met")
	}
	single.met()
	if single.lane != 0 {
		t.Error("the ticket that all share was changed")
	}
}
