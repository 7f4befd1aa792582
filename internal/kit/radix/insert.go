package radix

import (
	"bytes"
	"time"
)

// Insert notes that w was given text at now. from is what Match has found of
// text, or the zero Hit. What does not fit into the budget, even after the
// oldest texts have gone, is not noted. It allocates nothing if w holds all of
// text.
func (t *Tree) Insert(w *Tenant, text []byte, now time.Time, from Hit) {
	if len(text) == 0 {
		return
	}
	if most := t.budget / shareOf; int64(len(text)) > most {
		text = text[:most]
		from = Hit{}
	}
	w.active.Add(1)
	defer w.active.Add(-1)
	stamp := stampOf(now)
	for try := range tries {
		if w.gone.Load() {
			return
		}
		if try > 0 || from.node == nil {
			from = t.Match(text)
		}
		if t.insert(w, text, stamp, from) {
			return
		}
	}
}

// insert does what Insert says, or returns false: the tree is not as from says
// any more.
func (t *Tree) insert(w *Tenant, text []byte, stamp uint32, from Hit) bool {
	n := from.node
	if n == nil {
		return t.extend(w, text, stamp, Hit{node: &t.root, edge: t.root.edge.Load()})
	}
	if from.Matched < from.edge.end() {
		if from.Matched == len(text) && n.touch(w.id, stamp) {
			return true // it holds this and more
		}
		var ok bool
		if from, ok = t.split(from); from.node == nil {
			return ok
		}
		n = from.node
	}
	if !n.touch(w.id, stamp) {
		if done, ok := t.mark(w, n, stamp); !done {
			return ok
		}
	}
	return t.extend(w, text, stamp, from)
}

// split cuts from's node in two where from's match ends, and returns the Hit of
// the upper one. If it cannot, the Hit is zero, and false says that it is worth
// while to try again.
func (t *Tree) split(from Hit) (Hit, bool) {
	low, old := from.node, from.edge
	cut := from.Matched - old.at
	if cut == 0 {
		return Hit{}, false
	}
	p := low.parent.Load()
	room := int(low.held.Load().n.Load()) + 1
	need := leafBytes(cut) + low.held.Load().bytesFor(roomFor(room)) - class(holdersBytes) +
		kidBytes(1) + class(edgeBytes) + class(int64(len(old.text)-cut))
	if !t.reserve(need) {
		return Hit{}, true
	}
	p.mu.Lock()
	low.mu.Lock()
	held := low.held.Load()
	if low.parent.Load() != p || low.dead || low.edge.Load() != old || int(held.n.Load()) > roomFor(room) {
		low.mu.Unlock()
		p.mu.Unlock()
		t.bytes.Add(-need)
		return Hit{}, false
	}
	up := new(node)
	e := &edge{at: old.at, text: bytes.Clone(old.text[:cut])}
	up.edge.Store(e)
	up.parent.Store(p)
	up.kids.Store((*kids)(nil).withKid(old.text[cut], low))
	count := int(held.n.Load())
	upHeld := newHolders(roomFor(count))
	for i := range count {
		h := entry(held.list[i].Load())
		upHeld.list[i].Store(uint64(newEntry(h.id(), 1, h.stamp())))
	}
	upHeld.n.Store(int32(count))
	up.held.Store(upHeld)

	low.parent.Store(up)
	low.edge.Store(&edge{at: old.at + cut, text: bytes.Clone(old.text[cut:])})
	in := p.kids.Load()
	in.nodes[bytes.IndexByte(in.keys, old.text[0])].Store(up)
	low.mu.Unlock()
	p.mu.Unlock()

	took := leafBytes(cut) + upHeld.bytes() - class(holdersBytes) + kidBytes(1) + class(edgeBytes) + class(int64(len(old.text)-cut))
	t.bytes.Add(took - need - class(edgeBytes) - class(int64(len(old.text))))
	t.nodes.Add(1)
	return Hit{Matched: from.Matched, node: up, edge: e, depth: from.depth}, true
}

