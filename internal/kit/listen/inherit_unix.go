//go:build unix

package listen

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

func closeOnExec(fd int) { unix.CloseOnExec(fd) }

// adopt makes a listener of an inherited descriptor. If it returns an error,
// fd is left as it is: it may be no socket of ours, but what the Go runtime
// waits with.
func adopt(fd int, name string) (net.Listener, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case errors.Is(err, unix.EBADF):
		return nil, errors.New("there is no such descriptor")
	case errors.Is(err, unix.ENOTSOCK):
		return nil, errors.New("it is no socket; want ListenStream=")
	case err != nil:
		return nil, fmt.Errorf("asking for its type: %w", err)
	case kind != unix.SOCK_STREAM:
		return nil, errors.New("it is no stream socket; want ListenStream=")
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	switch {
	case err != nil:
		return nil, fmt.Errorf("asking whether it listens: %w", err)
	case listens == 0:
		return nil, errors.New("it does not listen; want Accept=no, which passes the listener on and not one connection")
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() // the net package makes a descriptor of its own
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	switch l.(type) {
	case *net.TCPListener, *net.UnixListener:
		return l, nil
	}
	return nil, errors.Join(fmt.Errorf("it is a %T; want one of TCP or Unix", l), l.Close())
}
