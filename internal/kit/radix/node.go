package radix

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// A node is a piece of text below another's, and who was given it. Whoever holds
// a node holds its parent.
//
// The fields are written with mu held, entries' stamps excepted. A node's parent
// is locked before it.
type node struct {
	mu   sync.Mutex
	dead bool // guarded by mu; it was taken out of the tree

	parent atomic.Pointer[node]
	edge   atomic.Pointer[edge]    // never nil
	kids   atomic.Pointer[kids]    // nil for none
	held   atomic.Pointer[holders] // never nil; unused at the root, which all hold
}

// An edge is a node's text. It is replaced, not written to.
type edge struct {
	at   int // bytes that stand above
	text []byte
}

func (e *edge) end() int { return e.at + len(e.text) }

// kids are a node's children by the first byte of their texts. The lengths and
// keys are not written to; nodes may be replaced by others of the same key.
type kids struct {
	keys  []byte
	nodes []atomic.Pointer[node]
}

// child returns the child whose text begins with b, or nil.
func (n *node) child(b byte) *node {
	k := n.kids.Load()
	if k == nil {
		return nil
	}
	if i := bytes.IndexByte(k.keys, b); i >= 0 {
		return k.nodes[i].Load()
	}
	return nil
}

// An entry says that a tenant holds a node: its id, how many of the node's
// children it holds, and when it was last given the node.
type entry uint64

const (
	idBits    = 20
	idShift   = 64 - idBits
	kidShift  = 32
	kidOne    = entry(1) << kidShift
	kidMask   = 1<<(idShift-kidShift) - 1
	stampMask = 1<<32 - 1
)

func newEntry(id uint32, kids int, stamp uint32) entry {
	return entry(id)<<idShift | entry(kids)<<kidShift | entry(stamp)
}

func (e entry) id() uint32    { return uint32(e >> idShift) }
func (e entry) kids() int     { return int(e >> kidShift & kidMask) }
func (e entry) stamp() uint32 { return uint32(e) }

// holders are a node's entries, in no order. Ids begin at 1, so no entry is 0.
type holders struct {
	n    atomic.Int32
	list []atomic.Uint64
	few  [2]atomic.Uint64
}

func newHolders(room int) *holders {
	h := new(holders)
	if h.list = h.few[:]; room > len(h.few) {
		h.list = make([]atomic.Uint64, room)
	}
	return h
}

// find returns where id's entry is, and the entry; -1 if there is none.
func (h *holders) find(id uint32) (int, entry) {
	for i := range min(int(h.n.Load()), len(h.list)) {
		if e := entry(h.list[i].Load()); e.id() == id {
			return i, e
		}
	}
	return -1, 0
}

// set replaces entry i by what f makes of it. Only stamps are written by
// others meanwhile. The node's mu must be held.
func (h *holders) set(i int, f func(entry) entry) entry {
	for {
		was := h.list[i].Load()
		if is := f(entry(was)); h.list[i].CompareAndSwap(was, uint64(is)) {
			return is
		}
	}
}

// used returns when the tenant was last given n, and whether it holds n.
func (n *node) used(id uint32) (stamp uint32, held bool) {
	i, e := n.held.Load().find(id)
	return e.stamp(), i >= 0
}

// touch notes that the tenant was given n, and reports whether it holds n.
// Stamps are not written more often than it takes to tell old from new.
func (n *node) touch(id, stamp uint32) bool {
	const coarse = 250
	h := n.held.Load()
	i, e := h.find(id)
	if i < 0 {
		return false
	}
	if int32(stamp-e.stamp()) >= coarse {
		h.list[i].CompareAndSwap(uint64(e), uint64(e&^stampMask|entry(stamp)))
	}
	return true
}

// give adds an entry. The node's mu must be held. If there is no room, the
// memory of more must have been reserved.
func (n *node) give(e entry) (grown int64) {
	h := n.held.Load()
	c := int(h.n.Load())
	if c == len(h.list) {
		grown = h.bytesFor(c+1) - h.bytes()
		h = h.copied(roomFor(c + 1))
		n.held.Store(h)
	}
	h.list[c].Store(uint64(e))
	h.n.Store(int32(c + 1))
	return grown
}

// take removes entry i. The node's mu must be held.
func (n *node) take(i int) (shrunk int64) {
	h := n.held.Load()
	last := int(h.n.Load()) - 1
	h.list[i].Store(h.list[last].Load())
	h.n.Store(int32(last))
	h.list[last].Store(0)
	if len(h.list) > 8 && last <= len(h.list)/4 {
		small := h.copied(roomFor(last))
		n.held.Store(small)
		return h.bytes() - small.bytes()
	}
	return 0
}

