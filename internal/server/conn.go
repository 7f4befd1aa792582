package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"math/bits"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/buf"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/sock"
)

// A conn is a client's HTTP/1.1 connection. One goroutine reads its requests,
// serves them one after another, and writes their answers.
//
// A request that has arrived whole is served where it was read, inside the
// callback of sock.Conn.Receive; then the next is waited for without a system
// call. One whose body is still to come, or that asks for another protocol, is
// served outside, because it has to wait on the same connection.
type conn struct {
	front  *Front
	sock   *sock.Conn
	remote netip.Addr
	port   uint16 // of remote
	unix   bool   // it is a Unix socket
	ctx    connContext
	cancel context.CancelCauseFunc
	waits  sock.Waits // whom the owner waits for while it serves
	state  atomic.Int32

	in       *buf.Buf // what was read; nil while there is nothing
	from, to int      // what of it is not used yet
	room     int      // how much is read at once
	held     *scratch // of the request that is read or served

	served    int  // requests
	pipelined int  // of them, those that had begun to arrive when the one before was answered, in a row
	ahead     bool // the next is such a one
	timed     bool // the time for a header runs
	closing   bool // this answer is the last
	lingering bool // the client may be sending what nobody will read
	taken     bool // somebody else has the connection
	guest     bool // net/http has it

	fault   error // why what was read is no request
	request infer.Request
	reply   infer.Reply
	upload  upload
	wire    wire

	mu     sync.Mutex // guards what follows: held by who sends
	stands standing
	probed bool // the client was asked so; of an answer of which nothing was sent, the first byte was
	padded bool // a chunk's size has got a leading zero already
	spare  [1]byte
	spared bool // spare is the next byte of a body, and was not sent yet
}

// standing is how far an answer has been sent.
type standing uint8

const (
	standsIdle     standing = iota // nobody waits for one
	standsNew                      // nothing was sent of it
	standsBetween                  // between two chunks
	standsInChunk                  // soon to be between two
	standsInLength                 // within a body that has no chunks
)

// The states of a conn: whether it may be closed without losing anything.
const (
	connFresh int32 = iota // nothing was asked yet
	connIdle
	connBusy
	connRetired
	connLingering
	connEnding  // what follows its answer is done: all that will be sent was
	connLeaving // the gateway ends, and nobody has told the client, which may have asked before
)

// leaveTime is how long a connection has to bring a request that its client has
// sent before the gateway began to end, and before its last answer was done with.
const leaveTime = 100 * time.Millisecond

// scratch is what a request needs until it is answered, or its stream begun.
type scratch struct {
	head   h1.RequestHead
	header infer.Header
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// A connection reads leastRoom at once at first, and then what the request
// before would have fitted in, up to inSize: a request that waits for its answer
// holds this memory, and one that does not fit costs another read.
const (
	leastRoom = 4 << 10
	inSize    = 16 << 10
)

// Why a conn stops receiving.
var (
	errOutside = errors.New("the request has to wait on the connection")
	errLast    = errors.New("the connection has served its last request")
	errHTTP2   = errors.New("the client speaks HTTP/2")
)

// newConn returns a conn that has yet to run.
func newConn(f *Front, nc net.Conn) *conn {
	remote, port := peer(nc)
	c := &conn{front: f, remote: remote, port: port, room: leastRoom}
	ctx, cancel := context.WithCancelCause(f.base)
	c.ctx, c.cancel = connContext{ctx, c}, cancel
	c.wire.c, c.upload.c = c, c
	_, c.unix = nc.LocalAddr().(*net.UnixAddr)
	c.sock = f.watch.Add(nc, c)
	return c
}

// run serves c until it ends.
func (c *conn) run() {
	defer c.front.leave(c)
	defer c.cancel(nil)
	if t, ok := c.sock.NetConn().(*tls.Conn); ok && !c.shake(t) {
		return
	}
	_ = c.sock.Expire(c.front.cfg.HeaderReadTimeout)
	var err error
	for {
		if err = c.sock.Receive(c); !errors.Is(err, errOutside) {
			break
		}
		if err = c.serve(); err != nil {
			break
		}
	}
	switch {
	case errors.Is(err, errHTTP2):
		first := bytes.Clone(c.in.B[c.from:c.to])
		c.drop()
		c.front.hand(c, &read{c.sock.Detach(), first})
		return
	case errors.Is(err, errTaken):
		c.front.count.tunnels.Dec()
	case errors.Is(err, sock.ErrExpired):
		c.late()
	case errors.Is(err, errCut) && c.wire.mode == modeClose:
		c.reset()
	case (errors.Is(err, errLast) || errors.Is(err, errCut)) && c.lingering:
		c.linger()
	}
	c.drop()
	if errors.Is(err, errCut) {
		_ = c.sock.Cut() // a good-bye would be to nobody, or say that all is well
	} else {
		_ = c.sock.Close()
	}
	c.end() // a client that waits for the connection's end has seen it
}

// shake makes t ready. A client that speaks HTTP/2 goes to net/http.
func (c *conn) shake(t *tls.Conn) (ours bool) {
	ctx, cancel := context.WithTimeout(c.front.base, c.front.cfg.HandshakeTimeout)
	defer cancel()
	c.sock.KeepHalf(true) // what is asked may come with the handshake's end, and be all
	if err := t.HandshakeContext(ctx); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			c.front.count.headerTime.Inc()
		}
		c.front.log.Debug("TLS handshake failed", "remote", c.remote.String(), "err", err)
		_ = c.sock.Close()
		return false
	}
	if t.ConnectionState().NegotiatedProtocol == "h2" {
		c.front.hand(c, c.sock.Detach())
		return false
	}
	if t.ConnectionState().Version < tls.VersionTLS13 {
		c.sock.KeepHalf(false) // who ends its half wants nothing more, RFC 5246 §7.2.1
	}
	return true
}

