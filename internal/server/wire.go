package server

import (
	"errors"
	"net/http"
	"strconv"
	"sync"

	"sluice/internal/infer"
	"sluice/internal/kit/buf"
	"sluice/internal/kit/h1"
)

// A wire is the infer.Wire of a conn. What is written waits in a buffer until
// it is flushed, the buffer is full, or the answer ends, so a short answer is
// one system call.
type wire struct {
	c      *conn
	header *infer.Header // nil once a stream has begun, unless it is asked for
	minor  uint8         // of the client's HTTP version
	head   bool          // the client wants no body
	events bool          // a stream of events has begun

	mode    mode
	waits   int32 // bytes of pending
	left    int64 // of a body whose length was said
	out     *buf.Buf
	n       int      // bytes of out that wait
	pending *buf.Buf // a body that may still get a length
	broken  error    // why nothing more can be sent
}

// mode is how the body that is sent is delimited.
type mode uint8

const (
	modeNew     mode = iota // the header was not committed
	modeOpen                // committed, without a length: decided by what is written
	modeNone                // no body
	modeLength              // Content-Length
	modeChunked             // chunks
	modeClose               // until the connection closes, for HTTP/1.0
)

// outSize is how much may wait to be sent.
const outSize = 16 << 10

// maxPending is how long a body without a length may be that gets one after
// all, if it ends before anybody flushes it.
const maxPending = 2 << 10

var (
	errLength = errors.New("more was written than the Content-Length")
	errShort  = errors.New("less was written than the Content-Length")
)

func (w *wire) reset(head bool, minor int) {
	if w.header == nil {
		w.header = headers.Get().(*infer.Header)
	}
	w.header.Reset()
	w.mode, w.head, w.minor, w.events = modeNew, head, uint8(minor), false
	w.left, w.broken, w.n, w.waits = 0, nil, 0, 0
}

// headers are those of answers: large, and sent at a stream's beginning.
var headers = sync.Pool{New: func() any { return new(infer.Header) }}

// slim gives back what a stream that has begun does not need.
func (w *wire) slim() {
	if w.n == 0 {
		w.drop()
	}
	if w.mode == modeNew || w.header == nil || w.header.Has(ErrorCodeHeader) { // which the log wants to have
		return
	}
	w.events = isEventStream(w.header)
	headers.Put(w.header)
	w.header = nil
}

var (
	contentTypeName = []byte("Content-Type")
	eventStreamType = []byte("text/event-stream")
)

// drop gives back the buffers.
func (w *wire) drop() {
	if w.out != nil {
		w.out.Free()
		w.out, w.n = nil, 0
	}
	if w.pending != nil {
		w.pending.Free()
		w.pending, w.waits = nil, 0
	}
}

// Header implements infer.Wire.
func (w *wire) Header() *infer.Header {
	if w.header == nil {
		w.header = headers.Get().(*infer.Header)
		w.header.Reset()
		if w.events {
			w.header.Add(contentTypeName, eventStreamType) // an error is told in an event
		}
	}
	return w.header
}

// WriteHeader implements infer.Wire.
func (w *wire) WriteHeader(status int) {
	c := w.c
	c.closing = c.closing || c.upload.missing() || c.front.draining.Load() // a body that is still to come is not waited for
	b := w.start()
	b, ok := h1.AppendStatusLine(b, status, http.StatusText(status))
	if !ok {
		panic("BUG: no such status: " + strconv.Itoa(status))
	}
	length, dated, upgrade := int64(-1), false, false
	for _, f := range w.header.Fields() {
		switch n := len(f.Name); {
		case n == 14 && h1.EqualFold(f.Name, "content-length"):
			if n, err := strconv.ParseInt(string(f.Value), 10, 64); err == nil && n >= 0 {
				length = n
			}
			continue
		case n == 10 && h1.EqualFold(f.Name, "connection"), n == 17 && h1.EqualFold(f.Name, "transfer-encoding"):
			continue // ours to say
		case n == 4 && h1.EqualFold(f.Name, "date"):
			dated = true
		case n == 7 && h1.EqualFold(f.Name, "upgrade"):
			upgrade = true
		}
		b, _ = h1.AppendField(b, f.Name, f.Value) // what is no field is left out
	}
	if !dated {
		b = c.front.date.Append(b, c.request.Received.Unix())
	}
	if upgrade { // RFC 9110 §7.8: it must be named there
		b = append(b, "Connection: Upgrade\r\n"...)
	}
	w.keep(b)
	switch {
	case status == http.StatusNoContent || status == http.StatusNotModified:
		w.settle(modeNone)
	case length >= 0:
		w.left = length
		w.settle(modeLength)
	default:
		w.mode = modeOpen
	}
}

// start returns the buffer of what is to be sent, to append to.
func (w *wire) start() []byte {
	if w.out == nil {
		w.out = buf.Get(outSize)
	}
	return w.out.B[:w.n]
}

