package blocks

import (
	"sync"
	"sync/atomic"
)

const (
	shards      = 256
	slabEntries = 32
	slabBytes   = 40 * slabEntries // of 40 and 20 bytes, below: a size the runtime has
	slabGroups  = 2 * slabEntries

	nobody  = 0xffff // in entry.holder: no holder there
	many    = 0xfffe // in entry.holder[0]: entry.group[0] is the place of a set
	holders = many   // numbers of holders are less
)

// An entry is one block: 40 bytes, and no pointers, so that the garbage collector
// has nothing to look at. What comes before a block is part of its name, so who
// holds a block holds its parent too.
type entry struct {
	key    uint64 // written with atomic stores: see warm
	parent uint64 // the key of the block before it, 0 for none
	next   uint32 // of those in its bucket: place+1, 0 for the last
	seen   uint32 // when it was last asked for, in seconds
	hits   float32
	holder [2]uint16
	group  [2]uint32 // of each holder's, that the block is in
}

// A slab is the memory of entries, or of a holder's groups.
type slab struct {
	entries [slabEntries]entry
}

// A table is how a shard finds its entries. It is replaced when it grows.
type table struct {
	buckets []uint32               // place+1 of the first entry, 0 for none; atomic stores
	slabs   []atomic.Pointer[slab] // entries in use are the first n of all
}

// at returns the entry at a place in use.
func (t *table) at(place uint32) *entry {
	return &t.slabs[place/slabEntries].Load().entries[place%slabEntries]
}

// bucket returns where the entries with that key begin. A key's upper bits have
// chosen the shard.
func (t *table) bucket(key uint64) *uint32 { return &t.buckets[key&uint64(len(t.buckets)-1)] }

// A shard holds the blocks whose keys begin with one byte. Its entries lie close
// together: the last takes the place of one that goes, so that what is not needed
// can be given back.
type shard struct {
	mu    sync.Mutex
	n     uint32                // guarded by mu; entries
	slabs int                   // guarded by mu; that it has
	table atomic.Pointer[table] // replaced with mu held
	sets  []set                 // guarded by mu; the holders of entries with many
	free  []uint32              // guarded by mu; places in sets that are not in use

	_ [128 - 80]byte // each on cache lines of its own
}

// find returns the entry of key and its place, or nil. s.mu must be held.
func (s *shard) find(key uint64) (*entry, uint32) {
	t := s.table.Load()
	if t == nil {
		return nil, 0
	}
	for i := *t.bucket(key); i != 0; {
		e := t.at(i - 1)
		if e.key == key {
			return e, i - 1
		}
		i = e.next
	}
	return nil, 0
}

// warm reads what find will read of key, without the lock. What it finds has no
// meaning: it is in the cache then, and many keys can be waited for at once, which
// locks would keep apart.
func (s *shard) warm(key uint64) {
	t := s.table.Load()
	if t == nil {
		return
	}
	i := atomic.LoadUint32(t.bucket(key))
	if i == 0 || int(i-1)/slabEntries >= len(t.slabs) {
		return
	}
	if l := t.slabs[(i-1)/slabEntries].Load(); l != nil {
		atomic.LoadUint64(&l.entries[(i-1)%slabEntries].key)
	}
}

// add makes an entry for key, which has none. It returns nil if there is no
// memory for it. s.mu must be held.
func (s *shard) add(a *account, key, parent uint64) *entry {
	t := s.table.Load()
	if t == nil || int(s.n) == s.slabs*slabEntries {
		if t = s.grow(a); t == nil {
			return nil
		}
	}
	e := t.at(s.n)
	atomic.StoreUint64(&e.key, key)
	e.parent, e.seen, e.hits = parent, 0, 0
	e.holder, e.group = [2]uint16{nobody, nobody}, [2]uint32{}
	b := t.bucket(key)
	e.next = *b
	s.n++
	atomic.StoreUint32(b, s.n)
	return e
}

