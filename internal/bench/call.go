package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"sluice/internal/kit/sse"
)

// Kinds of failure, as results count them; a status that is not 2xx is
// status_ and its number.
const (
	kindConnect    = "connect"      // no connection, or no TLS on it
	kindConnection = "connection"   // it broke, or spoke no HTTP, before an answer's header was whole
	kindTimeout    = "timeout"      // the request took longer than it may
	kindBadJSON    = "bad_json"     // an answer or an event that is no JSON
	kindCut        = "cut"          // the answer ended before its end: no [DONE], fewer bytes than announced
	kindErrorEvent = "error_event"  // a stream that reports an error
	kindErrorBody  = "error_body"   // a 200 whose body reports an error
	kindEmpty      = "empty_stream" // a stream that ended well and carried nothing
	kindNoStream   = "not_a_stream" // a stream was asked for, something else came
	kindTooLarge   = "too_large"    // an answer over maxAnswer, or an event over what sse takes
)

const (
	maxAnswer   = 256 << 20 // bytes of one answer that are read
	maxExample  = 240       // bytes of a failure's text that are kept
	keptBuffer  = 1 << 20   // a larger buffer is not kept for the next answer
	gapBatch    = 1024      // gaps held before they are recorded
	lingerAfter = 2 * time.Second
	workerField = "X-Smg-Routed-Worker-Id"
)

var (
	errTimeout  = errors.New("the request took longer than it may")
	errTooLarge = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
)

// A dialError is a failure to open a connection.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// A client sends requests of one kind. It is constant.
type client struct {
	tr      http.RoundTripper
	url     *url.URL
	header  http.Header
	shape   *node
	stream  bool
	timeout time.Duration
	hide    func(string) string // removes secrets from a server's words
}

// A job is one request that is to be made.
type job struct {
	body    []byte
	planned time.Time // when it should begin: latency counts from here
}

// An answer is what came of one job.
type answer struct {
	planned, begun, end time.Time
	first, last         time.Time // first and last output of a stream; zero if there was none
	kind                string    // of failure; empty if there was none
	example             string    // a failure in words
	unfinished          bool      // the run ended first
	status              int       // 0 if there was none
	worker              string
	sent, received      int64
	events              int64 // of a stream, with output in them
	usage               usage
}

// A caller makes one request after another and keeps what they can share. It
// is used by one goroutine at a time.
type caller struct {
	c    *client
	gaps func([]time.Duration, time.Time) // takes gaps between outputs of a request planned at that time

	in   stampReader
	buf  []byte
	held []time.Duration
}

// do makes one request and returns when its answer is whole, has failed, or ctx
// is done.
func (c *caller) do(ctx context.Context, j job) answer {
	a := answer{planned: j.planned, sent: int64(len(j.body))}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(c.c.timeout, func() { cancel(errTimeout) })
	defer limit.Stop()

	body := j.body
	req := &http.Request{
		Method: http.MethodPost, URL: c.c.url, Host: c.c.url.Host, Header: c.c.header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
	}
	a.begun = time.Now()
	resp, err := c.c.tr.RoundTrip(req.WithContext(ctx))
	if err != nil {
		a.end = time.Now()
		c.fail(ctx, &a, kindConnection, err)
		return a
	}
	defer resp.Body.Close()
	a.status, a.worker = resp.StatusCode, resp.Header.Get(workerField)
	c.in = stampReader{r: resp.Body, left: maxAnswer}
	switch {
	case a.status < 200 || a.status > 299:
		c.refused(&a)
	case c.c.stream && !isEventStream(resp.Header.Get("Content-Type")):
		c.refused(&a)
		a.kind = kindNoStream
	case c.c.stream:
		c.streamed(ctx, &a, limit)
	default:
		c.whole(ctx, &a)
	}
	a.received = c.in.n
	if len(c.held) > 0 {
		c.gaps(c.held, a.planned)
		c.held = c.held[:0]
	}
	return a
}

// fail says in a what went wrong: kind, unless the context tells more.
func (c *caller) fail(ctx context.Context, a *answer, kind string, err error) {
	var dial *dialError
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTimeout):
		kind, err = kindTimeout, fmt.Errorf("no whole answer within %v", c.c.timeout)
	case cause != nil:
		a.unfinished = true
		return
	case errors.As(err, &dial):
		kind = kindConnect
	case errors.Is(err, errTooLarge), errors.Is(err, sse.ErrTooLong):
		kind = kindTooLarge
	}
	a.kind, a.example = kind, c.example(err.Error())
}

