// Package listen opens the sockets that the gateway is reached through, and
// keeps the certificates that it shows there and to workers.
//
// A listener comes from one of three places: an address, a Unix socket, or
// systemd, which opened it before the program ran. Whichever it was, what
// Accept hands out are the net package's own connections, so who serves them
// can reach the descriptor. Certificates are read again when their files
// change; a pair that cannot be used never takes the place of one that can.
package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An Address is where to listen.
type Address struct {
	Network string // "tcp" or "unix"
	Name    string // host:port; the path of a Unix socket, or @ and its abstract name
}

// TCP returns the Address of a port.
func TCP(host string, port int) Address {
	return Address{"tcp", net.JoinHostPort(host, strconv.Itoa(port))}
}

// ParseAddress reads host:port, unix:path, unix:///path, or unix:@name for an
// abstract socket of Linux. A path is taken as it stands: nothing in it is
// escaped. Where it leads is found out by Open.
func ParseAddress(s string) (Address, error) {
	path, isUnix := strings.CutPrefix(s, "unix:")
	if !isUnix {
		return parseTCP(s)
	}
	if rest, ok := strings.CutPrefix(path, "//"); ok {
		if !strings.HasPrefix(rest, "/") {
			return Address{}, fmt.Errorf("address %s names a host; want unix:///path or unix:path", quoted(s))
		}
		path = rest
	}
	a := Address{"unix", path}
	switch {
	case path == "" || path == "@":
		return Address{}, fmt.Errorf("address %s has no path; want unix:/path or unix:@name", quoted(s))
	case strings.ContainsRune(path, 0):
		return Address{}, fmt.Errorf("address %s has a zero byte in its path", quoted(s))
	case len(path) > a.maxName():
		return Address{}, fmt.Errorf("address %s: the path has %d bytes, and a Unix socket's can have at most %d; choose a shorter one", quoted(s), len(path), a.maxName())
	}
	return a, nil
}

func parseTCP(s string) (Address, error) {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		why := err.Error()
		if e, ok := errors.AsType[*net.AddrError](err); ok {
			why = e.Err // without the address, which may be long
		}
		return Address{}, fmt.Errorf("address %s is not host:port or unix:/path: %s", quoted(s), why)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return Address{}, fmt.Errorf("address %s: port %s is not a number between 0 and 65535", quoted(s), quoted(port))
	}
	return Address{"tcp", s}, nil
}

// maxQuoted is how much of an address an error shows: more than a right one has.
const maxQuoted = 120

func quoted(s string) string {
	if len(s) > maxQuoted {
		return strconv.Quote(s[:maxQuoted]) + "…"
	}
	return strconv.Quote(s)
}

// String returns a as ParseAddress takes it.
func (a Address) String() string {
	switch {
	case a.Network != "unix":
		return a.Name
	case strings.HasPrefix(a.Name, "//"):
		return "unix://" + a.Name
	}
	return "unix:" + a.Name
}

// abstract reports whether a is a name that lies in no directory.
func (a Address) abstract() bool { return a.Network == "unix" && strings.HasPrefix(a.Name, "@") }

// maxName returns how many bytes the name of a Unix socket can have: those of
// sun_path, of which a path needs one for the zero byte at its end.
func (a Address) maxName() int {
	n := len(syscall.RawSockaddrUnix{}.Path)
	if a.abstract() {
		return n
	}
	return n - 1
}

// network returns what to ask the net package for. To it, 0.0.0.0 of tcp is
// every address there is, of IPv6 as well; who wrote 0.0.0.0 did not.
func (a Address) network() string {
	if a.Network == "tcp" {
		host, _, _ := net.SplitHostPort(a.Name)
		if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
			return "tcp4"
		}
	}
	return a.Network
}

// How a connection whose other end says nothing is tried: after KeepAlive, then
// every keepAliveEvery, and given up after keepAliveTries without an answer.
const (
	DefaultKeepAlive = 30 * time.Second
	keepAliveEvery   = 10 * time.Second
	keepAliveTries   = 3
)

// DefaultMode lets a Unix socket's owner and group connect.
const DefaultMode fs.FileMode = 0o660

// Options say how a socket is opened. Each field's zero value serves.
type Options struct {
	ReusePort bool          // TCP: several processes may listen on the port, and the kernel shares connections out; Linux and macOS
	KeepAlive time.Duration // TCP: after how much silence the other end is tried, in whole seconds; 0 for DefaultKeepAlive, negative for never
	Mode      fs.FileMode   // Unix: who may connect; 0 for DefaultMode
}

func (o Options) keepAlive() time.Duration {
	if o.KeepAlive == 0 {
		return DefaultKeepAlive
	}
	return o.KeepAlive
}

// Open listens at addr. The kernel keeps as many connections waiting as it may
// (net.core.somaxconn on Linux), and accepted ones have TCP_NODELAY. The file
// of a Unix socket is removed when the listener is closed; one that a dead
// process left behind is replaced.
func Open(addr Address, opt Options) (net.Listener, error) {
	var l net.Listener
	var err error
	switch {
	case addr.Network == "unix" && opt.ReusePort:
		err = errors.New("SO_REUSEPORT is for TCP ports only")
	case addr.Network == "unix":
		l, err = openUnix(addr, opt)
	case addr.Network == "tcp":
		l, err = openTCP(addr, opt)
	default:
		err = fmt.Errorf("network %q is not tcp or unix", addr.Network)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", addr, err)
	}
	return l, nil
}

func openTCP(addr Address, opt Options) (net.Listener, error) {
	if opt.ReusePort && !canReusePort {
		return nil, errors.New("this system does not share ports out (SO_REUSEPORT is for Linux and macOS)")
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAliveConfig(opt.keepAlive())}
	if keepAliveInherited {
		lc.KeepAlive, lc.KeepAliveConfig = -1, net.KeepAliveConfig{}
	}
	// Multipath TCP, which Go would ask for, puts a layer of the kernel
	// around every connection for the few clients that have several paths.
	lc.SetMultipathTCP(false)
	lc.Control = func(_, _ string, rc syscall.RawConn) error {
		return control(rc, func(fd uintptr) error {
			if opt.ReusePort {
				if err := setReusePort(fd); err != nil {
					return fmt.Errorf("setting SO_REUSEPORT: %w", err)
				}
			}
			if d := opt.keepAlive(); keepAliveInherited && d > 0 {
				if err := setKeepAlive(fd, d); err != nil {
					return fmt.Errorf("setting TCP keep-alive: %w", err)
				}
			}
			return nil
		})
	}
	return lc.Listen(context.Background(), addr.network(), addr.Name)
}

// keepAliveConfig returns what the net package calls d.
func keepAliveConfig(d time.Duration) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: d > 0, Idle: d, Interval: keepAliveEvery, Count: keepAliveTries}
}

// control calls f with the descriptor of rc.
func control(rc syscall.RawConn, f func(fd uintptr) error) error {
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = f(fd) }); err != nil {
		return err
	}
	return inner
}
