package metric

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	maxSets  = 10_000 // of label values in one vec, unless the tag max says otherwise
	maxValue = 256    // bytes of one label value
	other    = "other"
)

// sets is the label sets of one vec. Those that are in use are found without a
// lock: readers look in an immutable copy, which is renewed when it has missed
// a quarter of what there is, so that n sets cost O(n) copying.
type sets[T any] struct {
	labels []string                                               // constant
	max    int                                                    // constant; how many sets but the overflow
	desc   *prometheus.Desc                                       // constant
	create func() *T                                              // constant; nil if nothing is to be counted
	show   func(*T, *prometheus.Desc, []string) prometheus.Metric // constant
	read   atomic.Pointer[setMap[T]]                              // immutable, lags behind all

	mu     sync.Mutex
	all    setMap[T] // guarded by mu
	missed int       // guarded by mu; lookups that needed all since read was renewed
}

// setMap is keyed as appendKey has it.
type setMap[T any] map[string]set[T]

type set[T any] struct {
	values []string // constant
	metric *T
}

func (s *sets[T]) fill(t *tags, desc *prometheus.Desc, create func() *T, show func(*T, *prometheus.Desc, []string) prometheus.Metric) {
	s.labels, s.max, s.desc, s.create, s.show = t.Labels, t.max, desc, create, show
}

// Describe implements prometheus.Collector.
func (s *sets[T]) Describe(c chan<- *prometheus.Desc) { c <- s.desc }

// Collect implements prometheus.Collector.
func (s *sets[T]) Collect(c chan<- prometheus.Metric) {
	for _, set := range s.list() {
		c <- s.show(set.metric, s.desc, set.values)
	}
}

func (s *sets[T]) list() []set[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.all))
}

func (s *sets[T]) with(values []string) *T {
	if s.create == nil {
		return nil
	}
	wantLabels(len(values), len(s.labels))
	var buf [256]byte
	key := appendKey(buf[:0], values)
	if m := s.read.Load(); m != nil {
		if set, ok := (*m)[string(key)]; ok {
			return set.metric
		}
	}
	return s.find(key, values)
}

// find returns the metric for key from all, where it is made if need be.
func (s *sets[T]) find(key []byte, values []string) *T {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.all[string(key)]; ok {
		s.missedLocked()
		return found.metric
	}
	own := clean(values)
	if len(s.all) >= s.max {
		for i := range own {
			own[i] = other
		}
		key = appendKey(nil, own)
		if found, ok := s.all[string(key)]; ok {
			return found.metric
		}
	}
	if s.all == nil {
		s.all = setMap[T]{}
	}
	made := set[T]{values: own, metric: s.create()}
	s.all[string(key)] = made
	s.missedLocked()
	return made.metric
}

// missedLocked notes that read did not know a set that is in all. s.mu must be
// held.
func (s *sets[T]) missedLocked() {
	if s.missed++; s.missed > len(s.all)/4 {
		s.publishLocked()
	}
}

// publishLocked renews read. s.mu must be held.
func (s *sets[T]) publishLocked() {
	m := maps.Clone(s.all)
	s.read.Store(&m)
	s.missed = 0
}

func (s *sets[T]) delete(values []string) {
	if s.create == nil {
		return
	}
	wantLabels(len(values), len(s.labels))
	key := string(appendKey(nil, values))
	s.deleteIf(func(k string, _ set[T]) bool { return k == key })
}

func (s *sets[T]) deleteLabel(name, value string) {
	if s.create == nil {
		return
	}
	i := slices.Index(s.labels, name)
	if i < 0 {
		panic(fmt.Sprintf("BUG: no label %q among %v", name, s.labels))
	}
	value = tame(value)
	s.deleteIf(func(_ string, set set[T]) bool { return set.values[i] == value })
}

func (s *sets[T]) deleteIf(gone func(key string, set set[T]) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.all)
	for key, set := range s.all {
		if gone(key, set) {
			delete(s.all, key)
		}
	}
	if len(s.all) != n {
		s.publishLocked()
	}
}

// wantLabels holds that a caller gave as many values as there are labels.
func wantLabels(got, want int) {
	if got != want {
		panic(fmt.Sprintf("BUG: %d label values, want %d", got, want))
	}
}

// appendKey appends the tamed values, ended by a byte that UTF-8 never has.
func appendKey(dst []byte, values []string) []byte {
	for _, v := range values {
		dst = append(append(dst, tame(v)...), 0xff)
	}
	return dst
}

// clean returns tamed copies of values, which keep nothing else in memory.
func clean(values []string) []string {
	own := make([]string, len(values))
	for i, v := range values {
		own[i] = strings.Clone(tame(v))
	}
	return own
}

// tame cuts v to maxValue bytes and makes it valid UTF-8.
func tame(v string) string {
	if len(v) > maxValue {
		n := maxValue
		for n > maxValue-utf8.UTFMax && !utf8.RuneStart(v[n]) {
			n--
		}
		v = v[:n]
	}
	if !utf8.ValidString(v) {
		v = strings.ToValidUTF8(v, "?")
	}
	return v
}
