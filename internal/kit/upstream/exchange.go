package upstream

import (
	"errors"
	"math"
	"sync"
	"time"

	"sluice/internal/kit/buf"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/sock"
)

const (
	headStore = 1 << 10  // what a request's head is built in
	bodyStore = 3 << 10  // a body up to this has its place behind the head from the beginning
	oneWrite  = 16 << 10 // a body up to this is copied behind the head: cheaper than two pieces
	readSize  = 16 << 10
	bulkSize  = 64 << 10 // once an answer has filled a smaller one

	lastWords   = time.Second // how long an answer may take that explains why sending failed
	maxInterims = 16          // informational answers before the one that counts
)

// A Sink takes an answer. It is called on the goroutine that called Do, while
// the worker's connection is held: a Sink that waits makes the worker wait.
type Sink interface {
	// Answer is called once, with the head of the final answer. The head is
	// good until Answer returns. Neither the Head nor the Body of the
	// Exchange is looked at any more.
	Answer(h *h1.ResponseHead) error

	// Body is called for each piece of the body, as it stands on the wire,
	// never for none. The Sink walks b over it, in one of b's readings, and
	// returns how many bytes were the body's: all, unless b is Done then.
	// wire is good until Body returns.
	//
	// That the body is complete is b.Done, or Do's return if it ends with
	// the connection.
	Body(b *h1.Body, wire []byte) (n int, err error)
}

// An Exchange is one request and its answer. The fields are set by the caller
// between NewExchange and Do.
type Exchange struct {
	Method string // as in Head
	Head   []byte // the whole head: append to it what the kit/h1 Append functions make
	Body   []byte // sent behind it as it is
	Once   bool   // never sent again, however surely the worker has not seen it

	FirstByte time.Duration // from the end of sending to the whole of the answer's head; 0 is no bound
	Between   time.Duration // how long the worker may be silent within the body; 0 is no bound

	Sink Sink

	store  *buf.Buf   // where Head begins
	wrote  chan error // what the connection's writer came to; nil before the first
	outlet *outlet    // of the Source that gives the body; nil without
	body   h1.Body
	attempt
}

// attempt is what is known of one try.
type attempt struct {
	c        *conn
	total    time.Duration // when the context's deadline passes, in the Watch's time; 0 never
	sentAt   time.Duration
	head     *h1.ResponseHead // while it is read, and looked at
	in       *buf.Buf         // what was read and not used
	n        int              // bytes in it
	size     int              // of the next
	mark     time.Duration    // when the body began, or the last pace; until when what is tried may take
	pieces   uint32           // of the body that were handed out
	says     promise
	interims int32
	stage    stage
	tried    bool // fewer packets, until a few more pieces have come
	received bool
	timed    bool  // the connection has a deadline
	tunnel   bool  // 101 is an answer
	switched bool  // and was the answer
	writing  bool  // the connection's writer is at work
	stopped  bool  // it was told to stop
	unsent   bool  // it did not come to the end
	keep     bool  // the connection may serve another request
	sendErr  error // why sending failed
	sinkErr  error
}

// promise is what an answer's head says of its connection.
type promise struct {
	requests int32 // how many more it will serve, -1 if it does not say
	idle     int32 // for how many seconds it will be kept, -1 if it does not say
	keep     bool
}

type stage uint8

const (
	inHead stage = iota
	inBody
)

var exchanges = sync.Pool{New: func() any { return new(Exchange) }}

// NewExchange returns an empty Exchange for a body of so many bytes, with room for a
// Head.
func NewExchange(body int) *Exchange {
	if body > bodyStore {
		body = 0 // it is put behind the head when that is sent
	}
	x := exchanges.Get().(*Exchange)
	x.store = buf.Get(headStore + body)
	x.Head = x.store.B[:0]
	return x
}

// Free gives x back. Nothing of it may be used any longer.
func (x *Exchange) Free() {
	x.dropHead()
	x.dropAnswer()
	*x = Exchange{wrote: x.wrote}
	exchanges.Put(x)
}

// heads are those of answers: large, and needed only for a moment of an
// exchange's life.
var heads = sync.Pool{New: func() any { return new(h1.ResponseHead) }}

func (x *Exchange) dropAnswer() {
	if x.head != nil {
		if x.stage == inHead {
			x.head.Reset() // it may be half read
		}
		heads.Put(x.head)
		x.head = nil
	}
}

func (x *Exchange) dropHead() {
	if x.store != nil {
		x.store.Free()
	}
	x.store, x.Head, x.Body = nil, nil, nil // a slice would keep it all alive
}

// method returns what h1 has to know of the method.
func (x *Exchange) method() []byte {
	if x.Method == "HEAD" {
		return head
	}
	return nil
}

var head = []byte("HEAD")

// a receiver is an Exchange as its connection sees it.
type receiver Exchange

