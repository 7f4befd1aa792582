package route

import (
	"context"
	"time"

	"sluice/internal/fleet"
)

// calm is the least time between the beginnings of two tables: a burst of changes
// is one, and a fleet whose health flaps costs a part of one core.
const calm = 5 * time.Millisecond

// Publish makes a Table of snap that of the requests that follow: at once, or,
// while r runs, soon, together with what else changes until then. Calls of
// Publish must come in the order of the snapshots. It does not block while r
// runs.
func (rt *Router) Publish(snap *fleet.Snapshot) {
	rt.pending.Store(snap)
	if !rt.running.Load() {
		rt.publish()
		return
	}
	select {
	case rt.wake <- struct{}{}:
	default: // it is known already
	}
}

// Run makes the tables, until ctx is done: the first after a quiet time at once,
// further ones when the one before is 5 ms old, and as old as it took to make.
// It may be called once at a time.
func (rt *Router) Run(ctx context.Context) error {
	rt.running.Store(true)
	defer rt.publish() // what came as it ended
	defer rt.running.Store(false)
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-rt.wake:
		case <-ctx.Done():
			return nil
		}
		begin := time.Now()
		rt.publish()
		took := time.Since(begin)
		rest.Reset(max(calm-took, took))
		select {
		case <-rest.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// publish makes a Table of what was published last, if that has none.
func (rt *Router) publish() {
	rt.mu.Lock()
	snap := rt.pending.Swap(nil)
	if snap == nil {
		rt.mu.Unlock()
		return
	}
	rt.table.Store(rt.build(snap))
	said, shadows := rt.said, rt.shadows
	rt.said, rt.shadows = nil, nil
	rt.mu.Unlock()
	for _, alias := range shadows {
		rt.log.Warn("a model alias does nothing: a worker's own model has that name, and requests for it go there", "alias", alias, "model", rt.aliases[alias])
	}
	for _, s := range said {
		rt.log.Warn("a worker's label names no policy that may choose it; the gateway's is used",
			"worker", s.worker.Base(), "policy", s.label, "used", s.used, "err", s.err)
	}
}

// noteShadow notes whether a worker's own model has the name of an alias. It is told
// when that begins. rt.mu must be held.
func (rt *Router) noteShadow(alias string, is bool) {
	if is == rt.shadowed[alias] {
		return
	}
	if !is {
		delete(rt.shadowed, alias)
		return
	}
	rt.shadowed[alias] = true
	rt.shadows = append(rt.shadows, alias)
}

// A refusal is a label that names a policy which cannot be used.
type refusal struct {
	refused
	used string
	err  error
}

type refused struct {
	worker *fleet.Worker
	place  place
	label  string
}

// refuse notes that a label was not followed. It is told once, as long as the
// label is there. rt.mu must be held.
func (rt *Router) refuse(w *fleet.Worker, p place, label, used string, err error) {
	what := refused{w, p, label}
	if !rt.told[what] && !rt.telling[what] {
		rt.said = append(rt.said, refusal{what, used, err})
	}
	if rt.telling == nil {
		rt.telling = make(map[refused]bool)
	}
	rt.telling[what] = true
}
