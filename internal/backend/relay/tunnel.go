package relay

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/buf"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/sock"
	"sluice/internal/kit/upstream"
)

const (
	// handshakeTimeout is how long a worker may take to answer whether it
	// opens a WebSocket, if it may not take less to begin any answer: it need not
	// have computed anything for that.
	handshakeTimeout = 30 * time.Second

	tunnelSize = 16 << 10
)

// tunnel opens a WebSocket to t's lead as r asks for, and passes on what is
// said in it until it ends. Frames are not looked at.
func (b *Backend) tunnel(ctx context.Context, r *infer.Request, w *infer.Reply, t fleet.Team) error {
	worker, early, err := b.open(ctx, r, w, t)
	if worker == nil {
		return err
	}
	w.Served.FirstByte = time.Since(r.Received)
	client, said, err := w.Tunnel()
	if err != nil {
		_ = worker.Close()
		return gone(err)
	}
	r.Release()
	return b.pass(ctx, w, client, said, worker, early)
}

// open asks t's lead. If the worker is nil and err as well, it has answered
// something else, which was sent to the client.
func (b *Backend) open(ctx context.Context, r *infer.Request, w *infer.Reply, t fleet.Team) (worker net.Conn, early []byte, err error) {
	p, err := b.peer(t.Lead)
	if err != nil {
		return nil, nil, unbuilt(err)
	}
	x := upstream.NewExchange(0)
	defer x.Free()
	c := calls.Get().(*call)
	defer c.free()
	c.r, c.w = r, w
	u := &upgrade{call: c, own: t.Lead.Authorization() != ""}
	x.Method, x.Sink, x.FirstByte, x.Between = http.MethodGet, u, handshakeTimeout, b.cfg.Between
	if d := b.cfg.FirstByte; d > 0 {
		x.FirstByte = min(d, handshakeTimeout)
	}
	if x.Head, err = appendUpgrade(x.Head, r, t.Lead, p); err != nil {
		return nil, nil, unbuilt(err)
	}
	if worker, early, err = p.host.Tunnel(ctx, x); worker != nil {
		return worker, early, nil
	}
	return nil, nil, c.end(ctx, err)
}

// An upgrade is the answer to a request for a WebSocket.
type upgrade struct {
	*call
	own bool // the worker was sent a key of its own, and none of the client's
}

// Answer implements upstream.Sink. An answer that opens no WebSocket is one as
// to any request.
func (u *upgrade) Answer(h *h1.ResponseHead) error {
	if h.Status != http.StatusSwitchingProtocols {
		return u.call.Answer(h)
	}
	if why := u.refuses(h); why != "" {
		return &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_handshake_error", Msg: "The worker opens no WebSocket as it was asked to.", Retry: true, Err: errors.New(why)}
	}
	to := u.w.Header()
	to.Set("Upgrade", "websocket")
	keepHeader(to, h)
	return nil
}

// refuses says why h does not open the WebSocket that was asked for, RFC 6455
// §4.1; "" if it does.
func (u *upgrade) refuses(h *h1.ResponseHead) string {
	if !h1.EqualFold(h.Upgrade, "websocket") {
		return "the 101 is not for a WebSocket"
	}
	if got := h.Get("sec-websocket-accept"); string(got) != accept(u.r.Header.Get("Sec-WebSocket-Key")) {
		return "the 101 has another Sec-WebSocket-Accept than the key asks for"
	}
	if chosen := h.Get("sec-websocket-protocol"); chosen != nil {
		for p := range u.offered() {
			if bytes.Equal(p, chosen) {
				return ""
			}
		}
		return "the 101 has a subprotocol that was not offered"
	}
	return ""
}

// offered yields the subprotocols that the worker is offered. The client's key
// is not among them if the worker has one of its own.
func (u *upgrade) offered() func(yield func([]byte) bool) { return protocols(u.r, u.own) }

// protocolKey begins the subprotocol in which browsers send a key.
var protocolKey = []byte("openai-insecure-api-key.")

func protocols(r *infer.Request, own bool) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for list := range r.Header.Values("Sec-WebSocket-Protocol") {
			for p := range bytes.SplitSeq(list, []byte(",")) {
				p = bytes.TrimSpace(p)
				if len(p) == 0 || own && bytes.HasPrefix(p, protocolKey) {
					continue
				}
				if !yield(p) {
					return
				}
			}
		}
	}
}

