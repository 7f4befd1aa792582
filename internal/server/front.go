package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/listen"
	"sluice/internal/kit/metric"
	"sluice/internal/kit/sock"
)

// Options is what a Front is made of.
type Options struct {
	Config  Config
	Handler *Mux
	Watch   *sock.Watch
	Log     *slog.Logger
	Metrics *Metrics // nil for none
}

// Metrics is what the front end counts of its connections.
type Metrics struct {
	Open     *metric.Gauge      `name:"sluice_client_connections" help:"client connections that are open"`
	Accepted *metric.Counter    `name:"sluice_client_connections_total" help:"client connections accepted"`
	Tunnels  *metric.Gauge      `name:"sluice_client_tunnels" help:"client connections that are WebSockets, passed through to workers"`
	Bodies   *metric.GaugeFunc  `name:"sluice_request_body_bytes" help:"memory that request bodies of more than 64 KiB have which were read and not sent on yet"`
	Waits    *metric.CounterVec `name:"sluice_client_accept_waits_total" labels:"reason" help:"times that a listener stopped accepting for a while; reason is reserve (the other descriptors are kept for connections to workers) or error (the system gave no connection, mostly for want of descriptors)"`
	NoRoom   *metric.Counter    `name:"sluice_request_bodies_refused_total" help:"request bodies that were refused because others had --max-buffered-bodies"`
	Ended    *metric.CounterVec `name:"sluice_client_connections_refused_total" labels:"reason" help:"client connections that a limit refused or ended; reason is connections, address, header_timeout, body_timeout, stalled, idle, requests or pipelined"`
}

// A Front is the gateway's front end. HTTP/1.1 is its own; HTTP/2, whether by
// ALPN or by prior knowledge, goes to net/http on the same port. Handlers
// cannot tell which it is.
type Front struct {
	cfg       Config
	mux       *Mux
	fault     infer.Handler // answers what is no request
	watch     *sock.Watch
	log       *slog.Logger
	count     counters
	limits    h1.Limits
	bodyGrace time.Duration // how long a request body may come at any rate
	date      h1.DateField
	h2        *http.Server
	handed    *handoff // connections for h2
	most      int      // client connections; more wait, see crowd.go

	base context.Context // of all requests; ends when the grace is over
	end  context.CancelCauseFunc

	draining atomic.Bool
	lent     atomic.Int64 // memory that bodies were given before they came
	streams  atomic.Int64 // requests that net/http serves, but those whose body is waited for
	trail    *trail       // of the requests that net/http serves
	bodies   bodies
	running  sync.WaitGroup // connections

	mu        sync.Mutex // guards what follows
	open      int
	waiting   bool                    // clients wait until some have left
	conns     map[*conn]struct{}      // those that speak HTTP/1.1
	guests    map[net.Conn]netip.Addr // those that speak HTTP/2, and whose they are
	addresses map[netip.Addr]int      // open connections, if there is a limit; those of Unix sockets have no address
}

// counters are Metrics that may be missing.
type counters struct {
	open, tunnels                                                                        *metric.Gauge
	accepted, reserve, refusal                                                           *metric.Counter
	tooMany, perAddress, headerTime, bodyTime, stalled, idle, tooManyRequests, pipelined *metric.Counter
}

