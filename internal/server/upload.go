package server

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/buf"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/sock"
)

// An upload is the body of a conn's request: the infer.Body of the front end.
//
// What has arrived with the head is used where it is. What is still to come is
// read into memory of its own, straight to where it belongs, and never beyond
// the body's end if its length is known.
type upload struct {
	c       *conn
	body    h1.Body
	framing h1.Framing
	expects bool // the client waits for 100
	done    bool // all of it was read, or is in the conn's buffer
	passing bool // guarded by mu; Pass runs
	stopped bool // guarded by mu; it is to end
	mu      sync.Mutex
	length  int64

	own   *buf.Buf // what was read of it
	lent  int64    // of own's memory, what was given on trust
	count int64    // of it, what is counted among all bodies'
	n     int      // bytes in own
	raw   *buf.Buf // chunks pass through it
	from  int      // what of raw is not used yet; after the end, it is the next request's
	to    int
	most  int64         // bytes after which it is looked whether to go on
	start time.Duration // when it began to be waited for
	wire  int           // bytes that came since
}

// trusted is how much memory an announced length is given before anything has
// come, and trustedAll how much all of them are given at once. Beyond that, a
// body's memory grows as the body comes.
const (
	trusted    = 4 << 20
	trustedAll = 256 << 20
)

// begin takes the body of the request that head is of, and reports whether it
// has arrived.
func (u *upload) begin(head *h1.RequestHead) (here bool) {
	c := u.c
	*u = upload{c: c, framing: head.Framing(), length: head.ContentLength, expects: head.Expect100}
	switch u.framing {
	case h1.FramingNone:
		u.done = true
	case h1.FramingLength:
		u.done = int64(c.to-c.from) >= u.length
	}
	u.body.Reset(u.framing, u.length, c.front.limits)
	return u.done
}

// Length implements infer.Body.
func (u *upload) Length() int64 {
	if u.framing == h1.FramingChunked {
		return -1
	}
	return u.length
}

// ReadShort implements infer.Body.
func (u *upload) ReadShort(most, limit int64) (b []byte, whole bool, err error) {
	c := u.c
	if u.framing == h1.FramingLength {
		switch {
		case u.length > limit:
			return nil, false, infer.TooLarge
		case u.length > most:
			return nil, false, nil
		case !u.done && u.own == nil && !c.front.bodies.fits(u.length):
			return nil, false, errBodies
		}
	}
	if u.done {
		b := c.in.B[c.from : c.from+int(u.length) : c.from+int(u.length)]
		c.from += int(u.length)
		u.framing = h1.FramingNone
		return b, true, nil
	}
	u.most = most
	if u.own == nil {
		size := inSize
		if u.framing == h1.FramingLength {
			size = u.borrow(min(u.length, trusted))
		}
		if err := u.counts(size); err != nil {
			return nil, false, err
		}
		u.own = buf.Get(size)
		u.start = c.front.watch.Now()
	}
	if !u.ended() {
		if err := c.sock.Receive(u); err != nil && !errors.Is(err, errBodyHere) {
			return nil, false, u.failed(err)
		}
	}
	if err := c.sock.Expire(0); err != nil {
		return nil, false, u.failed(err)
	}
	if int64(u.n) > most {
		return nil, false, nil
	}
	u.done, u.framing = true, h1.FramingNone
	return u.own.B[:u.n:u.n], true, nil
}

// borrow returns how much of want is given before anything has come.
func (u *upload) borrow(want int64) int {
	if want <= inSize {
		return int(want)
	}
	all := &u.c.front.lent
	if all.Add(want) > trustedAll {
		all.Add(-want)
		return inSize
	}
	u.lent = want
	return int(want)
}

// counts counts a body that is to have a Buf of n bytes among all.
func (u *upload) counts(n int) (err error) {
	u.count, err = u.c.front.bodies.grow(u.count, int64(buf.Size(n)))
	return err
}

// uncount gives back what was counted.
func (u *upload) uncount() {
	u.c.front.bodies.free(u.count)
	u.count = 0
}

// failed names what kept the body from being read.
func (u *upload) failed(err error) error {
	var own *infer.Error
	var bad *h1.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, sock.ErrExpired):
		u.c.front.count.bodyTime.Inc()
		if err := u.c.sock.Renew(); err != nil {
			return infer.Unreadable(err)
		}
		return &infer.Error{Status: http.StatusRequestTimeout, Code: "request_body_timeout", Msg: "The rest of the request body did not come in time.", Err: err}
	case errors.As(err, &bad):
		e := infer.Unreadable(err)
		e.Status, e.Msg = bad.Status, "The request body is not valid HTTP: "+bad.Reason+"."
		return e
	}
	return infer.Unreadable(err)
}

// Release implements infer.Body.
func (u *upload) Release() {
	u.drop()
	u.c.release()
}

// drop gives back the memory. What was read behind the body is the conn's.
func (u *upload) drop() {
	if u.own != nil {
		u.own.Free()
		u.own, u.n = nil, 0
	}
	u.uncount()
	if u.lent > 0 {
		u.c.front.lent.Add(-u.lent)
		u.lent = 0
	}
	if u.raw == nil {
		return
	}
	if u.from == u.to {
		u.raw.Free()
	} else {
		u.c.letGo()
		u.c.in, u.c.from, u.c.to = u.raw, u.from, u.to
	}
	u.raw = nil
}

