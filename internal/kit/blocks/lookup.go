package blocks

// Bounds of what one Lookup finds.
const (
	// MaxHeld is how many holders are named.
	MaxHeld = 128

	// fine is how many segments may differ in hits only.
	fine = 32

	// MaxSegments is how many parts a chain is seen as.
	MaxSegments = fine + MaxHeld + 2
)

// A Segment is a part of a chain in which the same ones hold every block, and
// every block was asked for as often. It begins where the one before it ends.
type Segment struct {
	End     int32   // the first block after it
	Holders int32   // at least 1
	Hits    float32 // that count now
}

// A Held says that Slot holds the first Depth blocks of a chain.
type Held struct {
	Slot  int32
	Depth int32
	Part  int32 // of Segments, the one that ends at Depth
}

// A Match is what a Lookup finds. It has the memory for that in itself.
type Match struct {
	segments [MaxSegments]Segment
	held     [MaxHeld]Held
	parts    int
	holders  int
	seen     [64]uint64 // of slots modulo 4,096: those that are in held, and perhaps others

	search // while it lasts
}

// Segments returns the segments of the chain that somebody holds, the deepest
// first.
func (m *Match) Segments() []Segment { return m.segments[:m.parts] }

// Held returns who holds something of the chain, the deepest first. If those are
// more than were wanted, it is as many as were.
func (m *Match) Held() []Held { return m.held[:m.holders] }

// Depth returns how many blocks of the chain somebody holds.
func (m *Match) Depth() int {
	if m.parts == 0 {
		return 0
	}
	return int(m.segments[0].End)
}

// A sight is what a Lookup sees of a block.
type sight struct {
	holders int32
	seen    uint32
	hits    float32
}

// A search is one Lookup under way.
type search struct {
	ix    *Index
	keys  []uint64
	at    marks // of keys; blocks are counted in these
	now   uint32
	want  int
	start uint32
	end   int32 // where the segment ends that is being looked for
	named int32 // holders of the last segment
}

// Lookup finds who holds how much of the chain of keys at now, in seconds, at
// most want of them. Among more of equal depth, start, a random number, says whom.
// It looks at as many marks as there are changes along the chain, times the
// logarithm of its length: a block is held by all who hold one after it, so what
// is equal at two marks is so between them. What two chains have in common behind
// their last mark in common is not found.
func (ix *Index) Lookup(keys []uint64, now uint32, want int, start uint32, m *Match) {
	m.parts, m.holders, m.seen = 0, 0, [64]uint64{}
	if len(keys) == 0 {
		return
	}
	at := marksOf(len(keys))
	m.search = search{ix: ix, keys: keys, at: at, now: now, want: min(want, MaxHeld), start: start, end: at.n}
	if first := m.look(0); first.holders > 0 {
		if last := at.n - 1; last > 0 {
			m.between(0, last, first, m.look(last))
		}
		m.found(0, first)
	}
	m.search = search{}
}

// look returns what is to be seen of mark i.
func (m *Match) look(i int32) sight {
	key := m.keys[m.at.depth(i+1)-1]
	sh := m.ix.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e, _ := sh.find(&m.ix.slabs, key)
	if e == nil {
		return sight{}
	}
	return sight{int32(sh.count(e)), e.seen, e.hits}
}

// between finds the segments that begin after mark i and not after mark j,
// whose sights are a and b.
func (m *Match) between(i, j int32, a, b sight) {
	if m.alike(a, b) {
		return
	}
	if j == i+1 {
		m.found(j, b)
		return
	}
	k := (i + j) / 2
	c := m.look(k)
	m.between(k, j, c, b)
	m.between(i, k, a, c)
}

// alike reports whether two blocks may be in one segment.
func (m *Match) alike(a, b sight) bool {
	switch {
	case a == b:
		return true
	case a.holders == 0 || b.holders == 0 || m.parts < fine:
		return false
	}
	return a.holders == b.holders || m.holders >= m.want
}

// found notes the segment that begins with mark i and ends where the one after
// it begins.
func (m *Match) found(i int32, x sight) {
	end := m.end
	m.end = i
	if x.holders == 0 || m.parts == MaxSegments {
		return
	}
	e := body{seen: x.seen, hits: x.hits}
	m.segments[m.parts] = Segment{End: m.at.depth(end), Holders: x.holders, Hits: e.hitsAt(m.now)}
	if x.holders > m.named && m.holders < m.want {
		m.name(end)
		m.named = x.holders
	}
	m.parts++
}

// name adds those to the holders who hold the mark before end, and are not there.
func (m *Match) name(end int32) {
	depth := m.at.depth(end)
	key := m.keys[depth-1]
	sh := m.ix.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e, _ := sh.find(&m.ix.slabs, key)
	switch {
	case e == nil:
	case e.holder[0] == many:
		cells := sh.sets[e.group[0]].cells
		for i := range cells {
			if c := cells[(i+int(m.start))&(len(cells)-1)]; c != 0 {
				m.add(cellHolder(c), depth)
				if m.holders == m.want {
					return
				}
			}
		}
	default:
		for _, h := range e.holder {
			if h != nobody && m.holders < m.want {
				m.add(h, depth)
			}
		}
	}
}

func (m *Match) add(holder uint16, depth int32) {
	word, bit := &m.seen[holder>>6&63], uint64(1)<<(holder&63)
	if *word&bit != 0 {
		for i := range m.holders {
			if m.held[i].Slot == int32(holder) {
				return
			}
		}
	}
	*word |= bit
	m.held[m.holders] = Held{Slot: int32(holder), Depth: depth, Part: int32(m.parts)}
	m.holders++
}
