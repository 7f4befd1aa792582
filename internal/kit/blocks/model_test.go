package blocks

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// A cache is what an Index says of one holder, kept the plain way: the blocks in
// the order in which they will go.
type cache struct {
	capacity int
	order    []kept // the next to go first
}

// A kept block is one at a mark.
type kept struct {
	key    uint64
	weight int
}

// plainMarks returns the depths of a chain's marks, and what each stands for.
func plainMarks(length int) (depths, weights []int) {
	last := 0
	for d := 1; d <= length; d++ {
		if step := min(max(1, 1<<bits.Len(uint(d-1)/32)), 8); d%step == 0 {
			depths, weights, last = append(depths, d), append(weights, step), d
		}
	}
	for d := last + 1; d <= length; d++ {
		depths, weights = append(depths, d), append(weights, 0)
	}
	return depths, weights
}

func (c *cache) has(key uint64) bool {
	return slices.ContainsFunc(c.order, func(k kept) bool { return k.key == key })
}

func (c *cache) drop(key uint64) bool {
	n := len(c.order)
	c.order = slices.DeleteFunc(c.order, func(k kept) bool { return k.key == key })
	return len(c.order) < n
}

// shrink lets the oldest go until it fits beside others of that size and number.
func (c *cache) shrink(size, n int) {
	for _, k := range c.order {
		size, n = size+k.weight, n+1
	}
	for len(c.order) > 0 && (size > c.capacity || n > c.capacity) {
		size, n = size-c.order[0].weight, n-1
		c.order = c.order[1:]
	}
}

// insert returns how deep the chain is there now, and was before.
func (c *cache) insert(keys []uint64) (n, fresh int) {
	depths, weights := plainMarks(min(len(keys), c.capacity))
	had, size := true, 0
	var now []kept
	for i, d := range depths {
		k := kept{keys[d-1], weights[i]}
		now, size = append(now, k), size+k.weight
		if c.drop(k.key) {
			fresh = d
			continue
		}
		had = false
		c.shrink(size, len(now))
	}
	slices.Reverse(now) // roots live longest
	c.order = append(c.order, now...)
	if len(depths) == 0 {
		return 0, 0
	}
	n = depths[len(depths)-1]
	if had {
		fresh = n
	}
	return n, fresh
}

func (c *cache) depth(keys []uint64) (depth int) {
	depths, _ := plainMarks(len(keys))
	for _, d := range depths {
		if !c.has(keys[d-1]) {
			break
		}
		depth = d
	}
	return depth
}

// chainOf returns the keys of a path in a tree: what two paths begin with alike
// has the same keys.
func chainOf(path []int) []uint64 {
	var keys []uint64
	h := uint64(7)
	for _, p := range path {
		h = h*0x9e3779b97f4a7c15 + uint64(p) + 1
		h ^= h >> 29
		keys = append(keys, h)
	}
	return keys
}

// longChainOf is chainOf for a path on which each step is n blocks.
func longChainOf(path []int, n int) []uint64 {
	var long []int
	for _, p := range path {
		for range n {
			long = append(long, p)
		}
	}
	return chainOf(long)
}

// check holds what must hold between two calls, and returns how many blocks there
// are.
func (ix *Index) check() error {
	held := make(map[int]int64)
	n := 0
	for i := range ix.shards {
		s := &ix.shards[i]
		t := s.table.Load()
		if t == nil {
			continue
		}
		linked := 0
		for b := range t.buckets {
			for id := t.buckets[b]; id != 0; id = ix.slabs.block(id).next {
				linked++
				if err := ix.checkBlock(s, id, held); err != nil {
					return err
				}
			}
		}
		if linked != s.n {
			return fmt.Errorf("shard %d: %d blocks are found of %d", i, linked, s.n)
		}
		n += s.n
	}
	if err := ix.slabs.check(n); err != nil {
		return err
	}
	for slot, h := range *ix.holders.Load() {
		if h == nil {
			continue
		}
		sum, size := int64(0), int64(0)
		for k := h.oldest; k != 0; k = h.group(k).newer {
			g := h.group(k)
			sum += int64(g.n)
			for d, n := g.depth, g.n; n > 0; d, n = before(d), n-1 {
				size += weight(d)
			}
		}
		if size != h.size || size > h.capacity {
			return fmt.Errorf("holder %d has blocks for %d, %d in groups, room for %d", slot, h.size, size, h.capacity)
		}
		if sum != h.held.Load() || held[slot] != sum || sum > h.capacity {
			return fmt.Errorf("holder %d has %d blocks, %d in groups, %d in the index, room for %d", slot, h.held.Load(), sum, held[slot], h.capacity)
		}
		if !h.joined && sum > 0 {
			return fmt.Errorf("holder %d has left and holds %d blocks", slot, sum)
		}
	}
	return nil
}

