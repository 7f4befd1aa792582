package blocks

import (
	"sync"
	"sync/atomic"
)

// A group is the blocks of one holder that were last asked for together: the end
// of a chain, from leaf upwards, n of them. The rest of the chain has been asked
// for since, with another end. So what a cache forgets first, the leaf of the
// prompt that was not seen for longest, is found without a link in each block.
type group struct {
	leaf         [2]uint32 // key of the last block, two halves: 20 bytes a group
	newer, older uint32    // the groups beside it, 0 for none
	n            uint32    // 0 for a group that is not in use
}

func (g *group) key() uint64 { return uint64(g.leaf[0]) | uint64(g.leaf[1])<<32 }

func (g *group) setKey(k uint64) { g.leaf = [2]uint32{uint32(k), uint32(k >> 32)} }

type groupSlab [slabGroups]group

// A holder is a cache that blocks are in.
type holder struct {
	era  atomic.Uint32 // changes whenever it has lost everything; 0 before the first Join
	held atomic.Int64  // blocks; written with mu held

	mu       sync.Mutex
	joined   bool         // guarded by mu
	capacity int64        // guarded by mu
	groups   []*groupSlab // guarded by mu; number k is [k/slabGroups][k%slabGroups], 0 is not used
	unused   uint32       // guarded by mu; the first number that was never used
	free     uint32       // guarded by mu; the first of those not in use, linked by older
	newest   uint32       // guarded by mu
	oldest   uint32       // guarded by mu
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
		if !a.take(slabBytes) {
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

// release gives the groups' memory back. h.mu must be held, and no group in use.
func (h *holder) release(a *account) {
	a.give(int64(len(h.groups)) * slabBytes)
	h.groups, h.unused, h.free, h.newest, h.oldest = nil, 0, 0, 0, 0
}
