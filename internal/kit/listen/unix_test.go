package listen

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// at returns a path for a socket, short enough on every system.
func at(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "listen")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s.sock")
}

// abandon leaves at path what a process that was killed leaves.
func abandon(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestAUnixSocketIsServed(t *testing.T) {
	path := at(t)
	l := opened(t, "unix://"+path, Options{})
	if _, ok := pass(t, l).(*net.UnixConn); !ok {
		t.Error("the connection is not the net package's own")
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("the socket's file: %v, %v; want mode 0660", fi, err)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close the file is still there: %v", err)
	}
}

func TestWhoMayConnect(t *testing.T) {
	path := at(t)
	opened(t, "unix:"+path, Options{Mode: 0o606})
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Perm() != 0o606 {
		t.Errorf("the socket's file: %v, %v; want mode 0606", fi, err)
	}
}

func TestTheSocketOfADeadProcessIsReplaced(t *testing.T) {
	path := at(t)
	abandon(t, path)
	pass(t, opened(t, "unix:"+path, Options{}))
}

func TestASocketInUseIsLeftAlone(t *testing.T) {
	path := at(t)
	l := opened(t, "unix:"+path, Options{})
	_, err := Open(Address{"unix", path}, Options{})
	refused(t, err, "listening on unix:"+path, "another process listens there")
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v is not EADDRINUSE", err)
	}
	c, err := l.Accept() // the one that asked
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	pass(t, l)
}

// TestManyStartAtOnce: on the file of a dead process, exactly one comes to
// listen, and it can be reached.
func TestManyStartAtOnce(t *testing.T) {
	for range 20 {
		path := at(t)
		abandon(t, path)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var won []net.Listener
		for range 8 {
			wg.Go(func() {
				l, err := Open(Address{"unix", path}, Options{})
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					won = append(won, l)
				} else if !errors.Is(err, syscall.EADDRINUSE) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d came to listen, want 1", len(won))
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		won[0].Close()
	}
}

func TestWhatStandsInTheWay(t *testing.T) {
	t.Run("a file", func(t *testing.T) {
		path := at(t)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Address{"unix", path}, Options{})
		refused(t, err, "is no socket")
		if b, _ := os.ReadFile(path); string(b) != "precious" {
			t.Errorf("the file holds %q now", b)
		}
	})
	t.Run("a link", func(t *testing.T) {
		path := at(t)
		abandon(t, path+"2")
		if err := os.Symlink(path+"2", path); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Address{"unix", path}, Options{})
		refused(t, err, "is no socket")
	})
	t.Run("a socket of another kind", func(t *testing.T) {
		path := at(t)
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = Open(Address{"unix", path}, Options{})
		refused(t, err, "cannot be told")
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	})
	t.Run("no directory", func(t *testing.T) {
		_, err := Open(Address{"unix", filepath.Join(at(t), "x")}, Options{})
		refused(t, err, "no such file or directory")
	})
	t.Run("a long name", func(t *testing.T) {
		_, err := Open(Address{"unix", "/tmp/" + strings.Repeat("x", 108)}, Options{})
		refused(t, err, "113 bytes", "choose a shorter one")
	})
}

// TestCloseRemovesNobodyElsesSocket: somebody has removed the file, and
// another process listens in its place.
func TestCloseRemovesNobodyElsesSocket(t *testing.T) {
	path := at(t)
	l := opened(t, "unix:"+path, Options{})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other := opened(t, "unix:"+path, Options{})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	pass(t, other)
}

func TestTheFileIsGoneAlready(t *testing.T) {
	path := at(t)
	l := opened(t, "unix:"+path, Options{})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
