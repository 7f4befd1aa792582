package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Bounds of load reports.
const (
	maxLoadAnswer = 64 << 10
	maxRanks      = 256
	maxPolls      = 64 // reports asked for at a time
)

// PollLoad asks w how busy it is and records the answer. Engines that do not
// know the question make an error.
func (r *Registry) PollLoad(ctx context.Context, w *Worker) (*Load, error) {
	timeout := r.timeoutOf(w)
	b, err := r.get(ctx, w, "/v1/loads", timeout, maxLoadAnswer)
	if errors.Is(err, errAbsent) {
		b, err = r.get(ctx, w, "/get_load", timeout, maxLoadAnswer)
	}
	if err != nil {
		w.noLoad.Store(errors.Is(err, errAbsent))
		return nil, err
	}
	l, err := parseLoad(b)
	if err != nil {
		return nil, fmt.Errorf("reading worker %s's load: %w", w.base, err)
	}
	l.At = time.Now()
	w.Report(l)
	return l, nil
}

// Report makes l w's last report. PollLoad does it with what w answers; a
// simulation does it itself.
func (w *Worker) Report(l *Load) { w.load.Store(l) }

// watchLoads asks ready workers for their load until ctx is done.
func (r *Registry) watchLoads(ctx context.Context) {
	tick := time.NewTicker(r.cfg.LoadInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.pollLoads(ctx)
		}
	}
}

// pollLoads asks every ready worker once and waits for the answers.
func (r *Registry) pollLoads(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{}, maxPolls)
	for _, w := range r.Snapshot().All {
		if w.Status() != Ready || w.noLoad.Load() {
			continue
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-free }()
			if _, err := r.PollLoad(ctx, w); err != nil && ctx.Err() == nil {
				r.log.Debug("no load report", "worker", w.base, "err", err)
			}
		})
	}
}

// parseLoad reads SGLang's load report: an object with a list of ranks (0.5.9
// and later), a list of ranks, or one number.
func parseLoad(b []byte) (*Load, error) {
	l := &Load{Raw: b}
	var ranks []answer
	a := readAnswer(b)
	switch {
	case a != nil && a["loads"] != nil:
		ranks = a.list("loads")
	case a != nil:
		ranks = []answer{a}
	default:
		if err := json.Unmarshal(b, &ranks); err != nil {
			return nil, fmt.Errorf("not a load report: %w", err)
		}
	}
	if len(ranks) == 0 || len(ranks) > maxRanks {
		return nil, fmt.Errorf("%d ranks; want 1 to %d", len(ranks), maxRanks)
	}
	known := false
	for n, k := range ranks {
		for _, name := range []string{"num_running_reqs", "num_reqs", "num_total_reqs", "load"} {
			known = known || k[name] != nil
		}
		l.add(n, k)
	}
	if !known {
		return nil, errors.New("not a load report: it counts no requests")
	}
	n := float64(len(ranks))
	l.TokenUsage, l.HitRate, l.Utilization = l.TokenUsage/n, l.HitRate/n, l.Utilization/n
	return l, nil
}

// add counts one rank. Shares are summed; the caller divides them.
func (l *Load) add(n int, a answer) {
	k := RankLoad{
		Rank: n, Running: a.count("num_running_reqs"), Waiting: a.count("num_waiting_reqs"),
		TokenUsage: share(a.number("token_usage")), Throughput: positive(a.number("gen_throughput")), HitRate: share(a.number("cache_hit_rate")),
	}
	if a["dp_rank"] != nil {
		k.Rank = a.count("dp_rank")
	}
	used, total := a.count("num_used_tokens"), a.count("max_total_num_tokens")
	if a["num_running_reqs"] == nil { // before 0.5.9: all requests, and all tokens
		k.Running = max(0, a.count("num_reqs")-k.Waiting, a.count("load"))
		used = a.count("num_tokens")
	}
	if k.TokenUsage == 0 && total > 0 {
		k.TokenUsage = share(float64(used) / float64(total))
	}
	l.Ranks = append(l.Ranks, k)
	l.Running += k.Running
	l.Waiting += k.Waiting
	l.UsedTokens += int64(used)
	l.MaxTokens += int64(total)
	l.Throughput += k.Throughput
	l.TokenUsage += k.TokenUsage
	l.HitRate += k.HitRate
	l.Utilization += share(a.number("utilization"))
}

// share returns f as a share of 1.
func share(f float64) float64 { return min(positive(f), 1) }

func positive(f float64) float64 {
	if !(f > 0) {
		return 0
	}
	return min(f, 1e12)
}
