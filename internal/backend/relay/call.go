package relay

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/buf"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/peek"
	"sluice/internal/kit/sse"
	"sluice/internal/kit/upstream"
)

// A call is one attempt's answer on its way from the worker to the client. It
// implements upstream.Sink.
type call struct {
	r *infer.Request
	w *infer.Reply

	way      way
	unproven bool // only the connection's end marks the answer's
	torn     bool // a part of an event was sent, for it is longer than may be held
	spliced  bool // chunks have passed as they are, and may still
	released bool // the request's memory was given back

	body *buf.Buf // what is held of the body
	n    int      // bytes in it
	most int      // how many it may be
	seen sse.Watcher

	status int
	fields int          // of the reply's header before the worker's were added
	length int64        // of the body, -1 if unknown
	header infer.Header // what the client gets of a refusal's
	after  time.Duration
}

// way is what is done with an answer.
type way uint8

const (
	wayNone    way = iota // there is no answer yet
	wayWhole              // hold it whole, if it is short, so that another worker can be asked when it breaks off
	wayThrough            // pass it on as it comes
	wayEvents             // pass on whole events
	wayRerank             // hold it, and wrap it
	wayRefused            // hold it: another worker may do better, or it has to be said in other words
)

// maxHeld bounds a whole answer that is read before it is begun, so that
// another worker can be asked when it breaks off. Longer ones are passed on as
// they come.
const maxHeld = 1 << 20

// maxRefusal bounds how much of a worker's error is kept to be relayed when no
// other worker does better.
const maxRefusal = 1 << 20

var calls = sync.Pool{New: func() any { return new(call) }}

func (c *call) free() {
	c.drop()
	h := c.header
	h.Reset()
	*c = call{header: h}
	calls.Put(c)
}

func (c *call) drop() {
	if c.body != nil {
		c.body.Free()
		c.body, c.n = nil, 0
	}
}

// Answer implements upstream.Sink.
func (c *call) Answer(h *h1.ResponseHead) error {
	c.status, c.length = h.Status, h.ContentLength
	if h.Framing == h1.FramingNone && h.Status != http.StatusNoContent && h.Status != http.StatusNotModified {
		c.length = 0
	}
	c.unproven = h.Framing == h1.FramingClose
	kind := h.Get("content-type")
	switch {
	case h.Status >= 300 && h.Status < 400:
		// Following it would hand the request, key and all, to whoever the
		// worker names.
		return &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_redirect_error", Msg: "The worker redirects, which is not followed.", Retry: true, Err: statusText(h.Status)}
	case retryable(h.Status), h.Status >= 400 && c.r.Endpoint.Dialect() == infer.Anthropic:
		c.way, c.most = wayRefused, maxRefusal
		if secs, err := strconv.Atoi(string(h.Get("retry-after"))); err == nil && secs > 0 && secs < 86400 {
			c.after = time.Duration(secs) * time.Second
		}
	case h.Status == http.StatusOK && c.r.Endpoint == infer.Rerank:
		c.way, c.most = wayRerank, maxRanked
	case isType(kind, "text/event-stream"):
		// A length that the worker does not keep to would leave no room for
		// the event that says so.
		c.way, c.most, c.length = wayEvents, maxEvent, -1
		if c.r.Left() {
			c.r.Stream = true // as is seen only now
		}
	case c.length > maxHeld, c.length < 0 && !isType(kind, "application/json"):
		c.way = wayThrough
	default:
		c.way, c.most = wayWhole, maxHeld
	}
	// A refusal's header is kept apart. Another's goes where it will be sent
	// from, and away again if it is not.
	to := c.w.Header()
	if c.way == wayRefused {
		to = &c.header
	}
	c.fields = to.Len()
	keepHeader(to, h)
	return nil
}

// Body implements upstream.Sink.
func (c *call) Body(b *h1.Body, wire []byte) (n int, err error) {
	if c.way == wayEvents {
		return c.events(b, wire)
	}
	for n < len(wire) && !b.Done() {
		k, data, err := b.Next(wire[n:])
		if n += k; err != nil {
			return n, err
		}
		if err := c.take(data, b.Done()); err != nil {
			return n, err
		}
	}
	return n, nil
}

// take takes a piece of a body that has no events, perhaps the last.
func (c *call) take(data []byte, last bool) error {
	switch {
	case c.way == wayThrough:
		return c.pass(data)
	case c.way == wayWhole && c.n == 0 && last && !c.unproven:
		// All at once: it need not be held.
		return c.all(data)
	case c.n+len(data) <= c.most:
		c.hold(data)
		return nil
	case c.way == wayWhole:
		c.way = wayThrough
		held := c.body
		c.body = nil
		n := c.n
		c.n = 0
		defer held.Free()
		if err := c.pass(held.B[:n]); err != nil {
			return err
		}
		return c.pass(data)
	case c.way == wayRerank:
		return unwrappable(errors.New("it is over " + strconv.Itoa(maxRanked) + " bytes"))
	}
	// A refusal that is too long to be an error message; ours is sent instead.
	return c.refusal(nil)
}

