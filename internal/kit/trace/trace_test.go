package trace

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluice/internal/kit/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within returns a context for a Close that should not take long.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestNobodyWaitsForACollectorThatIsNotThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	t.Run("refused", func(t *testing.T) {
		_ = l.Close()
		closeOne(t, addr, 10*time.Second, "connection refused")
	})
	t.Run("silent", func(t *testing.T) {
		l, err := net.Listen("tcp", addr) // takes connections, and says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		took := closeOne(t, addr, 200*time.Millisecond, "canceled")
		if took > 5*time.Second {
			t.Errorf("Close took %s, asked to take 200ms", took)
		}
	})
}

// closeOne ends a span and closes its Tracer, which cannot send it.
func closeOne(t *testing.T, addr string, give time.Duration, why string) time.Duration {
	t.Helper()
	var log bytes.Buffer
	tr, err := Open(t.Context(), Config{Endpoint: addr, ServiceName: "sluice", Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	tr.Start(Context{}, "s", time.Now()).End(time.Now())
	ctx := within(t, give)
	begin := time.Now()
	err = tr.Close(ctx)
	if late := ctx.Err() != nil; late != errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("out of time: %v, but Close says %v", late, err)
	}
	took := time.Since(begin)
	if tr.Dropped() != 1 || !strings.Contains(strings.ToLower(log.String()), why) || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("%d spans dropped, want 1 and one line of %q:\n%s", tr.Dropped(), why, log.String())
	}
	return took
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "no-equals-sign")
	_, err := Open(t.Context(), Config{Endpoint: "127.0.0.1:1", ServiceName: "sluice"})
	if err == nil || !strings.Contains(err.Error(), "OTEL_RESOURCE_ATTRIBUTES") {
		t.Errorf("got %v, want the variable named", err)
	}
}

// exporter is an sdk.SpanExporter without a network.
type exporter struct {
	export func(context.Context, int) error
	sent   atomic.Int64
}

func (e *exporter) ExportSpans(ctx context.Context, ss []sdk.ReadOnlySpan) error {
	err := e.export(ctx, len(ss))
	if err == nil {
		e.sent.Add(int64(len(ss)))
	}
	return err
}

func (e *exporter) Shutdown(context.Context) error { return nil }

// over returns a Tracer that sends to e, and its log.
func over(e *exporter) (*Tracer, *bytes.Buffer) {
	log := new(bytes.Buffer)
	return open(resource.Empty(), e, Config{Log: slog.New(slog.NewTextHandler(log, nil))}), log
}

func spans(tr *Tracer, n int) {
	for range n {
		tr.Start(Context{}, "s", time.Now()).End(time.Now())
	}
}

func TestAFullQueueDropsAndSaysSoOnceAMinute(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &exporter{export: func(ctx context.Context, _ int) error {
			<-ctx.Done() // a collector that hangs
			return status.FromContextError(ctx.Err()).Err()
		}}
		tr, log := over(e)
		for range 30 {
			spans(tr, 3*maxWaiting)
			time.Sleep(10 * time.Second) // five minutes in all
		}
		synctest.Wait()
		lines := strings.Count(log.String(), "\n")
		if lines < 4 || lines > 6 {
			t.Errorf("%d lines in five minutes, want about 5:\n%s", lines, log.String())
		}
		begin := time.Now()
		err := tr.Close(within(t, 3*time.Second))
		if took := time.Since(begin); took != 3*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close took %s and said %v, want 3s and that time was up", took, err)
		}
		if tr.Dropped() != 30*3*maxWaiting {
			t.Errorf("%d spans dropped, want all %d", tr.Dropped(), 30*3*maxWaiting)
		}
	})
}

func TestRetries(t *testing.T) {
	unavailable := status.Error(codes.Unavailable, "down")
	tests := []struct {
		name  string
		errs  []error // of the tries, the last for ever
		tries int
		lost  int64
	}{
		{"at once", []error{nil}, 1, 0},
		{"a collector that starts again", []error{unavailable, unavailable, nil}, 3, 0},
		{"a collector that is away", []error{unavailable}, 3, 1},
		{"a batch that it does not want", []error{status.Error(codes.InvalidArgument, "no")}, 1, 1},
		{"a part that it does not want", []error{errors.New("OTLP partial success")}, 1, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				tries := 0
				tr, _ := over(&exporter{export: func(context.Context, int) error {
					tries++
					return test.errs[min(tries, len(test.errs))-1]
				}})
				spans(tr, 1)
				time.Sleep(time.Minute)
				synctest.Wait()
				if tries != test.tries || tr.Dropped() != test.lost {
					t.Errorf("%d tries, %d lost; want %d and %d", tries, tr.Dropped(), test.tries, test.lost)
				}
				if err := tr.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestBatches(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var sizes []int
		e := &exporter{export: func(_ context.Context, n int) error {
			sizes = append(sizes, n)
			return nil
		}}
		tr, log := over(e)
		spans(tr, 3)
		time.Sleep(2 * time.Second)
		spans(tr, maxBatch+1)
		if err := tr.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(sizes) != 3 || sizes[0] != 3 || sizes[1] != maxBatch || sizes[2] != 1 {
			t.Errorf("batches of %v, want 3 %d 1", sizes, maxBatch)
		}
		spans(tr, 3) // nobody takes them; nothing happens
		if err := tr.Close(t.Context()); err != nil {
			t.Errorf("closed twice: %v", err)
		}
		if log.Len() != 0 {
			t.Errorf("logged %s", log)
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	e := &exporter{export: func(context.Context, int) error { return nil }}
	tr, _ := over(e)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { spans(tr, 500) })
	}
	wg.Wait()
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := e.sent.Load() + tr.Dropped(); got != 4000 {
		t.Errorf("%d spans sent or counted as lost, want 4000", got)
	}
}

func BenchmarkSpan(b *testing.B) {
	parents := map[string]Context{
		"new":     {},
		"child":   Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""),
		"ignored": Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", ""),
	}
	for name, parent := range parents {
		b.Run(name, func(b *testing.B) {
			tr, _ := over(&exporter{export: func(context.Context, int) error { return nil }})
			defer func() { _ = tr.Close(context.Background()) }()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					s := tr.Start(parent, "POST /v1/chat/completions", time.Now())
					s.Set(String("gen_ai.request.model", "m"), Int("http.response.status_code", 200))
					s.End(time.Now())
				}
			})
		})
	}
}