// drop gives back what c holds.
func (c *conn) drop() {
	c.letGo()
	if c.held != nil {
		c.held.head.Reset()
		scratches.Put(c.held)
		c.held = nil
	}
	c.wire.drop()
	c.upload.drop()
}

// letGo gives back the read buffer.
func (c *conn) letGo() {
	if c.in != nil {
		c.in.Free()
		c.in, c.from, c.to = nil, 0, 0
	}
}

// Begin implements sock.Receiver: what is here already comes first.
func (c *conn) Begin() (wait bool, err error) { return false, c.consume() }

// Space implements sock.Receiver.
func (c *conn) Space() []byte {
	switch {
	case c.in == nil:
		c.in = buf.Get(c.room)
		c.from, c.to = 0, 0
	case c.to == len(c.in.B) && c.from > 0:
		c.to = copy(c.in.B, c.in.B[c.from:c.to])
		c.from = 0
	case c.to == len(c.in.B):
		c.in = c.in.Grow(2 * len(c.in.B)) // a long header, or several requests; the limits end it
	}
	return c.in.B[c.to:]
}

// Received implements sock.Receiver.
func (c *conn) Received(n int) (bool, error) {
	c.to += n
	return false, c.consume()
}

// Drained implements sock.Receiver.
func (c *conn) Drained() {
	if c.from == c.to {
		c.letGo()
	}
}

// consume serves the requests that have arrived whole.
func (c *conn) consume() error {
	for c.from < c.to {
		if c.held == nil {
			if c.served == 0 && c.in.B[c.from] == 'P' && speaksHTTP2(c.in.B[c.from:c.to]) {
				if c.to-c.from < len(http2Preface) {
					return nil // "P" may become POST
				}
				return errHTTP2
			}
			if !c.become(connBusy, connIdle, connFresh, connLeaving) {
				return errLast
			}
			c.held = scratches.Get().(*scratch)
		}
		n, err := h1.ParseRequest(c.in.B[c.from:c.to], &c.held.head, c.front.limits)
		if err != nil {
			c.refuseBytes(err)
			return errLast
		}
		if n == 0 {
			if !c.timed && c.served > 0 {
				c.timed = true
				return c.sock.Expire(c.front.cfg.HeaderReadTimeout)
			}
			c.timed = true
			return nil
		}
		c.from += n
		c.timed = false
		c.fit(n + int(min(max(c.held.head.ContentLength, 0), inSize)))
		if !c.upload.begin(&c.held.head) || c.held.head.Upgrade != nil {
			return errOutside
		}
		if err := c.serve(); err != nil {
			return err
		}
	}
	return nil
}

// become changes c's state to one, if it is any of others.
func (c *conn) become(to int32, from ...int32) bool {
	for _, s := range from {
		if c.state.CompareAndSwap(s, to) {
			return true
		}
	}
	return false
}

// fit makes the next read large enough for n bytes, and larger: one that is
// filled would be followed by another, in vain.
func (c *conn) fit(n int) { c.room = min(max(1<<bits.Len(uint(n)), leastRoom), inSize) }

