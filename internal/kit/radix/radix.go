// Package radix remembers which tenants were given which texts, in a tree that
// they share: a text that begins like others is stored as what it adds to them.
//
// Readers take no lock and write nothing: what a reader follows is replaced, not
// changed, and the collector frees it when the last has passed. A writer locks
// the one or two nodes that it changes. Texts are bytes; nothing here knows what
// they mean, and a node may end inside a character.
//
// The tree is a hint. A reader that meets a writer may see a shorter match than
// there is, and an Insert that meets too many others gives up.
package radix

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxTenants is how many tenants a tree can have at once.
	MaxTenants = 1<<idBits - 1

	maxDepth = 1024     // nodes from the root that are walked or made: what lies deeper is not remembered
	maxEdge  = 64 << 10 // bytes of one node: what a split copies at most
	maxGrow  = 1 << 10  // a leaf is made longer, instead of being given a child, up to here
	shareOf  = 8        // one text may have a part of so many of the budget

	allSeen = 16 // tenants among which the one with the oldest text is looked for
	tries   = 6  // of an Insert that meets others
)

// A Tree holds texts within a budget of memory. Its methods may be called by
// any goroutine.
type Tree struct {
	budget int64 // constant; bytes
	limit  int64 // constant; what reserve gives out, the rest is for queues

	root  node
	bytes atomic.Int64 // memory, as the allocator rounds it
	size  atomic.Int64 // of all tenants
	nodes atomic.Int64

	all     atomic.Pointer[[]atomic.Pointer[Tenant]] // by id; never nil
	leaving atomic.Int32                             // len(left)

	mu   sync.Mutex
	used int       // guarded by mu; ids below were given out
	free []uint32  // guarded by mu; ids that may be given out again
	left []*Tenant // guarded by mu; gone, but still in the tree
}

// A Tenant is one of those that texts belong to.
type Tenant struct {
	// Owner is what Join was given.
	Owner any

	id   uint32
	tree *Tree

	gone   atomic.Bool
	active atomic.Int64 // calls that are changing what it holds
	size   atomic.Int64

	mu    sync.Mutex
	queue queue // guarded by mu; each of its leaves, the oldest first

	oldest atomic.Uint64 // stamp at the queue's head, plus one; 0 if it is empty
}

// New returns an empty Tree whose nodes and texts take at most budget bytes of
// memory. Each tenant takes some 200 bytes more.
func New(budget int64) *Tree {
	// A queue grows after what it is for was reserved, by a piece at most.
	t := &Tree{budget: budget, limit: budget - max(budget/32, 2*pieceBytes(largePiece)), used: 1}
	t.root.edge.Store(new(edge))
	t.root.held.Store(new(holders))
	t.all.Store(new([]atomic.Pointer[Tenant]))
	return t
}

// Budget returns what New was given.
func (t *Tree) Budget() int64 { return t.budget }

// Bytes returns how much memory the nodes and texts take.
func (t *Tree) Bytes() int64 { return t.bytes.Load() }

// Size returns the sum of the Sizes of all tenants.
func (t *Tree) Size() int64 { return t.size.Load() }

// Nodes returns how many pieces the texts are stored in.
func (t *Tree) Nodes() int64 { return t.nodes.Load() }

// Join returns a new tenant of that owner, or nil if there are MaxTenants.
func (t *Tree) Join(owner any) *Tenant {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &Tenant{Owner: owner, tree: t}
	if n := len(t.free); n > 0 {
		w.id, t.free = t.free[n-1], t.free[:n-1]
	} else if t.used > MaxTenants {
		return nil
	} else {
		w.id = uint32(t.used)
		t.used++
	}
	all := *t.all.Load()
	if int(w.id) >= len(all) {
		more := make([]atomic.Pointer[Tenant], max(16, 2*len(all), int(w.id)+1))
		for i := range all {
			more[i].Store(all[i].Load())
		}
		all = more
		t.all.Store(&all)
	}
	all[w.id].Store(w)
	return w
}

// Leave takes w and its texts out. From now on nothing is given to it, and no
// Hit names it. It removes some hundred pieces at most; Tend removes the rest.
func (t *Tree) Leave(w *Tenant) {
	if w.gone.Swap(true) {
		return
	}
	t.mu.Lock()
	t.left = append(t.left, w)
	t.leaving.Store(int32(len(t.left)))
	t.mu.Unlock()
	t.drain(256)
}

// Untidy reports whether a tenant that has left is still in the tree.
func (t *Tree) Untidy() bool { return t.leaving.Load() > 0 }

