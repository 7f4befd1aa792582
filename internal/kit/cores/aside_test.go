package cores

import (
	"runtime"
	"testing"
)

// TestAside holds that there is a core more while something runs aside, whatever
// becomes of the others meanwhile, and none more when it has ended.
func TestAside(t *testing.T) {
	before := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(before)
	is := func(want int, when string) {
		t.Helper()
		if n := runtime.GOMAXPROCS(0); n != want {
			t.Errorf("%d cores %s, want %d", n, when, want)
		}
	}
	ran := false
	Aside(func() {
		is(3, "while something runs aside")
		Aside(func() {
			is(4, "while something else does too")
			if was := resize(1); was != 2 {
				t.Errorf("there were %d cores beside, want 2", was)
			}
			is(3, "when there is a core less")
			ran = true
		})
		is(2, "when one has ended")
	})
	is(1, "when both have")
	if !ran {
		t.Error("it did not run")
	}
}