// serve answers the request whose head was read, and returns nil if another may
// follow.
func (c *conn) serve() error {
	if err := c.sock.Expire(0); err != nil {
		return err
	}
	c.count()
	c.fill()
	c.begin()
	whole := c.handle(c.front.mux)
	return c.after(whole)
}

// count says whether this request is the connection's last.
func (c *conn) count() {
	cfg := &c.front.cfg
	c.served++
	if c.ahead {
		c.pipelined++
	} else {
		c.pipelined = 0
	}
	c.closing = !c.held.head.KeepAlive
	if c.pipelined >= cfg.MaxPipelined {
		c.closing = true
		c.front.count.pipelined.Inc()
	}
	if cfg.MaxRequests > 0 && c.served >= cfg.MaxRequests {
		c.closing = true
		c.front.count.tooManyRequests.Inc()
	}
}

// protos are the versions of HTTP, by their minor.
var protos = [...]string{"HTTP/1.0", "HTTP/1.1"}

// fill makes an infer.Request of the head.
func (c *conn) fill() {
	head, r := &c.held.head, &c.request
	method, path := r.Method, r.Path
	query := r.Query
	*r = infer.Request{Header: c.held.header}
	r.Header.Reset()
	// Most requests of a connection ask what the one before asked.
	r.Method = same(method, head.Method)
	r.Path = same(path, head.Path)
	r.Query = same(query, head.Query)
	r.Remote, r.Port, r.Unix, r.Received = c.remote, c.port, c.unix, time.Now()
	r.Proto = protos[min(head.Minor, 1)]
	for i := range head.Fields {
		f := &head.Fields[i]
		switch {
		case len(f.Name) == 4 && h1.EqualFold(f.Name, "host"):
			r.Header.Add(f.Name, head.Authority) // RFC 9112 §3.2.2: the target's comes first
		case len(f.Name) == 17 && h1.EqualFold(f.Name, "transfer-encoding"), len(f.Name) == 7 && h1.EqualFold(f.Name, "trailer"):
			// of this connection's framing; bodies are bytes from here on
		default:
			r.Header.Add(f.Name, f.Value)
		}
	}
	if head.Framing() != h1.FramingNone {
		r.SetBody(&c.upload)
	}
	c.held.header = r.Header // which has grown, perhaps
}

// same returns b as a string: s, if that is what b spells.
func same(s string, b []byte) string {
	if s == string(b) {
		return s
	}
	return string(b)
}

// begin makes the way back ready.
func (c *conn) begin() {
	c.wire.reset(string(c.held.head.Method) == http.MethodHead, c.held.head.Minor)
	c.reply.Reset(&c.wire)
	c.reply.Promise()
	c.mu.Lock()
	c.stands, c.probed, c.padded, c.spared = standsNew, false, false, false
	c.mu.Unlock()
	if c.sock.HungUp() { // before, or while c.mu was held and the Watch could not ask
		c.HungUp(false) // it may have left, or only have said that it has no more to ask
	}
}

// handle lets h answer, and reports whether the answer is whole.
func (c *conn) handle(h infer.Handler) (whole bool) {
	defer func() {
		if p := recover(); p != nil {
			whole = false
			if e, ok := p.(error); !ok || !errors.Is(e, http.ErrAbortHandler) {
				c.front.log.Error("request panicked", "panic", p, "stack", string(debug.Stack()))
			}
		}
	}()
	if err := h.Serve(&c.ctx, &c.request, &c.reply); err != nil && !refuse(&c.request, &c.reply, err) {
		return c.wire.bare()
	}
	return c.wire.finish() == nil
}

// end does what the answer's end was waited for with. It does nothing the second
// time.
func (c *conn) end() {
	if c.reply.Awaited() {
		c.state.CompareAndSwap(connBusy, connEnding)
		endReply(&c.reply, c.front.log)
	}
}

