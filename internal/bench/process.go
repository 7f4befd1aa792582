package bench

import "time"

// A use is what a process has used, and holds, at one moment.
type use struct {
	cpu time.Duration
	rss int64 // bytes
}
