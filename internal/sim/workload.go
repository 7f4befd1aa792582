package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"sluice/internal/kit/tracefile"
)

// A workload is what is sent to the fleet.
type workload struct {
	requests []request // by time, but for the later turns of sessions
	starts   []int32   // those that come by the clock
	block    int       // tokens
	blocks   int       // different ones
	copies   int       // of the trace; 0 for sessions
	last     time.Duration
}

// A request of a workload.
type request struct {
	at      time.Duration // after the beginning; of a later turn it is not known before
	input   int
	output  int     // at least 1
	blocks  []int32 // of the whole prompt; equal numbers are equal prefixes. They may be shared with other requests
	session int32   // -1 for none
	next    int32   // the turn that follows, -1 for none
	gap     time.Duration
}

// newWorkload brings a trace to a fleet at a speed. The trace of a few workers
// becomes one of many by copies of it that have prompts of their own.
func newWorkload(t *tracefile.Trace, c *Config, speed float64) (*workload, error) {
	b := &builder{cfg: c, speed: speed, block: blockOf(t), rng: rand.New(rand.NewPCG(uint64(c.Seed), chanceOfTrace))}
	b.w = &workload{block: b.block}
	var err error
	if t.Sessions != nil {
		err = b.sessions(t)
	} else {
		err = b.copies(t)
	}
	if err != nil {
		return nil, err
	}
	b.w.blocks = int(b.fresh)
	return b.w, nil
}

// blockOf returns how many tokens a block of t has. A recording's are 512 bytes
// of text, which the recorder takes for 128 tokens; how many they were is seen
// from the lengths that the engines told.
func blockOf(t *tracefile.Trace) int {
	var tokens, blocks float64
	for _, r := range t.Rows {
		if t.Told && len(r.Blocks) > 0 {
			tokens += float64(r.Input)
			blocks += float64(len(r.Blocks)) + 0.5 // of a prompt's end there is no block
		}
	}
	if blocks == 0 {
		return t.BlockTokens
	}
	told := float64(t.BlockTokens)
	return max(1, int(min(4*told, max(told/4, tokens/blocks))+.5))
}

// Streams of chance: each purpose has its own.
const (
	chanceOfTrace uint64 = iota + 1
	chanceOfPolicy
)

// A builder makes a workload.
type builder struct {
	cfg   *Config
	speed float64
	block int
	rng   *rand.Rand
	w     *workload

	number  map[int64]int32 // of the trace's ids
	common  []bool          // by number: most requests have it
	seen    []int32         // by number: the last request that had it
	request int32           // being made
	fresh   int32           // the next block that nobody has
	total   int             // blocks in all prompts
}

// learn gives the trace's ids numbers, and finds those that at least half of n
// prompts have. Each call of list yields the ids of one of them, perhaps with
// repetitions.
func (b *builder) learn(n int, list func(yield func([]int64))) {
	b.number = make(map[int64]int32)
	var prompts, last []int32 // by number: that have it; the last one that has
	i := int32(0)
	list(func(ids []int64) {
		i++
		for _, id := range ids {
			k, ok := b.number[id]
			if !ok {
				k = int32(len(prompts))
				b.number[id] = k
				prompts, last = append(prompts, 0), append(last, 0)
			}
			if last[k] != i {
				last[k] = i
				prompts[k]++
			}
		}
	})
	b.common = make([]bool, len(prompts))
	for k, p := range prompts {
		b.common[k] = n > 1 && int(p)*2 >= n
	}
	b.seen = make([]int32, len(prompts))
	b.fresh = int32(len(prompts))
}

// A space is a copy's own blocks: where its numbers begin.
type space struct{ from int32 }

// space returns one for another copy. The first has the trace's own.
func (b *builder) space(first bool) (space, error) {
	if first {
		return space{}, nil
	}
	s := space{b.fresh}
	if int64(b.fresh)+int64(len(b.common)) > 1<<31-1 {
		return s, errTooMuch
	}
	b.fresh += int32(len(b.common))
	return s, nil
}

var errTooMuch = fmt.Errorf("it becomes more than %d requests or %d blocks; take fewer copies, less of it (--first), or a shorter --session-time", maxRequests, maxBlocks)

// prompt returns the blocks of a prompt in a space. What the ids leave open is
// text that nobody else has, and so is an id that comes again.
func (b *builder) prompt(ids []int64, input int, s space) ([]int32, error) {
	n := (input + b.block - 1) / b.block
	if b.total += n; b.total > maxBlocks || len(b.w.requests) >= maxRequests || int64(b.fresh)+int64(n) > 1<<31-1 {
		return nil, errTooMuch
	}
	b.request++
	blocks := make([]int32, n)
	for i := range blocks {
		if i < len(ids) {
			k := b.number[ids[i]]
			if b.seen[k] != b.request {
				b.seen[k] = b.request
				if blocks[i] = k; !b.common[k] {
					blocks[i] += s.from
				}
				continue
			}
		}
		blocks[i] = b.fresh
		b.fresh++
	}
	return blocks, nil
}

// add appends a request, if an engine has room for it.
func (b *builder) add(q request) error {
	if q.output < 1 {
		q.output = 1
	}
	if n := need(q.input, q.output, b.block) * b.block; n > b.cfg.KVTokens {
		return fmt.Errorf("it has a request of %d tokens and %d of its answer; --kv-tokens must be at least %d", q.input, q.output, n)
	}
	b.w.requests = append(b.w.requests, q)
	return nil
}

