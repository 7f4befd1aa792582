package bench

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A recorded answer, as a server gives it again and again.
type recorded struct {
	header http.Header
	pieces []string // what one read brings
}

type replay struct {
	pieces []string
	rest   string
}

func (r *replay) Read(p []byte) (int, error) {
	if r.rest == "" {
		if len(r.pieces) == 0 {
			return 0, io.EOF
		}
		r.rest, r.pieces = r.pieces[0], r.pieces[1:]
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
func (*replay) Close() error { return nil }

func (r *recorded) RoundTrip(req *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, req.Body)
	return &http.Response{StatusCode: 200, Header: r.header, Body: &replay{pieces: r.pieces}, Request: req}, nil
}

func streamOf(events, perRead int) *recorded {
	r := &recorded{header: http.Header{"Content-Type": {"text/event-stream"}}}
	for range events / perRead {
		r.pieces = append(r.pieces, strings.Repeat("data: "+chunk+"\n\n", perRead))
	}
	r.pieces = append(r.pieces, "data: [DONE]\n\n")
	return r
}

func callerOf(r *recorded) *caller {
	u, err := targetURL("http://server", 1)
	if err != nil {
		panic(err)
	}
	c := &client{tr: r, url: u, header: http.Header{}, shape: answerShape, stream: true, timeout: time.Minute, hide: func(s string) string { return s }}
	return &caller{c: c, gaps: func([]time.Duration, time.Time) {}}
}

// Events of one read came at one time, whatever it takes to look at them.
func TestAnEventCountsAsComeWithItsRead(t *testing.T) {
	var gaps []time.Duration
	c := callerOf(streamOf(12, 4))
	c.gaps = func(g []time.Duration, _ time.Time) { gaps = append(gaps, g...) }
	a := c.do(t.Context(), job{planned: time.Now()})
	if a.kind != "" || a.events != 12 || len(gaps) != 11 {
		t.Fatalf("%+v with %d gaps", a, len(gaps))
	}
	zero := 0
	for _, g := range gaps {
		if g == 0 {
			zero++
		}
	}
	if zero != 9 {
		t.Errorf("%d of %d gaps are zero, want 9: %v", zero, len(gaps), gaps)
	}
}

func TestAnEventDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	measure := func(events int) float64 {
		c := callerOf(streamOf(events, 1))
		return testing.AllocsPerRun(50, func() { c.do(t.Context(), job{planned: time.Now()}) })
	}
	few, many := measure(10), measure(1010)
	if many > few+2 {
		t.Errorf("%v allocations for 10 events, %v for 1010", few, many)
	}
}

// The figure of an op is that of one event, its part of the request included.
func BenchmarkEvent(b *testing.B) {
	const events = 256
	for _, bb := range []struct {
		name    string
		perRead int
	}{{"one a read", 1}, {"16 a read", 16}} {
		b.Run(bb.name, func(b *testing.B) {
			c := callerOf(streamOf(events, bb.perRead))
			b.ReportAllocs()
			for i := 0; i < b.N; i += events {
				if a := c.do(b.Context(), job{planned: time.Now()}); a.kind != "" {
					b.Fatal(a.kind, a.example)
				}
			}
		})
	}
}

func BenchmarkRecord(b *testing.B) {
	now := time.Now()
	r := newRecorder(now, now.Add(time.Hour))
	a := &answer{planned: now, begun: now, first: now.Add(time.Millisecond), last: now.Add(time.Second), end: now.Add(time.Second), status: 200, worker: "http://w", events: 64}
	gaps := make([]time.Duration, 64)
	for i := range gaps {
		gaps[i] = time.Duration(i) * time.Millisecond
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.begin(now)
			r.gaps(gaps, now)
			r.add(a)
		}
	})
}
