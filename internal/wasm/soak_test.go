package wasm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// told makes every.wasm do something in on-request.
func told(does string) *Request {
	r := request(100)
	r.Query = "request=" + does
	return r
}

// kindOf is how a call failed, "" if it did not.
func kindOf(err error) string {
	if c, ok := errors.AsType[*CallError](err); ok {
		return c.Kind
	}
	return ""
}

// TestWhoMisbehavesDisturbsNobody runs modules that do what they should not, on
// more goroutines than there are processors, beside one that behaves: its calls
// go on, each of the others ends in its time, and no instance is lost.
func TestWhoMisbehavesDisturbsNobody(t *testing.T) {
	for _, tt := range []struct{ does, kind string }{
		{"spin", "timeout"}, {"bomb", "timeout"}, {"deep", "stack"}, {"trap", "trap"}, {"huge-body", ""}, {"outside", "answer"},
	} {
		t.Run(tt.does, func(t *testing.T) {
			set := DefaultSettings()
			set.Time = 50 * time.Millisecond
			set.Limits.MemoryPages = 512
			bad, good := loadFile(t, "testdata/every.wasm", set), load(t, "c-auth-smg", DefaultSettings())
			ctx, stop := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			var did atomic.Int64
			for range 8 {
				wg.Go(func() {
					c, a := &Call{Store: NewStore()}, new(Action)
					for ctx.Err() == nil {
						err := bad.OnRequest(ctx, c, told(tt.does), a)
						// Those that end by themselves may be too late for that here.
						if kind := kindOf(err); kind != tt.kind && kind != "timeout" && err != nil {
							t.Errorf("%v, want %q", err, tt.kind)
							return
						}
						did.Add(1)
					}
				})
			}
			a, r := new(Action), request(2048)
			var took []time.Duration
			for begin := time.Now(); time.Since(begin) < 300*time.Millisecond || did.Load() < 8; {
				at := time.Now()
				if err := good.OnRequest(ctx, new(Call), r, a); err != nil || a.Kind != Continue {
					t.Fatalf("the module that behaves: %v, %v", a.Kind, err)
				}
				took = append(took, time.Since(at))
				runtime.Gosched()
			}
			stop()
			wg.Wait()
			bad.engine.aside.Wait()
			slices.Sort(took)
			t.Logf("%d calls beside %d; median %s, longest %s", len(took), did.Load(), took[len(took)/2], took[len(took)-1])
			for _, m := range []*Module{bad, good} {
				if s := m.Stats(); s.Idle != s.Instances || s.Instances == 0 {
					t.Errorf("%d of %d instances stand ready", s.Idle, s.Instances)
				}
			}
			if s := bad.Stats(); s.Memory > int64(s.Instances)*(64<<10+keepTail) {
				t.Errorf("%d instances keep %d bytes", s.Instances, s.Memory)
			}
		})
	}
}

