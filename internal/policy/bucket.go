package policy

import (
	"fmt"
	"math/bits"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

// BucketConfig says how bucket follows the lengths of prompts.
type BucketConfig struct {
	Interval time.Duration `yaml:"adjust_interval" flag:"bucket-adjust-interval-secs" unit:"s" help:"how often the lengths that each worker takes are worked out anew, and how long a request counts as its load"`
}

// DefaultBucketConfig returns the contract's defaults.
func DefaultBucketConfig() BucketConfig { return BucketConfig{Interval: 5 * time.Second} }

// Validate reports everything that is wrong with c.
func (c BucketConfig) Validate() error {
	if c.Interval < time.Second {
		return fmt.Errorf("bucket-adjust-interval-secs must be at least 1, not %v", c.Interval.Seconds())
	}
	return nil
}

// bucket gives each worker the prompts of some lengths, so that short ones do not
// wait for long ones. Now and then it looks at what came and moves the bounds so
// that each worker gets about as much text. Until then, if one has had much more
// than another, the one that has had least is next.
//
// A length is that of the text in bytes, 4 to a token.
type bucket struct {
	interval int64 // nanoseconds
	abs      int64
	rel      float64
	dice     dice

	turn  atomic.Int64        // the present interval's number
	sizes [cells]atomic.Int64 // text that came in it, by the cell of its request's length

	mu      sync.Mutex
	windows map[*fleet.Worker]*window // guarded by mu
	picker  *bucketPicker             // guarded by mu; the last, nil at first
	average float64                   // guarded by mu; text for a worker when the bounds were made, 0 if they are the first
}

// A window is how much text a worker got lately.
type window struct {
	present atomic.Int64 // in this interval
	past    atomic.Int64 // in the one before
	_       [48]byte
}

func newBucket(s *Settings) *bucket {
	return &bucket{
		interval: int64(s.Bucket.Interval), abs: int64(s.CacheAware.Abs), rel: s.CacheAware.Rel, dice: s.dice(),
		windows: make(map[*fleet.Worker]*window),
	}
}

// NeedsText implements TextReader.
func (p *bucket) NeedsText() bool { return true }

func (p *bucket) Bind(ws []*fleet.Worker) Picker {
	p.mu.Lock()
	defer p.mu.Unlock()
	slots := 0
	for _, w := range ws {
		slots = max(slots, w.Slot()+1)
	}
	b := &bucketPicker{bucket: p, ws: ws, windows: make([]*window, len(ws)), slots: make([]*window, slots), bounds: make([]atomic.Int64, len(ws)-1)}
	old := p.windows
	p.windows = make(map[*fleet.Worker]*window, len(ws))
	for i, w := range ws {
		win := old[w]
		if win == nil {
			win = new(window)
		}
		p.windows[w], b.windows[i], b.slots[w.Slot()] = win, win, win
	}
	if p.picker != nil && p.average > 0 {
		b.stretch(p.picker.bounds)
	} else {
		for i := range b.bounds {
			b.bounds[i].Store(int64(firstRange * (i + 1) / len(ws)))
		}
	}
	p.picker = b
	return b
}

// firstRange is what is shared out before any lengths are known.
const firstRange = 4096

type bucketPicker struct {
	*bucket
	ws      []*fleet.Worker
	windows []*window      // by index of the worker
	slots   []*window      // by fleet.Worker.Slot
	bounds  []atomic.Int64 // by index: the longest prompt that is the worker's; the last one's have no bound
}

func (p *bucketPicker) Pick(r *infer.Request, c *Choice) *fleet.Worker {
	now := r.Received.UnixNano()
	p.tick(now)
	text := len(r.Text())
	if text == 0 {
		c.Why, c.Considered = "random", 1
		return p.ws[p.dice.below(len(p.ws))]
	}
	c.Prompt = int64(text+textBytes-1) / textBytes
	c.Uncached = c.Prompt
	p.sizes[cell(int64(text))].Add(int64(text))
	own := sort.Search(len(p.bounds), func(i int) bool { return int64(text) <= p.bounds[i].Load() })
	least, low, high, n := p.spread(now, own)
	if c.Considered = n; high-low > float64(p.abs) && high > p.rel*low {
		c.Why = "least"
		return p.ws[least]
	}
	c.Why = "range"
	return p.ws[own]
}

// spread returns who has had the least text, and how much the least and the most
// are. Of many workers it asks own and some others.
func (p *bucketPicker) spread(now int64, own int) (least int, low, high float64, n int) {
	const all, some = 64, 8
	past := 1 - float64(now-p.turn.Load()*p.interval)/float64(p.interval) // of the last interval, what still counts
	past = min(max(past, 0), 1)
	least, low = own, p.windows[own].load(past)
	high = low
	ask := func(i int) {
		l := p.windows[i].load(past)
		if l < low {
			least, low = i, l
		}
		high = max(high, l)
	}
	if len(p.ws) > all {
		for range some {
			ask(p.dice.below(len(p.ws)))
		}
		return least, low, high, some + 1
	}
	for i := range p.ws {
		ask(i)
	}
	return least, low, high, len(p.ws)
}

// load returns how much text the worker got during the last interval's length,
// if the text of the past interval came evenly.
func (w *window) load(past float64) float64 {
	return float64(w.present.Load()) + past*float64(w.past.Load())
}

// Sent implements Learner.
func (p *bucketPicker) Sent(r *infer.Request, w *fleet.Worker, c *Choice) {
	if i := w.Slot(); i < len(p.slots) && p.slots[i] != nil {
		p.slots[i].present.Add(c.Prompt * textBytes)
	}
}

// Began implements Learner.
func (p *bucketPicker) Began(*fleet.Worker, *Choice, time.Time) {}

// Ended implements Learner.
func (p *bucketPicker) Ended(*fleet.Worker, *Choice, *infer.Served, error, time.Time) {}

// tick ends the interval if now is in a later one. One request does so, and the
// others go by the old bounds meanwhile.
func (p *bucket) tick(now int64) {
	turn := now / p.interval
	was := p.turn.Load()
	if turn <= was || !p.mu.TryLock() {
		return
	}
	defer p.mu.Unlock()
	if was = p.turn.Load(); turn <= was {
		return
	}
	p.turn.Store(turn)
	for _, w := range p.windows {
		if past := w.present.Swap(0); turn == was+1 {
			w.past.Store(past)
		} else {
			w.past.Store(0)
		}
	}
	p.adjustLocked()
}

// adjustLocked moves the bounds if there is more than twice or less than half as
// much text as when they were made, and begins to count anew.
func (p *bucket) adjustLocked() {
	var sizes [cells]int64
	total := int64(0)
	for i := range sizes {
		sizes[i] = p.sizes[i].Swap(0)
		total += sizes[i]
	}
	b := p.picker
	if total == 0 || b == nil {
		return
	}
	average := float64(total) / float64(len(b.ws))
	if p.average > 0 && average <= 2*p.average && average >= p.average/2 {
		return
	}
	p.average = average
	sum, i := int64(0), 0
	for k, n := range sizes {
		for ; i < len(b.bounds); i++ {
			want := average*float64(i+1) - float64(sum)
			if want > float64(n) {
				break
			}
			low, high := cellStart(k), cellStart(k+1)
			b.bounds[i].Store(low + int64(float64(high-low)*want/float64(max(n, 1))))
		}
		sum += n
	}
	for ; i < len(b.bounds); i++ { // rounding may leave the last
		b.bounds[i].Store(cellStart(cells))
	}
}

// stretch takes over bounds that were made for another number of workers: who is
// at some part of the row gets the lengths that were at that part.
func (p *bucketPicker) stretch(old []atomic.Int64) {
	n, was := len(p.bounds)+1, len(old)+1
	for i := range p.bounds {
		at := float64(i+1) / float64(n) * float64(was) // in the old row, between 0 and was
		k := min(int(at), was-1)
		low := int64(0)
		if k > 0 {
			low = old[k-1].Load()
		}
		high := 2 * max(low, firstRange/2) // the last had no bound
		if k < len(old) {
			high = old[k].Load()
		}
		p.bounds[i].Store(low + int64(float64(high-low)*(at-float64(k))))
	}
}

// Lengths are counted in cells: each of its own below 64, then 32 to a doubling,
// up to 4 GiB.
const (
	cellBits = 5
	cells    = 1<<(cellBits+1) + (32-cellBits-1)<<cellBits
)

func cell(n int64) int {
	n = min(n, 1<<32-1)
	if n < 1<<(cellBits+1) {
		return int(n)
	}
	e := bits.Len64(uint64(n)) - 1 - cellBits // the doubling, from 1
	return e<<cellBits + int(n>>e)
}

// cellStart returns the least length of a cell.
func cellStart(i int) int64 {
	if i < 1<<(cellBits+1) {
		return int64(i)
	}
	e := i>>cellBits - 1
	return int64(i-e<<cellBits) << e
}
