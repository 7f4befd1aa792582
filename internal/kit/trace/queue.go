package trace

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	maxWaiting  = 2048 // finished spans, some 3 KiB each
	maxBatch    = 512
	sendTimeout = 10 * time.Second
	maxTries    = 3
	firstPause  = time.Second // before the second try; it doubles
	sayEvery    = time.Minute
)

// A queue holds finished spans until its goroutine has sent them. It implements
// sdk.SpanProcessor; the SDK's own neither counts what it drops nor lets its
// errors be heard but through a handler of the whole process.
type queue struct {
	out   sdk.SpanExporter // this and the next two are constant
	log   *slog.Logger
	delay time.Duration // how long a span waits for others

	wait chan sdk.ReadOnlySpan
	lost atomic.Int64

	once   sync.Once // closes stop
	stop   chan struct{}
	done   chan struct{}      // closed when run has ended
	cancel context.CancelFunc // gives up what is being sent

	// run's own.
	said   int64     // how many of lost have been logged
	saidAt time.Time // zero if never
	err    error     // why spans were last lost by a send
}

// newQueue returns a queue whose goroutine runs until close.
func newQueue(out sdk.SpanExporter, log *slog.Logger, delay time.Duration) *queue {
	ctx, cancel := context.WithCancel(context.Background())
	q := &queue{
		out: out, log: log, delay: delay, wait: make(chan sdk.ReadOnlySpan, maxWaiting),
		stop: make(chan struct{}), done: make(chan struct{}), cancel: cancel,
	}
	go q.run(ctx)
	return q
}

// OnStart implements sdk.SpanProcessor.
func (q *queue) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd implements sdk.SpanProcessor. It never waits.
func (q *queue) OnEnd(s sdk.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	select {
	case q.wait <- s:
	default:
		q.lost.Add(1)
	}
}

// Shutdown implements sdk.SpanProcessor.
func (q *queue) Shutdown(ctx context.Context) error { return q.close(ctx) }

// ForceFlush implements sdk.SpanProcessor. Nothing flushes but close.
func (q *queue) ForceFlush(context.Context) error { return nil }

// close sends what is queued and ends run, at the latest when ctx is done.
func (q *queue) close(ctx context.Context) error {
	q.once.Do(func() { close(q.stop) })
	defer q.cancel()
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
	}
	before := q.lost.Load()
	q.cancel()
	<-q.done
	if n := q.lost.Load() - before; n > 0 {
		return fmt.Errorf("sending the last spans: %d were not sent in time: %w", n, context.Cause(ctx))
	}
	return nil
}

// run sends batches until the queue is closed and empty. ctx gives up sending.
func (q *queue) run(ctx context.Context) {
	defer close(q.done)
	var batch []sdk.ReadOnlySpan
	for {
		batch = q.fill(batch[:0])
		if len(batch) == 0 {
			q.say(0)
			return
		}
		if err := q.send(ctx, batch); err != nil {
			q.lost.Add(int64(len(batch)))
			q.err = err
		}
		q.say(sayEvery)
		clear(batch)
	}
}

// fill waits for spans and returns some, none if the queue is closed and empty.
func (q *queue) fill(batch []sdk.ReadOnlySpan) []sdk.ReadOnlySpan {
	var old <-chan time.Time // fires when the batch has waited long enough
	stop := q.stop
	for len(batch) < maxBatch {
		select {
		case s := <-q.wait:
			if batch = append(batch, s); old == nil {
				old = time.After(q.delay)
			}
			continue
		default:
		}
		if stop == nil { // closed, and nothing is left
			break
		}
		select {
		case s := <-q.wait:
			if batch = append(batch, s); old == nil {
				old = time.After(q.delay)
			}
		case <-old:
			return batch
		case <-stop:
			stop = nil
		}
	}
	return batch
}

// send tries to send batch. A collector that took only a part of it has failed
// too, and is not asked again.
func (q *queue) send(ctx context.Context, batch []sdk.ReadOnlySpan) (err error) {
	pause := firstPause
	for try := 1; ; try++ {
		if err = q.sendOnce(ctx, batch); err == nil || try == maxTries || !passing(err) {
			return err
		}
		select {
		case <-q.stop:
			return err // who closes does not want to wait
		case <-time.After(pause):
			pause *= 2
		}
	}
}

func (q *queue) sendOnce(ctx context.Context, batch []sdk.ReadOnlySpan) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return q.out.ExportSpans(ctx, batch)
}

// passing reports whether a collector that answered err may do better soon.
func passing(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.DeadlineExceeded:
		return true
	}
	return false
}

// say logs what was lost since the last time, if that is long enough ago.
func (q *queue) say(every time.Duration) {
	lost := q.lost.Load()
	now := time.Now()
	if lost == q.said || !q.saidAt.IsZero() && now.Sub(q.saidAt) < every {
		return
	}
	why := "the queue was full"
	if q.err != nil {
		why = clean(q.err.Error())
	}
	q.log.Warn("spans lost", "spans", lost-q.said, "total", lost, "err", why)
	q.said, q.saidAt, q.err = lost, now, nil
}