// after makes c ready for the next request, or says why there is none. What was
// to wait for the answer's end is done then, or by who closes the connection.
func (c *conn) after(whole bool) error {
	c.mu.Lock()
	c.stands = standsIdle
	c.mu.Unlock()
	missing := c.upload.skip()
	persists := c.held == nil || c.held.head.KeepAlive
	c.wire.drop()
	c.request.DropText() // of one that was refused before it was sent
	c.request.Body = nil // or it would be held while the connection is idle
	c.upload.drop()
	// Who has asked once may be asking again, if it was not its last request.
	c.lingering = missing || c.from < c.to || persists && whole
	c.request.Header = infer.Header{}
	if held := c.held; held != nil {
		c.held = nil
		scratches.Put(held)
	}
	switch {
	case c.taken:
		return errTaken
	case !whole:
		return errCut
	case c.closing || missing:
		return errLast
	}
	c.end()
	switch {
	case !c.become(connIdle, connBusy, connEnding):
		return errLast
	case !c.front.draining.Load():
	case !c.state.CompareAndSwap(connIdle, connLeaving):
		return errLast
	}
	if c.ahead = c.from < c.to; c.ahead {
		return nil
	}
	c.from, c.to = 0, 0
	if c.state.Load() == connLeaving {
		return c.sock.Expire(leaveTime)
	}
	return c.sock.Expire(c.front.cfg.IdleTimeout)
}

// errCut ends a connection whose answer must not look whole.
var errCut = errors.New("an answer was cut")

// release gives back the memory of a request whose answer will take long.
func (c *conn) release() {
	if c.held == nil {
		return
	}
	scratches.Put(c.held)
	c.held = nil
	if c.from == c.to {
		c.letGo()
	}
	c.wire.slim()
}

var errHeaderTime = &h1.Error{Status: http.StatusRequestTimeout, Reason: "the request's header did not come in time", Section: "9110 §15.5.9"}

// refuseBytes answers what is no request. Where the next would begin is
// unknown, so the connection ends.
func (c *conn) refuseBytes(err error) {
	var e *h1.Error
	if !errors.As(err, &e) {
		return
	}
	c.fault = &infer.Error{Status: e.Status, Code: "malformed_request", Msg: "The request is not valid HTTP: " + e.Reason + ".", Err: err}
	if e == errHeaderTime {
		c.fault = &infer.Error{Status: e.Status, Code: "request_header_timeout", Msg: "The request's header did not come in time.", Err: err}
	}
	c.closing, c.lingering = true, true
	c.served++
	c.request = infer.Request{Remote: c.remote, Port: c.port, Unix: c.unix, Received: time.Now()}
	c.wire.reset(false, 1)
	c.reply.Reset(&c.wire)
	c.reply.Promise()
	c.handle(c.front.fault)
}

// After the last answer what a client still sends is read, unused, for
// Config.Linger, and drainLinger when the gateway ends: closed at once, it could
// see a reset before it sees the answer.
const (
	drainLinger = 500 * time.Millisecond
	lingerBytes = 8 << 20
)

// late ends c, whose client has taken too long to send a header. One that has
// begun to is told. That a connection which was used lies idle is no offence.
func (c *conn) late() {
	if c.become(connRetired, connLeaving) {
		if c.sock.Renew() == nil {
			c.linger()
		}
		return
	}
	if !c.timed && c.served > 0 {
		c.front.count.idle.Inc()
		return
	}
	c.front.count.headerTime.Inc()
	if c.held == nil || c.sock.Renew() != nil {
		return
	}
	c.refuseBytes(errHeaderTime)
	c.linger()
}

// reset closes a connection so that an answer which ends with it does not look
// whole.
func (c *conn) reset() {
	nc := c.sock.Detach()
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn() // without saying good-bye
	}
	if l, ok := nc.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = nc.Close()
}

// linger waits until the client has had its last answer.
func (c *conn) linger() {
	under := c.sock.NetConn()
	half, ok := under.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.letGo()
	c.end()
	c.state.Store(connLingering)
	left := max(c.front.cfg.Linger, 1) // 0 would be for ever
	if c.front.draining.Load() {
		left = min(left, drainLinger) // nobody waits for a client that only keeps its connection
	}
	if c.sock.Expire(left) == nil {
		_ = c.sock.Receive(&discard{})
	}
}

// A discard receives what nobody wants.
type discard struct {
	b *buf.Buf
	n int
}

func (d *discard) Begin() (bool, error) { return false, nil }

func (d *discard) Space() []byte {
	if d.b == nil {
		d.b = buf.Get(inSize)
	}
	return d.b.B
}

func (d *discard) Received(n int) (bool, error) {
	d.n += n
	return d.n > lingerBytes, nil
}

func (d *discard) Drained() {
	d.b.Free()
	d.b = nil
}

