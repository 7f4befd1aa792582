package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/metric"
	"sluice/internal/kit/radix"
)

// CacheAwareConfig says when cache_aware follows a cache, and when load. The
// first two are bucket's as well.
type CacheAwareConfig struct {
	Abs int     `yaml:"balance_abs_threshold" flag:"balance-abs-threshold,spill-abs-threshold" help:"a worker that holds a prompt's beginning is passed over if it has so many requests more than the average worker, or two standard deviations more if that is less"`
	Rel float64 `yaml:"balance_rel_threshold" flag:"balance-rel-threshold,spill-rel-threshold" help:"and so many times the requests of the average worker"`

	Match  float64 `yaml:"cache_threshold" flag:"cache-threshold,cache-match-threshold" help:"part of a prompt that a worker must hold to be preferred, 0 to 1"`
	Spread float64 `yaml:"balance_token_usage_threshold" flag:"balance-token-usage-threshold" help:"caches are not followed while the fullest worker's use of its KV cache is so much above the emptiest's, as a part of 1; 1 for never"`
	Full   float64 `yaml:"overload_token_usage_threshold" flag:"overload-token-usage-threshold" help:"nor while a worker uses more of its KV cache than this; 1 for never"`

	Interval time.Duration `yaml:"eviction_interval" flag:"eviction-interval,eviction-interval-secs" unit:"s" help:"pause between two looks whether the prompts that are remembered are too many"`
	Most     int           `yaml:"max_tree_size" flag:"max-tree-size" help:"bytes of prompts remembered for each model, each counted for every worker that holds it. They never take more than twice as much memory, or 1 MiB if that is more"`

	Index      string        `yaml:"cache_index" flag:"cache-index" choices:"tree,hash" help:"what is remembered of prompts: a tree of their texts, or hashes of their beginnings up to --cache-boundaries"`
	Boundaries string        `yaml:"cache_boundaries" flag:"cache-boundaries" help:"lengths of the beginnings that --cache-index hash compares, in tokens, rising, with commas between; a token counts as 4 bytes of text"`
	TTL        time.Duration `yaml:"cache_ttl" flag:"cache-ttl-secs" unit:"s" help:"how long --cache-index hash remembers a beginning that was not sent again"`

	WarmupTime   time.Duration `yaml:"warmup_time" flag:"worker-warmup-secs" unit:"s" help:"how long a worker that has become ready counts as new; 0 for never"`
	WarmupShare  float64       `yaml:"warmup_share" flag:"worker-warmup-share" help:"part of the prompts that no worker holds that new and nearly empty workers are given; and the part of an equal load that a new worker has at first. 0 for neither"`
	WarmupBlocks int           `yaml:"warmup_blocks" flag:"worker-warmup-blocks" help:"a worker that was given so many blocks of 64 bytes of prompts is not new any more; where the typical worker has not so many, none is nearly empty"`
	WarmupThin   float64       `yaml:"warmup_thin_ratio" flag:"worker-warmup-thin-ratio" help:"a worker is nearly empty if it holds less than this part of what the typical worker holds; 0 for never"`
	WarmupDivert int           `yaml:"warmup_divert_every" flag:"worker-warmup-divert-every" help:"one in so many prompts that a worker holds goes to a nearly empty one instead; 0 for none"`
}

// DefaultCacheAwareConfig returns the contract's defaults.
func DefaultCacheAwareConfig() CacheAwareConfig {
	return CacheAwareConfig{
		Abs: 64, Rel: 1.5, Match: 0.3, Spread: 1, Full: 1,
		Interval: 2 * time.Minute, Most: 64 << 20, Index: "tree", TTL: 3 * time.Minute,
		WarmupTime: time.Minute, WarmupShare: 0.25, WarmupBlocks: 1024, WarmupThin: 0.5, WarmupDivert: 8,
	}
}