// mark makes w a holder of n and of all that is above. If it cannot, ok false
// says that it is worth while to try again.
func (t *Tree) mark(w *Tenant, n *node, stamp uint32) (done, ok bool) {
	var path [64]*node
	var last *node
	defer func() {
		if last != nil {
			w.push(last, stamp)
		}
	}()
	for {
		// The highest that w does not hold, and those below it.
		count := 0
		for x := n; x != &t.root; x = x.parent.Load() {
			if _, held := x.used(w.id); held {
				break
			}
			path[count%len(path)] = x
			if count++; count > 2*maxDepth {
				return false, false
			}
		}
		if count == 0 {
			return true, true
		}
		for i := count - 1; i >= max(0, count-len(path)); i-- {
			x := path[i%len(path)]
			done, ok := t.grant(w, x, stamp)
			if !done {
				return false, ok
			}
			last = x
		}
		if count <= len(path) {
			return true, true
		}
	}
}

// grant makes w, which holds n's parent, a holder of n.
func (t *Tree) grant(w *Tenant, n *node, stamp uint32) (done, ok bool) {
	h := n.held.Load()
	c := int(h.n.Load())
	need := h.bytesFor(roomFor(c+1)) - h.bytes()
	if need > 0 && !t.reserve(need) {
		return false, true
	}
	p := n.parent.Load()
	if p == nil {
		return false, false
	}
	p.mu.Lock()
	n.mu.Lock()
	done = !n.dead && n.parent.Load() == p && n.held.Load() == h && int(h.n.Load()) == c
	var grown int64
	// Who looks without the lock may miss an entry that is being moved.
	if i, _ := h.find(w.id); done && i < 0 {
		if done = t.oneMoreKid(p, w); done {
			grown = n.give(newEntry(w.id, 0, stamp))
			t.count(w, len(n.edge.Load().text))
		}
	}
	n.mu.Unlock()
	p.mu.Unlock()
	t.bytes.Add(grown - max(0, need))
	return done, false
}

// oneMoreKid counts a child of n that w is about to hold, and reports whether w
// holds n, as it must. n's mu must be held.
func (t *Tree) oneMoreKid(n *node, w *Tenant) bool {
	if n == &t.root {
		return true
	}
	h := n.held.Load()
	i, _ := h.find(w.id)
	if i >= 0 {
		h.set(i, func(e entry) entry { return e + kidOne })
	}
	return i >= 0
}

// count adds to w's size, with the lock held of the node whose text it is.
func (t *Tree) count(w *Tenant, bytes int) {
	w.size.Add(int64(bytes))
	t.size.Add(int64(bytes))
}

// extend notes what text has beyond at, a node that w holds and that ends where
// the match does.
func (t *Tree) extend(w *Tenant, text []byte, stamp uint32, at Hit) bool {
	var last *node
	defer func() {
		if last != nil {
			w.push(last, stamp)
		}
	}()
	for at.Matched < len(text) && at.depth < maxDepth {
		rest := text[at.Matched:]
		if t.lengthen(w, stamp, at, rest) {
			return true
		}
		rest = rest[:min(len(rest), maxEdge)]
		leaf, e, ok := t.addLeaf(w, stamp, at, rest)
		if leaf == nil {
			return ok
		}
		last = leaf
		at = Hit{Matched: e.end(), node: leaf, edge: e, depth: at.depth + 1}
	}
	return true
}

// lengthen adds rest to at's text, if at is a leaf that only w holds and that
// stays small: otherwise a text that grows byte by byte would be a chain of as
// many nodes. It reports whether it has.
func (t *Tree) lengthen(w *Tenant, stamp uint32, at Hit, rest []byte) bool {
	n, old := at.node, at.edge
	if n == &t.root || len(old.text)+len(rest) > maxGrow || !n.onlyLeafOf(w.id) {
		return false
	}
	need := class(edgeBytes) + class(int64(len(old.text)+len(rest)))
	if !t.reserve(need) {
		return false
	}
	n.mu.Lock()
	if n.dead || n.edge.Load() != old || !n.onlyLeafOf(w.id) {
		n.mu.Unlock()
		t.bytes.Add(-need)
		return false
	}
	long := make([]byte, len(old.text)+len(rest))
	copy(long[copy(long, old.text):], rest)
	n.edge.Store(&edge{at: old.at, text: long})
	t.count(w, len(rest))
	n.held.Load().set(0, func(e entry) entry { return e&^stampMask | entry(stamp) })
	n.mu.Unlock()
	t.bytes.Add(-class(edgeBytes) - class(int64(len(old.text))))
	return true
}

