// Package trace makes spans, sends them to a collector, and reads and writes
// the W3C headers that tie them to the spans of others.
//
// A span costs its request a few allocations and never a wait: what is finished
// goes into a bounded queue, and is dropped and counted when that is full.
// Whether there is a collector is found out when the first spans are sent.
package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	otel "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config says where spans go, and who sends them.
type Config struct {
	Endpoint    string       // host:port of a collector that speaks OTLP over gRPC, without TLS
	ServiceName string       // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have precedence
	Version     string       // of the service
	Log         *slog.Logger // hears of lost spans, at most once a minute; nil for nobody
	// Delay is how long a span may wait for others that are sent with it; 0
	// for a second.
	Delay time.Duration
}

// A Tracer makes spans. It is used by many goroutines at once.
type Tracer struct {
	tracer otel.Tracer
	queue  *queue
	out    sdk.SpanExporter
}

// maxPause bounds how long a collector that is back goes unnoticed; gRPC's own
// bound is two minutes.
const maxPause = 10 * time.Second

// Open returns a Tracer that sends to cfg's collector. It does not connect, so
// it neither waits nor fails if there is none; errors are those of settings.
// Close ends what it starts.
func Open(ctx context.Context, cfg Config) (*Tracer, error) {
	res, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", cfg.ServiceName), attribute.String("service.version", cfg.Version)),
		resource.WithHost(), resource.WithTelemetrySDK(),
		resource.WithFromEnv(), // last: what the operator says counts
	)
	if err != nil {
		return nil, fmt.Errorf("describing the source of spans (OTEL_RESOURCE_ATTRIBUTES): %w", err)
	}
	pauses := backoff.DefaultConfig
	pauses.MaxDelay = maxPause
	out, err := otlptracegrpc.New(ctx,
		otlptracegrpc.WithEndpoint(cfg.Endpoint),
		otlptracegrpc.WithInsecure(),
		otlptracegrpc.WithTimeout(sendTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{}), // the queue tries again, and stops when it is closed
		otlptracegrpc.WithDialOption(grpc.WithConnectParams(grpc.ConnectParams{Backoff: pauses, MinConnectTimeout: maxPause})),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing to send spans to %q: %w", cfg.Endpoint, err)
	}
	return open(res, out, cfg), nil
}

func open(res *resource.Resource, out sdk.SpanExporter, cfg Config) *Tracer {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Delay == 0 {
		cfg.Delay = time.Second
	}
	q := newQueue(out, cfg.Log, cfg.Delay)
	p := sdk.NewTracerProvider(
		sdk.WithResource(res),
		sdk.WithSampler(sdk.ParentBased(sdk.AlwaysSample())),
		sdk.WithRawSpanLimits(limits),
		sdk.WithSpanProcessor(q),
	)
	return &Tracer{tracer: p.Tracer("sluice"), queue: q, out: out}
}

// limits are given raw, so that no variable of the environment lifts them.
var limits = sdk.SpanLimits{
	AttributeValueLengthLimit: maxString, AttributeCountLimit: 64,
	EventCountLimit: 16, LinkCountLimit: 4,
	AttributePerEventCountLimit: 8, AttributePerLinkCountLimit: 8,
	AttributeValueDepthLimit: 4,
}

// Close sends what is queued and ends what t runs. Spans that end later are
// dropped. When ctx is done first, the rest is dropped and Close says so.
func (t *Tracer) Close(ctx context.Context) error {
	err := t.queue.close(ctx)
	// Nothing is being sent any more, so this does not wait.
	if e := t.out.Shutdown(context.WithoutCancel(ctx)); e != nil {
		err = errors.Join(err, fmt.Errorf("closing the connection to the collector: %w", e))
	}
	return err
}

// Dropped returns how many finished spans the collector did not get.
func (t *Tracer) Dropped() int64 { return t.queue.lost.Load() }

// Start begins the span of a request that a client made at a given time. A
// zero parent begins a new trace, which is recorded; otherwise the client has
// said whether it is.
func (t *Tracer) Start(parent Context, name string, at time.Time) *Span {
	ctx := context.Background()
	if parent.sc.IsValid() {
		ctx = otel.ContextWithRemoteSpanContext(ctx, parent.sc)
	}
	_, s := t.tracer.Start(ctx, clean(name), otel.WithSpanKind(otel.SpanKindServer), otel.WithTimestamp(at))
	return &Span{s}
}

// A Span is one piece of work in a trace. It belongs to one goroutine.
type Span struct{ span otel.Span }

// Context returns what makes other spans children of s.
func (s *Span) Context() Context { return Context{s.span.SpanContext()} }

// Recording reports whether s will be sent. If not, attributes need not be
// computed.
func (s *Span) Recording() bool { return s.span.IsRecording() }

// Set adds attributes; the last of a key counts.
func (s *Span) Set(attrs ...Attr) { s.span.SetAttributes(attrs...) }

// Fail marks s as failed, for a reason of few words.
func (s *Span) Fail(reason string) { s.span.SetStatus(codes.Error, clean(reason)) }

// End ends s at the given time.
func (s *Span) End(at time.Time) { s.span.End(otel.WithTimestamp(at)) }

// An Attr is a named value of a span.
type Attr = attribute.KeyValue

// maxString is how many bytes of a string a span keeps.
const maxString = 256

// String returns an attribute of at most maxString bytes of v. What is not
// UTF-8 in it is replaced: a collector would refuse the whole batch.
func String(key, v string) Attr { return attribute.String(key, clean(v)) }

// Int returns a whole number.
func Int(key string, v int64) Attr { return attribute.Int64(key, v) }

// Seconds returns a duration as OpenTelemetry counts them.
func Seconds(key string, d time.Duration) Attr { return attribute.Float64(key, d.Seconds()) }

// Bool returns a yes or no.
func Bool(key string, v bool) Attr { return attribute.Bool(key, v) }

// clean returns at most maxString bytes of s, as valid UTF-8.
func clean(s string) string {
	if len(s) > maxString {
		n := maxString
		for n > maxString-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "?") // one byte, so that s does not grow
}
