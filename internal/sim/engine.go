package sim

import (
	"math"
	"time"
)

// A run is a request at an engine.
type run struct {
	request int32 // its number in the Workload
	input   int   // tokens
	output  int
	blocks  []int32
	begun   time.Duration // when it was sent

	held     []int32 // where in the cache its blocks are
	reserved int     // blocks of room for what is not in the cache: the answer, and what is not computed yet
	cached   int     // tokens that were there
	computed int     // tokens of the prompt that are there now
	answered int     // tokens of the answer
	first    time.Duration

	place // the gateway's
}

// An engine serves runs in steps, as vLLM and SGLang do: continuous batching,
// prompts in chunks, first come first served, and a cache of prefixes. A request
// is let in when there is room in the KV cache for its prompt and its whole
// answer, and nobody overtakes it.
type engine struct {
	cfg   *Config
	block int // tokens
	room  int // blocks that the KV cache holds
	cache *cache

	reserved int // blocks, of all runs
	waiting  []*run
	reading  []*run // prompts that are being computed, the first ones in this step
	writing  []*run // answers
	context  int    // tokens of those that are writing

	chunks []int         // tokens that this step computes of reading, each
	begun  time.Duration // when this step began
	each   time.Duration // what a step takes
	steps  int           // that are made as one, because nothing happens in between
	busy   bool
	epoch  int32 // of the step's end, which may be brought forward

	// Counted.
	prefilled int // tokens computed
	written   int // tokens answered
	asked     int // tokens of prompts that were let in
	found     int // of those, in the cache
	served    int // requests sent to it
	said      int // of written, told in load reports
	worked    time.Duration
}

func newEngine(cfg *Config, block int) *engine {
	return &engine{cfg: cfg, block: block, room: cfg.KVTokens / block, cache: newCache()}
}

// folded is how many steps are made as one when all that happens is that
// answers grow.
const folded = 16

// endless is what a step takes at most: it ends after any replay, and before the
// clock overflows.
const endless = 4 * maxTime

// need returns how many blocks a run takes at most.
func need(input, output, block int) int { return (input+block-1)/block + (output+block-1)/block }

// letIn moves the first that waits to the prompts, if there is room.
func (e *engine) letIn() bool {
	if len(e.waiting) == 0 || len(e.reading)+len(e.writing) >= e.cfg.MaxRunning {
		return false
	}
	r := e.waiting[0]
	hit := e.cache.match(r.blocks)
	fresh := need(r.input, r.output, e.block) - hit
	idle := 0 // of the hit, those that nobody else uses
	for _, b := range r.blocks[:hit] {
		if e.cache.node[e.cache.at[b]].users == 0 {
			idle++
		}
	}
	if e.room-e.cache.held()-idle-e.reserved < fresh {
		return false
	}
	for _, b := range r.blocks[:hit] {
		r.held = append(r.held, e.cache.use(b))
	}
	for e.room-e.cache.blocks()-e.reserved < fresh {
		e.cache.evict()
	}
	e.reserved += fresh
	r.reserved = fresh
	r.cached = min(hit*e.block, r.input-1) // the last token is computed: an answer begins with it
	r.computed = r.cached
	e.asked += r.input
	e.found += r.cached
	e.waiting[0] = nil
	e.waiting = e.waiting[1:]
	e.reading = append(e.reading, r)
	return true
}

// step begins a step, and reports false if there is nothing to do.
func (e *engine) step(now time.Duration) bool {
	budget, work := e.cfg.Chunk, 0.0 // work in seconds
	e.chunks = e.chunks[:0]
	for i := 0; budget > 0; i++ {
		if i == len(e.reading) && !e.letIn() {
			break
		}
		r := e.reading[i]
		n := min(budget, r.input-r.computed)
		budget -= n
		e.chunks = append(e.chunks, n)
		context := float64(r.computed) + float64(n)/2
		work += float64(n) / e.cfg.PrefillRate * (1 + context/float64(e.cfg.DoubleContext))
	}
	e.busy = len(e.chunks) > 0 || len(e.writing) > 0
	if !e.busy {
		return false
	}
	e.begun, e.steps = now, 1
	each := max(float64(e.cfg.StepTime), math.Round(work*float64(time.Second))) +
		float64(len(e.writing))*float64(e.cfg.SequenceTime) + float64(e.context)*float64(e.cfg.ContextTime)
	e.each = time.Duration(min(each, float64(endless)))
	if len(e.chunks) == 0 && len(e.waiting) == 0 && e.each <= longest {
		e.steps = folded
		for _, r := range e.writing {
			e.steps = max(1, min(e.steps, r.output-r.answered))
		}
	}
	e.epoch++
	return true
}

// end returns when the step ends.
func (e *engine) end() time.Duration { return e.begun + time.Duration(e.steps)*e.each }

// hurry cuts steps that are made as one after the present one, because somebody
// came. It reports whether that changed when they end.
func (e *engine) hurry(now time.Duration) bool {
	n := int((now-e.begun)/e.each) + 1
	if n >= e.steps {
		return false
	}
	e.steps = n
	e.epoch++
	return true
}

// finish ends the step. It calls began for each run whose first token came, and
// ended for each that is through.
func (e *engine) finish(now time.Duration, began, ended func(*run)) {
	e.worked += now - e.begun
	writing := e.writing[:0]
	for _, r := range e.writing {
		r.answered += e.steps
		e.context += e.steps
		e.written += e.steps
		if r.answered < r.output {
			writing = append(writing, r)
			continue
		}
		e.leave(r)
		ended(r)
	}
	reading := e.reading[:0]
	for i, r := range e.reading {
		if i < len(e.chunks) {
			e.compute(r, e.chunks[i])
		}
		if r.computed < r.input {
			reading = append(reading, r)
			continue
		}
		r.first, r.answered = now, 1
		e.context += r.input + 1
		e.written++
		began(r)
		if r.answered < r.output {
			writing = append(writing, r)
			continue
		}
		e.leave(r)
		ended(r)
	}
	clear(e.reading[len(reading):])
	e.writing, e.reading = writing, reading
}

// compute puts what a step has computed of r's prompt into the cache.
func (e *engine) compute(r *run, tokens int) {
	r.computed += tokens
	e.prefilled += tokens
	full := r.computed / e.block
	if r.computed == r.input {
		full = len(r.blocks)
	}
	for n := len(r.held); n < full; n++ {
		r.held = append(r.held, e.cache.use(r.blocks[n]))
		r.reserved--
		e.reserved--
	}
}

// leave gives back what r has used.
func (e *engine) leave(r *run) {
	e.context -= r.input + r.answered
	e.reserved -= r.reserved
	r.reserved = 0
	for i := len(r.held) - 1; i >= 0; i-- {
		e.cache.leave(r.held[i])
	}
	r.held = r.held[:0]
}
