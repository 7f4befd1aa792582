package tracetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/kit/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within returns a context for a Close that should not take long.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestSpansReachTheCollector(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	c := Start(t, nil)
	tr, err := trace.Open(t.Context(), trace.Config{Endpoint: c.Addr, ServiceName: "sluice", Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	parent := trace.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=1,b=2")
	start := time.Unix(1_700_000_000, 5)
	s := tr.Start(parent, "POST /v1/x", start)
	s.Set(trace.String("text", "v"), trace.Int("n", 7), trace.Bool("yes", true), trace.Seconds("took", 1500*time.Millisecond))
	s.Fail("because")
	s.End(start.Add(time.Second))
	if err := tr.Close(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	got := c.Next(t)
	if got.Name != "POST /v1/x" || got.Kind.String() != "SPAN_KIND_SERVER" || got.TraceState != "a=1,b=2" {
		t.Errorf("got %v", got.Span)
	}
	if got.StartTimeUnixNano != 1_700_000_000_000_000_005 || got.EndTimeUnixNano-got.StartTimeUnixNano != 1e9 {
		t.Errorf("from %d to %d", got.StartTimeUnixNano, got.EndTimeUnixNano)
	}
	if got.Status.Code.String() != "STATUS_CODE_ERROR" || got.Status.Message != "because" {
		t.Errorf("status %v", got.Status)
	}
	for k, want := range map[string]string{"text": "v", "n": "7", "yes": "true", "took": "1.5"} {
		if v := got.Attrs()[k]; v != want {
			t.Errorf("%s is %q, want %q", k, v, want)
		}
	}
	for k, want := range map[string]string{"service.name": "sluice", "service.version": "1.2.3", "deployment.environment.name": "test"} {
		if v := got.Resource[k]; v != want {
			t.Errorf("the source's %s is %q, want %q", k, v, want)
		}
	}
	if tr.Dropped() != 0 {
		t.Errorf("%d spans dropped, want 0", tr.Dropped())
	}
}

func TestSpansAreSentSoon(t *testing.T) {
	c := Start(t, nil)
	tr, err := trace.Open(t.Context(), trace.Config{Endpoint: c.Addr, ServiceName: "sluice"})
	if err != nil {
		t.Fatal(err)
	}
	tr.Start(trace.Context{}, "one", time.Now()).End(time.Now())
	c.Next(t) // without Close
	if err := tr.Close(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
}

// A span of bytes that are not UTF-8 would have its whole batch refused.
func TestHostileTextIsSent(t *testing.T) {
	c := Start(t, nil)
	tr, err := trace.Open(t.Context(), trace.Config{Endpoint: c.Addr, ServiceName: "sluice"})
	if err != nil {
		t.Fatal(err)
	}
	s := tr.Start(trace.Context{}, "\xff\xfe name", time.Now())
	s.Set(trace.String("bad", "a\xffb"), trace.String("long", strings.Repeat("ü", 1<<20)), trace.String("torn", strings.Repeat("x", 255)+"ü"))
	for i := range 1000 {
		s.Set(trace.Int("n"+strings.Repeat("n", i), 1))
	}
	s.Fail("\xc3" + strings.Repeat("y", 1<<20))
	s.End(time.Now())
	if err := tr.Close(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	got := c.Next(t)
	if got.Name != "? name" || len(got.Status.Message) > 256 || len(got.Attributes) > 64 {
		t.Errorf("name %q, a reason of %d bytes, %d attributes", got.Name, len(got.Status.Message), len(got.Attributes))
	}
	a := got.Attrs()
	if a["bad"] != "a?b" || len(a["long"]) != 256 || a["torn"] != strings.Repeat("x", 255) {
		t.Errorf("bad %q, long has %d bytes, torn %q", a["bad"], len(a["long"]), a["torn"])
	}
}

func TestTheClientSaysWhetherATraceIsRecorded(t *testing.T) {
	c := Start(t, nil)
	tr, err := trace.Open(t.Context(), trace.Config{Endpoint: c.Addr, ServiceName: "sluice"})
	if err != nil {
		t.Fatal(err)
	}
	const id = "0af7651916cd43dd8448eb211c80319c"
	tests := []struct {
		name, parent string
		want         bool
		flags        string
	}{
		{"no parent", "", true, "01"},
		{"recorded", "00-" + id + "-b7ad6b7169203331-01", true, "01"},
		{"not recorded", "00-" + id + "-b7ad6b7169203331-00", false, "00"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := tr.Start(trace.Parse(test.parent, ""), test.name, time.Now())
			if s.Recording() != test.want {
				t.Errorf("recording is %v, want %v", s.Recording(), test.want)
			}
			child := s.Context().Traceparent()
			if !strings.HasSuffix(child, "-"+test.flags) || len(child) != 55 {
				t.Errorf("the child's parent is %q, want flags %s", child, test.flags)
			}
			if test.parent != "" && (child[:35] != test.parent[:35] || child[35:52] == test.parent[35:52]) {
				t.Errorf("the child's parent is %q after %q: want the same trace, another span", child, test.parent)
			}
			s.End(time.Now())
		})
	}
	if err := tr.Close(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if c.Len() != 2 {
		t.Errorf("the collector got %d spans, want 2", c.Len())
	}
}
