// Package relay serves requests by passing them on, byte for byte, to workers
// that speak the client's own API over HTTP.
//
// One call of Serve is one upstream request. What can still be answered by
// another worker is returned as an error and nothing is sent to the client: an
// answer is begun with its first byte of body, so a worker that dies between
// header and body is not noticed.
//
// Answers are pushed: the worker's connection gives each piece to a call, on
// the goroutine that serves the request, and the call knows what to do with it.
package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/sock"
	"sluice/internal/kit/upstream"
)

// A Backend relays to HTTP workers.
type Backend struct {
	client *upstream.Client
	watch  *sock.Watch
	cfg    Config

	mu    sync.Mutex // held by who changes peers or near, which are read without it
	peers sync.Map   // *fleet.Worker to *peer

	// near is some of peers by the workers' slots, so that a request finds one of
	// a thousand in one place. A slot is another worker's when the first is gone.
	near atomic.Pointer[[]atomic.Pointer[peer]]
}

// Config says how long is waited. 0 is no bound.
type Config struct {
	FirstByte  time.Duration // for a worker to begin its answer
	Between    time.Duration // for one that is silent within it
	TunnelIdle time.Duration // for a tunnel in which both ends are
	TunnelHalf time.Duration // for one of which an end has hung up; 0 for TunnelIdle
}

// A peer is how a worker is spoken to. It is not written to after it was made.
type peer struct {
	worker *fleet.Worker
	host   *upstream.Host
	name   string // of the Host field
	prefix string // of the paths
	lines  *lines // with that prefix
	fixed  []byte // the fields that each request to it has
}

// lines are a worker's request lines, by endpoint.
type lines [infer.NumEndpoints][]byte

// rootLines are those of nearly all workers.
var rootLines, _ = linesUnder("")

// linesUnder returns the request lines of a worker that serves under prefix.
func linesUnder(prefix string) (*lines, error) {
	var l lines
	for _, e := range infer.Endpoints() {
		b, ok := h1.AppendRequestLine(nil, http.MethodPost, prefix+e.Path())
		if !ok {
			return nil, errors.New("the worker's path cannot be sent")
		}
		l[e] = b
	}
	return &l, nil
}

// New returns a Backend that sends through client. watch looks after the
// connections of tunnels.
func New(client *upstream.Client, watch *sock.Watch, cfg Config) *Backend {
	return &Backend{client: client, watch: watch, cfg: cfg}
}

// Forget closes the connections to a worker that has left, whose status shows it.
func (b *Backend) Forget(w *fleet.Worker) {
	b.mu.Lock()
	p, ok := b.peers.LoadAndDelete(w)
	if ok {
		if s := b.nearby(w); s != nil {
			s.CompareAndSwap(p.(*peer), nil)
		}
	}
	b.mu.Unlock()
	if ok {
		p.(*peer).host.Close()
	}
}

// nearby returns where w's peer may be, nil if there is no place yet.
func (b *Backend) nearby(w *fleet.Worker) *atomic.Pointer[peer] {
	if near := b.near.Load(); near != nil && w.Slot() < len(*near) {
		return &(*near)[w.Slot()]
	}
	return nil
}

// peer returns how w is spoken to.
func (b *Backend) peer(w *fleet.Worker) (*peer, error) {
	if s := b.nearby(w); s != nil {
		if p := s.Load(); p != nil && p.worker == w {
			return p, nil
		}
	}
	if p, ok := b.peers.Load(w); ok {
		// Two workers have a slot if the first is leaving: its last requests
		// need not wait for each other.
		if b.mu.TryLock() {
			b.rememberLocked(p.(*peer))
			b.mu.Unlock()
		}
		return p.(*peer), nil
	}
	made, err := b.meet(w)
	if err != nil {
		return nil, err
	}
	return b.know(made), nil
}

// know keeps p, and returns it, or who was there before. Of a worker that is
// leaving nobody would forget it: then it is p's caller's alone, and keeps no
// connection.
func (b *Backend) know(p *peer) *peer {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, ok := b.peers.Load(p.worker); ok {
		p.host.Close()
		return old.(*peer)
	}
	if p.worker.Status() == fleet.Draining {
		p.host.Close()
		return p
	}
	b.peers.Store(p.worker, p)
	b.rememberLocked(p)
	return p
}

// rememberLocked puts p where requests find it soonest, if it is not forgotten.
// b.mu must be held.
func (b *Backend) rememberLocked(p *peer) {
	if known, ok := b.peers.Load(p.worker); !ok || known != p {
		return
	}
	if b.nearby(p.worker) == nil {
		n := 64
		for n <= p.worker.Slot() {
			n *= 2
		}
		near := make([]atomic.Pointer[peer], n)
		if old := b.near.Load(); old != nil {
			for i := range *old {
				near[i].Store((*old)[i].Load())
			}
		}
		b.near.Store(&near)
	}
	b.nearby(p.worker).Store(p)
}

