package fleet

import (
	"math"
	"testing"
	"time"
	"unsafe"

	"sluice/internal/kit/breaker"
)

// TestAMeterIsOneCacheLine: requests to one worker do not disturb those who look
// at another, and who compares workers waits for one line of each.
func TestAMeterIsOneCacheLine(t *testing.T) {
	if n := unsafe.Sizeof(Meter{}); n != 64 {
		t.Fatalf("%d bytes, want 64", n)
	}
	for range 100 {
		if at := uintptr(unsafe.Pointer(still(t).Meter())); at%64 != 0 {
			t.Fatalf("one is at %x, across two lines", at)
		}
	}
}

func TestAMeterTellsWhatWasReported(t *testing.T) {
	at := time.Unix(1e9, 0)
	tests := []struct {
		name                                 string
		l                                    Load
		tokens, requests, perToken, pressure float64
	}{
		{"nothing", Load{}, 0, 0, 0, 0},
		{"tokens that wait", Load{Waiting: 3, WaitingTokens: 500}, 500, 0, 0, 0},
		{"requests that wait", Load{Waiting: 3}, 0, 3, 0, 0},
		{"its speed", Load{Throughput: 4}, 0, 0, 0.25, 0},
		{"a speed that is nearly none", Load{Throughput: 1e-300}, 0, 0, math.MaxFloat32, 0},
		{"its cache", Load{TokenUsage: 0.5}, 0, 0, 0, 1},
		{"a full cache", Load{TokenUsage: 1}, 0, 0, 0, 999},
	}
	for _, tt := range tests {
		w := still(t)
		before, _ := w.Acquire(at)
		before.Charge(0, 70)
		tt.l.At = at
		if !w.Report(&tt.l) {
			t.Fatalf("%s: not taken", tt.name)
		}
		since, _ := w.Acquire(at)
		since.Charge(0, 30)
		m := w.Meter()
		tokens, requests := m.Ahead()
		perToken, pressure := m.Pace()
		if !m.Reported(at.UnixNano()) || tokens != tt.tokens+30 || requests != tt.requests || perToken != tt.perToken || math.Abs(pressure-tt.pressure) > 0.001 {
			t.Errorf("%s: %v tokens, %v requests, %v s a token, pressure %v; want 30 more than in %+v", tt.name, tokens, requests, perToken, pressure, tt)
		}
		before.Release(at, breaker.Success)
		since.Release(at, breaker.Success)
	}
}

// TestAMeterBelievesWhatAWorkerBelieves holds that the age of a report says the
// same to who asks the Meter.
func TestAMeterBelievesWhatAWorkerBelieves(t *testing.T) {
	w, at := still(t), time.Now()
	now := func(at time.Time) bool { return w.Meter().Reported(at.UnixNano()) }
	if now(at) || now(time.Time{}) {
		t.Error("it believes what was not said")
	}
	w.Report(&Load{At: at})
	for _, age := range []time.Duration{0, time.Millisecond, w.reg.stale - time.Second, w.reg.stale + time.Second, 24 * time.Hour, -time.Second, -24 * time.Hour} {
		if got, want := now(at.Add(age)), w.Believed(at.Add(age)) != nil; got != want {
			t.Errorf("at the age of %v: %v, want %v", age, got, want)
		}
	}
	if now(time.Time{}) || now(time.Unix(1<<60, 0)) {
		t.Error("it believes a report at a time that is none")
	}
}
