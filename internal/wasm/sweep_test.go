package wasm

import (
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"
)

// TestACallEndsWhoeverComesLate holds that a guest that computes is stopped when
// its time is over, also if the sweeper does not get a processor: here it does not
// run at all.
func TestACallEndsWhoeverComesLate(t *testing.T) {
	b, err := os.ReadFile("testdata/every.wasm")
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	set := DefaultSettings()
	set.Time = 20 * time.Millisecond
	m, err := e.Load(t.Context(), b, set)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for range 3 { // also after it was stopped and put back
		r := request(0)
		r.Query = "request=spin"
		begin := time.Now()
		help := time.AfterFunc(10*time.Second, func() { e.sweep(1 << 40) })
		err = m.OnRequest(t.Context(), &Call{Store: NewStore()}, r, new(Action))
		if !help.Stop() {
			t.Fatal("it would not have ended")
		}
		if c, ok := errors.AsType[*CallError](err); !ok || c.Kind != string(errTimeout) {
			t.Fatalf("it ended with %v, want a timeout", err)
		}
		if took := time.Since(begin); took < set.Time {
			t.Errorf("it was ended after %s, and may take %s", took, set.Time)
		}
		r.Query = ""
		if err := m.OnRequest(t.Context(), &Call{Store: NewStore()}, r, new(Action)); err != nil {
			t.Fatalf("the next call: %v", err)
		}
	}
}

// TestAStartThatIsLateBeforeItsCodeRuns: making the parts of an instance takes time
// too. What is stopped in the midst of that does not run afterwards as long as it
// likes.
func TestAStartThatIsLateBeforeItsCodeRuns(t *testing.T) {
	e, err := NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	limits := DefaultLimits()
	c, err := e.compile(t.Context(), least("\x03\x40\x0c\x00\x0b"), limits) // a loop without an end
	if err != nil {
		t.Fatal(err)
	}
	defer c.close(t.Context())
	in := c.blank()
	defer in.close()
	in.limit.Store(int64(time.Second))
	in.begin(1)
	in.stopIfLate(1<<20, int64(time.Second/tick)) // before there is a part of it
	help := time.AfterFunc(10*time.Second, func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		for _, c := range in.stops {
			c.stop.Set(1)
		}
	})
	err = in.make(&allocator{limit: uint64(limits.MemoryPages) * pageSize})
	if !help.Stop() {
		t.Fatal("it would not have ended")
	}
	if c, ok := errors.AsType[*CallError](err); !ok || c.Kind != string(errTimeout) || !in.end() {
		t.Errorf("it ended with %v, want a timeout", err)
	}
}