// retire ends c if it stands so, fresh or idle. If it is busy, its answer is the
// last.
func (c *conn) retire(state int32) {
	if c.state.CompareAndSwap(state, connRetired) {
		c.sock.Interrupt()
	}
}

// part ends c if it has had its last answer, and reports whether it has. What
// follows one is done to its end.
func (c *conn) part() bool {
	switch {
	case c.become(connRetired, connEnding):
	case c.become(connRetired, connLeaving), c.state.Load() == connLingering:
		c.sock.Interrupt()
	case c.state.Load() == connRetired: // and is about to end
	default:
		return false
	}
	return true
}

// abandon ends c, whatever it does.
func (c *conn) abandon() {
	c.waits.End()
	c.sock.Interrupt()
}

// connContext is the context of a connection's requests: it ends when the
// client leaves, and when the gateway does.
type connContext struct {
	context.Context
	c *conn
}

// faultKey is the key of the conn for who answers what is no request, or of an
// error, for one that net/http has read.
type faultKey struct{}

// Value implements context.Context.
func (x *connContext) Value(key any) any {
	switch key.(type) {
	case sock.Key:
		return &x.c.waits
	case faultKey:
		return x.c
	}
	return x.Context.Value(key)
}

// HungUp implements sock.Watcher. A client that has closed, and one that has
// only said that it will ask no more, look the same. So a byte is sent that must
// come next whatever the answer will be: a client that has closed resets the
// connection, and one that waits gets the rest later. Of a body with a length,
// that is a byte which was kept back for it.
func (c *conn) HungUp(full bool) {
	if !full {
		if !c.mu.TryLock() {
			return // who holds it sends, which finds out as well
		}
		full = c.probe()
		c.mu.Unlock()
	}
	if full {
		c.cancel(nil)
		c.waits.End()
	}
}

// probe sends a byte that changes nothing, and reports whether there is none:
// that client counts as gone. c.mu must be held.
func (c *conn) probe() (gone bool) {
	switch {
	case c.stands == standsNew && !c.probed:
		c.probed = c.sock.Offer(probeHead)
	case c.stands == standsBetween && !c.padded:
		c.padded = c.sock.Offer(probeChunk)
	case c.stands == standsInLength && c.spared && !c.probed:
		c.probed = c.sock.Offer(c.spare[:])
		c.spared = !c.probed
	}
	// A byte for which there is no room stays: what fills the socket asks as well.
	return c.stands == standsInLength && !c.probed && !c.spared
}

var (
	probeHead  = []byte("H") // of HTTP/1.1
	probeChunk = []byte("0") // before a chunk's size, RFC 9112 §7.1
)

// send writes what has to go to the client, a and then b, and where the answer
// stands then.
func (c *conn) send(a, b []byte, then standing) error {
	err := c.write(a, b, then)
	if err == nil && c.sock.HungUp() {
		// It may have hung up while c.mu was held, and then nobody has looked.
		c.HungUp(false)
	}
	return err
}

func (c *conn) write(a, b []byte, then standing) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stands == standsNew && c.probed && len(a) > 0 {
		a = a[1:]
	}
	headOnly := c.stands == standsNew && len(b) == 0 && bytes.HasSuffix(a, []byte("\r\n\r\n"))
	keeps := c.sock.Offers() && !headOnly
	var kept []byte
	switch {
	case then != standsInLength || c.wire.mode != modeLength:
	case c.wire.left == 0:
		then = standsIdle
	case !keeps:
	case len(b) > 0:
		b, kept = b[:len(b)-1], b[len(b)-1:]
	default:
		a, kept = a[:len(a)-1], a[len(a)-1:]
	}
	c.stands = then
	err := c.put(a, b)
	if len(kept) > 0 {
		c.spared = copy(c.spare[:], kept) > 0
	}
	if err != nil {
		c.stands = standsIdle
		if errors.Is(err, sock.ErrExpired) {
			c.front.count.stalled.Inc()
		}
	}
	return err
}

// put sends a and then b, behind what was kept back.
func (c *conn) put(a, b []byte) error {
	stall := c.front.cfg.WriteTimeout
	if c.spared {
		c.spared = false
		if len(b) == 0 {
			a, b = c.spare[:], a
		} else if err := c.sock.Write(c.spare[:], stall); err != nil {
			return err
		}
	}
	switch {
	case len(b) > 0:
		return c.sock.Write2(a, b, stall)
	case len(a) > 0:
		return c.sock.Write(a, stall)
	}
	return nil
}
