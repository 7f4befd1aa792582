package blocks

import (
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// heap returns how many bytes live things have.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// randomChain returns a chain whose first blocks are those of one of a few
// beginnings.
func randomChain(r *rand.Rand, dst []uint64, n int) []uint64 {
	h := uint64(r.IntN(40)) + 1
	for i := range n {
		if i == n/4 {
			h += r.Uint64() >> 40 // from here on another's
		}
		h = h*0x9e3779b97f4a7c15 + 1
		h ^= h >> 29
		dst = append(dst, h)
	}
	return dst
}

// TestBudgetHolds inserts far more than the budget has room for, for more holders
// than are there at once, and measures the heap.
func TestBudgetHolds(t *testing.T) {
	if raced {
		t.Skip("the race detector has memory of its own")
	}
	for _, mib := range []int64{1, 8, 24} {
		r := rand.New(rand.NewPCG(1, uint64(mib)))
		eras := make([]uint32, 300)
		keys := make([]uint64, 0, 400)
		before := heap()
		b := NewBudget(mib << 20)
		ix := NewIndex(b)
		var most, blocks int64
		for round := range 6 {
			for range 400 * mib {
				slot := r.IntN(len(eras))
				if eras[slot] == 0 || r.IntN(200) == 0 {
					eras[slot] = ix.Join(slot, 1+r.IntN(20000))
				}
				if r.IntN(500) == 0 {
					ix.Leave(slot)
				}
				keys = randomChain(r, keys[:0], 1+r.IntN(400))
				p := ix.Insert(keys, slot, eras[slot], uint32(round))
				if r.IntN(20) == 0 {
					ix.Undo(keys, slot, p)
				}
				if u := b.Used(); u > b.Size() {
					t.Fatalf("%d bytes are lent, of %d", u, b.Size())
				}
			}
			most = max(most, heap()-before)
			blocks = int64(ix.Len())
		}
		if err := ix.check(); err != nil {
			t.Error(err)
		}
		t.Logf("%d MiB: %d blocks, %d bytes lent, %d on the heap at most", mib, blocks, b.Used(), most)
		if most > mib<<20+64<<10 { // the log above, and what the runtime has for itself on many processors
			t.Errorf("the heap has grown by %d bytes, want at most %d", most, mib<<20)
		}
		if mib >= 8 && most < mib<<20*3/4 {
			t.Errorf("the heap has grown by %d bytes only, of %d: the churn does not fill the budget", most, mib<<20)
		}
		for slot := range eras {
			ix.Leave(slot)
		}
		if n := ix.Len(); n != 0 {
			t.Errorf("%d blocks are left when all holders are gone", n)
		}
		runtime.KeepAlive(ix)
		runtime.KeepAlive(eras)
		runtime.KeepAlive(keys)
	}
}

// TestBytesABlock measures a full index of the usual shape: 64 holders, prompts
// that go on where another ended, each block with one or two holders.
func TestBytesABlock(t *testing.T) {
	if raced {
		t.Skip("the race detector has memory of its own")
	}
	for _, tail := range []int{1, 2, 8} { // new blocks of each prompt
		for _, copies := range []int{1, 2} {
			before := heap()
			b := NewBudget(1 << 30)
			ix := NewIndex(b)
			fillIndex(ix, 1_000_000, tail, copies)
			n, grown := ix.Len(), heap()-before
			t.Logf("%d new blocks a prompt, %d holders: %d blocks, %.1f bytes each; %.1f lent", tail, copies, n, float64(grown)/float64(n), float64(b.Used())/float64(n))
			// A turn of one block is a chat of a sentence; the bar is for turns of two and more.
			if bar := 64; tail > 1 && grown > int64(n*bar) {
				t.Errorf("%.1f bytes a block, want at most %d", float64(grown)/float64(n), bar)
			}
			runtime.KeepAlive(ix)
		}
	}
}

// fillIndex puts n blocks into ix, on 64 holders: conversations of 32 blocks that
// grow by tail blocks a turn, each with copies holders.
func fillIndex(ix *Index, n, tail, copies int) {
	eras := make([]uint32, 64)
	for slot := range eras {
		eras[slot] = ix.Join(slot, 2*copies*n/64)
	}
	var keys [32]uint64
	h := uint64(1)
	for s := range n / len(keys) {
		for i := range keys {
			h = h*0x9e3779b97f4a7c15 + uint64(s) + 1
			h ^= h >> 29
			keys[i] = h
		}
		for k := range copies {
			slot := (s + 7*k) % 64
			for end := tail; end <= len(keys); end += tail {
				ix.Insert(keys[:end], slot, eras[slot], 1)
			}
		}
	}
}

// TestIndexesShareABudget holds that a model which comes late gets its share, and
// that one which goes gives its memory back.
func TestIndexesShareABudget(t *testing.T) {
	b := NewBudget(8 << 20)
	r := rand.New(rand.NewPCG(1, 2))
	fill := func(ix *Index) {
		era := ix.Join(0, 1<<30)
		var keys []uint64
		for range 9000 {
			keys = randomChain(r, keys[:0], 32)
			ix.Insert(keys, 0, era, 1)
		}
	}
	first := NewIndex(b)
	fill(first)
	if n := first.Bytes(); n < 7<<20 {
		t.Errorf("alone it has %d bytes, want nearly all", n)
	}
	second := NewIndex(b)
	fill(second)
	if n := second.Bytes(); n < 3<<20 {
		t.Errorf("the second has %d bytes, want about half", n)
	}
	if u := b.Used(); u > b.Size() {
		t.Errorf("%d bytes are lent, of %d", u, b.Size())
	}
	for _, ix := range []*Index{first, second} {
		if err := ix.check(); err != nil {
			t.Error(err)
		}
	}
	runtime.KeepAlive(first)
	first = nil
	for range 100 {
		runtime.GC()
		if fill(second); second.Bytes() > 7<<20 {
			break
		}
	}
	if n := second.Bytes(); n < 7<<20 {
		t.Errorf("when the first is gone it has %d bytes, want nearly all", n)
	}
}

// TestManyAtOnce lets goroutines do everything at once, and holds that nobody who
// has left is named, and that all is in order afterwards.
func TestManyAtOnce(t *testing.T) {
	ix := NewIndex(NewBudget(2 << 20))
	const slots = 24
	var gone [slots]atomic.Bool // has left, and does not come back
	var eras [slots]atomic.Uint32
	for slot := range slots {
		eras[slot].Store(ix.Join(slot, 500))
	}
	rounds := 3000
	if raced || testing.Short() {
		rounds = 500
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			var keys []uint64
			var m Match
			for i := range rounds {
				slot := r.IntN(slots)
				keys = randomChain(r, keys[:0], 1+r.IntN(150))
				left := make([]bool, slots)
				for k := range left {
					left[k] = gone[k].Load()
				}
				ix.Lookup(keys, uint32(i), 64, r.Uint32(), &m)
				for _, h := range m.Held() {
					if left[h.Slot] {
						t.Errorf("holder %d is named, and has left", h.Slot)
					}
					if int(h.Depth) > len(keys) || h.Depth < 1 {
						t.Errorf("depth %d of %d", h.Depth, len(keys))
					}
				}
				p := ix.Insert(keys, slot, eras[slot].Load(), uint32(i))
				if i%7 == 0 {
					ix.Undo(keys, slot, p)
				}
				switch {
				case r.IntN(300) == 0 && slot < slots/2:
					ix.Leave(slot)
					gone[slot].Store(true)
				case r.IntN(100) == 0 && slot >= slots/2:
					eras[slot].Store(ix.Join(slot, 1+r.IntN(900)))
				case r.IntN(100) == 0:
					ix.Resize(slot, 1+r.IntN(900))
				}
			}
		})
	}
	wg.Wait()
	if err := ix.check(); err != nil {
		t.Error(err)
	}
}