// grow gets s another slab, and larger lists if they are full. It returns nil if
// there is no memory. s.mu must be held.
func (s *shard) grow(a *account) *table {
	t := s.table.Load()
	switch {
	case t == nil:
		if !a.take(tableBytes(slabEntries, 1)) {
			return nil
		}
		t = &table{make([]uint32, slabEntries), make([]atomic.Pointer[slab], 1)}
		s.table.Store(t)
	case s.slabs == len(t.slabs):
		bigger := &table{t.buckets, make([]atomic.Pointer[slab], 2*len(t.slabs))}
		if !a.take(tableBytes(0, len(bigger.slabs))) {
			return nil
		}
		for i := range t.slabs {
			bigger.slabs[i].Store(t.slabs[i].Load())
		}
		a.give(tableBytes(0, len(t.slabs)))
		t = bigger
		s.table.Store(t)
	}
	if int(s.n) >= len(t.buckets) && a.take(tableBytes(2*len(t.buckets), 0)) {
		t = s.rehash(a, t)
	}
	l := a.takeSlab()
	if l == nil {
		return nil
	}
	t.slabs[s.slabs].Store(l)
	s.slabs++
	return t
}

// tableBytes is the memory of that many buckets and places for slabs.
func tableBytes(buckets, slabs int) int64 {
	return int64(buckets)*4 + int64(slabs)*8 + 64
}

// rehash doubles t's buckets, whose memory was taken. s.mu must be held.
func (s *shard) rehash(a *account, t *table) *table {
	bigger := &table{make([]uint32, 2*len(t.buckets)), t.slabs}
	for i := range s.n {
		e := t.at(i)
		b := bigger.bucket(e.key)
		e.next = *b
		*b = i + 1
	}
	s.table.Store(bigger)
	a.give(tableBytes(len(t.buckets), 0))
	return bigger
}

// remove takes out e, which is at place and which nobody holds. s.mu must be
// held.
func (s *shard) remove(a *account, e *entry, place uint32) {
	t := s.table.Load()
	s.point(t, e.key, place+1, e.next)
	last := s.n - 1
	if place != last {
		l := t.at(last)
		s.point(t, l.key, last+1, place+1)
		atomic.StoreUint64(&e.key, l.key)
		e.parent, e.next, e.seen, e.hits = l.parent, l.next, l.seen, l.hits
		e.holder, e.group = l.holder, l.group
	}
	s.n = last
	// Not at once: the next block may want it again.
	if s.slabs > 0 && int(s.n) <= (s.slabs-1)*slabEntries-slabEntries/2 || s.n == 0 {
		s.slabs--
		a.giveSlab(t.slabs[s.slabs].Swap(nil))
	}
}

// point makes what points to one entry of key's bucket point to another: their
// places+1. s.mu must be held.
func (s *shard) point(t *table, key uint64, from, to uint32) {
	b := t.bucket(key)
	if *b == from {
		atomic.StoreUint32(b, to)
		return
	}
	for i := *b; i != 0; {
		e := t.at(i - 1)
		if e.next == from {
			e.next = to
			return
		}
		i = e.next
	}
}

// halfLife is after how many seconds a hit counts half. What is past the end of
// fade counts nothing.
const halfLife = 120

var fade = func() (f [10 * halfLife]float32) {
	// 2^(-1/120), multiplied up: math.Exp2 of each is no more exact in 32 bits.
	x := 1.0
	for i := range f {
		f[i] = float32(x)
		x *= 0.99424043717655
	}
	return f
}()

// hitsAt returns how many of e's hits count at now.
func (e *entry) hitsAt(now uint32) float32 {
	dt := int32(now - e.seen)
	switch {
	case dt <= 0:
		return e.hits
	case int(dt) >= len(fade):
		return 0
	}
	return e.hits * fade[dt]
}

// hit counts one.
func (e *entry) hit(now uint32) {
	e.hits = e.hitsAt(now) + 1
	if int32(now-e.seen) > 0 || e.hits == 1 {
		e.seen = now
	}
}
