package fleet

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
)

// says is a load report in a few words.
func says(running, waiting int, usage float64, used int) string {
	return fmt.Sprintf(`{"loads":[{"num_running_reqs":%d,"num_waiting_reqs":%d,"token_usage":%v,"num_used_tokens":%d}]}`, running, waiting, usage, used)
}

func TestOverload(t *testing.T) {
	type step struct {
		say  string
		want string
	}
	tests := []struct {
		name  string
		set   func(*Config)
		steps []step
	}{
		{"a queue", nil, []step{{says(9, 7, 0, 1), ""}, {says(9, 8, 0, 2), "overloaded"}, {says(9, 7, 0, 3), "overloaded"}, {says(9, 6, 0, 4), ""}, {says(9, 7, 0, 5), ""}}},
		{"a full cache", nil, []step{{says(9, 0, 0.79, 1), ""}, {says(9, 0, 0.8, 2), "overloaded"}, {says(9, 0, 0.76, 3), "overloaded"}, {says(9, 0, 0.74, 4), ""}}},
		{"no word is no offence", nil, []step{{says(9, 99, 0, 1), "overloaded"}, {"500", ""}, {says(9, 99, 0, 1), "overloaded"}, {"hang", ""}}},
		{"nonsense is no word", nil, []step{{says(9, 99, 0, 1), "overloaded"}, {says(9, -99, 0, 1), ""}}},
		{"it does not count", func(c *Config) { c.Protect = false }, []step{{says(9, 99, 1, 1), ""}}},
		{"a threshold of one", func(c *Config) { c.OverWaiting = 1 }, []step{{says(9, 1, 0, 1), "overloaded"}, {says(9, 0, 0, 2), ""}}},
		{"nobody asks", func(c *Config) { c.NoLoads = true }, []step{{says(9, 99, 1, 1), ""}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t)
				if tt.set != nil {
					tt.set(&r.cfg)
				}
				r.start()
				w := r.add("a", Spec{})
				after(time.Second)
				for i, s := range tt.steps {
					r.es.at("a").answer("/v1/loads", s.say)
					after(15 * time.Second)
					if got := w.Veto().String(); got != s.want {
						t.Errorf("step %d, %s: veto %q, want %q", i, s.say, got, s.want)
					}
				}
			})
		})
	}
}

func TestAWorkerThatHasLeftIsNotVetoed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{})
		r.es.at("a").answer("/v1/loads", says(1, 50, 0, 1))
		after(12 * time.Second)
		if !w.Vetoed() {
			t.Fatal("it is not vetoed")
		}
		r.es.at("a").set("refused")
		w.Suspect()
		after(2 * time.Second)
		r.want("when it is gone", w, NotReady)
		if w.Vetoed() {
			t.Errorf("a worker that is not ready is vetoed: %v", w.Veto())
		}
	})
}

func TestWedged(t *testing.T) {
	tests := []struct {
		name string
		ours int // requests
		wait int // that it reports to wait
		what func(r *rig, w *Worker, leases []Lease)
		want string
	}{
		{"nothing moves", 2, 3, func(*rig, *Worker, []Lease) { after(30 * time.Second) }, "wedged"},
		{"many of ours and nobody waits", 4, 0, func(*rig, *Worker, []Lease) { after(30 * time.Second) }, "wedged"},
		{"one long prompt", 1, 0, func(*rig, *Worker, []Lease) { after(30 * time.Second) }, ""},
		{"none of ours", 0, 3, func(*rig, *Worker, []Lease) { after(30 * time.Second) }, ""},
		{"it moves", 2, 3, func(r *rig, _ *Worker, _ []Lease) {
			for n := range 6 {
				r.es.at("a").answer("/v1/loads", says(2, 3, 0.5, n))
				after(5 * time.Second)
			}
		}, ""},
		{"a request has ended", 4, 3, func(_ *rig, _ *Worker, ls []Lease) {
			after(30 * time.Second)
			ls[0].Release(time.Now(), breaker.Success)
		}, ""},
		{"it moves again", 4, 3, func(r *rig, _ *Worker, _ []Lease) {
			after(30 * time.Second)
			r.es.at("a").answer("/v1/loads", says(4, 3, 0.5, 99))
			after(10 * time.Second)
		}, ""},
		{"its reports hang", 4, 3, func(r *rig, _ *Worker, _ []Lease) {
			after(11 * time.Second)
			r.es.at("a").answer("/v1/loads", "hang")
			after(15 * time.Second)
		}, "wedged"},
		{"nobody asks for reports", 4, 3, func(r *rig, _ *Worker, _ []Lease) {
			r.es.at("a").answer("/v1/loads", "500")
			after(30 * time.Second)
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.start()
				w := r.add("a", Spec{})
				r.es.at("a").answer("/v1/loads", says(2, tt.wait, 0.5, 50))
				after(time.Second)
				leases := make([]Lease, tt.ours)
				for i := range leases {
					leases[i], _ = w.Acquire(time.Now())
				}
				tt.what(r, w, leases)
				if got := w.Veto().String(); got != tt.want {
					t.Errorf("veto %q, want %q", got, tt.want)
				}
			})
		})
	}
}

