// Package hashring gives every key an owner among names, so that few keys get
// another owner when names come or go.
//
// Names and keys stand on a circle of 2⁶⁴ places. A name stands in many of them,
// by the BLAKE3 hash of "name#0", "name#1", and so on; a key belongs to the name
// that stands where the key does or is met first going up from there. Whoever
// computes with the same names comes to the same owners.
//
// A Maker remembers where the names it has seen stand. A Ring over nearly the
// same names as the last therefore shares its memory and costs little.
package hashring

import (
	"cmp"
	"encoding/binary"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"github.com/zeebo/blake3"
)

// Places is in how many places each name stands.
const Places = 150

// Place returns where key stands: the first 8 bytes of its BLAKE3 hash, little
// endian. It is linear in the key's length and does not allocate.
func Place(key []byte) uint64 {
	h := blake3.Sum256(key)
	return binary.LittleEndian.Uint64(h[:8])
}

// A Ring knows the owner of every place. It is not written to after it was made.
type Ring struct {
	circle
	names []int32 // by slot: index in the names that Ring was made of, -1 for absent
}

// A circle is where names stand. It is cut into arcs of equal length, 1<<bits of
// them, and these are put together in pages, so that a circle with some more
// points shares most of its memory. A look-up waits for a page and for a point or
// two that lie together.
type circle struct {
	pages []page
	bits  uint
}

// A page is arcs that follow each other. It is one cache line.
type page struct {
	points []uint64            // in order; see point
	begin  [perPage + 1]uint16 // where each arc begins in points, and where the last one ends
}

const (
	perPage  = 16
	pageBits = 4
)

// point is how a place where the name of slot stands is kept in its arc. The
// arc says what the upper bits of the place are, and there are fewer slots than
// arcs.
func (c *circle) point(at uint64, slot uint32) uint64 { return at<<c.bits | uint64(slot) }

func (c *circle) slot(point uint64) uint32 { return uint32(point & (1<<c.bits - 1)) }

// arc returns in which arc at is.
func (c *circle) arc(at uint64) int { return int(at >> (64 - c.bits)) }

// Owner returns the index of the name that place at belongs to, -1 if the Ring
// has no names.
func (r *Ring) Owner(at uint64) int {
	w := r.From(at)
	return w.Next()
}

// From returns a Walk that begins at the owner of at.
func (r *Ring) From(at uint64) Walk {
	w := Walk{ring: r}
	if len(r.pages) == 0 {
		w.pages = -1
		return w
	}
	arc := r.arc(at)
	w.page = arc >> pageBits
	p := &r.pages[w.page]
	w.next = int(p.begin[arc%perPage])
	// What lies behind the arc in its page is met first going up all the same.
	for key, end := r.point(at, 0), int(p.begin[arc%perPage+1]); w.next < end && p.points[w.next] < key; {
		w.next++
	}
	return w
}

// A Walk goes up the circle from owner to owner.
type Walk struct {
	ring  *Ring
	page  int // where the next point is, or the first page to look in for it
	next  int // index in the page
	pages int // left behind
}

// Next returns the index of the next owner, and -1 after the last. Names stand
// in many places, so most come up more than once; all do at least once.
func (w *Walk) Next() int {
	for w.pages >= 0 && w.pages <= len(w.ring.pages) { // the first page twice: its lower part comes last
		points := w.ring.pages[w.page].points
		for w.next < len(points) {
			slot := w.ring.slot(points[w.next])
			w.next++
			if i := w.ring.names[slot]; i >= 0 {
				return int(i)
			}
		}
		w.next = 0
		w.pages++
		if w.page++; w.page == len(w.ring.pages) {
			w.page = 0
		}
	}
	return -1
}

// A Maker makes Rings. The zero Maker is ready. It may be used by several
// goroutines at once.
type Maker struct {
	mu    sync.Mutex
	slots map[string]uint32 // guarded by mu; of every name that is remembered
	seen  []uint64          // guarded by mu; by slot: the round in which its name was last there, 0 for a free slot
	free  []uint32          // guarded by mu
	round uint64            // guarded by mu; counts Rings
	most  int               // guarded by mu; names in the largest Ring

	circle circle // guarded by mu; shared with Rings, so its pages are replaced and never written to
	total  int    // guarded by mu; points in circle
}

