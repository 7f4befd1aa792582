package metric

import (
	"fmt"
	"math"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

type parts struct {
	Hits    *Counter      `name:"smg_hits_total" help:"hits"`
	Level   *Gauge        `name:"smg_level" help:"the level"`
	Took    *Histogram    `name:"smg_took_duration_seconds" help:"how long it took"`
	Size    *Histogram    `name:"sluice_size_bytes" buckets:"1,10,100" help:"how large it was"`
	By      *CounterVec   `name:"smg_by_total" labels:"worker,result" help:"hits by worker" max:"3"`
	Levels  *GaugeVec     `name:"smg_levels" labels:"worker" help:"the levels"`
	Tooks   *HistogramVec `name:"smg_ttft_seconds" labels:"worker" help:"how long workers took"`
	Workers *GaugeFunc    `name:"smg_workers" help:"how many workers there are"`
	Loads   *GaugeVecFunc `name:"smg_loads" labels:"worker" help:"how busy workers are" max:"3"`

	own int // a part may keep things of its own beside its metrics
}

func filled(t testing.TB) (*Registry, *parts) {
	t.Helper()
	r, p := NewRegistry(nil), &parts{own: 1}
	Fill(r, p)
	return r, p
}

// scrape returns the lines that r answers which begin with prefix.
func scrape(t testing.TB, r *Registry, prefix string) []string {
	t.Helper()
	rec := httptest.NewRecorder()
	r.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if rec.Code != 200 || !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("got status %d and type %q: %s", rec.Code, rec.Header().Get("Content-Type"), rec.Body)
	}
	var lines []string
	for line := range strings.Lines(rec.Body.String()) {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestWhatIsCountedIsShown(t *testing.T) {
	r, p := filled(t)
	p.Hits.Inc()
	p.Hits.Add(2)
	p.Level.Set(5)
	p.Level.Dec()
	p.Level.Inc()
	p.Level.Add(-1.5)
	p.Size.Observe(7)
	p.By.With("a", "ok").Inc()
	p.Levels.With("a").Set(1)
	p.Tooks.With("a").Observe(1)
	p.Workers.Set(func() float64 { return 4 })
	p.Loads.Set(func(yield func(float64, ...string)) {
		yield(1, "a")
		yield(2, "b")
		yield(3, "a") // again: the first stays
		yield(4, "c")
		yield(5, "d") // one more than max
	})
	wantLines(t, scrape(t, r, "smg_hits"), "smg_hits_total 3")
	wantLines(t, scrape(t, r, "smg_level "), "smg_level 3.5")
	wantLines(t, scrape(t, r, "sluice_size"),
		`sluice_size_bytes_bucket{le="1"} 0`, `sluice_size_bytes_bucket{le="10"} 1`, `sluice_size_bytes_bucket{le="100"} 1`,
		`sluice_size_bytes_bucket{le="+Inf"} 1`, `sluice_size_bytes_sum 7`, `sluice_size_bytes_count 1`)
	wantLines(t, scrape(t, r, "smg_by"), `smg_by_total{result="ok",worker="a"} 1`)
	wantLines(t, scrape(t, r, "smg_levels{"), `smg_levels{worker="a"} 1`)
	wantLines(t, scrape(t, r, "smg_workers"), "smg_workers 4")
	wantLines(t, scrape(t, r, "smg_loads"), `smg_loads{worker="a"} 1`, `smg_loads{worker="b"} 2`, `smg_loads{worker="c"} 4`)
	wantLines(t, scrape(t, r, "# TYPE smg_ttft"), "# TYPE smg_ttft_seconds histogram")
	if n := len(scrape(t, r, "smg_ttft_seconds_bucket")); n != len(DurationBuckets())+1 {
		t.Errorf("a histogram of durations has %d buckets, want the contract's %d and +Inf", n, len(DurationBuckets()))
	}
	for _, process := range []string{"go_goroutines ", "process_resident_memory_bytes "} {
		if len(scrape(t, r, process)) != 1 {
			t.Errorf("no %s: the process's own metrics are missing", process)
		}
	}
}

func TestWhatThingsCountThemselves(t *testing.T) {
	var p struct {
		Ends *CounterVecFunc `name:"smg_ends_total" labels:"worker,outcome" help:"how requests ended" max:"2"`
	}
	p.Ends.Set(nil) // without a registry nothing happens
	r := NewRegistry(nil)
	Fill(r, &p)
	wantLines(t, scrape(t, r, "smg_ends"))
	n := 0.0
	p.Ends.Set(func(yield func(float64, ...string)) {
		n++
		yield(n, "a", "success")
		yield(9, "a", "success") // again: the first stays
		yield(2*n, "a", "failure")
		yield(3, "b", "success") // one more than max
	})
	scrape(t, r, "")
	wantLines(t, scrape(t, r, "smg_ends"), `smg_ends_total{outcome="failure",worker="a"} 4`, `smg_ends_total{outcome="success",worker="a"} 2`)
	wantLines(t, scrape(t, r, "# TYPE smg_ends"), "# TYPE smg_ends_total counter")
}

func TestOperatorsBuckets(t *testing.T) {
	r, p := NewRegistry([]float64{0.5, 2}), &parts{}
	Fill(r, p)
	p.Took.Observe(1)
	wantLines(t, scrape(t, r, "smg_took_duration_seconds_bucket"),
		`smg_took_duration_seconds_bucket{le="0.5"} 0`, `smg_took_duration_seconds_bucket{le="2"} 1`, `smg_took_duration_seconds_bucket{le="+Inf"} 1`)
}

func TestCountersOnlyGrow(t *testing.T) {
	r, p := filled(t)
	for _, v := range []float64{2, -1, 0, math.NaN(), math.Inf(1)} {
		p.Hits.Add(v)
	}
	wantLines(t, scrape(t, r, "smg_hits"), "smg_hits_total 2")
}

func TestWithoutARegistryNothingHappens(t *testing.T) {
	var empty parts
	Fill(nil, &empty)
	zero := parts{Hits: new(Counter), Level: new(Gauge), Took: new(Histogram), Size: new(Histogram),
		By: new(CounterVec), Levels: new(GaugeVec), Tooks: new(HistogramVec), Workers: new(GaugeFunc), Loads: new(GaugeVecFunc)}
	for _, p := range []parts{empty, zero} {
		p.Hits.Inc()
		p.Hits.Add(1)
		p.Level.Set(1)
		p.Level.Add(1)
		p.Level.Inc()
		p.Level.Dec()
		p.Took.Observe(1)
		p.By.With("a", "b").Inc()
		p.By.Delete("a", "b")
		p.By.DeleteLabel("worker", "a")
		p.Levels.With("a").Inc()
		p.Levels.Delete("a")
		p.Levels.DeleteLabel("worker", "a")
		p.Tooks.With("a").Observe(1)
		p.Tooks.Delete("a")
		p.Tooks.DeleteLabel("worker", "a")
		p.Workers.Set(func() float64 { return 1 })
		p.Loads.Set(func(func(float64, ...string)) {})
	}
}

func TestStrangersCannotGrowAVec(t *testing.T) {
	r, p := filled(t) // max 3
	for i := range 100 {
		p.By.With(fmt.Sprintf("w%d", i), "ok").Inc()
	}
	p.By.With("w1", "ok").Inc()
	wantLines(t, scrape(t, r, "smg_by"),
		`smg_by_total{result="ok",worker="w0"} 1`, `smg_by_total{result="ok",worker="w1"} 2`,
		`smg_by_total{result="ok",worker="w2"} 1`, `smg_by_total{result="other",worker="other"} 97`)

	p.By.DeleteLabel("worker", "w0")
	p.By.DeleteLabel("worker", "other")
	p.By.With("new", "ok").Inc()
	wantLines(t, scrape(t, r, "smg_by"),
		`smg_by_total{result="ok",worker="new"} 1`, `smg_by_total{result="ok",worker="w1"} 2`, `smg_by_total{result="ok",worker="w2"} 1`)
}

func TestAWorkerThatLeftIsForgotten(t *testing.T) {
	r, p := filled(t)
	p.By.With("a", "ok").Inc()
	p.By.With("a", "bad").Inc()
	p.By.With("b", "ok").Inc()
	p.Levels.With("a").Set(1)
	p.Levels.With("b").Set(2)
	p.Tooks.With("a").Observe(1)
	p.By.DeleteLabel("worker", "a")
	p.Levels.Delete("a")
	p.Levels.Delete("never there")
	p.Tooks.DeleteLabel("worker", "a")
	wantLines(t, scrape(t, r, "smg_by"), `smg_by_total{result="ok",worker="b"} 1`)
	wantLines(t, scrape(t, r, "smg_levels{"), `smg_levels{worker="b"} 2`)
	wantLines(t, scrape(t, r, "smg_ttft_seconds"))

	p.By.With("a", "ok").Inc() // it comes back, and starts from nothing
	p.By.Delete("b", "ok")
	wantLines(t, scrape(t, r, "smg_by"), `smg_by_total{result="ok",worker="a"} 1`)
}

func TestLabelValuesAreTamed(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := tame(in); got != want {
			t.Errorf("tame(%q) = %q, want %q", in, got, want)
		}
	}
	f("", "")
	f("m1", "m1")
	f("a\xffb", "a?b")
	f(strings.Repeat("a", 300), strings.Repeat("a", 256))
	f(strings.Repeat("a", 255)+"é", strings.Repeat("a", 255))
	f(strings.Repeat("\x80", 300), "?")

	r, p := filled(t)
	p.Levels.With(strings.Repeat("x", 1<<20)).Set(1)
	p.Levels.With(strings.Repeat("x", 2<<20)).Inc()
	p.Levels.With("bad\xff\"\n").Set(1)
	wantLines(t, scrape(t, r, "smg_levels{"), `smg_levels{worker="bad?\"\n"} 1`, `smg_levels{worker="`+strings.Repeat("x", 256)+`"} 2`)
}

// FuzzTame holds that a label value is short, valid, and stays as it is when
// it is tamed again.
func FuzzTame(f *testing.F) {
	f.Add("a\xff")
	f.Add(strings.Repeat("\xf0\x9f\x98\x80", 70))
	f.Add(strings.Repeat("a\xff", 200))
	f.Fuzz(func(t *testing.T, s string) {
		got := tame(s)
		if len(got) > maxValue || !utf8.ValidString(got) || tame(got) != got {
			t.Errorf("tame(%q) = %q", s, got)
		}
		if utf8.ValidString(s) && !strings.HasPrefix(s, got) {
			t.Errorf("tame(%q) = %q, which it does not begin with", s, got)
		}
	})
}

func TestSetsDoNotRunTogether(t *testing.T) {
	_, p := filled(t)
	if p.By.With("a", "b") == p.By.With("ab", "") || p.By.With("a\xff", "") == p.By.With("a", "") {
		t.Error("two label sets share a counter")
	}
}

func TestManySets(t *testing.T) {
	r := NewRegistry(nil)
	m := &struct {
		V *CounterVec `name:"sluice_v_total" labels:"k" help:"things"`
	}{}
	Fill(r, m)
	const n = 12_000 // past the bound
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range n {
				m.V.With(fmt.Sprint(i)).Inc()
				if i%5000 == 0 {
					m.V.Delete("never there")
				}
			}
		})
	}
	wg.Wait()
	if got := len(scrape(t, r, "sluice_v_total{")); got != maxSets+1 {
		t.Errorf("got %d sets, want %d and the overflow", got, maxSets)
	}
	wantLines(t, scrape(t, r, `sluice_v_total{k="0"}`), `sluice_v_total{k="0"} 4`)
	wantLines(t, scrape(t, r, `sluice_v_total{k="9999"}`), `sluice_v_total{k="9999"} 4`)
}

