package blocks

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
)

// An Index remembers which holders have which blocks, at the marks of a chain.
// Holders are small numbers,
// dense and less than 65,534, that the caller gives; for each there is as much
// room as its Join says, and for all as much as the Budget has. What was not asked
// for longest goes first, from a prompt's end to its beginning. So whoever holds a
// block holds every block before it.
//
// Its methods may be called by many goroutines at once. Insert and Undo take the
// lock of their holder, so that those of one holder follow each other: there are
// as many of them as one worker gets requests. Lookup takes none but that of one
// of 256 shards at a time, for some instructions.
type Index struct {
	account *account
	slabs   slabs
	shards  [shards]shard

	mu      sync.Mutex                // guards the growing of holders
	holders atomic.Pointer[[]*holder] // replaced with mu held
}

// indexBytes is what an Index costs that holds nothing.
const indexBytes = shards*128 + 256

// holderBytes is what a holder costs that has nothing.
const holderBytes = 128

// NewIndex returns an Index that has its memory from b. What it has is given back
// when nobody uses the Index any longer.
func NewIndex(b *Budget) *Index {
	ix := &Index{account: &account{budget: b}}
	ix.holders.Store(new([]*holder))
	ix.slabs.account = ix.account
	ix.slabs.all.Store(new([]atomic.Pointer[slab]))
	ix.account.force(indexBytes)
	b.join(ix)
	runtime.AddCleanup(ix, b.leave, ix.account)
	return ix
}