// Validate reports everything that is wrong with c.
func (c CacheAwareConfig) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	in := func(flag string, v, least, most float64) {
		if !(v >= least && v <= most) { // or not a number
			bad("%s must be %v to %v, not %v", flag, least, most, v)
		}
	}
	in("balance-abs-threshold", float64(c.Abs), 0, 1e9)
	in("balance-rel-threshold", c.Rel, 1, 1e6)
	in("cache-threshold", c.Match, 0, 1)
	above := func(flag string, v float64) {
		if !(v > 0) || math.IsInf(v, 0) {
			bad("%s must be above 0, not %v", flag, v)
		}
	}
	above("balance-token-usage-threshold", c.Spread)
	above("overload-token-usage-threshold", c.Full)
	in("eviction-interval", c.Interval.Seconds(), 1, 1e9)
	in("max-tree-size", float64(c.Most), 1, 1<<40)
	in("cache-ttl-secs", c.TTL.Seconds(), 1, 1e9)
	in("worker-warmup-secs", c.WarmupTime.Seconds(), 0, 1e9)
	in("worker-warmup-share", c.WarmupShare, 0, 1)
	in("worker-warmup-blocks", float64(c.WarmupBlocks), 0, 1<<40)
	in("worker-warmup-thin-ratio", c.WarmupThin, 0, 1)
	in("worker-warmup-divert-every", float64(c.WarmupDivert), 0, 1e9)
	bounds, err := c.bounds()
	if err != nil {
		errs = append(errs, err)
	}
	switch c.Index {
	case "tree":
	case "hash":
		if len(bounds) == 0 && err == nil {
			bad("cache-index hash needs cache-boundaries, for example 2048,8192,32768")
		}
	default:
		bad("cache-index must be tree or hash, not %q", c.Index)
	}
	return errors.Join(errs...)
}

// bounds returns the lengths that Boundaries has, in bytes of text.
func (c CacheAwareConfig) bounds() ([]int, error) {
	if c.Boundaries == "" {
		return nil, nil
	}
	var l []int
	for s := range strings.SplitSeq(c.Boundaries, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1 || n > 1<<28 || len(l) > 0 && n*textBytes <= l[len(l)-1] || len(l) == maxBoundaries {
			return nil, fmt.Errorf("cache-boundaries must be at most %d rising numbers of tokens, not %.64q", maxBoundaries, c.Boundaries)
		}
		l = append(l, n*textBytes)
	}
	return l, nil
}

const (
	maxBoundaries = 64
	warmBlock     = 64       // bytes of text in one of WarmupBlocks: 16 tokens
	promptBlock   = 512      // bytes in one of Choice.Blocks
	maxReportAge  = 30 * 1e9 // nanoseconds; an older load report says nothing

	unhurried = 64 // old prompts removed by one request at most, when it is time
)

// cacheAware gives a prompt to a worker that was given one with the same
// beginning, unless that worker has much more to do than the others. A prompt of
// which nobody holds much goes to the least busy.
type cacheAware struct {
	cfg  CacheAwareConfig
	dice dice
	tree *radix.Tree // nil if the index is hash
	hash *heads      // nil if it is tree

	due      atomic.Int64 // when it is next looked whether the tree is too large, in Unix nanoseconds
	trimming atomic.Bool  // it is

	misses, hits atomic.Uint64 // while there are workers that warm up
	shallow      atomic.Bool   // among hits

	mu      sync.Mutex
	members members // what Bind made last; guarded by mu, and see at
	binds   uint64  // guarded by mu; calls of Bind

	at atomic.Pointer[members] // the same, for those who only look

	branch [len(branches)]*metric.Counter
	ratio  *metric.Histogram
}

// A member is a worker as the tree knows it.
type member struct {
	w        *fleet.Worker
	tenant   atomic.Pointer[radix.Tenant] // nil if there is no tree, or it has no room
	epoch    atomic.Uint64                // of the worker, when it became this tenant
	diverted atomic.Int64                 // when it was last given a prompt that another holds, in Unix nanoseconds
	lead     atomic.Int64                 // what served adds
	bound    uint64                       // the last Bind that it was part of; guarded by cacheAware.mu
}

// served is how many requests m's worker has served, for telling equals apart.
// One that comes, or comes back, begins with as many as the one that has served
// the fewest: it is not given everything until it has caught up.
func (m *member) served() int64 { return int64(m.w.Served()) + m.lead.Load() }

// members are found by Worker.Slot; one may be nil.
type members []*member

func (l members) of(w *fleet.Worker) *member {
	if s := w.Slot(); s < len(l) && l[s] != nil && l[s].w == w {
		return l[s]
	}
	return nil
}

func newCacheAware(s *Settings) *cacheAware {
	p := &cacheAware{cfg: s.CacheAware, dice: s.dice(), ratio: s.Metrics.CacheAwareRatio}
	for i, name := range branches {
		p.branch[i] = s.Metrics.CacheAwareBranch.With(name)
	}
	budget := max(1<<20, 2*int64(p.cfg.Most))
	if p.cfg.Index == "hash" {
		p.hash = newHeads(p.cfg, budget)
	} else {
		p.tree = radix.New(budget)
		s.Metrics.trees.add(s.Metrics, p.tree)
	}
	p.at.Store(new(members))
	return p
}

// NeedsText implements TextReader.
func (p *cacheAware) NeedsText() bool { return true }

