package app

import (
	"context"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

// TestHowLongAPortIsHeld holds that connections of a shared port wait for a
// worker as long as needed, and no longer than is bearable.
func TestHowLongAPortIsHeld(t *testing.T) {
	for _, tt := range []struct {
		name         string
		ready, ended time.Duration // 0 for never
		want         bool
		after        time.Duration
	}{
		{"one is ready before", time.Nanosecond, 0, true, 0},
		{"one is ready soon", 300 * time.Millisecond, 0, true, 300 * time.Millisecond},
		{"none is", 0, 0, false, handover},
		{"the gateway ends", 0, time.Second, true, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				begun := time.Now()
				if tt.ended > 0 {
					time.AfterFunc(tt.ended, cancel)
				}
				time.Sleep(time.Nanosecond)
				got := within(ctx, handover, handoverEvery, func() bool { return tt.ready > 0 && time.Since(begun) >= tt.ready })
				if took := time.Since(begun); got != tt.want || took < tt.after || took > tt.after+handoverEvery {
					t.Errorf("got %v after %v, want %v after %v", got, took, tt.want, tt.after)
				}
			})
		})
	}
}
