package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/metric"
)

// netHTTP is the front end that stands on net/http: it makes an infer.Request of
// an http.Request, and carries the Reply back. It speaks HTTP/2, and serves the
// ports on which speed does not matter.
type netHTTP struct {
	h       infer.Handler
	stall   time.Duration // for bodies of requests
	rate    int           // that they must come with, 0 for any, after grace
	grace   time.Duration
	unread  time.Duration // for answers
	bodies  *bodies       // of all requests; nil to bound them not at all
	lingers time.Duration // over what is left of a body
	streams *atomic.Int64 // requests that are served, but those whose body is waited for; nil counts nothing
	trail   *trail        // what follows answers; nil for what nobody waits for but the handler
	limits  h1.Limits     // of requests; 0 is none
	fault   infer.Handler // answers those that are over them
	most    int           // requests of a connection; 0 for any number

	late, stalled, tooMany *metric.Counter // of bodies, of answers, and of connections that had most requests; nil counts nothing
}

// HTTPHandler lets net/http serve h.
func HTTPHandler(h infer.Handler) http.Handler {
	return &netHTTP{h: h, stall: stall, unread: stall, lingers: DefaultConfig().Linger}
}

// stall is how long a client may leave an answer unread, or send nothing of a
// body that it has begun, before it counts as gone.
const stall = 300 * time.Second

// ServeHTTP implements http.Handler.
func (f *netHTTP) ServeHTTP(hw http.ResponseWriter, hr *http.Request) {
	if f.streams != nil {
		f.streams.Add(1)
		defer f.streams.Add(-1)
	}
	if f.trail != nil {
		f.trail.running.Add(1)
		defer f.trail.done()
	}
	r := &infer.Request{
		Method: hr.Method, Path: asked(hr), Query: hr.URL.RawQuery,
		Proto: hr.Proto, Received: time.Now(),
	}
	r.Remote, r.Port = remote(hr)
	_, r.Unix = hr.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr)
	for name, values := range hr.Header {
		for _, v := range values {
			r.Header.AddString(name, v)
		}
	}
	if hr.Host != "" {
		r.Header.AddString("Host", hr.Host)
	}
	rc := http.NewResponseController(hw)
	wire := &httpWire{w: hw, rc: rc, head: hr.Method == http.MethodHead, h2: hr.ProtoMajor > 1, stall: f.unread, stalled: f.stalled}
	if hr.Body != nil && hr.Body != http.NoBody {
		b := &httpBody{Reader: hr.Body, rc: rc, stall: f.stall, rate: f.rate, grace: f.grace, late: f.late}
		body := infer.NewBody(b, hr.ContentLength)
		if f.bodies != nil {
			held := &heldBody{Body: body, from: b, all: f.bodies, streams: f.streams}
			defer held.free()
			b.held, body = held, held
		}
		r.SetBody(body)
		// A refusal does not wait for a body that nobody wants, nor does its
		// connection for long.
		_ = rc.EnableFullDuplex()
		defer b.linger(f.lingers)
		if hr.ProtoMajor == 1 {
			wire.body = b
		}
	}
	defer r.DropText()
	reply := infer.NewReply(wire)
	reply.Promise()
	defer f.end(reply, wire)
	f.lastOf(hw, hr)
	h, ctx := f.h, hr.Context()
	if e := f.excess(hr, r); e != nil {
		h, ctx = f.fault, context.WithValue(ctx, faultKey{}, e)
	}
	err := h.Serve(ctx, r, reply)
	if err == nil {
		err = wire.finish()
	}
	if err != nil && !refuse(r, reply, err) {
		// The client must not take a part for the whole: cut the connection.
		panic(http.ErrAbortHandler)
	}
}

// end does what was to wait for the answer's end, which net/http sends when the
// handler has returned: beside it, if that can be.
func (f *netHTTP) end(reply *infer.Reply, wire *httpWire) {
	if !reply.Awaited() || f.trail != nil && f.trail.follow(reply) {
		return
	}
	_ = wire.Flush() // all but the end
	reply.End()
}

// excess is why hr is longer than the limits allow, or asks for what HTTP/1.1 has
// no target for; nil if it is neither. In HTTP/1.1 that is held when it is parsed.
func (f *netHTTP) excess(hr *http.Request, r *infer.Request) error {
	switch {
	case f.limits.RequestLine > 0 && len(hr.Method)+len(hr.RequestURI)+len("  HTTP/2.0") > f.limits.RequestLine:
		return &infer.Error{Status: http.StatusRequestURITooLong, Code: "malformed_request", Msg: "The request is not valid HTTP: request line is too long."}
	case f.limits.RequestLine > 0 && !h1.IsTarget(hr.RequestURI):
		return &infer.Error{Status: http.StatusBadRequest, Code: "malformed_request", Msg: "The request is not valid HTTP: request target has a byte that none may have."}
	case f.limits.Fields > 0 && r.Header.Len() > f.limits.Fields:
		return &infer.Error{Status: http.StatusRequestHeaderFieldsTooLarge, Code: "malformed_request", Msg: "The request is not valid HTTP: head has too many fields."}
	}
	return nil
}

