// Package metric holds the numbers that operators read.
//
// A metric is a field of its part's metrics struct, and nowhere else: Fill
// makes the fields from their tags, the documentation is written from the same
// tags, and a name that breaks the rules fails in the part's first test.
//
// Every method does nothing on a nil metric, so a part whose metrics were
// never filled runs without them.
package metric

import (
	"math"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// A Gauge is a value that goes up and down. Its methods take no lock and
// allocate nothing. All cores write to one word: what is written to at every
// request of a busy gateway should be a GaugeFunc.
type Gauge struct{ bits *atomic.Uint64 } // of a float64; nil if nothing is to be shown

func newGauge() *Gauge { return &Gauge{new(atomic.Uint64)} }

// Set makes the value v.
func (g *Gauge) Set(v float64) {
	if g != nil && g.bits != nil {
		g.bits.Store(math.Float64bits(v))
	}
}

// Add adds v, which may be negative.
func (g *Gauge) Add(v float64) {
	if g != nil && g.bits != nil {
		addFloat(g.bits, v)
	}
}

// Inc adds one.
func (g *Gauge) Inc() { g.Add(1) }

// Dec takes one away.
func (g *Gauge) Dec() { g.Add(-1) }

func (g *Gauge) show(desc *prometheus.Desc, labels []string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, math.Float64frombits(g.bits.Load()), labels...)
}

// A CounterVec is a Counter for each set of label values.
type CounterVec struct{ sets[Counter] }

// With returns the Counter for values, one for each label and in their order.
// Keep it where requests are many.
//
// A value is cut to 256 bytes of valid UTF-8. Once there are as many sets as
// the tag max allows, every new one is counted as "other" in all labels.
func (v *CounterVec) With(values ...string) *Counter {
	if v == nil {
		return nil
	}
	return v.with(values)
}

// Delete forgets one set. A Counter that With has returned for it counts on
// unseen.
func (v *CounterVec) Delete(values ...string) {
	if v != nil {
		v.delete(values)
	}
}

// DeleteLabel forgets every set whose label name has the value.
func (v *CounterVec) DeleteLabel(name, value string) {
	if v != nil {
		v.deleteLabel(name, value)
	}
}

// A GaugeVec is a Gauge for each set of label values.
type GaugeVec struct{ sets[Gauge] }

// With returns the Gauge for values, as CounterVec.With does.
func (v *GaugeVec) With(values ...string) *Gauge {
	if v == nil {
		return nil
	}
	return v.with(values)
}

// Delete forgets one set.
func (v *GaugeVec) Delete(values ...string) {
	if v != nil {
		v.delete(values)
	}
}

// DeleteLabel forgets every set whose label name has the value.
func (v *GaugeVec) DeleteLabel(name, value string) {
	if v != nil {
		v.deleteLabel(name, value)
	}
}

// A HistogramVec is a Histogram for each set of label values.
type HistogramVec struct{ sets[Histogram] }

// With returns the Histogram for values, as CounterVec.With does.
func (v *HistogramVec) With(values ...string) *Histogram {
	if v == nil {
		return nil
	}
	return v.with(values)
}

// Delete forgets one set.
func (v *HistogramVec) Delete(values ...string) {
	if v != nil {
		v.delete(values)
	}
}

// DeleteLabel forgets every set whose label name has the value.
func (v *HistogramVec) DeleteLabel(name, value string) {
	if v != nil {
		v.deleteLabel(name, value)
	}
}

// A GaugeFunc is a gauge that is asked for its value when it is read. It is
// absent until a function is set.
type GaugeFunc struct {
	desc *prometheus.Desc
	f    atomic.Pointer[func() float64]
}

// Set says how the value is had. f is called by several goroutines at once.
func (g *GaugeFunc) Set(f func() float64) {
	if g != nil {
		g.f.Store(&f)
	}
}

// Describe implements prometheus.Collector.
func (g *GaugeFunc) Describe(c chan<- *prometheus.Desc) { c <- g.desc }

// Collect implements prometheus.Collector.
func (g *GaugeFunc) Collect(c chan<- prometheus.Metric) {
	if f := g.f.Load(); f != nil {
		c <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, (*f)())
	}
}

// A GaugeVecFunc is a gauge for each of many things that know their values
// themselves, such as workers. It is asked when it is read, so nothing has to
// be deleted when a thing goes.
type GaugeVecFunc struct{ vecFunc }

// Set says how the values are had: f calls yield once for each set of label
// values. A set that repeats an earlier one, and those past the tag max, are
// left out. f is called by several goroutines at once.
func (g *GaugeVecFunc) Set(f func(yield func(value float64, labels ...string))) {
	if g != nil {
		g.f.Store(&f)
	}
}

// A CounterVecFunc is what a GaugeVecFunc is, for numbers that only grow.
type CounterVecFunc struct{ vecFunc }

// Set says how the values are had, as GaugeVecFunc.Set does.
func (c *CounterVecFunc) Set(f func(yield func(value float64, labels ...string))) {
	if c != nil {
		c.f.Store(&f)
	}
}

type vecFunc struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	labels int // how many
	max    int // sets shown
	f      atomic.Pointer[func(yield func(value float64, labels ...string))]
}

// Describe implements prometheus.Collector.
func (v *vecFunc) Describe(c chan<- *prometheus.Desc) { c <- v.desc }

// Collect implements prometheus.Collector.
func (v *vecFunc) Collect(c chan<- prometheus.Metric) {
	f := v.f.Load()
	if f == nil {
		return
	}
	seen := map[string]bool{}
	(*f)(func(value float64, labels ...string) {
		wantLabels(len(labels), v.labels)
		key := string(appendKey(nil, labels))
		if seen[key] || len(seen) >= v.max {
			return
		}
		seen[key] = true
		c <- prometheus.MustNewConstMetric(v.desc, v.kind, value, clean(labels)...)
	})
}
