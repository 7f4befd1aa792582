package bubble

import (
	"testing"
	"time"
)

// TestStopwatch runs one where the clock is exact: it does not stand still.
func TestStopwatch(t *testing.T) {
	Test(t, func(t *testing.T) {
		s := Begin(t)
		<-time.After(time.Second)
		if took, awake := s.End(); took != time.Second || awake != time.Second {
			t.Errorf("took %v, %v of it awake, want 1s of both", took, awake)
		}
	})
}

func TestStandingStill(t *testing.T) {
	for gap, want := range map[time.Duration]time.Duration{
		awakeEvery:                 0,
		2 * awakeEvery:             0,
		time.Second:                time.Second - awakeEvery,
		3*awakeEvery + time.Minute: 2*awakeEvery + time.Minute,
	} {
		if got := still(gap); got != want {
			t.Errorf("looks %v apart: it stood still for %v, want %v", gap, got, want)
		}
	}
}

// TestABusyProcessStandsStill keeps the only processor from a Stopwatch, as a
// machine that stands still does.
func TestABusyProcessStandsStill(t *testing.T) {
	defer single.enter()()
	s := Begin(t)
	for begin := time.Now(); time.Since(begin) < 300*time.Millisecond; {
	}
	if took, awake := s.End(); took < 300*time.Millisecond || awake > 150*time.Millisecond {
		t.Errorf("took %v, %v of it awake", took, awake)
	}
}
