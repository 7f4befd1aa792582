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

// A search is one Lookup.
type search struct {
	ix    *Index
	keys  []uint64
	now   uint32
	want  int
	start uint32
	m     *Match
	end   int32 // where the segment ends that is being looked for
	named int32 // holders of the last segment
}

// Lookup finds who holds how much of the chain of keys at now, in seconds, at
// most want of them. Among more of equal depth, start, a random number, says whom.
// It looks at as many blocks as there are changes along the chain, times the
// logarithm of its length: a block is held by all who hold one after it, so what
// is equal at two blocks is so between them.
func (ix *Index) Lookup(keys []uint64, now uint32, want int, start uint32, m *Match) {
	m.parts, m.holders, m.seen = 0, 0, [64]uint64{}
	if len(keys) == 0 {
		return
	}
	s := search{ix: ix, keys: keys, now: now, want: min(want, MaxHeld), start: start, m: m, end: int32(len(keys))}
	first := s.look(0)
	if first.holders == 0 {
		return
	}
	last := int32(len(keys) - 1)
	if last > 0 {
		s.between(0, last, first, s.look(last))
	}
	s.found(0, first)
}

// look returns what is to be seen of block i.
func (s *search) look(i int32) sight {
	key := s.keys[i]
	sh := s.ix.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e, _ := sh.find(&s.ix.slabs, key)
	if e == nil {
		return sight{}
	}
	return sight{int32(sh.count(e)), e.seen, e.hits}
}

// between finds the segments that begin after block i and not after block j,
// whose sights are a and b.
func (s *search) between(i, j int32, a, b sight) {
	if s.alike(a, b) {
		return
	}
	if j == i+1 {
		s.found(j, b)
		return
	}
	k := (i + j) / 2
	c := s.look(k)
	s.between(k, j, c, b)
	s.between(i, k, a, c)
}

// alike reports whether two blocks may be in one segment.
func (s *search) alike(a, b sight) bool {
	switch {
	case a == b:
		return true
	case a.holders == 0 || b.holders == 0 || s.m.parts < fine:
		return false
	}
	return a.holders == b.holders || s.m.holders >= s.want
}

// found notes the segment that begins with block i and ends where the one after
// it begins.
func (s *search) found(i int32, x sight) {
	m := s.m
	end := s.end
	s.end = i
	if x.holders == 0 || m.parts == MaxSegments {
		return
	}
	e := body{seen: x.seen, hits: x.hits}
	m.segments[m.parts] = Segment{End: end, Holders: x.holders, Hits: e.hitsAt(s.now)}
	if x.holders > s.named && m.holders < s.want {
		s.name(end)
		s.named = x.holders
	}
	m.parts++
}

// name adds those to the holders who hold the block before end, and are not there.
func (s *search) name(end int32) {
	key := s.keys[end-1]
	sh := s.ix.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e, _ := sh.find(&s.ix.slabs, key)
	switch {
	case e == nil:
	case e.holder[0] == many:
		cells := sh.sets[e.group[0]].cells
		for i := range cells {
			if c := cells[(i+int(s.start))&(len(cells)-1)]; c != 0 {
				s.add(cellHolder(c), end)
				if s.m.holders == s.want {
					return
				}
			}
		}
	default:
		for _, h := range e.holder {
			if h != nobody && s.m.holders < s.want {
				s.add(h, end)
			}
		}
	}
}

func (s *search) add(holder uint16, depth int32) {
	m := s.m
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
