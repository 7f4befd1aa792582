package policy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// asked returns a request for text.
func asked(text []byte, at time.Time) *infer.Request {
	return &infer.Request{Model: "m", Received: at, Body: text, Extract: func(dst, body []byte) []byte { return append(dst, body...) }}
}

// serve sends r where p says, and returns who it was.
func serve(p Picker, r *infer.Request, c *Choice) *fleet.Worker {
	c.Reset()
	w := p.Pick(r, c)
	p.(Learner).Sent(r, w, c)
	r.DropText()
	return w
}

func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// roll is a fleet whose workers come and go.
func roll() *fleet.Registry {
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	cfg := fleet.DefaultConfig()
	cfg.DrainSettle = 0
	return fleet.New(cfg, health, breaker.DefaultConfig(), fleet.Options{})
}

func come(t testing.TB, reg *fleet.Registry, n int) fleet.ID {
	t.Helper()
	id, err := reg.Add(fleet.Spec{URL: fmt.Sprintf("http://10.%d.%d.%d:8000", n>>16, n>>8&255, n&255), Models: []fleet.ModelCard{{ID: "m"}}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestCacheAwareKeepsNothingOfThoseWhoLeft lets workers come, go, and lose their
// caches while requests are sent.
func TestCacheAwareKeepsNothingOfThoseWhoLeft(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		reg := roll()
		p := mustNew(t, "cache_aware").(*cacheAware)
		var ids []fleet.ID
		next := 0
		var picker Picker
		at := noon
		bind := func() {
			picker = nil
			if ws := reg.Snapshot().Ready; len(ws) > 0 {
				picker = p.Bind(ws)
			}
		}
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			at = at.Add(time.Second)
			switch k := rapid.IntRange(0, 9).Draw(r, "what"); {
			case k == 0 || len(ids) == 0:
				ids = append(ids, come(t, reg, next))
				next++
				bind()
			case k == 1:
				i := rapid.IntRange(0, len(ids)-1).Draw(r, "who")
				if err := reg.Remove(ids[i]); err != nil {
					r.Fatal(err)
				}
				ids = append(ids[:i:i], ids[i+1:]...)
				bind()
			case k == 2:
				w, _ := reg.Get(ids[rapid.IntRange(0, len(ids)-1).Draw(r, "who")])
				w.Forgot()
			default:
				text := strings.Repeat("x", rapid.IntRange(0, 30).Draw(r, "same")) + rapid.StringMatching("[ab]{0,8}").Draw(r, "own")
				c := new(Choice)
				w := picker.Pick(asked([]byte(text), at), c)
				if w.Status() == fleet.Draining {
					r.Fatalf("%s has left and is to serve %q (%s)", w.Base(), text, c.Why)
				}
				if m := p.at.Load().of(w); c.Why == "hit" && (m == nil || m.epoch.Load() != w.Epoch()) {
					r.Fatalf("%s has lost its cache and is thought to hold %q", w.Base(), text)
				}
				picker.(Learner).Sent(asked([]byte(text), at), w, c)
			}
		}
		for _, id := range ids {
			if err := reg.Remove(id); err != nil {
				r.Fatal(err)
			}
		}
		come(t, reg, next)
		bind()
		p.tree.Tend(0, 1<<20)
		if p.tree.Bytes() != 0 || p.tree.Size() != 0 {
			r.Fatalf("all have left, but %d bytes", p.tree.Bytes())
		}
	})
}

func TestCacheAwareCostsNoAllocation(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	ws := workers(t, 70)
	for _, index := range []string{"tree", "hash"} {
		t.Run(index, func(t *testing.T) {
			s := DefaultSettings()
			s.CacheAware.Index, s.CacheAware.Boundaries = index, "64,256,1024"
			p, err := New("cache_aware", s)
			if err != nil {
				t.Fatal(err)
			}
			picker := p.Bind(ws)
			rng := rand.New(rand.NewPCG(1, 2))
			var all []*infer.Request
			for range 20 {
				all = append(all, asked(noise(rng, 16<<10), noon))
			}
			c := new(Choice)
			for _, r := range all {
				serve(picker, r, c)
			}
			i := 0
			if n := testing.AllocsPerRun(200, func() {
				r := all[i%len(all)]
				r.Received = r.Received.Add(time.Second)
				serve(picker, r, c)
				i++
			}); n != 0 {
				t.Errorf("a prompt that is known allocates %v times", n)
			}
			if c.Why != "hit" {
				t.Errorf("a prompt that is known was %q", c.Why)
			}
		})
	}
}