// at is when something comes that is at t in the trace.
func (b *builder) at(t time.Duration) (time.Duration, error) {
	s := float64(t) / b.speed
	if s > float64(maxTime) {
		return 0, fmt.Errorf("at --speed %v it takes longer than %v", b.speed, maxTime)
	}
	return time.Duration(s), nil
}

// copies makes requests of a trace of requests.
func (b *builder) copies(t *tracefile.Trace) error {
	rows := t.Rows
	if b.cfg.First > 0 {
		n, _ := slices.BinarySearchFunc(rows, b.cfg.First, func(r tracefile.Row, d time.Duration) int { return int(min(1, max(-1, r.At-d))) })
		rows = rows[:n]
	}
	b.learn(len(rows), func(yield func([]int64)) {
		for _, r := range rows {
			yield(r.Blocks)
		}
	})
	n := b.cfg.Copies
	if n == 0 {
		n = 1
		if !t.Told {
			n = max(1, b.cfg.Workers/4)
		}
	}
	b.w.copies = n
	tick := tickOf(rows)
	for k := range n {
		s, err := b.space(k == 0)
		if err != nil {
			return err
		}
		late := 0.0
		if k > 0 { // so that copies do not march in step
			late = b.rng.Float64() * float64(time.Minute)
		}
		for _, r := range rows {
			blocks, err := b.prompt(r.Blocks, r.Input, s)
			if err != nil {
				return err
			}
			at, err := b.at(r.At + time.Duration(late+b.rng.Float64()*float64(tick)))
			if err != nil {
				return err
			}
			if err := b.add(request{at: at, input: r.Input, output: r.Output, blocks: blocks, session: -1, next: -1}); err != nil {
				return err
			}
		}
	}
	if err := b.crowd(); err != nil {
		return err
	}
	slices.SortStableFunc(b.w.requests, func(x, y request) int { return int(min(1, max(-1, x.at-y.at))) })
	b.w.starts = make([]int32, len(b.w.requests))
	for i := range b.w.starts {
		b.w.starts[i] = int32(i)
	}
	b.w.last = b.w.requests[len(b.w.requests)-1].at
	return nil
}

// tickOf returns the time between two ticks of a trace whose clock was so coarse
// that many requests share a time, and 0 of others.
func tickOf(rows []tracefile.Row) time.Duration {
	ticks, least := 1, time.Duration(0)
	for i := 1; i < len(rows); i++ {
		if d := rows[i].At - rows[i-1].At; d > 0 {
			ticks++
			if least == 0 || d < least {
				least = d
			}
		}
	}
	if ticks*4 >= len(rows) {
		return 0
	}
	return least
}

// crowd adds requests over one document.
func (b *builder) crowd() error {
	if b.cfg.Crowd == 0 {
		return nil
	}
	end := time.Duration(0)
	for _, q := range b.w.requests {
		end = max(end, q.at)
	}
	const question, answer = 300, 300 // tokens
	document := b.fresh
	shared := b.cfg.CrowdTokens / b.block
	b.fresh += int32(shared)
	input := b.cfg.CrowdTokens + question
	for range int(b.cfg.Crowd * float64(len(b.w.requests)) / 3) {
		blocks, err := b.prompt(nil, input, space{})
		if err != nil {
			return err
		}
		for i := range shared {
			blocks[i] = document + int32(i)
		}
		at := end/3 + time.Duration(b.rng.Float64()*float64(end)/3)
		if err := b.add(request{at: at, input: input, output: answer, blocks: blocks, session: -1, next: -1}); err != nil {
			return err
		}
	}
	return nil
}

// sessions makes requests of a trace of sessions: they begin at random moments,
// and each has prompts of its own.
func (b *builder) sessions(t *tracefile.Trace) error {
	b.learn(len(t.Sessions), func(yield func([]int64)) {
		for _, s := range t.Sessions {
			var ids []int64
			for _, u := range s {
				ids = append(ids, u.Blocks...)
			}
			yield(ids)
		}
	})
	rate := b.cfg.Rate * float64(b.cfg.Workers) * b.speed // a second
	for at, n := 0.0, int32(0); ; n++ {
		at += b.rng.ExpFloat64() / rate
		if at > b.cfg.Duration.Seconds() {
			break
		}
		s, err := b.space(n == 0)
		if err != nil {
			return err
		}
		if err := b.session(t.Sessions[b.rng.IntN(len(t.Sessions))], n, time.Duration(at*float64(time.Second)), s); err != nil {
			return err
		}
	}
	if len(b.w.requests) == 0 {
		return fmt.Errorf("no session begins in --session-time %v at --session-rate %v; give more of either", b.cfg.Duration, b.cfg.Rate)
	}
	return nil
}

// session adds one session, whose first turn comes at the time given.
func (b *builder) session(turns tracefile.Session, n int32, at time.Duration, s space) error {
	b.w.starts = append(b.w.starts, int32(len(b.w.requests)))
	b.w.last = at
	for i, u := range turns {
		blocks, err := b.prompt(u.Blocks, u.Input, s)
		if err != nil {
			return err
		}
		next := int32(-1)
		if i+1 < len(turns) {
			next = int32(len(b.w.requests) + 1)
		}
		gap := time.Duration(0)
		if next >= 0 {
			// People and tools do not take the same time twice.
			gap = time.Duration(float64(u.Gap) * (0.5 + b.rng.Float64()))
		}
		if err := b.add(request{at: at, input: u.Input, output: u.Output, blocks: blocks, session: n, next: next, gap: gap}); err != nil {
			return err
		}
	}
	return nil
}
