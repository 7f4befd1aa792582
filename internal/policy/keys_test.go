package policy

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
)

// keyed returns a request with a routing key.
func keyed(key string) *infer.Request {
	r := &infer.Request{Model: "m", Received: time.Unix(1e9, 0)}
	r.Header.AddString("content-type", "application/json")
	r.Header.AddString("user-agent", "a client")
	r.Header.AddString("x-smg-routing-key", key)
	return r
}

// texted returns a request with a text.
func texted(text string) *infer.Request {
	r := &infer.Request{Model: "m", Body: []byte(text), Received: time.Unix(1e9, 0)}
	r.Extract = func(dst, body []byte) []byte { return append(dst, body...) }
	return r
}

func with(t testing.TB, name string, change func(*Settings)) Policy {
	t.Helper()
	s := DefaultSettings()
	change(s)
	p, err := New(name, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestHostileKeys holds that no key or text is too much for a policy.
func TestHostileKeys(t *testing.T) {
	ws := workers(t, 5)
	for _, name := range []string{"consistent_hashing", "prefix_hash", "manual", "bucket", "random"} {
		p := with(t, name, func(s *Settings) { s.RoutingKey.Override = true })
		pick := p.Bind(ws)
		for _, r := range []*infer.Request{
			keyed(strings.Repeat("k", 64<<10)), keyed("\xff\xfe\x00"), keyed(""), keyed(" "),
			texted(strings.Repeat("x", 4<<20)), texted("\xff\xfe"), texted(""), {}, {Model: strings.Repeat("m", 1<<20)},
			{Received: time.Unix(-1, 0)}, {Received: time.Unix(1<<40, 0)},
		} {
			c := new(Choice)
			w := pick.Pick(r, c)
			if w == nil {
				t.Fatalf("%s: nobody for %.20q", name, r.Header.Get("x-smg-routing-key"))
			}
			if l, ok := pick.(Learner); ok {
				l.Sent(r, w, c)
				l.Began(w, c, r.Received)
				l.Ended(w, c, new(infer.Served), nil, r.Received)
			}
		}
	}
}

// TestKeysCostNoAllocation covers what TestEveryPolicy does not: requests that
// have a key or a text, and all that a Learner hears.
func TestKeysCostNoAllocation(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	ws := workers(t, 100)
	for _, name := range []string{"consistent_hashing", "prefix_hash", "manual", "bucket", "round_robin"} {
		p := with(t, name, func(s *Settings) { s.RoutingKey.Override = name == "round_robin" })
		pick := p.Bind(ws)
		for what, r := range map[string]*infer.Request{"key": keyed("alice"), "text": texted(strings.Repeat("x", 5000))} {
			c := new(Choice)
			got := testing.AllocsPerRun(200, func() {
				c.Reset()
				w := pick.Pick(r, c)
				if l, ok := pick.(Learner); ok {
					l.Sent(r, w, c)
					l.Began(w, c, r.Received)
					l.Ended(w, c, nil, nil, r.Received)
					c.Took()
					l.Sent(r, ws[7], c)
					l.Ended(ws[7], c, nil, nil, r.Received)
				}
			})
			if got != 0 {
				t.Errorf("%s: a request with a %s allocates %v times, want 0", name, what, got)
			}
		}
	}
	// New keys cost none either once there is no room for more.
	pick := with(t, "manual", func(s *Settings) { s.RoutingKey.MaxKeys = 100 }).Bind(ws)
	r, c, i := keyed(""), new(Choice), 0
	got := testing.AllocsPerRun(1000, func() {
		r.Header.Reset()
		i++
		key := [4]byte{byte(i), byte(i >> 8), 1, 1}
		r.Header.AddCopy([]byte(routingKeyHeader), key[:])
		pick.Pick(r, c)
	})
	if got != 0 {
		t.Errorf("a new key allocates %v times, want 0", got)
	}
}

// TestKeysGoBackToTheirWorkers holds what manual promises, whatever comes and
// goes: a key that was given a worker has it whenever that worker is there, unless
// it had two others since; nobody who comes is given another's keys; and when all
// requests have ended no key is in use.
func TestKeysGoBackToTheirWorkers(t *testing.T) {
	all := workers(t, 12)
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSettings()
		s.RoutingKey.Mode = rapid.SampledFrom([]string{"random", "min_load", "min_group"}).Draw(t, "mode")
		p := newSticky(s, nil)
		had := make(map[string][]*fleet.Worker) // of a key, the first first
		type call struct {
			l Learner
			w *fleet.Worker
			c *Choice
		}
		var open []call
		here := all[:4]
		pick := p.Bind(here)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				here = nil
				for _, w := range all {
					if rapid.Bool().Draw(t, "here") {
						here = append(here, w)
					}
				}
				if len(here) == 0 {
					here = all[:1]
				}
				pick = p.Bind(here)
			case 1:
				if len(open) > 0 {
					k := open[0]
					open = open[1:]
					k.l.Ended(k.w, k.c, nil, nil, time.Unix(1e9, 0))
				}
			default:
				key := fmt.Sprint("key ", rapid.IntRange(0, 5).Draw(t, "key"))
				r, c := keyed(key), new(Choice)
				w := pick.Pick(r, c)
				var want *fleet.Worker
				for _, h := range had[key] {
					if want == nil && contains(here, h) {
						want = h
					}
				}
				if want == nil {
					had[key] = append(had[key], w)
					if len(had[key]) > 2 {
						had[key] = had[key][1:]
					}
				} else if w != want {
					t.Fatalf("%s is with %s, want %s", key, w.Base(), want.Base())
				}
				pick.(Learner).Sent(r, w, c)
				open = append(open, call{pick.(Learner), w, c})
			}
		}
		for _, k := range open {
			k.l.Ended(k.w, k.c, nil, nil, time.Unix(1e9, 0))
		}
		p.pins.each(func(url string, keys int64) {
			if keys != 0 {
				t.Fatalf("%s has %d keys in use, and no request is open", url, keys)
			}
		})
	})
}

