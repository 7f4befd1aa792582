//go:build unix

package cores

import (
	"syscall"
	"time"
)

// cpuTime returns how long the process has run, on all cores. ok is false where
// that cannot be known.
func cpuTime() (d time.Duration, ok bool) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