// spare is how many names that are not there any more are remembered at least.
const spare = 256

// Ring returns the Ring over names. If a name is there twice, the later index is
// its owner's.
func (m *Maker) Ring(names []string) *Ring {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.round++
	m.most = max(m.most, len(names))
	m.addLocked(names)
	here := 0
	for slot := range m.seen {
		if m.seen[slot] == m.round {
			here++
		}
	}
	if absent := len(m.slots) - here; absent > max(spare, m.most) {
		m.forgetLocked(absent / 2)
	}
	r := &Ring{circle: m.circle, names: make([]int32, len(m.seen))}
	for slot := range r.names {
		r.names[slot] = -1
	}
	for i, name := range names {
		r.names[m.slots[name]] = int32(i)
	}
	if 2*here < len(m.slots) {
		// Most points would be passed over, and a walk must be short.
		r.circle = newCircle(m.placesLocked(make([]place, 0, here*Places), func(slot int) bool { return r.names[slot] >= 0 }))
	}
	return r
}

// addLocked notes that names are there, and puts those that are new in their
// places.
func (m *Maker) addLocked(names []string) {
	if m.slots == nil {
		m.slots = make(map[string]uint32, len(names))
	}
	var fresh []string
	var slots []uint32
	for _, name := range names {
		slot, known := m.slots[name]
		if !known {
			if n := len(m.free); n > 0 {
				slot, m.free = m.free[n-1], m.free[:n-1]
			} else {
				slot = uint32(len(m.seen))
				m.seen = append(m.seen, 0)
			}
			m.slots[name] = slot
			fresh, slots = append(fresh, name), append(slots, slot)
		}
		m.seen[slot] = m.round
	}
	if len(fresh) == 0 {
		return
	}
	places := placesOf(fresh, slots)
	if m.total+len(places) > mostPerArc*len(m.circle.pages)*perPage || len(places) > m.total/4 || len(m.seen) > 1<<m.circle.bits {
		all := make([]place, 0, m.total+len(places))
		all = m.placesLocked(all, func(int) bool { return true })
		m.circle = newCircle(append(all, places...))
	} else {
		m.circle = m.circle.with(places)
	}
	m.total += len(places)
}

// A place is where the name of a slot stands.
type place struct {
	at   uint64
	slot uint32
}

// placesLocked appends the places of those slots that keep wants. m.mu must be
// held.
func (m *Maker) placesLocked(l []place, keep func(slot int) bool) []place {
	kept := make([]bool, len(m.seen))
	for slot := range kept {
		kept[slot] = keep(slot)
	}
	c := &m.circle
	for i := range c.pages {
		p, arc := &c.pages[i], 0
		for k, x := range p.points {
			slot := c.slot(x)
			if !kept[slot] {
				continue
			}
			for k >= int(p.begin[arc+1]) {
				arc++
			}
			l = append(l, place{uint64(i*perPage+arc)<<(64-c.bits) | x>>c.bits, slot})
		}
	}
	return l
}

// apart is for how many names it pays to have another goroutine hash them.
const apart = 256

// placesOf returns where names stand, whose slots are beside them. For thousands,
// which come at most once, several goroutines work it out; it returns when all
// have ended.
func placesOf(names []string, slots []uint32) []place {
	l := make([]place, len(names)*Places)
	each := max(apart, (len(names)+maxHashers-1)/min(maxHashers, runtime.GOMAXPROCS(0)))
	var wg sync.WaitGroup
	for from := each; from < len(names); from += each {
		to := min(from+each, len(names))
		wg.Go(func() { hash(l[from*Places:to*Places], names[from:to], slots[from:to]) })
	}
	hash(l, names[:min(each, len(names))], slots)
	wg.Wait()
	return l
}

// maxHashers is how many goroutines hash names at once, at most.
const maxHashers = 4