// hold keeps data. What the worker announces is believed up to maxHeld.
func (c *call) hold(data []byte) {
	if c.body == nil {
		c.body = buf.Get(int(min(max(c.length, int64(len(data)), 4<<10), maxHeld)))
	}
	if c.n+len(data) > len(c.body.B) {
		c.body = c.body.Grow(max(2*len(c.body.B), c.n+len(data)))
	}
	c.n += copy(c.body.B[c.n:], data)
}

// held is what is held of the body.
func (c *call) held() []byte {
	if c.body == nil {
		return nil
	}
	return c.body.B[:c.n]
}

// end makes the attempt's result of what ended the exchange.
func (c *call) end(ctx context.Context, err error) error {
	err = c.result(ctx, err)
	if err != nil && c.way != wayNone && c.way != wayRefused && !c.w.Committed() {
		c.w.Header().Cut(c.fields)
	}
	return err
}

func (c *call) result(ctx context.Context, err error) error {
	if c.way == wayEvents {
		return c.endEvents(ctx, err)
	}
	if err != nil {
		return c.failed(ctx, err)
	}
	body := c.held()
	switch c.way {
	case wayRefused:
		return c.refusal(append([]byte{}, body...))
	case wayRerank:
		return c.rerank(body)
	case wayWhole:
		if c.w.Committed() {
			return nil // it was there all at once
		}
		if c.unproven && isTorn(body) {
			return brokeOff(ctx, errors.New("the connection ended within the answer"))
		}
		return c.all(body)
	}
	c.begin() // of nothing
	return nil
}

// failed makes the attempt's result of an exchange that failed.
func (c *call) failed(ctx context.Context, err error) error {
	var said *infer.Error
	switch {
	case errors.As(err, &said):
		if ended := infer.Ended(ctx, err); ended != nil {
			return ended // which is why the client's body did
		}
		return said
	case c.way == wayNone || !inBody(err):
		return failed(ctx, err)
	}
	return brokeOff(ctx, err)
}

// inBody reports whether an exchange failed when its answer's head was in.
func inBody(err error) bool {
	var up *upstream.Error
	return errors.As(err, &up) && up.Op == "body"
}

// all sends an answer that is here whole.
func (c *call) all(body []byte) error {
	if u, ok := sse.UsageOf(body); ok && c.status == http.StatusOK {
		c.w.Served.Tokens = infer.Tokens(u)
	}
	if c.status != http.StatusNoContent && c.status != http.StatusNotModified {
		c.length = int64(len(body))
	}
	c.w.Served.AtOnce = true
	return c.send(body)
}

// isTorn reports whether body is not JSON from end to end.
func isTorn(body []byte) bool {
	var syntax *peek.SyntaxError
	return errors.As(peek.Object(body, noKeys, nil), &syntax)
}

var noKeys = peek.NewKeys()

// refusal is the error of an answer that another worker may better, or that has
// to be said in the client's dialect. body is nil if it was too long.
func (c *call) refusal(body []byte) error {
	e := &infer.Error{
		Status: c.status, Code: "call_upstream_status_error", Retry: retryable(c.status),
		Msg: "The worker answered " + strconv.Itoa(c.status) + ".", RetryAfter: c.after, Err: statusText(c.status),
		Answer: &infer.Answer{Status: c.status, Body: body},
	}
	for _, f := range c.header.Fields() {
		e.Answer.Header.AddCopy(f.Name, f.Value)
	}
	return e
}

// begin commits the answer's status and header, once.
func (c *call) begin() {
	if c.w.Committed() {
		return
	}
	h := c.w.Header()
	if c.length >= 0 && !h.Has("Content-Length") {
		var digits [20]byte
		h.AddCopy(contentLength, strconv.AppendInt(digits[:0], c.length, 10))
	}
	c.w.Served.FirstByte = time.Since(c.r.Received)
	c.w.Commit(c.status)
}

var contentLength = []byte("Content-Length")

// send writes a whole body.
func (c *call) send(body []byte) error {
	c.begin()
	if _, err := c.w.Write(body); err != nil {
		return gone(err)
	}
	return nil
}

// pass sends a piece at once: a token that waits in a buffer is a token the
// reader does not see.
func (c *call) pass(p []byte) error {
	c.begin()
	if len(p) > 0 {
		if _, err := c.w.Write(p); err != nil {
			return gone(err)
		}
	}
	if err := c.w.Flush(); err != nil {
		return gone(err)
	}
	c.release()
	return nil
}

// release gives back what the request holds: no attempt can follow, and the rest
// may take long.
func (c *call) release() {
	if !c.released {
		c.released = true
		c.r.Release()
	}
}

// wholeEvents returns how long the whole events are that b begins with. It
// looks for the last empty line, after LF or CRLF.
func wholeEvents(b []byte) int {
	for i := len(b); ; {
		i = bytes.LastIndexByte(b[:i], '\n')
		switch {
		case i < 1:
			return 0
		case b[i-1] == '\n', i > 1 && b[i-1] == '\r' && b[i-2] == '\n':
			return i + 1
		}
	}
}
