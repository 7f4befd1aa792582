package bench

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

func TestClosedLoopMeasuresWhatTheServerDoes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("x-smg-routed-worker-id", "http://w1")
			stream(w, 11, 100*time.Millisecond, 10*time.Millisecond)
		})
		r := mustRun(t, t.Context(), config(func(c *Config) { c.Stream, c.Concurrency, c.Duration = true, 4, 10*time.Second }), w)
		near(t, "ttft p50", r.TTFT.P50, 100)
		near(t, "ttft max", r.TTFT.Max, 100)
		near(t, "gap mean", r.Gap.Mean, 10)
		near(t, "gap p99.9", r.Gap.P999, 10)
		near(t, "tpot p50", r.TPOT.P50, 10)
		near(t, "latency p50", r.Latency.P50, 200)
		near(t, "requests/s", r.RequestsPerS, 20)
		near(t, "output tokens/s", r.OutputTokensPerS, 220)
		near(t, "measured", r.MeasuredS, 10)
		if q := r.Requests; q.OK != 200 || q.Failed != 0 || r.Gap.Count != 2000 {
			t.Errorf("requests %+v with %d gaps, want 200 with 2000", q, r.Gap.Count)
		}
		if k := r.Tokens; k.Input != 20000 || k.Cached != 12000 || k.Output != 2200 || k.WithUsage != 200 {
			t.Errorf("tokens %+v", k)
		}
		if r.Workers["http://w1"] != 200 || r.Statuses["200"] != 200 {
			t.Errorf("workers %v, statuses %v", r.Workers, r.Statuses)
		}
		if r.StoppedBy != "duration" || r.Interrupted {
			t.Errorf("stopped by %q", r.StoppedBy)
		}
	})
}

// A request that is only partly within the measured time counts for that part:
// with answers of 4 s and a load of 10 s, counting whole ones would be off by a
// fifth either way.
func TestRatesDoNotDependOnWhereTheTimeEnds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(4 * time.Second)
			answerJSON(w, unary)
		})
		r := mustRun(t, t.Context(), config(func(c *Config) { c.Concurrency, c.Duration, c.Warmup = 8, 10*time.Second, time.Second }), w)
		near(t, "requests/s", r.RequestsPerS, 2)
		near(t, "output tokens/s", r.OutputTokensPerS, 4)
		near(t, "drain", r.DrainS, 1)
	})
}

// One request stalls for a second on the only connection. Those that were due
// meanwhile waited, and an honest open loop says so.
func TestOpenLoopCountsFromThePlannedTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var n atomic.Int64
		w := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if n.Add(1) == 300 {
				time.Sleep(time.Second)
			}
			time.Sleep(time.Millisecond)
			answerJSON(w, unary)
		})
		r := mustRun(t, t.Context(), config(func(c *Config) {
			c.Rate, c.Arrival, c.Duration, c.Connections = 100, "constant", 10*time.Second, 1
		}), w)
		if r.Requests.OK != 1000 {
			t.Errorf("requests %+v, want 1000", r.Requests)
		}
		near(t, "p50", r.Latency.P50, 1)
		near(t, "max", r.Latency.Max, 1001)
		if r.Latency.P99 < 850 || r.Latency.P95 < 400 {
			t.Errorf("p95 %v ms, p99 %v ms: the stall does not show in those that waited behind it", r.Latency.P95, r.Latency.P99)
		}
	})
}

func TestPoissonArrivalsKeepTheRateAndTheSeed(t *testing.T) {
	var before []time.Duration
	for range 2 {
		bubble.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var came []time.Duration
			start := time.Now()
			w := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				mu.Lock()
				came = append(came, time.Since(start))
				mu.Unlock()
				answerJSON(w, unary)
			})
			r := mustRun(t, t.Context(), config(func(c *Config) { c.Rate, c.Duration, c.Seed = 200, 20*time.Second, 7 }), w)
			if n := r.Requests.OK; n < 3700 || n > 4300 {
				t.Errorf("%d requests in 20 s at 200/s", n)
			}
			short := 0
			for i := 1; i < len(came); i++ {
				if came[i]-came[i-1] < 5*time.Millisecond {
					short++
				}
			}
			// 1-1/e of exponential pauses are below their mean.
			if p := float64(short) / float64(len(came)); p < .58 || p > .68 {
				t.Errorf("%.2f of pauses are below the mean, want 0.63", p)
			}
			if before != nil && (len(before) != len(came) || before[100] != came[100]) {
				t.Error("the same seed gave other times")
			}
			before = came
		})
	}
}