// TestABlockThatAllHold holds what a system prompt does: thousands hold it, and
// asking costs no more than for few.
func TestABlockThatAllHold(t *testing.T) {
	ix := NewIndex(NewBudget(16 << 20))
	keys := chainOf([]int{1, 2, 3, 4, 5, 6, 7, 8})
	const n = 5000
	for slot := range n {
		ix.Insert(keys[:4+slot%5], slot, ix.Join(slot, 100), 1)
	}
	if err := ix.check(); err != nil {
		t.Fatal(err)
	}
	var m Match
	ix.Lookup(keys, 1, 64, 12345, &m)
	if len(m.Held()) != 64 || m.Held()[63].Depth != 8 {
		t.Errorf("%d holders are named, the last with %d blocks; want 64 of those with 8", len(m.Held()), m.Held()[len(m.Held())-1].Depth)
	}
	for i, s := range m.Segments() {
		if int(s.End) != 8-i || int(s.Holders) != n/5*(i+1) {
			t.Errorf("segment %d: %+v", i, s)
		}
	}
	for slot := range n {
		ix.Leave(slot)
	}
	if got := ix.Len(); got != 0 {
		t.Errorf("%d blocks are left", got)
	}
}

// TestAnHourOfChurn holds the budget through as many prompts as 1,000 requests a
// second bring in an hour, if SLUICE_CHURN is set, and through three minutes' if
// not: of 64 workers with two million tokens each, which together want more than
// there is, some restart and some leave and come back.
func TestAnHourOfChurn(t *testing.T) {
	if raced {
		t.Skip("the race detector has memory of its own")
	}
	seconds := 180
	if os.Getenv("SLUICE_CHURN") != "" {
		seconds = 3600
	}
	const mib, slots, capacity = 32, 64, 2_000_000 * 4 / Size
	r := rand.New(rand.NewPCG(7, 7))
	eras := make([]uint32, slots)
	sessions := make([][]uint64, 3000) // each goes on with other blocks, until it is long and another begins
	for i := range sessions {
		sessions[i] = make([]uint64, 0, 64)
	}
	before := heap()
	b := NewBudget(mib << 20)
	ix := NewIndex(b)
	most, inserted := int64(0), int64(0)
	var m Match
	for now := range seconds {
		for range 1000 {
			k := r.IntN(len(sessions))
			if len(sessions[k]) > 50 {
				sessions[k] = sessions[k][:0]
			}
			s := sessions[k]
			if len(s) == 0 {
				system := uint64(1+r.IntN(8)) * 0x9e3779b97f4a7c15
				s = append(s, system, system+1) // a system prompt of two blocks
			}
			s = randomTail(r, s, len(s)+1+r.IntN(8))
			sessions[k] = s
			slot := k % slots
			if r.IntN(5) == 0 {
				slot = r.IntN(slots)
			}
			if eras[slot] == 0 || r.IntN(50_000) == 0 {
				eras[slot] = ix.Join(slot, capacity)
			}
			if r.IntN(100_000) == 0 {
				ix.Leave(slot)
				eras[slot] = 0
			}
			ix.Lookup(s, uint32(now), 64, r.Uint32(), &m)
			p := ix.Insert(s, slot, eras[slot], uint32(now))
			inserted += int64(p.N)
			if r.IntN(100) == 0 {
				ix.Undo(s, slot, p)
			}
		}
		if u := b.Used(); u > b.Size() {
			t.Fatalf("after %d s %d bytes are lent, of %d", now, u, b.Size())
		}
		if now%60 == 59 {
			if most = max(most, heap()-before); most > mib<<20+4096 {
				t.Fatalf("after %d s the heap has grown by %d bytes, want at most %d", now, most, mib<<20)
			}
		}
	}
	n := ix.Len()
	t.Logf("%d prompts of %d blocks: %d blocks are left, in %d bytes; the heap had %d more at most, of %d", 1000*seconds, inserted, n, b.Used(), most, mib<<20)
	if most < mib<<20*3/4 {
		t.Errorf("the heap has grown by %d bytes only, of %d: the churn does not fill the budget", most, mib<<20)
	}
	if err := ix.check(); err != nil {
		t.Error(err)
	}
	runtime.KeepAlive(sessions)
	runtime.KeepAlive(eras)
}