// TestComingAndGoing lets workers join, leave and be read at once.
func TestComingAndGoing(t *testing.T) {
	r, p := filled(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 300 {
				p.Levels.With(fmt.Sprint(i)).Inc()
				p.Levels.With("shared").Inc()
				p.Levels.DeleteLabel("worker", fmt.Sprint(i))
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			scrape(t, r, "smg_levels")
		}
	})
	wg.Wait()
	wantLines(t, scrape(t, r, "smg_levels{"), `smg_levels{worker="shared"} 1200`)
}

func TestRules(t *testing.T) {
	tests := []struct {
		name string
		ms   any
		want string // in what Fill panics with
	}{
		{"not a struct", new(int), "pointer to a struct"},
		{"not a pointer", parts{}, "pointer to a struct"},
		{"not a metric", &struct {
			A int `name:"smg_a" help:"x"`
		}{}, "int is not a metric"},
		{"no tag", &struct{ A *Gauge }{}, `name ""`},
		{"not exported", &struct {
			a *Gauge `name:"smg_a" help:"x"`
		}{}, "not exported"},
		{"foreign name", &struct {
			A *Gauge `name:"vllm_a" help:"x"`
		}{}, "vllm_a"},
		{"capitals", &struct {
			A *Gauge `name:"smg_A" help:"x"`
		}{}, "smg_A"},
		{"counter without _total", &struct {
			A *Counter `name:"smg_a" help:"x"`
		}{}, "_total"},
		{"gauge with _total", &struct {
			A *Gauge `name:"smg_a_total" help:"x"`
		}{}, "_total"},
		{"no help", &struct {
			A *Gauge `name:"smg_a" help:" "`
		}{}, "no help"},
		{"milliseconds", &struct {
			A *Gauge `name:"sluice_a_ms" help:"x"`
		}{}, "seconds"},
		{"histogram without a unit", &struct {
			A *Histogram `name:"sluice_a" buckets:"1" help:"x"`
		}{}, "unit"},
		{"histogram without buckets", &struct {
			A *Histogram `name:"sluice_a_bytes" help:"x"`
		}{}, "buckets"},
		{"buckets that fall", &struct {
			A *Histogram `name:"sluice_a_bytes" buckets:"2,1" help:"x"`
		}{}, "ascending"},
		{"buckets that are no numbers", &struct {
			A *Histogram `name:"sluice_a_bytes" buckets:"1,NaN" help:"x"`
		}{}, "ascending"},
		{"counter with buckets", &struct {
			A *Counter `name:"smg_a_total" buckets:"1" help:"x"`
		}{}, "buckets"},
		{"vec without labels", &struct {
			A *CounterVec `name:"smg_a_total" help:"x"`
		}{}, "labels"},
		{"counter with labels", &struct {
			A *Counter `name:"smg_a_total" labels:"b" help:"x"`
		}{}, "labels"},
		{"bad label", &struct {
			A *CounterVec `name:"smg_a_total" labels:"b, c" help:"x"`
		}{}, `" c"`},
		{"label twice", &struct {
			A *CounterVec `name:"smg_a_total" labels:"b,b" help:"x"`
		}{}, `"b"`},
		{"histogram by le", &struct {
			A *HistogramVec `name:"smg_a_seconds" buckets:"duration" labels:"le" help:"x"`
		}{}, `"le"`},
		{"max that is none", &struct {
			A *CounterVec `name:"smg_a_total" labels:"b" max:"0" help:"x"`
		}{}, "max"},
		{"name twice", &struct {
			A *Gauge `name:"smg_a" help:"x"`
			B *Gauge `name:"smg_a" help:"x"`
		}{}, "smg_a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantBug(t, tt.want, func() { Fill(NewRegistry(nil), tt.ms) })
		})
	}
}

