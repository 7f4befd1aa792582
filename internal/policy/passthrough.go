package policy

import (
	"log/slog"
	"sync/atomic"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

// passthrough takes the first worker: it is for gateways that have one.
type passthrough struct {
	log    *slog.Logger
	warned atomic.Bool
}

func newPassthrough(s *Settings) *passthrough { return &passthrough{log: s.Log} }

// Bind implements Policy. It says once that there is nothing to do for the
// others.
func (p *passthrough) Bind(ws []*fleet.Worker) Picker {
	if len(ws) > 1 && p.log != nil && !p.warned.Swap(true) {
		p.log.Warn("passthrough sends every request to the first worker that is ready, and there are several; another --policy would use all", "workers", len(ws), "first", ws[0].Base())
	}
	return passthroughPicker{ws[0]}
}

type passthroughPicker struct{ w *fleet.Worker }

// Pick implements Picker.
func (p passthroughPicker) Pick(_ *infer.Request, c *Choice) *fleet.Worker {
	c.Why, c.Considered = "first", 1
	return p.w
}
