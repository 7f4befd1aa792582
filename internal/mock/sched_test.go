package mock

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

// clocked answers one request and notes when what came, in the time of the
// synctest bubble.
type clocked struct {
	*httptest.ResponseRecorder
	begun  time.Time
	events []time.Duration
	ended  time.Duration
}

func (c *clocked) Flush() { c.events = append(c.events, time.Since(c.begun)) }

// timedCall asks h and returns what happened.
func timedCall(ctx context.Context, h http.Handler, body string) *clocked {
	c := &clocked{ResponseRecorder: httptest.NewRecorder(), begun: time.Now()}
	h.ServeHTTP(c, httptest.NewRequest(http.MethodPost, "/v1/completions", strings.NewReader(body)).WithContext(ctx))
	c.ended = time.Since(c.begun)
	return c
}

// together asks n times at once.
func together(n int, h http.Handler, body func(i int) string) []*clocked {
	cs := make([]*clocked, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { cs[i] = timedCall(context.Background(), h, body(i)) })
	}
	wg.Wait()
	return cs
}

// timed is a Config with round numbers: 1 ms for each prompt token, 10 ms for
// each token of a lone answer.
func timed() Config {
	cfg := DefaultConfig()
	cfg.PrefillRate, cfg.DecodeRate, cfg.DecodeSlowdown, cfg.Engine = 1000, 100, 0.1, VLLM
	cfg.DoubleContext, cfg.ContextTime = 0, 0
	cfg.Models = []string{"m"}
	return cfg
}

func prompt(words, from int) string {
	var b strings.Builder
	for i := range words {
		fmt.Fprintf(&b, "w%d ", from+i)
	}
	return b.String()
}

func body(words, from, tokens int) string {
	return fmt.Sprintf(`{"stream":true,"stream_options":{"include_usage":true},"max_tokens":%d,"prompt":%q}`, tokens, prompt(words, from))
}

func cachedTokens(t *testing.T, c *clocked) int {
	t.Helper()
	evs := parseEvents(t, c.Body)
	u := object1(t, []byte(evs[len(evs)-2].data))
	return int(at(t, u, "usage", "prompt_tokens_details", "cached_tokens").(float64))
}

func near(got, want time.Duration) bool {
	return (got - want).Abs() <= time.Microsecond*time.Duration(10)
}

func TestTimeOfOneAnswer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := newTestFleet(t, timed()).Engine(0).Handler()
		c := timedCall(context.Background(), h, body(100, 0, 5))
		// The first token comes with the prompt, four more follow, 10 ms each.
		if !near(c.events[0], 100*time.Millisecond) || !near(c.ended, 140*time.Millisecond) {
			t.Errorf("first after %v, all after %v; want 100ms and 140ms", c.events[0], c.ended)
		}
	})
}

func TestSecondTimeIsCached(t *testing.T) {
	for engine, want := range map[string]int{VLLM: 96, SGLang: 99, LlamaCPP: 99} {
		bubble.Test(t, func(t *testing.T) {
			cfg := timed()
			cfg.Engine = engine
			h := newTestFleet(t, cfg).Engine(0).Handler()
			first := timedCall(context.Background(), h, body(100, 0, 2))
			second := timedCall(context.Background(), h, body(100, 0, 2))
			if got := cachedTokens(t, first); got != 0 {
				t.Errorf("%s: %d tokens cached at first", engine, got)
			}
			if got := cachedTokens(t, second); got != want {
				t.Errorf("%s: %d tokens cached, want %d", engine, got, want)
			}
			if got, want := second.events[0], max(10, time.Duration(100-want))*time.Millisecond; !near(got, want) {
				t.Errorf("%s: first token after %v, want %v", engine, got, want)
			}
			// A prompt that only begins the same shares whole blocks.
			third := timedCall(context.Background(), h, fmt.Sprintf(`{"stream":true,"stream_options":{"include_usage":true},"max_tokens":2,"prompt":%q}`, prompt(40, 0)+"other words"))
			if got := cachedTokens(t, third); got != 32 {
				t.Errorf("%s: %d tokens of a shared prefix cached, want 32", engine, got)
			}
		})
	}
}

func TestNextTurnIsCached(t *testing.T) {
	h := handler(t, VLLM)
	first := fmt.Sprintf(`{"role":"user","content":%q}`, prompt(30, 0))
	v := ok(t, h, "/v1/chat/completions", `{"messages":[`+first+`]}`)
	answer := fmt.Sprintf(`{"role":"assistant","content":%q}`, at(t, v, "choices", 0, "message", "content"))
	v = ok(t, h, "/v1/chat/completions", `{"messages":[`+first+","+answer+`,{"role":"user","content":"and then"}]}`)
	// Role, 30 words, role, 32 words of the answer: 64 tokens, 4 blocks.
	if got := at(t, v, "usage", "prompt_tokens_details", "cached_tokens"); got != 64.0 {
		t.Errorf("%v tokens cached, want 64", got)
	}
}

