package radix

// A Hit is how far a text was found. The zero Hit has found nothing.
type Hit struct {
	Matched int // bytes

	node  *node // the deepest, which ends at Matched or, if its text goes on otherwise, behind; nil for none
	edge  *edge // as it was then
	depth int32
}

// Match finds the longest beginning of text that anybody was given. It writes
// nothing and takes no lock.
func (t *Tree) Match(text []byte) Hit {
	var hit Hit
	n := &t.root
	for again := 0; hit.Matched < len(text) && hit.depth < maxDepth; {
		k := n.child(text[hit.Matched])
		if k == nil {
			break
		}
		e := k.edge.Load()
		if e.at != hit.Matched {
			// It is being split: its upper part is about to take its place.
			if again++; again > tries {
				break
			}
			continue
		}
		m := common(e.text, text[hit.Matched:])
		hit = Hit{Matched: hit.Matched + m, node: k, edge: e, depth: hit.depth + 1}
		if m < len(e.text) {
			break
		}
		n = k
	}
	return hit
}

// Len returns how many tenants hold what h has found, some of whom may be gone.
func (h Hit) Len() int {
	if h.node == nil {
		return 0
	}
	return int(h.node.held.Load().n.Load())
}

// Holder returns tenant i of those whom Len has counted, and how recently it was
// given what h has found: of two numbers, the later is larger by less than 2³¹.
// It returns nil if there are not so many any more, or if the tenant has left.
// While others write, one may be named twice, or not at all.
func (t *Tree) Holder(h Hit, i int) (w *Tenant, used uint32) {
	list := h.node.held.Load()
	if i >= min(int(list.n.Load()), len(list.list)) {
		return nil, 0
	}
	e := entry(list.list[i].Load())
	if w = (*t.all.Load())[e.id()].Load(); w == nil || w.gone.Load() {
		return nil, 0
	}
	return w, e.stamp()
}

// Holds reports whether w holds what h has found.
func (h Hit) Holds(w *Tenant) bool {
	if h.node == nil || w.gone.Load() {
		return false
	}
	_, held := h.node.used(w.id)
	return held
}

// Up returns the Hit of the node above: a shorter text, which at least the same
// tenants hold. Above the first is the zero Hit.
func (h Hit) Up() Hit {
	if h.node == nil {
		return Hit{}
	}
	p := h.node.parent.Load()
	e := p.edge.Load()
	if p.parent.Load() == nil || e.end() > h.Matched {
		return Hit{}
	}
	return Hit{Matched: e.end(), node: p, edge: e, depth: max(1, h.depth-1)}
}