func (ix *Index) checkBlock(s *shard, id uint32, held map[int]int64) error {
	e, key := ix.slabs.block(id), ix.slabs.key(id)
	if key == 0 || ix.shard(key) != s || ix.slabs.at(id).used.Load()>>(id%64)&1 == 0 {
		return fmt.Errorf("block %d has the key %x", id, key)
	}
	if s.count(e) == 0 {
		return fmt.Errorf("block %x has no holder", key)
	}
	for _, h := range s.holdersOf(e) {
		held[h]++
		if e.parent == 0 {
			continue
		}
		up := ix.slabs.key(e.parent)
		if up == 0 || ix.shard(up).groupOf(ix.slabs.block(e.parent), uint16(h)) == 0 {
			return fmt.Errorf("%d holds block %x and not the one before it", h, key)
		}
	}
	return nil
}

// check holds that there are n blocks, and that slabs with few are listed.
func (s *slabs) check(n int) error {
	list := make(map[uint32]bool)
	for k := s.few; k != 0; k = s.at(k << slabShift).older {
		list[k] = true
	}
	for k := range *s.all.Load() {
		l := (*s.all.Load())[k].Load()
		if l == nil {
			continue
		}
		used := bits.OnesCount64(l.used.Load())
		n -= used
		if list[uint32(k)] != (l.state == listed) || l.state == settled && used <= fewBlocks || l.state == listed && used == 0 {
			return fmt.Errorf("slab %d: %d blocks, state %d, listed %v", k, used, l.state, list[uint32(k)])
		}
	}
	if n != 0 {
		return fmt.Errorf("%d blocks too few in slabs", n)
	}
	return nil
}

func (s *shard) holdersOf(e *body) (hs []int) {
	if e.holder[0] == many {
		for _, c := range s.sets[e.group[0]].cells {
			if c != 0 {
				hs = append(hs, int(cellHolder(c)))
			}
		}
		return hs
	}
	for _, h := range e.holder {
		if h != nobody {
			hs = append(hs, int(h))
		}
	}
	return hs
}

// chain draws one. What two have in common may end anywhere, before and behind
// where an Index begins to leave blocks out.
func chain(t *rapid.T) []uint64 {
	path := rapid.SliceOfN(rapid.IntRange(0, 2), 0, 14).Draw(t, "path")
	keys := longChainOf(path, rapid.SampledFrom([]int{1, 1, 29}).Draw(t, "blocks a step"))
	return keys[:len(keys)-rapid.IntRange(0, min(len(keys), 10)).Draw(t, "cut")]
}

// room draws how many blocks a holder may have.
func room(t *rapid.T) int {
	if rapid.Bool().Draw(t, "large") {
		return rapid.IntRange(1, 900).Draw(t, "capacity")
	}
	return rapid.IntRange(1, 40).Draw(t, "capacity")
}

// TestIndexIsAsItsModel plays what a gateway does with an Index, and compares
// with plain lists: who holds how much, how often what was asked for, and what a
// failed attempt leaves.
func TestIndexIsAsItsModel(t *testing.T) { rapid.Check(t, againstModel) }

func FuzzIndex(f *testing.F) { f.Fuzz(rapid.MakeFuzz(againstModel)) }