// servedKey is the key of a connection's count of requests, an *atomic.Int64.
type servedKey struct{}

// lastOf counts hr among its connection's requests. The one that is the last, and
// those that were sent beside it, tell the client to send no more there.
func (f *netHTTP) lastOf(hw http.ResponseWriter, hr *http.Request) {
	served, ok := hr.Context().Value(servedKey{}).(*atomic.Int64)
	if f.most == 0 || !ok {
		return
	}
	n := served.Add(1)
	if n == int64(f.most) {
		f.tooMany.Inc()
	}
	if n >= int64(f.most) {
		hw.Header().Set("Connection", "close") // net/http makes GOAWAY of it, RFC 9113 §6.8
	}
}

// httpBody is a request's, which knows whether it has been read to its end, and
// does not wait for ever for a client that sends no more, or too slowly.
type httpBody struct {
	io.Reader
	rc    *http.ResponseController
	stall time.Duration
	rate  int
	grace time.Duration
	late  *metric.Counter

	held    *heldBody     // who holds what has come, or nil
	n       int64         // bytes that have come
	waited  time.Duration // for them
	stalled bool

	mu       sync.Mutex // guards what follows
	deadline time.Time  // of the next piece
	ended    bool
	stopped  bool
}

func (b *httpBody) Read(p []byte) (int, error) {
	begin := time.Now()
	if !b.hurry(begin) {
		return 0, errStopped
	}
	n, err := b.Reader.Read(p)
	b.n += int64(n)
	b.waited += time.Since(begin)
	if e := b.held.grow(b.n); e != nil {
		return 0, e
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == io.EOF:
		b.ended = true
		_ = b.rc.SetReadDeadline(time.Time{}) // it would end the wait for the client's leaving
	case errors.Is(err, os.ErrDeadlineExceeded) && !b.stopped:
		if !b.stalled {
			b.late.Inc()
		}
		b.stalled = true
		err = &infer.Error{Status: http.StatusRequestTimeout, Code: "request_body_timeout", Msg: "The rest of the request body did not come in time.", Err: err}
	}
	return n, err
}

// hurry sets when the client has to have sent more, and reports whether that is
// of any use. It is moved at most every tenth of the time that a client may be
// silent, unless that is nearly over.
func (b *httpBody) hurry(now time.Time) bool {
	left := b.stall
	if b.rate > 0 {
		allowed := b.grace + time.Duration(float64(b.n)/float64(b.rate)*float64(time.Second))
		left = min(left, max(allowed-b.waited, 0))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if at := now.Add(left); left < b.stall || at.Sub(b.deadline) > b.stall/10 {
		b.deadline = at
		if !b.stopped {
			_ = b.rc.SetReadDeadline(at) // a connection that has none is a test's
		}
	}
	return !b.stopped
}

// Pause implements infer.Clocked.
func (b *httpBody) Pause() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended && !b.stopped {
		b.deadline = time.Time{}
		_ = b.rc.SetReadDeadline(b.deadline)
	}
}

// Stop implements infer.Clocked.
func (b *httpBody) Stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped = true; !b.ended {
		_ = b.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

// linger bounds the time in which net/http reads what is left of b.
func (b *httpBody) linger(d time.Duration) {
	if !b.ended && !b.stalled {
		_ = b.rc.SetReadDeadline(time.Now().Add(d))
	}
}

// A heldBody counts what is held of a body among all.
type heldBody struct {
	infer.Body
	from   *httpBody
	all    *bodies
	count  int64 // of it, what is counted
	passes bool  // it is not held, but passes

	streams *atomic.Int64 // among which its request counts, but while it is waited for; nil counts nothing
}

// grow counts n bytes, and the room that is made for as many again.
func (h *heldBody) grow(n int64) (err error) {
	if h == nil || h.passes || n <= uncounted/2 || 2*n <= h.count {
		return nil
	}
	h.count, err = h.all.grow(h.count, 2*n)
	return err
}

func (h *heldBody) free() {
	h.all.free(h.count)
	h.count = 0
}

// ReadShort implements infer.Body.
func (h *heldBody) ReadShort(most, limit int64) (b []byte, whole bool, err error) {
	if n := h.Length(); h.from.n == 0 && n <= min(most, limit) && !h.all.fits(n) {
		return nil, false, errBodies
	}
	if h.streams != nil { // no worker is asked yet, so no connection to one is needed
		h.streams.Add(-1)
		defer h.streams.Add(1)
	}
	return h.Body.ReadShort(most, limit)
}

// Pass implements infer.Body.
func (h *heldBody) Pass(w io.Writer, limit int64) error {
	h.passes = true
	return h.Body.Pass(&passing{w, h}, limit)
}

// passing is where a body passes to. What was read of it before is held until it
// has gone there, which is the first that does.
type passing struct {
	io.Writer
	held *heldBody
}

func (p *passing) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	p.held.free()
	return n, err
}

