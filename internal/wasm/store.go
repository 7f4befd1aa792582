package wasm

import (
	"container/list"
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

	counters sync.Map // name to *atomic.Uint64
	names    atomic.Int32
}

type entry struct {
	key  string
	n    int64
	ends time.Time // zero for never
}

// NewStore returns an empty Store.
func NewStore() *Store { return &Store{keys: make(map[string]*list.Element)} }

// cut shortens a key, so that one can always be counted.
func cut(s string, most int) string { return s[:min(len(s), most)] }

// Add adds to the number under key, which lives for ttl milliseconds from now on;
// 0 for as long as there is room. It returns the number.
func (s *Store) Add(key string, by int64, ttl uint64) int64 {
	key = cut(key, maxKey)
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
		e = s.used.PushFront(&entry{key: key})
		s.keys[key] = e
	} else {
		s.used.MoveToFront(e)
	}
	n := e.Value.(*entry)
	if !n.ends.IsZero() && !now.Before(n.ends) {
		n.n = 0
	}
	n.n += by
	n.ends = time.Time{}
	if ttl > 0 {
		n.ends = now.Add(time.Duration(min(ttl, uint64(maxTTL/time.Millisecond))) * time.Millisecond)
	}
	return n.n
}

const maxTTL = 365 * 24 * time.Hour

// Get returns the number under key, 0 if there is none.
func (s *Store) Get(key string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.keys[cut(key, maxKey)]
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

// Count adds to a counter. One that is too many is counted as "other".
func (s *Store) Count(name string, by uint64) {
	c, ok := s.counters.Load(cut(name, maxCounter))
	if !ok {
		if s.names.Add(1) > maxCounters {
			s.names.Add(-1)
			name = "other"
		}
		c, _ = s.counters.LoadOrStore(cut(name, maxCounter), new(atomic.Uint64))
	}
	c.(*atomic.Uint64).Add(by)
}

// Counters yields the counters.
func (s *Store) Counters(yield func(name string, n uint64)) {
	s.counters.Range(func(k, v any) bool {
		yield(k.(string), v.(*atomic.Uint64).Load())
		return true
	})
}
