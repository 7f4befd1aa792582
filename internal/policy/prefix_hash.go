package policy

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/zeebo/xxh3"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/hashring"
	"sluice/internal/kit/metric"
)

// PrefixHashConfig says what prefix_hash goes by.
type PrefixHashConfig struct {
	Tokens int     `yaml:"tokens" flag:"prefix-token-count" help:"requests that begin with the same so many tokens go to the same worker; a token counts as 4 bytes of text"`
	Factor float64 `yaml:"load_factor" flag:"prefix-hash-load-factor" help:"a worker has too much to do if it has so many times the requests of the average worker"`
	Margin int     `yaml:"balance_abs_threshold" flag:"prefix-hash-balance-abs-threshold" help:"and so many requests more than that"`
}

// DefaultPrefixHashConfig returns the contract's defaults.
func DefaultPrefixHashConfig() PrefixHashConfig {
	return PrefixHashConfig{Tokens: 256, Factor: 1.25, Margin: 10}
}

// Validate reports everything that is wrong with c.
func (c PrefixHashConfig) Validate() error {
	var errs []error
	if c.Tokens < 1 {
		errs = append(errs, fmt.Errorf("prefix-token-count must be positive, not %d", c.Tokens))
	}
	if !(c.Factor >= 1) || c.Factor > 1e6 { // or not a number
		errs = append(errs, fmt.Errorf("prefix-hash-load-factor must be 1 or more, not %v", c.Factor))
	}
	if c.Margin < 0 {
		errs = append(errs, fmt.Errorf("prefix-hash-balance-abs-threshold must not be negative, not %d", c.Margin))
	}
	return errors.Join(errs...)
}

// textBytes is how many bytes of text a token is taken for.
const textBytes = 4

// prefixHash gives requests that begin alike to the worker that owns their
// beginning on a ring, unless it has too much to do: then to the next on the
// ring that has not, so that what overflows stays together as well (Mirrokni,
// Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018).
type prefixHash struct {
	cfg     PrefixHashConfig
	dice    dice
	headers keyHeaders
	maker   hashring.Maker

	hit, walked, least, blank *metric.Counter
}

func newPrefixHash(s *Settings) *prefixHash {
	branch := s.Metrics.PrefixHashBranch
	return &prefixHash{
		cfg: s.PrefixHash, dice: s.dice(), headers: s.RoutingKey.keyHeaders(),
		hit:    branch.With("ring_hit"),
		walked: branch.With("load_balance_walk"),
		least:  branch.With("fallback_least_load"),
		blank:  branch.With("no_tokens"),
	}
}

// NeedsText implements TextReader.
func (p *prefixHash) NeedsText() bool { return true }

func (p *prefixHash) Bind(ws []*fleet.Worker) Picker {
	crew := crewOf(ws)
	return &prefixPicker{prefixHash: p, ws: crew, ring: ringOf(&p.maker, ws), sum: newLoadSum(crew.meters)}
}

type prefixPicker struct {
	*prefixHash
	ws   crew
	ring *hashring.Ring
	sum  loadSum
}

func (p *prefixPicker) Pick(r *infer.Request, c *Choice) *fleet.Worker {
	at, ok := p.place(r)
	if !ok {
		p.blank.Inc()
		i, n := fewest(p.ws.meters, p.dice)
		c.Why, c.Considered = "least", n
		return p.ws.workers[i]
	}
	c.Why, c.Considered = "ring", 1
	walk := p.ring.From(at)
	owner := walk.Next()
	w, load := p.ws.workers[owner], p.ws.meters[owner].InFlight()
	if load <= int64(p.cfg.Margin) {
		p.hit.Inc() // no need to know what the others have
		return w
	}
	most := p.most()
	if float64(load) <= most {
		p.hit.Inc()
		return w
	}
	if i, n := p.next(&walk, owner, most); i >= 0 {
		c.Why, c.Considered = "walk", n+1
		p.walked.Inc()
		return p.ws.workers[i]
	}
	if i, n := fewest(p.ws.meters, p.dice); float64(p.ws.meters[i].InFlight()) <= most {
		c.Why, c.Considered = "least", n
		p.least.Inc()
		return p.ws.workers[i]
	}
	p.hit.Inc()
	return w
}

// place returns where r stands on the ring, or false if nothing says.
func (p *prefixPicker) place(r *infer.Request) (at uint64, ok bool) {
	if key := p.headers.of(r); key != nil {
		return hashring.Place(key), true
	}
	text := r.Text()
	if len(text) == 0 {
		return 0, false
	}
	if len(text)/textBytes >= p.cfg.Tokens {
		text = text[:p.cfg.Tokens*textBytes]
	}
	return xxh3.Hash(text), true
}

// most returns how many requests a worker may have that is to get another.
func (p *prefixPicker) most() float64 {
	total, n := float64(p.sum.total(p.dice)), float64(len(p.ws.workers))
	return max(p.cfg.Factor*(total+1)/n, total/n+float64(p.cfg.Margin))
}

// next returns the first worker after owner that has no more than most, -1 if
// none of the nearest has, and how many it looked at.
func (p *prefixPicker) next(walk *hashring.Walk, owner int, most float64) (i, n int) {
	var room [nearest]int
	seen := append(room[:0], owner)
	for range 4 * nearest { // several places in a row may be the same worker's
		i := walk.Next()
		if i < 0 || len(seen) == nearest {
			break
		}
		if slices.Contains(seen, i) {
			continue
		}
		if float64(p.ws.meters[i].InFlight()) <= most {
			return i, len(seen)
		}
		seen = append(seen, i)
	}
	return -1, 0
}

// nearest is how many workers are asked along the ring.
const nearest = 8

// A loadSum knows about how many requests workers have together, for much less
// than it costs to ask each of thousands. It adds up what each had when it was
// last asked, and asks some of them anew now and then. Nothing is counted twice
// or lost, so when all workers are idle and have been asked the sum is 0.
type loadSum struct {
	meters []*fleet.Meter
	last   []atomic.Int64 // by worker: what of it is in sum
	sum    *atomic.Int64
}

const (
	sumAll   = 16 // so few workers are asked each time
	sumEvery = 8  // else one time of so many,
	sumSome  = 64 // so many of them
)

func newLoadSum(meters []*fleet.Meter) loadSum {
	s := loadSum{meters: meters}
	if len(meters) > sumAll {
		s.last, s.sum = make([]atomic.Int64, len(meters)), new(atomic.Int64)
		s.ask(0, len(meters))
	}
	return s
}

// total returns the sum.
func (s *loadSum) total(d dice) int64 {
	if s.sum == nil {
		n := int64(0)
		for _, m := range s.meters {
			n += m.InFlight()
		}
		return n
	}
	if d.below(sumEvery) == 0 {
		s.ask(d.below(len(s.meters)), min(sumSome, len(s.meters)))
	}
	return s.sum.Load()
}

// ask asks n workers, from index i on and round to the first.
func (s *loadSum) ask(i, n int) {
	changed := int64(0)
	for range n {
		now := s.meters[i].InFlight()
		if s.last[i].Load() != now {
			changed += now - s.last[i].Swap(now)
		}
		if i++; i == len(s.meters) {
			i = 0
		}
	}
	if changed != 0 {
		s.sum.Add(changed)
	}
}
