package app

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

// How the gateway gives memory back: when crowd goroutines more or fewer run
// than at the last time, and for a second their number has not changed by much.
const (
	crowd     = 500
	calm      = 50
	lookEvery = time.Second
)

// runMemory gives memory back after a crowd has come or gone. What each request
// needed to begin (buffers, deep stacks) is needed no longer then, and the
// collector, which works by what is allocated, would not run for minutes: when
// streams flow, nothing is.
func (a *App) runMemory(ctx context.Context) error {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	then := runtime.NumGoroutine() // when memory was given back
	for last := then; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now := runtime.NumGoroutine()
		if distance(now, then) >= crowd && distance(now, last) <= calm {
			runtime.GC()         // pools keep what they have for one round
			debug.FreeOSMemory() // and a second one
			then = now
		}
		last = now
	}
}

func distance(a, b int) int { return max(a-b, b-a) }