// TestCacheAwareManyAtOnce is for the race detector: requests, tables, and
// workers that lose their caches meet.
func TestCacheAwareManyAtOnce(t *testing.T) {
	ws := workers(t, 24)
	for _, index := range []string{"tree", "hash"} {
		s := DefaultSettings()
		s.CacheAware.Index, s.CacheAware.Boundaries, s.CacheAware.Most = index, "8,64", 200_000
		s.CacheAware.WarmupBlocks, s.CacheAware.Full = 10, 0.9
		p, err := New("cache_aware", s)
		if err != nil {
			t.Fatal(err)
		}
		var picker atomic.Pointer[Picker]
		set := func(ws []*fleet.Worker) {
			k := p.Bind(ws)
			picker.Store(&k)
		}
		set(ws)
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(g), 1))
				c := new(Choice)
				at := noon
				for i := range 400 {
					at = at.Add(time.Duration(rng.IntN(900)) * time.Millisecond)
					text := fmt.Appendf(bytes.Repeat([]byte("You are a pilot. "), rng.IntN(20)), "%d", rng.IntN(50))
					w := serve(*picker.Load(), asked(text, at), c)
					switch {
					case i%50 == 9:
						w.Forgot()
					case i%60 == 9:
						from := rng.IntN(len(ws) / 2)
						set(ws[from : from+1+rng.IntN(len(ws)/2)])
					}
				}
			})
		}
		wg.Wait()
		if tree := p.(*cacheAware).tree; tree != nil && tree.Bytes() > tree.Budget() {
			t.Errorf("%d bytes of %d", tree.Bytes(), tree.Budget())
		}
	}
}

