package policy

import (
	"math"
	"sync/atomic"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/radix"
)

// What a decision of cache_aware went by: the contract's words, then ours.
const (
	byMatch = iota
	bySpill
	byWait
	byPressure
	bySlice
	byDivert
)

var branches = [...]string{"tree_match", "spill", "expected_wait_fallback", "kv_pressure_expected_wait", "warmup_slice", "warmup_divert"}

// whys are the same as a Choice has them.
var whys = [len(branches)]string{"hit", "spill", "least", "pressure", "warm", "divert"}

// cachePicker chooses among the workers that it was bound to.
type cachePicker struct {
	*cacheAware
	ws      []*fleet.Worker
	members []*member // by index in ws
	index   []int32   // in ws, by Worker.Slot; -1 for none

	// Of a large fleet, what was last found out.
	asked, looked     atomic.Uint64 // decisions that wanted to know
	mean, deviation   atomic.Uint64 // of requests, as float64
	fullest, emptiest atomic.Uint64 // KV caches, likewise

	warm warmth
}

func newCachePicker(p *cacheAware, ws []*fleet.Worker, l members) *cachePicker {
	k := &cachePicker{cacheAware: p, ws: ws, members: make([]*member, len(ws)), index: make([]int32, len(l))}
	for i := range k.index {
		k.index[i] = -1
	}
	for i, w := range ws {
		if k.members[i] = l.of(w); k.members[i] == nil {
			k.members[i] = &member{w: w} // it is about to leave
		}
		if w.Slot() < len(k.index) {
			k.index[w.Slot()] = int32(i)
		}
	}
	k.warm.state = make([]atomic.Uint32, len(ws))
	return k
}

// find returns w's index in ws, -1 if it is not one of them.
func (p *cachePicker) find(w *fleet.Worker) int {
	if s := w.Slot(); s < len(p.index) {
		if i := p.index[s]; i >= 0 && p.ws[i] == w {
			return int(i)
		}
	}
	return -1
}

// Pick implements Picker.
func (p *cachePicker) Pick(r *infer.Request, c *Choice) *fleet.Worker {
	now := r.Received.UnixNano()
	p.tend(now)
	p.survey(now)
	text := r.Text()
	c.Prompt, c.Blocks = tokensOf(len(text)), len(text)/promptBlock
	c.Uncached = c.Prompt
	var i, by int
	if p.hash != nil {
		i, by = p.pickByHash(text, c, now)
	} else {
		c.found = p.tree.Match(text)
		i, by = p.pickByTree(text, c, now)
		p.credit(p.members[i], len(text), c)
	}
	p.branch[by].Inc()
	c.Why = whys[by]
	return p.ws[i]
}

// tokensOf is how many tokens so many bytes of text are taken for.
func tokensOf(bytes int) int64 { return int64((bytes + textBytes - 1) / textBytes) }

// pickByTree returns which worker is to have text, of which the tree has found
// c.found, and why.
func (p *cachePicker) pickByTree(text []byte, c *Choice, now int64) (i, by int) {
	share := 0.0
	if len(text) > 0 {
		share = float64(c.found.Matched) / float64(len(text))
		p.ratio.Observe(share)
	}
	if full := p.pressed(now); full < 1 {
		return p.least(c, full, now), byPressure
	}
	if share > p.cfg.Match {
		if i := p.bestHolder(len(text), c); i >= 0 {
			return p.follow(i, share, c, now)
		}
	}
	return p.miss(c, now)
}

// follow returns who is to have a prompt of which a share is with worker i.
func (p *cachePicker) follow(i int, share float64, c *Choice, now int64) (k, by int) {
	if p.tooBusy(p.ws[i].InFlight()) {
		return p.least(c, 1, now), bySpill
	}
	if k := p.divert(share, now); k >= 0 {
		return k, byDivert
	}
	return i, byMatch
}

// miss returns who is to have a prompt that nobody holds.
func (p *cachePicker) miss(c *Choice, now int64) (i, by int) {
	if i := p.slice(); i >= 0 {
		return i, bySlice
	}
	return p.least(c, 1, now), byWait
}

// compared is how many workers are asked each time, of a larger fleet so many from
// a random place on: reading thousands of counters that other cores write costs
// more than the better choice is worth.
const compared = 64

// asHolders is how many of those who hold the same are compared.
const asHolders = 16

// bestHolder returns the least busy of the workers that hold what was found, of
// equals the one that was given it last, -1 if there is none. If all who hold
// it are gone or not among ws, it asks who holds a little less.
func (p *cachePicker) bestHolder(bytes int, c *Choice) int {
	h := c.found
	for range asHolders {
		if float64(h.Matched) <= p.cfg.Match*float64(bytes) {
			break
		}
		if i := p.bestOf(h, c); i >= 0 {
			return i
		}
		h = h.Up()
	}
	return -1
}

