package route

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/policy"
)

// A Receipt is what is kept of one decision: who was chosen for an attempt, why,
// and what became of it. Tokens are the policy's estimate. 0 is unknown, of
// Blocks that the policy does not look at them.
type Receipt struct {
	Time       time.Time `json:"time"` // of the decision
	Request    string    `json:"request_id"`
	Endpoint   string    `json:"endpoint"`
	Model      string    `json:"model"`
	Stream     bool      `json:"stream"`
	Family     string    `json:"family"`
	Role       string    `json:"role"` // of the worker
	Worker     string    `json:"worker"`
	Policy     string    `json:"policy"`
	Why        string    `json:"why"`
	Considered int       `json:"considered"`
	Try        int       `json:"try"` // which attempt of the request it is, from 1

	Prompt    int64   `json:"prompt_tokens"`
	Uncached  int64   `json:"uncached_tokens"`
	Blocks    int     `json:"blocks"`
	Hit       int     `json:"hit_blocks"`
	Queue     int64   `json:"queue_tokens"`
	Duplicate float64 `json:"duplicate"`
	Decode    float64 `json:"decode"`
	Price     float64 `json:"price"`

	Ended   bool    `json:"ended"` // what follows is known
	Status  int     `json:"status"`
	Error   string  `json:"error,omitempty"` // the code
	TTFT    float64 `json:"ttft_seconds"`    // from the request's arrival
	Took    float64 `json:"took_seconds"`    // from the decision
	Tokens  int64   `json:"input_tokens"`    // as the worker counted them, and the next two
	Cached  int64   `json:"cached_tokens"`
	Outputs int64   `json:"output_tokens"`
}

// A ring is the last receipts. Each core fills pieces of it of its own, so that
// requests share nothing but the count of pieces, which is one atomic add for
// piece decisions. A record has a lock, held for a copy: whoever reads the
// receipts meets one request at most.
type ring struct {
	records []record
	next    atomic.Uint64 // the piece that is free, ever growing
	cursors sync.Pool     // of *cursor
}

// piece is how many records lie together.
const piece = 16

// A cursor is what is left of a piece.
type cursor struct{ next, end uint64 }

// newRing returns a ring of at least n receipts, nil if n is 0.
func newRing(n int) *ring {
	if n == 0 {
		return nil
	}
	r := &ring{records: make([]record, (n+piece-1)/piece*piece)}
	r.cursors.New = func() any { return new(cursor) }
	return r
}

// take returns the record to be used next.
func (r *ring) take() *record {
	c := r.cursors.Get().(*cursor)
	if c.next == c.end {
		c.next = (r.next.Add(1) - 1) * piece % uint64(len(r.records))
		c.end = c.next + piece
	}
	rec := &r.records[c.next]
	c.next++
	r.cursors.Put(c)
	return rec
}

// A record is a Receipt, compact, and used again.
type record struct {
	mu  sync.Mutex
	use uint64 // guarded by mu, as is all that follows; how often it was used, 0 for never

	at       int64 // Unix, ns
	id       string
	model    string
	worker   *fleet.Worker
	policy   string
	place    place
	why      string
	code     string
	prompt   int64
	uncached int64
	queue    int64
	blocks   int32
	hit      int32
	seen     int32
	status   int16
	try      uint8
	endpoint infer.Endpoint
	stream   bool
	ended    bool

	duplicate, decode, price float32
	ttft, took               time.Duration
	tokens                   infer.Tokens
}

// A receipt is who may say what became of a decision.
type receipt struct {
	rec *record // nil for nobody
	use uint64
}

// open begins the receipt of a decision: that l's worker was chosen for r.
func (r *ring) open(l *leg, p *part, req *infer.Request, try int, now time.Time) receipt {
	if r == nil {
		return receipt{}
	}
	rec, c := r.take(), &l.choice
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.use++
	rec.at, rec.id, rec.model, rec.worker, rec.policy, rec.place = now.UnixNano(), req.ID, req.Model, l.lease.Worker(), p.name, p.place
	if len(rec.model) > maxName {
		rec.model = strings.Clone(cut(rec.model)) // clients can invent names that no worker claims
	}
	rec.why, rec.seen, rec.try = c.Why, int32(c.Considered), uint8(min(try, 255))
	rec.prompt, rec.uncached, rec.queue = c.Prompt, c.Uncached, c.Queue
	rec.blocks, rec.hit = int32(c.Blocks), int32(c.Hit)
	rec.duplicate, rec.decode, rec.price = float32(c.Duplicate), float32(c.Decode), float32(c.Price)
	rec.endpoint, rec.stream, rec.ended = req.Endpoint, req.Stream, false
	return receipt{rec, rec.use}
}