// A server that has seen a prompt answers it from its cache, so a second run
// must not send the prompts of the first unless it is asked to.
func TestRunsDoNotRepeatPrompts(t *testing.T) {
	seen := map[string]int{}
	for _, seed := range []int64{0, 0, 5, 5} {
		bubble.Test(t, func(t *testing.T) {
			w := serve(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				seen[string(b)]++
				answerJSON(w, unary)
			})
			r := mustRun(t, t.Context(), config(func(c *Config) { c.Concurrency, c.Requests, c.Seed, c.PromptTokens = 1, 10, seed, 64 }), w)
			if r.Config.Seed == 0 || seed != 0 && r.Config.Seed != seed {
				t.Errorf("the result tells seed %d", r.Config.Seed)
			}
		})
	}
	if len(seen) != 30 {
		t.Errorf("%d different prompts in two runs without a seed and two with the same, want 30", len(seen))
	}
}

func TestWhatCannotBeSentIsCountedAsShed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			answerJSON(w, unary)
		})
		r := mustRun(t, t.Context(), config(func(c *Config) {
			c.Rate, c.Arrival, c.Duration, c.MaxInFlight = 10, "constant", 10*time.Second, 3
		}), w)
		if q := r.Requests; q.Planned != 100 || q.Shed < 66 || q.Shed > 72 {
			t.Errorf("requests %+v, want 100 planned and about 70 shed", q)
		}
	})
}

func TestRequestsBoundIsExact(t *testing.T) {
	for _, change := range []func(*Config){
		func(c *Config) { c.Concurrency = 7 },
		func(c *Config) { c.Rate = 1000 },
		func(c *Config) { c.Concurrency, c.Warmup = 7, 100*time.Millisecond },
	} {
		bubble.Test(t, func(t *testing.T) {
			var n atomic.Int64
			w := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				n.Add(1)
				time.Sleep(3 * time.Millisecond)
				answerJSON(w, unary)
			})
			r := mustRun(t, t.Context(), config(func(c *Config) { c.Requests = 500; change(c) }), w)
			if q := r.Requests; q.OK != 500 || n.Load() != 500+q.Warmup {
				t.Errorf("%+v, server saw %d; want 500 measured", q, n.Load())
			}
			if r.StoppedBy != "requests" {
				t.Errorf("stopped by %q", r.StoppedBy)
			}
		})
	}
}

func TestWarmupIsNotMeasured(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		start := time.Now()
		w := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if time.Since(start) < 2*time.Second {
				time.Sleep(200 * time.Millisecond)
				http.Error(w, "loading", http.StatusServiceUnavailable)
				return
			}
			time.Sleep(time.Millisecond)
			answerJSON(w, unary)
		})
		r := mustRun(t, t.Context(), config(func(c *Config) { c.Concurrency, c.Warmup, c.Duration = 1, 3*time.Second, time.Second }), w)
		if r.Requests.Failed != 0 || r.Requests.WarmupFailed != 10 || len(r.Errors) != 0 {
			t.Errorf("%+v %v", r.Requests, r.Errors)
		}
		near(t, "max", r.Latency.Max, 1)
		near(t, "requests/s", r.RequestsPerS, 1000)
	})
}

func TestInterruptedRunEndsAtOnceAndStillTells(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var n atomic.Int64
		w := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if n.Add(1) > 100 {
				<-r.Context().Done()
				return
			}
			time.Sleep(10 * time.Millisecond)
			answerJSON(w, unary)
		})
		start := time.Now()
		time.AfterFunc(5*time.Second, cancel)
		r := mustRun(t, ctx, config(func(c *Config) { c.Concurrency, c.Duration = 10, time.Hour }), w)
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("ended after %v", d)
		}
		if !r.Interrupted || r.Requests.OK != 100 || r.Requests.Unfinished != 10 || r.Requests.Failed != 0 {
			t.Errorf("interrupted %v, %+v", r.Interrupted, r.Requests)
		}
	})
}