// Begin implements sock.Receiver: it sends the request, so that no edge that
// tells of the answer can be lost.
func (r *receiver) Begin() (wait bool, err error) {
	x := (*Exchange)(r)
	x.sentAt = x.c.h.client.watch.Now()
	switch {
	case x.outlet != nil:
		x.clock(0)
		x.write(0)
		return false, nil
	case len(x.Body) <= oneWrite:
		x.clock(x.FirstByte)
		x.sendErr = x.sendSmall()
	default:
		x.clock(0)
		var n int
		n, x.sendErr = x.c.s.Try(x.Head, x.Body)
		if x.sendErr == nil && n < len(x.Head)+len(x.Body) {
			x.write(n)
			return x.c.used, nil
		}
		x.clock(x.FirstByte)
	}
	if x.sendErr == nil {
		// On a new connection a worker may have spoken before it was asked.
		return x.c.used, nil
	}
	if errors.Is(x.sendErr, sock.ErrExpired) || errors.Is(x.sendErr, sock.ErrInterrupted) {
		return false, x.sendErr
	}
	// A worker that refuses a request may say so and close before it has read
	// all of it.
	x.timed = true
	return false, x.c.s.Expire(lastWords)
}

// write lets the connection's writer send x, but for the n bytes that went
// before.
func (x *Exchange) write(n int) {
	if x.wrote == nil {
		x.wrote = make(chan error, 1)
	}
	x.writing, x.c.sent, x.c.x = true, n, x
	go x.c.writer()
}

func (x *Exchange) sendSmall() error {
	if len(x.Body) == 0 {
		return x.c.s.Write(x.Head, x.c.stall())
	}
	if cap(x.Head)-len(x.Head) >= len(x.Body) {
		return x.c.s.Write(append(x.Head, x.Body...), x.c.stall())
	}
	b := buf.Get(len(x.Head) + len(x.Body))
	defer b.Free()
	copy(b.B[copy(b.B, x.Head):], x.Body)
	return x.c.s.Write(b.B, x.c.stall())
}

// write sends what is left of a large request while the Exchange's own
// goroutine waits for the answer: a worker may answer before it has read all,
// and read no more. It ends before Do returns, and before Sink.Answer is
// called. The connection's deadline is its own until then.
func (c *conn) write() {
	x, n := c.x, c.sent
	var err error
	switch {
	case x.outlet != nil:
		err = x.outlet.run()
	case n < len(x.Head):
		err = c.s.Write2(x.Head[n:], x.Body, c.stall())
	default:
		err = c.s.Write(x.Body[n-len(x.Head):], c.stall())
	}
	switch {
	case err == nil:
		x.clock(x.FirstByte)
	case !errors.Is(err, sock.ErrInterrupted):
		_ = c.s.Expire(lastWords) // if that is too late, the other end of c.s knows
	}
	x.wrote <- err
}

// settle waits for the writer to end. It is stopped if what it sends is of no
// use any more.
func (x *Exchange) settle(stop bool) {
	if !x.writing {
		return
	}
	if stop {
		x.stopped = true
		if x.outlet != nil {
			x.outlet.halt()
		}
		_ = x.c.s.NetConn().SetWriteDeadline(time.Unix(1, 0))
	}
	if err := <-x.wrote; err != nil {
		x.timed, x.unsent = true, true
		if !errors.Is(err, sock.ErrInterrupted) {
			x.sendErr = err
		}
	}
	x.writing = false
}

// clock bounds the waits from now on: by d, if it is not 0, and by what is
// left of the whole.
func (x *Exchange) clock(d time.Duration) {
	if x.total != 0 {
		left := max(x.total-x.c.h.client.watch.Now(), 1)
		if d == 0 || left < d {
			d = left
		}
	}
	if d == 0 && !x.timed {
		return
	}
	x.timed = d != 0
	_ = x.c.s.Expire(d) // if it is too late, the next wait fails
}

// pause stops the clock while the Sink has the answer: a client that reads
// slowly is not the worker's fault.
func (x *Exchange) pause() error {
	if !x.timed {
		return nil
	}
	x.timed = false
	return x.c.s.Expire(0)
}

// Space implements sock.Receiver.
func (r *receiver) Space() []byte {
	x := (*Exchange)(r)
	switch {
	case x.in == nil:
		x.in, x.n = buf.Get(x.size), 0
	case x.n == len(x.in.B): // only a head is kept; h1's limit bounds it
		x.in = x.in.Grow(2 * x.n)
	}
	return x.in.B[x.n:]
}

// Received implements sock.Receiver.
func (r *receiver) Received(n int) (done bool, err error) {
	x := (*Exchange)(r)
	x.n += n
	x.received = true
	if x.stage == inBody {
		return x.feed(x.in.B[:x.n])
	}
	end, err := x.readHead()
	if end == 0 || err != nil {
		return false, err
	}
	return x.answer(end)
}

// Drained implements sock.Receiver.
func (r *receiver) Drained() {
	x := (*Exchange)(r)
	if x.n == 0 {
		x.dropIn()
	}
	if x.stage == inBody {
		x.clock(x.Between)
	}
}

func (x *Exchange) dropIn() {
	if x.in != nil {
		x.in.Free()
		x.in = nil
	}
}