// NewFront returns a front end that Serve runs.
func NewFront(o Options) *Front {
	f := &Front{
		cfg: o.Config, mux: o.Handler, watch: o.Watch, log: o.Log,
		limits: o.Config.limits(), bodyGrace: bodyGrace, handed: newHandoff(), most: mostClients(listen.Descriptors()), trail: newTrail(o.Log),
		conns: make(map[*conn]struct{}), guests: make(map[net.Conn]netip.Addr), addresses: make(map[netip.Addr]int),
	}
	f.fault = o.Handler.Behind(infer.HandlerFunc(func(ctx context.Context, _ *infer.Request, _ *infer.Reply) error {
		if c, ok := ctx.Value(faultKey{}).(*conn); ok {
			return c.fault
		}
		return ctx.Value(faultKey{}).(error)
	}))
	if m := o.Metrics; m != nil {
		f.count = counters{
			open: m.Open, tunnels: m.Tunnels, accepted: m.Accepted, reserve: m.Waits.With("reserve"), refusal: m.Waits.With("error"),
			tooMany: m.Ended.With("connections"), perAddress: m.Ended.With("address"), headerTime: m.Ended.With("header_timeout"),
			bodyTime: m.Ended.With("body_timeout"), stalled: m.Ended.With("stalled"), idle: m.Ended.With("idle"), tooManyRequests: m.Ended.With("requests"), pipelined: m.Ended.With("pipelined"),
		}
	}
	f.bodies.most = o.Config.MaxBuffered
	if m := o.Metrics; m != nil {
		f.bodies.refused = m.NoRoom
		m.Bodies.Set(func() float64 { return float64(f.bodies.held.Load()) })
	}
	f.h2 = &http.Server{
		Handler: &netHTTP{h: o.Handler, stall: o.Config.BodyTimeout, rate: o.Config.BodyRate, grace: bodyGrace, unread: o.Config.WriteTimeout, lingers: o.Config.Linger, bodies: &f.bodies, streams: &f.streams, trail: f.trail,
			limits: f.limits, fault: f.fault, most: o.Config.MaxRequests, late: f.count.bodyTime, stalled: f.count.stalled, tooMany: f.count.tooManyRequests},
		ReadHeaderTimeout: o.Config.HeaderReadTimeout,
		IdleTimeout:       o.Config.IdleTimeout,
		MaxHeaderBytes:    o.Config.MaxHeader,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, servedKey{}, new(atomic.Int64))
		},
		ConnState: func(nc net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				f.bid(nc)
			}
		},
		DisableGeneralOptionsHandler: true,
	}
	f.h2.Protocols.SetUnencryptedHTTP2(true)
	f.h2.Protocols.SetHTTP2(true)
	f.h2.Protocols.SetHTTP1(true) // what begins as HTTP/2 and is not is answered
	return f
}

// Serve serves ls until ctx is done, then drains: they close, running requests
// have the configured grace to end, and what is left ends with infer.Stopping.
// It returns when no connection is left, and nothing that follows an answer.
// Connections may be TLS.
func (f *Front) Serve(ctx context.Context, ls ...net.Listener) error {
	f.base, f.end = context.WithCancelCause(context.WithoutCancel(ctx))
	defer f.end(nil)
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	h2done := make(chan error, 1)
	go func() { h2done <- serveHTTP(own, f.base, f.end, f.h2, f.handed, f.cfg.Grace) }()
	failed := make(chan error, len(ls))
	for _, l := range ls {
		go func() { failed <- listen.Accept(own, l, f.take, f.trouble()) }()
	}
	var errs []error
	if len(ls) > 0 {
		select {
		case err := <-failed:
			errs = append(errs, err)
		case <-ctx.Done():
		}
	}
	stop()
	for len(errs) < len(ls) {
		errs = append(errs, <-failed)
	}
	cut := f.drain()
	if e := <-h2done; e != nil && cut == nil {
		cut = e
	}
	f.trail.wait()
	return errors.Join(append(errs, cut)...)
}

// trouble says when there is no room for connections, and logs that they cannot
// be accepted.
func (f *Front) trouble() listen.Trouble {
	return listen.Trouble{
		Full: f.crowded,
		Began: func(err error) {
			if errors.Is(err, errCrowded) {
				f.count.reserve.Inc()
			} else {
				f.count.refusal.Inc()
			}
			f.log.Warn("connections cannot be accepted; trying again", "err", err)
		},
		Ended: func(lasted time.Duration) {
			f.log.Info("connections are accepted again", "after", lasted.Round(time.Millisecond).String())
		},
	}
}

// take starts to serve nc, if there is room for it.
func (f *Front) take(nc net.Conn) {
	f.count.accepted.Inc()
	c := newConn(f, nc)
	addr := c.remote
	f.mu.Lock()
	var refused *metric.Counter
	full := false
	switch {
	case f.open >= f.cfg.MaxConnections:
		refused, full = f.count.tooMany, true
	case f.bounded(addr) && f.addresses[addr] >= f.cfg.MaxPerAddress:
		refused, full = f.count.perAddress, true
	default:
		f.conns[c] = struct{}{}
		f.open++
		if f.bounded(addr) {
			f.addresses[addr]++
		}
		f.running.Add(1)
	}
	f.mu.Unlock()
	if full {
		refused.Inc()
		turnAway(c.sock.Detach())
		c.cancel(nil)
		return
	}
	f.count.open.Inc()
	go c.run()
}

// bounded reports whether there is a limit to how many connections addr has.
func (f *Front) bounded(addr netip.Addr) bool { return f.cfg.MaxPerAddress > 0 && addr.IsValid() }

// leave forgets c, whose connection is closed, or net/http's.
func (f *Front) leave(c *conn) {
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
	if !c.guest {
		f.closed(c.remote)
	}
	f.running.Done()
}