func TestInterruptedInWarmup(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, func(w http.ResponseWriter, _ *http.Request) { time.Sleep(time.Second); answerJSON(w, unary) })
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		r := mustRun(t, ctx, config(func(c *Config) { c.Warmup = time.Minute }), w)
		if !r.Interrupted || r.MeasuredS != 0 || r.RequestsPerS != 0 {
			t.Errorf("%+v", r)
		}
		var b strings.Builder
		if err := r.WriteTable(&b, true); err != nil {
			t.Error(err)
		}
	})
}

func TestTooManyErrorsEndTheRun(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Millisecond)
			http.Error(w, "no", http.StatusTeapot)
		})
		r := mustRun(t, t.Context(), config(func(c *Config) { c.Concurrency, c.Duration, c.MaxErrors = 4, time.Hour, 50 }), w)
		if r.StoppedBy != "max_errors" || r.Interrupted || r.Requests.Failed < 50 || r.Requests.Failed > 54 {
			t.Errorf("stopped by %q, %+v", r.StoppedBy, r.Requests)
		}
	})
}

func TestTraceIsSentAtItsTimes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace.jsonl")
	err := os.WriteFile(file, []byte(`{"timestamp": 1000, "input_length": 9, "output_length": 6, "hash_ids": [1, 2, 3]}
{"timestamp": 4000, "input_length": 8, "output_length": 5, "hash_ids": [1, 2]}

{"timestamp": 10000, "input_length": 6, "output_length": 0, "hash_ids": []}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	bubble.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var came []time.Duration
		var bodies []string
		w := serve(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			came, bodies = append(came, time.Since(start)), append(bodies, string(b))
			mu.Unlock()
			answerJSON(w, unary)
		})
		r := mustRun(t, t.Context(), config(func(c *Config) { c.Endpoint, c.Trace, c.TraceSpeed, c.TraceBlock = "completions", file, 2, 4 }), w)
		want := []time.Duration{0, 1500 * time.Millisecond, 4500 * time.Millisecond}
		for i, d := range want {
			if len(came) != 3 || came[i] != d {
				t.Fatalf("requests came at %v, want %v", came, want)
			}
		}
		if r.StoppedBy != "trace" || r.Requests.OK != 3 || r.Config.Mode != "trace" || r.Config.Trace != "trace.jsonl" {
			t.Errorf("%+v, stopped by %q, %+v", r.Requests, r.StoppedBy, r.Config)
		}
		one, two := promptOf(t, bodies[0]), promptOf(t, bodies[1])
		if len(strings.Fields(one)) != 9 || len(strings.Fields(two)) != 8 || !strings.HasPrefix(one, two) {
			t.Errorf("prompts of equal blocks differ:\n%s\n%s", one, two)
		}
		has(t, "body", bodies[0], `"max_tokens":6`)
		has(t, "body", bodies[2], `"max_tokens":1`)
	})
}

func TestTraceWithConcurrencyIgnoresTimes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace.jsonl")
	row := `{"timestamp": 3600000, "input_length": 9, "output_length": 6}` + "\n"
	if err := os.WriteFile(file, []byte(`{"timestamp": 0, "input_length": 9, "output_length": 6}`+"\n"+strings.Repeat(row, 19)), 0o600); err != nil {
		t.Fatal(err)
	}
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, func(w http.ResponseWriter, _ *http.Request) { time.Sleep(time.Second); answerJSON(w, unary) })
		start := time.Now()
		r := mustRun(t, t.Context(), config(func(c *Config) { c.Trace, c.Concurrency = file, 10 }), w)
		if r.Requests.OK != 20 || time.Since(start) != 2*time.Second {
			t.Errorf("%+v in %v, want 20 in 2s", r.Requests, time.Since(start))
		}
	})
}

func TestNothingIsSentWhenSomethingIsWrong(t *testing.T) {
	f := func(want string, change func(*Config)) {
		t.Helper()
		_, err := Run(t.Context(), config(change), nil, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	f("model is missing", func(c *Config) { c.Model = "" })
	f("opening trace", func(c *Config) { c.Trace = "testdata/none.jsonl" })
	f("process 2147483647", func(c *Config) { c.PID = 1<<31 - 1 })
}

type lines struct {
	mu sync.Mutex
	b  strings.Builder // guarded by mu
	at []time.Time     // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = append(l.at, time.Now())
	return l.b.Write(p)
}

func TestProgressIsOneLineThatEndsBlank(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			stream(w, 3, 40*time.Millisecond, 5*time.Millisecond)
		})
		var l lines
		if _, err := run(t.Context(), config(func(c *Config) { c.Stream, c.Duration, c.Warmup = true, 2*time.Second, time.Second }), &l, w); err != nil {
			t.Fatal(err)
		}
		out := l.b.String()
		if strings.Contains(out, "\n") || !strings.HasSuffix(out, eraseLine) {
			t.Errorf("progress is not one line that ends blank: %q", out)
		}
		if n := len(l.at); n < 10 || n > 16 {
			t.Errorf("%d lines in 3 s, want 15", n)
		}
		for _, want := range []string{"0.6 s of 3.0 s", "warming up", "first token p50 40.0 ms"} {
			has(t, "progress", out, want)
		}
		var rates, sum int // of each line: which answers fall into its fifth of a second is chance
		for _, m := range regexp.MustCompile(`  (\d+) req/s  8 in flight`).FindAllStringSubmatch(out, -1) {
			rate, _ := strconv.Atoi(m[1])
			rates, sum = rates+1, sum+rate
		}
		if rates < 9 || sum < 140*rates || sum > 175*rates {
			t.Errorf("%d lines tell a rate, %d in the mean; want 14 and 160", rates, sum/max(rates, 1))
		}
		for line := range strings.SplitSeq(out, eraseLine) {
			if len(line) > 90 {
				t.Errorf("line of %d bytes: %q", len(line), line)
			}
		}
	})
}

func TestSessionsAreNotSent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace.jsonl")
	if err := os.WriteFile(file, []byte(`{"turns":[{"in":1,"out":1}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Run(t.Context(), config(func(c *Config) { c.URL, c.Trace = "http://127.0.0.1:1", file }), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "holds sessions") {
		t.Errorf("got %v", err)
	}
}

// TestTornLinesOfATraceAreTold: who sends a recording that a crash has torn is told
// what is left out, before it is sent; if nothing is left, nothing is.
func TestTornLinesOfATraceAreTold(t *testing.T) {
	const row = `{"timestamp":1763726400123,"input_length":4,"output_length":2,"hash_ids":[11],"block_tokens":128}` + "\n"
	for _, tt := range []struct {
		trace, want string
		sent        int64 // 0 for a refusal
	}{
		{row + row, "", 2},
		{row + `{"timestamp":17` + row + row, "line 2 cannot be read and is left out: invalid character", 2},
		{row + `{"timestamp":17` + row + row + row + `{"timest`, "2 lines cannot be read and are left out; the first is line 2: invalid character", 3},
		{`{"timestamp":17` + row, "line 1: ", 0},
	} {
		bubble.Test(t, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "trace.jsonl")
			if err := os.WriteFile(file, []byte(tt.trace), 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			w := serve(t, func(w http.ResponseWriter, _ *http.Request) { stream(w, 2, 0, 0) })
			w.notes = &out
			r, err := run(t.Context(), config(func(c *Config) { c.Stream, c.Trace = true, file }), nil, w)
			if tt.sent == 0 {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("nothing is left: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			told := "sluice bench: trace " + file + ": " + tt.want
			if got := out.String(); r.Requests.OK != tt.sent || tt.want == "" && got != "" || tt.want != "" && (!strings.HasPrefix(got, told) || strings.Count(got, "\n") != 1) {
				t.Errorf("%d sent, told %q; want %d, %q", r.Requests.OK, got, tt.sent, told)
			}
		})
	}
}
