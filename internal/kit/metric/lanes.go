package metric

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// What every core adds to at every request is kept in lanes: each core adds to
// memory of its own, and who reads adds up. One word that two cores write to
// costs each of them a cache miss, and more with every further core. A lane is
// made when it is first needed.

// maxLanes bounds the memory of one number on a machine with many cores.
const maxLanes = 64

// lanesFor returns how many lanes there should be: a power of two, and room
// enough for each core to find one where it is alone.
func lanesFor(procs int) int {
	n := 1
	for procs > 1 && n < 2*procs && n < maxLanes {
		n *= 2
	}
	return n
}

// several is set once there is a metric with more than one lane.
var several atomic.Bool

// newLanes returns the lanes of a metric, none of them made.
func newLanes[T any]() laned[T] {
	n := lanesFor(runtime.GOMAXPROCS(0))
	if n > 1 {
		several.Store(true)
	}
	return laned[T]{make([]atomic.Pointer[T], n)}
}

// A Ticket lets a goroutine count several things at once and look for its lane
// only once. It is to be had with Take, and given back with Give without having
// waited for anything in between.
//
// A sync.Pool gives a core the ticket that it used before, which is all that is
// wanted of it; what is counted does not depend on that.
type Ticket struct {
	lane uint32
	_    [60]byte
}

var (
	tickets = sync.Pool{New: func() any { return &Ticket{lane: issued.Add(1)} }}
	issued  atomic.Uint32
	single  Ticket // where there is one lane; never written to
)

// Take returns a Ticket.
func Take() *Ticket {
	if !several.Load() {
		return &single
	}
	return tickets.Get().(*Ticket)
}

// Give gives t back.
func (t *Ticket) Give() {
	if t != &single {
		tickets.Put(t)
	}
}

// met tells t that another core was in its lane: it goes to another one.
func (t *Ticket) met() {
	if t != &single {
		t.lane = issued.Add(1)
	}
}

// laned is a T for each core; empty if nothing is to be counted.
type laned[T any] struct{ lanes []atomic.Pointer[T] }

// at returns lane i, which it has create make if need be.
func (l *laned[T]) at(i uint32, create func() *T) *T {
	p := &l.lanes[int(i)&(len(l.lanes)-1)]
	if v := p.Load(); v != nil {
		return v
	}
	v := create()
	if !p.CompareAndSwap(nil, v) {
		v = p.Load()
	}
	return v
}

// each calls f with the lanes that there are.
func (l *laned[T]) each(f func(*T)) {
	for i := range l.lanes {
		if v := l.lanes[i].Load(); v != nil {
			f(v)
		}
	}
}

// A tally is one lane of a Counter.
type tally struct {
	whole atomic.Uint64 // what was added in whole numbers
	parts atomic.Uint64 // the rest, as a float64's bits
	_     [112]byte     // two cache lines: they are fetched in pairs
}

// add adds v, which is not negative. It reports whether nobody else did.
func (t *tally) add(v float64) (alone bool) {
	n := uint64(v)
	if float64(n) != v {
		return addFloat(&t.parts, v)
	}
	old := t.whole.Load()
	if t.whole.CompareAndSwap(old, old+n) {
		return true
	}
	t.whole.Add(n)
	return false
}

func newTally() *tally { return new(tally) }

// addFloat adds v to the float64 whose bits are in word. It reports whether
// nobody else did.
func addFloat(word *atomic.Uint64, v float64) (alone bool) {
	for alone = true; ; alone = false {
		old := word.Load()
		if word.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+v)) {
			return alone
		}
	}
}

// A Counter only grows. Its methods take no lock and allocate nothing.
type Counter struct{ laned[tally] }

func newCounter() *Counter { return &Counter{newLanes[tally]()} }

// Inc adds one.
func (c *Counter) Inc() { c.Add(1) }

// Add adds v. What is not a positive number adds nothing: some of what is
// counted is what a worker claims.
func (c *Counter) Add(v float64) {
	if c == nil || len(c.lanes) == 0 {
		return
	}
	t := Take()
	c.AddWith(t, v)
	t.Give()
}

// AddWith is Add for who has a Ticket.
func (c *Counter) AddWith(t *Ticket, v float64) {
	if c == nil || len(c.lanes) == 0 || !(v > 0) || math.IsInf(v, 1) {
		return
	}
	if !c.at(t.lane, newTally).add(v) {
		t.met()
	}
}

func (c *Counter) show(desc *prometheus.Desc, labels []string) prometheus.Metric {
	sum := 0.0
	c.each(func(t *tally) { sum += float64(t.whole.Load()) + math.Float64frombits(t.parts.Load()) })
	return prometheus.MustNewConstMetric(desc, prometheus.CounterValue, sum, labels...)
}

// A Histogram counts values by size. Its methods take no lock and allocate
// nothing.
type Histogram struct {
	bounds []float64 // of the buckets, constant; one more is for what is above
	laned[buckets]
}

// buckets is one lane of a Histogram. The first word is the sum of the values,
// as a float64's bits; the counts of the buckets follow.
type buckets struct{ words []atomic.Uint64 }

func newHistogram(bounds []float64) *Histogram {
	return &Histogram{bounds, newLanes[buckets]()}
}

// Observe counts v. Durations are in seconds. What is no number is not counted.
func (h *Histogram) Observe(v float64) {
	if h == nil || len(h.lanes) == 0 {
		return
	}
	t := Take()
	h.ObserveWith(t, v)
	t.Give()
}

// ObserveWith is Observe for who has a Ticket.
func (h *Histogram) ObserveWith(t *Ticket, v float64) {
	if h == nil || len(h.lanes) == 0 || math.IsNaN(v) {
		return
	}
	if !h.add(t.lane, v) {
		t.met()
	}
}

// add counts v in a lane. It reports whether nobody else did.
func (h *Histogram) add(lane uint32, v float64) (alone bool) {
	i := 0
	for i < len(h.bounds) && v > h.bounds[i] {
		i++
	}
	b := h.at(lane, h.newBuckets)
	b.words[1+i].Add(1)
	return addFloat(&b.words[0], v)
}

// newBuckets returns a lane that shares no pair of cache lines with another.
func (h *Histogram) newBuckets() *buckets {
	const pair = 16 // words
	n := 1 + len(h.bounds) + 1
	return &buckets{make([]atomic.Uint64, n, (n+pair-1)/pair*pair)}
}

func (h *Histogram) show(desc *prometheus.Desc, labels []string) prometheus.Metric {
	sum, counts := 0.0, make([]uint64, len(h.bounds)+1)
	h.each(func(b *buckets) {
		sum += math.Float64frombits(b.words[0].Load())
		for i := range counts {
			counts[i] += b.words[1+i].Load()
		}
	})
	upTo, n := make(map[float64]uint64, len(h.bounds)), uint64(0)
	for i, bound := range h.bounds {
		n += counts[i]
		upTo[bound] = n
	}
	return prometheus.MustNewConstHistogram(desc, n+counts[len(h.bounds)], sum, upTo, labels...)
}
