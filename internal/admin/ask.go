package admin

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	dto "github.com/prometheus/client_model/go"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/secret"
)

const (
	askTimeout = 10 * time.Second // for one worker's answer
	askAtOnce  = 32               // workers asked at the same time
	maxTold    = 4 << 20          // of one worker's answer
)

// ask passes a GET on to a worker that is ready: the first that can be reached.
// The further paths are newer engines' names for the same question.
func (a *Admin) ask(paths ...string) infer.Handler {
	return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		ready := a.fleet.Snapshot().Ready
		if len(ready) == 0 {
			return &infer.Error{Status: http.StatusServiceUnavailable, Code: "no_workers", Msg: "No worker is ready.", RetryAfter: 2 * time.Second}
		}
		var err error
		for _, wk := range ready[:min(len(ready), 3)] {
			var t told
			for _, p := range paths {
				if t, err = a.tell(ctx, wk, http.MethodGet, p, r.ID); err != nil || t.status != http.StatusNotFound {
					break
				}
			}
			if err == nil {
				return w.Send(t.status, t.contentType, hide(t.body, wk))
			}
			if ctx.Err() != nil {
				break // the client has left, which says nothing of the worker
			}
			wk.Suspect()
		}
		return &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_connection_failed", Msg: "No worker could be reached.", Err: err}
	})
}

// keyField finds what engines call their secrets: SGLang's /get_server_info
// tells its whole command line, once more within internal_states.
var keyField = regexp.MustCompile(`(?i)("[a-z_]*(?:api_key|password|secret|auth_token|access_token|hf_token)"\s*:\s*)"(?:[^"\\]|\\.)*"`)

// minKey is how long a worker's key must be to be looked for: shorter ones
// stand in other words by chance.
const minKey = 8

// hide returns what wk told without the secrets in it.
func hide(body []byte, wk *fleet.Worker) []byte {
	if key := wk.Info().APIKey.Reveal(); len(key) >= minKey {
		body = bytes.ReplaceAll(body, []byte(key), []byte(secret.Mask))
	}
	return keyField.ReplaceAll(body, []byte(`$1"`+secret.Mask+`"`))
}

// told is what a worker answered.
type told struct {
	status      int
	contentType string
	body        []byte
}

// tell sends one request without a body to wk.
func (a *Admin) tell(ctx context.Context, wk *fleet.Worker, method, path, id string) (told, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := wk.Request(ctx, method, path)
	if err != nil {
		return told{}, err
	}
	if auth := wk.Authorization(); auth != "" {
		req.Header.Set("Authorization", auth)
	}
	req.Header.Set("X-Request-Id", id)
	res, err := a.client.Do(req)
	if err != nil {
		return told{}, err
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode/100 == 3 {
		return told{}, fmt.Errorf("the worker answered %s with status %d, which is not passed on", path, res.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxTold+1))
	if err != nil {
		return told{}, fmt.Errorf("reading the answer to %s: %w", path, err)
	}
	if len(b) > maxTold {
		return told{}, fmt.Errorf("the answer to %s is over %d bytes", path, maxTold)
	}
	ct := res.Header.Get("Content-Type")
	if ct == "" {
		ct = "application/octet-stream"
	}
	return told{res.StatusCode, ct, b}, nil
}

// each calls f for every worker, a bounded number at once, and waits.
func each(ws []*fleet.Worker, f func(i int, w *fleet.Worker)) {
	var wg sync.WaitGroup
	places := make(chan struct{}, askAtOnce)
	for i, w := range ws {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			f(i, w)
		})
	}
	wg.Wait()
}

// engines returns one worker of each engine: its data-parallel ranks are asked
// and told at one address.
func engines(ws []*fleet.Worker) []*fleet.Worker {
	seen := make(map[string]bool, len(ws))
	one := make([]*fleet.Worker, 0, len(ws))
	for _, w := range ws {
		if !seen[w.Root()] {
			seen[w.Root()] = true
			one = append(one, w)
		}
	}
	return one
}

