package sim

import (
	"math"
	"slices"
	"time"
)

// A Result is what a replay came to.
type Result struct {
	Trace    string  `json:"trace,omitempty"`
	Workers  int     `json:"workers"`
	KVTokens int     `json:"kv_tokens"`
	Speed    float64 `json:"speed"`
	Gateways int     `json:"gateways"`
	Seed     int64   `json:"seed"`
	SLO      float64 `json:"slo_s,omitempty"`
	Copies   int     `json:"copies,omitempty"` // of the trace that came at once; 0 for sessions
	Requests int     `json:"requests"`
	Time     float64 `json:"time_s"` // from the first arrival to the last
	Input    float64 `json:"input_tokens_mean"`
	Output   float64 `json:"output_tokens_mean"`
	Rows     []Row   `json:"rows"`
}

// A Row is what became of the requests under one policy. Times are in seconds.
// Only requests that came after the warm-up count, but for the imbalances and
// Busy.
type Row struct {
	Policy     string  `json:"policy"`
	Requests   int     `json:"requests"`
	Refused    int     `json:"refused"`    // the policy let nobody serve them; in no other figure
	Unfinished int     `json:"unfinished"` // when the simulation was cut off
	Hit        float64 `json:"hit"`        // share of prompt tokens that were in the cache

	// The time to the first token. What had none when the simulation was cut
	// off counts with the time that it had waited.
	TTFTMean float64 `json:"ttft_mean_s"`
	TTFTP50  float64 `json:"ttft_p50_s"`
	TTFTP90  float64 `json:"ttft_p90_s"`
	TTFTP99  float64 `json:"ttft_p99_s"`

	E2EP50  float64 `json:"e2e_p50_s"` // of whole answers
	E2EP99  float64 `json:"e2e_p99_s"`
	TPOTP50 float64 `json:"tpot_p50_s"` // time per token after the first
	TPOTP99 float64 `json:"tpot_p99_s"`

	Imbalance float64   `json:"imbalance"`          // the prompt tokens that the busiest engine computed, by the mean
	ImbReqs   float64   `json:"imbalance_requests"` // likewise of requests
	Busy      float64   `json:"busy"`               // share of the time until the last arrival that engines worked; above 1 if they went on
	Rate      float64   `json:"requests_per_s_worker"`
	Capacity  *Capacity `json:"capacity,omitempty"`

	curve []float64 // the time to the first token at even shares of the requests, to draw
}

// A Capacity is the greatest load at which first tokens came in time; all zero
// if they never did.
type Capacity struct {
	Speed   float64 `json:"speed"`
	Rate    float64 `json:"requests_per_s_worker"`
	TTFTP90 float64 `json:"ttft_p90_s"`
	Hit     float64 `json:"hit"`
}

func newResult(cfg *Config, w *workload, rows []Row) *Result {
	r := &Result{
		Workers: cfg.Workers, KVTokens: cfg.KVTokens, Speed: cfg.Speed, Gateways: cfg.Gateways, Seed: cfg.Seed, SLO: cfg.SLO.Seconds(),
		Copies: w.copies, Requests: len(w.requests), Time: w.last.Seconds(), Rows: rows,
	}
	for i := range w.requests {
		r.Input += float64(w.requests[i].input)
		r.Output += float64(w.requests[i].output)
	}
	r.Input /= float64(len(w.requests))
	r.Output /= float64(len(w.requests))
	return r
}

// curvePoints is how many points a curve has.
const curvePoints = 240

// row sums the simulation up.
func (s *simulation) row(label string) Row {
	row := Row{Policy: label}
	warm := time.Duration(float64(s.w.last) * s.cfg.Warmup)
	var first, whole, token []float64
	var asked, found int64
	for n := range s.records {
		r, q := &s.records[n], &s.w.requests[n]
		if r.state == unsent || r.sent < warm || r.sent > s.w.last {
			continue
		}
		row.Requests++
		if r.state == refused {
			row.Refused++
			continue
		}
		if r.state == running {
			row.Unfinished++
		}
		if r.first == 0 {
			first = append(first, (s.now - r.sent).Seconds())
			continue
		}
		asked += int64(q.input)
		found += int64(r.cached)
		first = append(first, (r.first - r.sent).Seconds())
		if r.state == answered {
			whole = append(whole, (r.end - r.sent).Seconds())
			if q.output > 1 {
				token = append(token, (r.end-r.first).Seconds()/float64(q.output-1))
			}
		}
	}
	slices.Sort(first)
	slices.Sort(whole)
	slices.Sort(token)
	for _, t := range first {
		row.TTFTMean += t / float64(len(first))
	}
	row.Hit = ratio(float64(found), float64(asked))
	row.TTFTP50, row.TTFTP90, row.TTFTP99 = at(first, .5), at(first, .9), at(first, .99)
	row.E2EP50, row.E2EP99, row.TPOTP50, row.TPOTP99 = at(whole, .5), at(whole, .99), at(token, .5), at(token, .99)
	if len(first) > 0 {
		row.curve = make([]float64, curvePoints+1)
		for i := range row.curve {
			row.curve[i] = at(first, float64(i)/curvePoints)
		}
	}
	row.Rate = ratio(float64(row.Requests), (s.w.last-warm).Seconds()*float64(len(s.engines)))
	s.balance(&row)
	return row
}

// balance tells how evenly the engines worked.
func (s *simulation) balance(row *Row) {
	var prefilled, most, served, mostServed, worked float64
	for _, e := range s.engines {
		prefilled += float64(e.prefilled)
		served += float64(e.served)
		worked += e.worked.Seconds()
		most, mostServed = max(most, float64(e.prefilled)), max(mostServed, float64(e.served))
	}
	n := float64(len(s.engines))
	row.Imbalance, row.ImbReqs = ratio(most*n, prefilled), ratio(mostServed*n, served)
	row.Busy = ratio(worked, n*s.w.last.Seconds())
}

// at returns the value that a share p of sorted are not above, by the nearest
// rank; 0 if there are none.
func at(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(math.Round(p*float64(len(sorted)-1)))]
}

// ratio is 0 where there is nothing to divide by.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
