package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
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
		return nil, errors.Join(err, l.UnixListener.Close())
	}
	return l, nil
}

// probeTimeout bounds how long a process that may be listening is waited for.
// Connecting to a Unix socket does not wait for it to accept.
const probeTimeout = time.Second

// clearPath removes the socket file of a dead process, and reports what else
// stands in the way.
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
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("there is a socket of that name, and whether a process listens there cannot be told: %w", err)
	}
	return removeStale(path, fi)
}

// removeStale removes path if it still is the file that nobody listened on.
// Another gateway that starts at this moment may have put its own there in
// between; the file is taken aside before it is looked at, so that such a one
// can be put back.
func removeStale(path string, dead fs.FileInfo) error {
	aside := path + ".stale" + strconv.Itoa(os.Getpid())
	if err := os.Rename(path, aside); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("removing the socket of a dead process: %w", err)
	}
	now, err := os.Lstat(aside)
	if err == nil && os.SameFile(now, dead) && now.ModTime().Equal(dead.ModTime()) {
		return os.Remove(aside)
	}
	return errors.Join(fmt.Errorf("another process began to listen there: %w", syscall.EADDRINUSE), err, os.Rename(aside, path))
}
