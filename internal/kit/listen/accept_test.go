package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

// A script is a listener that answers Accept with one word after another: ok
// for a connection, a duration for time that passes before the next, else an
// error. After the last it waits to be closed.
type script struct {
	words  []string
	closed chan struct{}
	once   sync.Once

	deadline time.Time // of the accepting goroutine only
}

func (s *script) Accept() (net.Conn, error) {
	for {
		if !s.deadline.IsZero() && !time.Now().Before(s.deadline) {
			return nil, os.ErrDeadlineExceeded
		}
		if len(s.words) == 0 {
			var late <-chan time.Time
			if !s.deadline.IsZero() {
				late = time.After(time.Until(s.deadline))
			}
			select {
			case <-s.closed:
				return nil, net.ErrClosed
			case <-late:
				continue
			}
		}
		w := s.words[0]
		s.words = s.words[1:]
		if d, err := time.ParseDuration(w); err == nil {
			<-time.After(d) // of the bubble's time
			continue
		}
		if w == "ok" {
			c, _ := net.Pipe()
			return c, nil
		}
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", failures[w])}
	}
}

func (s *script) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *script) Addr() net.Addr { return &net.TCPAddr{} }

// A deadlined is a script that can be told when to give up.
type deadlined struct{ *script }

func (s deadlined) SetDeadline(t time.Time) error {
	s.deadline = t
	return nil
}

// failures are the words of scripts that are errors.
var failures = map[string]error{
	"mfile": syscall.EMFILE, "nfile": syscall.ENFILE, "nobufs": syscall.ENOBUFS, "nomem": syscall.ENOMEM,
	"aborted": syscall.ECONNABORTED, "proto": syscall.EPROTO, "odd": syscall.EXDEV,
}

// accepts runs Accept on a script for two minutes of a bubble's time, and holds
// what is served and told, and when.
func accepts(t *testing.T, words string, full func() error, want string) {
	t.Helper()
	begin := time.Now()
	var log []string
	say := func(what string) { log = append(log, time.Since(begin).String()+" "+what) }
	l := deadlined{&script{words: strings.Fields(words), closed: make(chan struct{})}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Accept(ctx, l, func(c net.Conn) { c.Close(); say("served") }, Trouble{
			Full:  full,
			Began: func(error) { say("began") },
			Ended: func(time.Duration) { say("ended") },
		})
	}()
	<-time.After(2 * time.Minute)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := strings.Join(log, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAcceptingSurvives(t *testing.T) {
	tests := []struct {
		name   string
		script string
		want   string // what is served and told, and when
	}{
		{"nothing goes wrong", "ok ok", "0s served, 0s served"},
		{"a client has gone while it waited", "aborted ok proto ok", "0s served, 0s served"},
		{"a short want of descriptors", "mfile ok 10ms ok", "0s began, 5ms served, 15ms served, 1.005s ended"},
		{"rests grow", "nfile nobufs nomem ok", "0s began, 35ms served, 1.035s ended"},
		{"rests are bounded", strings.Repeat("mfile ", 11) + "ok", "0s began, 4.275s served, 5.275s ended"},
		{"descriptors come free one by one", "mfile ok mfile ok mfile ok", "0s began, 5ms served, 10ms served, 15ms served, 1.015s ended"},
		{"nobody comes after it", "mfile", "0s began, 1.005s ended"}, // a system without descriptors says so though nobody waits
		{"nor after a want in a want", "mfile ok mfile", "0s began, 5ms served, 1.01s ended"},
		{"an error that nobody has heard of", "odd ok", "0s began, 5ms served, 1.005s ended"},
		{"trouble comes again", "mfile ok 2s mfile ok", "0s began, 5ms served, 2.005s ended, 2.005s began, 2.01s served, 3.01s ended"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) { accepts(t, tt.script, nil, tt.want) })
		})
	}
}

// TestTroubleIsTold: what is told has the cause and how long it took, and a
// listener without deadlines is well again with the next connection.
func TestTroubleIsTold(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := &script{words: []string{"mfile", "mfile", "ok"}, closed: make(chan struct{})}
		var began error
		var lasted time.Duration
		done := make(chan error)
		go func() {
			done <- Accept(t.Context(), l, func(c net.Conn) { c.Close() }, Trouble{
				Began: func(err error) { began = err },
				Ended: func(d time.Duration) { lasted = d },
			})
		}()
		time.Sleep(time.Minute)
		l.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v, want net.ErrClosed", err)
		}
		if !errors.Is(began, syscall.EMFILE) || lasted != 15*time.Millisecond {
			t.Errorf("began with %v and lasted %s, want EMFILE and 15ms", began, lasted)
		}
	})
}

