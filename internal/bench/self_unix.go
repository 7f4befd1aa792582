//go:build unix

package bench

import (
	"syscall"
	"time"
)

// selfCPU returns the CPU time of this process.
func selfCPU() (time.Duration, bool) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