// Tend does up to steps pieces of work that is due: it removes what tenants
// that left have left behind, then the oldest texts as long as Size is above
// most. It reports whether nothing is left to do.
func (t *Tree) Tend(most int64, steps int) bool {
	if t.leaving.Load() > 0 {
		if steps = t.drain(steps); steps == 0 {
			return false
		}
	}
	for ; t.size.Load() > most; steps-- {
		if steps == 0 {
			return false
		}
		if !t.evict() {
			break
		}
	}
	return true
}

// drain removes up to steps pieces of those who left, and returns how many
// steps remain.
func (t *Tree) drain(steps int) int {
	for steps > 0 {
		t.mu.Lock()
		if len(t.left) == 0 {
			t.mu.Unlock()
			return steps
		}
		w := t.left[len(t.left)-1]
		t.mu.Unlock()
		for steps > 0 && t.dropOldest(w, true) {
			steps--
		}
		if steps > 0 && !t.forget(w) {
			return 0 // somebody is at it: he, or the next, sees to the rest
		}
	}
	return 0
}

// forget gives w's id back if nothing of it is left, and reports whether it is.
func (t *Tree) forget(w *Tenant) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.active.Load() != 0 || w.oldest.Load() != 0 {
		return false
	}
	for i, x := range t.left {
		if x == w {
			t.left = append(t.left[:i], t.left[i+1:]...)
			t.leaving.Store(int32(len(t.left)))
			(*t.all.Load())[w.id].Store(nil)
			t.free = append(t.free, w.id)
			break
		}
	}
	return true
}

// Size returns how many bytes of text the tree holds for w. A byte that several
// tenants hold is stored once, and counted for each.
func (w *Tenant) Size() int64 { return w.size.Load() }

// Gone reports whether w has left.
func (w *Tenant) Gone() bool { return w.gone.Load() }

// push queues n as a leaf of w that was used at s.
func (w *Tenant) push(n *node, s uint32) {
	w.mu.Lock()
	grown := w.queue.push(queued{n, s})
	w.oldest.Store(w.queue.oldest())
	w.mu.Unlock()
	if grown != 0 {
		w.tree.bytes.Add(grown)
	}
}

// pop takes the oldest leaf.
func (w *Tenant) pop() (queued, bool) {
	w.mu.Lock()
	q, shrunk, ok := w.queue.pop()
	w.oldest.Store(w.queue.oldest())
	w.mu.Unlock()
	if shrunk != 0 {
		w.tree.bytes.Add(-shrunk)
	}
	return q, ok
}

// reserve takes n bytes of the budget, and removes old texts if there are not
// so many. It reports whether it could.
func (t *Tree) reserve(n int64) bool {
	for range 1 << 16 {
		was := t.bytes.Load()
		if was+n <= t.limit {
			if t.bytes.CompareAndSwap(was, was+n) {
				return true
			}
			continue
		}
		if n > t.limit || !t.evict() {
			return false
		}
	}
	return false
}

// evict looks at one leaf, the one used longest ago of those of some tenants,
// and removes it unless it was used since it was queued. It returns false if
// there is none.
func (t *Tree) evict() bool {
	w := t.victim()
	if w == nil {
		return false
	}
	return t.dropOldest(w, w.gone.Load()) || t.size.Load() > 0 // or another was quicker
}

// dropOldest takes the first of w's queue and removes it, if it is a leaf. One
// that was used since it was queued goes to the end, unless it is to go in any
// case. It returns false if there is none.
func (t *Tree) dropOldest(w *Tenant, anyway bool) bool {
	w.active.Add(1)
	defer w.active.Add(-1)
	q, ok := w.pop()
	if !ok {
		return false
	}
	if s, held := q.node.used(w.id); !anyway && held && int32(s-q.stamp) > 0 {
		w.push(q.node, s)
		return true
	}
	t.drop(w, q.node)
	return true
}

// victim returns the tenant with the oldest leaf among all, or, if there are
// more than allSeen, among so many from a random place on.
func (t *Tree) victim() *Tenant {
	all := *t.all.Load()
	n := len(all)
	if n == 0 {
		return nil
	}
	start := int(uint64(rand.Uint32()) * uint64(n) >> 32)
	var best *Tenant
	var oldest uint32
	seen := 0
	for i := range n {
		if start+i >= n {
			start -= n
		}
		w := all[start+i].Load()
		if w == nil {
			continue
		}
		o := w.oldest.Load()
		if o == 0 {
			continue
		}
		if s := uint32(o - 1); best == nil || int32(s-oldest) < 0 {
			best, oldest = w, s
		}
		if seen++; seen == allSeen {
			break
		}
	}
	return best
}

// stampOf is a time as nodes have it: milliseconds, of which only differences
// of less than 24 days can be told.
func stampOf(now time.Time) uint32 { return uint32(now.UnixMilli()) }
