package policy

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/blocks"
)

// CostConfig says what the policy cost reckons with.
type CostConfig struct {
	Duplicate  float64 `yaml:"duplicate_price" flag:"cost-duplicate-price" help:"what computing a token costs that another worker has in its cache, if a new token costs 1; 1 makes no difference between them"`
	Popular    float64 `yaml:"popular_hits" flag:"cost-popular-hits" help:"requests within about two minutes that a part of a prompt may get for each worker that has it before having it on another worker becomes cheaper"`
	Memory     int     `yaml:"index_memory_mib" flag:"cost-index-memory-mib" help:"most memory for what is remembered of prompts, of all models together, in MiB: 50 bytes for each 512 of a prompt, fewer for long ones"`
	KVTokens   int     `yaml:"kv_tokens" flag:"cost-kv-tokens" help:"tokens that a worker's KV cache is thought to hold if it does not say"`
	KVFull     float64 `yaml:"kv_full" flag:"cost-kv-full" help:"used part of the KV cache from which a worker with waiting requests gets no more while others may; 0 for no limit"`
	MaxWaiting int     `yaml:"max_waiting_requests" flag:"cost-max-waiting-requests" help:"waiting requests from which a worker gets no more while others may; 0 for no limit"`
}

// DefaultCostConfig returns the values that simulations of recorded traffic
// showed to be good, and not to matter much. There are no limits by report: who
// waits in a worker is priced at once, and a report is seconds old when it is gone
// by. In a full fleet a limit of 0.95 made first tokens a quarter to twice as late,
// as prompts were computed where they had not been before.
func DefaultCostConfig() CostConfig {
	return CostConfig{Duplicate: 5, Popular: 4, Memory: 256, KVTokens: 500_000}
}

// Validate reports everything that is wrong with c.
func (c CostConfig) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !(c.Duplicate >= 1 && c.Duplicate <= 1000) {
		bad("cost-duplicate-price %v is not between 1 and 1000", c.Duplicate)
	}
	if !(c.Popular > 0 && c.Popular <= maxTuning) {
		bad("cost-popular-hits %v is not above 0 and at most 1e9", c.Popular)
	}
	if c.Memory < 1 || c.Memory > 1<<20 {
		bad("cost-index-memory-mib %d is not between 1 and %d", c.Memory, 1<<20)
	}
	if c.KVTokens < 1 || c.KVTokens > maxTuning {
		bad("cost-kv-tokens %d is not between 1 and 1e9", c.KVTokens)
	}
	if !(c.KVFull >= 0 && c.KVFull <= 1) {
		bad("cost-kv-full %v is not between 0 and 1", c.KVFull)
	}
	if c.MaxWaiting < 0 {
		bad("cost-max-waiting-requests %d is negative", c.MaxWaiting)
	}
	return errors.Join(errs...)
}

const (
	// scoreAll is the size of fleet up to which every worker is priced. Of a
	// larger one it is those that have most of the prompt, and others drawn by
	// chance, so that a decision costs the same in any fleet.
	scoreAll     = 64
	scoreHolders = 64
	scoreOthers  = 32

	// longestPrompt is how many blocks of a prompt are looked at: 2 MiB, half a
	// million tokens. What comes after is priced as new.
	longestPrompt = 4096

	// What a token that is generated costs the other requests of its worker, in
	// tokens of a prompt: for each of them, and for each token of their prompts. A
	// step of a 70B-class engine takes 40 µs more for each sequence and 15 ns for
	// each token of context, while it computes 13 prompt tokens a millisecond. On
	// other machines all three change alike; ten times as much or a third of it
	// changes the times to first tokens by less than 8 %.
	slowPerRequest = 0.52
	slowPerToken   = 0.0002
	slowFactor     = 2 // a request lasts on average as long again as it has lasted

	// spread is how many times Popular a beginning must be asked for before
	// computing it on one more worker becomes cheaper than it is: it is an
	// investment then. Without it what all prompts begin with stays on a few
	// workers while there is room there, and the sessions with it.
	spread = 4

	// crowded is how much dearer duplicates become, at most, when requests wait
	// everywhere: then whatever is computed twice is waited for by all of them.
	crowded = 2
)

