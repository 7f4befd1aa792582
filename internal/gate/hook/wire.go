package hook

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/sse"
	"sluice/internal/wasm"
)

// A wire keeps an answer until the modules have seen it, so that the client has
// been sent nothing before. One that streams passes as it comes, or event by
// event: it cannot be kept.
type wire struct {
	v       *visit
	next    infer.Wire    // the client's
	splicer infer.Splicer // next as one, nil if it is none
	fields  int           // of the header that there are before the answer

	head   bool // the client asked for the header only
	mode   mode
	status int
	body   []byte // that is kept; while events pass, what a module has made of one
	stream bool   // it comes in pieces that matter
	lines  bool   // they are lines, and not events

	whole, chunks bool   // modules want answers that are whole; and events of streams
	part          []byte // of an event that is not whole yet
	looked        int    // bytes of it in which no event ends
	skip          bool   // the rest of an event that was too long passes unseen
	stop          error  // why nothing more is taken; nil while it is
}

type mode uint8

const (
	undecided mode = iota
	keeps          // until it is whole
	passes         // as it comes
	splits         // into events, which modules see
)

// longest is how much of a body's memory is kept for the next.
const longest = 1 << 20

// maxEvent bounds an event that modules see.
const maxEvent = 1 << 20

// errFinished ends an answer of which a module wants no more to be sent.
var errFinished = errors.New("a module has ended the answer")

func (w *wire) start(v *visit, head, whole, chunks bool) {
	w.v, w.head, w.whole, w.chunks = v, head, whole, chunks
	v.client.Wrap(func(next infer.Wire) infer.Wire {
		w.next = next
		return next
	})
	w.splicer, _ = w.next.(infer.Splicer)
	w.fields = w.next.Header().Len()
}

func (w *wire) reset() {
	body, part := w.body[:0], w.part[:0]
	if cap(body) > longest {
		body = nil
	}
	if cap(part) > longest {
		part = nil
	}
	*w = wire{body: body, part: part}
}

// Header implements infer.Wire.
func (w *wire) Header() *infer.Header { return w.next.Header() }

// decide says what is done with an answer whose header is there. An error is whole,
// whatever its header calls it.
func (w *wire) decide() mode {
	t, _, _ := bytes.Cut(w.next.Header().Get("Content-Type"), []byte(";"))
	t = bytes.TrimSpace(t)
	fine := w.status < http.StatusBadRequest
	w.lines = fine && h1.EqualFold(t, "application/x-ndjson")
	w.stream = w.lines || fine && h1.EqualFold(t, "text/event-stream")
	switch {
	case len(w.v.begin) > 0, w.stream && w.whole && w.v.buffers():
		return keeps
	case w.stream && w.chunks:
		return splits
	case w.stream || !w.whole:
		return passes
	}
	return keeps
}

// WriteHeader implements infer.Wire.
func (w *wire) WriteHeader(status int) {
	w.status = status
	w.mode = w.decide()
	switch w.mode {
	case keeps:
		w.body = append(w.body, w.v.begin...)
	case splits:
		w.begin()
	default:
		w.commit()
	}
}

// begin begins an answer that is split. One of lines has no line for an error: its
// header waits for the first that is sent, so that it can still be refused.
func (w *wire) begin() {
	w.next.Header().Del("Content-Length")
	if !w.lines {
		w.commit()
	}
}

// commit sends the header, if it is not sent.
func (w *wire) commit() {
	if !w.v.client.Committed() {
		w.v.client.Served = w.v.inner.Served
		w.v.client.Commit(w.status)
	}
}

// pass sends what is left of a stream.
func (w *wire) pass(b []byte) error {
	w.commit()
	_, err := w.next.Write(b)
	return err
}

// Holds implements infer.Holder.
func (w *wire) Holds() bool { return w.mode == splits && !w.skip }

// Splices implements infer.Splicer: an answer that no module looks at passes as
// it is. Where modules see whole answers, that is known with the status: a stream's
// could be an error's.
func (w *wire) Splices() bool {
	return w.splicer != nil && (w.mode == passes || w.mode == undecided && !w.whole && w.decide() == passes) && w.splicer.Splices()
}

// Splice implements infer.Splicer.
func (w *wire) Splice(framed []byte, n int) error { return w.splicer.Splice(framed, n) }

// Write implements infer.Wire.
func (w *wire) Write(b []byte) (int, error) {
	if w.stop != nil {
		return 0, w.stop
	}
	switch w.mode {
	case passes:
		return w.next.Write(b)
	case splits:
		return len(b), w.split(b)
	}
	most := int64(0)
	for i := range w.v.calls {
		if c := &w.v.calls[i]; c.of.at[wasm.OnResponse] {
			most = max(most, c.of.most)
		}
	}
	if most == 0 {
		most = wasm.DefaultMaxBody
	}
	if int64(len(w.body)+len(b)) > most {
		for i := range w.v.calls {
			if c := &w.v.calls[i]; c.wants(wasm.OnResponse) {
				w.v.oversized(c, wasm.OnResponse)
			}
		}
		w.stop = tooLarge(http.StatusInternalServerError, fmt.Sprintf("The answer is longer than the modules take that are to see it: %d bytes.", most))
		return 0, w.stop
	}
	w.body = append(w.body, b...)
	return len(b), nil
}

