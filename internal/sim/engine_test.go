package sim

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// an engine of round numbers: a token takes a millisecond, a step at least ten.
func roundConfig() *Config {
	c := DefaultConfig()
	c.PrefillRate, c.DoubleContext, c.Chunk, c.MaxRunning = 1000, 1<<30, 100, 8
	c.StepTime, c.SequenceTime, c.ContextTime = 10*time.Millisecond, time.Millisecond, 0
	c.KVTokens = 1000
	return &c
}

// drive runs e until it has nothing to do, and returns what happened to whom
// and when.
func drive(t *testing.T, e *engine) (began, ended map[*run]time.Duration) {
	t.Helper()
	began, ended = map[*run]time.Duration{}, map[*run]time.Duration{}
	now := time.Duration(0)
	for n := 0; e.step(now); n++ {
		if n > 1e6 {
			t.Fatal("the engine works for ever")
		}
		now = e.end()
		e.finish(now, func(r *run) { began[r] = now.Round(time.Microsecond) }, func(r *run) { ended[r] = now.Round(time.Microsecond) })
		if used := e.cache.blocks() + e.reserved; used > e.room {
			t.Fatalf("%d blocks are in use at %v; there is room for %d", used, now, e.room)
		}
	}
	if e.reserved != 0 || e.cache.held() != 0 || e.context != 0 {
		t.Fatalf("idle, %d blocks are reserved, %d held, %d tokens of context", e.reserved, e.cache.held(), e.context)
	}
	return began, ended
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func prompt(from, n int) []int32 {
	b := make([]int32, n)
	for i := range b {
		b[i] = int32(from + i)
	}
	return b
}

func TestAPromptTakesItsTokensAndAnAnswerItsSteps(t *testing.T) {
	e := newEngine(roundConfig(), 10)
	r := &run{input: 250, output: 5, blocks: prompt(0, 25)}
	e.waiting = append(e.waiting, r)
	began, ended := drive(t, e)
	// Three chunks of 100, 100 and 50 tokens, then four steps of 10 + 1 ms.
	if r.cached != 0 || began[r] != ms(250) || ended[r] != ms(250+4*11) {
		t.Errorf("%d cached, began %v, ended %v", r.cached, began[r], ended[r])
	}
	again := &run{input: 251, output: 1, blocks: prompt(0, 26)}
	e.waiting = append(e.waiting, again)
	began, ended = drive(t, e)
	if again.cached != 250 || began[again] != ms(10) || ended[again] != ms(10) {
		t.Errorf("the second time: %d cached, began %v, ended %v", again.cached, began[again], ended[again])
	}
	whole := &run{input: 250, output: 1, blocks: prompt(0, 25)}
	e.waiting = append(e.waiting, whole)
	drive(t, e)
	if whole.cached != 249 {
		t.Errorf("of a prompt that is all there, %d tokens of 250 were not computed, want 249: the last one begins the answer", whole.cached)
	}
}

func TestNobodyOvertakesInTheQueue(t *testing.T) {
	e := newEngine(roundConfig(), 10) // room for 100 blocks
	a := &run{input: 600, output: 100, blocks: prompt(0, 60)}
	b := &run{input: 500, output: 10, blocks: prompt(100, 50)}
	c := &run{input: 10, output: 1, blocks: prompt(200, 1)}
	e.waiting = append(e.waiting, a, b, c)
	began, ended := drive(t, e)
	if began[b] <= ended[a] || began[c] < began[b] {
		t.Errorf("a ended at %v, b began at %v and c at %v; there is no room for b beside a, and c is behind it", ended[a], began[b], began[c])
	}
	if e.cache.blocks() > 100 {
		t.Errorf("%d blocks are in the cache", e.cache.blocks())
	}
}

func TestStepsMadeAsOneAreCutShort(t *testing.T) {
	e := newEngine(roundConfig(), 10)
	e.waiting = append(e.waiting, &run{input: 10, output: 900, blocks: prompt(0, 1)})
	nothing := func(*run) {}
	e.step(0)
	e.finish(e.end(), nothing, nothing)
	e.step(ms(10))
	if e.steps != folded || e.end() != ms(10+16*11) {
		t.Fatalf("%d steps until %v", e.steps, e.end())
	}
	if !e.hurry(ms(10+25)) || e.end() != ms(10+33) {
		t.Errorf("somebody came in the third step: it ends at %v", e.end())
	}
	if e.hurry(ms(10 + 26)) {
		t.Error("it was cut short already")
	}
}

// TestAnEngineKeepsItsRoom: whatever comes, the cache and what is reserved fit,
// nobody is forgotten, and nothing is held in the end.
func TestAnEngineKeepsItsRoom(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		c := roundConfig()
		c.Chunk = 1 + rng.IntN(200)
		c.MaxRunning = 1 + rng.IntN(8)
		e := newEngine(c, 1+rng.IntN(16))
		var all []*run
		for range 200 {
			r := &run{input: 1 + rng.IntN(400), output: 1 + rng.IntN(100)}
			r.blocks = prompt(1000*rng.IntN(6), (r.input+e.block-1)/e.block)
			if n := rng.IntN(len(r.blocks)); rng.IntN(2) == 0 { // goes its own way from there
				for i := n; i < len(r.blocks); i++ {
					r.blocks[i] += int32(10_000 * (1 + rng.IntN(3)))
				}
			}
			if need(r.input, r.output, e.block) <= e.room {
				all = append(all, r)
			}
		}
		e.waiting = slices.Clone(all)
		began, ended := drive(t, e)
		if len(began) != len(all) || len(ended) != len(all) {
			t.Fatalf("seed %d: of %d requests %d began and %d ended", seed, len(all), len(began), len(ended))
		}
		for _, r := range all {
			if r.cached >= r.input || r.answered != r.output || ended[r] < began[r] {
				t.Fatalf("seed %d: %+v, began %v, ended %v", seed, r, began[r], ended[r])
			}
		}
	}
}

func TestTheLeastRecentlyUsedBlockGoesFirst(t *testing.T) {
	c := newCache()
	for b := range int32(4) {
		c.leave(c.use(b))
	}
	c.leave(c.use(0))
	i := c.use(1) // in use: it cannot go
	c.evict()
	c.evict()
	if got := []int{c.match([]int32{0}), c.match([]int32{1}), c.match([]int32{2}), c.match([]int32{3})}; !slices.Equal(got, []int{1, 1, 0, 0}) {
		t.Errorf("there are %v of blocks 0 to 3; want the first two", got)
	}
	c.leave(i)
	if c.idle != 2 || c.held() != 0 || c.blocks() != 2 {
		t.Errorf("%d idle, %d held, %d in all", c.idle, c.held(), c.blocks())
	}
}
