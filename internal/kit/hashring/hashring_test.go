package hashring

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/zeebo/blake3"
	"pgregory.net/rapid"
)

// plain is the rule as it is written down: all places, sorted.
type plain struct {
	at   []uint64
	name map[uint64]string
}

func newPlain(names []string) plain {
	p := plain{name: map[uint64]string{}}
	for _, name := range names {
		for i := range Places {
			h := blake3.Sum256(fmt.Appendf(nil, "%s#%d", name, i))
			at := binary.LittleEndian.Uint64(h[:8])
			p.at = append(p.at, at)
			p.name[at] = name
		}
	}
	slices.Sort(p.at)
	return p
}

func (p plain) owner(at uint64) string {
	i := sort.Search(len(p.at), func(i int) bool { return p.at[i] >= at })
	return p.name[p.at[i%len(p.at)]]
}

func urls(n int) []string {
	l := make([]string, n)
	for i := range l {
		l[i] = fmt.Sprintf("http://10.0.%d.%d:8000", i>>8, i&255)
	}
	return l
}

func TestPlaceIsTheContracts(t *testing.T) {
	// The first bytes of BLAKE3(""), from its paper: af1349b9f5f9a1a6…
	if got := Place(nil); got != 0xa6a1f9f5b94913af {
		t.Errorf("the empty key stands at %x", got)
	}
}

func TestOwnersAreTheContracts(t *testing.T) {
	for _, n := range []int{1, 2, 3, 17, 300} {
		names := urls(n)
		want, ring := newPlain(names), new(Maker).Ring(names)
		places := []uint64{0, 1, ^uint64(0), want.at[0], want.at[0] + 1, want.at[len(want.at)-1], want.at[len(want.at)-1] + 1}
		for range 2000 {
			places = append(places, rand.Uint64())
		}
		for _, at := range places {
			if got, want := names[ring.Owner(at)], want.owner(at); got != want {
				t.Fatalf("of %d, %x belongs to %s, want %s", n, at, got, want)
			}
		}
	}
}

// TestAPastMakesNoDifference holds, whatever names come and go and come again, that a Ring
// is the one that a Maker without a past would make.
func TestAPastMakesNoDifference(t *testing.T) {
	all := urls(700)
	rapid.Check(t, func(t *rapid.T) {
		m := new(Maker)
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			from := rapid.IntRange(0, len(all)-1).Draw(t, "from")
			n := rapid.IntRange(0, len(all)-from).Draw(t, "n")
			if rapid.Bool().Draw(t, "few") {
				n = min(n, 5)
			}
			names := slices.Clone(all[from : from+n])
			rand.Shuffle(n, func(i, j int) { names[i], names[j] = names[j], names[i] })
			ring := m.Ring(names)
			if n == 0 {
				if got := ring.Owner(1); got != -1 {
					t.Fatalf("a ring of nobody has an owner: %d", got)
				}
				continue
			}
			clean := new(Maker).Ring(names)
			for range 200 {
				at := rand.Uint64()
				if got, want := ring.Owner(at), clean.Owner(at); got != want {
					t.Fatalf("%x belongs to %s, want %s", at, names[got], names[want])
				}
			}
		}
		if known, most := len(m.slots), max(spare, m.most); known > 2*most+spare {
			t.Fatalf("%d names are remembered, and there never were more than %d at once", known, m.most)
		}
	})
}

// TestFewKeysMove holds that a name that comes takes only keys for itself and no
// more than about its share, and that nobody else's keys move when it goes.
func TestFewKeysMove(t *testing.T) {
	const keys = 20_000
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "names")
		names := urls(n)
		more := append(slices.Clone(names), rapid.StringMatching(`http://[a-z]{1,12}:[0-9]{2,5}`).Draw(t, "new"))
		m := new(Maker)
		before, after := m.Ring(names), m.Ring(more)
		moved := 0
		for range keys {
			at := rand.Uint64()
			was, is := before.Owner(at), after.Owner(at)
			if was != is {
				moved++
				if is != n {
					t.Fatalf("a key moved from %s to %s, which was there before", names[was], more[is])
				}
			}
		}
		// A share of 150 places is within a third of fair nearly always.
		if fair := keys / (n + 1); moved > fair*3/2+100 {
			t.Fatalf("%d of %d keys moved to one of %d names, want about %d", moved, keys, n+1, fair)
		}
		again := m.Ring(names)
		for range 1000 {
			if at := rand.Uint64(); again.Owner(at) != before.Owner(at) {
				t.Fatal("a name came and went, and a key is not where it was")
			}
		}
	})
}

func TestAWalkMeetsEverybody(t *testing.T) {
	m := new(Maker)
	m.Ring(urls(60))
	for _, n := range []int{0, 1, 2, 50} {
		w := m.Ring(urls(n)).From(rand.Uint64())
		met, points := make(map[int]bool), 0
		for i := w.Next(); i >= 0; i = w.Next() {
			met[i] = true
			points++
		}
		if len(met) != n || points < n*Places || w.Next() != -1 {
			t.Errorf("a walk met %d of %d names in %d places", len(met), n, points)
		}
	}
}

func TestSharesAreFair(t *testing.T) {
	names := urls(64)
	ring := new(Maker).Ring(names)
	got := make([]int, len(names))
	const keys = 640_000
	for i := range keys {
		got[ring.Owner(Place(fmt.Appendf(nil, "user-%d", i)))]++
	}
	for i, n := range got {
		if n < keys/64*6/10 || n > keys/64*14/10 {
			t.Errorf("%s owns %d keys, want about %d", names[i], n, keys/64)
		}
	}
}

func TestOwnerDoesNotAllocate(t *testing.T) {
	ring := new(Maker).Ring(urls(10))
	key := make([]byte, 64<<10)
	if got := testing.AllocsPerRun(100, func() { ring.Owner(Place(key)) }); got != 0 {
		t.Errorf("an owner costs %v allocations, want 0", got)
	}
}

func BenchmarkOwner(b *testing.B) {
	for _, n := range []int{1, 64, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ring := new(Maker).Ring(urls(n))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				rng := rand.New(rand.NewPCG(1, 2))
				for pb.Next() {
					ring.Owner(rng.Uint64())
				}
			})
		})
	}
}

func BenchmarkRing(b *testing.B) {
	names := urls(4097)
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			new(Maker).Ring(names)
		}
	})
	b.Run("flap", func(b *testing.B) {
		m := new(Maker)
		m.Ring(names)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			m.Ring(names[i%2:])
		}
	})
	b.Run("join", func(b *testing.B) {
		m := new(Maker)
		m.Ring(names)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			names[i%len(names)] = fmt.Sprintf("http://new-%d:8000", i)
			m.Ring(names)
		}
	})
	b.Run("outage", func(b *testing.B) {
		m := new(Maker)
		m.Ring(names)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			m.Ring(names[:100+i%2])
		}
	})
}
