package wasm

import (
	"container/list"
	"maps"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a Store.
const (
	maxKeys     = 4096
	maxKey      = 256
	maxCounters = 64
	maxCounter  = 64
)

// A Store is what a module remembers of all requests: numbers under keys, and
// counters that are metrics.
type Store struct {
	mu   sync.Mutex               // guards what follows; a guest holds it for one number
	keys map[string]*list.Element // of used
	used list.List                // *entry, the one used last first

	counters atomic.Pointer[map[string]*atomic.Uint64] // replaced as a whole, with mu held
}

type entry struct {
	key  string
	n    int64
	ends time.Time // zero for never
}

// NewStore returns an empty Store.
func NewStore() *Store { return &Store{keys: make(map[string]*list.Element)} }

// Add adds to the number under key, which lives for ttl milliseconds from now on;
// 0 for as long as there is room. It returns the number, which stays at the least
// and the largest that there are. key may be of memory that changes once Add has
// returned, and has at most maxKey bytes.
func (s *Store) Add(key string, by int64, ttl uint64) int64 {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.keys[key]
	if e == nil {
		if len(s.keys) >= maxKeys {
			last := s.used.Back()
			delete(s.keys, last.Value.(*entry).key)
			s.used.Remove(last)
		}
		key = strings.Clone(key)
		e = s.used.PushFront(&entry{key: key})
		s.keys[key] = e
	} else {
		s.used.MoveToFront(e)
	}
	n := e.Value.(*entry)
	if !n.ends.IsZero() && !now.Before(n.ends) {
		n.n = 0
	}
	n.n = plus(n.n, by)
	n.ends = time.Time{}
	if ttl > 0 {
		n.ends = now.Add(time.Duration(min(ttl, uint64(maxTTL/time.Millisecond))) * time.Millisecond)
	}
	return n.n
}

// plus is a + b, or the nearest to that that there is.
func plus(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}

const maxTTL = 365 * 24 * time.Hour

// Get returns the number under key, 0 if there is none.
func (s *Store) Get(key string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.keys[key]
	if e == nil {
		return 0
	}
	n := e.Value.(*entry)
	if !n.ends.IsZero() && !time.Now().Before(n.ends) {
		return 0
	}
	s.used.MoveToFront(e)
	return n.n
}

// Count adds to a counter. One that is too many is counted as "other". name may
// be of memory that changes once Count has returned, and has at most maxCounter
// bytes.
func (s *Store) Count(name string, by uint64) {
	if m := s.counters.Load(); m != nil {
		if c := (*m)[name]; c != nil {
			c.Add(by)
			return
		}
	}
	s.counter(name).Add(by)
}

// counter returns the counter of a name, and makes it if need be.
func (s *Store) counter(name string) *atomic.Uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var m map[string]*atomic.Uint64
	if p := s.counters.Load(); p != nil {
		m = *p
	}
	if m[name] == nil && len(m) >= maxCounters {
		name = otherCounter
	}
	if c := m[name]; c != nil {
		return c
	}
	next := make(map[string]*atomic.Uint64, len(m)+1)
	maps.Copy(next, m)
	c := new(atomic.Uint64)
	next[strings.Clone(name)] = c
	s.counters.Store(&next)
	return c
}

// otherCounter is what is counted of names that are too many.
const otherCounter = "other"

// Counters yields the counters.
func (s *Store) Counters(yield func(name string, n uint64)) {
	if m := s.counters.Load(); m != nil {
		for name, c := range *m {
			yield(name, c.Load())
		}
	}
}
