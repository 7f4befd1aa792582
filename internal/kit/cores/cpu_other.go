//go:build !unix

package cores

import "time"

// cpuTime says that it cannot be known.
func cpuTime() (d time.Duration, ok bool) { return 0, false }