// hash writes where names stand to l.
func hash(l []place, names []string, slots []uint32) {
	key := make([]byte, 0, 256)
	for i, name := range names {
		key = append(append(key[:0], name...), '#')
		n := len(key)
		for k := range Places {
			key = strconv.AppendInt(key[:n], int64(k), 10)
			l[i*Places+k] = place{Place(key), slots[i]}
		}
	}
}

// forgetLocked forgets the n names that have been gone for longest.
func (m *Maker) forgetLocked(n int) {
	names := make([]string, 0, len(m.slots))
	for name := range m.slots {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(m.seen[m.slots[a]], m.seen[m.slots[b]]), cmp.Compare(a, b))
	})
	for _, name := range names[:n] {
		slot := m.slots[name]
		m.seen[slot] = 0
		m.free = append(m.free, slot)
		delete(m.slots, name)
	}
	l := m.placesLocked(make([]place, 0, len(m.slots)*Places), func(slot int) bool { return m.seen[slot] != 0 })
	m.circle, m.total = newCircle(l), len(l)
}

// An arc of a new circle has perArc points at most, on average, and gets no more
// than mostPerArc. A look-up compares with half as many.
const (
	perArc     = 8
	mostPerArc = 16
)

// newCircle returns the circle of l.
func newCircle(l []place) (c circle) {
	if len(l) == 0 {
		return c
	}
	slots := 0
	for i := range l {
		slots = max(slots, int(l[i].slot)+1)
	}
	for c.bits = pageBits; perArc<<c.bits < len(l) || 1<<c.bits < slots; {
		c.bits++
	}
	begin := make([]uint32, 1<<c.bits+1) // of each arc
	for i := range l {
		begin[c.arc(l[i].at)+1]++
	}
	for i := 1; i < len(begin); i++ {
		begin[i] += begin[i-1]
	}
	points := make([]uint64, len(l))
	next := slices.Clone(begin)
	for _, p := range l {
		n := &next[c.arc(p.at)]
		points[*n] = c.point(p.at, p.slot)
		*n++
	}
	c.pages = make([]page, 1<<(c.bits-pageBits))
	for i := range c.pages {
		c.pages[i].fill(points, begin[i*perPage:])
	}
	return c
}

// fill makes p the page whose arcs begin there in points, and puts these in order.
// Two names in one place is a chance of 1 in 10⁸ for thousands of names; then who
// came first has it.
func (p *page) fill(points []uint64, begin []uint32) {
	first, last := begin[0], begin[perPage]
	p.points = points[first:last:last]
	for arc := range perPage {
		p.begin[arc+1] = uint16(begin[arc+1] - first)
		sortFew(points[begin[arc]:begin[arc+1]])
	}
}

// sortFew sorts l, which is an arc's.
func sortFew(l []uint64) {
	for i, x := range l {
		for ; i > 0 && l[i-1] > x; i-- {
			l[i] = l[i-1]
		}
		l[i] = x
	}
}

// with returns c with more places. It copies the pages that get points, and the
// list of all.
func (c circle) with(l []place) circle {
	more := make([][]place, 0, len(l))
	slices.SortFunc(l, func(a, b place) int { return cmp.Compare(a.at, b.at) })
	for len(l) > 0 {
		n, page := 1, c.arc(l[0].at)/perPage
		for n < len(l) && c.arc(l[n].at)/perPage == page {
			n++
		}
		more, l = append(more, l[:n]), l[n:]
	}
	c.pages = slices.Clone(c.pages)
	for _, l := range more {
		p := &c.pages[c.arc(l[0].at)/perPage]
		c.add(p, l)
	}
	return c
}

// add puts places into page p, whose points are others' as well.
func (c *circle) add(p *page, l []place) {
	old := *p
	points := make([]uint64, 0, len(old.points)+len(l))
	for arc := range perPage {
		points = append(points, old.points[old.begin[arc]:old.begin[arc+1]]...)
		n := len(points)
		for len(l) > 0 && c.arc(l[0].at)%perPage == arc {
			points = append(points, c.point(l[0].at, l[0].slot))
			l = l[1:]
		}
		if len(points) > n {
			sortFew(points[p.begin[arc]:])
		}
		p.begin[arc+1] = uint16(len(points))
	}
	p.points = points
}
