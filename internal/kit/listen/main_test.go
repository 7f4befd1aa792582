package listen

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// childVar names, in a process that a test has started, what it is to do.
const childVar = "LISTEN_TEST_CHILD"

var children = map[string]func() error{
	"inherit": inheritChild,
	"starve":  starveChild,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(childVar); name != "" {
		if err := children[name](); err != nil {
			fmt.Println("error:", err)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// A child is this program once more, doing something of children.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// start starts a child with files as its descriptors from 3 on. A shell says
// in LISTEN_PID which process that is, as systemd would, and becomes it.
func start(t *testing.T, name string, files []*os.File, env ...string) *child {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=${PID:-$$} exec "$0"`, os.Args[0])
	cmd.Env = append(append(os.Environ(), childVar+"="+name), env...)
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t, cmd, in, bufio.NewScanner(out)}
	patience := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
		patience.Stop()
	})
	return c
}

// says waits for the child's next line.
func (c *child) says(want string) {
	c.t.Helper()
	if !c.out.Scan() || !strings.Contains(c.out.Text(), want) {
		c.t.Fatalf("the child says %q, want %q", c.out.Text(), want)
	}
}

// opened opens addr for the time of the test.
func opened(t *testing.T, addr string, opt Options) net.Listener {
	t.Helper()
	a, err := ParseAddress(addr)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(a, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// pass makes a connection to l, sends a word through it, and returns the end
// that l accepted.
func pass(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	fmt.Fprint(c, "word")
	b := make([]byte, 4)
	if _, err := io.ReadFull(s, b); err != nil || string(b) != "word" {
		t.Fatalf("read %q, %v; want the word that was sent", b, err)
	}
	return s
}

// refused asks that err mentions all of words.
func refused(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}
