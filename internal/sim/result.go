package sim

import (
	"encoding/json"
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

// A Figure is what was measured: NaN, in JSON null, if there was nothing to.
type Figure float64

// none is the Figure of nothing. It is no zero, which would be the best there is.
var none = Figure(math.NaN())

func (f Figure) known() bool { return !math.IsNaN(float64(f)) }

// MarshalJSON returns a number, or null.
func (f Figure) MarshalJSON() ([]byte, error) {
	if !f.known() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(f))
}

// A Row is what became of the requests under one policy. Times are in seconds.
// Only requests that came after the warm-up count, but for the imbalances and
// Busy.
type Row struct {
	Policy     string `json:"policy"`
	Requests   int    `json:"requests"`
	Refused    int    `json:"refused"`    // the policy let nobody serve them; in no other figure
	Unfinished int    `json:"unfinished"` // when the simulation was cut off
	Hit        Figure `json:"hit"`        // share of prompt tokens that were in the cache

	// The time to the first token. What had none when the simulation was cut
	// off counts with the time that it had waited.
	TTFTMean Figure `json:"ttft_mean_s"`
	TTFTP50  Figure `json:"ttft_p50_s"`
	TTFTP90  Figure `json:"ttft_p90_s"`
	TTFTP99  Figure `json:"ttft_p99_s"`

	// The time of whole answers. What had not ended when the simulation was cut
	// off counts with the time that it had taken until then.
	E2EP50 Figure `json:"e2e_p50_s"`
	E2EP99 Figure `json:"e2e_p99_s"`

	// The time per token after the first. What had not ended counts with the
	// tokens that it had.
	TPOTP50 Figure `json:"tpot_p50_s"`
	TPOTP99 Figure `json:"tpot_p99_s"`

	Imbalance Figure    `json:"imbalance"`          // the prompt tokens that the busiest engine computed, by the mean
	ImbReqs   Figure    `json:"imbalance_requests"` // likewise of requests
	Busy      Figure    `json:"busy"`               // share of the time until the last arrival that engines worked; above 1 if they went on
	Rate      float64   `json:"requests_per_s_worker"`
	Capacity  *Capacity `json:"capacity,omitempty"`

	curve []float64 // the time to the first token at even shares of the requests, to draw
}

// A Capacity is the greatest load at which first tokens came in time; all zero
// if they never did.
type Capacity struct {
	Speed   float64 `json:"speed"`
	Rate    float64 `json:"requests_per_s_worker"`
	TTFTP90 Figure  `json:"ttft_p90_s"`
	Hit     Figure  `json:"hit"`
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
	end := s.over()
	var first, whole, token []float64
	var asked, found int64
	for n := range s.records {
		r, q := &s.records[n], &s.w.requests[n]
		if r.state == unsent || !s.counts(r) {
			continue
		}
		row.Requests++
		if r.state == refused {
			row.Refused++
			continue
		}
		if r.state == running {
			row.Unfinished++
			whole = append(whole, (end - r.sent).Seconds())
		}
		if r.first == 0 {
			first = append(first, (end - r.sent).Seconds())
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
	token = s.paces(token, end)
	slices.Sort(first)
	slices.Sort(whole)
	slices.Sort(token)
	mean := 0.0
	for _, t := range first {
		mean += t / float64(len(first))
	}
	if row.TTFTMean = none; len(first) > 0 {
		row.TTFTMean = Figure(mean)
	}
	row.Hit = ratio(float64(found), float64(asked))
	row.TTFTP50, row.TTFTP90, row.TTFTP99 = at(first, .5), at(first, .9), at(first, .99)
	row.E2EP50, row.E2EP99, row.TPOTP50, row.TPOTP99 = at(whole, .5), at(whole, .99), at(token, .5), at(token, .99)
	if len(first) > 0 {
		row.curve = make([]float64, curvePoints+1)
		for i := range row.curve {
			row.curve[i] = float64(at(first, float64(i)/curvePoints))
		}
	}
	if span := (s.w.last - s.warm()).Seconds(); span > 0 {
		row.Rate = float64(row.Requests) / (span * float64(len(s.engines)))
	}
	s.balance(&row, end)
	return row
}

// over returns when the simulation ended: where it was cut off, if something was
// to come.
func (s *simulation) over() time.Duration {
	if s.events.len() > 0 {
		return s.limit
	}
	return s.now
}

func (s *simulation) warm() time.Duration {
	return time.Duration(float64(s.w.last) * s.cfg.Warmup)
}

// counts reports whether figures count a request that was sent.
func (s *simulation) counts(r *record) bool { return r.sent >= s.warm() && r.sent <= s.w.last }

// paces appends the times per token of the answers that were being written at
// end, each with the token that its engine was at.
func (s *simulation) paces(dst []float64, end time.Duration) []float64 {
	for _, e := range s.engines {
		for _, r := range e.writing {
			if s.counts(&s.records[r.request]) {
				steps := int((end-e.begun)/e.each) + 1
				until := e.begun + time.Duration(steps)*e.each
				dst = append(dst, (until-r.first).Seconds()/float64(r.answered-1+steps))
			}
		}
	}
	return dst
}

// balance tells how evenly the engines worked.
func (s *simulation) balance(row *Row, end time.Duration) {
	var prefilled, most, served, mostServed, worked float64
	for _, e := range s.engines {
		prefilled += float64(e.prefilled)
		served += float64(e.served)
		if worked += e.worked.Seconds(); e.busy {
			worked += (end - e.begun).Seconds()
		}
		most, mostServed = max(most, float64(e.prefilled)), max(mostServed, float64(e.served))
	}
	n := float64(len(s.engines))
	row.Imbalance, row.ImbReqs = ratio(most*n, prefilled), ratio(mostServed*n, served)
	row.Busy = ratio(worked, n*s.w.last.Seconds())
}

// at returns the value that a share p of sorted are not above, by the nearest
// rank; none if there are none.
func at(sorted []float64, p float64) Figure {
	if len(sorted) == 0 {
		return none
	}
	return Figure(sorted[int(math.Round(p*float64(len(sorted)-1)))])
}

// ratio is none where there is nothing to divide by.
func ratio(a, b float64) Figure {
	if b == 0 {
		return none
	}
	return Figure(a / b)
}
