package upstream

import (
	"io"

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

// An outlet is where a Source writes to: the worker's connection. What has to
// stand before a piece goes with it.
type outlet struct {
	x      *Exchange
	before []byte // what goes before the next piece
	room   [32]byte
	left   int64 // of the length that the head says
	err    error // why nothing more can be sent
}

// Write sends p.
func (o *outlet) Write(p []byte) (int, error) {
	x := o.x
	switch {
	case len(p) == 0:
		return 0, nil
	case x.Length < 0:
		o.before = h1.AppendChunkSize(o.before, len(p))
	case int64(len(p)) > o.left:
		panic("BUG: a body is longer than it was said to be")
	default:
		o.left -= int64(len(p))
	}
	if o.err = x.useless(); o.err == nil {
		o.err = x.c.s.Write2(o.before, p, sendStall)
	}
	if o.err != nil {
		return 0, o.err
	}
	o.before = o.room[:0]
	if x.Length < 0 {
		o.before = append(o.before, '\r', '\n')
	}
	return len(p), nil
}

// end sends what is behind the last piece.
func (o *outlet) end() error {
	switch {
	case o.x.Length < 0:
		o.before = append(o.before, h1.LastChunk...)
	case o.left > 0:
		return io.ErrUnexpectedEOF
	}
	if len(o.before) > 0 {
		o.err = o.x.c.s.Write(o.before, sendStall)
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

// stream sends a request whose body has a Source. A Source that fails by itself
// ends the exchange, unless that needs no more of it.
func (x *Exchange) stream() error {
	o := &outlet{x: x, before: x.Head, left: x.Length}
	err := x.Source.Pass(o)
	if err == nil {
		err = o.end()
	}
	if err == nil || o.err != nil {
		return err
	}
	if !x.halted.Load() {
		x.sourceErr = err
		x.c.s.Interrupt()
	}
	return sock.ErrInterrupted
}
