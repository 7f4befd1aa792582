package relay

import (
	"bytes"
	"context"
	"errors"
	"net/http"

	"sluice/internal/infer"
	"sluice/internal/kit/buf"
	"sluice/internal/kit/h1"
)

// maxEvent is how much of an event is held until its end has come.
const maxEvent = 32 << 10

// events passes on the events that are whole, and watches them go by. The
// beginning of an event waits for its end: nobody can use it before, and if its
// worker dies nobody is left with half an event.
//
// Workers send whole events in whole chunks, nearly always. Those pass as they
// are, framing included, without being copied.
func (c *call) events(b *h1.Body, wire []byte) (n int, err error) {
	splice := c.n == 0 && !c.torn && b.BetweenChunks() && (c.spliced || c.w.Splices())
	before := *b
	size := 0
	for n < len(wire) && !b.Done() && err == nil {
		var k int
		var data []byte
		k, data, err = b.Next(wire[n:])
		n += k
		size += len(data)
		c.seen.Feed(data)
		if !splice {
			if e := c.keep(data); e != nil {
				return n, e
			}
		}
	}
	switch {
	case splice && err != nil: // what came before the fault is good
		return n, errors.Join(c.again(before, wire[:n]), err)
	case err != nil:
		return n, errors.Join(c.flush(false), err)
	case !splice:
		return n, c.flush(b.Done())
	}
	framed := wire[:n]
	if b.Done() {
		var plain bool
		if framed, plain = bytes.CutSuffix(framed, lastChunk); !plain || len(framed) > 0 && !bytes.HasSuffix(framed, crlf) {
			return n, c.again(before, wire[:n])
		}
	}
	if !c.seen.AtBoundary() || !b.Done() && !b.BetweenChunks() {
		return n, c.again(before, wire[:n])
	}
	if len(framed) == 0 {
		return n, nil
	}
	c.begin()
	if err := c.w.Splice(framed, size); err != nil {
		return n, gone(err)
	}
	c.spliced = true
	c.release()
	return n, nil
}

var (
	lastChunk = []byte(h1.LastChunk)
	crlf      = []byte("\r\n")
)

// again takes the data of a piece that cannot pass as it is. It was watched
// already.
func (c *call) again(b h1.Body, wire []byte) error {
	for n := 0; n < len(wire) && !b.Done(); {
		k, data, fault := b.Next(wire[n:])
		n += k
		if err := c.keep(data); err != nil {
			return err
		}
		if fault != nil {
			break // its finder tells
		}
	}
	return c.flush(b.Done())
}

// keep holds p. An event that is longer than may be held is sent as it comes.
func (c *call) keep(p []byte) error {
	for len(p) > 0 {
		if c.body == nil {
			c.body = buf.Get(max(4<<10, min(len(p), maxEvent)))
			c.n = 0
		}
		if c.n+len(p) > len(c.body.B) && len(c.body.B) < maxEvent {
			c.body = c.body.Grow(min(maxEvent, max(2*len(c.body.B), c.n+len(p))))
		}
		k := copy(c.body.B[c.n:], p)
		c.n += k
		if p = p[k:]; len(p) == 0 {
			return nil
		}
		if err := c.overflow(); err != nil {
			return err
		}
	}
	return nil
}

// overflow makes room: whole events go, or the part of one that fills it all.
func (c *call) overflow() error {
	whole := wholeEvents(c.body.B[:c.n])
	c.torn = c.torn && whole == 0
	if whole == 0 {
		whole, c.torn = c.n, true
	}
	return c.forward(whole)
}

// forward sends the first n bytes that are held.
func (c *call) forward(n int) error {
	if err := c.pass(c.body.B[:n]); err != nil {
		return err
	}
	c.n = copy(c.body.B, c.body.B[n:c.n])
	return nil
}

// flush sends the events that are whole; all that is held if the answer has
// ended, for what the worker sent is its to answer for.
func (c *call) flush(ended bool) error {
	if c.body == nil {
		return nil
	}
	whole := c.n
	if !ended && !c.seen.AtBoundary() {
		whole = wholeEvents(c.body.B[:c.n])
	}
	if whole == 0 {
		return nil
	}
	c.torn = !c.seen.AtBoundary() && whole == c.n
	if err := c.forward(whole); err != nil {
		return err
	}
	if c.n == 0 {
		c.drop()
	}
	return nil
}

// endEvents is end for a stream.
func (c *call) endEvents(ctx context.Context, err error) error {
	tokens, _ := c.seen.Usage()
	c.w.Served.Tokens, c.w.Served.Events = infer.Tokens(tokens), c.seen.ContentEvents()
	switch {
	case err == nil && c.unproven && !c.seen.Done() && c.status < http.StatusBadRequest:
		// A worker that died looks like one that has ended. Of an error nobody
		// knows a last word.
		return c.broken(ctx, errors.New("the connection ended before the stream's last word"))
	case err == nil:
		if err := c.flush(true); err != nil { // of an answer that ended with its connection
			return err
		}
		c.begin() // an empty stream is an answer too
		return nil
	}
	return c.broken(ctx, err)
}

// broken ends a stream that err has ended.
func (c *call) broken(ctx context.Context, err error) error {
	var said *infer.Error
	switch {
	case errors.As(err, &said):
		return said
	case c.seen.Done() && c.seen.AtBoundary():
		return nil // all was said; how the connection ended does not matter
	}
	if e := c.flush(c.torn); e != nil { // of an event that has begun to be sent
		return e
	}
	if c.torn && !c.seen.AtBoundary() && !c.w.Holds() {
		_ = c.pass([]byte("\n\n")) // an error event follows; it must stand alone
	}
	return brokeOff(ctx, err)
}