func TestWrongNumberOfLabels(t *testing.T) {
	_, p := filled(t)
	wantBug(t, "1 label values, want 2", func() { p.By.With("a") })
	wantBug(t, "3 label values, want 2", func() { p.By.Delete("a", "b", "c") })
	wantBug(t, `no label "host"`, func() { p.By.DeleteLabel("host", "a") })
}

func wantBug(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if p := fmt.Sprint(recover()); !strings.HasPrefix(p, "BUG: ") || !strings.Contains(p, want) {
			t.Errorf("got %q, want a BUG with %q", p, want)
		}
	}()
	f()
}

func TestDescribe(t *testing.T) {
	r, _ := filled(t)
	ds := r.Describe()
	if len(ds) != 9 || !slices.IsSortedFunc(ds, func(a, b Desc) int { return strings.Compare(a.Name, b.Name) }) {
		t.Fatalf("got %v, want nine, sorted by name", ds)
	}
	want := "| metric | type | labels | counts |\n|---|---|---|---|\n" +
		"| `sluice_size_bytes` | histogram | – | how large it was |\n" +
		"| `smg_by_total` | counter | `worker`, `result` | hits by worker |\n"
	if got := string(Markdown(ds[:2])); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestCountingDoesNotAllocate(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	_, p := filled(t)
	p.By.With("http://10.0.0.1:8000", "ok")
	for name, f := range map[string]func(){
		"Counter.Inc":       func() { p.Hits.Inc() },
		"Counter.Add":       func() { p.Hits.Add(1.5) },
		"Gauge.Inc":         func() { p.Level.Inc() },
		"Histogram.Observe": func() { p.Took.Observe(0.3) },
		"with a Ticket": func() {
			k := Take()
			p.Hits.AddWith(k, 3)
			p.Took.ObserveWith(k, 0.3)
			k.Give()
		},
		"CounterVec.With": func() { p.By.With("http://10.0.0.1:8000", "ok").Inc() },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times, want 0", name, n)
		}
	}
}

func BenchmarkCount(b *testing.B) {
	_, p := filled(b)
	c := p.By.With("http://10.0.0.1:8000", "ok")
	for name, f := range map[string]func(){
		"counter":   func() { c.Inc() },
		"gauge":     func() { p.Level.Inc() },
		"histogram": func() { p.Took.Observe(0.3) },
		"with":      func() { p.By.With("http://10.0.0.1:8000", "ok").Inc() },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					f()
				}
			})
		})
	}
}