// TestALongLifeTakesNoMemory makes calls of all sorts, of guests in C and Rust,
// and holds that there is no more memory after the last of them than after the
// first. SLUICE_SOAK_CALLS is how many, 20,000 without it.
func TestALongLifeTakesNoMemory(t *testing.T) {
	n := 20_000
	if s := os.Getenv("SLUICE_SOAK_CALLS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	l := newLife(t, n)
	first := max(n/10, min(n/2, 10_000)) // what is needed is there then
	l.live(t, first)
	resident0, heap0 := used(t)
	instances0 := l.instances()
	l.live(t, n)
	resident1, heap1 := used(t)
	t.Logf("%d calls, %d of them failed as they should, %d were too late", l.did.Load(), l.failed.Load(), l.late.Load())
	t.Logf("after %d: resident %d KiB, on the heap %d KiB; after all: %d and %d", first, resident0>>10, heap0>>10, resident1>>10, heap1>>10)
	if resident1 > resident0+resident0/8+(8<<20) {
		t.Errorf("%d calls took %d KiB", n-first, (resident1-resident0)>>10)
	}
	more := uint64(max(l.instances()-instances0, 0)) // a busy machine may make some late
	if heap1 > heap0+(2+more)<<20 {
		t.Errorf("%d calls left %d KiB on the heap", n-first, (heap1-heap0)>>10)
	}
	for _, m := range l.modules {
		m.engine.aside.Wait()
		if s := m.Stats(); s.Instances > 8 || s.Idle != s.Instances { // four callers, and what they left to be put back
			t.Errorf("%d of %d instances stand ready, want all of at most 8", s.Idle, s.Instances)
		}
	}
}

// TestMemoryIsGivenBackBeside holds that who called a module that took much memory
// does not wait until it is given back, and that the module ends after that.
func TestMemoryIsGivenBackBeside(t *testing.T) {
	set := DefaultSettings()
	// More memory than it can take in its time.
	set.Time, set.Limits.MemoryPages, set.Isolation = 200*time.Millisecond, 32<<10, Fresh
	m := loadFile(t, "testdata/every.wasm", set)
	ended := make(chan error)
	m.mu.Lock() // without which no instance can be ended
	go func() { ended <- m.OnRequest(t.Context(), &Call{Store: NewStore()}, told("bomb"), new(Action)) }()
	select {
	case err := <-ended:
		if kindOf(err) != "timeout" {
			t.Errorf("got %v, want a timeout", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("who called waits until the memory is given back")
	}
	m.mu.Unlock()
	m.Close()
	m.engine.aside.Wait()
	for begin := time.Now(); m.calls.Load() != 0; runtime.Gosched() { // another instance is being made, perhaps
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("%d calls are left", m.calls.Load())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all != nil {
		t.Errorf("%d instances are left", len(m.all))
	}
}

// A life is many calls of some modules.
type life struct {
	modules           []*Module // every.wasm put back, every.wasm made anew, and well-behaved ones
	store             *Store
	rare              []rarity
	did, failed, late atomic.Int64
}

// instances is how many the modules have.
func (l *life) instances() (n int) {
	for _, m := range l.modules {
		n += m.Stats().Instances
	}
	return n
}

// A rarity is what costs too much to be done often.
type rarity struct {
	does  string
	every int64 // so many turns
}

// often is what calls of every.wasm do in turn, and how they fail.
var often = []struct{ does, kind string }{
	{"", ""}, {"trap", "trap"}, {"tell", ""}, {"body", ""}, {"outside", "answer"}, {"headers", ""}, {"huge-list", "answer"}, {"not-utf8", "answer"},
}

func newLife(t *testing.T, n int) *life {
	set := DefaultSettings()
	set.Time, set.Instances = 200*time.Millisecond, 4 // a busy machine takes some for itself
	fresh := set
	fresh.Isolation = Fresh
	return &life{
		store: NewStore(),
		modules: []*Module{
			loadFile(t, "testdata/every.wasm", set), loadFile(t, "testdata/every.wasm", fresh),
			load(t, "c-auth-smg", set), load(t, "clibc-auth-smg", set), load(t, "rust-auth-smg", set),
		},
		rare: []rarity{
			{"deep", 20}, {"counters", 200}, {"keys", 200}, {"bomb", int64(min(2000, n/50))}, {"spin", int64(min(4000, n/20))},
		},
	}
}

// live goes on until n calls have been made in all.
func (l *life) live(t *testing.T, n int) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c, a, ch := &Call{Store: l.store}, new(Action), new(ChunkAction)
			for {
				i := l.did.Add(1)
				if i > int64(n) {
					l.did.Add(-1)
					return
				}
				turn, which := i/int64(len(l.modules)), i%int64(len(l.modules))
				if which > 1 {
					l.see(t, "", "", l.modules[which].OnRequest(context.Background(), c, request(2048), a))
					continue
				}
				m := l.modules[0]
				if which == 1 && turn%10 == 0 {
					m = l.modules[1]
				}
				does, kind := l.pick(turn)
				l.see(t, does, kind, m.OnRequest(context.Background(), c, told(does), a))
				if turn%2 == 0 {
					l.did.Add(1)
					l.see(t, "an event", "", m.OnChunk(context.Background(), c, []byte("data: x\n\n"), ch))
				}
				c.State = c.State[:0]
			}
		})
	}
	wg.Wait()
}

// pick says what every.wasm does in a turn, and how it has to fail.
func (l *life) pick(turn int64) (does, kind string) {
	for k, r := range l.rare {
		if turn%r.every == int64(k) {
			return r.does, map[string]string{"deep": "stack", "bomb": "timeout", "spin": "timeout"}[r.does]
		}
	}
	o := often[turn%int64(len(often))]
	return o.does, o.kind
}

// see holds that a call failed as it has to. A machine that does other things
// makes some too late, and a bomb may be done in time.
func (l *life) see(t *testing.T, does, kind string, err error) {
	switch got := kindOf(err); {
	case err != nil && got == kind:
		l.failed.Add(1)
	case got == "timeout" || got == "busy":
		l.late.Add(1)
	case err == nil && (kind == "" || does == "bomb"):
	default:
		t.Errorf("%q: %v, want %q", does, err, kind)
	}
}

// used is how much memory the process has, and how much of it is on Go's heap.
func used(t *testing.T) (all, heap uint64) {
	t.Helper()
	all = resident(t) // which collects
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return all, m.HeapAlloc
}

// resident is how much memory the process has, once what is not needed is given
// back.
func resident(t *testing.T) uint64 {
	t.Helper()
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skipf("no way to tell: %v", err)
	}
	var size, pages uint64
	if _, err := fmt.Sscan(strings.TrimSpace(string(b)), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * uint64(os.Getpagesize())
}