// onlyLeafOf reports whether n has no children and no holder but that one.
func (n *node) onlyLeafOf(id uint32) bool {
	h := n.held.Load()
	return n.kids.Load() == nil && h.n.Load() == 1 && entry(h.list[0].Load()).id() == id
}

// addLeaf gives at a child with text, which only w holds. If it cannot, the
// node is nil, and false says that it is worth while to try again.
func (t *Tree) addLeaf(w *Tenant, stamp uint32, at Hit, text []byte) (*node, *edge, bool) {
	n := at.node
	count := n.kids.Load().len()
	need := leafBytes(len(text)) + kidBytes(count+1)
	if !t.reserve(need) {
		return nil, nil, true
	}
	leaf := new(node)
	e := &edge{at: at.Matched, text: bytes.Clone(text)}
	leaf.edge.Store(e)
	leaf.parent.Store(n)
	h := newHolders(1)
	h.list[0].Store(uint64(newEntry(w.id, 0, stamp)))
	h.n.Store(1)
	leaf.held.Store(h)

	n.mu.Lock()
	ok := !n.dead && n.edge.Load() == at.edge && n.kids.Load().len() == count && n.child(text[0]) == nil
	if ok = ok && t.oneMoreKid(n, w); ok {
		n.kids.Store(n.kids.Load().withKid(text[0], leaf))
		t.count(w, len(text))
	}
	n.mu.Unlock()
	if !ok {
		t.bytes.Add(-need)
		return nil, nil, false
	}
	t.bytes.Add(-kidBytes(count))
	t.nodes.Add(1)
	return leaf, e, true
}

// drop takes w off n if n is a leaf of its, and n off the tree if nobody else
// holds it.
func (t *Tree) drop(w *Tenant, n *node) {
	for {
		p := n.parent.Load()
		p.mu.Lock()
		n.mu.Lock()
		if n.parent.Load() != p && !n.dead {
			n.mu.Unlock()
			p.mu.Unlock()
			continue // it was split
		}
		freed, again := t.dropLocked(w, n, p)
		n.mu.Unlock()
		p.mu.Unlock()
		t.bytes.Add(-freed)
		if again != nil {
			s, _ := p.used(w.id)
			w.push(again, s)
		}
		return
	}
}

// dropLocked returns how much memory is free, and n's parent if that is a leaf
// of w's now.
func (t *Tree) dropLocked(w *Tenant, n, p *node) (freed int64, leaf *node) {
	h := n.held.Load()
	i, e := h.find(w.id)
	if n.dead || i < 0 || e.kids() > 0 {
		return 0, nil
	}
	text := len(n.edge.Load().text)
	freed = n.take(i)
	t.count(w, -text)
	if p != &t.root {
		above := p.held.Load()
		if j, _ := above.find(w.id); j >= 0 {
			was := above.set(j, func(a entry) entry {
				a -= kidOne
				if int32(e.stamp()-a.stamp()) > 0 {
					a = a&^stampMask | entry(e.stamp())
				}
				return a
			})
			if was.kids() == 0 {
				leaf = p
			}
		}
	}
	if h = n.held.Load(); h.n.Load() > 0 {
		return freed, leaf
	}
	n.dead = true
	was := p.kids.Load()
	is := was.without(bytes.IndexByte(was.keys, n.edge.Load().text[0]))
	p.kids.Store(is)
	freed += class(nodeBytes) + class(edgeBytes) + class(int64(text)) + h.bytes() + was.bytes() - is.bytes()
	t.nodes.Add(-1)
	return freed, leaf
}
