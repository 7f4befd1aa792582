// Package infer defines the values that travel through the gateway: a Request,
// the Reply it is answered on, and the Handlers it passes.
//
// It imports nothing of the gateway and opens no socket, so every other
// package can speak of requests without knowing how they came or who serves
// them.
package infer

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// A Handler answers a Request by writing to a Reply.
//
// If Serve returns an error, it has written nothing unless the Reply says
// Committed. The server turns the error into the client's dialect.
type Handler interface {
	Serve(ctx context.Context, r *Request, w *Reply) error
}

// HandlerFunc lets a function be a Handler.
type HandlerFunc func(context.Context, *Request, *Reply) error

// Serve implements Handler.
func (f HandlerFunc) Serve(ctx context.Context, r *Request, w *Reply) error { return f(ctx, r, w) }

// A Gate stands before a Handler. It lets a request pass, perhaps changed, or
// answers it itself.
type Gate func(next Handler) Handler

// Chain returns h behind gates, the first outermost.
func Chain(h Handler, gates ...Gate) Handler {
	for i := len(gates) - 1; i >= 0; i-- {
		h = gates[i](h)
	}
	return h
}

// A Request is one call to the gateway.
//
// It belongs to the goroutine that serves it, and is good until its Handler
// returns: front ends use it again. Body is bytes, not a stream, and is never
// written to: an attempt is repeated by sending it again. A gate that changes a
// body replaces it.
type Request struct {
	ID       string // set by access; 1 to 128 visible ASCII characters
	Endpoint Endpoint
	Route    string // the pattern that matched, "/workers/{id}"; "" if none did
	Method   string
	Path     string     // as asked, without the query
	Query    string     // raw
	Param    string     // what {id} stands for in Route, unescaped
	Remote   netip.Addr // the client's address as the socket has it
	Port     uint16     // of Remote
	Proto    string     // that the client speaks, "HTTP/1.1"; "" if it has not said
	Unix     bool       // it came through a Unix socket, and has none
	Received time.Time
	Tenant   string // set by auth: whose it is; "" if nobody said
	Header   Header

	// Set when the body has been read.

	Body   []byte
	Size   int64  // bytes of the body as it came
	Model  string // "" if the body names none
	Stream bool

	// Fault is why no worker could answer the request as it is, nil for nothing:
	// an operator's module may repair it before it is refused.
	Fault error

	// ModelAt is where in Body the value of "model" stands, quotes included,
	// so that it can be spliced; both are 0 if the body names none.
	ModelAt, ModelEnd int

	// TextAt is where in Body the values stand that make the prompt, in the
	// order in which engines read them; a zero Span is none. Of the first, the
	// tools, the text is how it is written, of the others what Extract makes of
	// it. If all are zero, Extract is given the whole Body.
	TextAt [3]Span

	// Extract appends the text of one value to dst. Nil if there is no text.
	Extract func(dst, value []byte) []byte

	src   Body
	read  bool
	left  bool // with the client
	gone  bool // of what was left, PassBody has begun to take it
	limit int64
	text  *[]byte // of texts; nil if Text was not called
}

// A Span is a part of a Body, from Start to before End.
type Span struct{ Start, End int }

// Now returns the time, by the clock that saw r come: one question to the
// system, where time.Now asks two.
func (r *Request) Now() time.Time {
	if r.Received.IsZero() {
		return time.Now()
	}
	return r.Received.Add(time.Since(r.Received))
}

// Respell replaces Body by one in which the value of "model" is written in
// another way and every other byte is the same.
func (r *Request) Respell(body []byte) {
	longer := len(body) - len(r.Body)
	for i := range r.TextAt {
		if s := &r.TextAt[i]; s.Start >= r.ModelEnd && s.End > 0 {
			s.Start += longer
			s.End += longer
		}
	}
	r.Body, r.ModelAt, r.ModelEnd = body, 0, 0
}

// Reset makes r ready for another request and keeps its header's memory.
func (r *Request) Reset() {
	h := r.Header
	h.Reset()
	r.DropText()
	*r = Request{Header: h}
}

// Text returns the prompt as bytes, nil if the endpoint has none. It is
// computed only if a policy asks, and kept until DropText.
func (r *Request) Text() []byte {
	if r.text == nil && r.Extract != nil && len(r.Body) > 0 {
		t := texts.Get().(*[]byte)
		*t = r.appendText((*t)[:0])
		r.text = t
	}
	if r.text == nil {
		return nil
	}
	return *r.text
}

// LendText returns memory, empty, for a Text that is made while Body is read. What
// is appended to it becomes the Text with SetText.
func (r *Request) LendText() []byte {
	if r.text == nil {
		r.text = texts.Get().(*[]byte)
	}
	*r.text = (*r.text)[:0]
	return *r.text
}

// SetText makes text, which was appended to what LendText returned, the Text. It
// must be what Text would make of TextAt and Extract.
func (r *Request) SetText(text []byte) { *r.text = text }

// appendText puts a line feed between the texts of two values.
func (r *Request) appendText(dst []byte) []byte {
	if r.TextAt == [3]Span{} {
		return r.Extract(dst, r.Body)
	}
	for i, s := range r.TextAt {
		if s.End == 0 {
			continue
		}
		end := len(dst)
		if end > 0 {
			dst = append(dst, '\n')
		}
		begin, value := len(dst), r.Body[s.Start:s.End]
		if i == 0 {
			dst = append(dst, value...)
		} else {
			dst = r.Extract(dst, value)
		}
		if len(dst) == begin {
			dst = dst[:end]
		}
	}
	return dst
}

// DropText gives the memory of Text back, which must not be looked at any more.
func (r *Request) DropText() {
	if r.text != nil && cap(*r.text) <= longText {
		texts.Put(r.text)
	}
	r.text = nil
}

// texts holds *[]byte, the memory of Texts that were dropped, none of it longer
// than longText.
var texts = sync.Pool{New: func() any { return new([]byte) }}

const longText = 4 << 20
