package listen

import (
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// option reads a socket option of c.
func option(t *testing.T, c any, level, name int) int {
	t.Helper()
	rc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var v int
	if err := control(rc, func(fd uintptr) (err error) {
		v, err = unix.GetsockoptInt(int(fd), level, name)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestADeadClientIsNoticed: what is set on the listener holds for connections.
func TestADeadClientIsNoticed(t *testing.T) {
	tests := []struct {
		name string
		opt  Options
		idle int // 0 for no keep-alive
	}{
		{"by default", Options{}, 30},
		{"as asked for", Options{KeepAlive: 90 * time.Second}, 90},
		{"rounded up to seconds", Options{KeepAlive: 1500 * time.Millisecond}, 2},
		{"not at all", Options{KeepAlive: -1}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := pass(t, opened(t, "127.0.0.1:0", tt.opt))
			if got := option(t, c, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 0; got != (tt.idle != 0) {
				t.Errorf("keep-alive is %v", got)
			}
			if option(t, c, unix.IPPROTO_TCP, unix.TCP_NODELAY) == 0 {
				t.Error("small writes are held back")
			}
			if tt.idle == 0 {
				return
			}
			for name, want := range map[int]int{unix.TCP_KEEPIDLE: tt.idle, unix.TCP_KEEPINTVL: 10, unix.TCP_KEEPCNT: 3} {
				if got := option(t, c, unix.IPPROTO_TCP, name); got != want {
					t.Errorf("option %d is %d, want %d", name, got, want)
				}
			}
		})
	}
}

func TestADeadClientOfAnInheritedSocketIsNoticed(t *testing.T) {
	l := opened(t, "127.0.0.1:0", Options{}).(*net.TCPListener)
	c := pass(t, &keptAlive{l, keepAliveConfig(time.Minute)})
	if got := option(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE); got != 60 {
		t.Errorf("it is tried after %d s, want 60", got)
	}
	c = pass(t, &keptAlive{l, keepAliveConfig(-1)})
	if option(t, c, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 0 {
		t.Error("it is tried, and should not be")
	}
}

// TestTheQueueIsAsLongAsTheSystemAllows: a listening socket's tcpi_sacked is
// its backlog.
func TestTheQueueIsAsLongAsTheSystemAllows(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		t.Skip(err)
	}
	want, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	rc, err := opened(t, "127.0.0.1:0", Options{}).(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := control(rc, func(fd uintptr) error {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && int(info.Sacked) != want {
			t.Errorf("%d connections may wait, want %d", info.Sacked, want)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAnAbstractSocket(t *testing.T) {
	name := "unix:@listen-test-" + strconv.Itoa(os.Getpid())
	l := opened(t, name, Options{})
	pass(t, l)
	_, err := Open(Address{"unix", strings.TrimPrefix(name, "unix:")}, Options{})
	refused(t, err, "address already in use")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	pass(t, opened(t, name, Options{}))
}
