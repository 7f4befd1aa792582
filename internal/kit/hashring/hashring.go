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
	arcs  [][]point // of equal length, in the order of their places; some are empty
	shift uint      // place >> shift is its arc
	names []int32   // by slot: index in the names that Ring was made of, -1 for absent
}

// A point is a place where a name stands.
type point struct {
	at   uint64
	slot uint32 // of the name
}

// Owner returns the index of the name that place at belongs to, -1 if the Ring
// has no names.
func (r *Ring) Owner(at uint64) int {
	w := r.From(at)
	return w.Next()
}

// From returns a Walk that begins at the owner of at.
func (r *Ring) From(at uint64) Walk {
	w := Walk{ring: r}
	if len(r.arcs) == 0 {
		w.arcs = -1
		return w
	}
	w.arc = int(at >> r.shift)
	points := r.arcs[w.arc]
	for w.next < len(points) && points[w.next].at < at {
		w.next++
	}
	return w
}

// A Walk goes up the circle from owner to owner.
type Walk struct {
	ring *Ring
	arc  int // where the next point is, or the first arc to look in for it
	next int // index in the arc
	arcs int // left behind
}

// Next returns the index of the next owner, and -1 after the last. Names stand
// in many places, so most come up more than once; all do at least once.
func (w *Walk) Next() int {
	for w.arcs >= 0 && w.arcs <= len(w.ring.arcs) { // the first arc twice: its lower part comes last
		points := w.ring.arcs[w.arc]
		for w.next < len(points) {
			slot := points[w.next].slot
			w.next++
			if i := w.ring.names[slot]; i >= 0 {
				return int(i)
			}
		}
		w.next = 0
		w.arcs++
		if w.arc++; w.arc == len(w.ring.arcs) {
			w.arc = 0
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

	arcs  [][]point // guarded by mu; shared with Rings, so they are replaced and never written to
	shift uint      // guarded by mu
	total int       // guarded by mu; points in arcs
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
	r := &Ring{arcs: m.arcs, shift: m.shift, names: make([]int32, len(m.seen))}
	for slot := range r.names {
		r.names[slot] = -1
	}
	for i, name := range names {
		r.names[m.slots[name]] = int32(i)
	}
	if 2*here < len(m.slots) {
		// Most points would be passed over, and a walk must be short.
		l := make([]point, 0, here*Places)
		for _, points := range m.arcs {
			for _, p := range points {
				if r.names[p.slot] >= 0 {
					l = append(l, p)
				}
			}
		}
		r.arcs, r.shift = split(l)
	}
	return r
}

// addLocked notes that names are there, and puts those that are new in their
// places.
func (m *Maker) addLocked(names []string) {
	if m.slots == nil {
		m.slots = make(map[string]uint32, len(names))
	}
	var fresh []point
	if len(m.slots) == 0 {
		fresh = make([]point, 0, len(names)*Places)
	}
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
			fresh = appendPoints(fresh, name, slot)
		}
		m.seen[slot] = m.round
	}
	switch {
	case len(fresh) == 0:
	case m.total+len(fresh) > perArc*len(m.arcs) || len(fresh) > m.total/4:
		l := make([]point, 0, m.total+len(fresh))
		for _, points := range m.arcs {
			l = append(l, points...)
		}
		m.arcs, m.shift = split(append(l, fresh...))
	default:
		m.insertLocked(fresh)
	}
	m.total += len(fresh)
}

// appendPoints appends where name stands.
func appendPoints(l []point, name string, slot uint32) []point {
	key := append(make([]byte, 0, 256), name...)
	key = append(key, '#')
	n := len(key)
	for i := range Places {
		key = strconv.AppendInt(key[:n], int64(i), 10)
		l = append(l, point{Place(key), slot})
	}
	return l
}

// insertLocked puts fresh among the others. It copies the arcs that get points,
// and the list of all.
func (m *Maker) insertLocked(fresh []point) {
	m.arcs = slices.Clone(m.arcs)
	slices.SortFunc(fresh, byPlace)
	for len(fresh) > 0 {
		arc := fresh[0].at >> m.shift
		n := 1
		for n < len(fresh) && fresh[n].at>>m.shift == arc {
			n++
		}
		l := make([]point, 0, len(m.arcs[arc])+n)
		l = append(append(l, m.arcs[arc]...), fresh[:n]...)
		slices.SortFunc(l, byPlace)
		m.arcs[arc] = l
		fresh = fresh[n:]
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
	l := make([]point, 0, len(m.slots)*Places)
	for _, points := range m.arcs {
		for _, p := range points {
			if m.seen[p.slot] != 0 {
				l = append(l, p)
			}
		}
	}
	m.arcs, m.shift = split(l)
	m.total = len(l)
}

// perArc is how many points an arc has at most, on average. A look-up compares
// with half as many.
const perArc = 16

// split makes arcs of l, at least half as many as perArc wants so that some can
// be added.
func split(l []point) (arcs [][]point, shift uint) {
	if len(l) == 0 {
		return nil, 0
	}
	shift = 64
	for perArc/2<<(64-shift) < len(l) {
		shift--
	}
	n := make([]int, 1<<(64-shift)+1) // where each arc begins
	for _, p := range l {
		n[p.at>>shift+1]++
	}
	for i := 1; i < len(n); i++ {
		n[i] += n[i-1]
	}
	sorted := make([]point, len(l))
	next := slices.Clone(n)
	for _, p := range l {
		arc := p.at >> shift
		sorted[next[arc]] = p
		next[arc]++
	}
	arcs = make([][]point, len(n)-1)
	for i := range arcs {
		if from, to := n[i], n[i+1]; from < to {
			arcs[i] = sorted[from:to:to]
			slices.SortFunc(arcs[i], byPlace)
		}
	}
	return arcs, shift
}

// byPlace orders points. Two names in one place is a chance of 1 in 10⁸ for
// thousands of names; then who came first has it.
func byPlace(a, b point) int {
	switch {
	case a.at < b.at:
		return -1
	case a.at > b.at:
		return 1
	}
	return cmp.Compare(a.slot, b.slot)
}
