package fleet

import (
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// wholeEngine is the rank of a worker that is not one of several.
const wholeEngine = -1

// groupLocked returns the workers at w's URL: w, or the ranks of its engine.
// r.mu must be held.
func (r *Registry) groupLocked(w *Worker) []*Worker {
	if w.rank == wholeEngine {
		if r.byID[w.id] != w {
			return nil
		}
		return []*Worker{w}
	}
	var ws []*Worker
	for _, o := range r.all {
		if o.root == w.root {
			ws = append(ws, o)
		}
	}
	return ws
}

// expandLocked puts a worker for each data-parallel rank of w's engine into w's
// place, the first with w's ID, or makes them as many as the engine now says. It
// reports whether w is none of them. r.mu must be held.
func (r *Registry) expandLocked(w *Worker, now time.Time) (gone bool) {
	h := &w.health
	size := h.ranks()
	if !r.cfg.DPAware || size < 1 || w.rank == wholeEngine && size == 1 {
		return false
	}
	group := r.groupLocked(w)
	if size > maxRanks || len(r.byID)+size-len(group) > maxWorkers {
		r.sayLocked(slog.LevelWarn, "too many data-parallel ranks: nothing is changed", "worker", w.base, "ranks", size, "most", maxRanks)
		return false
	}
	there := make([]bool, size)
	for _, o := range group {
		if o.rank != wholeEngine && o.rank < size {
			there[o.rank] = true
			continue
		}
		gone = gone || o == w
		r.forgetLocked(o)
	}
	changed := gone
	for rank, is := range there {
		if is {
			continue
		}
		changed = true
		id := w.id
		if rank > 0 || w.rank != wholeEngine {
			v7, err := uuid.NewV7()
			if err != nil {
				r.sayLocked(slog.LevelError, "no ID for a data-parallel rank", "worker", w.root, "rank", rank, "err", err)
				continue
			}
			id = ID(v7.String())
		}
		o := r.newWorker(id, w.url, rank, h.spec)
		o.from = w.from
		r.joinRankLocked(o, w, now)
	}
	if changed {
		r.sayLocked(slog.LevelInfo, "worker is used by its data-parallel ranks", "worker", w.root, "ranks", size)
		r.touchLocked()
		r.wakeUp()
	}
	return gone
}

// ranks returns how many data-parallel ranks the engine has, 0 if nobody says.
func (h *health) ranks() int {
	if h.found != nil && h.found.ranks > 0 {
		return h.found.ranks
	}
	if n := h.spec.DPSize; n != nil {
		return *n
	}
	n, _ := strconv.Atoi(h.spec.Labels[labelRanks]) // 0 if it is no number
	return n
}

// labelRanks is the label that says how many ranks an engine has that does not say
// it itself.
const labelRanks = "dp_size"

// joinRankLocked registers o, of whose engine is known what w told. r.mu must be
// held.
func (r *Registry) joinRankLocked(o, w *Worker, now time.Time) {
	h := &o.health
	if o.rank == 0 || r.byURL[o.root] == nil {
		r.byURL[o.root] = o
	}
	r.enterLocked(o)
	r.beginLocked(o, w.health.spec.clone(), now)
	h.oks, h.known, h.found, h.start, h.began = w.health.oks, true, w.health.found, w.health.start, w.health.began
	o.info.Store(newInfo(h.spec, r.cfg.Backend, h.found))
	r.settleLocked(o, now)
	r.queue.set(o, now)
}

// narrow makes l the load of one rank.
func (l *Load) narrow(rank int) error {
	for _, k := range l.Ranks {
		if k.Rank == rank {
			l.Running, l.Waiting, l.WaitingTokens, l.UsedTokens, l.MaxTokens = k.Running, k.Waiting, k.waitingTokens, k.UsedTokens, k.maxTokens
			l.TokenUsage, l.Throughput, l.HitRate, l.Utilization = k.TokenUsage, k.Throughput, k.HitRate, k.utilization
			l.Ranks = []RankLoad{k}
			return nil
		}
	}
	return fmt.Errorf("no load of rank %d among %d", rank, len(l.Ranks))
}
