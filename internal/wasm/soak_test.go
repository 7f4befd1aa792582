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

// TestALongLifeTakesNoMemory makes calls of all sorts and holds that the process
// is no larger afterwards. SLUICE_SOAK_CALLS is how many, 4,000 without it.
func TestALongLifeTakesNoMemory(t *testing.T) {
	n := 4_000
	if s := os.Getenv("SLUICE_SOAK_CALLS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	set := DefaultSettings()
	set.Time, set.Instances = 200*time.Millisecond, 4 // a busy machine takes some for itself
	m := loadFile(t, "testdata/every.wasm", set)
	fresh := set
	fresh.Isolation = Fresh
	f := loadFile(t, "testdata/every.wasm", fresh)
	sorts := []string{"", "", "", "", "tell", "body", "headers", "trap", "deep", "outside", "huge-list", "not-utf8", "counters", "keys"}
	store := NewStore()
	round := func(n int) {
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				c, a, ch := &Call{Store: store}, new(Action), new(ChunkAction)
				for i := g; i < n; i += 4 {
					does := sorts[i%len(sorts)]
					if i%2000 == 0 {
						does = "spin"
					}
					if i%500 == 0 {
						does = "bomb"
					}
					of := m
					if i%50 == 0 {
						of = f
					}
					if err := of.OnRequest(context.Background(), c, told(does), a); err != nil && kindOf(err) == "" {
						t.Error(err)
					}
					if err := of.OnChunk(context.Background(), c, []byte("data: x\n\n"), ch); err != nil {
						t.Error(err)
					}
					c.State = c.State[:0]
				}
			})
		}
		wg.Wait()
	}
	round(max(n/10, 2000)) // what is needed is there then
	before := resident(t)
	round(n)
	after := resident(t)
	t.Logf("%d calls: %d KiB before, %d KiB after", 2*n, before>>10, after>>10)
	if after > before+before/4+(4<<20) {
		t.Errorf("%d calls took %d KiB", 2*n, (after-before)>>10)
	}
	for _, m := range []*Module{m, f} {
		s := m.Stats()
		if s.Instances > 4 {
			t.Errorf("%d instances", s.Instances)
		}
	}
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
