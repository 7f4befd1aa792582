package linelog

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// values is what one line says.
type values struct {
	t     time.Time
	level slog.Level
	msg   string
	s     string
	n     int64
	b     bool
	d     time.Duration
	a     netip.Addr
}

// ours is the line as a Log writes it.
func ours(json bool, v values) string {
	var out bytes.Buffer
	l := New(&out, Config{JSON: json})
	e := l.Begin(v.t, v.level, v.msg)
	e.Str("s", v.s)
	e.Int("n", v.n)
	e.Bool("b", v.b)
	e.Millis("d_ms", v.d)
	e.Addr("a", v.a)
	e.End()
	l.Flush()
	return out.String()
}

// slogs is the line as slog's handlers write it.
func slogs(json bool, v values) string {
	var out bytes.Buffer
	var h slog.Handler = slog.NewTextHandler(&out, nil)
	if json {
		h = slog.NewJSONHandler(&out, nil)
	}
	r := slog.NewRecord(v.t, v.level, v.msg, 0)
	r.AddAttrs(slog.String("s", v.s), slog.Int64("n", v.n), slog.Bool("b", v.b),
		slog.Float64("d_ms", float64(v.d.Microseconds())/1000), slog.String("a", v.a.String()))
	if err := h.Handle(context.Background(), r); err != nil {
		panic(err)
	}
	return out.String()
}

func same(t *testing.T, v values) {
	t.Helper()
	for _, json := range []bool{false, true} {
		if got, want := ours(json, v), slogs(json, v); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// TestLinesAreAsSlogWritesThem compares byte for byte.
func TestLinesAreAsSlogWritesThem(t *testing.T) {
	for _, s := range []string{
		"", "plain", "two words", `"quoted"`, `back\slash`, "a=b", "line\nbreak\r\ttab", "\x00\x01\x1b[31m\x7f", "é", "日本語", "\u2028\u2029", "\u00a0", "\u200b",
		"\xff", "a\xc3", "\xed\xa0\x80", "\ufffd", "<script>&amp;</script>", "👍", strings.Repeat("x", 5000), "\b\f", "'", "\U000e0001", "http://10.0.0.1:8000/a?b=c",
	} {
		same(t, values{t: noon, msg: "request", s: s})
		same(t, values{t: noon, msg: s})
	}
	for c := range 256 {
		same(t, values{t: noon, msg: "m", s: string([]byte{'a', byte(c), 'b'})})
		same(t, values{t: noon, msg: "m", s: string([]byte{byte(c)})})
	}
	for _, d := range []time.Duration{
		0, 1, 999, 1000, 1500, time.Microsecond * 10, time.Microsecond * 100, time.Microsecond * 123456, time.Microsecond * 1001, time.Microsecond * 1010,
		time.Millisecond, time.Second, time.Second * 999, time.Second*1000 - time.Microsecond, time.Second * 1000, time.Second*1000 + time.Microsecond*7,
		time.Hour, 100 * time.Hour, math.MaxInt64, -1, -time.Microsecond, -time.Second, math.MinInt64,
	} {
		same(t, values{t: noon, msg: "m", d: d})
	}
	for _, n := range []int64{0, 1, -1, 1 << 53, math.MaxInt64, math.MinInt64} {
		same(t, values{t: noon, msg: "m", n: n, b: n > 0})
	}
	for _, at := range []time.Time{
		noon.Add(1), noon.Add(time.Millisecond), noon.Add(999_999_999), noon.Add(120 * time.Millisecond), noon.Add(123_456_789), time.Unix(0, 0), time.Now(),
		noon.In(time.FixedZone("", 5*3600+1800)), noon.In(time.FixedZone("", -3600)),
	} {
		same(t, values{t: at, msg: "m"})
	}
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError, slog.LevelInfo + 1, -100} {
		same(t, values{t: noon, msg: "m", level: level})
	}
	for _, a := range []string{"127.0.0.1", "::1", "2001:db8::1", "::ffff:192.0.2.7", "fe80::1%eth0", "fe80::1%a b\"\n", "255.255.255.255"} {
		same(t, values{t: noon, msg: "m", a: netip.MustParseAddr(a)})
	}
	for range 10_000 {
		same(t, values{t: noon.Add(time.Duration(rand.Int64())), msg: "m", d: time.Duration(rand.Int64N(1 << (1 + rand.IntN(62))))})
	}
}

// FuzzLine holds that a line is what slog would write.
func FuzzLine(f *testing.F) {
	f.Add("request", "a\nb", int64(5), int64(time.Second))
	f.Add("", "\xff\u2028", int64(-5), int64(1500))
	f.Fuzz(func(t *testing.T, msg, s string, n, d int64) {
		same(t, values{t: noon, msg: msg, s: s, n: n, d: time.Duration(d)})
	})
}

// say writes a line such as the gateway's for a request.
func say(l *Log) {
	e := l.Begin(noon, slog.LevelInfo, "request")
	e.Str("id", "chatcmpl-0123456789abcdefghijklmn")
	e.Str("method", "POST")
	e.Str("path", "/v1/chat/completions")
	e.Int("status", 200)
	e.Millis("duration_ms", 1234567*time.Microsecond)
	e.Addr("remote", netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	e.Str("worker", "http://10.0.0.1:8000")
	e.Bool("stream", true)
	e.Millis("ttft_ms", 23456*time.Microsecond)
	e.End()
}

func TestALineAllocatesNothing(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	for _, json := range []bool{false, true} {
		l := New(io.Discard, Config{JSON: json})
		i := 0
		if n := testing.AllocsPerRun(10_000, func() {
			if say(l); i%100 == 0 {
				l.Flush()
			}
			i++
		}); n != 0 {
			t.Errorf("json %v: %v allocations a line, want none", json, n)
		}
	}
}

func BenchmarkLine(b *testing.B) {
	for _, json := range []bool{false, true} {
		b.Run(map[bool]string{false: "text", true: "json"}[json], func(b *testing.B) {
			l := New(io.Discard, Config{JSON: json})
			b.ReportAllocs()
			for n := 1; b.Loop(); n++ {
				if say(l); n%100 == 0 {
					l.Flush()
				}
			}
		})
	}
}