func contains(ws []*fleet.Worker, w *fleet.Worker) bool {
	for _, o := range ws {
		if o == w {
			return true
		}
	}
	return false
}

// TestPinsAreBounded holds that there are never more keys than there is room for,
// nor more places remembered than workers need, whatever is asked.
func TestPinsAreBounded(t *testing.T) {
	s := DefaultSettings()
	s.RoutingKey.MaxKeys = 1000
	p := newSticky(s, nil)
	all := workers(t, 60)
	for round := range 20 {
		pick := p.Bind(all[round : round+30])
		for i := range 500 {
			c := new(Choice)
			r := keyed(fmt.Sprint(round, i))
			w := pick.Pick(r, c)
			pick.(Learner).Sent(r, w, c) // and never ends
		}
	}
	if n := p.pins.keys(); n > 1000 || n < 900 {
		t.Errorf("%d keys are remembered, want about 1000", n)
	}
	for i := range p.pins.shard {
		if sh := &p.pins.shard[i]; cap(sh.pins) > p.pins.room+1 {
			t.Errorf("a shard has memory for %d keys, want %d", cap(sh.pins), p.pins.room+1)
		}
	}
	active := int64(0)
	p.pins.each(func(_ string, keys int64) { active += keys })
	if active != int64(p.pins.keys()) {
		t.Errorf("%d keys are in use, want all %d", active, p.pins.keys())
	}
	// The seats of those who are gone and that no key names are given to others.
	if n := len(*p.pins.all.Load()); n > 60 {
		t.Errorf("%d seats for 60 workers", n)
	}
}

