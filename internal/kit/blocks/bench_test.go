package blocks

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestAppendKeys(t *testing.T) {
	text := make([]byte, 5*Size+100)
	for i := range text {
		text[i] = byte(i * 7)
	}
	keys := AppendKeys(nil, text, Seed("m"), 100)
	if len(keys) != 5 {
		t.Fatalf("%d keys, want 5", len(keys))
	}
	if got := AppendKeys(nil, text[:3*Size], Seed("m"), 100); fmt.Sprint(got) != fmt.Sprint(keys[:3]) {
		t.Errorf("a beginning has the keys %x, want %x", got, keys[:3])
	}
	if got := AppendKeys(nil, text, Seed("m"), 2); fmt.Sprint(got) != fmt.Sprint(keys[:2]) {
		t.Errorf("at most two are %x, want %x", got, keys[:2])
	}
	text[0]++
	for i, k := range AppendKeys(nil, text, Seed("m"), 100) {
		if k == keys[i] {
			t.Errorf("block %d has the same key although what is before it differs", i)
		}
	}
	text[0]--
	if AppendKeys(nil, text, Seed("n"), 1)[0] == keys[0] {
		t.Error("two models have the same keys")
	}
	// What gateways of other versions say: it must not change.
	if got, want := fmt.Sprintf("%016x %016x", Seed("m"), keys[4]), "54b83fa059143a5b b78a30f64f269bcd"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func BenchmarkAppendKeys(b *testing.B) {
	for _, kib := range []int{4, 16, 128, 512} {
		b.Run(fmt.Sprintf("%dKiB", kib), func(b *testing.B) {
			text := make([]byte, kib<<10)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			var keys []uint64
			for b.Loop() {
				keys = AppendKeys(keys[:0], text, 1, 1<<20)
			}
		})
	}
}

// BenchmarkIndex is one decision's use of an index of a million blocks: a look,
// and an insert of which a fifth is new.
func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{32, 1024} {
		const slots = 64
		ix, chains, eras := filled(n)
		b.Run(fmt.Sprintf("lookup/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var m Match
				for i := rand.IntN(len(chains)); pb.Next(); i++ {
					ix.Lookup(chains[i%len(chains)], 2, 64, 0, &m)
				}
			})
		})
		b.Run(fmt.Sprintf("touch/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := rand.IntN(len(chains)); pb.Next(); i++ {
					i %= len(chains)
					ix.Insert(chains[i], i%slots, eras[i%slots], 2)
				}
			})
		})
		insert := func(r *rand.Rand, keys []uint64, i int) []uint64 {
			i %= len(chains)
			keys = randomTail(r, append(keys[:0], chains[i][:n*4/5]...), n)
			ix.Insert(keys, i%slots, eras[i%slots], 2)
			return keys
		}
		var keys []uint64
		for i := range 2 * len(chains) { // until what is new takes another's place
			keys = insert(rand.New(rand.NewPCG(uint64(i), 2)), keys, i)
		}
		b.Run(fmt.Sprintf("insert/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r := rand.New(rand.NewPCG(rand.Uint64(), 1))
				var keys []uint64
				for i := r.IntN(len(chains)); pb.Next(); i++ {
					keys = insert(r, keys, i)
				}
			})
		})
		b.Logf("%d blocks, %d bytes", ix.Len(), ix.Bytes())
	}
}

// randomTail fills keys up to n.
func randomTail(r *rand.Rand, keys []uint64, n int) []uint64 {
	for len(keys) < n {
		keys = append(keys, r.Uint64()|1)
	}
	return keys
}

// filled returns an index of a million blocks on 64 holders, in chains of n.
func filled(n int) (ix *Index, chains [][]uint64, eras []uint32) {
	ix = NewIndex(NewBudget(256 << 20))
	eras = make([]uint32, 64)
	for slot := range eras {
		eras[slot] = ix.Join(slot, 21_000)
	}
	r := rand.New(rand.NewPCG(3, uint64(n)))
	chains = make([][]uint64, 1_000_000/n)
	for i := range chains {
		chains[i] = randomTail(r, nil, n)
		ix.Insert(chains[i], i%len(eras), eras[i%len(eras)], 1)
	}
	return ix, chains, eras
}
