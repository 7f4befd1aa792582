package listen

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The names that systemd can give a socket (FileDescriptorName=), and with it
// a port of the gateway.
const (
	API     = "api"
	Metrics = "metrics"
	Health  = "health"
)

var ports = []string{API, Metrics, Health}

// Sockets are listeners that were open before the program ran, by the port
// that they are for. Who takes one closes it.
type Sockets struct {
	byPort map[string][]net.Listener
}

// The variables of sd_listen_fds(3). LISTEN_PIDFDID says in another way what
// LISTEN_PID says.
var variables = []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"}

const (
	firstInherited = 3   // sd_listen_fds(3): the first descriptor that is passed on
	maxInherited   = 256 // more than anybody has; a bound on what a variable can have us do
)

// Inherited takes the sockets that systemd, or who does as it does, has opened
// for this process (sd_listen_fds(3)). It removes the variables that tell of
// them, and programs that this one starts get neither those nor the sockets,
// so a second call finds nothing. Without any, the Sockets are empty.
//
// A socket's name says what it is for: api, metrics or health. A single one of
// another name, which is what systemd gives where nobody named it, is for the
// API. Of opt, KeepAlive holds for inherited sockets too; the rest is decided
// by whoever opened them.
func Inherited(opt Options) (*Sockets, error) {
	env := map[string]string{}
	for _, v := range variables {
		env[v] = os.Getenv(v)
		if err := os.Unsetenv(v); err != nil {
			return nil, fmt.Errorf("removing %s from the environment: %w", v, err)
		}
	}
	names, err := parseInherited(os.Getpid(), env["LISTEN_PID"], env["LISTEN_FDS"], env["LISTEN_FDNAMES"])
	if err != nil {
		return nil, fmt.Errorf("taking the sockets of systemd: %w", err)
	}
	s := &Sockets{map[string][]net.Listener{}}
	// All are kept from programs that others may start meanwhile, before
	// anything can go wrong with one.
	for i := range names {
		closeOnExec(firstInherited + i)
	}
	for i, name := range names {
		l, err := adopt(firstInherited+i, name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("taking the sockets of systemd: descriptor %d (%s): %w", firstInherited+i, name, err), s.Close())
		}
		if t, ok := l.(*net.TCPListener); ok {
			l = &keptAlive{t, keepAliveConfig(opt.keepAlive())}
		}
		s.byPort[name] = append(s.byPort[name], l)
	}
	return s, nil
}

// parseInherited returns what each inherited descriptor is for, the first
// being firstInherited. The texts are the values of the variables.
func parseInherited(self int, pid, count, names string) ([]string, error) {
	if pid == "" || count == "" {
		return nil, nil
	}
	p, err := strconv.Atoi(pid)
	if err != nil || p <= 0 {
		return nil, fmt.Errorf("LISTEN_PID is %q, not the number of a process", pid)
	}
	if p != self {
		return nil, nil // they are a parent's, which left its variables lying about
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxInherited {
		return nil, fmt.Errorf("LISTEN_FDS is %q, not a number between 0 and %d", count, maxInherited)
	}
	if n == 0 {
		return nil, nil
	}
	list := make([]string, n)
	if names != "" {
		list = strings.Split(names, ":")
	}
	if len(list) != n {
		return nil, fmt.Errorf("LISTEN_FDNAMES is %q, which names %d sockets, and LISTEN_FDS says that there are %d", names, len(list), n)
	}
	for i, name := range list {
		if slices.Contains(ports, name) {
			continue
		}
		if n > 1 {
			return nil, fmt.Errorf("socket %q is one of %d, and its name says nothing of what it is for; want FileDescriptorName= one of %s", name, n, strings.Join(ports, ", "))
		}
		list[i] = API
	}
	return list, nil
}

// Take returns the listeners for port, one of API, Metrics and Health, and
// leaves none for the next call.
func (s *Sockets) Take(port string) []net.Listener {
	l := s.byPort[port]
	delete(s.byPort, port)
	return l
}

// Has reports whether there is a listener for port.
func (s *Sockets) Has(port string) bool { return len(s.byPort[port]) > 0 }

// Close closes what nobody has taken.
func (s *Sockets) Close() error {
	var errs []error
	for _, port := range slices.Sorted(maps.Keys(s.byPort)) {
		for _, l := range s.Take(port) {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// A keptAlive has the keep-alive that its Options ask for. The net package has
// one of its own for listeners that it did not open.
type keptAlive struct {
	*net.TCPListener
	cfg net.KeepAliveConfig
}

// Accept waits for a connection.
func (l *keptAlive) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	// A connection on which it fails is gone already; who reads it is told.
	if l.cfg.Enable {
		_ = c.SetKeepAliveConfig(l.cfg)
	} else {
		_ = c.SetKeepAlive(false)
	}
	return c, nil
}