// TestSeatsAreUsedAgain holds that URLs that never come again cost nothing for
// ever.
func TestSeatsAreUsedAgain(t *testing.T) {
	s := DefaultSettings()
	s.RoutingKey.MaxKeys = 10
	p := newSticky(s, nil)
	all := workers(t, 400)
	for i := range 390 {
		pick := p.Bind(all[i : i+10])
		for k := range 20 {
			pick.Pick(keyed(fmt.Sprint(k)), new(Choice))
		}
	}
	if n := len(*p.pins.all.Load()); n > 60 {
		t.Errorf("%d seats, for 10 workers and 10 keys that name two each", n)
	}
}

// TestPinsTogether lets all at once use the same few keys, while workers come and
// go, and wants nothing to be left when they are through.
func TestPinsTogether(t *testing.T) {
	s := DefaultSettings()
	s.RoutingKey.MaxKeys, s.RoutingKey.Idle, s.RoutingKey.Override = 20, 2*time.Second, true
	p, err := New("bucket", s)
	if err != nil {
		t.Fatal(err)
	}
	all := workers(t, 16)
	var mu sync.Mutex
	pick := p.Bind(all)
	stop := make(chan struct{})
	var binder, users sync.WaitGroup
	binder.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			b := p.Bind(all[i%8 : i%8+8])
			mu.Lock()
			pick = b
			mu.Unlock()
			runtime.Gosched()
		}
	})
	for g := range 4 {
		users.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			c := new(Choice)
			for i := range 3000 {
				r := keyed(fmt.Sprint(rng.IntN(60)))
				r.Received = time.Unix(int64(1e9+i/100), 0)
				mu.Lock()
				b := pick
				mu.Unlock()
				c.Reset()
				w := b.Pick(r, c)
				l := b.(Learner)
				l.Sent(r, w, c)
				if rng.IntN(2) == 0 {
					l.Began(w, c, r.Received)
				}
				l.Ended(w, c, nil, nil, r.Received)
			}
		})
	}
	users.Wait()
	close(stop)
	binder.Wait()
	pins := p.(*sticky).pins
	pins.each(func(url string, keys int64) {
		if keys != 0 {
			t.Errorf("%s has %d keys in use, and nobody is left", url, keys)
		}
	})
	if n := pins.keys(); n > 20 {
		t.Errorf("%d keys are remembered, want 20", n)
	}
	named := int64(0)
	for _, c := range *pins.all.Load() {
		named += c.pins.Load()
	}
	if named > 40 {
		t.Errorf("20 keys name %d workers, want at most 40", named)
	}
}

// TestModelsHaveKeysOfTheirOwn holds that one client who asks two models is two.
func TestModelsHaveKeysOfTheirOwn(t *testing.T) {
	p := newSticky(DefaultSettings(), nil)
	a, b := keyed("alice"), keyed("alice")
	b.Model = "n"
	if p.pins.hash(a, []byte("alice")) == p.pins.hash(b, []byte("alice")) {
		t.Error("the same key of two models is one")
	}
}

// TestPinsOfPoliciesThatAreGone holds that metrics do not keep a policy alive.
func TestPinsOfPoliciesThatAreGone(t *testing.T) {
	s := DefaultSettings()
	for range 3 {
		newSticky(s, nil).Bind(workers(t, 1)).Pick(keyed("alice"), new(Choice))
	}
	p := newSticky(s, nil)
	for range 100 {
		if len(s.Metrics.pinned.all()) == 1 {
			break
		}
		runtime.GC()
	}
	if n := len(s.Metrics.pinned.all()); n != 1 {
		t.Errorf("%d policies are shown, and one is left", n)
	}
	runtime.KeepAlive(p)
}

