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
	order    []uint64 // the next to go first
}

func (c *cache) has(key uint64) bool { return slices.Contains(c.order, key) }

// insert returns the first block that was new.
func (c *cache) insert(keys []uint64) (n, fresh int) {
	keys = keys[:min(len(keys), c.capacity)]
	fresh = len(keys)
	for i, k := range keys {
		if j := slices.Index(c.order, k); j >= 0 {
			c.order = slices.Delete(c.order, j, j+1)
			continue
		}
		fresh = min(fresh, i)
		if len(c.order)+i+1 > c.capacity {
			c.order = c.order[1:]
		}
	}
	for _, k := range slices.Backward(keys) { // roots live longest
		c.order = append(c.order, k)
	}
	return len(keys), fresh
}

func (c *cache) depth(keys []uint64) int {
	for i, k := range keys {
		if !c.has(k) {
			return i
		}
	}
	return len(keys)
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
		sum := int64(0)
		for k := h.oldest; k != 0; k = h.group(k).newer {
			sum += int64(h.group(k).n)
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

func paths(t *rapid.T) []int {
	return rapid.SliceOfN(rapid.IntRange(0, 2), 0, 14).Draw(t, "path")
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
		was  []uint64 // the model's order before
		n    int
		p    Put
	}
	var last *put
	slot := rapid.IntRange(0, slots-1)
	t.Repeat(map[string]func(*rapid.T){
		"join": func(t *rapid.T) {
			k := slot.Draw(t, "slot")
			c := rapid.IntRange(1, 40).Draw(t, "capacity")
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
				c.capacity = rapid.IntRange(1, 40).Draw(t, "capacity")
				ix.Resize(k, c.capacity)
				c.order = c.order[max(0, len(c.order)-c.capacity):]
				last = nil
			}
		},
		"insert": func(t *rapid.T) {
			k, keys := slot.Draw(t, "slot"), chainOf(paths(t))
			now += uint32(rapid.IntRange(0, 30).Draw(t, "seconds"))
			p := ix.Insert(keys, k, eras[k], now)
			c := model[k]
			if c == nil {
				if p != (Put{}) {
					t.Fatalf("who left was given %+v", p)
				}
				return
			}
			was := slices.Clone(c.order)
			n, fresh := c.insert(keys)
			if int(p.N) != n || int(p.Fresh) != fresh {
				t.Fatalf("%d blocks, new from %d on; want %d, %d", p.N, p.Fresh, n, fresh)
			}
			if last = nil; len(was)+n-fresh <= c.capacity { // nothing had to go
				last = &put{k, keys, was, n, p}
			}
		},
		"an old era": func(t *rapid.T) {
			k := slot.Draw(t, "slot")
			if p := ix.Insert(chainOf(paths(t)), k, eras[k]-1, now); p != (Put{}) {
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
				c.order = slices.DeleteFunc(c.order, func(o uint64) bool { return o == k })
			}
			last = nil
		},
		"": func(t *rapid.T) {
			if err := ix.check(); err != nil {
				t.Fatal(err)
			}
			keys := chainOf(paths(t))
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
	i := 0
	for _, s := range segs {
		for ; i < int(s.End); i++ {
			n := int32(0)
			for _, c := range model {
				if c != nil && c.has(keys[i]) {
					n++
				}
			}
			if n != s.Holders {
				t.Fatalf("block %d has %d holders, want %d", i, s.Holders, n)
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