// readHead reads heads until the one that counts, and returns where that ends;
// 0 if it is not all there.
func (x *Exchange) readHead() (end int, err error) {
	if x.head == nil {
		x.head = heads.Get().(*h1.ResponseHead)
	}
	for {
		b := x.in.B[:x.n]
		end, err = h1.ParseResponse(b, x.head, x.method(), x.c.h.client.opts.Limits)
		if end == 0 || err != nil || !x.head.Interim {
			return end, err
		}
		if x.interims++; x.interims > maxInterims {
			return 0, errInterims
		}
		x.n = copy(b, b[end:])
		if x.n == 0 {
			return 0, nil
		}
	}
}

// answer hands out a final head that ends at end, and what is behind it.
func (x *Exchange) answer(end int) (done bool, err error) {
	h, rest := x.head, x.in.B[end:x.n]
	x.says = promise{keep: h.KeepAlive, requests: int32(min(h.Requests, math.MaxInt32)), idle: int32(min(h.IdleSeconds, math.MaxInt32))}
	if h.Status == 101 && !x.tunnel {
		return false, errSwitched
	}
	x.body.Reset(h.Framing, h.ContentLength, x.c.h.client.opts.Limits)
	if x.c.used && x.overfull(rest) {
		return false, errUnsolicited
	}
	x.settle(h.Status >= 300)
	if err := x.sourceErr(); err != nil {
		return false, err
	}
	x.stage, x.mark = inBody, x.c.h.client.watch.Now()
	if err := x.pause(); err != nil {
		return false, err
	}
	x.dropHead()
	x.switched = h.Status == 101
	if err := x.Sink.Answer(h); err != nil {
		x.switched = false
		return false, x.refused(err)
	}
	x.dropAnswer()
	if x.switched {
		x.n = copy(x.in.B, rest)
		return true, nil
	}
	if x.body.Done() {
		x.keep = x.says.keep && len(rest) == 0
		return true, nil
	}
	if len(rest) > 0 {
		return x.feed(rest)
	}
	x.n = 0
	return false, nil
}

// overfull reports whether rest holds a whole body and more. On a connection
// that was used before, the answer may then be one that came late and the more
// the one that was asked for, so that nothing of it may be shown to anybody.
func (x *Exchange) overfull(rest []byte) bool {
	b := x.body // a copy: the Sink walks the body itself
	if b.Done() {
		return len(rest) > 0
	}
	n, done, err := b.Scan(rest)
	return err == nil && done && n < len(rest)
}

// feed hands out a piece of the body.
func (x *Exchange) feed(wire []byte) (done bool, err error) {
	if err := x.pause(); err != nil {
		return false, err
	}
	x.pieces++
	switch x.pieces % ackAgain {
	case ackFirst:
		x.pace()
	case ackFirst + ackTrial:
		x.try()
	}
	n, err := x.Sink.Body(&x.body, wire)
	if err != nil {
		return false, x.refused(err)
	}
	if x.n == len(x.in.B) && x.size < bulkSize {
		x.dropIn()
		x.size = bulkSize
	}
	x.n = 0
	done = x.body.Done()
	if n < len(wire) && !done {
		return false, errLeft
	}
	x.keep = done && x.says.keep && n == len(wire)
	return done, nil
}

// A worker that sends many small pieces one after another gets a packet back for
// each when it is read, which costs as much as a fifth of relaying it. Where
// pieces come fast, the kernel is told to answer two at once: after ackFirst
// pieces, and again after each ackAgain, because it forgets.
//
// A worker that has Nagle's algorithm on (RFC 896) sends no piece until the one
// before is acknowledged, which the kernel then puts off for 40 ms. That is seen in
// the next ackTrial pieces, and such a connection is left alone from then on.
const (
	ackFirst = 16
	ackAgain = 128
	ackPace  = 25 * time.Millisecond // between pieces, at most, on average
	ackTrial = 4
	ackStall = 30 * time.Millisecond // later than they should have come
)

// pace looks how fast pieces have come.
func (x *Exchange) pace() {
	n := time.Duration(ackAgain)
	if x.pieces < ackAgain {
		n = ackFirst
	}
	now := x.exactly()
	mean := (now - x.mark) / n
	x.mark = now
	if mean <= ackPace && !x.c.waits {
		x.c.s.AckLater()
		x.tried, x.mark = true, now+ackTrial*mean+ackStall
	}
}

// try looks whether the worker has sent on since the kernel was told.
func (x *Exchange) try() {
	if !x.tried {
		return
	}
	now := x.exactly()
	x.c.waits = now > x.mark
	x.tried, x.mark = false, now
}

// exactly is the time in the Watch's time, by the clock.
func (x *Exchange) exactly() time.Duration { return x.c.h.client.watch.Time(time.Now()) }

// refused notes an error that is the Sink's own.
func (x *Exchange) refused(err error) error {
	var e *h1.Error
	if !errors.As(err, &e) {
		x.sinkErr = err
	}
	return err
}
