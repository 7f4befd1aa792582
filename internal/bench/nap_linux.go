package bench

import (
	"syscall"
	"time"
)

// exact is how much of a wait is left to nap. The runtime's timers come up to a
// millisecond late when the process is idle, and in an open loop that counts as
// the server's time: at 200 requests/s the median was 0.6 ms, with the system
// call 0.1 ms.
const exact = 2 * time.Millisecond

func nap(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	// A signal may end it early; then the request begins a little before its
	// time, and its latency still counts from the planned one.
	_ = syscall.Nanosleep(&ts, nil)
}
