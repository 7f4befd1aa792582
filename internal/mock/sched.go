package mock

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A need is what a prompt and its answers ask of the engine. width answers are
// decoded side by side.
type need struct {
	hashes []uint64 // of the prompt's blocks
	after  []uint64 // of the blocks that prompt and answer fill together, after the prompt's own
	prompt int      // tokens
	out    int      // tokens of the longest answer; 0 if the prompt is only to be read
	width  int
}

// A sequence is one need on its way through the engine.
type sequence struct {
	need
	eager bool // wants to hear of each token, not of the last only

	made   atomic.Int32 // tokens of each answer that are there; -1 until the prompt is computed
	cached int          // prompt tokens that needed no computing; good once made is not -1

	job *job

	// The rest is guarded by the scheduler's mu.

	held     []int32 // blocks it keeps from leaving
	reserved int     // room it has not yet filled
	filled   int     // of hashes, held or filled
	done     int     // prompt tokens computed or cached
	chunk    int     // prompt tokens that the present step computes
	place    place
}

type place uint8

const (
	outside place = iota
	waiting
	reading  // its prompt is being computed
	decoding // its answer is
)

// A job is the sequences of one request. wake is sent to, without blocking,
// when one of them got on.
type job struct {
	seqs []*sequence
	wake chan struct{}
}

func newJob(seqs ...*sequence) *job {
	j := &job{seqs: seqs, wake: make(chan struct{}, 1)}
	for _, s := range seqs {
		s.job = j
		s.made.Store(-1)
	}
	return j
}

// done reports whether all sequences are complete.
func (j *job) done() bool {
	for _, s := range j.seqs {
		if int(s.made.Load()) < s.out {
			return false
		}
	}
	return true
}

var (
	errQueueFull = errors.New("queue full")
	errTooLarge  = errors.New("request needs more KV cache than there is")
)

// minStep is the shortest step, so that a high speed cannot stop the clock.
const minStep = time.Microsecond

// maxLag is how many steps a late timer makes up for at once.
const maxLag = 64

// maxMatched is of how many that wait a report knows what is cached.
const maxMatched = 256

// A scheduler is the engine's clock: continuous batching in steps. A step
// computes a chunk of the prompts that wait and one token of each running
// answer. One timer moves it, and only while there is work.
type scheduler struct {
	cfg Config

	mu    sync.Mutex
	cache *blocks     // guarded by mu
	wait  []*sequence // guarded by mu; first come, first served
	read  []*sequence // guarded by mu
	dec   []*sequence // guarded by mu
	timer *time.Timer // guarded by mu
	busy  bool        // guarded by mu; a step is under way
	end   time.Time   // guarded by mu; when it ends
	took  time.Duration
	sum   sums // guarded by mu
}

// sums only grow.
type sums struct {
	prompt, cached, output int64 // tokens
}

// A load is what an engine tells of its state.
type load struct {
	Running       int     `json:"running"`
	Waiting       int     `json:"waiting"`
	WaitingTokens int     `json:"waiting_tokens"` // of prompts, that are not cached
	UsedTokens    int     `json:"used_tokens"`
	TotalTokens   int     `json:"total_tokens"`
	Throughput    float64 `json:"tokens_per_second"`
	PromptTokens  int64   `json:"prompt_tokens"`
	CachedTokens  int64   `json:"cached_tokens"`
	OutputTokens  int64   `json:"output_tokens"`
}

func (l load) usage() float64 { return float64(l.UsedTokens) / float64(l.TotalTokens) }

func (l load) hitRate() float64 {
	if l.PromptTokens == 0 {
		return 0
	}
	return float64(l.CachedTokens) / float64(l.PromptTokens)
}

func newScheduler(cfg Config) *scheduler {
	return &scheduler{cfg: cfg, cache: newBlocks((cfg.KVTokens + cfg.BlockSize - 1) / cfg.BlockSize)}
}

// tails reports whether the cache matches tokens and not whole blocks only.
func (c Config) tails() bool { return c.Engine != VLLM }

// blocksFor is the room s needs in all.
func (d *scheduler) blocksFor(s *sequence) int {
	bs := d.cfg.BlockSize
	return (s.prompt+bs-1)/bs + s.width*((s.out+bs-1)/bs)
}