// Join makes slot a holder of at most capacity blocks that holds nothing. It
// returns the era that this begins, which Insert wants to see: what is said of an
// earlier one is not believed.
func (ix *Index) Join(slot, capacity int) (era uint32) {
	h := ix.holder(slot)
	if h == nil {
		h = ix.makeHolder(slot)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	ix.clear(h, slot)
	h.joined, h.capacity = true, int64(capacity)
	return h.era.Load()
}

// Leave ends slot's being a holder. No Lookup that begins later names it.
func (ix *Index) Leave(slot int) {
	h := ix.holder(slot)
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	ix.clear(h, slot)
	h.joined = false
}

// Resize changes how many blocks slot may hold.
func (ix *Index) Resize(slot, capacity int) {
	h := ix.holder(slot)
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.capacity = int64(capacity)
	for h.over() && ix.evict(h, slot) {
	}
}

// Era returns slot's present era, 0 if it never was a holder.
func (ix *Index) Era(slot int) uint32 {
	if h := ix.holder(slot); h != nil {
		return h.era.Load()
	}
	return 0
}

// Held returns how many blocks are kept of those that slot holds.
func (ix *Index) Held(slot int) int {
	if h := ix.holder(slot); h != nil {
		return int(h.held.Load())
	}
	return 0
}

// Len returns how many blocks there are.
func (ix *Index) Len() int {
	n := 0
	for i := range ix.shards {
		s := &ix.shards[i]
		s.mu.Lock()
		n += int(s.n)
		s.mu.Unlock()
	}
	return n
}

// Bytes returns how much memory ix has of its Budget.
func (ix *Index) Bytes() int64 { return ix.account.bytes.Load() }

func (ix *Index) shard(key uint64) *shard { return &ix.shards[key>>56] }

// holder returns the holder at slot, nil if there never was one.
func (ix *Index) holder(slot int) *holder {
	hs := *ix.holders.Load()
	if uint(slot) >= uint(len(hs)) {
		return nil
	}
	return hs[slot]
}

func (ix *Index) makeHolder(slot int) *holder {
	if slot < 0 || slot >= holders {
		panic("BUG: the number of a holder is out of range")
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	old := *ix.holders.Load()
	if slot < len(old) && old[slot] != nil {
		return old[slot]
	}
	hs := make([]*holder, max(slot+1, len(old)))
	copy(hs, old)
	hs[slot] = new(holder)
	ix.account.force(holderBytes + int64(len(hs)-len(old))*pointerBytes)
	ix.holders.Store(&hs)
	return hs[slot]
}

// clear makes h forget everything and begins another era. h.mu must be held.
func (ix *Index) clear(h *holder, slot int) {
	if h.era.Add(1) == 0 {
		h.era.Add(1)
	}
	for ix.evict(h, slot) {
	}
	h.release(&ix.slabs)
}

// warmMarks is warm for the marks of keys from one on up to before another.
func (ix *Index) warmMarks(keys []uint64, at marks, from, to int32) {
	var some [warmed]uint64
	for i := from; i < to; i++ {
		some[i-from] = keys[at.depth(i+1)-1]
	}
	ix.warm(some[:to-from])
}

// warmBefore is warm for block id and those that lie before it, which are going to
// be evicted.
func (ix *Index) warmBefore(id uint32) {
	var keys [warmed]uint64
	n := 0
	for ; n < warmed; n++ {
		if keys[n] = ix.slabs.key(id); keys[n] == 0 || id%(1<<slabShift) == 0 {
			break
		}
		id--
	}
	ix.warm(keys[:n])
}

// evict takes from h the block that was not asked for longest. It reports false
// if there is none. h.mu must be held.
func (ix *Index) evict(h *holder, slot int) bool {
	if h.oldest == 0 {
		return false
	}
	ix.evictLeaf(h, slot, h.oldest)
	return true
}

// evictLeaf takes from h the last block of group k. h.mu must be held.
func (ix *Index) evictLeaf(h *holder, slot int, k uint32) {
	id := h.group(k).leaf
	s := ix.shard(ix.slabs.key(id))
	s.mu.Lock()
	e := ix.slabs.block(id)
	if s.groupOf(e, uint16(slot)) != k {
		s.mu.Unlock()
		panic("BUG: a block is not in the group that ends with it")
	}
	g := h.group(k)
	g.leaf = e.parent
	s.dropGroup(ix.account, e, uint16(slot))
	if s.count(e) == 0 {
		s.remove(&ix.slabs, id)
	}
	s.mu.Unlock()
	h.held.Add(-1)
	h.size -= weight(g.depth)
	g.depth = before(g.depth)
	h.lose(k)
}

// A Put is what an Insert did, so that it can be undone.
type Put struct {
	N     int32 // blocks that the holder has of the chain now: its first ones
	Fresh int32 // as many of those it had before
	group uint32
	era   uint32
}

// Insert notes that slot, in that era, is asked for the chain of keys at now, in
// seconds, and so holds it. It forgets what there is no room for. If there is no
// room for all of keys either, as many of the first are noted as there is.
func (ix *Index) Insert(keys []uint64, slot int, era, now uint32) Put {
	h := ix.holder(slot)
	if h == nil || len(keys) == 0 {
		return Put{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.joined || h.era.Load() != era {
		return Put{}
	}
	if int64(len(keys)) > h.capacity {
		keys = keys[:h.capacity]
	}
	k := h.newGroup(ix.account)
	for tries := 0; k == 0; tries++ {
		if tries == maxTries || !ix.makeRoom(h, slot) {
			return Put{}
		}
		k = h.newGroup(ix.account)
	}
	n, fresh, leaf := ix.insert(h, keys, slot, k, now)
	if n == 0 {
		h.freeGroup(k)
		return Put{}
	}
	at := marksOf(len(keys))
	g := h.group(k)
	g.n, g.leaf, g.depth = uint32(n), leaf, at.depth(n)
	h.link(k)
	return Put{N: g.depth, Fresh: at.depth(fresh), group: k, era: era}
}

// maxTries is how often room is made for one thing.
const maxTries = 32

// insert puts the marks of keys into group k of h, which is not linked, and
// returns how many, how many of those h had, and the last. h.mu must be held.
func (ix *Index) insert(h *holder, keys []uint64, slot int, k, now uint32) (n, fresh int32, leaf uint32) {
	at := marksOf(len(keys))
	fresh = -1
	warm := int32(0) // marks before this one are
	for i := range at.n {
		if fresh >= 0 && i >= warm { // none of the rest is in a row
			warm = min(i+warmed, at.n)
			ix.warmMarks(keys, at, i, warm)
			if h.size+warmed > h.capacity && h.oldest != 0 {
				ix.warmBefore(h.group(h.oldest).leaf)
			}
		}
		depth := at.depth(i + 1)
		g := gift{key: keys[depth-1], parent: leaf, slot: uint16(slot), group: k, now: now}
		end := ix.give(h, &g)
		for tries := 0; end == full && tries < maxTries && ix.makeRoom(h, slot); tries++ {
			end = ix.give(h, &g)
		}
		if end != given {
			break
		}
		if n, leaf = i+1, g.id; g.found && at.n-i > 4 {
			ix.slabs.warm(leaf, int(at.n-i))
		}
		if g.old != 0 {
			h.lose(g.old)
			continue
		}
		if fresh < 0 {
			fresh = i
		}
		h.held.Add(1)
		for h.size += weight(depth); h.over() && ix.evict(h, slot); {
		}
	}
	if fresh < 0 {
		fresh = n
	}
	return n, fresh, leaf
}

// A gift is one block that a holder is given.
type gift struct {
	key    uint64
	parent uint32 // the block before it, 0 for none
	slot   uint16
	group  uint32
	now    uint32

	id    uint32 // which block it is
	old   uint32 // the group it was in before, 0 for none
	found bool   // it was there, and not after its parent
}

// How give ends.
type end uint8

const (
	given end = iota
	full      // no memory
	alien     // the key is that of another chain's block
)

// give puts one block into a group. h.mu must be held.
func (ix *Index) give(h *holder, g *gift) end {
	if g.key == 0 {
		return alien
	}
	s := ix.shard(g.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	// A prompt's blocks mostly lie in a row. Whoever sees the key there with the
	// lock of its shard held has found it.
	var e *body
	if id := g.parent + 1; g.parent != 0 && ix.slabs.key(id) == g.key {
		e, g.id = ix.slabs.block(id), id
	} else {
		e, g.id = s.find(&ix.slabs, g.key)
		g.found = e != nil
	}
	if e == nil {
		if !s.room(&ix.slabs) {
			return full
		}
		if g.id = h.place(&ix.slabs); g.id == 0 {
			return full
		}
		e = s.add(&ix.slabs, g.id, g.key, g.parent)
	}
	if e.parent != g.parent {
		return alien
	}
	var ok bool
	if g.old, ok = s.putGroup(ix.account, e, g.slot, g.group); !ok {
		return full
	}
	e.hit(g.now)
	return given
}

// Undo takes back what the Insert of keys gave slot newly, as far as nobody has
// asked for it since.
func (ix *Index) Undo(keys []uint64, slot int, p Put) {
	h := ix.holder(slot)
	if h == nil || p.N <= p.Fresh || int(p.N) > len(keys) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.era.Load() != p.era || p.group == 0 || p.group >= h.unused {
		return
	}
	// Another chain may be in the group by now; then it ends otherwise.
	g := h.group(p.group)
	for d := p.N; d > p.Fresh && g.n > 0 && ix.slabs.key(g.leaf) == keys[d-1]; d = before(d) {
		ix.evictLeaf(h, slot, p.group)
	}
}

// evictAtOnce is how many blocks go when memory is wanting.
const evictAtOnce = 64

// makeRoom makes who holds most forget something, because there is no memory for
// h at slot. It reports false if nobody has anything. h.mu must be held. Others'
// locks are tried only: two may want room of each other.
func (ix *Index) makeRoom(h *holder, slot int) bool {
	debtor := ix.account.budget.debtor(ix)
	if debtor != ix {
		return debtor.shed(nil, -1)
	}
	return ix.shed(h, slot)
}

// shed makes ix's largest holder forget some blocks. own, at slot, is locked by
// the caller; nil for none.
func (ix *Index) shed(own *holder, slot int) bool {
	var most *holder
	at, held := -1, int64(math.MinInt64)
	for i, h := range *ix.holders.Load() {
		if h == nil {
			continue
		}
		n := h.held.Load()
		if h == own {
			n += n / 4 // it pays first, if it has about as much as another
		}
		if n > held {
			most, at, held = h, i, n
		}
	}
	if most == nil {
		return false
	}
	if most != own {
		if most.mu.TryLock() {
			defer most.mu.Unlock()
		} else if most, at = own, slot; own == nil {
			return false
		}
	}
	done := 0
	for done < evictAtOnce && ix.evict(most, at) {
		done++
	}
	if done == 0 && most != own && own != nil {
		for done < evictAtOnce && ix.evict(own, slot) {
			done++
		}
	}
	return done > 0
}
