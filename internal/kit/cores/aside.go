package cores

import (
	"runtime"
	"sync"
)

// procs is what GOMAXPROCS is made of, beside the cores that a Keeper keeps.
var procs struct {
	mu    sync.Mutex // guards aside, and is held while GOMAXPROCS is set
	aside int        // one for each Aside that runs
}

// resize makes n cores, beside those of Aside, and returns how many there were.
func resize(n int) (before int) {
	procs.mu.Lock()
	defer procs.mu.Unlock()
	return runtime.GOMAXPROCS(n+procs.aside) - procs.aside
}

// widen makes one core more or less for Aside.
func widen(by int) {
	procs.mu.Lock()
	defer procs.mu.Unlock()
	procs.aside += by
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + by)
}

// Aside runs f, which computes for long without a pause, and returns when it has
// ended. On the cores that there are, the Go scheduler would give it ten
// milliseconds at a time, and everything else that is ready would wait for that
// at each of its steps. So f gets a core more, and a thread of its own there. It
// is for the system to share the processors then, which it does more finely; on
// Linux it gives f the smaller share.
//
// f must not panic.
func Aside(f func()) {
	done := make(chan struct{})
	widen(1)
	defer widen(-1)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never to be unlocked: the thread ends with f, or somebody would get one that is slow
		stepBack()
		f()
	}()
	<-done
}