func againstModel(t *rapid.T) {
	ix := NewIndex(NewBudget(64 << 20))
	slots := rapid.IntRange(1, 9).Draw(t, "slots")
	model := make([]*cache, slots)
	eras := make([]uint32, slots)
	now := uint32(1000)
	type put struct {
		slot int
		keys []uint64
		n    int
		p    Put
	}
	var last *put
	slot := rapid.IntRange(0, slots-1)
	t.Repeat(map[string]func(*rapid.T){
		"join": func(t *rapid.T) {
			k := slot.Draw(t, "slot")
			c := room(t)
			if era := ix.Join(k, c); era == eras[k] {
				t.Fatalf("era %d came twice", era)
			}
			model[k], eras[k], last = &cache{capacity: c}, ix.Era(k), nil
		},
		"leave": func(t *rapid.T) {
			k := slot.Draw(t, "slot")
			ix.Leave(k)
			model[k], last = nil, nil
		},
		"resize": func(t *rapid.T) {
			k := slot.Draw(t, "slot")
			if c := model[k]; c != nil {
				c.capacity = room(t)
				ix.Resize(k, c.capacity)
				c.shrink(0, 0)
				last = nil
			}
		},
		"insert": func(t *rapid.T) {
			k, keys := slot.Draw(t, "slot"), chain(t)
			now += uint32(rapid.IntRange(0, 30).Draw(t, "seconds"))
			p := ix.Insert(keys, k, eras[k], now)
			c := model[k]
			if c == nil {
				if p != (Put{}) {
					t.Fatalf("who left was given %+v", p)
				}
				return
			}
			was := len(c.order)
			kept, _ := plainMarks(min(len(keys), c.capacity))
			n, fresh := c.insert(keys)
			if int(p.N) != n || int(p.Fresh) != fresh {
				t.Fatalf("%d blocks, new from %d on; want %d, %d", p.N, p.Fresh, n, fresh)
			}
			news := 0
			for _, d := range kept {
				if d > fresh {
					news++
				}
			}
			if last = nil; len(c.order) == was+news { // nothing had to go
				last = &put{k, keys, n, p}
			}
		},
		"an old era": func(t *rapid.T) {
			k := slot.Draw(t, "slot")
			if p := ix.Insert(chain(t), k, eras[k]-1, now); p != (Put{}) {
				t.Fatalf("an earlier era was given %+v", p)
			}
		},
		"undo": func(t *rapid.T) {
			if last == nil {
				return
			}
			ix.Undo(last.keys, last.slot, last.p)
			c := model[last.slot]
			for _, k := range last.keys[last.p.Fresh:last.n] {
				c.drop(k)
			}
			last = nil
		},
		"": func(t *rapid.T) {
			if err := ix.check(); err != nil {
				t.Fatal(err)
			}
			keys := chain(t)
			var m Match
			ix.Lookup(keys, now, MaxHeld, rapid.Uint32().Draw(t, "start"), &m)
			compareMatch(t, keys, model, &m)
		},
	})
}

func compareMatch(t *rapid.T, keys []uint64, model []*cache, m *Match) {
	got := make(map[int32]int32)
	before := int32(math.MaxInt32)
	for _, h := range m.Held() {
		if _, twice := got[h.Slot]; twice || h.Depth > before || m.Segments()[h.Part].End != h.Depth {
			t.Fatalf("held: %+v of %+v", m.Held(), m.Segments())
		}
		got[h.Slot], before = h.Depth, h.Depth
	}
	deepest := 0
	for k, c := range model {
		want := 0
		if c != nil {
			want = c.depth(keys)
		}
		deepest = max(deepest, want)
		if got[int32(k)] != int32(want) {
			t.Fatalf("holder %d has %d blocks, want %d", k, got[int32(k)], want)
		}
	}
	if m.Depth() != deepest {
		t.Fatalf("depth %d, want %d", m.Depth(), deepest)
	}
	segs := slices.Clone(m.Segments())
	slices.Reverse(segs)
	depths, _ := plainMarks(len(keys))
	i := 0
	for _, s := range segs {
		for ; i < len(depths) && depths[i] <= int(s.End); i++ {
			n := int32(0)
			for _, c := range model {
				if c != nil && c.has(keys[depths[i]-1]) {
					n++
				}
			}
			if n != s.Holders {
				t.Fatalf("block %d has %d holders, want %d", depths[i], n, s.Holders)
			}
		}
	}
}

// TestMarks holds that marks are where the plain rule puts them.
func TestMarks(t *testing.T) {
	for length := range 5000 {
		depths, weights := plainMarks(length)
		at := marksOf(length)
		if int(at.n) != len(depths) {
			t.Fatalf("%d blocks have %d marks, want %d", length, at.n, len(depths))
		}
		for i, d := range depths {
			last := 0
			if i > 0 {
				last = depths[i-1]
			}
			if got := at.depth(int32(i + 1)); int(got) != d || before(got) != int32(last) || weight(got) != int64(weights[i]) {
				t.Fatalf("of %d blocks, mark %d is at %d, of weight %d, after %d; want %d, %d, %d", length, i, got, weight(got), before(got), d, weights[i], last)
			}
		}
	}
}

