package app

import (
	"context"
	"time"
)

// A gateway that shares its port takes nothing while it has no worker: there is
// another that does, and who came here meanwhile waits in the kernel's queue
// rather than being refused. handover bounds that.
const (
	handover      = 10 * time.Second
	handoverEvery = 10 * time.Millisecond
)

// awaitWorkers waits until the gateway can serve, if it shares its port.
func (a *App) awaitWorkers(ctx context.Context) {
	if !a.cfg.Listen.ReusePort || len(a.cfg.Workers.WorkerURLs) == 0 {
		return // workers that come later may come by this port
	}
	if !within(ctx, handover, handoverEvery, func() bool { return len(a.router.Table().Snapshot().Ready) > 0 }) {
		a.log.Warn("no worker is ready; connections are accepted all the same", "after", handover.String())
	}
}

// within looks every so often whether ok, and reports whether it was before most
// was over. When ctx is done it does not matter any more.
func within(ctx context.Context, most, every time.Duration, ok func() bool) bool {
	end := time.NewTimer(most)
	defer end.Stop()
	t := time.NewTicker(every)
	defer t.Stop()
	for !ok() {
		select {
		case <-t.C:
		case <-end.C:
			return ok()
		case <-ctx.Done():
			return true
		}
	}
	return true
}
