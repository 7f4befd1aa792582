package server

import (
	"errors"
	"io"

	"sluice/internal/infer"
	"sluice/internal/kit/buf"
	"sluice/internal/kit/h1"
)

// A passage is an upload that is passed on as it comes: a sock.Receiver that
// gives its sink each piece before it reads the next.
type passage struct {
	*upload
	sink  io.Writer
	limit int64
	n     int64 // bytes of the body that have come
	sunk  error // why the sink takes nothing more
}

// passSize is how much of a body is in hand while it passes.
const passSize = 64 << 10

// errStopped is the error of a passage that was told to stop.
var errStopped = errors.New("nobody wants the rest of the request body")

// Pass implements infer.Body.
func (u *upload) Pass(sink io.Writer, limit int64) error {
	u.mu.Lock()
	u.passing = true
	stopped := u.stopped
	u.mu.Unlock()
	if stopped {
		return errStopped
	}
	p := &passage{upload: u, sink: sink, limit: limit}
	err := p.run()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.passing = false
	switch {
	case u.stopped && u.c.sock.Renew() != nil, u.stopped && err != nil && p.sunk == nil:
		return errStopped
	case err == nil:
		u.done, u.framing = true, h1.FramingNone
		return nil
	case p.sunk != nil:
		return p.sunk
	}
	return u.failed(err)
}

// Stop implements infer.Body. What runs is woken, but only while it runs: who
// waits on the connection afterwards must not be.
func (u *upload) Stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.passing && !u.stopped {
		u.c.sock.Hasten()
	}
	u.stopped = true
}

// run passes the body, what was read of it first.
func (p *passage) run() error {
	u := p.upload
	u.start, u.wire = u.c.front.watch.Now(), 0
	if u.own != nil {
		held, n := u.own, u.n
		u.own, u.n = nil, 0
		err := p.give(held.B[:n])
		held.Free()
		u.uncount()
		if err != nil {
			return err
		}
	}
	if !u.body.Done() {
		if err := u.c.sock.Receive(p); err != nil && !errors.Is(err, errBodyHere) {
			return err
		}
	}
	return u.c.sock.Expire(0)
}

// Begin implements sock.Receiver. What came with the head comes first.
func (p *passage) Begin() (wait bool, err error) {
	c := p.c
	if err := p.invite(); err != nil {
		return false, err
	}
	if c.from < c.to {
		n, err := p.pass(c.in.B[c.from:c.to])
		if c.from += n; err != nil {
			return false, err
		}
		if p.body.Done() {
			return false, errBodyHere
		}
	}
	if p.raw != nil && p.from < p.to {
		if err := p.passRaw(); err != nil {
			return false, err
		}
		if p.body.Done() {
			return false, errBodyHere
		}
	}
	return false, p.hurry()
}

// Space implements sock.Receiver. What is behind a body of known length stays
// with the client.
func (p *passage) Space() []byte {
	if p.raw == nil {
		p.raw, p.from, p.to = buf.Get(passSize), 0, 0
	}
	if p.framing == h1.FramingLength {
		return p.raw.B[:min(p.length-p.n, int64(len(p.raw.B)))]
	}
	return p.raw.B[p.to:]
}

// Received implements sock.Receiver.
func (p *passage) Received(n int) (done bool, err error) {
	p.to += n
	if err := p.passRaw(); err != nil {
		return false, err
	}
	if p.body.Done() {
		return true, nil
	}
	return false, p.hurry()
}

func (p *passage) passRaw() error {
	n, err := p.pass(p.raw.B[p.from:p.to])
	p.wire += n
	if p.from += n; p.from == p.to {
		p.from, p.to = 0, 0
	}
	return err
}

// pass gives the sink what of b is the body's data, which is moved together
// first: one piece costs less than several.
func (p *passage) pass(b []byte) (used int, err error) {
	n, used, err := p.body.Decode(b, b)
	if err != nil {
		return used, err
	}
	return used, p.give(b[:n])
}

// give gives the sink data. How long that takes is not the client's fault.
func (p *passage) give(data []byte) error {
	if p.n += int64(len(data)); p.n > p.limit {
		return infer.TooLarge
	}
	if len(data) == 0 {
		return nil
	}
	c := p.c
	if err := c.sock.Expire(0); err != nil {
		return err
	}
	begin := c.front.watch.Now()
	if _, p.sunk = p.sink.Write(data); p.sunk != nil {
		return p.sunk
	}
	p.start += c.front.watch.Now() - begin
	return nil
}
