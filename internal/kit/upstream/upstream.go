// Package upstream is the HTTP/1.1 client for workers. Whoever calls it has
// built a request's head and gets the answer as it stands on the wire.
//
// An answer is looked at once. The client reads its head, hands out the bytes
// of its body as they came, and with them the h1.Body that follows their
// framing: the Sink walks that over them, in the reading that it needs anyway
// (to pass bytes on, to see the data in them, or to copy the data out), and
// the client asks the same h1.Body whether the answer has ended. Nothing is
// scanned twice, re-framed or copied on the way.
//
// A unary exchange on a connection that was kept is one write and one read,
// and no allocation. The connections to a worker are kept newest first, and
// given up as soon as the worker hangs up, says what nobody asked for, or is
// not needed.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"sluice/internal/kit/h1"
	"sluice/internal/kit/sock"
)

const (
	keepAlive    = 30 * time.Second // between TCP's own questions
	defaultFresh = 5 * time.Second
	maxHead      = 64 << 10 // of an answer; larger ones are refused
)

// Options are what a Client is made of. Only Watch and Config must be set.
type Options struct {
	Watch   *sock.Watch // it must Run for as long as the Client is used
	Config  Config
	Metrics *Metrics           // nil counts nothing
	TLS     *tls.Config        // for https; what it says of protocols and names is replaced, unless it has a ServerName
	Secure  func() *tls.Config // asked at each handshake in place of TLS, if it is set: its files may have changed
	Limits  h1.Limits          // of answers; zero is the defaults, with heads of 64 KiB

	// Resolve finds the addresses of a name, best first; nil asks the system.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	Fresh   time.Duration // how long what Resolve says holds; 0 is 5 s

	// Dial opens a connection to an address, or to a path with the network
	// "unix"; nil is the system's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// A Client sends requests to any number of workers. Its methods may be called
// by several goroutines at once.
type Client struct {
	opts  Options
	watch *sock.Watch
	tls   *tls.Config
	count counters

	mu     sync.Mutex // guards what follows; taken before a Host's
	hosts  map[*Host]bool
	closed bool

	ticks int // only on the Watch's goroutine
}

// New returns a Client. It has no goroutine of its own: idle connections are
// looked after on the Watch's.
func New(o Options) *Client {
	if o.Limits == (h1.Limits{}) {
		o.Limits = h1.DefaultLimits()
		o.Limits.Head = maxHead
	}
	if o.Fresh <= 0 {
		o.Fresh = defaultFresh
	}
	if o.Resolve == nil {
		o.Resolve = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		}
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{KeepAlive: keepAlive}).DialContext
	}
	c := &Client{opts: o, watch: o.Watch, hosts: make(map[*Host]bool), count: bind(o.Metrics)}
	c.tls = new(tls.Config)
	if o.TLS != nil {
		c.tls = o.TLS.Clone()
	}
	c.tls.NextProtos = []string{"http/1.1"}
	c.count.Open.Set(func() float64 { return c.sum(func(h *Host) int { return h.open }) })
	c.count.Idle.Set(func() float64 { return c.sum(func(h *Host) int { return h.idle.n }) })
	o.Watch.OnTick(c.tick)
	return c
}

// Close closes all idle connections, and those in use when they are given
// back.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	hosts := c.all()
	c.mu.Unlock()
	for _, h := range hosts {
		h.Close()
	}
}

// Host returns the way to the worker at base: http, https, or unix with the
// path of a socket. A path behind a host is not looked at: it belongs to the
// requests. The caller Closes it when the worker leaves.
func (c *Client) Host(base *url.URL) (*Host, error) {
	h := &Host{client: c, dials: make(chan struct{}, c.opts.Config.MaxDials)}
	switch base.Scheme {
	case "unix":
		h.network, h.name = "unix", base.Path
		if h.name == "" {
			h.name = base.Opaque
		}
		if h.name == "" {
			return nil, fmt.Errorf("worker %q names no socket; want unix:/path", base.Redacted())
		}
	case "http", "https":
		h.network, h.name, h.port = "tcp", base.Hostname(), base.Port()
		if h.name == "" {
			return nil, fmt.Errorf("worker %q names no host", base.Redacted())
		}
		if h.port == "" {
			h.port = map[string]string{"http": "80", "https": "443"}[base.Scheme]
		}
		if a, err := netip.ParseAddr(h.name); err == nil {
			h.fixed = []netip.Addr{a}
		}
		if base.Scheme == "https" {
			h.tls = c.tls
			if c.tls.ServerName == "" {
				h.tls = c.tls.Clone()
				h.tls.ServerName = h.name
			}
		}
	default:
		return nil, fmt.Errorf("worker %q has scheme %q; want http, https or unix", base.Redacted(), base.Scheme)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("connecting to a worker: the client is closed")
	}
	c.hosts[h] = true
	return h, nil
}

// all returns all hosts. c.mu must be held.
func (c *Client) all() []*Host {
	hosts := make([]*Host, 0, len(c.hosts))
	for h := range c.hosts {
		hosts = append(hosts, h)
	}
	return hosts
}

func (c *Client) sum(f func(*Host) int) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for h := range c.hosts {
		h.mu.Lock()
		n += f(h)
		h.mu.Unlock()
	}
	return float64(n)
}

// tick is called by the Watch.
func (c *Client) tick() {
	const second = int(time.Second / sock.Tick)
	c.mu.Lock()
	hosts := c.all()
	c.mu.Unlock()
	c.ticks++
	for i, h := range hosts {
		h.sweep()
		if (c.ticks+i)%second == 0 {
			h.inspect()
		}
	}
}

func (c *Client) forget(h *Host) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.hosts, h)
}

// same reports whether a is among addrs.
func same(addrs []netip.Addr, a netip.Addr) bool {
	return !a.IsValid() || slices.ContainsFunc(addrs, func(b netip.Addr) bool { return a.Unmap() == b.Unmap() })
}