func (p *cachePicker) bestOf(h radix.Hit, c *Choice) int {
	best, least, latest := -1, int64(0), uint32(0)
	n := h.Len()
	j := 0
	if n > asHolders {
		j = p.dice.below(n)
	}
	for seen := 0; seen < min(n, asHolders); seen++ {
		t, used := p.tree.Holder(h, j)
		if j++; j == n {
			j = 0
		}
		if t == nil {
			continue
		}
		m := t.Owner.(*member)
		i := p.find(m.w)
		if i < 0 || !p.current(m) {
			continue
		}
		c.Considered++
		load := m.w.InFlight()
		if best < 0 || load < least || load == least && int32(used-latest) > 0 {
			best, least, latest = i, load, used
		}
	}
	return best
}

// credit notes in c how much of the prompt m holds.
func (p *cachePicker) credit(m *member, bytes int, c *Choice) {
	t, h := m.tenant.Load(), c.found
	if t == nil {
		return
	}
	for range asHolders {
		if h.Matched == 0 {
			return
		}
		if h.Holds(t) {
			c.Hit = h.Matched / promptBlock
			c.Uncached = tokensOf(bytes - h.Matched)
			return
		}
		h = h.Up()
	}
}

// tooBusy reports whether a worker with so many requests is passed over: it has
// more than Rel times the mean of all, and more above it than Abs, or than two
// standard deviations if that is less. One request is the least that counts as a
// deviation, or one would be too many where all others are idle.
func (p *cachePicker) tooBusy(load int64) bool {
	const deviations = 2
	if load <= min(int64(p.cfg.Abs), deviations) {
		return false
	}
	p.ask()
	mean := math.Float64frombits(p.mean.Load())
	margin := min(float64(p.cfg.Abs), deviations*max(1, math.Float64frombits(p.deviation.Load())))
	return float64(load) > mean*p.cfg.Rel && float64(load) > mean+margin
}

// ask finds out how many requests the workers have. Those of a large fleet are
// asked only now and then, so that a decision does not cost more the more there
// are.
func (p *cachePicker) ask() {
	if every := uint64(len(p.ws) / compared); every > 1 && p.asked.Add(1)%every != 1 {
		return
	}
	var sum, squares float64
	for _, w := range p.ws {
		l := float64(w.InFlight())
		sum += l
		squares += l * l
	}
	n := float64(len(p.ws))
	mean := sum / n
	p.mean.Store(math.Float64bits(mean))
	p.deviation.Store(math.Float64bits(math.Sqrt(max(0, squares/n-mean*mean))))
}

// pressed returns 1, or, if the workers' KV caches say that load counts for more
// than what they hold, how much of its cache a worker may use that is to be
// preferred.
func (p *cachePicker) pressed(now int64) (full float64) {
	if p.cfg.Full >= 1 && p.cfg.Spread >= 1 {
		return 1
	}
	if every := uint64(len(p.ws) / compared); every <= 1 || p.looked.Add(1)%every == 1 {
		fullest, emptiest := 0.0, 1.0
		for _, w := range p.ws {
			if u, ok := usage(w, now); ok {
				fullest, emptiest = max(fullest, u), min(emptiest, u)
			}
		}
		p.fullest.Store(math.Float64bits(fullest))
		p.emptiest.Store(math.Float64bits(emptiest))
	}
	fullest, emptiest := math.Float64frombits(p.fullest.Load()), math.Float64frombits(p.emptiest.Load())
	if most := min(p.cfg.Full, emptiest+p.cfg.Spread); fullest > most {
		return most
	}
	return 1
}

// usage returns how much of its KV cache w uses, if it has said so lately.
func usage(w *fleet.Worker, now int64) (float64, bool) {
	l := w.Load()
	if l == nil {
		return 0, false
	}
	if age := now - l.At.UnixNano(); age > maxReportAge || age < -maxReportAge {
		return 0, false
	}
	return l.TokenUsage, l.TokenUsage >= 0 && l.TokenUsage <= 1
}

// least returns the worker that has the fewest requests, of equals the one that
// has served the fewest, then the first from a random place on. New workers
// count for as much busier as they are new. Workers whose KV caches are fuller
// than full come last, if that is less than 1.
func (p *cachePicker) least(c *Choice, full float64, now int64) int {
	n := len(p.ws)
	i := p.dice.below(n)
	warm := p.warm.young.Load() > 0
	var best int
	var least uint64
	var served int64
	scan := min(n, compared)
	for seen := range scan {
		w := p.ws[i]
		load := uint64(max(0, w.InFlight()))
		if warm {
			load = p.warm.weigh(i, load)
		} else {
			load <<= rampBits
		}
		if full < 1 {
			if u, ok := usage(w, now); ok && u > full {
				load += 1 << 48
			}
		}
		switch {
		case seen == 0:
			best, least, served = i, load, p.members[i].served()
		case load < least:
			best, least, served = i, load, p.members[i].served()
		case load == least:
			if s := p.members[i].served(); s < served {
				best, served = i, s
			}
		}
		if i++; i == n {
			i = 0
		}
	}
	c.Considered = scan
	return best
}
