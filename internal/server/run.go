package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// Serve serves l until ctx is done, then drains: the listener closes, running
// requests have grace to end, and what is left is cut. It returns when no
// connection is left.
func Serve(ctx context.Context, s *http.Server, l net.Listener, grace time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := s.Shutdown(drain)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests were still running after %s and were cut", grace), s.Close())
	}
	<-failed
	return err
}

// IsSelf returns a function that says whether a worker's URL leads back to the
// gateway that listens at addrs. Names are looked up; one that cannot be is
// taken for somebody else's.
func IsSelf(addrs ...net.Addr) func(*url.URL) bool {
	return func(u *url.URL) bool {
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

// lookupTimeout bounds how long a worker's name may keep its registration.
const lookupTimeout = 2 * time.Second

// leadsTo reports whether host is at, which may be the unspecified address.
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
		if ip == at || at.IsUnspecified() && (ip.IsLoopback() || ip.IsUnspecified() || isLocal(ip)) {
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
