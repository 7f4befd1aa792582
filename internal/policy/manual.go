package policy

import (
	"slices"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/metric"
)

// sticky keeps the requests of a routing key at the worker that had its first.
// While that one is away they go to a second, which is also remembered. Workers
// that come move no keys, nor does a worker's being overloaded: that is why others
// should not be given to it, and costs a session less than what it has there.
//
// Without a policy under it, it is manual, and chooses for keys that are new and
// for requests without a key. With one it is the override, which leaves requests
// without a key alone, and asks the policy about new keys if the mode is delegate.
type sticky struct {
	dice    dice
	headers keyHeaders
	mode    assignment
	under   Policy // nil for none
	pins    *pins

	hit, missed, vacant, keyless *metric.Counter
}

// An assignment is how the worker for a new key is chosen.
type assignment uint8

const (
	anyWorker assignment = iota
	leastBusy
	fewestKeys
	delegate
)

// assigned is what a Choice says of it.
var assigned = [...]string{anyWorker: "random", leastBusy: "least", fewestKeys: "fewest_keys"}

// newSticky returns what keeps keys together, over the policy if it is not nil.
func newSticky(s *Settings, under Policy) *sticky {
	cfg, branch := &s.RoutingKey, s.Metrics.ManualBranch
	p := &sticky{
		dice: s.dice(), headers: cfg.ownHeaders(), under: under,
		pins:    newPins(cfg.MaxKeys, int64(cfg.Idle/time.Second), s.dice()),
		hit:     branch.With("occupied_hit"),
		missed:  branch.With("occupied_miss"),
		vacant:  branch.With("vacant"),
		keyless: branch.With("no_routing_id"),
	}
	if under != nil {
		p.headers, p.mode = cfg.keyHeaders(), delegate
	}
	switch cfg.Mode {
	case "random":
		p.mode = anyWorker
	case "min_load":
		p.mode = leastBusy
	case "min_group":
		p.mode = fewestKeys
	case "delegate":
		if p.mode = leastBusy; under != nil {
			p.mode = delegate
		}
	}
	s.Metrics.pinned.add(s.Metrics, p.pins)
	return p
}

// NeedsText implements TextReader.
func (p *sticky) NeedsText() bool { return p.under != nil && NeedsText(p.under) }

// TakesText implements TextTaker.
func (p *sticky) TakesText() bool { return p.under != nil && TakesText(p.under) }

// PricesLoad implements LoadPricer.
func (p *sticky) PricesLoad() bool { return p.under != nil && pricesLoad(p.under) }

func (p *sticky) Bind(ws []*fleet.Worker) Picker { return p.BindMembers(ws, Members{}) }

// WantsMembers implements MembersBinder.
func (p *sticky) WantsMembers() bool { return true }

// BindMembers implements MembersBinder. New keys are given to ws only.
func (p *sticky) BindMembers(ws []*fleet.Worker, m Members) Picker {
	b := &stickyPicker{sticky: p, crew: crewOf(ws), seating: p.pins.sit(slices.Concat(ws, m.Spared))}
	if p.under != nil {
		b.picker = Bind(p.under, ws, m)
		b.learner, _ = b.picker.(Learner)
	}
	return b
}

// A stickyPicker is a Learner, to know which keys have requests in flight.
type stickyPicker struct {
	*sticky
	crew
	seating
	picker  Picker  // of the policy under it, nil for none
	learner Learner // picker, if it is one
}