// Release implements infer.Body.
func (h *heldBody) Release() {
	h.free()
	h.Body.Release()
}

// asked is hr's path as its client wrote it: net/url would escape more of it.
func asked(hr *http.Request) string {
	if p, _, _ := strings.Cut(hr.RequestURI, "?"); strings.HasPrefix(p, "/") {
		return p
	}
	return hr.URL.EscapedPath()
}

// remote is the address at the other end of hr's connection, and its port.
func remote(hr *http.Request) (netip.Addr, uint16) {
	ap, err := netip.ParseAddrPort(hr.RemoteAddr)
	if err != nil {
		return netip.Addr{}, 0 // a Unix socket's peer has none
	}
	return ap.Addr().Unmap(), ap.Port()
}

// httpWire is the infer.Wire of net/http.
type httpWire struct {
	w         http.ResponseWriter
	rc        *http.ResponseController
	header    infer.Header
	head      bool          // the client wants no body
	h2        bool          // it speaks HTTP/2
	committed bool          // the header was sent
	body      *httpBody     // what the connection brings before it is free again, or nil
	left      int64         // of a body whose length was said, else -1
	stall     time.Duration // how long the client may leave what is written unread
	deadline  time.Time     // until when it may
	stalled   *metric.Counter
	counted   bool // it was
}

func (w *httpWire) Header() *infer.Header { return &w.header }

func (w *httpWire) WriteHeader(status int) {
	h := w.w.Header()
	for _, f := range w.header.Fields() {
		name := http.CanonicalHeaderKey(string(f.Name))
		h[name] = append(h[name], string(f.Value))
	}
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // net/http would guess one
	}
	w.committed, w.left = true, -1
	if n, err := strconv.ParseInt(string(w.header.Get("Content-Length")), 10, 64); err == nil && n >= 0 && status != http.StatusNoContent && status != http.StatusNotModified {
		w.left = n
	}
	switch {
	case w.h2:
		delete(h, "Upgrade") // RFC 9113 §8.2.2
	case h["Upgrade"] != nil:
		h["Connection"] = []string{"Upgrade"}
	}
	if w.body != nil && !w.body.ended {
		// net/http panics at the next request after a body whose end it finds
		// behind a full duplex answer. Said here, no client sends one.
		h["Connection"] = append(h["Connection"], "close")
	}
	w.w.WriteHeader(status)
}

// Write sends b, or gives up on a client that reads nothing for as long as
// w.stall. The deadline is moved at most every tenth of it: it costs more than
// the write.
func (w *httpWire) Write(b []byte) (int, error) {
	if w.left >= 0 {
		if int64(len(b)) > w.left {
			return 0, errLength // net/http finds out when it is too late
		}
		w.left -= int64(len(b))
	}
	if now := time.Now(); w.deadline.Sub(now) < w.stall-w.stall/10 {
		w.deadline = now.Add(w.stall)
		if err := w.rc.SetWriteDeadline(w.deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return 0, err
		}
	}
	n, err := w.w.Write(b)
	if errors.Is(err, http.ErrBodyNotAllowed) {
		return len(b), nil // to HEAD, or of a status that has none
	}
	return n, w.failed(err)
}

// failed counts a client that has left its answer unread for too long, and
// returns err.
func (w *httpWire) failed(err error) error {
	if err != nil && !w.counted && !w.deadline.IsZero() && !time.Now().Before(w.deadline) {
		w.counted = true
		w.stalled.Inc()
	}
	return err
}

// Flush sends what was written. Before there is a status there is nothing, and
// net/http would choose one.
func (w *httpWire) Flush() error {
	if !w.committed {
		return nil
	}
	return w.failed(w.rc.Flush())
}

// finish ends an answer. One that is shorter than was said is torn.
func (w *httpWire) finish() error {
	if !w.committed {
		w.WriteHeader(http.StatusOK)
	}
	if w.left > 0 && !w.head {
		return &torn{errors.Join(errShort, w.Flush())}
	}
	return nil
}

// maxHeaderBytes bounds a request's header over HTTP/2; a longer one gets 431.
const maxHeaderBytes = 64 << 10
