package blocks

import (
	"sync"
	"sync/atomic"
)

const (
	shards       = 256
	firstBuckets = 32
)

// A table is how a shard finds its blocks. It is replaced when it grows.
type table struct {
	buckets []uint32 // the first block of each, 0 for none; atomic stores
}

// bucket returns where the blocks with that key begin. A key's upper bits have
// chosen the shard.
func (t *table) bucket(key uint64) *uint32 { return &t.buckets[key&uint64(len(t.buckets)-1)] }

// tableBytes is the memory of a table of that many buckets.
func tableBytes(buckets int) int64 { return int64(buckets)*4 + 32 }

// A shard is the blocks whose keys begin with one byte: how they are found, and
// who holds them.
type shard struct {
	mu    sync.Mutex
	n     int                   // guarded by mu; blocks
	table atomic.Pointer[table] // nil before the first block; replaced with mu held
	sets  []set                 // guarded by mu; the holders of blocks with many
	free  []uint32              // guarded by mu; places in sets that are not in use

	_ [128 - 72]byte // each on cache lines of its own
}

// find returns the block of key, nil for none. s.mu must be held.
func (s *shard) find(all *slabs, key uint64) (*body, uint32) {
	t := s.table.Load()
	if t == nil {
		return nil, 0
	}
	for id := *t.bucket(key); id != 0; {
		l := all.at(id)
		i := id % (1 << slabShift)
		if l.keys[i] == key {
			return &l.bodies[i], id
		}
		id = l.bodies[i].next
	}
	return nil, 0
}

// warmed is how many keys are waited for at once.
const warmed = 32

// warm reads what find will read of keys, at most warmed ones, without the locks.
// What it reads has no meaning, and may be of another moment: it is in the cache
// then. The processor waits for many at once, which locks would keep apart.
func (ix *Index) warm(keys []uint64) {
	var first [warmed]uint32
	for i, key := range keys {
		if t := ix.shard(key).table.Load(); t != nil {
			first[i] = atomic.LoadUint32(t.bucket(key))
		}
	}
	for i, key := range keys {
		for id := first[i]; id != 0; {
			l := ix.slabs.at(id)
			if l == nil || atomic.LoadUint64(&l.keys[id%(1<<slabShift)]) == key {
				break
			}
			id = atomic.LoadUint32(&l.bodies[id%(1<<slabShift)].next)
		}
	}
}

// room makes a table for one more block, or a larger one. It reports false if
// there is no memory for the first. s.mu must be held.
func (s *shard) room(all *slabs) bool {
	t := s.table.Load()
	if t == nil {
		if !all.account.take(tableBytes(firstBuckets)) {
			return false
		}
		s.table.Store(&table{make([]uint32, firstBuckets)})
		return true
	}
	// Half of the buckets stay empty: what else is in a bucket has to be waited
	// for. If there is no memory for more, some blocks later there may be.
	if 2*s.n < len(t.buckets) || s.n%(firstBuckets/2) != 0 || !all.account.take(tableBytes(2*len(t.buckets))) {
		return true
	}
	bigger := &table{make([]uint32, 2*len(t.buckets))}
	for _, id := range t.buckets {
		for id != 0 {
			e := all.block(id)
			next := e.next
			b := bigger.bucket(all.key(id))
			atomic.StoreUint32(&e.next, *b)
			*b = id
			id = next
		}
	}
	s.table.Store(bigger)
	all.account.give(tableBytes(len(t.buckets)))
	return true
}

// add makes id, a free place, the block of key, which has none and which holder
// is going to hold. s.mu must be held, and room have been made.
func (s *shard) add(all *slabs, id uint32, key uint64, parent uint32) *body {
	l := all.at(id)
	e := &l.bodies[id%(1<<slabShift)]
	b := s.table.Load().bucket(key)
	atomic.StoreUint32(&e.next, *b)
	atomic.StoreUint32(b, id)
	atomic.StoreUint64(&l.keys[id%(1<<slabShift)], key)
	e.parent, e.seen, e.hits = parent, 0, 0
	e.holder, e.group = [2]uint16{nobody, nobody}, [2]uint32{}
	s.n++
	return e
}

// remove takes out block id, which nobody holds. s.mu must be held.
func (s *shard) remove(all *slabs, id uint32) {
	l := all.at(id)
	i := id % (1 << slabShift)
	key, next := l.keys[i], l.bodies[i].next
	at := s.table.Load().bucket(key)
	for *at != id {
		at = &all.block(*at).next
	}
	atomic.StoreUint32(at, next)
	atomic.StoreUint64(&l.keys[i], 0)
	s.n--
	all.release(id)
}
