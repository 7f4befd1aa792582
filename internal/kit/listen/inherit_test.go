package listen

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseInherited(t *testing.T) {
	tests := []struct {
		name              string
		pid, count, names string
		want              string // with spaces between
		says              string // of an error
	}{
		{name: "nothing"},
		{name: "one without a name", pid: "7", count: "1", want: "api"},
		{name: "one that systemd has named for its unit", pid: "7", count: "1", names: "sluice.socket", want: "api"},
		{name: "one that has been named unknown", pid: "7", count: "1", names: "unknown", want: "api"},
		{name: "one for metrics", pid: "7", count: "1", names: "metrics", want: "metrics"},
		{name: "one each", pid: "7", count: "3", names: "health:api:metrics", want: "health api metrics"},
		{name: "two of a name", pid: "7", count: "2", names: "api:api", want: "api api"},
		{name: "of another process", pid: "8", count: "x", names: "::"},
		{name: "no number of descriptors", pid: "7"},
		{name: "none", pid: "7", count: "0", names: "api"},
		{name: "a process that is none", pid: "x", count: "1", says: "LISTEN_PID"},
		{name: "a process below zero", pid: "-7", count: "1", says: "LISTEN_PID"},
		{name: "words for a number", pid: "7", count: "two", says: "LISTEN_FDS"},
		{name: "less than none", pid: "7", count: "-1", says: "LISTEN_FDS"},
		{name: "more than there can be", pid: "7", count: "100000", says: "LISTEN_FDS"},
		{name: "more names than sockets", pid: "7", count: "1", names: "api:metrics", says: "names 2 sockets"},
		{name: "fewer names than sockets", pid: "7", count: "2", names: "api", says: "names 1 sockets"},
		{name: "several, and one unknown", pid: "7", count: "2", names: "api:sluice.socket", says: `"sluice.socket"`},
		{name: "several without names", pid: "7", count: "2", says: "FileDescriptorName="},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseInherited(7, tt.pid, tt.count, tt.names)
			if tt.says != "" {
				refused(t, err, tt.says)
				return
			}
			if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// FuzzParseInherited holds that every socket gets a port, and that no text
// makes many of them.
func FuzzParseInherited(f *testing.F) {
	f.Add("7", "2", "api:metrics")
	f.Add("7", "1", "a\x00:")
	f.Fuzz(func(t *testing.T, pid, count, names string) {
		got, err := parseInherited(7, pid, count, names)
		if err == nil && (len(got) > maxInherited || slices.ContainsFunc(got, func(n string) bool { return !slices.Contains(ports, n) })) {
			t.Errorf("%q", got)
		}
	})
}

// inheritChild takes the sockets, says what they are, and for each connection
// to one says which it came to.
func inheritChild() error {
	s, err := Inherited(Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	for _, v := range variables {
		if _, there := os.LookupEnv(v); there {
			return fmt.Errorf("%s is left", v)
		}
	}
	if s.Has(API) {
		// A program that is started now sees neither variables nor sockets.
		out, err := exec.Command("/bin/sh", "-c", `echo "$LISTEN_FDS$LISTEN_PID"; ls -l /proc/self/fd`).Output()
		if err != nil || strings.Contains(string(out), "socket:") || !strings.HasPrefix(string(out), "\n") {
			return fmt.Errorf("a program started by this one sees %q, %v", out, err)
		}
	}
	if again, err := Inherited(Options{}); err != nil || again.Has(API) {
		return fmt.Errorf("asked again: %v, %v", again, err)
	}
	for _, port := range ports {
		if has := s.Has(port); has {
			fmt.Println("has", port)
		}
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		l := s.byPort[in.Text()][0]
		c, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Fprint(c, in.Text())
		c.Close()
	}
	return nil
}

// listening returns n listeners, and their files to pass on.
func listening(t *testing.T, n int) ([]net.Listener, []*os.File) {
	t.Helper()
	var ls []net.Listener
	var fs []*os.File
	for i := range n {
		addr := "127.0.0.1:0"
		if i == 1 {
			addr = "unix:" + at(t)
		}
		l := opened(t, addr, Options{})
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		ls, fs = append(ls, l), append(fs, f)
	}
	return ls, fs
}

// answers connects to l and reads what is sent.
func answers(t *testing.T, l net.Listener) string {
	t.Helper()
	c, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSocketsOfSystemd(t *testing.T) {
	ls, fs := listening(t, 3)
	c := start(t, "inherit", fs, "LISTEN_FDS=3", "LISTEN_FDNAMES=metrics:api:health")
	c.says("has api")
	c.says("has metrics")
	c.says("has health")
	c.says("ready")
	for i, port := range []string{"metrics", "api", "health"} {
		fmt.Fprintln(c.in, port)
		if got := answers(t, ls[i]); got != port {
			t.Errorf("the socket for %s is answered by %q", port, got)
		}
	}
}

func TestOneSocketWithoutAName(t *testing.T) {
	ls, fs := listening(t, 1)
	c := start(t, "inherit", fs, "LISTEN_FDS=1")
	c.says("has api")
	c.says("ready")
	fmt.Fprintln(c.in, "api")
	if got := answers(t, ls[0]); got != "api" {
		t.Errorf("it is answered by %q", got)
	}
}

func TestSocketsOfAnotherProcess(t *testing.T) {
	_, fs := listening(t, 1)
	c := start(t, "inherit", fs, "LISTEN_FDS=1", "PID=1")
	c.says("ready") // with none
}

func TestWhatIsNoListener(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	udp, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	datagrams, err := udp.File()
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	l := opened(t, "127.0.0.1:0", Options{})
	connection, err := pass(t, l).(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_, good := listening(t, 1)
	tests := []struct {
		name  string
		files []*os.File
		fds   string
		says  string
	}{
		{"a file", []*os.File{file}, "LISTEN_FDS=1", "descriptor 3 (api): it is no socket"},
		{"datagrams", []*os.File{datagrams}, "LISTEN_FDS=1", "descriptor 3 (api): it is no stream socket"},
		{"a connection", []*os.File{connection}, "LISTEN_FDS=1", "descriptor 3 (api): it does not listen"},
		{"fewer than there should be", good, "LISTEN_FDS=40", "descriptor"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			names := "LISTEN_FDNAMES="
			if tt.fds == "LISTEN_FDS=40" {
				names += strings.Repeat("api:", 39) + "api"
			}
			start(t, "inherit", tt.files, tt.fds, names).says(tt.says)
		})
	}
}

// TestKeepAliveOfInheritedSockets: it is as asked for, and no connection hides
// the net package's own.
func TestKeepAliveOfInheritedSockets(t *testing.T) {
	for _, d := range []time.Duration{time.Minute, -1} {
		l := opened(t, "127.0.0.1:0", Options{}).(*net.TCPListener)
		if _, ok := pass(t, &keptAlive{l, keepAliveConfig(d)}).(*net.TCPConn); !ok {
			t.Error("the connection is not the net package's own")
		}
		l.Close()
		if _, err := (&keptAlive{TCPListener: l}).Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}
