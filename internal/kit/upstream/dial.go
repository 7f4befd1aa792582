package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"sluice/internal/kit/sock"
)

// leastShare is how long one of several addresses is tried at least.
const leastShare = 2 * time.Second

// dial opens a connection to h. It is done on another goroutine: what is called
// for it would double the stack of the one that waits, which for a stream lives
// for long. The same goes for a context that hangs from ctx.
func (h *Host) dial(ctx context.Context, waits *sock.Waits) (*conn, error) {
	limit := h.client.opts.Config.ConnectTimeout
	if at, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(at))
	}
	// A lookup may go on when ctx is over already, and used for another request:
	// it is not told of ctx.
	own, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if waits != nil {
		defer waits.Off()
		if !waits.OnCall(cancel) {
			return nil, over(ctx)
		}
	}
	select {
	case h.dials <- struct{}{}:
		defer func() { <-h.dials }()
	case <-own.Done():
		return nil, own.Err()
	}
	type dialed struct {
		c   *conn
		err error
	}
	done := make(chan dialed, 1)
	go func() {
		c, err := h.reach(own)
		done <- dialed{c, err}
	}()
	d := <-done
	return d.c, d.err
}

// reach connects to h: the addresses of its name in their order, each with a
// share of the time.
func (h *Host) reach(ctx context.Context) (*conn, error) {
	nc, addr, err := h.connect(ctx)
	if err != nil {
		return nil, err
	}
	if h.tls != nil {
		if nc, err = h.handshake(ctx, nc); err != nil {
			return nil, err
		}
	}
	c := &conn{h: h, addr: addr, left: -1}
	c.writer = c.write
	c.s = h.client.watch.Add(nc, c)
	return c, nil
}

func (h *Host) connect(ctx context.Context) (net.Conn, netip.Addr, error) {
	if h.network == "unix" {
		nc, err := h.client.dial(ctx, h.network, h.name)
		return nc, netip.Addr{}, err
	}
	addrs, err := h.resolve(ctx)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	var first error
	for i, a := range addrs {
		nc, err := h.try(ctx, a, len(addrs)-i)
		if err == nil {
			return nc, a, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, netip.Addr{}, first
}

// try connects to a, which is the first of left that are to share the time.
func (h *Host) try(ctx context.Context, a netip.Addr, left int) (net.Conn, error) {
	if at, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(time.Until(at)/time.Duration(left), leastShare))
		defer cancel()
	}
	return h.client.dial(ctx, h.network, net.JoinHostPort(a.String(), h.port))
}

// dial opens a connection. If the system has no descriptor for it, unused
// connections give theirs.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	for {
		nc, err := c.opts.Dial(ctx, network, address)
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) || !c.relieve() {
			return nc, err
		}
	}
}

// relieve closes the oldest unused connection to each worker, and reports
// whether there was any.
func (c *Client) relieve() (any bool) {
	c.mu.Lock()
	hosts := c.all()
	c.mu.Unlock()
	for _, h := range hosts {
		h.evict(func(*conn) (why reason, bad, more bool) {
			any = true
			return descriptors, true, false
		})
	}
	return any
}

func (h *Host) handshake(ctx context.Context, nc net.Conn) (net.Conn, error) {
	conf := h.tls
	if secure := h.client.opts.Secure; secure != nil {
		conf = secure().Clone()
		conf.NextProtos, conf.ServerName = h.tls.NextProtos, h.tls.ServerName
	}
	t := tls.Client(nc, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = nc.Close() // it is of no use
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return t, nil
}

// resolve returns the addresses of h's name. What was found is good for a
// while, and one asks for all who need to know.
func (h *Host) resolve(ctx context.Context) ([]netip.Addr, error) {
	if h.fixed != nil {
		return h.fixed, nil
	}
	for {
		h.mu.Lock()
		if h.addrs != nil && h.client.watch.Now()-h.asked < h.client.opts.Fresh {
			defer h.mu.Unlock()
			return h.addrs, nil
		}
		asking := h.asking
		if asking == nil {
			h.asking = make(chan struct{})
			h.mu.Unlock()
			return h.ask(ctx)
		}
		h.mu.Unlock()
		select {
		case <-asking: // if that came to nothing, the next one asks
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// What was found is used when nobody can be asked any more: for lastKnown, once
// a lookup has failed or has taken lookupTime.
const (
	lookupTime = 2 * time.Second
	lastKnown  = 5 * time.Minute
)

// ask asks where h's name leads, for all. Idle connections to where it does not
// lead any more are closed.
func (h *Host) ask(ctx context.Context) ([]netip.Addr, error) {
	h.mu.Lock()
	known := h.addrs
	if h.client.watch.Now()-h.found > lastKnown {
		known = nil
	}
	h.mu.Unlock()
	lookup, cancel := ctx, context.CancelFunc(func() {})
	if known != nil {
		lookup, cancel = context.WithTimeout(ctx, lookupTime)
	}
	addrs, err := h.client.opts.Resolve(lookup, h.name)
	cancel()
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "it has no address", Name: h.name, IsNotFound: true}
	}
	if err != nil && ctx.Err() == nil {
		h.client.count.Lookups.Inc()
	}
	h.mu.Lock()
	close(h.asking)
	h.asking = nil
	now := h.client.watch.Now()
	switch {
	case err == nil:
		h.addrs, h.asked, h.found = addrs, now, now
	case known != nil && ctx.Err() == nil && !isGone(err):
		addrs, err, h.asked = known, nil, now
	}
	h.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("finding the addresses of %q: %w", h.name, err)
	}
	h.evict(func(c *conn) (reason, bool, bool) { return moved, !same(addrs, c.addr), true })
	return addrs, nil
}

// isGone reports whether err says that a name leads nowhere, rather than that
// nobody could say.
func isGone(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}