// cost gives a request to the worker on which it costs the fleet least, in tokens
// of prompts to compute:
//
//	what was sent to it and has not been answered yet (Choice.Queue)
//	+ what it has to compute of this prompt (Uncached)
//	+ again, several times, what another worker has of that (Duplicate)
//	+ how much the answer will slow down the requests that it runs (Decode)
//
// A prompt's beginnings are looked up in an index of what was sent where. Computing
// what another worker has is not only slow, it takes cache from others, so it
// costs more than its time, and the more the longer the shortest queue is; but a
// beginning that many ask for may be on many workers. Sessions stay where they are
// because of their price, not of a header.
type cost struct {
	cfg     CostConfig
	dice    dice
	index   *blocks.Index
	known   known
	learned learned
}

func newCost(s *Settings) *cost {
	budget := s.Prefixes
	if budget == nil {
		budget = NewPrefixes(s.Cost)
	}
	p := &cost{cfg: s.Cost, dice: s.dice(), index: blocks.NewIndex(budget)}
	p.learned.begin()
	s.Metrics.indexes(budget)
	return p
}

// PricesLoad implements LoadPricer: what waits in a worker is part of its price,
// and who is full is passed over.
func (p *cost) PricesLoad() bool { return true }

// TakesText implements TextTaker.
func (p *cost) TakesText() bool { return true }

// NewPrefixes returns the memory for what all policies that are made with c
// remember of prompts.
func NewPrefixes(c CostConfig) *blocks.Budget { return blocks.NewBudget(int64(c.Memory) << 20) }

// A costPicker prices the workers of one table.
type costPicker struct {
	*cost
	ws      []*fleet.Worker
	meters  []*fleet.Meter // of ws, each
	members []*costMember  // likewise
	at      []int32        // by slot, where in ws; -1 for none
}

// A candidate is a worker that is priced.
type candidate struct {
	at   int32 // in ws
	part int32 // the segment that ends what it has of the prompt, -1 if it has nothing
}

// Pick implements Picker.
func (p *costPicker) Pick(r *infer.Request, c *Choice) *fleet.Worker {
	p.read(r, c)
	sh := sheets.Get().(*sheet)
	defer sheets.Put(sh)
	b := &sh.bill
	start := p.dice.uint32()
	want := scoreHolders
	if len(p.ws) <= scoreAll {
		want = blocks.MaxHeld // some may be away
	}
	p.index.Lookup(c.Keys, indexTime(r.Received), want, start, &b.match)
	cs := p.candidates(sh.room[:0], &b.match, start)
	p.open(b, c, cs)
	i := p.cheapest(b, cs, r.Received.UnixNano(), int(uint64(start)*uint64(len(cs))>>32))
	for cs[i].part >= 0 && !p.holds(cs[i].at) {
		// It has lost its cache. It was asked last, because that takes a look at
		// five places, of which a popular prompt's holders have as many each. Who
		// has less costs more, so nobody has lost to it who should not have.
		cs[i].part = -1
		i = p.cheapest(b, cs, r.Received.UnixNano(), int(uint64(start)*uint64(len(cs))>>32))
	}
	w := p.ws[cs[i].at]
	c.Considered = len(cs)
	if b.enter(c, w, cs[i].part); c.Hit > 0 {
		c.Why = "hit"
	} else {
		c.Why = "cheapest"
	}
	return w
}

// read finds out what r's prompt is. If it was left with the client or has no
// text, only its length is known, or not even that.
func (p *costPicker) read(r *infer.Request, c *Choice) {
	c.Keys, c.bytes = c.Keys[:0], 0
	ratio := p.learned.bytesPerToken()
	if text := r.Text(); len(text) > 0 {
		c.bytes = len(text)
		c.Keys = blocks.AppendKeys(c.Keys, text, blocks.Seed(r.Model), longestPrompt)
		c.Prompt = max(int64(float64(len(text))/ratio), 1)
	} else if n := r.BodyLength(); n >= 0 {
		c.Prompt = max(int64(float64(n)/ratio), 1)
	} else {
		c.Prompt = p.learned.meanPrompt()
	}
	c.Blocks = len(c.Keys)
}