func TestStalled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{})
		after(time.Second)
		e := r.es.at("a")

		w.Suspect()
		after(10 * time.Second)
		if w.Vetoed() {
			t.Errorf("one connection failed, and the worker answers: veto %v", w.Veto())
		}
		e.set("hang")
		w.Suspect()
		after(1900 * time.Millisecond)
		if w.Vetoed() {
			t.Errorf("after 1.9 s: veto %v, want none yet", w.Veto())
		}
		after(300 * time.Millisecond)
		r.want("a check is out", w, Ready)
		if got := w.Veto(); got != Stalled {
			t.Errorf("after 2.2 s: veto %q, want stalled", got)
		}
		e.set("up")
		l, _ := w.Acquire(time.Now())
		l.Release(time.Now(), breaker.Success)
		if w.Vetoed() {
			t.Errorf("it has served a request: veto %v", w.Veto())
		}
		e.set("hang")
		w.Suspect()
		after(4 * time.Second)
		e.set("up")
		after(10 * time.Second)
		if w.Vetoed() {
			t.Errorf("it has passed checks: veto %v", w.Veto())
		}
	})
}

func TestOffered(t *testing.T) {
	three := []*Worker{still(t), still(t), still(t)}
	tests := []struct {
		vetoes [3]Veto
		mind   Veto
		want   string
		full   bool
	}{
		{[3]Veto{}, AnyVeto, "012", false},
		{[3]Veto{Overloaded, 0, 0}, AnyVeto, "12", false},
		{[3]Veto{Overloaded, Wedged, 0}, AnyVeto, "2", false},
		{[3]Veto{Overloaded, Wedged, Stalled}, AnyVeto, "012", false},
		{[3]Veto{Overloaded, Overloaded, Overloaded | Wedged}, AnyVeto, "012", true},
		{[3]Veto{Overloaded, Wedged, 0}, Stalled | Wedged, "02", false},
		{[3]Veto{Overloaded, Overloaded, Overloaded | Wedged}, Stalled | Wedged, "01", true},
		{[3]Veto{Overloaded, Overloaded, Overloaded}, Stalled | Wedged, "012", true},
	}
	for _, tt := range tests {
		for i, w := range three {
			w.veto.Store(uint32(tt.vetoes[i]))
		}
		ws, full := Offered(three, tt.mind)
		got := ""
		for _, w := range ws {
			for i := range three {
				if three[i] == w {
					got += fmt.Sprint(i)
				}
			}
		}
		if got != tt.want || full != tt.full {
			t.Errorf("vetoes %v: offered %s, full %v; want %s, %v", tt.vetoes, got, full, tt.want, tt.full)
		}
	}
	if ws, full := Offered(nil, AnyVeto); len(ws) != 0 || full {
		t.Errorf("of nobody: %v, %v", ws, full)
	}
}

func TestReportsThatCannotBeTrue(t *testing.T) {
	w := still(t)
	good := &Load{At: time.Now(), Running: 1}
	if !w.Report(good) {
		t.Fatal("a good report was not taken")
	}
	for name, l := range map[string]*Load{
		"negative":       {Running: -1},
		"not a number":   {TokenUsage: math.NaN()},
		"infinite":       {Throughput: math.Inf(1)},
		"absurd":         {Throughput: 1e300},
		"over the whole": {TokenUsage: 1.5},
		"negative queue": {Waiting: math.MinInt},
		"too many":       {UsedTokens: math.MaxInt64},
	} {
		l.At = time.Now()
		if w.Report(l) || w.Load() != good {
			t.Errorf("%s: it was taken", name)
		}
	}
}

func TestBelieved(t *testing.T) {
	w := still(t)
	at := time.Now()
	if w.Believed(at) != nil {
		t.Error("no report was believed")
	}
	w.Report(&Load{At: at})
	for age, want := range map[time.Duration]bool{
		0: true, 14 * time.Second: true, 16 * time.Second: false, time.Hour: false,
		-time.Minute: true, // the request waited for a minute
		-time.Hour:   false,
	} {
		if got := w.Believed(at.Add(age)) != nil; got != want {
			t.Errorf("a report %v old: believed %v, want %v", age, got, want)
		}
	}
}

