package upstream

import (
	"errors"

	"sluice/internal/kit/buf"
	"sluice/internal/kit/h1"
)

// ErrTooLong is what Collect returns for a body that is longer than its Limit.
var ErrTooLong = errors.New("the worker's answer is longer than is read")

// firstClaim is how much memory an answer gets for its word only.
const firstClaim = 1 << 20

// Collect is a Sink that keeps the data of a whole body.
type Collect struct {
	Limit  int                            // bytes of data
	OnHead func(h *h1.ResponseHead) error // called with the head, if not nil; an error ends the exchange

	Status int
	data   *buf.Buf
}

// Answer implements Sink.
func (c *Collect) Answer(h *h1.ResponseHead) error {
	c.Status = h.Status
	if c.OnHead != nil {
		if err := c.OnHead(h); err != nil {
			return err
		}
	}
	if h.Framing != h1.FramingLength {
		return nil
	}
	if h.ContentLength > int64(c.Limit) {
		return ErrTooLong
	}
	c.data = buf.Get(int(min(h.ContentLength, firstClaim)))
	c.data.B = c.data.B[:0]
	return nil
}

// Body implements Sink.
func (c *Collect) Body(b *h1.Body, wire []byte) (int, error) {
	if c.data == nil {
		c.data = buf.Get(len(wire))
		c.data.B = c.data.B[:0]
	}
	had := len(c.data.B)
	if room := had + min(len(wire), c.Limit-had); room > cap(c.data.B) {
		c.data = c.data.Grow(max(room, 2*cap(c.data.B)))
	}
	c.data.B = c.data.B[:min(cap(c.data.B), c.Limit)]
	written, n, err := b.Decode(c.data.B[had:], wire)
	c.data.B = c.data.B[:had+written]
	if err != nil {
		return n, err
	}
	if n < len(wire) && !b.Done() {
		return n, ErrTooLong
	}
	return n, nil
}

// Bytes returns the body's data. It is good until Free.
func (c *Collect) Bytes() []byte {
	if c.data == nil {
		return nil
	}
	return c.data.B
}

// Free gives the body's memory back. c is then ready for another answer.
func (c *Collect) Free() {
	if c.data != nil {
		c.data.Free()
	}
	c.data, c.Status = nil, 0
}