// candidates appends those who are to be priced to dst.
func (p *costPicker) candidates(dst []candidate, m *blocks.Match, start uint32) []candidate {
	if len(p.ws) <= scoreAll {
		for i := range p.ws {
			dst = append(dst, candidate{int32(i), -1})
		}
		for _, h := range m.Held() {
			if i := p.find(h.Slot); i >= 0 {
				dst[i].part = h.Part
			}
		}
		return dst
	}
	var seen [64]uint64 // of places modulo 4,096
	for _, h := range m.Held() {
		if i := p.find(h.Slot); i >= 0 {
			dst = append(dst, candidate{i, h.Part})
			seen[i>>6&63] |= 1 << (i & 63)
		}
	}
	// A random one, and others at a random distance from each other: as good as
	// if each were drawn.
	n := len(p.ws)
	i := int(uint64(start) * uint64(n) >> 32)
	step := 1 + p.dice.below(n-1)
	for range scoreOthers {
		if seen[i>>6&63]>>(i&63)&1 == 0 {
			dst = append(dst, candidate{int32(i), -1})
		}
		if i += step; i >= n {
			i -= n
		}
	}
	if len(dst) == 0 {
		dst = append(dst, candidate{int32(i), -1})
	}
	return dst
}

// find returns where the worker is that has slot, -1 if it is none of ws.
func (p *costPicker) find(slot int32) int32 {
	if int(slot) >= len(p.at) {
		return -1
	}
	return p.at[slot]
}

// holds reports whether what the index says of ws[i] is of its present cache.
func (p *costPicker) holds(i int32) bool {
	m, w := p.members[i], p.ws[i]
	return m.epoch.Load() == w.Epoch() && m.era.Load() == p.index.Era(w.Slot())
}

// cheapest returns which of cs costs least, the first such from start on. Workers
// that are full count only if all are.
func (p *costPicker) cheapest(b *bill, cs []candidate, now int64, start int) int {
	best, least := -1, math.Inf(1)
	full, leastFull := start, math.Inf(1)
	for range cs {
		at := cs[start].at
		price := b.price(p.meters[at], cs[start].part)
		switch {
		case price < least && p.takes(p.ws[at], now):
			best, least = start, price
		case price < leastFull:
			full, leastFull = start, price
		}
		if start++; start == len(cs) {
			start = 0
		}
	}
	if best < 0 {
		return full
	}
	return best
}

// takes reports whether w, by its last report if that is to be believed, has room
// for another request.
func (p *costPicker) takes(w *fleet.Worker, now int64) bool {
	l := w.BelievedAt(now)
	if l == nil || l.Waiting <= 0 {
		return true
	}
	return !(p.cfg.KVFull > 0 && l.TokenUsage >= p.cfg.KVFull || p.cfg.MaxWaiting > 0 && l.Waiting >= p.cfg.MaxWaiting)
}

// A bill is what one request costs on any worker.
type bill struct {
	prompt     float64
	block      float64 // tokens of a block
	perRequest float64
	perToken   float64
	match      blocks.Match
	beyond     [blocks.MaxSegments + 1]float64 // what computing all after a segment costs beside its time, which may be less than nothing; at the end, what all does
}

// A sheet is what a decision writes on. It is too large for the stack of a
// goroutine that goes on to relay a stream, and would keep its larger stack.
type sheet struct {
	bill
	room [scoreHolders + scoreOthers]candidate
}

var sheets = sync.Pool{New: func() any { return new(sheet) }}

// open begins the bill of the request that c tells of, for one of cs.
func (p *costPicker) open(b *bill, c *Choice, cs []candidate) {
	out := slowFactor * p.learned.answerTokens()
	b.prompt, b.block = float64(c.Prompt), blocks.Size/p.learned.bytesPerToken()
	b.perRequest, b.perToken = out*slowPerRequest, out*slowPerToken
	segments := b.match.Segments()
	if len(segments) == 0 {
		return
	}
	extra := p.cfg.Duplicate*p.crowding(cs) - 1
	for i, s := range segments {
		begin := int32(0)
		if i+1 < len(segments) {
			begin = segments[i+1].End
		}
		rare := 1.0 // 0 for what everybody asks for
		if have := p.cfg.Popular * float64(s.Holders); have < float64(s.Hits) {
			rare = have / float64(s.Hits)
		}
		invested := 1 - min(1, spread*rare) // of the time that computing takes, which is part of every price
		b.beyond[i+1] = b.beyond[i] + (extra*rare-invested)*b.block*float64(s.End-begin)
	}
}

