package metric

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Fill makes every exported field of the struct that ms points to and adds it
// to r. If r is nil the fields stay nil, which is to say that nothing is
// counted.
//
// The fields are pointers to this package's metrics, with the tags
//
//	name     smg_… as the contract has it, or sluice_… for what is new
//	help     one sentence
//	labels   names, comma-separated; for the vecs
//	buckets  "duration" or ascending bounds, comma-separated; for histograms.
//	         Without it, names that end in duration_seconds, ttft_seconds or
//	         tpot_seconds have "duration"
//	max      how many label sets a vec may have; 10,000 without it
//
// Fill panics if a tag breaks a rule or a name is taken.
func Fill(r *Registry, ms any) {
	v := reflect.ValueOf(ms)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("BUG: metrics must be a pointer to a struct, not %T", ms))
	}
	if r == nil {
		return
	}
	for i := range v.Elem().NumField() {
		f := v.Elem().Type().Field(i)
		if _, tagged := f.Tag.Lookup("name"); !tagged && !f.IsExported() {
			continue // the part's own
		}
		if err := r.fill(f, v.Elem().Field(i)); err != nil {
			panic(fmt.Sprintf("BUG: %T.%s: %v", ms, f.Name, err))
		}
	}
}

// tags are a field's, read.
type tags struct {
	Desc
	buckets []float64
	max     int
}

func (r *Registry) fill(f reflect.StructField, v reflect.Value) error {
	if !v.CanSet() {
		return fmt.Errorf("field is not exported")
	}
	t, err := r.read(f)
	if err != nil {
		return err
	}
	metric, c, err := t.make(f.Type)
	if err != nil {
		return err
	}
	if err := r.prom.Register(c); err != nil {
		return fmt.Errorf("registering %s: %w", t.Name, err)
	}
	v.Set(reflect.ValueOf(metric))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.descs = append(r.descs, t.Desc)
	return nil
}

// make returns a metric of the type of the field, and what collects it.
func (t *tags) make(field reflect.Type) (metric any, c prometheus.Collector, err error) {
	desc := prometheus.NewDesc(t.Name, t.Help, t.Labels, nil)
	switch reflect.Zero(field).Interface().(type) {
	case *Counter:
		c := newCounter()
		return c, unlabelled{desc, c}, nil
	case *Gauge:
		g := newGauge()
		return g, unlabelled{desc, g}, nil
	case *Histogram:
		h := newHistogram(t.buckets)
		return h, unlabelled{desc, h}, nil
	case *GaugeFunc:
		g := &GaugeFunc{desc: desc}
		return g, g, nil
	case *GaugeVecFunc:
		g := new(GaugeVecFunc)
		t.ask(&g.vecFunc, desc, prometheus.GaugeValue)
		return g, g, nil
	case *CounterVecFunc:
		c := new(CounterVecFunc)
		t.ask(&c.vecFunc, desc, prometheus.CounterValue)
		return c, c, nil
	case *CounterVec:
		v := new(CounterVec)
		v.fill(t, desc, newCounter, (*Counter).show)
		return v, v, nil
	case *GaugeVec:
		v := new(GaugeVec)
		v.fill(t, desc, newGauge, (*Gauge).show)
		return v, v, nil
	case *HistogramVec:
		v := new(HistogramVec)
		v.fill(t, desc, func() *Histogram { return newHistogram(t.buckets) }, (*Histogram).show)
		return v, v, nil
	}
	return nil, nil, fmt.Errorf("%v is not a metric", field)
}

// unlabelled shows a metric that has no labels.
type unlabelled struct {
	desc   *prometheus.Desc
	metric interface {
		show(*prometheus.Desc, []string) prometheus.Metric
	}
}

// Describe implements prometheus.Collector.
func (u unlabelled) Describe(c chan<- *prometheus.Desc) { c <- u.desc }

// Collect implements prometheus.Collector.
func (u unlabelled) Collect(c chan<- prometheus.Metric) { c <- u.metric.show(u.desc, nil) }

// ask makes v what the tags say.
func (t *tags) ask(v *vecFunc, desc *prometheus.Desc, kind prometheus.ValueType) {
	v.desc, v.kind = desc, kind
	v.labels, v.max = len(t.Labels), t.max
}