// keep takes back what start gave. A header that is longer than the buffer has
// moved.
func (w *wire) keep(b []byte) {
	if cap(b) > cap(w.out.B) {
		moved := buf.Get(len(b) + 1<<10)
		copy(moved.B, b)
		w.out.Free()
		w.out = moved
		moved.B = moved.B[:cap(moved.B)]
	}
	w.n = len(b)
}

// settle decides how the body is delimited, and ends the head.
func (w *wire) settle(m mode) {
	c := w.c
	if m == modeClose {
		c.closing = true
	}
	w.mode = m
	b := w.start()
	switch m {
	case modeLength:
		b, _ = h1.AppendContentLength(b, w.left)
	case modeChunked:
		b = append(b, h1.ChunkedField...)
	}
	switch {
	case c.closing:
		b = append(b, "Connection: close\r\n"...)
	case w.minor == 0:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	w.keep(append(b, h1.EndHead...))
}

// decide settles for a body whose length nobody knows.
func (w *wire) decide() {
	if w.mode != modeOpen {
		return
	}
	if w.minor == 0 {
		w.settle(modeClose)
	} else {
		w.settle(modeChunked)
	}
	if w.waits > 0 {
		n := w.waits
		w.waits = 0
		w.put(w.pending.B[:n])
	}
}

// Write implements infer.Wire.
func (w *wire) Write(b []byte) (int, error) {
	if w.broken != nil {
		return 0, w.broken
	}
	switch w.mode {
	case modeOpen:
		if int(w.waits)+len(b) <= maxPending {
			if w.pending == nil {
				w.pending = buf.Get(maxPending)
			}
			w.waits += int32(copy(w.pending.B[w.waits:maxPending], b))
			return len(b), nil
		}
		w.decide()
	case modeNone:
		return len(b), nil
	case modeLength:
		if int64(len(b)) > w.left {
			return 0, errLength
		}
		w.left -= int64(len(b))
	}
	w.put(b)
	if w.broken != nil {
		return 0, w.broken
	}
	return len(b), nil
}

// put sends b with its framing, or lets it wait.
func (w *wire) put(b []byte) {
	if len(b) == 0 || w.head {
		return
	}
	chunked := w.mode == modeChunked
	out := w.start()
	if chunked {
		out = h1.AppendChunkSize(out, len(b))
		w.keep(out)
	}
	if w.n+len(b)+2 <= len(w.out.B) {
		out = append(out, b...)
		if chunked {
			out = append(out, '\r', '\n')
		}
		w.keep(out)
		return
	}
	w.send(b, standsInChunk)
	if chunked {
		w.keep(append(w.start(), '\r', '\n'))
	}
}

// send sends what waits, and b behind it. then is where an answer in chunks
// stands after it.
func (w *wire) send(b []byte, then standing) {
	if w.broken != nil {
		return
	}
	a := []byte(nil)
	if w.n > 0 {
		a = w.out.B[:w.n]
		w.n = 0
	} else {
		a, b = b, nil
	}
	if len(a) > 0 {
		switch {
		case w.head || w.mode == modeNone:
			then = standsIdle // nothing more is waited for, whatever the handler does
		case w.mode != modeChunked && then != standsIdle:
			then = standsInLength
		}
		w.broken = w.c.send(a, b, then)
	}
}

// Flush implements infer.Wire.
func (w *wire) Flush() error {
	if w.mode == modeNew {
		return nil
	}
	w.decide()
	w.send(nil, standsBetween)
	if w.broken == nil && w.c.held == nil {
		w.drop() // a stream: it may be long until the next piece
	}
	return w.broken
}

// Splices implements infer.Splicer.
func (w *wire) Splices() bool {
	return !w.head && (w.mode == modeChunked || w.mode <= modeOpen && w.minor > 0)
}

// Splice implements infer.Splicer. Chunks need not wait: the reader of a stream
// does.
func (w *wire) Splice(framed []byte, _ int) error {
	w.decide()
	if w.n > 0 && w.n+len(framed) <= len(w.out.B) {
		w.keep(append(w.start(), framed...))
		framed = nil
	}
	w.send(framed, standsBetween)
	return w.broken
}

// bare reports whether the answer is of a head alone, and that was sent: what goes
// wrong then is not missing in it.
func (w *wire) bare() bool {
	return (w.head || w.mode == modeNone) && w.mode > modeOpen && w.n == 0 && w.broken == nil
}

// finish ends the answer.
func (w *wire) finish() error {
	if w.mode == modeNew {
		w.WriteHeader(http.StatusOK)
	}
	switch w.mode {
	case modeOpen:
		n := w.waits
		w.waits, w.left = 0, int64(n)
		w.settle(modeLength)
		if n > 0 {
			w.left = 0
			w.put(w.pending.B[:n])
		}
	case modeChunked:
		if !w.head {
			w.keep(append(w.start(), h1.LastChunk...))
		}
	}
	w.send(nil, standsIdle)
	if w.mode == modeLength && w.left > 0 && !w.head {
		w.broken = errors.Join(w.broken, errShort)
	}
	return w.broken
}
