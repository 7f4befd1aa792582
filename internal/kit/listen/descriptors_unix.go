//go:build linux || darwin

package listen

import (
	"math"
	"syscall"
)

// Descriptors returns how many files and sockets this process may have open: the
// soft limit, which Go programs raise to the hard one when they begin. It
// returns 0 if that is not known.
func Descriptors() int {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 0
	}
	return int(min(lim.Cur, math.MaxInt32)) // no limit is a large number
}
