package policy

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// warmth is which workers have little in their caches, as it was a moment ago.
// Such a worker would stay idle where every prompt has a holder elsewhere, and
// would be given everything at once where the least busy is asked.
type warmth struct {
	next  atomic.Int64 // when it is looked again, in Unix nanoseconds
	state []atomic.Uint32
	young atomic.Int32 // workers that have become ready a moment ago
	thin  atomic.Int32 // workers that hold much less than the typical one

	mu    sync.Mutex
	sizes [typical]int64 // guarded by mu
}

// A state says what a worker is, and the part of an equal load that it may have,
// in 256ths.
const (
	young    = 1 << 16
	thin     = 1 << 17
	rampBits = 8
	fullRamp = 1 << rampBits
	rampMask = 1<<16 - 1
)

const (
	surveyEvery = int64(time.Second)
	typical     = 255 // workers of which the typical one is found

	divertPause   = 2 * int64(time.Second) // between two diversions to a worker that is busy
	shallowShare  = 0.5                    // of a prompt: computing so much anew costs little
	patienceTimes = 2                      // that WarmupDivert is waited for such a one
)

// weigh returns load as it counts for worker i, in 256ths.
func (h *warmth) weigh(i int, load uint64) uint64 {
	ramp := uint64(h.state[i].Load() & rampMask)
	if ramp == 0 {
		ramp = fullRamp
	}
	return load * fullRamp * fullRamp / ramp
}

// survey looks now and then which workers warm up. A request that finds it due
// does it; the others go by what was found before.
func (p *cachePicker) survey(now int64) {
	h := &p.warm
	if p.cfg.WarmupShare <= 0 || p.tree == nil || len(p.ws) == 1 {
		return
	}
	next := h.next.Load()
	if now < next && next-now <= surveyEvery || !h.mu.TryLock() {
		return
	}
	defer h.mu.Unlock()
	h.next.Store(now + surveyEvery)

	enough := int64(p.cfg.WarmupBlocks) * warmBlock
	level := p.typicalSize()
	bar := int64(0)
	if p.cfg.WarmupThin > 0 && level >= enough && level > 0 {
		bar = max(1, int64(float64(level)*p.cfg.WarmupThin))
	}
	youngs, thins := int32(0), int32(0)
	for i, m := range p.members {
		s := uint32(0)
		if ramp := p.ramp(m, enough, now); ramp > 0 {
			s = young | ramp
			youngs++
		}
		if sizeOf(m) < bar {
			s |= thin
			thins++
		}
		h.state[i].Store(s)
	}
	if int(youngs) == len(p.ws) { // a young fleet has nobody to spare anyone
		youngs = 0
		for i := range h.state {
			h.state[i].Store(h.state[i].Load() & thin)
		}
	}
	h.young.Store(youngs)
	h.thin.Store(thins)
}

// ramp returns the part of an equal load, in 256ths, that m may have because it
// is new, 0 if it is not.
func (p *cachePicker) ramp(m *member, enough, now int64) uint32 {
	at := m.w.ReadyAt()
	if at.IsZero() {
		return 0
	}
	age, whole := now-at.UnixNano(), int64(p.cfg.WarmupTime)
	if age < 0 || age >= whole || sizeOf(m) >= enough {
		return 0
	}
	share := p.cfg.WarmupShare
	return max(1, uint32(fullRamp*(share+(1-share)*float64(age)/float64(whole))))
}

// sizeOf is how many bytes of prompts m holds.
func sizeOf(m *member) int64 {
	if t := m.tenant.Load(); t != nil {
		return t.Size()
	}
	return 0
}

// typicalSize returns how much the typical worker holds: the median, in a large
// fleet of some that stand as far apart. p.warm.mu must be held.
func (p *cachePicker) typicalSize() int64 {
	n := min(len(p.members), typical)
	l := p.warm.sizes[:n]
	for i := range l {
		l[i] = sizeOf(p.members[i*len(p.members)/n])
	}
	slices.Sort(l)
	return l[n/2]
}

// slice returns the worker that is to have this prompt of those that nobody
// holds because it warms up, -1 if it is not such a one's turn.
func (p *cachePicker) slice() int {
	h := &p.warm
	if h.young.Load() == 0 && h.thin.Load() == 0 {
		return -1
	}
	every := max(1, uint64(1/p.cfg.WarmupShare+0.5))
	if p.misses.Add(1)%every != 0 {
		return -1
	}
	return p.leastWarm(young|thin, nil)
}

// divert returns the worker that is to have this prompt, of which another holds
// a share, because it would otherwise stay nearly empty; -1 if it is not such a
// one's turn. Prompts that cost little to compute anew go first.
func (p *cachePicker) divert(share float64, now int64) int {
	every := uint64(p.cfg.WarmupDivert)
	if p.warm.thin.Load() == 0 || every == 0 {
		return -1
	}
	shallow := share <= shallowShare
	if shallow {
		p.shallow.Store(true)
	}
	hits := p.hits.Add(1)
	if hits < every || hits < patienceTimes*every && !shallow && p.shallow.Load() {
		return -1
	}
	i := p.leastWarm(thin, func(i int) bool {
		return p.ws[i].InFlight() == 0 || now-p.members[i].diverted.Load() >= divertPause
	})
	if i >= 0 {
		p.hits.Store(0)
		p.shallow.Store(false)
		p.members[i].diverted.Store(now)
	}
	return i
}

// leastWarm returns the least busy of the workers whose state has one of bits,
// and that may pass if that is not nil, -1 if there is none. One that has as much
// to do as the average worker fills by itself, and must not be given more.
func (p *cachePicker) leastWarm(bits uint32, may func(i int) bool) int {
	best, least := -1, int64(0)
	n := len(p.ws)
	i := p.dice.below(n)
	for range n {
		if p.warm.state[i].Load()&bits != 0 && (may == nil || may(i)) {
			if load := p.ws[i].InFlight(); best < 0 || load < least {
				best, least = i, load
			}
		}
		if i++; i == n {
			i = 0
		}
	}
	if least > 0 {
		if p.ask(); float64(least) >= math.Float64frombits(p.mean.Load()) {
			return -1
		}
	}
	return best
}