// Flush implements infer.Wire.
func (w *wire) Flush() error {
	if w.mode == passes || w.mode == splits && w.v.client.Committed() {
		return w.next.Flush()
	}
	return nil
}

// split shows the modules the events that are whole with b.
func (w *wire) split(b []byte) error {
	p := b
	if len(w.part) > 0 {
		w.part = append(w.part, b...)
		p = w.part
	}
	for w.stop == nil {
		event, rest, ok := w.cut(p)
		if !ok {
			break
		}
		p, w.looked = rest, 0
		var err error
		if w.skip {
			w.skip = false
			err = w.pass(event)
		} else {
			err = w.event(event)
		}
		if err != nil {
			return err
		}
	}
	if w.stop != nil {
		return w.stop
	}
	if len(p) > maxEvent {
		// What the last line has stays, or two bytes of it: else what ends the
		// line would look like an empty one, and the rest like another event.
		stays := max(w.looked, len(p)-len("x\r"))
		if err := w.oversize(p[:stays]); err != nil {
			return err
		}
		p, w.looked = p[stays:], 0
	}
	w.part = append(w.part[:0], p...)
	return nil
}

// cut takes the first event off p, whose first w.looked bytes have none.
func (w *wire) cut(p []byte) (event, rest []byte, ok bool) {
	if w.lines {
		i := bytes.IndexByte(p[w.looked:], '\n')
		if i < 0 {
			w.looked = len(p)
			return nil, p, false
		}
		n := w.looked + i + 1
		return p[:n], p[n:], true
	}
	event, rest, ok = sse.Cut(p[w.looked:])
	if ok {
		return p[:w.looked+len(event)], rest, true
	}
	// The next look begins with the line that is not whole. A CR at the end may
	// be half of a line's end.
	if n := len(bytes.TrimSuffix(p, []byte("\r"))); n > 0 {
		w.looked = max(w.looked, bytes.LastIndexAny(p[:n], "\r\n")+1)
	}
	return nil, p, false
}

// oversize sends the beginning of an event that is too long to be seen, unless a
// module that has to see it keeps the door.
func (w *wire) oversize(p []byte) error {
	v := w.v
	for i := range v.calls {
		c := &v.calls[i]
		if w.skip || c.deaf || !c.wants(wasm.OnChunk) {
			continue
		}
		err := &wasm.CallError{Kind: "size", Err: fmt.Errorf("an event of more than %d bytes cannot be shown to it", maxEvent)}
		v.note(c, wasm.OnChunk, time.Now(), 0, err)
		if c.of.FailClosed {
			w.stop = v.closed(c.of, wasm.OnChunk, err)
			return w.stop
		}
	}
	w.skip = true
	return w.pass(p)
}

// event shows the modules an event, each what the one before has made of it, and
// sends what is left.
func (w *wire) event(e []byte) error {
	v := w.v
	for i := range v.calls {
		c := &v.calls[i]
		if len(bytes.TrimSpace(e)) == 0 {
			break
		}
		if c.deaf || !c.wants(wasm.OnChunk) {
			continue
		}
		begin := time.Now()
		if !v.within(c, begin) {
			w.stop = errLate
			return w.stop
		}
		err := c.of.Module.OnChunk(v.ctx, &c.Call, e, &v.chunk)
		if err == nil && int64(len(v.chunk.Data)) > c.of.most {
			err = badAction("%d bytes in an event's place; at most %d are allowed", len(v.chunk.Data), c.of.most)
		}
		v.note(c, wasm.OnChunk, begin, int(v.chunk.Kind), err)
		switch {
		case v.late(c, err):
			w.stop = errLate
			return w.stop
		case err != nil && c.of.FailClosed:
			w.stop = v.closed(c.of, wasm.OnChunk, err)
			return w.stop
		case err != nil:
			kind := kinds[kindOf(err)]
			c.deaf = kind == "timeout" || kind == "busy" // or each event would wait as long
			continue
		}
		switch v.chunk.Kind {
		case wasm.Pass:
			continue
		case wasm.Drop:
			return nil
		case wasm.Finish:
			w.stop = errFinished
		}
		w.body = append(w.body[:0], v.chunk.Data...) // the next module's answer takes that memory
		e = w.body
	}
	if len(e) == 0 {
		return nil
	}
	return w.pass(e)
}