// TestFlappingVetoesAreCoalesced: a fleet whose reports flap makes no more
// Snapshots than one in 5 ms.
func TestFlappingVetoesAreCoalesced(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.hc.Disabled = true
		r.start()
		var ws []*Worker
		for i := range 512 {
			ws = append(ws, r.add(fmt.Sprintf("w%d", i), Spec{Models: []ModelCard{{ID: "m"}}}))
		}
		after(time.Second)
		published := 0
		r.Watch(func(*Snapshot) { published++ })
		for n := range 1000 { // a second
			for i := range 8 {
				w := ws[(n*8+i)%len(ws)]
				w.Report(&Load{At: time.Now(), Running: 1, Waiting: n / 64 % 2 * 50})
			}
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if published < 10 || published > 202 {
			t.Errorf("%d snapshots in a second, want some, and at most one in 5 ms", published)
		}
	})
}

func TestParseMetrics(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"vLLM", "# HELP x\nvllm:num_requests_running{engine=\"0\",model_name=\"m x\"} 3.0\nvllm:num_requests_waiting{engine=\"0\"} 2.0\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n", "run 3 wait 2 use 0.25"},
		{"two engines", "vllm:num_requests_waiting{engine=\"0\"} 2\nvllm:num_requests_waiting{engine=\"1\"} 3\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.5\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.1", "run 0 wait 5 use 0.3"},
		{"older vLLM", "vllm:gpu_cache_usage_perc 0.5\n", "run 0 wait 0 use 0.5"},
		{"SGLang", "sglang:num_running_reqs 4\nsglang:num_queue_reqs 1\nsglang:token_usage 0.75\nsglang:gen_throughput 50\n", "run 4 wait 1 use 0.75"},
		{"no usage of the cache", "vllm:num_requests_waiting 2\n", "do not tell"},
		{"another's", "go_goroutines 7\nprocess_start 3", "do not tell"},
		{"nothing", "", "do not tell"},
		{"no number", "vllm:kv_cache_usage_perc NaN\n", "do not tell"},
		{"negative", "vllm:num_requests_waiting -2\nvllm:kv_cache_usage_perc 0\n", "negative"},
		{"infinite", "vllm:num_requests_waiting +Inf\nvllm:kv_cache_usage_perc 0\n", "absurd"},
		{"broken lines", "vllm:\nvllm:x{\nvllm:y}\nvllm:{} {} 1\nvllm:kv_cache_usage_perc 1\n", "run 0 wait 0 use 1"},
	}
	for _, tt := range tests {
		l, err := parseMetrics([]byte(tt.in))
		if err != nil {
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
			}
			continue
		}
		if got := fmt.Sprintf("run %d wait %d use %.4g", l.Running, l.Waiting, l.TokenUsage); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// FuzzParseMetrics holds that no metrics make a report that cannot be true.
func FuzzParseMetrics(f *testing.F) {
	f.Add([]byte("vllm:num_requests_running{engine=\"0\"} 3.0\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n"))
	f.Add([]byte("sglang:token_usage 0.75\nsglang_num_queue_reqs 1e300\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parseMetrics(b); err == nil && l.credible() != (l.Running <= mostTokens && l.Waiting <= mostTokens && l.UsedTokens <= mostTokens && l.MaxTokens <= mostTokens && l.Throughput <= mostTokens) {
			t.Errorf("%+v", l)
		}
	})
}

func TestLoadsComeFromWhereTheyAre(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("v", Spec{})
		e := r.es.at("v")
		e.answer("/metrics", "vllm:num_requests_running 3\nvllm:num_requests_waiting 9\nvllm:kv_cache_usage_perc 0.25\n")
		after(35 * time.Second)
		if l := w.Load(); l == nil || l.Running != 3 || w.Veto() != Overloaded {
			t.Errorf("load %+v, veto %q; want that of its metrics", l, w.Veto())
		}
		if n := strings.Count(strings.Join(e.paths, " "), "/v1/loads"); n != 1 {
			t.Errorf("/v1/loads was asked for %d times, want once", n)
		}
	})
}

// TestWorkersThatHangKeepNobodyWaiting: the load of those that answer is new,
// although many others never answer.
func TestWorkersThatHangKeepNobodyWaiting(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		for i := range 300 {
			host := fmt.Sprintf("h%d", i)
			r.es.at(host).answer("/v1/loads", "hang")
			r.add(host, Spec{})
		}
		good := r.add("good", Spec{})
		r.es.at("good").answer("/v1/loads", says(1, 0, 0, 1))
		after(3 * time.Minute)
		for range 10 {
			after(7 * time.Second)
			if good.Believed(time.Now()) == nil {
				t.Fatalf("the report is %v old", time.Since(good.Load().At))
			}
		}
	})
}