func TestRateFallsWithBatch(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := newTestFleet(t, timed()).Engine(0).Handler()
		for _, n := range []int{1, 11} {
			cs := together(n, h, func(i int) string { return body(1, 1000*n+i, 101) })
			gap := (cs[0].ended - cs[0].events[0]) / 100
			want := time.Duration(float64(10*time.Millisecond) * (1 + 0.1*float64(n-1)))
			if d := gap - want; d.Abs() > want/50 {
				t.Errorf("%d streams: a token each %v, want %v", n, gap, want)
			}
		}
	})
}

func TestPrefillDelaysDecodes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.PrefillChunk = 50
		h := newTestFleet(t, cfg).Engine(0).Handler()
		var wg sync.WaitGroup
		var c *clocked
		wg.Go(func() { c = timedCall(context.Background(), h, body(1, 0, 40)) })
		time.Sleep(105 * time.Millisecond)
		timedCall(context.Background(), h, body(200, 50, 1))
		wg.Wait()
		longest := time.Duration(0)
		for i := 1; i < len(c.events); i++ {
			longest = max(longest, c.events[i]-c.events[i-1])
		}
		if !near(longest, 50*time.Millisecond) {
			t.Errorf("the longest gap is %v, want 50ms: a step with a chunk of 50 tokens", longest)
		}
	})
}

func TestReportKnowsWhatWaitsToBeComputed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.MaxRunning = 1
		e := newTestFleet(t, cfg).Engine(0)
		timedCall(context.Background(), e.Handler(), body(64, 0, 1))
		var wg sync.WaitGroup
		wg.Go(func() { timedCall(context.Background(), e.Handler(), body(1, 900, 100)) })
		time.Sleep(time.Millisecond)
		wg.Go(func() { timedCall(context.Background(), e.Handler(), body(100, 0, 1)) })
		time.Sleep(time.Millisecond)
		if l := e.sched.Load().load(); l.Running != 1 || l.Waiting != 1 || l.WaitingTokens != 100-64 {
			t.Errorf("%+v; want 36 tokens of one that waits", l)
		}
		wg.Wait()
	})
}

// A step reads all weights, however little is in it.
func TestNoStepIsShorterThanATokens(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := newTestFleet(t, timed()).Engine(0).Handler()
		if c := timedCall(context.Background(), h, body(1, 0, 3)); !near(c.events[0], 10*time.Millisecond) || !near(c.ended, 30*time.Millisecond) {
			t.Errorf("first after %v, all after %v; want 10ms and 30ms", c.events[0], c.ended)
		}
	})
}

func TestLongPromptsCostMoreThanTheirLength(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.DoubleContext, cfg.PrefillChunk = 1000, 500
		c := timedCall(context.Background(), newTestFleet(t, cfg).Engine(0).Handler(), body(1000, 0, 1))
		// 500 tokens before which 250 are, on average, and 500 before which 750 are.
		if want := 625*time.Millisecond + 875*time.Millisecond; !near(c.ended, want) {
			t.Errorf("after %v, want %v", c.ended, want)
		}
	})
}

func TestFullBatchesAreSlower(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.ContextTime, cfg.DecodeSlowdown = 5*time.Microsecond, 0
		c := timedCall(context.Background(), newTestFleet(t, cfg).Engine(0).Handler(), body(1000, 0, 2))
		// 1,001 tokens are there when the second is made.
		if gap := c.ended - c.events[0]; !near(gap, 15005*time.Microsecond) {
			t.Errorf("a gap of %v, want 15.005ms", gap)
		}
	})
}

// A request that does not fit yet waits without emptying the cache: those that
// run may be of use to the next.
func TestWhoWaitsEvictsNothing(t *testing.T) {
	c := newBlocks(4)
	if !c.reserve(3) {
		t.Fatal("no room in an empty cache")
	}
	var held []int32
	for h := range uint64(3) {
		held = append(held, c.fill(h))
	}
	for _, i := range []int{2, 1} { // the end leaves first
		c.release(held[i])
	}
	if c.reserve(4) || len(c.idx) != 3 || c.idle != 2 {
		t.Errorf("%d of 3 blocks are left, %d idle; want 3, 2", len(c.idx), c.idle)
	}
	if !c.reserve(2) || c.match([]uint64{0, 1, 2}) != 2 {
		t.Errorf("the first %d blocks are left, want 2", c.match([]uint64{0, 1, 2}))
	}
}

func TestMoreThanMaxRunningWait(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.MaxRunning, cfg.QueueLimit, cfg.DecodeSlowdown, cfg.PrefillRate = 2, 2, 0, 1e9
		e := newTestFleet(t, cfg).Engine(0)
		statuses := map[int]int{}
		var waited int
		for _, c := range together(6, e.Handler(), func(i int) string { return body(1, i, 11) }) {
			statuses[c.Code]++
			if c.Code == 200 && c.ended > 150*time.Millisecond {
				waited++
			}
		}
		if statuses[200] != 4 || statuses[503] != 2 || waited != 2 {
			t.Errorf("statuses %v, %d waited; want 4 served, 2 of them after others, and 2 refused", statuses, waited)
		}
		if got := e.Seen(); got.QueueFull != 2 || got.Served != 4 {
			t.Errorf("%+v", got)
		}
	})
}

