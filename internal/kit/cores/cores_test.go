package cores

import (
	"context"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestHowManyCores plays what was seen, look by look, and what comes of it.
func TestHowManyCores(t *testing.T) {
	tests := []struct {
		name  string
		most  int
		seen  string // "0.3": cores at work in one look; "x10" behind it: ten looks; "!" behind it: with goroutines that were late
		cores string // after each word of seen
	}{
		{"next to nothing to do", 4, "0.1x24 0.1 0.1x24 0.1 0.1x24 0.1 0.1x100", "4 3 3 2 2 1 1"},
		{"enough for one, not for a while yet", 2, "0.3x24 0.6 0.3x24 0.3", "2 2 2 1"},
		{"more than one can do", 4, "0.1x100 0.8 1.6 3.9", "1 2 4 4"},
		{"a little for each of them", 4, "2.2x100", "4"},
		{"one less would have pauses enough", 8, "3.4x24 3.4 2.9x25 2.9x100", "8 7 6 6"},
		{"others have the machine", 2, "0.1x100 0.3! 0.3!x100 0.3x25", "1 2 2 1"},
		{"there is one", 1, "0.9x100 0.1x100 0.9!", "1 1 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sizer{most: tt.most, now: tt.most}
			want := strings.Fields(tt.cores)
			for i, word := range strings.Fields(tt.seen) {
				word, times, _ := strings.Cut(word, "x")
				word, slow := strings.CutSuffix(word, "!")
				busy, err := strconv.ParseFloat(word, 64)
				if err != nil {
					t.Fatal(err)
				}
				l := load{busy: busy, ready: 100}
				if slow {
					l.late = 3
				}
				n, _ := strconv.Atoi(times)
				for range max(n, 1) {
					s.next(l, look)
				}
				if got := strconv.Itoa(s.now); got != want[i] {
					t.Fatalf("%s cores after %q (word %d), want %s", got, word, i, want[i])
				}
			}
		})
	}
}

// TestACoreComesAndGoes runs a Keeper where there is little to do, and then
// much.
func TestACoreComesAndGoes(t *testing.T) {
	before := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(before)
	if p := newProbe(); !p.works() {
		t.Skip("this system does not tell how long a process has run")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- NewKeeper(2).Run(ctx) }()

	becomes := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); {
			if time.Now().After(deadline) {
				t.Fatalf("waited 30 s for %s", what)
			}
			time.Sleep(look)
		}
	}
	becomes("one core less", func() bool { return runtime.GOMAXPROCS(0) == 1 })

	// A second one has no say.
	other := make(chan error)
	quit, stop := context.WithCancel(t.Context())
	go func() { other <- NewKeeper(8).Run(quit) }()

	var end atomic.Bool
	spun := make(chan bool)
	const spinning = 8
	for range spinning {
		go func() { // who is ready waits for others, also where the machine gives us little
			for !end.Load() {
				for begin := time.Now(); time.Since(begin) < late; {
				}
				runtime.Gosched()
			}
			spun <- true
		}()
	}
	becomes("a second core", func() bool { return runtime.GOMAXPROCS(0) == 2 })
	end.Store(true)
	for range spinning {
		<-spun
	}
	stop()
	if err := <-other; err != nil {
		t.Error(err)
	}
	becomes("one core less again", func() bool { return runtime.GOMAXPROCS(0) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := runtime.GOMAXPROCS(0); n != 2 {
		t.Errorf("%d cores when nobody keeps their number, want 2", n)
	}
}

func BenchmarkLook(b *testing.B) {
	p := newProbe()
	b.ReportAllocs()
	for b.Loop() {
		p.look()
	}
}
