package bench

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is a result with something in every part of it.
func sample() *Result {
	start := time.Date(2025, 11, 21, 6, 0, 0, 0, time.UTC)
	cfg := config(func(c *Config) {
		c.URL, c.Model, c.Stream, c.Rate, c.Duration, c.Warmup = "http://127.0.0.1:30000", "llama", true, 120, 10*time.Second, 2*time.Second
		c.SharedPrefix, c.PromptTokens, c.Prefixes, c.PID = 1000, 1200, 16, 4242
	})
	rec := newRecorder(start, start.Add(10*time.Second))
	for i := range 2000 {
		d := 20*time.Millisecond + time.Duration(i%97)*time.Millisecond/3
		if i%400 == 7 {
			d += 900 * time.Millisecond
		}
		planned := start.Add(time.Duration(i) * 5 * time.Millisecond)
		a := answer{planned: planned, begun: planned.Add(80 * time.Microsecond), first: planned.Add(d), last: planned.Add(d + 630*time.Millisecond),
			end: planned.Add(d + 632*time.Millisecond), status: 200, worker: fmt.Sprintf("http://10.0.0.%d:8000", i%3), sent: 5000, received: 14000, events: 64}
		a.usage = usage{seen: true, input: 1200, cached: 900, output: 64}
		if i%500 == 3 {
			a.kind, a.status, a.example = "status_503", 503, "no worker is free \x1b[31m\n"
		}
		if i%700 == 5 {
			a.kind, a.example = "cut", "the stream ended without its last event"
		}
		rec.begin(planned)
		rec.gaps([]time.Duration{10 * time.Millisecond, 9*time.Millisecond + time.Duration(i)*time.Microsecond}, planned)
		rec.add(&a)
	}
	rec.shed(start.Add(time.Second))
	l := &load{rec: rec, start: start, ended: "duration"}
	m := &meter{begun: true, length: 10 * time.Second, self: 1200 * time.Millisecond, selfKnown: true, proc: &process{}, samples: 50,
		first: use{time.Second, 30 << 20}, now: use{3 * time.Second, 42 << 20}, maxRSS: 47 << 20}
	return newResult(cfg, "http://127.0.0.1:30000/v1/chat/completions", l, m)
}

func TestTable(t *testing.T) {
	for _, color := range []bool{false, true} {
		var b strings.Builder
		if err := sample().WriteTable(&b, color); err != nil {
			t.Fatal(err)
		}
		golden(t, map[bool]string{false: "testdata/plain.txt", true: "testdata/color.txt"}[color], b.String())
		if !color && strings.ContainsAny(b.String(), "\x1b█▁") {
			t.Error("the plain table is not plain")
		}
		if strings.Contains(b.String(), "\x1b[31m\n") {
			t.Error("an escape of the server's reaches the terminal")
		}
		for line := range strings.Lines(b.String()) {
			if n := len([]rune(line)); !color && n > 121 {
				t.Errorf("line of %d columns: %s", n, line)
			}
		}
	}
}

// What programs read must not change by accident.
func TestJSONKeys(t *testing.T) {
	j, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(j, &v); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	var walk func(path string, v any)
	walk = func(path string, v any) {
		if m, ok := v.(map[string]any); ok {
			for _, k := range slices.Sorted(maps.Keys(m)) {
				walk(path+"."+k, m[k])
			}
			return
		}
		fmt.Fprintf(&b, "%s %T\n", path[1:], v)
	}
	walk("", v)
	golden(t, "testdata/keys.txt", b.String())
}

func TestFigures(t *testing.T) {
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f(span(0), "0 ms")
	f(span(0.0004), "0.40 µs")
	f(span(0.4126), "413 µs")
	f(span(0.9996), "1.00 ms")
	f(span(12.345), "12.3 ms")
	f(span(999.6), "1.00 s")
	f(span(123456), "123 s")
	f(grouped(0), "0")
	f(grouped(999), "999")
	f(grouped(-1234567), "-1,234,567")
	f(size(12), "12 B")
	f(size(3<<20), "3.00 MiB")
	f(rate(12.345), "12.3")
	f(rate(12345.6), "12,346")
	f(sparkline([]int64{0, 1, 1000, 500}), " ▁█▅")
	f(clean("a\x1b[2Jb\u202ec"), "a�[2Jb�c")
	f(short("abcdef", 4), "abc…")
}

func TestDistributionsHoldTheirBounds(t *testing.T) {
	for _, values := range [][]time.Duration{{0}, {-5}, {longest * 3}, {1, 2, 3}, {time.Millisecond, time.Millisecond}, {0, longest}} {
		d := newDist()
		for _, v := range values {
			d.add(v)
		}
		s := d.distribution()
		if s.Count != int64(len(values)) || s.P50 > s.P90 || s.P90 > s.P99 || s.P999 > s.Max || s.Max > ms(longest) {
			t.Errorf("%v: %+v", values, s)
		}
		n := int64(0)
		for _, c := range s.bars {
			n += c
		}
		if n != s.Count {
			t.Errorf("%v: %d drawn, want %d", values, n, s.Count)
		}
	}
}
