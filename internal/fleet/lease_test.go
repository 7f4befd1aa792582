package fleet

import (
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice/internal/kit/breaker"
)

// TestLoadReturnsToZero holds that a worker's load is that of the requests that
// it has, and nothing when all have ended, whatever they are charged, however
// they end, in whatever order, and whatever happens to the worker meanwhile.
func TestLoadReturnsToZero(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := still(t)
		w.br.Configure(breaker.Config{Failures: rapid.IntRange(1, 4).Draw(rt, "failures"), Successes: 1, Rest: time.Second, Window: time.Minute})
		now := time.Now()
		type open struct {
			Lease
			began           bool
			prefill, prompt int64
		}
		var running []*open
		var sent int64
		tokens := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(-10, 10), rapid.Int64Range(1, 1<<30))
		for range rapid.IntRange(1, 200).Draw(rt, "steps") {
			switch rapid.IntRange(0, 8).Draw(rt, "what") {
			case 0, 1, 2:
				l, ok := w.Acquire(now)
				if !ok {
					continue
				}
				o := &open{Lease: l}
				if rapid.Bool().Draw(rt, "charged") {
					o.prefill, o.prompt = tokens.Draw(rt, "prefill"), tokens.Draw(rt, "prompt")
					o.Charge(o.prefill, o.prompt)
				}
				o.prefill, o.prompt = max(o.prefill, 0), max(o.prompt, 0)
				sent += o.prompt
				running = append(running, o)
			case 3:
				if len(running) > 0 {
					o := rapid.SampledFrom(running).Draw(rt, "which")
					o.Began()
					o.Answered(now)
					o.began = true
				}
			case 4, 5:
				if len(running) > 0 {
					i := rapid.IntRange(0, len(running)-1).Draw(rt, "which")
					running[i].Release(now, breaker.Outcome(rapid.IntRange(0, 2).Draw(rt, "outcome")))
					running = append(running[:i], running[i+1:]...)
				}
			case 6:
				now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(rt, "ms")) * time.Millisecond)
			case 7:
				w.Report(&Load{At: now, Running: rapid.IntRange(-1, 9).Draw(rt, "running"), Waiting: rapid.IntRange(-1, 9).Draw(rt, "waiting")})
			case 8:
				switch rapid.IntRange(0, 2).Draw(rt, "fate") {
				case 0:
					w.br.Reset()
				case 1:
					w.Forgot()
				case 2:
					_ = w.reg.Remove(w.ID()) // those who hold it finish
				}
			}
			var prefill, context int64
			for _, o := range running {
				context += o.prompt
				if !o.began {
					prefill += o.prefill
				}
			}
			if w.InFlight() != int64(len(running)) || w.Prefill() != prefill || w.Context() != context || w.Sent() != sent {
				rt.Fatalf("%d in flight, %d to compute, %d of context, %d sent; want %d, %d, %d, %d",
					w.InFlight(), w.Prefill(), w.Context(), w.Sent(), len(running), prefill, context, sent)
			}
		}
		started := w.Started()
		for _, o := range running {
			o.Release(now, breaker.Failure)
		}
		if w.InFlight() != 0 || w.Prefill() != 0 || w.Context() != 0 || w.Started() != started || w.Served() != started {
			rt.Fatalf("in the end: %d in flight, %d to compute, %d of context, %d of %d served", w.InFlight(), w.Prefill(), w.Context(), w.Served(), w.Started())
		}
	})
}

// TestLoadReturnsToZeroUnderWay holds the same for many requests at once.
func TestLoadReturnsToZeroUnderWay(t *testing.T) {
	w := still(t)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 500 {
				now := time.Now()
				l, ok := w.Acquire(now)
				if !ok {
					continue
				}
				l.Charge(int64(n*i), int64(n*i+1))
				if i%3 == 0 {
					l.Began()
				}
				if n := w.InFlight(); n < 1 {
					t.Errorf("%d in flight while there is one", n)
				}
				l.Release(now, breaker.Outcome(i%3))
				w.Report(&Load{At: now, Running: i, Waiting: i % 20})
			}
		})
	}
	wg.Wait()
	if w.InFlight() != 0 || w.Prefill() != 0 || w.Context() != 0 {
		t.Errorf("in the end: %d in flight, %d to compute, %d of context", w.InFlight(), w.Prefill(), w.Context())
	}
}
