//go:build !linux

package bench

import "time"

// exact is how much of a wait is left to nap.
const exact = 0

func nap(d time.Duration) { time.Sleep(d) }
