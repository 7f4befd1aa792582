// Package cores lets Go code run on as many cores as there is work for.
//
// A goroutine that waits on a socket is woken by whichever core finds it, and
// each core that finds one wakes another to look for more. With cores to spare,
// nearly every chunk of a stream costs a call to wake a thread, which then finds
// nothing; with one core that is busy a third of the time it costs none. So a
// Keeper takes cores away while few have enough to do, and gives them back at
// once when they have not.
package cores

import (
	"context"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

const (
	look  = 20 * time.Millisecond  // how often a Keeper looks
	doze  = 100 * time.Millisecond // while there is next to nothing to do
	calm  = 500 * time.Millisecond // how long fewer cores must have been enough
	late  = time.Millisecond       // a goroutine that is ready and waits for longer does so for want of a core
	share = 50                     // if one of so many is late, there are too few cores
)

// A load is what a Keeper has seen of a short time.
type load struct {
	busy        float64 // cores that were at work, on average
	ready, late uint64  // goroutines that became ready, or a sample of them; those of them that were late
}

// enough reports whether n cores are enough for l, and perhaps still will be
// when it has grown somewhat.
func (l load) enough(n int) bool {
	return l.busy <= 0.75*float64(n) && (l.late < 2 || l.late*share < l.ready)
}

// spare reports whether one core less than n would do for l easily.
func (l load) spare(n int) bool {
	return l.busy <= 0.5*float64(n-1) && (l.late < 2 || l.late*share < l.ready)
}

// A sizer decides how many cores there should be.
type sizer struct {
	most, now int
	since     time.Duration // for how long there has been one too many
}

// next returns how many cores there should be after l, which took d.
func (s *sizer) next(l load, d time.Duration) int {
	switch {
	case !l.enough(s.now):
		s.now, s.since = min(2*s.now, s.most), 0
	case s.now == 1 || !l.spare(s.now):
		s.since = 0
	default:
		if s.since += d; s.since >= calm {
			s.now, s.since = s.now-1, 0
		}
	}
	return s.now
}

// A Keeper keeps the number of cores, which is GOMAXPROCS.
type Keeper struct{ most int }

// NewKeeper returns a Keeper that gives what runs up to most cores. Nothing
// happens before Run.
func NewKeeper(most int) *Keeper { return &Keeper{most} }

// kept is whether a Keeper runs: the cores are the process's.
var kept atomic.Bool

// Run keeps the number of cores until ctx is done; then there are as many as
// there may be. While another Keeper runs it does nothing.
func (k *Keeper) Run(ctx context.Context) error {
	p := newProbe()
	if !p.works() || !kept.CompareAndSwap(false, true) {
		<-ctx.Done()
		return nil
	}
	defer kept.Store(false)
	before := resize(k.most)
	defer resize(before)
	k.keep(ctx, p)
	return nil
}

func (k *Keeper) keep(ctx context.Context, p *probe) {
	s := sizer{most: k.most, now: k.most}
	every := look
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		l, d := p.look()
		before := s.now
		if n := s.next(l, d); n != before {
			resize(n) // a stop of the world: some tens of microseconds
		}
		pace := look
		if l.busy < 0.02 {
			pace = doze
		}
		if pace != every {
			every = pace
			t.Reset(every)
		}
	}
}

// A probe measures load.
type probe struct {
	at      time.Time
	used    time.Duration // of all cores, since the process began
	waits   []metrics.Sample
	ready   uint64
	late    uint64
	counted bool
}

const schedLatencies = "/sched/latencies:seconds"

func newProbe() *probe {
	p := &probe{at: time.Now(), waits: []metrics.Sample{{Name: schedLatencies}}}
	p.used, p.counted = cpuTime()
	p.ready, p.late = p.count()
	return p
}

// works reports whether p can know anything.
func (p *probe) works() bool {
	return p.counted && p.waits[0].Value.Kind() == metrics.KindFloat64Histogram
}

// look returns what happened since the last look, and how long that was.
func (p *probe) look() (load, time.Duration) {
	now := time.Now()
	used, _ := cpuTime()
	ready, late := p.count()
	d := max(now.Sub(p.at), 1)
	l := load{busy: float64(used-p.used) / float64(d), ready: ready - p.ready, late: late - p.late}
	p.at, p.used, p.ready, p.late = now, used, ready, late
	return l, d
}

// count returns how many goroutines were ready until now, and how many were
// late.
func (p *probe) count() (ready, slow uint64) {
	metrics.Read(p.waits)
	if p.waits[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0, 0
	}
	h := p.waits[0].Value.Float64Histogram()
	for i, n := range h.Counts {
		ready += n
		if h.Buckets[i] >= late.Seconds() {
			slow += n
		}
	}
	return ready, slow
}
