package blocks

import (
	"sync"
	"sync/atomic"
	"weak"
)

// A Budget is the memory that several Indexes may have together. What it lends
// is never more than its size, counted as the runtime hands it out; slabs that
// nobody has filled are part of it.
type Budget struct {
	size int64 // constant

	mu      sync.Mutex
	used    int64                 // guarded by mu; spare slabs included
	spare   []*slab               // guarded by mu; given back, and lent again first
	indexes []weak.Pointer[Index] // guarded by mu
}

// NewBudget returns a Budget of that many bytes.
func NewBudget(bytes int64) *Budget { return &Budget{size: bytes} }

// Size returns how many bytes there are.
func (b *Budget) Size() int64 { return b.size }

// Used returns how many bytes are lent, or kept to be lent again.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// An account is what one Index has of the Budget.
type account struct {
	budget *Budget
	bytes  atomic.Int64
}

// take lends n bytes, or reports that there are no more.
func (a *account) take(n int64) bool {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.used+n > b.size {
		k := len(b.spare) - 1
		if k < 0 {
			return false
		}
		b.spare[k] = nil
		b.spare = b.spare[:k]
		b.used -= slabBytes
	}
	b.used += n
	a.bytes.Add(n)
	return true
}

// force lends n bytes that cannot be done without, few, whether they are there or
// not.
func (a *account) force(n int64) {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += n
	a.bytes.Add(n)
}

// give gives n bytes back.
func (a *account) give(n int64) {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	a.bytes.Add(-n)
}

// takeSlab lends a slab, nil if there are no more. What it holds has no meaning.
func (a *account) takeSlab() *slab {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if k := len(b.spare) - 1; k >= 0 {
		s := b.spare[k]
		b.spare[k] = nil
		b.spare = b.spare[:k]
		a.bytes.Add(slabBytes)
		return s
	}
	if b.used+slabBytes > b.size {
		return nil
	}
	b.used += slabBytes
	a.bytes.Add(slabBytes)
	return new(slab)
}

// giveSlab gives s back.
func (a *account) giveSlab(s *slab) {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.spare) < cap(b.spare) || b.spareRoomLocked() {
		b.spare = append(b.spare, s)
	} else {
		b.used -= slabBytes
	}
	a.bytes.Add(-slabBytes)
}

// maxSpare is how many slabs are kept: enough for what is given back at one end
// and taken at the other while the Budget is spent.
const maxSpare = 4096

// spareRoomLocked makes room for further spare slabs, once. b.mu must be held.
func (b *Budget) spareRoomLocked() bool {
	if b.spare != nil {
		return false
	}
	n := min(maxSpare, max(int(b.size/slabBytes/16), 16))
	if b.used+int64(n)*pointerBytes > b.size {
		return false
	}
	b.used += int64(n) * pointerBytes
	b.spare = make([]*slab, 0, n)
	return true
}

// join tells b of ix, for as long as somebody uses it.
func (b *Budget) join(ix *Index) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.indexes = append(b.indexes, weak.Make(ix))
}

// leave takes back what an Index had that nobody uses any longer.
func (b *Budget) leave(a *account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= a.bytes.Swap(0)
	kept := b.indexes[:0]
	for _, p := range b.indexes {
		if p.Value() != nil {
			kept = append(kept, p)
		}
	}
	clear(b.indexes[len(kept):])
	b.indexes = kept
}

// debtor returns who is to give up memory so that ix gets some: ix itself, if it
// has its share, or who has most.
func (b *Budget) debtor(ix *Index) *Index {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := ix.account.bytes.Load()
	if own*int64(max(len(b.indexes), 1)) >= b.size {
		return ix
	}
	most := ix
	for _, p := range b.indexes {
		if o := p.Value(); o != nil && o.account.bytes.Load() > own {
			most, own = o, o.account.bytes.Load()
		}
	}
	return most
}
