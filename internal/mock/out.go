package mock

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"
)

// events is a run of stream events: their bytes, and where each ends.
type events struct {
	b    []byte
	ends []int
}

func (ev *events) mark() { ev.ends = append(ev.ends, len(ev.b)) }

func (ev *events) reset() { ev.b, ev.ends = ev.b[:0], ev.ends[:0] }

// add appends one whole event.
func (ev *events) add(s string) {
	ev.b = append(ev.b, s...)
	ev.mark()
}

var (
	// errGone means that the client left.
	errGone = errors.New("client left")
	// errBroken means that a fault ended the answer.
	errBroken = errors.New("answer ended by a fault")
)

// An out is the way of one answer to its client, past the fault that it meets.
type out struct {
	w       http.ResponseWriter
	flusher http.Flusher
	ctx     context.Context
	fault   *Fault // nil for none
	per     int    // most events in one write
	sent    int    // events
	begun   bool   // the header of a good answer was sent
}

// Content types, shared as serverNames are.
var (
	typeJSON  = []string{"application/json"}
	typeSSE   = []string{"text/event-stream; charset=utf-8"}
	typePlain = []string{"text/plain; charset=utf-8"}
)

// pause waits for d, or returns errGone.
func (o *out) pause(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-o.ctx.Done():
		return errGone
	}
}

// hang waits for the client to leave.
func (o *out) hang() error {
	<-o.ctx.Done()
	return errBroken
}

// hangUp takes the connection and closes it, with a reset or in peace.
func (o *out) hangUp(reset bool) error { return o.hangUpWith(nil, reset) }

// hangUpWith writes last, as it is, before it hangs up.
func (o *out) hangUpWith(last []byte, reset bool) error {
	c, rw, err := http.NewResponseController(o.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // no connection to take: the nearest there is
	}
	if len(last) > 0 {
		_, err = c.Write(last)
	} else {
		err = rw.Flush()
	}
	if l, ok := c.(interface{ SetLinger(int) error }); ok && reset && err == nil {
		err = l.SetLinger(0)
	}
	// Close is the point of it all; a client that is faster is as gone.
	if cerr := c.Close(); cerr != nil && !errors.Is(cerr, net.ErrClosed) || err != nil {
		return errGone
	}
	return errBroken
}

// before plays what a fault does before anything is sent.
func (o *out) before() error {
	f := o.fault
	if f == nil {
		return nil
	}
	if f.ending == endNever {
		return o.hang()
	}
	if err := o.pause(f.Delay); err != nil {
		return err
	}
	switch f.ending {
	case endRefuse, endResetBefore:
		return o.hangUp(true)
	case endClose:
		return o.hangUp(false)
	}
	return nil
}

// open sends the header of a good answer; length is -1 for a stream.
func (o *out) open(contentType []string, length int) error {
	h := o.w.Header()
	h["Content-Type"] = contentType
	f := o.fault
	if f != nil && f.ContentType != "" {
		h["Content-Type"] = []string{f.ContentType}
	}
	if length < 0 {
		h["Cache-Control"] = noCache
	}
	if f != nil {
		switch {
		case f.ending == endShort:
			length = max(length, 0) + 1<<20
		case f.ending == endGarbage:
			length = -1 // only a chunked body has framing to break
		}
	}
	if length >= 0 {
		h["Content-Length"] = []string{strconv.Itoa(length)}
	}
	o.w.WriteHeader(http.StatusOK)
	o.begun = true
	if f == nil {
		return nil
	}
	if f.ending == endResetHeaders {
		o.flusher.Flush()
		return o.hangUp(true)
	}
	if f.FirstToken > 0 {
		o.flusher.Flush()
		return o.pause(f.FirstToken)
	}
	return nil
}

var noCache = []string{"no-cache"}

// events sends events and flushes them.
func (o *out) events(ev *events) error {
	if err := o.gone(); err != nil {
		return err
	}
	if o.fault != nil {
		return o.faultyEvents(ev)
	}
	at := 0
	for k := 0; k < len(ev.ends); {
		k = min(k+o.per, len(ev.ends))
		if _, err := o.w.Write(ev.b[at:ev.ends[k-1]]); err != nil {
			return errGone
		}
		o.flusher.Flush()
		at = ev.ends[k-1]
	}
	return nil
}

// gone returns errGone if the client left. It is asked before something is
// sent, never after: who has everything may go.
func (o *out) gone() error {
	if o.ctx.Err() != nil {
		return errGone
	}
	return nil
}

func (o *out) faultyEvents(ev *events) error {
	at := 0
	for _, end := range ev.ends {
		if err := o.breakAt(o.sent, ev.b[at:end]); err != nil {
			return err
		}
		if err := o.slowly(ev.b[at:end]); err != nil {
			return err
		}
		o.sent++
		at = end
	}
	return nil
}

// notJSON is what badjson sends, notChunk what garbage does.
const (
	notJSON  = "data: {\"id\":\"mock\", this is not JSON\n\n"
	notChunk = "zz\r\nthis is not a chunk\r\n"
)

// breakAt plays the fault's ending if it comes after sent events, before next.
func (o *out) breakAt(sent int, next []byte) error {
	f := o.fault
	if f.ending == endShort || sent != f.after {
		return nil
	}
	switch f.ending {
	case endReset:
		return o.hangUp(true)
	case endCut:
		// In the middle of an event, so that its reader sees a cut and no end.
		if _, err := o.w.Write(next[:len(next)/2]); err != nil {
			return errGone
		}
		o.flusher.Flush()
		return o.hangUp(false)
	case endStall:
		o.flusher.Flush()
		return o.hang()
	case endGarbage:
		return o.hangUpWith([]byte(notChunk), false)
	case endBadJSON:
		return o.slowly([]byte(notJSON))
	}
	return nil
}

// slowly writes and flushes b, a byte at a time if the fault says so.
func (o *out) slowly(b []byte) error {
	if o.fault.Slow == 0 {
		if _, err := o.w.Write(b); err != nil {
			return errGone
		}
		o.flusher.Flush()
		return nil
	}
	for i := range b {
		if err := o.pause(o.fault.Slow); err != nil {
			return err
		}
		if _, err := o.w.Write(b[i : i+1]); err != nil {
			return errGone
		}
		o.flusher.Flush()
	}
	return nil
}

// close ends a stream whose events are all sent.
func (o *out) close() error {
	if f := o.fault; f != nil && f.ending == endShort {
		return o.hangUp(false)
	}
	return nil
}

// body sends a whole answer.
func (o *out) body(b []byte) error {
	if err := o.gone(); err != nil {
		return err
	}
	f := o.fault
	if f != nil && f.ending == endBadJSON {
		b = []byte(`{"id":"mock", this is not JSON`)
	}
	if err := o.open(typeJSON, len(b)); err != nil {
		return err
	}
	if f == nil {
		if _, err := o.w.Write(b); err != nil {
			return errGone
		}
		return nil
	}
	half := b
	switch f.ending {
	case endReset, endCut, endStall, endGarbage:
		half = b[:len(b)/2]
	}
	if err := o.slowly(half); err != nil {
		return err
	}
	switch f.ending {
	case endReset:
		return o.hangUp(true)
	case endCut, endShort:
		return o.hangUp(false)
	case endStall:
		return o.hang()
	case endGarbage:
		return o.hangUpWith([]byte(notChunk), false)
	}
	return nil
}