// flushCache tells every engine to forget its prefixes.
func (a *Admin) flushCache(ctx context.Context, r *infer.Request, w *infer.Reply) error {
	workers := a.fleet.Snapshot().All
	ranks := make(map[string][]*fleet.Worker) // by engine
	for _, wk := range workers {
		ranks[wk.Root()] = append(ranks[wk.Root()], wk)
	}
	all := engines(workers)
	errs := make([]string, len(all))
	each(all, func(i int, wk *fleet.Worker) {
		switch t, err := a.tell(ctx, wk, http.MethodPost, "/flush_cache", r.ID); {
		case err != nil:
			errs[i] = "the worker could not be reached"
		case t.status/100 != 2:
			errs[i] = fmt.Sprintf("the worker answered %d", t.status)
		default:
			for _, rank := range ranks[wk.Root()] {
				rank.Forgot()
			}
		}
	})
	type failure struct {
		Worker string `json:"worker"`
		Error  string `json:"error"`
	}
	out := struct {
		Status     string    `json:"status"`
		Message    string    `json:"message"`
		Flushed    int       `json:"workers_flushed"`
		HTTP       int       `json:"total_http_workers"`
		GRPC       int       `json:"total_grpc_workers"`
		ZMQ        int       `json:"total_zmq_workers_skipped"`
		Total      int       `json:"total_workers"`
		Successful []string  `json:"successful,omitempty"`
		Failed     []failure `json:"failed,omitempty"`
	}{Status: "success", HTTP: len(all), Total: len(all)}
	var done []string
	for i, wk := range all {
		if errs[i] == "" {
			done = append(done, wk.Root())
		} else {
			out.Failed = append(out.Failed, failure{wk.Root(), errs[i]})
		}
	}
	out.Flushed = len(done)
	status := http.StatusOK
	out.Message = fmt.Sprintf("Successfully flushed cache on all %d workers", len(all))
	if len(out.Failed) > 0 {
		status = http.StatusPartialContent
		out.Status, out.Successful = "partial_success", done
		out.Message = fmt.Sprintf("Cache flush: %d succeeded, %d failed", len(done), len(out.Failed))
	}
	return sendJSON(w, status, out)
}

// load is one worker in GET /get_loads: one rank of an engine, or a whole one,
// as rank 0.
type load struct {
	Worker      string  `json:"worker"`
	WorkerType  string  `json:"worker_type"`
	Rank        int     `json:"dp_rank"`
	Running     int     `json:"num_running_reqs"`
	Waiting     int     `json:"num_waiting_reqs"`
	Total       int     `json:"num_total_reqs"`
	UsedTokens  int64   `json:"num_used_tokens"`
	MaxTokens   int64   `json:"max_total_num_tokens"`
	TokenUsage  float64 `json:"token_usage"`
	Throughput  float64 `json:"gen_throughput"`
	HitRate     float64 `json:"cache_hit_rate"`
	Utilization float64 `json:"utilization"`
}