func TestFullCacheMakesRequestsWait(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.KVTokens, cfg.ContextLength, cfg.DecodeSlowdown, cfg.PrefillRate = 160, 160, 0, 1e9
		e := newTestFleet(t, cfg).Engine(0)
		cs := together(2, e.Handler(), func(i int) string { return body(80, 1000*i, 11) }) // 6 of 10 blocks each
		first, second := min(cs[0].ended, cs[1].ended), max(cs[0].ended, cs[1].ended)
		if !near(first, 110*time.Millisecond) || !near(second, 220*time.Millisecond) {
			t.Errorf("ended after %v and %v, want 110ms and 220ms", first, second)
		}
		if l := e.sched.Load().load(); l.Running != 0 || l.Waiting != 0 || e.sched.Load().cache.reserved != 0 {
			t.Errorf("left over: %+v", l)
		}
	})
}

func TestClientLeaves(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, stream := range []bool{true, false} {
			e := newTestFleet(t, timed()).Engine(0)
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			wg.Go(func() {
				timedCall(ctx, e.Handler(), fmt.Sprintf(`{"stream":%v,"max_tokens":1000,"prompt":"x"}`, stream))
			})
			time.Sleep(100 * time.Millisecond)
			if l := e.sched.Load().load(); l.Running != 1 || l.Throughput == 0 {
				t.Errorf("before: %+v", l)
			}
			cancel()
			wg.Wait()
			if l := e.sched.Load().load(); l.Running != 0 || l.UsedTokens > 16 {
				t.Errorf("after: %+v", l)
			}
			if got := e.Seen(); got.Cancelled != 1 || got.Requests != 1 {
				t.Errorf("stream %v: %+v", stream, got)
			}
		}
	})
}

func TestAbort(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.Engine = SGLang
		h := newTestFleet(t, cfg).Engine(0).Handler()
		var wg sync.WaitGroup
		var c *clocked
		wg.Go(func() {
			c = timedCall(context.Background(), h, `{"rid":"r9","stream":true,"max_tokens":1000,"prompt":"x"}`)
		})
		time.Sleep(100 * time.Millisecond)
		if w := ask1(t, h, http.MethodPost, "/abort_request", `{"rid":"r9"}`); w.Code != 200 {
			t.Errorf("status %d", w.Code)
		}
		wg.Wait()
		if !strings.Contains(c.Body.String(), "aborted") || c.ended > 110*time.Millisecond {
			t.Errorf("ended after %v with %s", c.ended, c.Body)
		}
	})
}

func TestSpeedIsAFactor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.Speed = 10
		c := timedCall(context.Background(), newTestFleet(t, cfg).Engine(0).Handler(), body(100, 0, 5))
		if !near(c.ended, 14*time.Millisecond) {
			t.Errorf("took %v, want 14ms", c.ended)
		}
	})
}

func TestThousandStreams(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.MaxRunning = 1000
		e := newTestFleet(t, cfg).Engine(0)
		together(1000, e.Handler(), func(i int) string { return body(10, 10*i, 20) })
		if got := e.Seen(); got.Served != 1000 {
			t.Errorf("%+v", got)
		}
	})
}

// TestCacheStaysWithinItsSize fills the cache many times over, with requests
// that leave at every stage.
func TestCacheStaysWithinItsSize(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.KVTokens, cfg.ContextLength, cfg.PrefillChunk = 640, 320, 32
		for _, cfg.Engine = range []string{VLLM, SGLang} {
			e := newTestFleet(t, cfg).Engine(0)
			d := dice(1)
			var wg sync.WaitGroup
			for i := range 300 {
				words, from, wait, patience := 1+d.below(200), 20*d.below(30), d.below(2000), 1+d.below(3000)
				wg.Go(func() {
					time.Sleep(time.Duration(wait) * time.Millisecond)
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(patience)*time.Millisecond)
					defer cancel()
					timedCall(ctx, e.Handler(), body(words, from, 1+i%60))
				})
			}
			wg.Wait()
			s := e.sched.Load()
			if s.cache.reserved != 0 || len(s.cache.idx) > s.cache.cap || s.busy {
				t.Errorf("reserved %d, %d of %d blocks, busy %v", s.cache.reserved, len(s.cache.idx), s.cache.cap, s.busy)
			}
			s.flush()
			if n := len(s.cache.idx); n != 0 {
				t.Errorf("%d blocks are held by nobody who runs", n)
			}
			if seen := e.Seen(); seen.Served == 0 || seen.Cancelled == 0 || seen.Served+seen.Cancelled != 300 {
				t.Errorf("%+v", seen)
			}
		}
	})
}