var (
	nameRule  = regexp.MustCompile(`^(smg|sluice)_[a-z0-9_]+$`)
	labelRule = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	// ownUnits end the names of histograms that the contract does not fix.
	ownUnits = []string{"_seconds", "_bytes", "_ratio", "_tokens"}
	// wrongUnits end no name of ours: Prometheus measures in seconds and bytes.
	wrongUnits = []string{"_ns", "_us", "_ms", "_milliseconds", "_microseconds", "_minutes", "_hours", "_kb", "_mb", "_kib", "_mib", "_percent"}
)

// read returns f's tags, or which rule they break.
func (r *Registry) read(f reflect.StructField) (*tags, error) {
	t := &tags{Desc: Desc{Name: f.Tag.Get("name"), Help: f.Tag.Get("help")}, max: maxSets}
	kind, vec := kindOf(f.Type)
	t.Type = kind
	if kind == "" {
		return nil, fmt.Errorf("%v is not a metric", f.Type)
	}
	if err := lint(t.Name, kind); err != nil {
		return nil, err
	}
	if strings.TrimSpace(t.Help) == "" {
		return nil, fmt.Errorf("%s has no help", t.Name)
	}
	if s := f.Tag.Get("labels"); s != "" {
		t.Labels = strings.Split(s, ",")
	}
	if vec != (len(t.Labels) > 0) {
		return nil, fmt.Errorf("%s: a %v has labels %v", t.Name, f.Type, t.Labels)
	}
	for i, l := range t.Labels {
		if !labelRule.MatchString(l) || slices.Contains(t.Labels[:i], l) || kind == "histogram" && l == "le" {
			return nil, fmt.Errorf("%s: bad label %q", t.Name, l)
		}
	}
	if s, ok := f.Tag.Lookup("max"); ok {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || !vec {
			return nil, fmt.Errorf("%s: max %q; want a positive number, on a vec", t.Name, s)
		}
		t.max = n
	}
	var err error
	t.buckets, err = r.buckets(t.Name, kind, f.Tag.Get("buckets"))
	return t, err
}

// kindOf returns the Prometheus type of a field, "" if it is none.
func kindOf(t reflect.Type) (kind string, vec bool) {
	switch reflect.Zero(t).Interface().(type) {
	case *Counter:
		return "counter", false
	case *CounterVec, *CounterVecFunc:
		return "counter", true
	case *Gauge, *GaugeFunc:
		return "gauge", false
	case *GaugeVec, *GaugeVecFunc:
		return "gauge", true
	case *Histogram:
		return "histogram", false
	case *HistogramVec:
		return "histogram", true
	}
	return "", false
}

// lint says which rule a name breaks. Names of the contract keep the units
// they have.
func lint(name, kind string) error {
	ends := func(suffixes []string) bool {
		return slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) })
	}
	own := strings.HasPrefix(name, "sluice_")
	switch total := strings.HasSuffix(name, "_total"); {
	case !nameRule.MatchString(name):
		return fmt.Errorf("name %q; want %v", name, nameRule)
	case total != (kind == "counter"):
		return fmt.Errorf("name %q of a %s; counters end in _total, and nothing else does", name, kind)
	case own && ends(wrongUnits):
		return fmt.Errorf("name %q; want seconds, bytes or a ratio", name)
	case own && kind == "histogram" && !ends(ownUnits):
		return fmt.Errorf("name %q of a histogram; want a unit at its end, one of %v", name, ownUnits)
	}
	return nil
}

// buckets returns a histogram's bounds.
func (r *Registry) buckets(name, kind, tag string) ([]float64, error) {
	if kind != "histogram" {
		if tag != "" {
			return nil, fmt.Errorf("%s: a %s has buckets %q", name, kind, tag)
		}
		return nil, nil
	}
	measures := strings.HasSuffix(name, "duration_seconds") || strings.HasSuffix(name, "ttft_seconds") || strings.HasSuffix(name, "tpot_seconds")
	if tag == "duration" || tag == "" && measures {
		return r.duration, nil
	}
	var bounds []float64
	for s := range strings.SplitSeq(tag, ",") {
		x, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) || len(bounds) > 0 && x <= bounds[len(bounds)-1] {
			return nil, fmt.Errorf(`%s: buckets %q; want "duration" or ascending numbers`, name, tag)
		}
		bounds = append(bounds, x)
	}
	return bounds, nil
}
