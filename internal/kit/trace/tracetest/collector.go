// Package tracetest has a collector of spans for tests, and those of package
// trace that need one.
package tracetest

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// patience bounds the wait for a span that should come soon.
const patience = 20 * time.Second

// A Collector takes OTLP over gRPC.
type Collector struct {
	collector.UnimplementedTraceServiceServer
	Addr string // host:port

	got    chan Span
	answer func() error
}

// A Span is what a Collector got of one.
type Span struct {
	*spans.Span
	Resource map[string]string
}

// Start starts a Collector that ends with the test. Each batch is answered by
// answer and forgotten if that is an error; nil takes all.
func Start(t testing.TB, answer func() error) *Collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{Addr: l.Addr().String(), got: make(chan Span, 10_000), answer: answer}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, c)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("the collector ended: %v", err)
		}
	})
	return c
}

// Export implements collector.TraceServiceServer.
func (c *Collector) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	if c.answer != nil {
		if err := c.answer(); err != nil {
			return nil, err
		}
	}
	for _, rs := range req.ResourceSpans {
		of := texts(rs.Resource.Attributes)
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.got <- Span{s, of}
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// Next waits for a span that Next has not returned yet.
func (c *Collector) Next(t testing.TB) Span {
	t.Helper()
	select {
	case s := <-c.got:
		return s
	case <-time.After(patience):
		t.Fatalf("no span came within %s", patience)
		return Span{}
	}
}

// Len returns how many spans Next would return at once.
func (c *Collector) Len() int { return len(c.got) }

// Attrs returns s's attributes as text.
func (s Span) Attrs() map[string]string { return texts(s.Attributes) }

func texts(kvs []*common.KeyValue) map[string]string {
	m := make(map[string]string, len(kvs))
	for _, kv := range kvs {
		switch v := kv.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			m[kv.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[kv.Key] = strconv.FormatInt(v.IntValue, 10)
		case *common.AnyValue_DoubleValue:
			m[kv.Key] = strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
		case *common.AnyValue_BoolValue:
			m[kv.Key] = strconv.FormatBool(v.BoolValue)
		default:
			m[kv.Key] = kv.Value.String()
		}
	}
	return m
}
