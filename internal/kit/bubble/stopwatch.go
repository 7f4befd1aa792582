package bubble

import (
	"testing"
	"time"
)

// A Stopwatch measures by the true clock what cannot be in a bubble: how long
// something took, and how much of that the machine let this process run. A
// machine with too much to do, or that stands still, makes anything late.
type Stopwatch struct {
	begin      time.Time
	stop, done chan struct{}
	stood      time.Duration // of the goroutine until done is closed
}

// awakeEvery is how often a Stopwatch looks whether it runs. It takes it for
// running if it is not later than twice that.
const awakeEvery = 2 * time.Millisecond

// Begin returns a Stopwatch that runs until its End, or t's.
func Begin(t testing.TB) *Stopwatch {
	over := t.Context().Done()
	s := &Stopwatch{begin: time.Now(), stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		tick := time.NewTicker(awakeEvery)
		defer tick.Stop()
		for last, ended := s.begin, false; !ended; {
			select {
			case <-tick.C:
			case <-s.stop:
				ended = true
			case <-over:
				return
			}
			now := time.Now()
			s.stood += still(now.Sub(last))
			last = now
		}
	}()
	return s
}

// still returns how much of the time between two looks the process did not run.
func still(gap time.Duration) time.Duration {
	if gap <= 2*awakeEvery {
		return 0
	}
	return gap - awakeEvery
}

// End returns how long it took by the clock, which is for what must not be
// early, and how long without the time in which the process stood still, which is
// for what must not be late. It must be called once.
func (s *Stopwatch) End() (took, awake time.Duration) {
	took = time.Since(s.begin)
	close(s.stop)
	<-s.done
	return took, max(took-s.stood, 0)
}
