package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/kit/tracefile"
	"sluice/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func contenders(names ...string) []Contender {
	var cs []Contender
	for _, n := range names {
		cs = append(cs, Contender{Label: n, Policy: n, Settings: *policy.DefaultSettings()})
	}
	return cs
}

func sample(t testing.TB) *tracefile.Trace {
	t.Helper()
	tr, err := tracefile.Sample()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func sessions(t testing.TB) *tracefile.Trace {
	t.Helper()
	tr, err := tracefile.Load("../kit/tracefile/testdata/sessions.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func mustReplay(t testing.TB, cfg Config, tr *tracefile.Trace, cs []Contender) *Result {
	t.Helper()
	r, err := Replay(t.Context(), cfg, tr, cs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// rowOf returns a row without what is drawn of it.
func rowOf(r *Result, name string) Row {
	i := slices.IndexFunc(r.Rows, func(w Row) bool { return w.Policy == name })
	row := r.Rows[i]
	row.curve = nil
	return row
}

// TestTheSameSeedGivesTheSameFigures: whatever policies run beside one, and in
// whatever order.
func TestTheSameSeedGivesTheSameFigures(t *testing.T) {
	for name, tr := range map[string]*tracefile.Trace{"requests": sample(t), "sessions": sessions(t)} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Workers, cfg.Gateways, cfg.Duration = 6, 2, 20*time.Second
			names := policy.Names()
			one := mustReplay(t, cfg, tr, contenders(names...))
			slices.Reverse(names)
			two := mustReplay(t, cfg, tr, contenders(names...))
			for _, n := range names {
				if a, b := rowOf(one, n), rowOf(two, n); !reflect.DeepEqual(a, b) {
					t.Errorf("%s:\n%+v\n%+v", n, a, b)
				}
			}
			cfg.Seed = 2
			if three := mustReplay(t, cfg, tr, contenders("random")); reflect.DeepEqual(rowOf(three, "random"), rowOf(one, "random")) {
				t.Error("another seed gives the same figures")
			}
		})
	}
}

// TestEveryPolicyServesAll: nobody is refused or forgotten, the counters that
// policies go by are back at zero, and a hit ratio is not above the best.
func TestEveryPolicyServesAll(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Workers, cfg.KVTokens, cfg.Copies = 4, 400_000, 1
	for name, tr := range map[string]*tracefile.Trace{"requests": sample(t), "sessions": sessions(t)} {
		cfg.Duration = 20 * time.Second
		w, err := newWorkload(tr, &cfg, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range contenders(policy.Names()...) {
			t.Run(name+"/"+c.Policy, func(t *testing.T) {
				s, err := simulate(t.Context(), &cfg, w, c, 1000, new(work))
				if err != nil {
					t.Fatal(err)
				}
				row := s.row(c.Label)
				if row.Refused+row.Unfinished > 0 || !(row.TTFTMean > 0 && row.Hit >= 0 && row.Hit <= 1 && row.Imbalance >= 1) {
					t.Errorf("%+v", row)
				}
				for _, r := range s.records {
					if r.state != answered {
						t.Fatalf("a request is left: %+v", r)
					}
				}
				for _, k := range s.gateways[0].workers {
					if k.InFlight()+k.Prefill()+k.Context() != 0 {
						t.Errorf("%s has %d requests, %d and %d tokens", k.Base(), k.InFlight(), k.Prefill(), k.Context())
					}
				}
			})
		}
	}
}

func TestWorkersReportTheirLoad(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Workers, cfg.LoadInterval = 4, time.Second
	w := load(t, sample(t), func(c *Config) { c.Workers = 4 })
	s, err := newSimulation(&cfg, w, contenders("random")[0], 0, new(atomic.Int64))
	if err != nil {
		t.Fatal(err)
	}
	s.limit = w.last // in the middle of it
	if err := s.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := s.gateways[0].workers[0].Load()
	if l == nil || l.MaxTokens == 0 || l.UsedTokens == 0 || l.Running == 0 || l.Throughput <= 0 || l.TokenUsage <= 0 || l.TokenUsage > 1 {
		t.Fatalf("%+v", l)
	}
	if age := epoch.Add(s.now).Sub(l.At); age < 0 || age > time.Second {
		t.Errorf("the report is %v old", age)
	}
	if got := s.gateways[0].workers[0].Info().KVTokens; got != cfg.KVTokens {
		t.Errorf("a worker holds %d tokens, want %d", got, cfg.KVTokens)
	}
}

func TestOverloadedWorkersAreNotOffered(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Workers, cfg.LoadInterval, cfg.OverWaiting = 4, time.Second, 2
	w := load(t, sample(t), func(c *Config) { c.Workers = 4 })
	s, err := newSimulation(&cfg, w, contenders("random")[0], 0, new(atomic.Int64))
	if err != nil {
		t.Fatal(err)
	}
	fewest := cfg.Workers
	g := s.gateways[0]
	for s.limit = time.Second; s.limit < w.last; s.limit += time.Second {
		if err := s.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, k := range g.offered {
			if k.Veto() != 0 && len(g.offered) < cfg.Workers {
				t.Fatalf("%s is offered and vetoed: %v", k.Base(), k.Veto())
			}
		}
		fewest = min(fewest, len(g.offered))
	}
	if fewest == cfg.Workers {
		t.Error("none was ever overloaded")
	}
}

func TestCapacityIsWhereTheBoundIs(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Workers, cfg.SLO = 4, 10*time.Second
	r := mustReplay(t, cfg, sample(t), contenders("least_load"))
	c := r.Rows[0].Capacity
	if c == nil || c.TTFTP90 > 10 || c.TTFTP90 < 5 || c.Speed <= 0 || c.Rate <= 0 {
		t.Fatalf("%+v", c)
	}
	cfg.SLO = time.Microsecond
	if c := mustReplay(t, cfg, sample(t), contenders("least_load")).Rows[0].Capacity; *c != (Capacity{}) {
		t.Errorf("a bound that nobody can keep has capacity %+v", c)
	}
}

func TestAReplayCanBeEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Replay(ctx, DefaultConfig(), sample(t), contenders("random", "least_load"), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFaultsAreToldAtOnce(t *testing.T) {
	var c Config
	c.Speed, c.Warmup = -1, 2
	err := c.Validate()
	for _, want := range []string{"workers 0", "kv-tokens 0", "speed -1", "session-rate 0", "session-time 0s", "crowd-tokens 0", "gateways 0", "load-monitor-interval 0s",
		"warmup 2", "prefill-rate 0", "double-context 0", "prefill-chunk 0", "max-running 0", "step-time 0s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v has no %q", err, want)
		}
	}
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	if _, err := Replay(t.Context(), c, sample(t), nil, nil); err == nil {
		t.Error("it is replayed all the same")
	}
}

func TestResultsCanBeShown(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Workers, cfg.SLO = 4, time.Second
	cs := contenders("random", "least_load")
	cs[0].Label = `a<b>&"c` + "\x1b"
	r := mustReplay(t, cfg, sample(t), cs)
	r.Trace = "<x>.jsonl"
	var table, svg, page strings.Builder
	if err := errors.Join(r.WriteTable(&table, false), r.WritePlot(&svg, SVG), r.WritePlot(&page, HTML)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"least_load", "req/s/worker", "4 workers, 1,000,000 tokens", "first token, s", "400 requests"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, table.String())
		}
	}
	wellFormed(t, svg.String())
	from, to := strings.Index(page.String(), "<svg"), strings.Index(page.String(), "</svg>")
	wellFormed(t, page.String()[from:to+6])
	if strings.Contains(page.String(), "<b>&") || strings.Contains(page.String(), "<x>") || strings.Contains(page.String(), "http") && strings.Contains(strings.ReplaceAll(page.String(), "http://www.w3.org/2000/svg", ""), "http") {
		t.Error("the page has a name that is not escaped, or needs something else")
	}
	var back struct {
		Rows []map[string]any `json:"rows"`
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if err != nil || back.Rows[1]["policy"] != "least_load" || back.Rows[1]["ttft_p90_s"].(float64) <= 0 {
		t.Errorf("%v: %s", err, b)
	}
}

