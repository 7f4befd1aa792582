package upstream

import (
	"io"
	"sync/atomic"

	"sluice/internal/kit/h1"
	"sluice/internal/kit/sock"
)

// A Source gives the body of a request piece by piece, where it would be too
// much to hold.
type Source interface {
	// Pass writes the whole body to w, and returns w's error as it is if that
	// fails. It is called once, on a goroutine of its own, and ends before
	// Sink.Answer is called.
	Pass(w io.Writer) error

	// Stop makes Pass return soon: nobody wants the rest.
	Stop()
}

// Draw makes src give the body of x, which is not in Body then: length bytes, or
// in chunks if that is negative, as Head says too. src is asked when there is a
// connection, a new one, and then x cannot be sent again.
func (x *Exchange) Draw(src Source, length int64) {
	x.outlet = &outlet{x: x, source: src, chunks: length < 0, left: length}
}

// sourceErr returns why x's Source failed by itself, if it did. The writer has
// ended.
func (x *Exchange) sourceErr() error {
	if x.outlet == nil {
		return nil
	}
	return x.outlet.failed
}

// An outlet is where a Source writes to: the worker's connection. What has to
// stand before a piece goes with it.
type outlet struct {
	x      *Exchange
	source Source
	chunks bool
	halted atomic.Bool // whatever the source still has, it is not needed

	before []byte // what goes before the next piece
	room   [32]byte
	left   int64 // of the length that the head says
	err    error // why nothing more can be sent
	failed error // why the source has failed by itself
}

// run sends a request. A source that fails by itself ends the exchange, unless
// that needs no more of it.
func (o *outlet) run() error {
	o.before = o.x.Head
	err := o.source.Pass(o)
	if err == nil {
		err = o.end()
	}
	if err == nil || o.err != nil {
		return err
	}
	if !o.halted.Load() {
		o.failed = err
		o.x.c.s.Interrupt()
	}
	return sock.ErrInterrupted
}

// halt ends run soon.
func (o *outlet) halt() {
	o.halted.Store(true)
	o.source.Stop()
}

// Write sends p.
func (o *outlet) Write(p []byte) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case o.chunks:
		o.before = h1.AppendChunkSize(o.before, len(p))
	case int64(len(p)) > o.left:
		panic("BUG: a body is longer than it was said to be")
	default:
		o.left -= int64(len(p))
	}
	if o.err = o.x.useless(); o.err == nil {
		o.err = o.x.c.s.Write2(o.before, p, o.x.c.stall())
	}
	if o.err != nil {
		return 0, o.err
	}
	o.before = o.room[:0]
	if o.chunks {
		o.before = append(o.before, '\r', '\n')
	}
	return len(p), nil
}

// end sends what is behind the last piece.
func (o *outlet) end() error {
	switch {
	case o.chunks:
		o.before = append(o.before, h1.LastChunk...)
	case o.left > 0:
		return io.ErrUnexpectedEOF
	}
	if len(o.before) > 0 {
		o.err = o.x.c.s.Write(o.before, o.x.c.stall())
	}
	return o.err
}

// useless returns why the rest of a body would be of no use to anybody. A wait
// on the connection would say the same, but a connection that takes all at once
// is not waited on.
func (x *Exchange) useless() error {
	switch {
	case x.c.s.Interrupted():
		return sock.ErrInterrupted
	case x.total != 0 && x.c.h.client.watch.Now() >= x.total:
		return sock.ErrExpired
	}
	return nil
}