// copied returns a copy of h with room for so many.
func (h *holders) copied(room int) *holders {
	c := newHolders(room)
	n := int(h.n.Load())
	for i := range n {
		c.list[i].Store(h.list[i].Load())
	}
	c.n.Store(int32(n))
	return c
}

// roomFor is how many entries are made room for, if so many are wanted.
func roomFor(n int) int {
	if n <= 2 {
		return 2
	}
	return max(4, 1<<bits.Len(uint(n-1)))
}

// withKid returns k with another child. Arrays with room are shared: nobody else
// looks beyond the lengths that he has.
func (k *kids) withKid(key byte, c *node) *kids {
	n := k.len()
	room := roomForKids(n + 1)
	more := new(kids)
	if n == 0 || n == cap(k.nodes) {
		more.keys, more.nodes = make([]byte, n+1, room), make([]atomic.Pointer[node], n+1, room)
		for i := range n {
			more.keys[i] = k.keys[i]
			more.nodes[i].Store(k.nodes[i].Load())
		}
	} else {
		more.keys, more.nodes = k.keys[:n+1], k.nodes[:n+1]
	}
	more.keys[n] = key
	more.nodes[n].Store(c)
	return more
}

// without returns k without child i, nil if there was no other.
func (k *kids) without(i int) *kids {
	n := k.len() - 1
	if n == 0 {
		return nil
	}
	room := roomForKids(n)
	less := &kids{make([]byte, n, room), make([]atomic.Pointer[node], n, room)}
	for j := range n {
		from := j
		if j >= i {
			from++
		}
		less.keys[j] = k.keys[from]
		less.nodes[j].Store(k.nodes[from].Load())
	}
	return less
}

func (k *kids) len() int {
	if k == nil {
		return 0
	}
	return len(k.keys)
}

func roomForKids(n int) int { return 1 << bits.Len(uint(n-1)) }

// What things take of memory.
const (
	nodeBytes    = int64(unsafe.Sizeof(node{}))
	edgeBytes    = int64(unsafe.Sizeof(edge{}))
	kidsBytes    = int64(unsafe.Sizeof(kids{}))
	holdersBytes = int64(unsafe.Sizeof(holders{}))
	pointerBytes = int64(unsafe.Sizeof(atomic.Pointer[node]{}))
)

func (h *holders) bytes() int64 { return h.bytesFor(len(h.list)) }

func (*holders) bytesFor(n int) int64 {
	b := class(holdersBytes)
	if n > 2 {
		b += class(8 * int64(roomFor(n)))
	}
	return b
}

func (k *kids) bytes() int64 { return kidBytes(k.len()) }

// kidBytes is what the table of n children takes.
func kidBytes(n int) int64 {
	if n == 0 {
		return 0
	}
	room := int64(roomForKids(n))
	return class(kidsBytes) + class(room) + class(withHeader(pointerBytes*room))
}

// leafBytes is what a node takes that has so many bytes of text and one holder.
func leafBytes(text int) int64 {
	return class(nodeBytes) + class(edgeBytes) + class(int64(text)) + class(holdersBytes)
}

// withHeader is the size of an object with pointers: the allocator puts a word
// before those that are not small.
func withHeader(n int64) int64 {
	if n > 512 {
		return n + 8
	}
	return n
}

// class rounds a size up as the allocator does. What append makes of a slice is
// what it takes.
func class(n int64) int64 {
	const page = 8192
	if n > classes.most {
		return (n + page - 1) &^ (page - 1)
	}
	return int64(classes.of[(n+7)/8])
}

var classes = func() (c struct {
	most int64
	of   [4097]uint16
}) {
	c.most = 32 << 10
	for size := 1; size <= int(c.most); {
		rounded := cap(append([]byte(nil), make([]byte, size)...))
		for i := (size + 7) / 8; i <= min(rounded/8, len(c.of)-1); i++ {
			c.of[i] = uint16(rounded)
		}
		size = rounded + 1
	}
	return c
}()

// common returns how many bytes a and b begin with in common.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	a, b = a[:n], b[:n]
	i := 0
	for n-i >= 256 && bytes.Equal(a[i:i+256], b[i:i+256]) {
		i += 256
	}
	for n-i >= 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
		i += 8
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}