// crowding returns how many times dearer duplicates are because of the queues of
// cs: once more for each prompt of the mean length that waits in the shortest.
func (p *costPicker) crowding(cs []candidate) float64 {
	least := int64(math.MaxInt64)
	for _, k := range cs {
		least = min(least, p.meters[k.at].Prefill())
	}
	return 1 + min(crowded, float64(max(least, 0))/float64(max(p.learned.meanPrompt(), 1)))
}

// uncached returns how many tokens have to be computed by who has the first hit
// blocks.
func (b *bill) uncached(hit int32) float64 { return max(b.prompt-float64(hit)*b.block, 1) }

// share returns how many blocks who has part has, and what it costs that it has
// no more.
func (b *bill) share(part int32) (hit int32, duplicate float64) {
	if part < 0 {
		return 0, b.beyond[len(b.match.Segments())]
	}
	return b.match.Segments()[part].End, b.beyond[part]
}

// price returns what the request costs on the worker of m.
func (b *bill) price(m *fleet.Meter, part int32) float64 {
	hit, duplicate := b.share(part)
	return float64(max(m.Prefill(), 0)) + b.uncached(hit) + duplicate + b.slow(m)
}

// slow returns what the answer costs the other requests of the worker of m.
func (b *bill) slow(m *fleet.Meter) float64 {
	return b.perRequest*float64(max(m.InFlight(), 0)) + b.perToken*float64(max(m.Context(), 0))
}

// enter writes what the request costs on w into c.
func (b *bill) enter(c *Choice, w *fleet.Worker, part int32) {
	hit, duplicate := b.share(part)
	c.Hit = int(hit)
	c.Uncached = int64(b.uncached(hit))
	c.Queue, c.Duplicate, c.Decode = max(w.Prefill(), 0), duplicate, b.slow(w.Meter())
	c.Price = float64(c.Queue+c.Uncached) + c.Duplicate + c.Decode
}

// Sent implements Learner: the worker has the prompt from now on, as far as others
// that come after it are concerned.
func (p *costPicker) Sent(r *infer.Request, w *fleet.Worker, c *Choice) {
	c.put, c.begun = blocks.Put{}, false
	m := p.memberOf(w)
	if m == nil {
		return
	}
	if m.epoch.Load() != w.Epoch() {
		p.renew(m)
	}
	c.put = p.index.Insert(c.Keys, w.Slot(), m.era.Load(), indexTime(r.Received))
	if c.Why == "retry" { // the Router's choice, which nobody has priced
		var b bill
		b.prompt, b.block = float64(c.Prompt), blocks.Size/p.learned.bytesPerToken()
		c.Hit = int(c.put.Fresh)
		c.Uncached, c.Queue = int64(b.uncached(c.put.Fresh)), max(w.Prefill(), 0)
	}
}

// Began implements Learner.
func (p *costPicker) Began(_ *fleet.Worker, c *Choice, _ time.Time) { c.begun = true }

// Ended implements Learner. A worker that has not begun to answer has not got the
// prompt, as far as anybody knows.
func (p *costPicker) Ended(w *fleet.Worker, c *Choice, s *infer.Served, err error, _ time.Time) {
	if !c.begun {
		p.index.Undo(c.Keys, w.Slot(), c.put)
		return
	}
	if p.learned.wants(p.dice) && p.learned.hear(c, s, err) {
		p.resize()
	}
}

// memberOf returns what is known of w, which is one of ws, or nil.
func (p *costPicker) memberOf(w *fleet.Worker) *costMember {
	if s := w.Slot(); s < len(p.at) && p.at[s] >= 0 && p.ws[p.at[s]] == w {
		return p.members[p.at[s]]
	}
	return nil
}

// indexTime is the time as the index counts it.
func indexTime(t time.Time) uint32 { return uint32(t.Unix()) }
