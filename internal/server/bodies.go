package server

import (
	"net/http"
	"sync/atomic"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/metric"
)

// bodies bounds the memory that the bodies of all requests have at once. Short
// ones are not counted: each would have to look at what all share, and how many
// there are is bounded by the connections. A body that is alone may have all it
// needs.
type bodies struct {
	most    int64           // 0 for any
	refused *metric.Counter // nil counts nothing

	held atomic.Int64
}

// uncounted is how much of a body is held without being counted.
const uncounted = 64 << 10

var errBodies = &infer.Error{Status: http.StatusServiceUnavailable, Code: "too_many_request_bodies", RetryAfter: time.Second,
	Msg: "The gateway holds as much of long request bodies as it may. Try again soon."}

// fits reports whether a body of n bytes may begin to come.
func (b *bodies) fits(n int64) bool {
	held := b.held.Load()
	if n <= uncounted || b.most == 0 || held == 0 || held+n <= b.most {
		return true
	}
	b.refused.Inc()
	return false
}

// grow counts a body, of which has bytes are counted already, as one of n bytes.
// It returns how much of it is counted then, or errBodies.
func (b *bodies) grow(has, n int64) (int64, error) {
	if n <= max(uncounted, has) {
		return has, nil
	}
	held := b.held.Add(n - has)
	if b.most > 0 && held > b.most && held > n {
		b.held.Add(has - n)
		b.refused.Inc()
		return has, errBodies
	}
	return n, nil
}

// free gives back what grow has counted.
func (b *bodies) free(has int64) {
	if has > 0 {
		b.held.Add(-has)
	}
}