// refused reads an answer that is of no use for its first words.
func (c *caller) refused(a *answer) {
	a.kind = fmt.Sprintf("status_%d", a.status)
	c.in.left = 64 << 10 // enough for any error; a longer one costs its connection
	c.readAll()
	a.end = c.in.at
	if a.end.IsZero() {
		a.end = time.Now()
	}
	a.example = c.example(string(c.buf[:min(len(c.buf), 4*maxExample)]))
}

// whole reads an answer that is one JSON text.
func (c *caller) whole(ctx context.Context, a *answer) {
	err := c.readAll()
	a.end = c.in.at
	var f facts
	switch {
	case err != nil:
		a.end = time.Now()
		c.fail(ctx, a, kindCut, err)
	case !f.read(c.buf, c.c.shape):
		a.kind, a.example = kindBadJSON, c.example(string(c.buf[:min(len(c.buf), 4*maxExample)]))
	case f.fault:
		a.kind, a.example = kindErrorBody, c.example(string(c.buf[:min(len(c.buf), 4*maxExample)]))
	default:
		a.usage = f.usage
	}
}

// readAll fills buf with the rest of the answer.
func (c *caller) readAll() error {
	if c.buf = c.buf[:0]; cap(c.buf) == 0 || cap(c.buf) > keptBuffer {
		c.buf = make([]byte, 0, 16<<10)
	}
	for {
		if len(c.buf) == cap(c.buf) {
			c.buf = append(c.buf, 0)[:len(c.buf)]
		}
		n, err := c.in.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+n]
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// streamed reads a stream. An event counts as come at the read that brought it,
// not when its turn came to be looked at.
func (c *caller) streamed(ctx context.Context, a *answer, limit *time.Timer) {
	in := sse.NewReader(&c.in)
	ended := false
	for {
		e, err := in.Next()
		if err != nil {
			if !ended {
				a.end = time.Now()
				if err == io.EOF {
					err = errors.New("the stream ended without its last event")
				}
				if a.kind == "" {
					c.fail(ctx, a, kindCut, err)
				}
			}
			break
		}
		if ended || len(e.Data) == 0 {
			continue // what follows the end is read only to keep the connection
		}
		if string(e.Data) == "[DONE]" || c.event(a, e) {
			ended, a.end = true, c.in.at
			// A server that now holds the connection open must not hold the caller.
			limit.Reset(min(lingerAfter, c.c.timeout))
		}
	}
	if a.kind == "" && !a.unfinished && a.events == 0 {
		a.kind, a.example = kindEmpty, "the stream carried no output"
	}
}

// event takes note of one event and reports whether the stream ends with it.
func (c *caller) event(a *answer, e sse.Event) (last bool) {
	var f facts
	f.usage = a.usage
	ok := f.read(e.Data, c.c.shape)
	if !ok {
		if a.kind == "" {
			a.kind, a.example = kindBadJSON, c.example(string(e.Data[:min(len(e.Data), 4*maxExample)]))
		}
		return false
	}
	a.usage = f.usage
	if f.fault || string(e.Name) == "error" {
		if a.kind == "" {
			a.kind, a.example = kindErrorEvent, c.example(string(e.Data[:min(len(e.Data), 4*maxExample)]))
		}
		return f.last
	}
	if f.text {
		at := c.in.at
		if a.events == 0 {
			a.first = at
		} else {
			c.held = append(c.held, at.Sub(a.last))
			if len(c.held) == gapBatch {
				c.gaps(c.held, a.planned)
				c.held = c.held[:0]
			}
		}
		a.last = at
		a.events++
	}
	return f.last
}

// example cuts and cleans a text that others wrote.
func (c *caller) example(s string) string {
	s = c.c.hide(s)
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(s) > maxExample {
		s = s[:maxExample]
		for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) && len(s) > maxExample-utf8.UTFMax {
			s = s[:len(s)-1]
		}
		s += "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func isEventStream(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// A stampReader notes when the last read returned bytes, counts them, and stops
// at its bound.
type stampReader struct {
	r    io.Reader
	at   time.Time
	n    int64
	left int64
}

func (s *stampReader) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > s.left {
		p = p[:s.left]
	}
	n, err := s.r.Read(p)
	if n > 0 || s.at.IsZero() {
		s.at = time.Now()
	}
	s.n += int64(n)
	s.left -= int64(n)
	return n, err
}