// TestCacheAwareHeadsAreBounded fills the hash index with beginnings that come
// once, and compares it with the memory that it may take.
func TestCacheAwareHeadsAreBounded(t *testing.T) {
	if raced {
		t.Skip("fills memory")
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	ws := workers(t, 4)
	s := DefaultSettings()
	s.CacheAware.Index, s.CacheAware.Boundaries, s.CacheAware.Most = "hash", "16", 8<<20
	p, err := New("cache_aware", s)
	if err != nil {
		t.Fatal(err)
	}
	picker := p.Bind(ws)
	rng := rand.New(rand.NewPCG(1, 2))
	c := new(Choice)
	before := heap()
	for i := range 300_000 {
		serve(picker, asked(noise(rng, 64), noon.Add(time.Duration(i)*time.Millisecond)), c)
	}
	if took, most := heap()-before, int64(2*s.CacheAware.Most); took > most {
		t.Errorf("it takes %d bytes, want at most %d", took, most)
	}
	runtime.KeepAlive(p)
}

func TestCacheAwareFindsTheIdleInALargeFleet(t *testing.T) {
	ws := workers(t, 1000)
	for i, w := range ws {
		if i%10 != 0 {
			busy(t, w, 1)
		}
	}
	picker := mustNew(t, "cache_aware").Bind(ws)
	rng := rand.New(rand.NewPCG(1, 2))
	c := new(Choice)
	for range 200 {
		if w := serve(picker, asked(noise(rng, 100), noon), c); w.InFlight() > 0 {
			t.Fatalf("a busy worker was picked (%s, of %d), although one in ten is idle", c.Why, c.Considered)
		}
		if c.Considered > compared {
			t.Fatalf("%d workers were compared", c.Considered)
		}
	}
	// Who holds it and has much more to do is passed over, by and by, although
	// not all are asked each time.
	text := noise(rng, 1000)
	w := serve(picker, asked(text, noon), c)
	busy(t, w, 500)
	passed := 0
	for range 100 {
		if picker.Pick(asked(text, noon), c) != w {
			passed++
		}
	}
	if passed < 80 {
		t.Errorf("one with 500 requests was picked %d times of 100", 100-passed)
	}
}

func TestCacheAwareSettings(t *testing.T) {
	tests := []struct {
		name string
		set  func(c *CacheAwareConfig)
		want string // of the error, "" for none
	}{
		{"the defaults", func(*CacheAwareConfig) {}, ""},
		{"hash", func(c *CacheAwareConfig) { c.Index, c.Boundaries = "hash", "2048, 8192,32768" }, ""},
		{"a threshold above 1", func(c *CacheAwareConfig) { c.Match = 1.5 }, "cache-threshold must be 0 to 1, not 1.5"},
		{"no number", func(c *CacheAwareConfig) { c.Match = nan() }, "cache-threshold must be 0 to 1, not NaN"},
		{"less than all", func(c *CacheAwareConfig) { c.Rel = 0.5 }, "balance-rel-threshold must be 1 to 1e+06, not 0.5"},
		{"never balanced", func(c *CacheAwareConfig) { c.Spread = 0 }, "balance-token-usage-threshold must be above 0, not 0"},
		{"no tree", func(c *CacheAwareConfig) { c.Most = 0 }, "max-tree-size must be 1 to 1.099511627776e+12, not 0"},
		{"hash without boundaries", func(c *CacheAwareConfig) { c.Index = "hash" }, "cache-index hash needs cache-boundaries, for example 2048,8192,32768"},
		{"falling boundaries", func(c *CacheAwareConfig) { c.Boundaries = "8,4" }, `cache-boundaries must be at most 64 rising numbers of tokens, not "8,4"`},
		{"words", func(c *CacheAwareConfig) { c.Boundaries = "2048,big" }, `cache-boundaries must be at most 64 rising numbers of tokens, not "2048,big"`},
		{"another index", func(c *CacheAwareConfig) { c.Index = "list" }, `cache-index must be tree or hash, not "list"`},
		{"more than all", func(c *CacheAwareConfig) { c.WarmupShare = 2 }, "worker-warmup-share must be 0 to 1, not 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultCacheAwareConfig()
			tt.set(&c)
			got := ""
			if err := c.Validate(); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func nan() float64 { var zero float64; return zero / zero }

// BenchmarkCacheAware routes prompts of which four fifths are known, as in a
// conversation, and those that are known whole.
func BenchmarkCacheAware(b *testing.B) {
	for _, n := range []int{10, 100, 500, 4096} {
		ws := workers(b, n)
		for i, w := range ws {
			busy(b, w, i%5)
		}
		for _, size := range []int{4 << 10, 16 << 10, 128 << 10, 512 << 10} {
			for _, kind := range []string{"known", "grown"} {
				b.Run(fmt.Sprintf("%s/%d/%dKi", kind, n, size>>10), func(b *testing.B) {
					s := DefaultSettings()
					p, err := New("cache_aware", s)
					if err != nil {
						b.Fatal(err)
					}
					picker := p.Bind(ws)
					rng := rand.New(rand.NewPCG(1, 2))
					var all [][]byte
					c := new(Choice)
					for range 32 {
						text := noise(rng, size)
						known := text
						if kind == "grown" {
							known = text[:size*4/5]
						}
						serve(picker, asked(known, noon), c)
						all = append(all, text)
					}
					var sent atomic.Int64
					b.ReportAllocs()
					b.SetBytes(int64(size))
					b.ResetTimer()
					b.RunParallel(func(pb *testing.PB) {
						c := new(Choice)
						own := make([]byte, size)
						r := asked(own, noon)
						r.Extract = func(dst, body []byte) []byte { return append(dst, body...) }
						for pb.Next() {
							i := sent.Add(1)
							r.Body = all[i%32]
							if kind == "grown" {
								copy(own, r.Body)
								copy(own[size*4/5:], fmt.Sprintf("%016x", i))
								r.Body = own
							}
							r.Received = noon.Add(time.Duration(i) * time.Millisecond)
							serve(picker, r, c)
						}
					})
				})
			}
		}
	}
}
