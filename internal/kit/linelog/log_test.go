package linelog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/kit/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is where a log is written to.
type place struct {
	mu      sync.Mutex
	text    bytes.Buffer
	writes  int
	err     error
	blocked chan struct{} // if not nil, writes wait until it is closed
}

func (p *place) Write(b []byte) (int, error) {
	p.mu.Lock()
	blocked := p.blocked
	p.mu.Unlock()
	if blocked != nil {
		<-blocked
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, p.err
	}
	p.writes++
	return p.text.Write(b)
}

func (p *place) set(err error, blocked chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.blocked = err, blocked
}

// lines returns the lines that were written, and in how many writes.
func (p *place) lines() ([]string, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Split(strings.TrimSuffix(p.text.String(), "\n"), "\n"), p.writes
}

func line(l *Log, n int) {
	e := l.Begin(noon, slog.LevelInfo, "m")
	e.Int("n", int64(n))
	e.End()
}

// running runs l and returns what ends it.
func running(l *Log) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Run(ctx) }()
	return func() { cancel(); <-done }
}

func TestALineIsWrittenWithinATenthOfASecond(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := new(place)
		l := New(p, Config{})
		defer running(l)()
		for round := range 3 {
			line(l, 1)
			time.Sleep(patience / 2)
			line(l, 2)
			synctest.Wait()
			if _, writes := p.lines(); writes != round {
				t.Errorf("round %d: %d writes before the time, want them together", round, writes)
			}
			time.Sleep(patience / 2)
			synctest.Wait()
			if _, writes := p.lines(); writes != round+1 {
				t.Errorf("round %d: %d writes after %s, want one", round, writes, patience)
			}
			time.Sleep(time.Hour)
		}
		if ls, writes := p.lines(); len(ls) != 6 || writes != 3 {
			t.Errorf("got %d lines in %d writes, want 6 in 3: %q", len(ls), writes, ls)
		}
	})
}

func TestManyLinesDoNotWait(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := new(place)
		l := New(p, Config{})
		defer running(l)()
		start, n := time.Now(), 0
		for writes := 0; writes == 0; n++ {
			line(l, n)
			synctest.Wait()
			_, writes = p.lines()
		}
		if since := time.Since(start); since != 0 {
			t.Errorf("written after %s, want at once", since)
		}
		if most := 2 * batch * len(l.stripes) / 30; n > most {
			t.Errorf("written after %d lines, want fewer than %d", n, most)
		}
	})
}

func TestWhatWaitsAtTheEndIsWritten(t *testing.T) {
	p := new(place)
	l := New(p, Config{})
	end := running(l)
	for i := range 1000 {
		line(l, i)
	}
	end()
	if ls, _ := p.lines(); len(ls) != 1000 {
		t.Errorf("%d lines were written, want 1000", len(ls))
	}
}

// TestLinesAreWhole holds that nothing is lost, torn or mixed when many write
// at once, slog among them.
func TestLinesAreWhole(t *testing.T) {
	const writers, each = 8, 3000
	p := new(place)
	l := New(p, Config{JSON: true})
	log := slog.New(l.Handler())
	end := running(l)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if i%100 == 0 {
					log.Info("m", "n", w*each+i)
				} else {
					line(l, w*each+i)
				}
			}
		})
	}
	wg.Wait()
	end()
	seen := map[int]bool{}
	ls, writes := p.lines()
	for _, s := range ls {
		var m struct{ N int }
		if err := json.Unmarshal([]byte(s), &m); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		seen[m.N] = true
	}
	if len(ls) != writers*each || len(seen) != writers*each {
		t.Errorf("%d lines, %d of them different, want %d", len(ls), len(seen), writers*each)
	}
	if most := writers*each/100 + writers*each*70/batch*2 + 100; writes > most {
		t.Errorf("%d writes, want no more than %d", writes, most)
	}
}

func TestASlowPlaceCostsLinesAndNotMemory(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := &place{blocked: make(chan struct{})}
		l := New(p, Config{JSON: true})
		dropped := 0
		l.OnDrop(func(lines int) { dropped += lines })
		defer running(l)()
		line(l, -1)
		time.Sleep(patience) // from here on Run waits for p
		synctest.Wait()
		const n = 200_000 // some 14 MB
		for i := range n {
			line(l, i)
		}
		waiting := 0
		for i := range l.stripes {
			waiting += len(l.stripes[i].buf)
		}
		if waiting > maxWaiting {
			t.Errorf("%d bytes wait, want at most %d", waiting, maxWaiting)
		}
		if dropped == 0 {
			t.Error("nothing was dropped")
		}
		close(p.blocked)
		p.set(nil, nil)
		time.Sleep(10 * patience)
		ls, _ := p.lines()
		var m struct {
			Level string
			Lines int
		}
		if err := json.Unmarshal([]byte(ls[len(ls)-1]), &m); err != nil || m.Level != "WARN" || m.Lines != dropped {
			t.Errorf("the last line is %q, want a warning of %d lines", ls[len(ls)-1], dropped)
		}
		if got := len(ls) - 2 + dropped; got != n {
			t.Errorf("%d lines were written or dropped, want %d", got, n)
		}
		line(l, 0)
		time.Sleep(10 * patience)
		if after, _ := p.lines(); len(after) != len(ls)+1 {
			t.Errorf("after it came %q, want one line and no second warning", after[len(ls):])
		}
	})
}

func TestAPlaceThatCannotBeWrittenTo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := &place{err: errors.New("disk full")}
		l := New(p, Config{})
		dropped := 0
		l.OnDrop(func(lines int) { dropped += lines })
		end := running(l)
		for i := range 3 {
			line(l, i)
			time.Sleep(time.Minute)
		}
		p.set(nil, nil)
		line(l, 3)
		time.Sleep(time.Minute)
		end()
		if dropped != 3 {
			t.Errorf("%d lines were dropped, want 3", dropped)
		}
		ls, _ := p.lines()
		if len(ls) != 2 || !strings.Contains(ls[0], "n=3") || !strings.Contains(ls[1], "level=WARN") || !strings.Contains(ls[1], "lines=3") {
			t.Errorf("got %q, want the line and a warning of three", ls)
		}
	})
}

func TestLevels(t *testing.T) {
	p := new(place)
	l := New(p, Config{Level: slog.LevelWarn})
	if l.Enabled(slog.LevelInfo) || !l.Enabled(slog.LevelWarn) || (*Log)(nil).Enabled(slog.LevelError) {
		t.Error("want what is at least a warning, and nothing without a log")
	}
	log := slog.New(l.Handler())
	log.Info("no")
	log.Warn("yes")
	if ls, writes := p.lines(); writes != 1 || !strings.HasSuffix(ls[0], "level=WARN msg=yes") {
		t.Errorf("got %q, want the warning, at once", ls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (*Log)(nil).Run(ctx); err != nil {
		t.Error(err)
	}
	(*Log)(nil).OnDrop(nil)
}

// TestTheOrderOfOne holds that lines of one goroutine, which is most of what
// reads as a story, stay in order while nothing else moves it.
func TestTheOrderOfOne(t *testing.T) {
	p := new(place)
	l := New(p, Config{})
	l.stripes = l.stripes[:1]
	for i := range 100 {
		line(l, i)
	}
	l.Flush()
	ls, _ := p.lines()
	for i, s := range ls {
		if !strings.HasSuffix(s, fmt.Sprintf(" n=%d", i)) {
			t.Fatalf("line %d is %q", i, s)
		}
	}
}
