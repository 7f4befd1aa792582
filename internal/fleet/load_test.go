package fleet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
)

func TestParseLoad(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"0.5.9", `{"timestamp":"2026-01-01T00:00:00Z","version":"0.5.9","dp_rank_count":1,"loads":[{"dp_rank":0,"num_running_reqs":1,"num_waiting_reqs":2,"num_used_tokens":123,"max_total_num_tokens":100000,"token_usage":0.12,"gen_throughput":100.0,"cache_hit_rate":0.5,"utilization":0.1,"max_running_requests":64}]}`,
			"run 1 wait 2 tokens 123/100000 use 0.12 rate 100 hit 0.5 util 0.1 ranks 1"},
		{"two ranks", `{"loads":[{"dp_rank":0,"num_running_reqs":1,"token_usage":0.2,"gen_throughput":10,"cache_hit_rate":1},{"dp_rank":1,"num_running_reqs":3,"token_usage":0.6,"gen_throughput":20}]}`,
			"run 4 wait 0 tokens 0/0 use 0.4 rate 30 hit 0.5 util 0 ranks 2"},
		{"before: a list", `[{"dp_rank":0,"num_reqs":5,"num_waiting_reqs":2,"num_tokens":77}]`, "run 3 wait 2 tokens 77/0 use 0 rate 0 hit 0 util 0 ranks 1"},
		{"long before: a number", `{"load":7}`, "run 7 wait 0 tokens 0/0 use 0 rate 0 hit 0 util 0 ranks 1"},
		{"shares stay shares", `{"loads":[{"num_running_reqs":1,"token_usage":7,"cache_hit_rate":-1,"gen_throughput":-5}]}`, "run 1 wait 0 tokens 0/0 use 1 rate 0 hit 0 util 0 ranks 1"},
		{"a count that is too large", `{"loads":[{"num_running_reqs":1e300}]}`, "absurd"},
		{"a negative count", `{"loads":[{"num_running_reqs":1,"num_waiting_reqs":-4}]}`, "negative"},
		{"not JSON", `<html>`, "not a load report"},
		{"something else", `{"status":"ok"}`, "counts no requests"},
		{"no ranks", `{"loads":[]}`, "0 ranks"},
		{"too many ranks", `[` + strings.Repeat(`{"num_reqs":1},`, 300) + `{}]`, "301 ranks"},
		{"null", `null`, "0 ranks"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := parseLoad([]byte(tt.in))
			if err != nil {
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				return
			}
			got := fmt.Sprintf("run %d wait %d tokens %d/%d use %.4g rate %.4g hit %.4g util %.4g ranks %d", l.Running, l.Waiting, l.UsedTokens, l.MaxTokens, l.TokenUsage, l.Throughput, l.HitRate, l.Utilization, len(l.Ranks))
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// FuzzParseLoad holds that no report makes a number that cannot be.
func FuzzParseLoad(f *testing.F) {
	f.Add([]byte(`{"loads":[{"dp_rank":0,"num_running_reqs":1,"token_usage":0.12}]}`))
	f.Add([]byte(`[{"num_reqs":5,"num_waiting_reqs":9}]`))
	f.Add([]byte(`{"load":7}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLoad(b)
		if err != nil {
			return
		}
		ok := func(f float64) bool { return f >= 0 && f <= 1 }
		if l.Running < 0 || l.Waiting < 0 || l.UsedTokens < 0 || !ok(l.TokenUsage) || !ok(l.HitRate) || !ok(l.Utilization) || !(l.Throughput >= 0) {
			t.Errorf("%+v", l)
		}
	})
}

func TestLoadReports(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.EngineMetrics = true
		r.start()
		w, old, mute := r.add("new", Spec{}), r.add("old", Spec{}), r.add("mute", Spec{})
		r.es.at("new").answer("/v1/loads", `{"loads":[{"num_running_reqs":3}]}`)
		r.es.at("old").answer("/get_load", `[{"num_reqs":4}]`)
		after(11 * time.Second)
		if w.Load() == nil || w.Load().Running != 3 || old.Load() == nil || old.Load().Running != 4 {
			t.Errorf("loads %+v, %+v; want 3 and 4 running", w.Load(), old.Load())
		}
		after(time.Minute)
		if mute.Load() != nil {
			t.Errorf("load %+v of one that does not tell", mute.Load())
		}
		asked := 0
		for _, p := range r.es.at("mute").paths {
			if p == "/get_load" {
				asked++
			}
		}
		if asked != 1 {
			t.Errorf("one that does not know the question was asked %d times, want once", asked)
		}
		if age := time.Since(w.Load().At); age > 10*time.Second {
			t.Errorf("the report is %v old, want at most 10 s", age)
		}
	})
}

// TestASimulationTellsAll: a fleet that nobody can ask knows what it was told.
func TestASimulationTellsAll(t *testing.T) {
	health := DefaultHealthConfig()
	health.Disabled = true
	r := New(DefaultConfig(), health, breaker.DefaultConfig(), Options{})
	if _, err := r.Add(Spec{URL: "http://w", Models: []ModelCard{{ID: "m"}}, KVTokens: 4096}); err != nil {
		t.Fatal(err)
	}
	w := r.Snapshot().Ready[0]
	l := &Load{Running: 3}
	w.Report(l)
	if w.Load() != l || w.Info().KVTokens != 4096 {
		t.Errorf("load %+v, %d tokens", w.Load(), w.Info().KVTokens)
	}
}
