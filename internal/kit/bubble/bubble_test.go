package bubble_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

// TestTimersFireAtOnce is what crashes the race detector without this package:
// deadlines and ticks of one moment, waited for by several goroutines.
func TestTimersFireAtOnce(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	for range 10 {
		bubble.Test(t, func(t *testing.T) {
			from := time.Now()
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					tick := time.NewTicker(time.Second)
					defer tick.Stop()
					for range 50 {
						ctx, cancel := context.WithTimeout(t.Context(), time.Second)
						select {
						case <-tick.C:
						case <-ctx.Done():
						}
						<-ctx.Done()
						cancel()
					}
				})
			}
			wg.Wait()
			if took := time.Since(from); took != 50*time.Second {
				t.Errorf("fifty waits of a second took %v", took)
			}
		})
	}
	if now := runtime.GOMAXPROCS(0); now != before {
		t.Errorf("%d processors after the bubbles, %d before", now, before)
	}
}