// maxName bounds the memory that a client's words take up in a record.
const maxName = 256

// close says what became of the decision. If so many were made since that its
// record is another's, it says nothing.
func (r *receipt) close(w *infer.Reply, err error, now time.Time) {
	rec := r.rec
	if rec == nil {
		return
	}
	status, code := w.Status(), ""
	if err != nil {
		e := infer.AsError(err)
		code = e.Code
		switch {
		case w.Committed():
		case e.Answer != nil:
			status = e.Answer.Status
		default:
			status = e.Status
		}
	}
	r.rec = nil
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.use != r.use {
		return
	}
	rec.ended, rec.status, rec.code = true, int16(status), code
	rec.ttft, rec.took, rec.tokens = w.Served.FirstByte, time.Duration(now.UnixNano()-rec.at), w.Served.Tokens
}

// read returns the record as a Receipt.
func (rec *record) read() (Receipt, bool) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.use == 0 {
		return Receipt{}, false
	}
	out := Receipt{
		Time: time.Unix(0, rec.at).UTC(), Request: rec.id, Endpoint: rec.endpoint.Label(), Model: rec.model, Stream: rec.stream,
		Family: rec.place.family().String(), Role: rec.place.label(), Worker: rec.worker.Base(), Policy: rec.policy,
		Why: rec.why, Considered: int(rec.seen), Try: int(rec.try),
		Prompt: rec.prompt, Uncached: rec.uncached, Blocks: int(rec.blocks), Hit: int(rec.hit), Queue: rec.queue,
		Duplicate: finite(rec.duplicate), Decode: finite(rec.decode), Price: finite(rec.price),
	}
	if rec.ended {
		out.Ended, out.Status, out.Error = true, int(rec.status), rec.code
		out.TTFT, out.Took = rec.ttft.Seconds(), rec.took.Seconds()
		out.Tokens, out.Cached, out.Outputs = rec.tokens.Input, rec.tokens.Cached, rec.tokens.Output
	}
	return out, true
}

// Recent returns the last n receipts that match, newest first. It takes memory for
// twice as many, however many are kept.
func (rt *Router) Recent(n int, match func(*Receipt) bool) []Receipt {
	out := []Receipt{}
	if rt.receipts == nil || n <= 0 {
		return out
	}
	newest := func() {
		slices.SortStableFunc(out, func(a, b Receipt) int { return b.Time.Compare(a.Time) })
		out = out[:min(n, len(out))]
	}
	for i := range rt.receipts.records {
		if r, ok := rt.receipts.records[i].read(); ok && match(&r) {
			if out = append(out, r); len(out) == 2*n {
				newest()
			}
		}
	}
	newest()
	return out
}

// headerRoute tells clients that asked for it how their request was routed.
const headerRoute = "x-sluice-route"

// explain is a decision in one line, for a header.
func explain(p *part, w *fleet.Worker, c *policy.Choice, try int) string {
	b := make([]byte, 0, 256)
	text := func(key, v string) {
		if len(b) > 0 {
			b = append(b, "; "...)
		}
		b = append(append(b, key...), '=')
		for i := range len(v) {
			if ch := v[i]; ch <= ' ' || ch > '~' || ch == ';' {
				b = append(b, '?')
			} else {
				b = append(b, ch)
			}
		}
	}
	number := func(key string, v float64) { text(key, strconv.FormatFloat(v, 'f', -1, 64)) }
	text("worker", w.Base())
	text("role", p.place.label())
	text("policy", p.name)
	text("why", c.Why)
	number("considered", float64(c.Considered))
	number("try", float64(try))
	if c.Prompt > 0 {
		number("prompt", float64(c.Prompt))
		number("uncached", float64(c.Uncached))
	}
	if c.Blocks > 0 {
		text("hit", strconv.Itoa(c.Hit)+"/"+strconv.Itoa(c.Blocks))
	}
	if c.Price != 0 {
		number("queue", float64(c.Queue))
		number("duplicate", round(c.Duplicate))
		number("decode", round(c.Decode))
		number("price", round(c.Price))
	}
	return string(b)
}

// round leaves a digit behind the point.
func round(v float64) float64 { return math.Round(v*10) / 10 }

// finite is v for JSON, which has no infinity.
func finite(v float32) float64 {
	if f := float64(v); !math.IsInf(f, 0) && !math.IsNaN(f) {
		return f
	}
	return 0
}