// closed notes that a connection is.
func (f *Front) closed(addr netip.Addr) {
	f.mu.Lock()
	f.open--
	if f.bounded(addr) {
		if f.addresses[addr]--; f.addresses[addr] <= 0 {
			delete(f.addresses, addr)
		}
	}
	f.mu.Unlock()
	f.count.open.Dec()
}

// hand gives net/http the connection that was c's. It counts until it closes.
func (f *Front) hand(c *conn, nc net.Conn) {
	c.guest = true
	f.mu.Lock()
	f.guests[nc] = c.remote
	f.mu.Unlock()
	if !f.handed.give(nc) {
		f.bid(nc)
	}
}

// bid says farewell to a connection that net/http has closed.
func (f *Front) bid(nc net.Conn) {
	f.mu.Lock()
	addr, ok := f.guests[nc]
	delete(f.guests, nc)
	f.mu.Unlock()
	if ok {
		f.closed(addr)
	}
}

// full is what a client gets for whom there is no room: without a look at what
// it asks, and without waiting for it.
var full = []byte(fmt.Sprintf("HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n%s: too_many_connections\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
	ErrorCodeHeader, len(fullBody), fullBody))

const fullBody = `{"error":{"type":"server_error","code":"too_many_connections","message":"Too many open connections.","param":null}}`

func turnAway(nc net.Conn) {
	if _, isTLS := nc.(*tls.Conn); !isTLS {
		_ = nc.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		_, _ = nc.Write(full)
	}
	_ = nc.Close()
}

// freshTime is how long a connection that was accepted just before the drain has
// to ask something: its request may be on its way, and cannot be told from one
// that never comes.
const freshTime = 500 * time.Millisecond

// drain ends connections that are idle, gives requests their grace, and returns
// when none is left, or ErrCut if some had to be ended.
func (f *Front) drain() error {
	f.draining.Store(true)
	for c := range f.each {
		c.retire(connIdle)
	}
	gone := make(chan struct{})
	go func() {
		f.running.Wait()
		close(gone)
	}()
	fresh := min(freshTime, f.cfg.Grace/2)
	if within(gone, fresh) {
		return nil
	}
	for c := range f.each {
		c.retire(connFresh)
	}
	if within(gone, f.cfg.Grace-fresh) {
		return nil
	}
	answered := true
	for c := range f.each {
		answered = c.part() && answered
	}
	if answered {
		<-gone
		return nil
	}
	f.end(infer.Stopping)
	for c := range f.each {
		c.waits.End()
	}
	if !within(gone, lastWords) {
		for c := range f.each {
			c.abandon() // they do not listen, or their clients do not
		}
		<-gone
	}
	return fmt.Errorf("%w after %s", ErrCut, f.cfg.Grace)
}

// each yields the connections that are open now.
func (f *Front) each(yield func(*conn) bool) {
	f.mu.Lock()
	all := make([]*conn, 0, len(f.conns))
	for c := range f.conns {
		all = append(all, c)
	}
	f.mu.Unlock()
	for _, c := range all {
		if !yield(c) {
			return
		}
	}
}

// within reports whether done is closed before d is over.
func within(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// peer is the address at the other end of nc. A Unix socket's has none.
func peer(nc net.Conn) (netip.Addr, uint16) {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap(), uint16(a.Port)
	}
	return netip.Addr{}, 0
}

// A handoff is a net.Listener that gives net/http the connections that speak
// HTTP/2.
type handoff struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandoff() *handoff {
	return &handoff{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give hands nc on. It is closed if nobody takes it any more.
func (h *handoff) give(nc net.Conn) (taken bool) {
	select {
	case h.conns <- nc:
		return true
	case <-h.closed:
		_ = nc.Close()
		return false
	}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case nc := <-h.conns:
		return nc, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handoff) Addr() net.Addr { return &net.UnixAddr{Name: "HTTP/2", Net: "unix"} }

// read is a connection of which the first bytes were read already.
type read struct {
	net.Conn
	first []byte
}

func (r *read) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.first)
	r.first = r.first[n:]
	return n, nil
}

// http2Preface is what a client sends first that knows that HTTP/2 is spoken
// here, RFC 9113 §3.4.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// speaksHTTP2 reports whether b begins, or may begin, as the preface does.
func speaksHTTP2(b []byte) bool {
	n := min(len(b), len(http2Preface))
	return bytes.Equal(b[:n], []byte(http2Preface)[:n])
}