// finish ends an answer, of which the handler has said err. Of one that was kept,
// the client has been sent nothing, so that it may still be an error.
func (w *wire) finish(err error) error {
	switch {
	case w.stop == errFinished: //nolint:errorlint // it is told apart, not looked for
		w.commit()
		return w.next.Flush()
	case w.stop != nil:
		err = w.stop
	}
	if err != nil && w.lines && w.v.client.Committed() {
		_ = w.next.Flush() // the lines before are the client's, though the connection is cut; err is told
	}
	if err != nil {
		// What there is of an event goes unsent: the modules have not seen it.
		if !w.v.client.Committed() {
			w.next.Header().Cut(min(w.fields, w.next.Header().Len()))
		}
		if e := w.v.said(err); e != nil {
			return w.relay(e)
		}
		return err
	}
	switch w.mode {
	case undecided, passes:
		return nil
	case splits:
		if len(w.part) > 0 { // a stream that ends without an empty line
			return w.last(w.part)
		}
		w.commit() // of lines none was left
		return nil
	}
	return w.send()
}

// relay calls the modules for a worker's answer that goes to the client as e, and
// returns what has become of it. It stays an error, so that the log and what is
// counted tell it as one.
func (w *wire) relay(e *infer.Error) error {
	if !w.whole && len(w.v.begin) == 0 {
		return e
	}
	h := w.next.Header()
	for _, f := range e.Answer.Header.Fields() {
		h.AddCopy(f.Name, f.Value)
	}
	w.status, w.stream = e.Answer.Status, false // also what is said to be a stream is here whole
	w.body = append(append(w.body[:0], w.v.begin...), e.Answer.Body...)
	body, err := w.modules(h)
	if err != nil {
		h.Cut(min(w.fields, h.Len()))
		return err
	}
	if w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		body = nil
	}
	changed := *e
	changed.Answer = &infer.Answer{Status: w.status, Body: append([]byte{}, body...)} // the header is where it goes
	return &changed
}

// last shows the modules what a stream ends with.
func (w *wire) last(e []byte) error {
	if w.skip {
		return w.pass(e)
	}
	if err := w.event(e); err != nil {
		if w.stop != nil {
			return w.finish(nil)
		}
		return err
	}
	w.commit()
	return w.next.Flush()
}

// send calls the modules for an answer that was kept, and sends what has become
// of it.
func (w *wire) send() error {
	h := w.next.Header()
	body, err := w.modules(h)
	if err != nil {
		h.Cut(min(w.fields, h.Len()))
		return err
	}
	if w.stream && w.chunks { // what the others have made of it goes to those that want its events
		w.mode = splits
		w.begin()
		if err := w.split(bytes.Clone(body)); err != nil {
			return w.finish(err)
		}
		return w.finish(nil)
	}
	if w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		h.Del("Content-Length")
		w.commit()
		return w.next.Flush()
	}
	if !w.head {
		setLength(h, len(body))
	}
	w.commit()
	if !w.head && len(body) > 0 {
		if _, err := w.next.Write(body); err != nil {
			return err
		}
	}
	return w.next.Flush()
}

// modules calls the modules and returns the body.
func (w *wire) modules(h *infer.Header) ([]byte, error) {
	v, body, rejected := w.v, w.body, false
	if len(v.begin) > 0 && !w.head {
		follow(h, len(body))
	}
	for i := range v.calls {
		c := &v.calls[i]
		m := c.of
		if !c.wants(wasm.OnResponse) || w.stream && !m.Module.Whole() {
			continue
		}
		if int64(len(body)) > m.most {
			v.oversized(c, wasm.OnResponse)
			return nil, tooLarge(http.StatusInternalServerError, fmt.Sprintf("The answer has %d bytes; the module %q takes at most %d.", len(body), m.Name, m.most))
		}
		v.resp = wasm.Response{Status: w.status, Header: h, Body: body}
		begin := time.Now()
		if !v.within(c, begin) {
			return nil, errLate
		}
		err := m.Module.OnResponse(v.ctx, &c.Call, &v.resp, &v.action)
		if err == nil {
			err = v.check(m, wasm.OnResponse)
		}
		a := &v.action
		v.note(c, wasm.OnResponse, begin, int(a.Kind), err)
		switch {
		case v.late(c, err):
			return nil, errLate
		case err != nil && m.FailClosed:
			return nil, v.closed(m, wasm.OnResponse, err)
		case err != nil || a.Kind == wasm.Continue:
			continue
		case a.Kind == wasm.Reject:
			if !rejected {
				v.blame(m)
			}
			w.status, rejected = a.Status, true // the contract: the header and the body stay
			continue                            // and those behind see them: one may be there to take something out
		}
		if a.Status != 0 {
			w.status = a.Status
		}
		v.apply(h)
		if a.HasBody {
			body = bytes.Clone(a.Body)
			if !w.head {
				follow(h, len(body))
			}
		}
	}
	return body, nil
}