func (b *Backend) meet(w *fleet.Worker) (*peer, error) {
	u := w.URL()
	p := &peer{worker: w, name: u.Host, lines: rootLines}
	if u.Scheme == "unix" {
		p.name = "localhost"
	} else if p.prefix = strings.TrimSuffix(u.EscapedPath(), "/"); p.prefix != "" {
		var err error
		if p.lines, err = linesUnder(p.prefix); err != nil {
			return nil, err
		}
	}
	var ok bool
	if p.fixed, ok = h1.AppendField(nil, "Host", p.name); !ok {
		return nil, errHead
	}
	p.fixed, _ = h1.AppendField(p.fixed, "User-Agent", "sluice")
	var err error
	p.host, err = b.client.Host(u)
	return p, err
}

// Serve implements route.Backend.
func (b *Backend) Serve(ctx context.Context, r *infer.Request, w *infer.Reply, t fleet.Team) error {
	if r.Endpoint == infer.Realtime {
		return b.tunnel(ctx, r, w, t)
	}
	p, err := b.peer(t.Lead)
	if err == nil {
		body := rankBody(r.Body, t.Lead)
		x := upstream.NewExchange(len(body))
		defer x.Free()
		c := calls.Get().(*call)
		defer c.free()
		c.r, c.w = r, w
		x.Method, x.Body, x.Sink = http.MethodPost, body, c
		x.FirstByte, x.Between = b.cfg.FirstByte, b.cfg.Between
		length := int64(len(x.Body))
		if r.Left() {
			length = r.BodyLength()
			x.Draw((*upload)(r), r.BodyLength())
		}
		if x.Head, err = appendHead(x.Head, r, t.Lead, p, length); err == nil {
			return c.end(ctx, p.host.Do(ctx, x))
		}
	}
	return unbuilt(err)
}

// An upload is a Request as the upstream.Source of the body that was left with
// its client.
type upload infer.Request

// Pass implements upstream.Source.
func (u *upload) Pass(w io.Writer) error { return (*infer.Request)(u).PassBody(w) }

// Stop implements upstream.Source.
func (u *upload) Stop() { (*infer.Request)(u).StopBody() }

// unbuilt is the error of a request that could not be made for the worker.
func unbuilt(err error) error {
	return &infer.Error{Status: http.StatusInternalServerError, Code: "call_upstream_builder_error", Msg: "The request to the worker could not be built.", Err: err}
}

// retryable reports whether another worker may do better than status.
func retryable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// failed names what went wrong before an answer's header was in. What has been
// sent may have been worked on; sending it to another worker is still right,
// because the client gets one answer.
func failed(ctx context.Context, err error) error {
	if e := infer.Ended(ctx, err); e != nil {
		return e
	}
	e := &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_connection_failed", Msg: "The worker closed the connection before it answered.", Retry: true, Err: err}
	var up *upstream.Error
	var bad *h1.Error
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		e.Status, e.Code, e.Msg = http.StatusServiceUnavailable, "no_descriptors", "The gateway has no descriptors left for a connection to a worker."
		e.RetryAfter = time.Second // another worker may have a connection that is not used
	case !errors.As(err, &up):
		e.Msg = "The worker could not be reached."
	case up.Timeout && (up.Op == "dial" || up.Op == "wait"):
		e.Status, e.Code, e.Msg = http.StatusGatewayTimeout, "call_upstream_timeout", "The worker did not take a connection in time."
	case up.Timeout:
		e.Status, e.Code, e.Msg = http.StatusGatewayTimeout, "call_upstream_timeout", "The worker did not answer in time."
	case errors.As(err, &bad):
		e.Code, e.Msg = "call_upstream_decode_error", "The worker's answer is not HTTP."
	case up.Op == "dial":
		e.Msg = "The worker could not be reached."
	}
	return e
}

// brokeOff is the error of an answer that ended before its end. Whether another
// worker can be asked depends on what the client has seen, which the router
// knows.
func brokeOff(ctx context.Context, err error) error {
	if e := infer.Ended(ctx, err); e != nil {
		return e
	}
	return &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_body_error", Msg: "The worker's answer broke off.", Retry: true, Err: err}
}

// gone is the error of a client that does not take its answer.
func gone(err error) error {
	return &infer.Error{Status: infer.StatusClientGone, Code: "client_closed_request", Msg: "The client left before the answer was complete.", Err: err}
}

// BackPressure reports whether err is a worker's word that it has enough to do:
// another worker should be asked, and nothing is wrong with this one.
func BackPressure(err error) bool {
	var e *infer.Error
	if !errors.As(err, &e) || e.Answer == nil {
		return false
	}
	switch e.Answer.Status {
	case http.StatusTooManyRequests:
		return true
	case http.StatusServiceUnavailable:
		return e.RetryAfter > 0 || saysFull(e.Answer.Body)
	}
	return false
}

// saysFull looks for the words in which engines say that their queue is full.
func saysFull(body []byte) bool {
	b := bytes.ToLower(body[:min(len(body), 4<<10)])
	for _, s := range []string{"queue", "overload", "too many", "capacity", "busy"} {
		if bytes.Contains(b, []byte(s)) {
			return true
		}
	}
	return false
}

// statusText is a status as an error tells it.
func statusText(status int) error {
	return fmt.Errorf("worker answered %d %s", status, http.StatusText(status))
}
