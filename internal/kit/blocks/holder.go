package blocks

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// A group is the blocks of one holder that were last asked for together: the end
// of a chain, from leaf upwards, n of them. The rest of the chain has been asked
// for since, with another end. So what a cache forgets first, the leaf of the
// prompt that was not seen for longest, is found without a link in each block.
type group struct {
	leaf         uint32 // the last block
	newer, older uint32 // the groups beside it, 0 for none
	n            uint32 // 0 for a group that is not in use
	depth        int32  // of leaf: how many blocks of the chain end with it
}

type groupSlab [slabGroups]group

const (
	slabGroups     = 64
	groupSlabBytes = 20 * slabGroups
	groupSlabCost  = groupSlabBytes + 2*pointerBytes // with its place in the list, which doubles
)

// A holder is a cache that blocks are in.
type holder struct {
	era  atomic.Uint32 // changes whenever it has lost everything; 0 before the first Join
	held atomic.Int64  // blocks that are kept; written with mu held

	mu       sync.Mutex
	joined   bool         // guarded by mu
	capacity int64        // guarded by mu
	size     int64        // guarded by mu; of what is held, by weight
	groups   []*groupSlab // guarded by mu; number k is [k/slabGroups][k%slabGroups], 0 is not used
	unused   uint32       // guarded by mu; the first number that was never used
	free     uint32       // guarded by mu; the first of those not in use, linked by older
	newest   uint32       // guarded by mu
	oldest   uint32       // guarded by mu
	slab     uint32       // guarded by mu; the slab that its new blocks go to, 0 for none
}

// over reports whether h has more than it may. h.mu must be held.
func (h *holder) over() bool { return max(h.size, h.held.Load()) > h.capacity }

// place returns a free place for a block, 0 if there is no memory. h.mu must be
// held.
func (h *holder) place(all *slabs) uint32 {
	for {
		if h.slab != 0 {
			l := all.at(h.slab << slabShift)
			if i := uint32(bits.TrailingZeros64(^l.used.Load())); i < slabBlocks {
				l.used.Or(1 << i)
				return h.slab<<slabShift | i
			}
			all.disown(h.slab)
		}
		if h.slab = all.own(); h.slab == 0 {
			return 0
		}
	}
}

func (h *holder) group(k uint32) *group { return &h.groups[k/slabGroups][k%slabGroups] }

// newGroup returns an empty group that is not linked, 0 if there is no memory.
// h.mu must be held.
func (h *holder) newGroup(a *account) uint32 {
	if k := h.free; k != 0 {
		h.free = h.group(k).older
		*h.group(k) = group{}
		return k
	}
	if h.unused%slabGroups == 0 {
		if !a.take(groupSlabCost) {
			return 0
		}
		h.groups = append(h.groups, new(groupSlab))
		if h.unused == 0 {
			h.unused = 1
		}
	}
	h.unused++
	return h.unused - 1
}

// freeGroup makes k, which is not linked, available. h.mu must be held.
func (h *holder) freeGroup(k uint32) {
	*h.group(k) = group{older: h.free}
	h.free = k
}

// link makes k the newest group. h.mu must be held.
func (h *holder) link(k uint32) {
	g := h.group(k)
	g.older, g.newer = h.newest, 0
	if h.newest != 0 {
		h.group(h.newest).newer = k
	} else {
		h.oldest = k
	}
	h.newest = k
}

// lose notes that a block has left group k, which ends with the last. h.mu must
// be held.
func (h *holder) lose(k uint32) {
	g := h.group(k)
	if g.n--; g.n > 0 {
		return
	}
	if g.newer != 0 {
		h.group(g.newer).older = g.older
	} else {
		h.newest = g.older
	}
	if g.older != 0 {
		h.group(g.older).newer = g.newer
	} else {
		h.oldest = g.newer
	}
	h.freeGroup(k)
}

// release gives memory back. h.mu must be held, and no group in use.
func (h *holder) release(all *slabs) {
	if h.slab != 0 {
		all.disown(h.slab)
		h.slab = 0
	}
	all.account.give(int64(len(h.groups)) * groupSlabCost)
	h.groups, h.unused, h.free, h.newest, h.oldest = nil, 0, 0, 0, 0
}
