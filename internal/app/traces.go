package app

import (
	"context"
	"fmt"
	"time"

	"sluice/internal/kit/trace"
	"sluice/internal/version"
)

// flushTime is how long the last spans may hold up the end.
const flushTime = 5 * time.Second

// openTraces makes a.tracer if spans are asked for.
func (a *App) openTraces() error {
	if !a.cfg.Trace.Enable {
		return nil
	}
	t, err := trace.Open(context.Background(), trace.Config{
		Endpoint: a.cfg.Trace.Endpoint, ServiceName: "sluice", Version: version.Version, Log: a.log,
	})
	if err != nil {
		return fmt.Errorf("preparing traces (--enable-trace): %w", err)
	}
	a.tracer = t
	return nil
}

// runTraces sends the last spans when ctx is done. That they cannot be sent
// does not make the gateway's end a failure.
func (a *App) runTraces(ctx context.Context) error {
	if a.tracer == nil {
		return nil
	}
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
	defer cancel()
	if err := a.tracer.Close(ctx); err != nil {
		a.log.Warn("traces did not end well", "endpoint", a.cfg.Trace.Endpoint, "err", err)
	}
	return nil
}