// TestLoadSumFollows holds that the sum of the requests in flight is right once
// every worker was asked, and 0 when all have ended.
func TestLoadSumFollows(t *testing.T) {
	ws := workers(t, 1000)
	s := newLoadSum(crewOf(ws).meters)
	var leases []fleet.Lease
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				if l, ok := ws[rand.IntN(len(ws))].Acquire(time.Now()); ok {
					mu.Lock()
					leases = append(leases, l)
					mu.Unlock()
				}
				s.total(dice{})
			}
		})
	}
	wg.Wait()
	if got := s.total(dice{}); got < 6000 || got > 8000 {
		t.Errorf("the sum is %d, want nearly 8000", got)
	}
	s.ask(17, len(ws))
	if got := s.sum.Load(); got != 8000 {
		t.Errorf("the sum is %d when all have been asked, want 8000", got)
	}
	for i := range leases {
		leases[i].Release(time.Now(), breaker.Success)
	}
	asked := 0 // by chance, so that some are asked late
	for ; asked < 1_000_000 && s.total(dice{}) != 0; asked++ {
	}
	if got := s.sum.Load(); got != 0 {
		t.Errorf("the sum is %d when all have ended and %d have asked, want 0", got, asked)
	}
}

// TestAHotPrefixIsSpread holds that no worker gets much more than its bound, by a
// prefix that all requests have.
func TestAHotPrefixIsSpread(t *testing.T) {
	for _, n := range []int{4, 100} {
		ws := workers(t, n)
		pick := with(t, "prefix_hash", func(*Settings) {}).Bind(ws)
		for range 50 * n {
			w := pick.Pick(texted("You are a pilot."), new(Choice))
			busy(t, w, 1)
		}
		for _, w := range ws {
			if w.InFlight() > 50*5/4+15 {
				t.Errorf("of %d workers one has %d requests, and the mean is 50", n, w.InFlight())
			}
		}
	}
}

// BenchmarkKeys asks for another one of 10,000 keys, or beginnings of texts, each
// time, with a request that was just read: it is in the processor's cache, and
// what the policy remembers is as far as it may be.
func BenchmarkKeys(b *testing.B) {
	all := workers(b, 4096)
	for i, w := range all {
		busy(b, w, 12+i%7) // more than prefix_hash allows without a look at the others
	}
	prompt := "00000" + strings.Repeat("You are a pilot. ", 70)
	key := func(r *infer.Request) []byte { return r.Header.Get("x-smg-routing-key")[5:] }
	text := func(r *infer.Request) []byte { return r.Text()[:5] }
	for _, k := range []struct {
		name, policy string
		request      *infer.Request
		digits       func(r *infer.Request) []byte // five, to be changed in place
	}{
		{"consistent_hashing", "consistent_hashing", keyed("user-00000"), key},
		{"prefix_hash", "prefix_hash", texted(prompt), text},
		{"manual", "manual", keyed("user-00000"), key},
		{"override", "round_robin", keyed("user-00000"), key},
		{"bucket", "bucket", texted(prompt), text},
	} {
		for _, n := range []int{1, 64, 4096} {
			b.Run(fmt.Sprintf("%s/%d", k.name, n), func(b *testing.B) {
				pick := with(b, k.policy, func(s *Settings) { s.RoutingKey.Override = k.name == "override" }).Bind(all[:n])
				ask := func(d []byte, r *infer.Request, c *Choice, i uint64) {
					for j := range d {
						d[j] = byte('0' + i%10)
						i /= 10
					}
					c.Reset()
					pick.Pick(r, c)
				}
				for i := range uint64(10_000) {
					ask(k.digits(k.request), k.request, new(Choice), i)
				}
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					r, c := keyed("user-00000"), new(Choice)
					if k.request.Body != nil {
						r = texted(prompt)
					}
					d, rng := k.digits(r), rand.Uint64()
					for pb.Next() {
						rng = rng*0x9e3779b97f4a7c15 + 1
						ask(d, r, c, rng>>32%10_000)
					}
				})
			})
		}
	}
}

func BenchmarkBind(b *testing.B) {
	all := workers(b, 4096)
	for _, name := range []string{"consistent_hashing", "prefix_hash", "manual", "bucket"} {
		b.Run(name, func(b *testing.B) {
			p := mustNew(b, name)
			p.Bind(all)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p.Bind(all[i%2:])
			}
		})
	}
}
