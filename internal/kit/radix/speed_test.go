package radix

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkTree matches texts and notes them, as a router does: four in five of
// the bytes are known.
func BenchmarkTree(b *testing.B) {
	for _, tenants := range []int{10, 100, 500} {
		for _, size := range []int{4 << 10, 32 << 10, 128 << 10, 512 << 10} {
			const texts = 64
			setup := func(b *testing.B) (*Tree, []*Tenant, [][]byte) {
				rng := rand.New(rand.NewPCG(1, uint64(size)))
				tr := New(256 << 20)
				ws := make([]*Tenant, tenants)
				for i := range ws {
					ws[i] = tr.Join(nil)
				}
				all := make([][]byte, texts)
				for i := range all {
					all[i] = random(rng, size)
					tr.Insert(ws[rng.IntN(tenants)], all[i][:size*4/5], start, Hit{})
				}
				b.ReportAllocs()
				b.SetBytes(int64(size))
				b.ResetTimer()
				return tr, ws, all
			}
			name := fmt.Sprintf("%d/%dKi", tenants, size>>10)
			b.Run("match/"+name, func(b *testing.B) {
				tr, _, all := setup(b)
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						tr.Match(all[i%texts])
					}
				})
			})
			b.Run("again/"+name, func(b *testing.B) {
				tr, ws, all := setup(b)
				for i, text := range all {
					tr.Insert(ws[i%tenants], text, start, Hit{})
				}
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						n := i % texts
						tr.Insert(ws[n%tenants], all[n], start, tr.Match(all[n]))
					}
				})
			})
			b.Run("insert/"+name, func(b *testing.B) {
				tr, ws, all := setup(b)
				var sent atomic.Int64
				b.RunParallel(func(pb *testing.PB) {
					text := make([]byte, size)
					for pb.Next() {
						i := sent.Add(1)
						copy(text, all[i%texts])
						copy(text[size*4/5:], fmt.Sprintf("%016x", i)) // nobody knows the rest
						tr.Insert(ws[i%int64(tenants)], text, start.Add(time.Duration(i)*time.Millisecond), tr.Match(text))
					}
				})
			})
		}
	}
}