func (p *stickyPicker) Pick(r *infer.Request, c *Choice) *fleet.Worker {
	key := p.headers.of(r)
	switch {
	case key != nil:
	case p.picker != nil:
		return p.picker.Pick(r, c)
	default:
		p.keyless.Inc()
		return p.assign(c)
	}
	h, now := p.pins.hash(r, key), seconds(r.Received)
	ref, w, known := p.pins.find(h, now, &p.seating)
	switch {
	case w != nil:
		p.hit.Inc()
		p.stay(r, w, ref, c)
		return w
	case known:
		p.missed.Inc()
	default:
		p.vacant.Inc()
	}
	if p.mode == delegate {
		w = p.picker.Pick(r, c)
	} else {
		if p.learner != nil {
			p.learn(r, c)
		}
		w = p.assign(c)
	}
	if w == nil {
		return nil
	}
	ref, other := p.pins.put(h, now, &p.seating, w)
	if other != w {
		p.stay(r, other, ref, c)
		return other
	}
	c.pin = ref
	return w
}

// stay notes in c that r goes where its key is. If the policy under it learns, it
// says first what it knows of the prompt, as it would not find out otherwise what
// w is going to hold.
func (p *stickyPicker) stay(r *infer.Request, w *fleet.Worker, ref pinRef, c *Choice) {
	if p.learner == nil || p.learn(r, c) != w {
		c.Took()
	}
	c.Why, c.Considered, c.pin = "pinned", 1, ref
}

// learn notes in c what the policy under it goes by, and returns its choice.
func (p *stickyPicker) learn(r *infer.Request, c *Choice) *fleet.Worker {
	c.Reset()
	return p.picker.Pick(r, c)
}

// assign chooses by mode, whoever asks.
func (p *stickyPicker) assign(c *Choice) *fleet.Worker {
	var i, n int
	switch p.mode {
	case anyWorker:
		i, n = p.dice.below(len(p.workers)), 1
	case fewestKeys:
		i, n = fewestOf(len(p.workers), p.dice, func(i int) int64 { return p.keys[i].keys.Load() })
	default:
		i, n = fewest(p.meters, p.dice)
	}
	c.Took()
	c.Why, c.Considered = assigned[p.mode], n
	return p.workers[i]
}

// Sent implements Learner.
func (p *stickyPicker) Sent(r *infer.Request, w *fleet.Worker, c *Choice) {
	if c.pin.i == 0 && p.sits(w) {
		// No key, or the router sends it elsewhere than it was to go.
		if key := p.headers.of(r); key != nil {
			c.pin = p.pins.second(p.pins.hash(r, key), &p.seating, w)
		}
	}
	if c.pin.i != 0 {
		p.pins.enter(&c.pin, w, &p.seating)
	}
	if p.learner != nil {
		p.learner.Sent(r, w, c)
	}
}

// Began implements Learner.
func (p *stickyPicker) Began(w *fleet.Worker, c *Choice, now time.Time) {
	if p.learner != nil {
		p.learner.Began(w, c, now)
	}
}

// Ended implements Learner.
func (p *stickyPicker) Ended(w *fleet.Worker, c *Choice, s *infer.Served, err error, now time.Time) {
	p.pins.leave(&c.pin, seconds(now))
	if p.learner != nil {
		p.learner.Ended(w, c, s, err, now)
	}
}

// seconds is a time as pins have it. It goes round once in 136 years.
func seconds(t time.Time) uint32 { return uint32(t.Unix()) }

// fewest returns the index of the worker with the fewest requests in flight, and
// how many it looked at. Equals have equal chances.
func fewest(meters []*fleet.Meter, d dice) (i, n int) {
	return fewestOf(len(meters), d, func(i int) int64 { return meters[i].InFlight() })
}

// fewestOf returns which of n has the least load, and how many it looked at: all
// if they are few, else some, because reading thousands of counters that other
// cores write costs more than the better choice is worth.
func fewestOf(n int, d dice, load func(i int) int64) (best, asked int) {
	const all, some = 64, 8
	best = d.below(n)
	least := load(best)
	if n > all {
		for range some - 1 {
			i := d.below(n)
			if l := load(i); l < least {
				best, least = i, l
			}
		}
		return best, some
	}
	for k, start := 1, best; k < n; k++ {
		i := start + k
		if i >= n {
			i -= n
		}
		if l := load(i); l < least {
			best, least = i, l
		}
	}
	return best, n
}