// TestFull: while there is no room nobody is accepted, and what is told of it is
// told once, however often room comes and goes within a moment.
func TestFull(t *testing.T) {
	tests := []struct {
		name   string
		script string // of the listener
		full   string // of Full: times at which it begins and ends to be so
		want   string // what is served and told, and when
	}{
		{"there is room", "ok ok", "", "0s served, 0s served"},
		{"nobody is accepted", "ok ok", "0s 100ms", "0s began, 100ms served, 100ms served, 1.1s ended"},
		{"nobody comes later", "ok", "0s 100ms", "0s began, 100ms served, 1.1s ended"},
		{"nobody comes at all", "", "0s 100ms", "0s began, 1.1s ended"},
		{"for long, and who waits does not wait much longer", "ok", "0s 59.99s", "0s began, 1m0s served, 1m1s ended"},
		{"room comes and goes", "ok 500ms ok 500ms ok", "0s 100ms 600ms 1s", "0s began, 100ms served, 600ms served, 1.5s served, 2s ended"},
		{"and is short again later", "ok 3s ok 3s ok", "0s 100ms 3.1s 4s", "0s began, 100ms served, 3.1s ended, 3.1s began, 4s served, 7s ended, 7s served"},
		{"descriptors are short too", "mfile ok", "0s 100ms", "0s began, 105ms served, 1.105s ended"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				begin := time.Now()
				accepts(t, tt.script, func() error {
					full := false
					for _, at := range strings.Fields(tt.full) {
						if d, _ := time.ParseDuration(at); time.Since(begin) >= d {
							full = !full
						}
					}
					if full {
						return errors.New("full")
					}
					return nil
				}, tt.want)
			})
		})
	}
}

// TestTheEndIsNotWaitedForWithoutRoom: while there is no room, the end of ctx
// ends it too, and the reason is told.
func TestTheEndIsNotWaitedForWithoutRoom(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := &script{words: []string{"ok"}, closed: make(chan struct{})}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		full := errors.New("too many for us")
		var began error
		err := Accept(ctx, l, func(net.Conn) { t.Error("a connection was accepted") }, Trouble{
			Full:  func() error { return full },
			Began: func(err error) { began = err },
		})
		if d := time.Since(begin); err != nil || d != 10*time.Second {
			t.Errorf("ended after %s with %v, want 10s and nil", d, err)
		}
		if !errors.Is(began, full) {
			t.Errorf("began with %v, want %v", began, full)
		}
	})
}

// TestTheEndIsNotWaitedFor: while accepting rests, the end of ctx ends it.
func TestTheEndIsNotWaitedFor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := &script{words: slices.Repeat([]string{"mfile"}, 1000), closed: make(chan struct{})}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		if err := Accept(ctx, l, func(net.Conn) {}, Trouble{}); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("ended after %s, want 10s", d)
		}
		<-l.closed
	})
}

func TestAcceptOnRealSockets(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "unix:" + at(t)} {
		l := opened(t, addr, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- Accept(ctx, l, func(c net.Conn) { fmt.Fprint(c, "hello"); c.Close() }, Trouble{})
		}()
		for range 3 {
			if got := answers(t, l); got != "hello" {
				t.Errorf("%s: read %q", addr, got)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		if _, err := net.Dial(l.Addr().Network(), l.Addr().String()); err == nil {
			t.Errorf("%s: after the end it still listens", addr)
		}
	}
}

// starveChild accepts with few descriptors, and tells of it.
func starveChild() error {
	l, err := Open(TCP("127.0.0.1", 0), Options{})
	if err != nil {
		return err
	}
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	lim.Cur = 24
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return Accept(context.Background(), l, func(c net.Conn) {
		go func() {
			defer c.Close()
			// io.Copy would splice, through pipes that take descriptors.
			b := make([]byte, 64)
			for {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
			}
		}()
	}, Trouble{
		Began: func(err error) { fmt.Println("began:", err) },
		Ended: func(time.Duration) { fmt.Println("ended") },
	})
}

// TestDescriptorsRunOut: a process that has no descriptors left serves those
// who wait as soon as others leave.
func TestDescriptorsRunOut(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("no limits of descriptors")
	}
	c := start(t, "starve", nil)
	defer func() { _ = c.cmd.Process.Kill() }()
	c.says("127.0.0.1:")
	addr := c.out.Text()
	var conns []net.Conn
	for range 40 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	c.says("began: accepting on " + addr)
	if !strings.Contains(c.out.Text(), "too many open files") {
		t.Errorf("it says %q", c.out.Text())
	}
	for _, conn := range conns[:30] {
		conn.Close()
	}
	c.says("ended")
	for i, conn := range conns[30:] {
		fmt.Fprint(conn, "word")
		b := make([]byte, 4)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != "word" {
			t.Errorf("connection %d: %q, %v", i+30, b, err)
		}
	}
}
