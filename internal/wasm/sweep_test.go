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