// Bind implements Policy. Workers that were removed are forgotten; those that
// are only not there now keep what they hold.
func (p *cacheAware) Bind(ws []*fleet.Worker) Picker {
	p.mu.Lock()
	defer p.mu.Unlock()
	slots := len(p.members)
	for _, w := range ws {
		slots = max(slots, w.Slot()+1)
	}
	l := make(members, slots)
	copy(l, p.members)
	for i, m := range l {
		if m != nil && m.w.Status() == fleet.Draining {
			p.leave(m)
			l[i] = nil
		}
	}
	p.binds++
	fewest := int64(math.MaxInt64) // served by those who were here before
	for _, w := range ws {
		if m := l.of(w); m != nil && m.bound == p.binds-1 {
			fewest = min(fewest, m.served())
		}
	}
	for _, w := range ws {
		m := l.of(w)
		if m == nil && w.Status() != fleet.Draining {
			if was := l[w.Slot()]; was != nil {
				p.leave(was)
			}
			m = &member{w: w}
			p.join(m)
			l[w.Slot()] = m
		}
		if m == nil {
			continue
		}
		if m.bound != p.binds-1 || p.binds == 1 {
			if fewest == math.MaxInt64 {
				fewest = 0
			}
			m.lead.Store(fewest - int64(w.Served()))
		}
		m.bound = p.binds
	}
	p.members = l
	p.at.Store(&l)
	return newCachePicker(p, ws, l)
}

// join makes m a tenant that holds nothing. p.mu must be held.
func (p *cacheAware) join(m *member) {
	m.epoch.Store(m.w.Epoch())
	if p.tree != nil {
		m.tenant.Store(p.tree.Join(m))
	}
}

// leave drops what m holds. p.mu must be held.
func (p *cacheAware) leave(m *member) {
	if t := m.tenant.Swap(nil); t != nil {
		p.tree.Leave(t)
	}
}

// renew drops what m holds: its worker has lost its cache.
func (p *cacheAware) renew(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.members.of(m.w) == m && m.epoch.Load() != m.w.Epoch() {
		p.leave(m)
		p.join(m)
	}
}

// current reports whether what is known of m's cache holds still.
func (p *cacheAware) current(m *member) bool {
	if m.epoch.Load() == m.w.Epoch() {
		return true
	}
	p.renew(m)
	return false
}

// tend does a share of the work that is due at now.
func (p *cacheAware) tend(now int64) {
	if p.tree == nil {
		return
	}
	if due := p.due.Load(); now >= due && p.due.CompareAndSwap(due, now+int64(p.cfg.Interval)) {
		p.trimming.Store(p.tree.Size() > int64(p.cfg.Most))
	}
	switch {
	case p.trimming.Load():
		if p.tree.Tend(int64(p.cfg.Most), unhurried) {
			p.trimming.Store(false)
		}
	case p.tree.Untidy():
		p.tree.Tend(math.MaxInt64, unhurried)
	}
}

// Sent implements Learner: the worker that a prompt is sent to holds it.
func (p *cacheAware) Sent(r *infer.Request, w *fleet.Worker, c *Choice) {
	text := r.Text()
	m := p.at.Load().of(w)
	if len(text) == 0 || m == nil {
		return
	}
	if p.hash != nil {
		p.hash.note(text, m, r.Received.UnixNano())
		return
	}
	p.current(m) // or it begins anew
	if t := m.tenant.Load(); t != nil {
		p.tree.Insert(t, text, r.Received, c.found)
	}
	c.found = radix.Hit{}
}

// Began implements Learner.
func (p *cacheAware) Began(*fleet.Worker, *Choice, time.Time) {}

// Ended implements Learner.
func (p *cacheAware) Ended(*fleet.Worker, *Choice, *infer.Served, error, time.Time) {}

// treeList is all trees there are, as the metrics see them. Policies come and go
// with their models, so what nobody else holds is let go of.
type treeList struct {
	mu sync.Mutex
	l  []weak.Pointer[radix.Tree] // guarded by mu
}

// add makes t part of what m shows.
func (l *treeList) add(m *Metrics, t *radix.Tree) {
	l.mu.Lock()
	l.l = slices.DeleteFunc(l.l, func(w weak.Pointer[radix.Tree]) bool { return w.Value() == nil })
	l.l = append(l.l, weak.Make(t))
	l.mu.Unlock()
	m.TreeText.Set(func() float64 { return l.sum((*radix.Tree).Size) })
	m.TreeMemory.Set(func() float64 { return l.sum((*radix.Tree).Bytes) })
}

func (l *treeList) sum(of func(*radix.Tree) int64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(0)
	for _, w := range l.l {
		if t := w.Value(); t != nil {
			n += of(t)
		}
	}
	return float64(n)
}
