package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"time"

	"sluice/internal/infer"
)

// ErrCut is what Serve returns if requests outlasted the grace.
var ErrCut = errors.New("requests were still running and were ended")

// lastWords is how long requests whose grace is over have to say so to their
// clients.
const lastWords = time.Second

// Serve serves l with net/http until ctx is done, then drains: the listener
// closes, running requests have grace to end, and what is left ends with
// infer.Stopping. It returns when no connection is left.
func Serve(ctx context.Context, s *http.Server, l net.Listener, grace time.Duration) error {
	base, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	return serveHTTP(ctx, base, end, s, l, grace)
}

// serveHTTP is Serve with requests under base, which end ends.
func serveHTTP(ctx, base context.Context, end context.CancelCauseFunc, s *http.Server, l net.Listener, grace time.Duration) error {
	s.BaseContext = func(net.Listener) context.Context { return base }
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	err := shutdown(s, grace)
	if err != nil {
		end(infer.Stopping)
		if shutdown(s, lastWords) != nil {
			_ = s.Close() // they do not listen, or their clients do not
		}
		err = fmt.Errorf("%w after %s", ErrCut, grace)
	}
	<-failed
	return err
}

func shutdown(s *http.Server, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	return s.Shutdown(ctx)
}

// IsSelf returns a function that says whether a worker's URL leads back to the
// gateway that listens at addrs. Names are looked up; one that cannot be is
// taken for somebody else's.
func IsSelf(addrs ...net.Addr) func(*url.URL) bool {
	return func(u *url.URL) bool {
		if u.Scheme == "unix" {
			return slices.ContainsFunc(addrs, func(a net.Addr) bool { return a.Network() == "unix" && sameSocket(a.String(), u.Path+u.Opaque) })
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		for _, a := range addrs {
			ap, err := netip.ParseAddrPort(a.String())
			if err != nil || fmt.Sprint(ap.Port()) != port {
				continue
			}
			if leadsTo(u.Hostname(), ap.Addr().Unmap()) {
				return true
			}
		}
		return false
	}
}

// sameSocket reports whether two names are of one Unix socket.
func sameSocket(a, b string) bool {
	if a == b {
		return true
	}
	fa, err := os.Stat(a)
	if err != nil {
		return false // it is abstract, or was removed
	}
	fb, err := os.Stat(b)
	return err == nil && os.SameFile(fa, fb)
}

// lookupTimeout bounds how long a worker's name may keep its registration.
const lookupTimeout = 2 * time.Second

// leadsTo reports whether host is at. Each may be the unspecified address: a
// listener there has all of them, and a connection to it goes to this machine.
func leadsTo(host string, at netip.Addr) bool {
	var ips []netip.Addr
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = []netip.Addr{ip}
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return false
		}
	}
	for _, ip := range ips {
		ip = ip.Unmap()
		if ip == at || ip.IsUnspecified() && at.IsLoopback() || at.IsUnspecified() && (ip.IsLoopback() || ip.IsUnspecified() || isLocal(ip)) {
			return true
		}
	}
	return false
}

// isLocal reports whether ip is one of this machine's addresses.
func isLocal(ip netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == ip {
			return true
		}
	}
	return false
}
