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
	maxMetrics    = 1 << 20 // of an answer to /metrics, most of which is passed over
	maxRanks      = 256
	maxPolls      = 64 // reports asked for at a time
	maxLatePolls  = 16 // likewise, of workers that let the last question time out
	pollTimeout   = 3 * time.Second
)

// Where a worker tells its load.
const (
	unknownSource = iota // to be found out: every path is asked
	loadSource           // /v1/loads, or /get_load before SGLang 0.5.9
	metricsSource        // /metrics
	noSource             // nowhere, and it never did; asked again when it joins again
)

// PollLoad asks w how busy it is and records the answer. Engines that do not
// know the question make an error, and so does an answer that cannot be true. It
// says nothing of w that ctx was canceled.
func (r *Registry) PollLoad(ctx context.Context, w *Worker) (*Load, error) {
	asked := time.Now()
	timeout, checked := r.waysOf(w)
	l, err := r.askLoad(ctx, w, min(timeout, pollTimeout))
	if err == nil {
		err = w.take(l)
	}
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return nil, err
	}
	now := time.Now()
	if err != nil {
		w.unheard(now, timedOut(err))
	}
	r.noteReport(w, l, err, asked, now, checked)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// take makes l, which w has just told, w's last report.
func (w *Worker) take(l *Load) error {
	if w.rank >= 0 && len(l.Ranks) > 1 {
		if err := l.narrow(w.rank); err != nil {
			return &unreadableError{w, err}
		}
	}
	l.At = time.Now()
	if !w.Report(l) {
		return &unreadableError{w, errors.New("it cannot be true")}
	}
	return nil
}

// askLoad asks w for its load at the path where it told it last, or at all.
func (r *Registry) askLoad(ctx context.Context, w *Worker, timeout time.Duration) (*Load, error) {
	source := w.source.Load()
	read, err := parseLoad, error(nil)
	var b []byte
	if source != metricsSource {
		b, err = r.get(ctx, w, "/v1/loads", timeout, maxLoadAnswer)
		if errors.Is(err, errAbsent) {
			b, err = r.get(ctx, w, "/get_load", timeout, maxLoadAnswer)
		}
	}
	if source == metricsSource || errors.Is(err, errAbsent) {
		read = parseMetrics
		b, err = r.get(ctx, w, "/metrics", timeout, maxMetrics)
	}
	if err != nil {
		if errors.Is(err, errAbsent) {
			w.lostSource()
		}
		return nil, err
	}
	l, err := read(b)
	switch {
	case errors.Is(err, errNoGauges):
		w.lostSource()
	case err == nil && l.Raw == nil:
		w.source.Store(metricsSource)
	case err == nil:
		w.source.Store(loadSource)
	}
	if err != nil {
		return nil, &unreadableError{w, err}
	}
	return l, nil
}

// lostSource notes that w tells its load nowhere. Who has told it before is asked
// on: that it is missing may be a proxy's doing, and pass.
func (w *Worker) lostSource() {
	if w.load.Load() != nil {
		w.source.Store(unknownSource)
		return
	}
	w.source.Store(noSource)
}

// Report makes l w's last report, and finds out whether w is to be vetoed or
// not any more. PollLoad does it with what w answers; a simulation does it
// itself. A report that cannot be true — a number that is negative, infinite,
// none, or larger than any engine's — changes nothing, and Report returns false.
// Of several at once, as when an operator asks too, the last is believed.
func (w *Worker) Report(l *Load) bool {
	if !l.credible() {
		return false
	}
	w.report.Lock()
	defer w.report.Unlock()
	old := w.load.Load()
	l.reported = reported{
		until: l.At.Add(w.reg.stale).UnixNano(), span: int64(w.reg.stale + farAhead),
		Sent: w.Sent(), Started: w.Started(), served: w.Served(), still: l.At,
	}
	if old != nil && l.sameAs(old) && !old.still.After(l.At) {
		l.still = old.still
	}
	w.load.Store(l)
	w.meter.report(l) // who sees that there is a report finds it
	w.judge(l)
	return true
}

