package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A unixListener removes its file when it is closed, unless the file has
// become somebody else's.
type unixListener struct {
	*net.UnixListener
	path  string
	file  fs.FileInfo
	close func() error // once
}

// Close stops listening and removes the file. A second call does nothing.
func (l *unixListener) Close() error { return l.close() }

func (l *unixListener) remove() error {
	var err error
	if now, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(now, l.file) {
		err = os.Remove(l.path)
	}
	return errors.Join(err, l.UnixListener.Close())
}

func openUnix(addr Address, opt Options) (net.Listener, error) {
	mode := opt.Mode
	if mode == 0 {
		mode = DefaultMode
	}
	// Open may have an Address that ParseAddress has not seen.
	if n := len(addr.Name); n > addr.maxName() {
		return nil, fmt.Errorf("the path has %d bytes, and a Unix socket's can have at most %d; choose a shorter one", n, addr.maxName())
	}
	if addr.abstract() && !hasAbstract {
		return nil, errors.New("abstract Unix sockets are for Linux only; want unix:/path")
	}
	if !addr.abstract() {
		unlock, err := lockDir(filepath.Dir(addr.Name))
		if err != nil {
			return nil, err
		}
		defer unlock()
		if err := clearPath(addr.Name); err != nil {
			return nil, err
		}
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		return control(rc, func(fd uintptr) error { return setMode(fd, mode) })
	}}
	nl, err := lc.Listen(context.Background(), "unix", addr.Name)
	if err != nil || addr.abstract() {
		return nl, err
	}
	l := &unixListener{UnixListener: nl.(*net.UnixListener), path: addr.Name}
	l.close = sync.OnceValue(l.remove)
	l.SetUnlinkOnClose(false)
	if l.file, err = os.Lstat(addr.Name); err == nil {
		err = os.Chmod(addr.Name, mode.Perm())
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// probeTimeout bounds how long a process that may be listening is waited for.
// Connecting to a Unix socket does not wait for it to accept.
const probeTimeout = time.Second

// clearPath removes the socket file of a dead process, and reports what else
// stands in the way. The directory must be locked: a gateway that has bound
// its socket and does not listen yet looks like a dead one.
func clearPath(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file of that name, and it is no socket; remove it or choose another path")
	}
	c, err := net.DialTimeout("unix", path, probeTimeout)
	switch {
	case err == nil:
		_ = c.Close()
		return fmt.Errorf("another process listens there: %w", syscall.EADDRINUSE)
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the socket of a dead process: %w", err)
		}
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("there is a socket of that name, and it cannot be told that nobody listens there: %w", err)
}