// submit starts j, or says why not: errQueueFull, errTooLarge. Each job that
// was taken is ended by leave.
func (d *scheduler) submit(j *job) error {
	for _, s := range j.seqs {
		if d.blocksFor(s) > d.cache.cap {
			return errTooLarge
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cfg.Speed == 0 {
		for _, s := range j.seqs {
			d.passLocked(s)
		}
		return nil
	}
	// Those that a free place awaits do not count as waiting.
	free := max(0, d.cfg.MaxRunning-len(d.read)-len(d.dec))
	if len(d.wait)+len(j.seqs) > d.cfg.QueueLimit+free {
		return errQueueFull
	}
	for _, s := range j.seqs {
		s.place = waiting
		d.wait = append(d.wait, s)
	}
	if !d.busy {
		d.stepLocked(time.Now())
		d.armLocked()
	}
	return nil
}

// passLocked takes s through the cache in no time. d.mu must be held.
func (d *scheduler) passLocked(s *sequence) {
	if d.admitLocked(s) {
		s.done = s.prompt
		d.keepLocked(s)
		d.finishLocked(s)
	} else {
		// The cache is never full of held blocks when no time passes.
		panic("BUG: no room in an idle cache")
	}
	s.made.Store(int32(s.out))
}

// leave ends j: what is not yet done never will be.
func (d *scheduler) leave(j *job) {
	if d.cfg.Speed == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range j.seqs {
		switch s.place {
		case waiting:
			d.wait = remove(d.wait, s)
		case reading:
			d.read = remove(d.read, s)
		case decoding:
			d.dec = remove(d.dec, s)
		default:
			continue
		}
		d.releaseLocked(s)
	}
	if d.busy && len(d.wait)+len(d.read)+len(d.dec) == 0 {
		d.busy = false
		d.timer.Stop()
	}
}

func remove(list []*sequence, s *sequence) []*sequence {
	i := slices.Index(list, s)
	return slices.Delete(list, i, i+1)
}

// releaseLocked gives back all that s holds. d.mu must be held.
func (d *scheduler) releaseLocked(s *sequence) {
	s.place = outside
	d.cache.reserved -= s.reserved
	s.reserved = 0
	// Last block first: a prefix is of no use without what stands before it,
	// so its end must leave the cache first.
	for _, i := range slices.Backward(s.held) {
		d.cache.release(i)
	}
	s.held = nil
}

// admitLocked finds room for s. d.mu must be held.
func (d *scheduler) admitLocked(s *sequence) bool {
	hit := d.cache.match(s.hashes)
	for _, h := range s.hashes[:hit] {
		i, _ := d.cache.hold(h)
		s.held = append(s.held, i)
	}
	need := d.blocksFor(s) - hit
	if !d.cache.reserve(need) {
		d.releaseLocked(s)
		s.place = waiting
		return false
	}
	s.reserved, s.filled = need, hit
	s.cached = d.cachedTokens(s, hit)
	s.done = s.cached
	d.sum.prompt += int64(s.prompt)
	d.sum.cached += int64(s.cached)
	return true
}

// cachedTokens is how many tokens of s need no computing when its first hit
// blocks are there. The last one is always computed: its logits are the answer.
func (d *scheduler) cachedTokens(s *sequence, hit int) int {
	bs := d.cfg.BlockSize
	if !d.cfg.tails() {
		return min(hit, (s.prompt-1)/bs) * bs
	}
	return min(hit*bs, s.prompt-1)
}

// keepLocked puts what s has computed of its prompt into the cache. d.mu must
// be held.
func (d *scheduler) keepLocked(s *sequence) {
	full := s.done / d.cfg.BlockSize
	if s.done >= s.prompt {
		full = len(s.hashes)
	}
	for ; s.filled < full; s.filled++ {
		s.held = append(s.held, d.placeLocked(s, s.hashes[s.filled]))
	}
}

// placeLocked holds the block of hash for s, in its reserved room if it is
// new. d.mu must be held.
func (d *scheduler) placeLocked(s *sequence, hash uint64) int32 {
	i, here := d.cache.hold(hash)
	if !here {
		i = d.cache.fill(hash)
		s.reserved--
	} else {
		// Somebody else computed it meanwhile.
		s.reserved--
		d.cache.reserved--
	}
	return i
}

// finishLocked ends s as complete: its answer stays in the cache for the next
// turn of the conversation. d.mu must be held.
func (d *scheduler) finishLocked(s *sequence) {
	for _, h := range s.after {
		if s.reserved == 0 {
			break
		}
		s.held = append(s.held, d.placeLocked(s, h))
	}
	d.sum.output += int64(s.out * s.width)
	d.releaseLocked(s)
}

// stepLocked begins a step at the given time, if there is work. A step takes as
// long as its prompt tokens need, or as reading the weights does, and longer for
// each answer that is decoded in it and for what those have in the cache. d.mu
// must be held.
func (d *scheduler) stepLocked(at time.Time) {
	budget, tokens := d.cfg.PrefillChunk, 0
	prefill := 0.0 // seconds
	for k := 0; budget > 0; k++ {
		if k == len(d.read) && !d.nextLocked() {
			break
		}
		s := d.read[k]
		s.chunk = min(budget, s.prompt-s.done)
		budget -= s.chunk
		tokens += s.chunk
		prefill += d.cfg.prefillTime(s.done, s.chunk)
	}
	d.busy = tokens > 0 || len(d.dec) > 0
	if !d.busy {
		return
	}
	sec := max(prefill, 1/d.cfg.DecodeRate) + d.decodeTimeLocked()
	d.took = max(minStep, time.Duration(sec/d.cfg.Speed*float64(time.Second)))
	d.end = at.Add(d.took)
}

// prefillTime is the seconds that n tokens of a prompt take when done are there.
func (c *Config) prefillTime(done, n int) float64 {
	sec := float64(n) / c.PrefillRate
	if c.DoubleContext > 0 {
		sec *= 1 + (float64(done)+float64(n)/2)/float64(c.DoubleContext)
	}
	return sec
}

// decodeTimeLocked is the seconds by which the running answers lengthen a step
// of one. d.mu must be held.
func (d *scheduler) decodeTimeLocked() float64 {
	if len(d.dec) == 0 {
		return 0
	}
	n, kv := 0, 0
	for _, s := range d.dec {
		n += s.width
		kv += s.prompt + s.width*int(s.made.Load())
	}
	return d.cfg.DecodeSlowdown*float64(n-1)/d.cfg.DecodeRate + d.cfg.ContextTime.Seconds()*float64(kv)
}

// batchLocked is how many answers are being decoded. d.mu must be held.
func (d *scheduler) batchLocked() int {
	n := 0
	for _, s := range d.dec {
		n += s.width
	}
	return n
}

// nextLocked lets the first that waits begin, if there is room. d.mu must be
// held.
func (d *scheduler) nextLocked() bool {
	if len(d.wait) == 0 || len(d.read)+len(d.dec) >= d.cfg.MaxRunning || !d.admitLocked(d.wait[0]) {
		return false
	}
	s := d.wait[0]
	d.wait[0] = nil
	d.wait = d.wait[1:]
	s.place = reading
	d.read = append(d.read, s)
	return true
}

// endLocked ends the present step. d.mu must be held.
func (d *scheduler) endLocked() {
	running := d.dec[:0]
	for _, s := range d.dec {
		if !d.gotOnLocked(s, s.made.Load()+1) {
			running = append(running, s)
		}
	}
	clear(d.dec[len(running):])
	d.dec = running
	still := d.read[:0]
	for _, s := range d.read {
		s.done += s.chunk
		s.chunk = 0
		d.keepLocked(s)
		switch {
		case s.done < s.prompt:
			still = append(still, s)
		case !d.gotOnLocked(s, int32(min(1, s.out))):
			s.place = decoding
			d.dec = append(d.dec, s)
		}
	}
	clear(d.read[len(still):])
	d.read = still
}

// gotOnLocked notes that s has made tokens of its answer, and reports whether
// that is all. d.mu must be held.
func (d *scheduler) gotOnLocked(s *sequence, made int32) bool {
	done := int(made) >= s.out
	if done {
		d.finishLocked(s)
	}
	s.made.Store(made)
	if done || s.eager {
		select {
		case s.job.wake <- struct{}{}:
		default:
		}
	}
	return done
}

func (d *scheduler) armLocked() {
	if !d.busy {
		return
	}
	wait := time.Until(d.end)
	if d.timer == nil {
		d.timer = time.AfterFunc(wait, d.tick)
		return
	}
	d.timer.Reset(wait)
}

// tick ends the steps whose time is over. It is the timer's.
func (d *scheduler) tick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for range maxLag {
		if !d.busy || d.end.After(now) {
			break
		}
		d.endLocked()
		d.stepLocked(d.end)
	}
	if d.busy && d.end.Before(now) {
		d.end = now // so far behind that time stands still instead
	}
	d.armLocked()
}

// flush empties the cache of what no running request holds.
func (d *scheduler) flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cache.flush()
}

func (d *scheduler) load() load {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := load{
		Running: len(d.read) + len(d.dec), Waiting: len(d.wait),
		UsedTokens: d.cache.used() * d.cfg.BlockSize, TotalTokens: d.cache.cap * d.cfg.BlockSize,
		PromptTokens: d.sum.prompt, CachedTokens: d.sum.cached, OutputTokens: d.sum.output,
	}
	for i, s := range d.wait {
		l.WaitingTokens += s.prompt
		if i < maxMatched {
			l.WaitingTokens -= d.cachedTokens(s, d.cache.match(s.hashes))
		}
	}
	if d.busy && d.took > 0 {
		l.Throughput = float64(d.batchLocked()) / d.took.Seconds()
	}
	return l
}