// credible reports whether l can be true.
func (l *Load) credible() bool {
	count := func(n int64) bool { return n >= 0 && n <= mostTokens }
	share := func(f float64) bool { return f >= 0 && f <= 1 }
	return count(int64(l.Running)) && count(int64(l.Waiting)) && count(l.WaitingTokens) && count(l.UsedTokens) && count(l.MaxTokens) &&
		share(l.TokenUsage) && share(l.HitRate) && share(l.Utilization) && l.Throughput >= 0 && l.Throughput <= mostTokens
}

// mostTokens is more than any engine counts of anything.
const mostTokens = 1 << 40

// watchLoads asks ready workers for their load until ctx is done.
func (r *Registry) watchLoads(ctx context.Context) {
	p := poller{r: r, places: make(chan struct{}, maxPolls), late: make(chan struct{}, maxLatePolls)}
	defer p.wg.Wait()
	tick := time.NewTicker(r.cfg.LoadInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.round(ctx)
		}
	}
}

// A poller asks workers for their load.
type poller struct {
	r      *Registry
	wg     sync.WaitGroup
	places chan struct{} // holds one value for each question that is out
	late   chan struct{} // likewise, to workers that let the last one time out
}

// round asks every ready worker once, except those that have not answered the
// last question yet. Workers that hang keep nobody waiting: they have places of
// their own.
func (p *poller) round(ctx context.Context) {
	for _, w := range p.r.Snapshot().All {
		if w.Status() != Ready || w.source.Load() == noSource || w.polling.Load() {
			continue
		}
		places := p.places
		if w.late.Load() {
			select {
			case p.late <- struct{}{}:
			default:
				continue // too many of its kind; next time
			}
			places = p.late
		} else {
			select {
			case p.places <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
		w.polling.Store(true)
		p.wg.Go(func() {
			defer func() {
				w.polling.Store(false)
				<-places
			}()
			_, err := p.r.PollLoad(ctx, w)
			if ctx.Err() != nil {
				return
			}
			w.late.Store(err != nil && timedOut(err))
			if err == nil {
				return
			}
			p.r.log.Debug("no load report", "worker", w.base, "err", err)
			if absent(err) || broken(err) {
				w.Suspect()
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
	known, wild := false, false
	for n, k := range ranks {
		for _, name := range []string{"num_running_reqs", "num_reqs", "num_total_reqs", "load"} {
			known = known || k[name] != nil
		}
		for _, name := range countNames {
			f := k.number(name)
			wild = wild || f < 0 || f > mostTokens
		}
		l.add(n, k)
	}
	if !known {
		return nil, errors.New("not a load report: it counts no requests")
	}
	if wild {
		return nil, errors.New("not a load report: a count is negative or absurd")
	}
	n := float64(len(ranks))
	l.TokenUsage, l.HitRate, l.Utilization = l.TokenUsage/n, l.HitRate/n, l.Utilization/n
	return l, nil
}

// countNames are the names of counts in reports.
var countNames = []string{
	"num_running_reqs", "num_waiting_reqs", "num_reqs", "load", "num_waiting_uncached_tokens", "num_used_tokens", "num_tokens", "max_total_num_tokens",
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
	k.UsedTokens, k.maxTokens, k.waitingTokens = int64(used), int64(total), int64(a.count("num_waiting_uncached_tokens"))
	k.utilization = share(a.number("utilization"))
	l.Ranks = append(l.Ranks, k)
	l.WaitingTokens += k.waitingTokens
	l.Running += k.Running
	l.Waiting += k.Waiting
	l.UsedTokens += int64(used)
	l.MaxTokens += int64(total)
	l.Throughput += k.Throughput
	l.TokenUsage += k.TokenUsage
	l.HitRate += k.HitRate
	l.Utilization += k.utilization
}

// share returns f as a share of 1.
func share(f float64) float64 { return min(positive(f), 1) }

func positive(f float64) float64 {
	if !(f > 0) {
		return 0
	}
	return min(f, 1e12)
}