func wellFormed(t *testing.T, s string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(s))
	for {
		_, err := d.Token()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatalf("%v in\n%.2000s", err, s)
		}
	}
}

// FuzzReplay holds that any trace that can be read is replayed or refused, and
// that nothing of it stays behind.
func FuzzReplay(f *testing.F) {
	f.Add([]byte(strings.Join(three, "\n")), 2, 4000, 1.0)
	f.Add([]byte(`{"block_tok":64,"turns":[{"in":100,"out":22,"gap":4.5,"blocks":[0,-1]},{"in":900,"out":0,"blocks":[0,-1,-1]}]}`), 1, 2000, 3.0)
	f.Add([]byte(`{"timestamp":0,"input_length":3000,"output_length":50,"hash_ids":[1,1,2],"block_tokens":1}`), 3, 3100, 1e-9)
	f.Fuzz(func(t *testing.T, in []byte, workers, kv int, speed float64) {
		tr, err := tracefile.Read(bytes.NewReader(in))
		if err != nil || len(in) > 1<<12 {
			return
		}
		cfg := DefaultConfig()
		cfg.Workers, cfg.KVTokens, cfg.Speed, cfg.Duration, cfg.Copies, cfg.Crowd = workers, kv, speed, time.Second, 1, 1
		if workers > 8 || kv > 1<<16 || cfg.Validate() != nil {
			return
		}
		w, err := newWorkload(tr, &cfg, cfg.Speed)
		if err != nil || w.last > 1e4*time.Second {
			return // the first is refused; the other would take a report each ten seconds of a year
		}
		s, err := simulate(t.Context(), &cfg, w, contenders("least_load")[0], 1e6, new(work))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range s.records {
			if r.state != answered && s.now < s.limit/2 {
				t.Fatalf("request %d of %d is left at %v of %v: %+v", i, len(s.records), s.now, s.limit, r)
			}
		}
	})
}

func BenchmarkReplay(b *testing.B) {
	for _, name := range policy.Names() {
		b.Run(name, func(b *testing.B) {
			cfg := DefaultConfig()
			w := load(b, sample(b), func(*Config) {})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := simulate(b.Context(), &cfg, w, contenders(name)[0], slack, new(work)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(w.requests)), "ns/request")
		})
	}
}
