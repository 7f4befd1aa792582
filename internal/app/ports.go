package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"syscall"

	"golang.org/x/sync/errgroup"

	"sluice/internal/config"
	"sluice/internal/kit/listen"
)

// ports are where the gateway listens, and the certificates that it shows.
type ports struct {
	api             []net.Listener
	observe, health net.Listener // health is nil if there is no such port
	scheme          string       // of the API
	cert            *listen.Certificate
	clients         *listen.Roots  // who must have signed clients' certificates, or nil
	workers         *listen.Client // how workers at https URLs are spoken to
}

// open opens every port, so that a port that is taken is known before anything
// else has begun. What systemd has opened is taken first.
func (p *ports) open(c *config.Config, log *slog.Logger) error {
	opt := c.Listen.Options()
	given, err := listen.Inherited(opt)
	if err != nil {
		return err
	}
	defer given.Close() // what nobody took
	if p.api = given.Take(listen.API); len(p.api) == 0 {
		l, err := listen.Open(c.Listen.Address(c.Server.Host, c.Server.Port), opt)
		if err != nil {
			what := "port (--port)"
			if c.Listen.Unix != "" {
				what = "socket (--unix-socket)"
			}
			return fmt.Errorf("opening the API's %s: %w", what, err)
		}
		p.api = []net.Listener{l}
	}
	side := sidePorts{given, listen.Options{ReusePort: opt.ReusePort}, log}
	if p.observe, err = side.open(listen.Metrics, listen.TCP(c.MetricsHost(), c.Metrics.Port)); err != nil {
		return fmt.Errorf("opening the metrics port (--prometheus-port): %w", err)
	}
	if c.Server.HealthPort != 0 || given.Has(listen.Health) {
		if p.health, err = side.open(listen.Health, listen.TCP(c.Server.Host, c.Server.HealthPort)); err != nil {
			return fmt.Errorf("opening the health port (--health-check-port): %w", err)
		}
	}
	return p.secure(c, log)
}

// sidePorts opens the ports beside the API's.
type sidePorts struct {
	given *listen.Sockets
	opt   listen.Options
	log   *slog.Logger
}

// open returns the socket that was given for a port, or opens one.
func (s *sidePorts) open(port string, addr listen.Address) (net.Listener, error) {
	switch ls := s.given.Take(port); len(ls) {
	case 0:
		shared := s.opt.ReusePort && isTaken(addr)
		l, err := listen.Open(addr, s.opt)
		if err == nil && shared {
			s.log.Warn("another gateway has this port too: either may answer", "port", port, "addr", addr.String())
		}
		return l, err
	case 1:
		return ls[0], nil
	default:
		for _, l := range ls {
			_ = l.Close()
		}
		return nil, fmt.Errorf("systemd gives %d sockets named %q; want one", len(ls), port)
	}
}

// isTaken reports whether somebody listens at addr.
func isTaken(addr listen.Address) bool {
	l, err := listen.Open(addr, listen.Options{})
	if err != nil {
		return errors.Is(err, syscall.EADDRINUSE)
	}
	_ = l.Close() // it was only to see
	return false
}

// secure makes the API's listeners speak TLS if they should, and reads what
// workers are shown.
func (p *ports) secure(c *config.Config, log *slog.Logger) (err error) {
	p.scheme = "http"
	if p.workers, err = listen.ClientTLS(c.WorkerTLS, events(log, "the certificates for workers")); err != nil {
		return fmt.Errorf("reading what workers are shown and must show (--client-cert-path, --client-key-path, --ca-cert-paths): %w", err)
	}
	if c.Listen.CertFile == "" {
		return nil
	}
	if p.cert, err = listen.NewCertificate(c.Listen.CertFile, c.Listen.KeyFile, events(log, "the certificate")); err != nil {
		return fmt.Errorf("reading the certificate (--tls-cert-path, --tls-key-path): %w", err)
	}
	for _, w := range p.cert.Info().Warnings {
		log.Warn("certificate", "file", c.Listen.CertFile, "warning", w.Error())
	}
	if len(c.Listen.ClientCA) > 0 {
		if p.clients, err = listen.NewRoots(c.Listen.ClientCA, events(log, "the certificate authorities of clients")); err != nil {
			return fmt.Errorf("reading the certificate authorities of clients (--tls-client-ca-paths): %w", err)
		}
	}
	p.scheme = "https"
	conf := listen.ServerTLS(p.cert, listen.ServerOptions{ClientCA: p.clients})
	for i, l := range p.api {
		p.api[i] = listen.Secure(l, conf)
	}
	return nil
}

// events logs what becomes of files that are read again.
func events(log *slog.Logger, what string) listen.Events {
	return listen.Events{
		Loaded: func() { log.Info("a file changed and was read again", "what", what) },
		Failed: func(err error) {
			log.Error("a file cannot be read again; what it held before stays", "what", what, "err", err)
		},
	}
}

// watch reads certificates again when they change.
func (p *ports) watch(ctx context.Context) error {
	var g errgroup.Group
	if p.cert != nil {
		g.Go(func() error { return p.cert.Run(ctx) })
	}
	if p.clients != nil {
		g.Go(func() error { return p.clients.Run(ctx) })
	}
	g.Go(func() error { return p.workers.Run(ctx) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (p *ports) close() {
	for _, l := range append([]net.Listener{p.observe, p.health}, p.api...) {
		if l != nil {
			_ = l.Close()
		}
	}
}

// addrs are all addresses that lead here.
func (p *ports) addrs() []net.Addr {
	var as []net.Addr
	for _, l := range append([]net.Listener{p.observe, p.health}, p.api...) {
		if l != nil {
			as = append(as, l.Addr())
		}
	}
	return as
}

// URL is where clients reach the gateway from this machine.
func (p *ports) URL() string { return localURL(p.scheme, p.api[0].Addr()) }

// MetricsURL is where its metrics are.
func (p *ports) MetricsURL() string { return localURL("http", p.observe.Addr()) + "/metrics" }

// localURL is the URL of a port of this machine, or of a socket.
func localURL(scheme string, addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return "unix:" + addr.String()
	}
	host := tcp.IP.String()
	if tcp.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	u := url.URL{Scheme: scheme, Host: net.JoinHostPort(host, strconv.Itoa(tcp.Port))}
	return u.String()
}