// TestWhatIsFoundOfLongPrompts holds how exactly the index knows where a prompt
// leaves another: not at all too far, and too short by less than a sixteenth. A
// prompt that comes again is found whole.
func TestWhatIsFoundOfLongPrompts(t *testing.T) {
	ix := NewIndex(NewBudget(64 << 20))
	era := ix.Join(0, 1<<20)
	var m Match
	for i, n := range []int{1, 31, 32, 33, 63, 64, 65, 127, 130, 400, 1023, 4096} {
		old := longChainOf([]int{i, 1}, n)[:2*n]
		ix.Insert(old, 0, era, 1)
		for _, same := range []int{1, n / 2, n - 1, n, n + 1, 2*n - 1, 2 * n} {
			keys := append(old[:same:same], longChainOf([]int{100, i, 5}, n)...)
			if same == 2*n {
				keys = old
			}
			ix.Lookup(keys, 1, MaxHeld, 0, &m)
			if d := m.Depth(); d > same || d < same-same/16 || keys[len(keys)-1] == old[2*n-1] && d != same {
				t.Errorf("of %d blocks in common %d are found", same, d)
			}
		}
	}
}

// TestHitsFade holds what popularity is made of.
func TestHitsFade(t *testing.T) {
	ix := NewIndex(NewBudget(1 << 20))
	era := ix.Join(3, 100)
	keys := chainOf([]int{1, 2, 3, 4})
	hits := func(now uint32) (got []Segment) {
		var m Match
		ix.Lookup(keys, now, MaxHeld, 0, &m)
		return slices.Clone(m.Segments())
	}
	ix.Insert(keys, 3, era, 1000)
	ix.Insert(keys[:2], 3, era, 1000)
	if got, want := hits(1000), []Segment{{4, 1, 1}, {2, 1, 2}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	ix.Insert(keys[:2], 3, era, 1120)
	got := hits(1240)
	want := []float64{0.25, 1}
	for i, s := range got {
		if math.Abs(float64(s.Hits)-want[i]) > 1e-4 {
			t.Errorf("segment %d: %v hits, want %v", i, s.Hits, want[i])
		}
	}
	if got := hits(900); got[0].Hits != 1 { // a clock that went back changes nothing
		t.Errorf("%v hits before they were, want 1", got[0].Hits)
	}
	if got := hits(1000000); got[0].Hits != 0 {
		t.Errorf("%v hits after days, want 0", got[0].Hits)
	}
}

// TestAKeyHasOneParent holds that a key which stands for two blocks, as somebody
// might make it, ends the chain that comes second.
func TestAKeyHasOneParent(t *testing.T) {
	ix := NewIndex(NewBudget(1 << 20))
	era := ix.Join(0, 100)
	for _, keys := range [][]uint64{{1 << 60, 2, 3}, {5, 2, 6}, {0, 1}, {7, 7}, {8, 9, 8}, {2, 3}} {
		ix.Insert(keys, 0, era, 1)
		if err := ix.check(); err != nil {
			t.Fatal(err)
		}
	}
	ix.Leave(0)
	if n := ix.Len(); n != 0 {
		t.Errorf("%d blocks are left, want 0", n)
	}
}

func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(slab{}); n != slabBytes {
		t.Errorf("a slab has %d bytes, want %d", n, slabBytes)
	}
	if n := unsafe.Sizeof(groupSlab{}); n != groupSlabBytes {
		t.Errorf("a slab of groups has %d bytes, want %d", n, groupSlabBytes)
	}
	if n := unsafe.Sizeof(shard{}); n != 128 {
		t.Errorf("a shard has %d bytes, want 128", n)
	}
	if n := unsafe.Sizeof(set{}); n != setBytes {
		t.Errorf("a set has %d bytes, want %d", n, setBytes)
	}
	if n := unsafe.Sizeof(holder{}); n > holderBytes {
		t.Errorf("a holder has %d bytes, want at most %d", n, holderBytes)
	}
}
