// Package bubble runs tests by a false clock, like testing/synctest, and also
// under the race detector. For those that need the true one it has a Stopwatch.
//
// With Go 1.26 the detector crashes (SIGSEGV, "ThreadSanitizer: CHECK failed")
// when two threads let timers of one bubble fire at once: both work on the
// bubble's one record of what happened before. See
// https://github.com/golang/go/issues/78156. What the detector finds does not
// depend on threads, only on what is ordered by what; therefore a bubble under
// the detector has one.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// Test is [synctest.Test].
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if raced {
		defer single.enter()()
	}
	synctest.Test(t, f)
}

// single is the bubbles that are running under the race detector.
var single narrow

// narrow keeps the program on one processor while somebody wants that.
type narrow struct {
	mu    sync.Mutex // guards what follows
	open  int        // who wants it
	procs int        // what GOMAXPROCS was
}

// enter wants one processor until leave is called.
func (n *narrow) enter() (leave func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open++; n.open == 1 {
		n.procs = runtime.GOMAXPROCS(1)
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.open--; n.open == 0 {
			runtime.GOMAXPROCS(n.procs)
		}
	}
}