// accept is what proves that a server has read a Sec-WebSocket-Key, RFC 6455
// §4.2.2. It is no secret.
func accept(key []byte) string {
	sum := sha1.Sum(append(bytes.Clone(key), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	return base64.StdEncoding.EncodeToString(sum[:])
}

const websocketKey = "sec-websocket-key"

// goesUp says which of a client's header fields workers get that are asked for
// a WebSocket, beside those that they get anyway. Origin is not among them: to
// the worker the gateway is no web page. The version is the gateway's to say,
// which refuses others.
func goesUp(name []byte) bool {
	switch len(name) {
	case 11:
		return h1.EqualFold(name, "openai-beta")
	case len(websocketKey):
		return h1.EqualFold(name, websocketKey)
	case 24:
		return h1.EqualFold(name, "sec-websocket-extensions")
	}
	return false
}

// appendUpgrade is appendHead for a request for a WebSocket.
func appendUpgrade(b []byte, r *infer.Request, lead *fleet.Worker, p *peer) ([]byte, error) {
	b, ok := h1.AppendRequestLine(b, http.MethodGet, p.prefix+r.Endpoint.Path()+"?"+query(r))
	if !ok {
		return b, errors.New("the worker's path cannot be sent")
	}
	field := func(name, value []byte) {
		var k bool
		b, k = h1.AppendField(b, name, value)
		ok = ok && k
	}
	b, ok = h1.AppendField(b, "Host", p.name)
	own := lead.Authorization()
	connection := options(&r.Header)
	authorized := own != ""
	for _, f := range r.Header.Fields() {
		if !goes(f.Name) && !goesUp(f.Name) {
			continue
		}
		// The key goes up whatever the client says of it: a worker that lacks it
		// would seem to be the one that is wrong.
		if connection && !h1.EqualFold(f.Name, websocketKey) && r.Header.HasToken("Connection", string(f.Name)) {
			continue
		}
		if i, once := isOnce(f.Name); once {
			if i != 0 || authorized {
				continue // no body has a type
			}
			authorized = true
		}
		field(f.Name, f.Value)
	}
	var offered []byte
	for p := range protocols(r, own != "") {
		if offered != nil {
			offered = append(offered, ", "...)
		}
		offered = append(offered, p...)
	}
	if offered != nil {
		field([]byte("Sec-WebSocket-Protocol"), offered)
	}
	if own != "" {
		field([]byte("Authorization"), []byte(own))
	}
	field([]byte("X-Request-Id"), []byte(r.ID))
	if !ok {
		return b, errHead
	}
	return append(b, "User-Agent: sluice\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+h1.EndHead...), nil
}

// query is r's, with the model's name as workers know it.
func query(r *infer.Request) string {
	parts := strings.Split(r.Query, "&")
	for i, part := range parts {
		name, value, _ := strings.Cut(part, "=")
		if name, err := url.QueryUnescape(name); err != nil || name != "model" {
			continue
		}
		if value, err := url.QueryUnescape(value); err != nil || value != r.Model {
			parts[i] = "model=" + url.QueryEscape(r.Model)
		}
	}
	return strings.Join(parts, "&")
}

// A tunnel is two connections of which each gets what the other says.
type tunnel struct {
	watch          *sock.Watch
	client, worker *sock.Conn
	idle           time.Duration // how long it may pass nothing; 0 for any time
	half           time.Duration // the same when one end has hung up; 0 for idle. WebSockets end with a word of both ends, which is soon said
	timer          *time.Timer   // looks whether it does

	ready   atomic.Bool  // all of the above is set
	last    atomic.Int64 // when it last passed something, in the Watch's time
	hung    atomic.Bool  // one end has hung up
	over    atomic.Bool  // it is being ended
	expired atomic.Bool  // because it passed nothing
	ended   atomic.Bool  // because somebody else has said so
}

// pass passes on what each end says, and early before it, until both have hung
// up or one is gone. It closes both.
func (b *Backend) pass(ctx context.Context, w *infer.Reply, client net.Conn, said []byte, worker net.Conn, early []byte) error {
	t := &tunnel{watch: b.watch, idle: b.cfg.TunnelIdle, half: b.cfg.TunnelHalf}
	t.client, t.worker = t.watch.Add(client, t), t.watch.Add(worker, t)
	defer t.close()
	t.last.Store(int64(t.watch.Now()))
	t.timer = time.AfterFunc(never, t.look)
	defer t.timer.Stop()
	t.ready.Store(true)
	t.look()
	if waits, ok := ctx.Value(sock.Key{}).(*sock.Waits); ok {
		if !waits.On(t.worker) {
			t.worker.Interrupt()
		}
		defer waits.Off()
	} else {
		defer context.AfterFunc(ctx, t.worker.Interrupt)()
	}
	up := &half{t: t, from: t.client, to: t.worker, n: &w.Served.TunnelIn, early: said}
	down := &half{t: t, from: t.worker, to: t.client, n: &w.Served.TunnelOut, early: early}
	done := make(chan struct{})
	go func() {
		defer close(done)
		up.run()
	}()
	down.run()
	<-done
	switch {
	case t.expired.Load() && !t.hung.Load():
		return &infer.Error{Status: infer.StatusClientGone, Code: "tunnel_idle", Msg: "Nothing was said for too long.", Err: errors.New("nothing passed for " + t.idle.String())}
	case t.ended.Load():
		if e := infer.Ended(ctx, nil); e != nil {
			return e
		}
	}
	return nil
}

// close closes both ends. One of a tunnel that was cut may not listen, and is
// not told.
func (t *tunnel) close() {
	for _, c := range [...]*sock.Conn{t.client, t.worker} {
		if t.over.Load() {
			_ = c.Cut()
		} else {
			_ = c.Close()
		}
	}
}

// never is far off.
const never = time.Duration(1 << 62)

// HungUp implements sock.Watcher. What was said before may still be on its way.
func (t *tunnel) HungUp(bool) {
	if !t.hung.Swap(true) && t.ready.Load() && t.half > 0 {
		t.timer.Reset(t.half)
	}
}

// look ends t if it has passed nothing for too long, or says when to look
// again.
func (t *tunnel) look() {
	limit := t.idle
	if t.hung.Load() && t.half > 0 && (limit == 0 || limit > t.half) {
		limit = t.half
	}
	if limit == 0 {
		return
	}
	left := limit - (t.watch.Now() - time.Duration(t.last.Load()))
	if left > 0 {
		t.timer.Reset(left)
		return
	}
	t.expired.Store(true)
	t.cut()
}

// cut ends both halves of t. Anybody may call it.
func (t *tunnel) cut() {
	t.over.Store(true)
	t.client.Interrupt()
	t.worker.Interrupt()
}

// A half is one direction of a tunnel. It implements sock.Receiver.
type half struct {
	t        *tunnel
	from, to *sock.Conn
	n        *int64 // bytes passed
	early    []byte // what was said already
	b        *buf.Buf
}

// run passes on what h's end says until that hangs up, and tells the other.
func (h *half) run() {
	err := h.from.Receive(h)
	if h.b != nil {
		h.Drained()
	}
	if half, can := h.to.NetConn().(interface{ CloseWrite() error }); err == io.EOF && can && half.CloseWrite() == nil {
		h.t.HungUp(false)
		return
	}
	if !h.t.over.Load() && errors.Is(err, sock.ErrInterrupted) {
		h.t.ended.Store(true)
	}
	h.t.cut()
}

// Begin implements sock.Receiver.
func (h *half) Begin() (wait bool, err error) {
	if len(h.early) > 0 {
		err = h.say(h.early)
		h.early = nil
	}
	return false, err
}

// Space implements sock.Receiver.
func (h *half) Space() []byte {
	if h.b == nil {
		h.b = buf.Get(tunnelSize)
	}
	return h.b.B
}

// Received implements sock.Receiver.
func (h *half) Received(n int) (done bool, err error) { return false, h.say(h.b.B[:n]) }

// Drained implements sock.Receiver.
func (h *half) Drained() {
	h.b.Free()
	h.b = nil
}

// say passes b on. Who does not listen makes the other wait, until the tunnel
// has passed nothing for too long.
func (h *half) say(b []byte) error {
	if err := h.to.Write(b, 0); err != nil {
		return err
	}
	*h.n += int64(len(b))
	h.t.last.Store(int64(h.t.watch.Now()))
	return nil
}