// loads asks every worker how busy it is. A worker that does not say is left
// out of the list, but counted in unknown.
func (a *Admin) loads(ctx context.Context, _ *infer.Request, w *infer.Reply) error {
	all := a.fleet.Snapshot().All
	got := make([]*fleet.Load, len(all))
	each(all, func(i int, wk *fleet.Worker) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		if l, err := a.fleet.PollLoad(ctx, wk); err == nil {
			got[i] = l
		}
	})
	out := struct {
		Timestamp string `json:"timestamp"`
		Version   string `json:"version"`
		Ranks     int    `json:"dp_rank_count"`
		Unknown   int    `json:"unknown_workers"`
		Loads     []load `json:"loads"`
		Aggregate struct {
			Running     int     `json:"total_running_reqs"`
			Waiting     int     `json:"total_waiting_reqs"`
			Total       int     `json:"total_reqs"`
			TokenUsage  float64 `json:"avg_token_usage"`
			Throughput  float64 `json:"avg_throughput"`
			Utilization float64 `json:"avg_utilization"`
		} `json:"aggregate"`
	}{Timestamp: time.Now().UTC().Format(time.RFC3339Nano), Version: a.version, Loads: []load{}}
	for i, l := range got {
		if l == nil {
			out.Unknown++
			continue
		}
		rank, _ := all[i].Rank()
		out.Ranks = max(out.Ranks, len(l.Ranks), rank+1)
		out.Loads = append(out.Loads, load{
			Worker: all[i].Base(), WorkerType: all[i].Info().Role.String(), Rank: rank, Running: l.Running, Waiting: l.Waiting,
			Total: l.Running + l.Waiting, UsedTokens: l.UsedTokens, MaxTokens: l.MaxTokens, TokenUsage: l.TokenUsage,
			Throughput: l.Throughput, HitRate: l.HitRate, Utilization: l.Utilization,
		})
	}
	g := &out.Aggregate
	for _, l := range out.Loads {
		g.Running += l.Running
		g.Waiting += l.Waiting
		g.Total += l.Total
		g.TokenUsage += l.TokenUsage / float64(len(out.Loads))
		g.Throughput += l.Throughput / float64(len(out.Loads))
		g.Utilization += l.Utilization / float64(len(out.Loads))
	}
	return sendJSON(w, http.StatusOK, out)
}

// engineMetrics merges the workers' own metrics; the label worker_addr says
// whose each is.
func (a *Admin) engineMetrics(ctx context.Context, r *infer.Request, w *infer.Reply) error {
	ready := engines(a.fleet.Snapshot().Ready)
	if len(ready) == 0 {
		return &infer.Error{Status: http.StatusServiceUnavailable, Code: "no_workers", Msg: "No worker is ready.", RetryAfter: 2 * time.Second}
	}
	texts := make([][]byte, len(ready))
	each(ready, func(i int, wk *fleet.Worker) {
		if t, err := a.tell(ctx, wk, http.MethodGet, "/metrics", r.ID); err == nil && t.status == http.StatusOK {
			texts[i] = t.body
		}
	})
	merged := make(map[string]*dto.MetricFamily)
	read := 0
	for i, b := range texts {
		if b != nil && merge(merged, ready[i].Root(), b) == nil {
			read++
		}
	}
	if read == 0 {
		return &infer.Error{Status: http.StatusBadGateway, Code: "engine_metrics_failed", Msg: "No worker told its metrics."}
	}
	names := make([]string, 0, len(merged))
	for n := range merged {
		names = append(names, n)
	}
	slices.Sort(names)
	var out bytes.Buffer
	for _, n := range names {
		if _, err := expfmt.MetricFamilyToText(&out, merged[n]); err != nil {
			return fmt.Errorf("writing metric %s: %w", n, err)
		}
	}
	return w.Send(http.StatusOK, "text/plain; charset=utf-8", out.Bytes())
}

// merge adds what one worker told to all. A metric that an earlier worker told
// with another type is left out: two types under one name cannot be written.
func merge(all map[string]*dto.MetricFamily, worker string, text []byte) error {
	p := expfmt.NewTextParser(model.UTF8Validation)
	fams, err := p.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		return fmt.Errorf("reading metrics: %w", err)
	}
	key := "worker_addr"
	for name, f := range fams {
		for _, m := range f.Metric {
			m.Label = slices.DeleteFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == key }) // of a gateway behind this one
			m.Label = append(m.Label, &dto.LabelPair{Name: &key, Value: &worker})
		}
		switch have := all[name]; {
		case have == nil:
			all[name] = f
		case have.GetType() == f.GetType():
			have.Metric = append(have.Metric, f.Metric...)
		}
	}
	return nil
}