// missing reports whether a part of the body is still to come.
func (u *upload) missing() bool { return u.framing != h1.FramingNone && !u.done }

// skip passes over a body that nobody has read, and reports whether a part of
// it is missing.
func (u *upload) skip() (missing bool) {
	if u.framing == h1.FramingLength && u.done {
		u.c.from += int(u.length)
		u.framing = h1.FramingNone
	}
	return u.missing()
}

// Begin implements sock.Receiver. What came with the head comes first.
func (u *upload) Begin() (wait bool, err error) {
	c := u.c
	if err := u.invite(); err != nil {
		return false, err
	}
	if c.from < c.to {
		n, err := u.take(c.in.B[c.from:c.to])
		u.wire += n
		if c.from += n; err != nil {
			return false, err
		}
		if u.ended() {
			return false, errBodyHere
		}
	}
	if u.raw != nil && u.from < u.to {
		if err := u.unpack(); err != nil {
			return false, err
		}
		if u.ended() {
			return false, errBodyHere
		}
	}
	if err := u.widen(); err != nil {
		return false, err
	}
	return false, u.hurry()
}

// invite tells a client that waits that its body is wanted, unless that has
// begun to send it.
func (u *upload) invite() error {
	c := u.c
	if !u.expects || c.from < c.to {
		return nil
	}
	u.expects = false
	return c.proceed()
}

// ended reports whether nothing more is to be read now: the body is here, or is
// longer than it was to be.
func (u *upload) ended() bool { return u.body.Done() || int64(u.n) > u.most }

// proceed tells the client to go on.
func (c *conn) proceed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.probed {
		return nil // the answer has begun, to a client that sends nothing more
	}
	return c.sock.Write(continueHead, c.front.cfg.WriteTimeout)
}

var continueHead = []byte(h1.ContinueHead)

// errBodyHere ends a Receive at once: nothing is to be waited for.
var errBodyHere = errors.New("the body has arrived")

// Space implements sock.Receiver. A body of known length is read to where it
// belongs. One of chunks passes through another buffer than the head, which is
// still needed where it is.
func (u *upload) Space() []byte {
	if u.framing == h1.FramingLength {
		end := int(min(u.length, int64(len(u.own.B))))
		return u.own.B[u.n:end]
	}
	if u.raw == nil {
		u.raw, u.from, u.to = buf.Get(inSize), 0, 0
	}
	return u.raw.B[u.to:]
}

// widen makes room for more of a body that is read to where it belongs.
func (u *upload) widen() error {
	if u.framing != h1.FramingLength {
		return nil
	}
	return u.grow(int(min(u.length-int64(u.n), 1<<30)))
}

// grow makes room for up to want more bytes, and at least one.
func (u *upload) grow(want int) error {
	if u.n < len(u.own.B) {
		return nil
	}
	n := u.n + min(want, max(3*u.n, inSize))
	if err := u.counts(n); err != nil {
		return err
	}
	u.own = u.own.Grow(n)
	return nil
}

// Received implements sock.Receiver.
func (u *upload) Received(n int) (done bool, err error) {
	u.wire += n
	if u.framing == h1.FramingLength {
		if _, _, err := u.body.Scan(u.own.B[u.n : u.n+n]); err != nil {
			return false, err
		}
		u.n += n
	} else {
		u.to += n
		if err := u.unpack(); err != nil {
			return false, err
		}
	}
	if u.ended() {
		return true, nil
	}
	if err := u.widen(); err != nil {
		return false, err
	}
	return false, u.hurry()
}

// unpack takes the data out of the chunks in raw.
func (u *upload) unpack() error {
	used, err := u.take(u.raw.B[u.from:u.to])
	if u.from += used; u.from == u.to {
		u.from, u.to = 0, 0
	}
	return err
}

// take copies what of b is the body's.
func (u *upload) take(b []byte) (used int, err error) {
	for used < len(b) && !u.body.Done() {
		// By half at least: a Buf that is larger than the largest of buf's is
		// copied each time.
		if err := u.grow(max(len(b)-used, u.n/2)); err != nil {
			return used, err
		}
		w, r, err := u.body.Decode(u.own.B[u.n:], b[used:])
		u.n += w
		used += r
		if err != nil {
			return used, err
		}
		if int64(u.n) > u.most {
			return used, nil
		}
	}
	return used, nil
}

// hurry sets when the client has to have sent more: before it has been silent
// for too long, and before it falls behind the rate that a body must have.
func (u *upload) hurry() error {
	cfg := &u.c.front.cfg
	left := cfg.BodyTimeout
	if cfg.BodyRate > 0 {
		allowed := u.c.front.bodyGrace + time.Duration(float64(u.wire)/float64(cfg.BodyRate)*float64(time.Second))
		left = min(left, max(allowed-(u.c.front.watch.Now()-u.start), 1))
	}
	return u.c.sock.Expire(left)
}

// Drained implements sock.Receiver.
func (u *upload) Drained() {
	if u.raw != nil && u.from == u.to {
		u.raw.Free()
		u.raw = nil
	}
}
