package blocks

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	slabBlocks = 56
	slabBytes  = 2048 // a size that the runtime has
	slabShift  = 6
	fewBlocks  = slabBlocks / 2

	nobody  = 0xffff // in body.holder: no holder there
	many    = 0xfffe // in body.holder[0]: body.group[0] is the place of a set
	holders = many   // numbers of holders are less
)

// A body is what is known of one block, but for its key: 28 bytes, without a
// pointer, so that the garbage collector has nothing to look at. It is guarded by
// the lock of its key's shard.
type body struct {
	parent uint32 // the block before it, 0 for none
	next   uint32 // in its bucket, 0 for the last; atomic stores: see warm
	seen   uint32 // when it was last asked for, in seconds
	hits   float32
	holder [2]uint16
	group  [2]uint32 // of each holder's, that the block is in
}

// A slab is the memory of blocks that came one after another, so that a prompt's
// mostly lie in a row. A block is known by a number: that of its slab, and its
// place there. It keeps it for as long as anybody holds it.
type slab struct {
	keys   [slabBlocks]uint64 // 0 for none; written with the lock of the key's shard and atomic stores
	bodies [slabBlocks]body
	used   atomic.Uint64 // a bit for each place

	// Guarded by slabs.mu.
	state        slabState
	older, newer uint32 // in the list of slabs with few blocks, 0 for none
	_            [8]byte
}

// A slabState says who may put blocks into a slab.
type slabState uint32

const (
	settled slabState = iota // nobody
	owned                    // one holder
	listed                   // nobody yet: few blocks are left in it
)

// slabs are those of one Index.
type slabs struct {
	account *account
	all     atomic.Pointer[[]atomic.Pointer[slab]] // by number; 0 is not used. Replaced with mu held

	mu     sync.Mutex
	used   uint32   // guarded by mu; numbers up to this one were given
	unused []uint32 // guarded by mu; numbers that were given back
	few    uint32   // guarded by mu; the first in the list of those with few blocks
}

// pointerBytes is what a pointer in a list takes: the runtime needs some of its
// own for lists that have any.
const pointerBytes = 9

// slabsBytes is what the lists for n slabs take.
func slabsBytes(n int) int64 { return int64(n) * (pointerBytes + 4) }

// at returns the slab that block id is in, nil if there is none.
func (s *slabs) at(id uint32) *slab {
	all := *s.all.Load()
	if n := id >> slabShift; int(n) < len(all) {
		return all[n].Load()
	}
	return nil
}

// block returns the body of block id, which somebody holds.
func (s *slabs) block(id uint32) *body { return &s.at(id).bodies[id%(1<<slabShift)] }

// key returns the key that block id has now, 0 for none.
func (s *slabs) key(id uint32) uint64 {
	l, i := s.at(id), id%(1<<slabShift)
	if l == nil || i >= slabBlocks {
		return 0
	}
	return atomic.LoadUint64(&l.keys[i])
}

// warm reads what will be read of block id and up to n that lie behind it, as
// Index.warm does.
func (s *slabs) warm(id uint32, n int) {
	l, i := s.at(id), int(id%(1<<slabShift))
	end := min(i+n, slabBlocks)
	for k := i; k < end; k += 8 { // 64 bytes
		atomic.LoadUint64(&l.keys[k])
	}
	for ; i < end; i += 2 { // 56
		atomic.LoadUint32(&l.bodies[i].next)
	}
}

// own returns the number of a slab into which the caller may put blocks: a new
// one, or one that has few if there is no memory. It returns 0 if there is none.
func (s *slabs) own() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.newLocked(); n != 0 {
		return n
	}
	n := s.few
	if n == 0 {
		return 0
	}
	l := (*s.all.Load())[n].Load()
	s.unlinkLocked(l)
	l.state = owned
	return n
}

// newLocked returns the number of an empty slab, 0 if there is no memory. s.mu
// must be held.
func (s *slabs) newLocked() uint32 {
	all := *s.all.Load()
	if len(s.unused) == 0 && int(s.used)+1 >= len(all) {
		bigger := make([]atomic.Pointer[slab], max(2*len(all), 64))
		if !s.account.take(slabsBytes(len(bigger))) {
			return 0
		}
		for i := range all {
			bigger[i].Store(all[i].Load())
		}
		s.account.give(slabsBytes(len(all)))
		s.unused = make([]uint32, 0, len(bigger))
		s.all.Store(&bigger)
		all = bigger
	}
	l := s.account.takeSlab()
	if l == nil {
		return 0
	}
	l.state = owned
	n := s.used + 1
	if k := len(s.unused) - 1; k >= 0 {
		n, s.unused = s.unused[k], s.unused[:k]
	} else {
		s.used = n
	}
	all[n].Store(l)
	return n
}

// disown says that the caller of own puts no more blocks into slab n.
func (s *slabs) disown(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	(*s.all.Load())[n].Load().state = settled
	s.settleLocked(n)
}

// settleLocked gives slab n back if it is empty, and lists it if it has few
// blocks. s.mu must be held.
func (s *slabs) settleLocked(n uint32) {
	all := *s.all.Load()
	l := all[n].Load()
	if l == nil || l.state == owned {
		return
	}
	left := bits.OnesCount64(l.used.Load())
	switch {
	case left == 0:
		if l.state == listed {
			s.unlinkLocked(l)
		}
		all[n].Store(nil)
		s.unused = append(s.unused, n)
		s.account.giveSlab(l)
	case left <= fewBlocks && l.state == settled:
		l.state, l.older, l.newer = listed, s.few, 0
		if s.few != 0 {
			all[s.few].Load().newer = n
		}
		s.few = n
	}
}

// unlinkLocked takes l out of the list. s.mu must be held.
func (s *slabs) unlinkLocked(l *slab) {
	all := *s.all.Load()
	if l.newer != 0 {
		all[l.newer].Load().older = l.older
	} else {
		s.few = l.older
	}
	if l.older != 0 {
		all[l.older].Load().newer = l.newer
	}
	l.older, l.newer, l.state = 0, 0, settled
}

// release makes block id's place free. Its key must be 0.
func (s *slabs) release(id uint32) {
	bit := uint64(1) << (id % (1 << slabShift))
	left := bits.OnesCount64(s.at(id).used.And(^bit) &^ bit)
	if left == 0 || left == fewBlocks {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.settleLocked(id >> slabShift)
	}
}

// halfLife is after how many seconds a hit counts half. What is past the end of
// fade counts nothing.
const halfLife = 120

var fade = func() (f [10 * halfLife]float32) {
	x := 1.0
	for i := range f {
		f[i] = float32(x)
		x *= 0.99424043717655 // 2^(-1/120)
	}
	return f
}()

// hitsAt returns how many of e's hits count at now.
func (e *body) hitsAt(now uint32) float32 {
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
func (e *body) hit(now uint32) {
	e.hits = e.hitsAt(now) + 1
	if int32(now-e.seen) > 0 || e.hits == 1 {
		e.seen = now
	}
}
