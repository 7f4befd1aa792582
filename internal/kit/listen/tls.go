package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// ServerOptions say what a TLS listener asks of its clients.
type ServerOptions struct {
	NextProtos []string // in order of preference; nil for h2, then http/1.1
	ClientCA   *Roots   // who must have signed a client's certificate; nil asks for none
}

// ServerTLS returns the settings of a listener that shows cert: TLS 1.2 at
// least, with the choices of crypto/tls for the rest, which keep up with what
// is thought safe. Sessions can be resumed, with keys that change daily. What
// cert and the authorities are is looked up at each handshake; a resumed
// session of a client is held to the authorities of now.
func ServerTLS(cert *Certificate, opt ServerOptions) *tls.Config {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: cert.GetCertificate,
		NextProtos:     slices.Clone(opt.NextProtos),
	}
	if opt.NextProtos == nil {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	if opt.ClientCA != nil {
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.ClientCAs = opt.ClientCA.Pool()
		// Without keys of its own, what this returns uses c's for sessions.
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			now := c.Clone()
			now.ClientCAs = opt.ClientCA.Pool()
			return now, nil
		}
	}
	return c
}

// Secure returns a listener whose connections are l's with TLS on them. Accept
// can tell it when to give up, which it cannot tell tls.NewListener's.
func Secure(l net.Listener, c *tls.Config) net.Listener { return secure{tls.NewListener(l, c), l} }

type secure struct {
	net.Listener
	under net.Listener
}

// SetDeadline sets when Accept gives up.
func (s secure) SetDeadline(t time.Time) error {
	d, ok := s.under.(deadliner)
	if !ok {
		return errors.ErrUnsupported
	}
	return d.SetDeadline(t)
}

// sessions is how many workers' TLS sessions are kept to be resumed.
const sessions = 4096

// A Client is how the gateway speaks TLS to workers. Its files are read again
// when they change.
type Client struct {
	w   watched[dialer]
	cfg ClientConfig // constant
}

type dialer struct {
	config *tls.Config
	own    *pair // nil for none
}

// ClientTLS reads the files of cfg, which must be valid. Nothing is watched
// before Run.
func ClientTLS(cfg ClientConfig, ev Events) (*Client, error) {
	cfg.CAFiles = slices.Clone(cfg.CAFiles)
	c := &Client{cfg: cfg}
	c.w.parse, c.w.faulty, c.w.events = c.parse, (*dialer).expired, ev
	if cfg.CertFile != "" {
		c.w.names = append(c.w.names, cfg.CertFile, cfg.KeyFile)
	}
	c.w.names = append(c.w.names, cfg.CAFiles...)
	if err := c.w.open(); err != nil {
		return nil, err
	}
	return c, nil
}

// Run reads the files again when they change, until ctx ends.
func (c *Client) Run(ctx context.Context) error { return c.w.Run(ctx) }

// Reload reads the files now. If they cannot be used, all stays as it was; the
// error is returned and Events are not told of it.
func (c *Client) Reload() error { return c.w.Reload() }

// Config returns the settings to dial with. Ask for each connection: a Config
// that is kept shows workers the certificate in use, but trusts the authorities
// of then. It is shared: Clone it to set ServerName, which must be set.
func (c *Client) Config() *tls.Config { return c.w.value.Load().config }

// Info says what certificate is shown to workers; ok is false if none is.
func (c *Client) Info() (info Info, ok bool) {
	d := c.w.value.Load()
	if d.own == nil {
		return Info{}, false
	}
	return d.own.info, true
}

// parse makes settings of the files: the own pair's two, if there is one, and
// the authorities'.
func (c *Client) parse(files []file) (*dialer, error) {
	// HTTP/1.1 is all that is spoken to workers here; one that prefers h2
	// must not think that it may.
	d := &dialer{config: &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		InsecureSkipVerify: c.cfg.InsecureSkipVerify,
		// Sessions are of these settings: with others, workers are asked anew
		// who they are, and told anew who we are.
		ClientSessionCache: tls.NewLRUClientSessionCache(sessions),
	}}
	if c.cfg.CertFile != "" {
		own, err := parsePair(files[:2])
		if err != nil {
			return nil, fmt.Errorf("client %w", err)
		}
		d.own, files = own, files[2:]
		// Shown whatever authorities the worker names: a list that lacks an
		// intermediate one is more often than a worker that means another.
		d.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &c.w.value.Load().own.cert, nil
		}
	}
	if len(files) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("reading the system's certificate authorities: %w", err)
		}
		if err := addRoots(pool, files); err != nil {
			return nil, err
		}
		d.config.RootCAs = pool
	}
	return d, nil
}

func (d *dialer) expired(now time.Time) error {
	if d.own == nil {
		return nil
	}
	return d.own.expired(now)
}
