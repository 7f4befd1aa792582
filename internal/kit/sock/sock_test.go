package sock

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything may take before a test gives up on it.
const patience = 30 * time.Second

// watching returns a Watch that Runs until the test ends.
func watching(t testing.TB) *Watch {
	t.Helper()
	w, err := NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return w
}

// pair returns the two ends of a connection.
func pair(t testing.TB, network string) (near, far net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := ln.Accept()
		accepted <- c
	}()
	near, err = net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if far = <-accepted; far == nil {
		t.Fatal("nothing was accepted")
	}
	t.Cleanup(func() { far.Close() })
	return near, far
}

// hidden is a connection of which only another hand knows the socket.
type hidden struct{ net.Conn }

func (h hidden) NetConn() net.Conn { return h.Conn }

// kinds are the ways in which a Conn can stand on its connection.
var kinds = []struct {
	name string
	make func(t testing.TB) (near, far net.Conn)
	tls  bool
}{
	{name: "tcp", make: func(t testing.TB) (net.Conn, net.Conn) { return pair(t, "tcp") }},
	{name: "unix", make: func(t testing.TB) (net.Conn, net.Conn) { return pair(t, "unix") }},
	{name: "net.Conn", make: func(t testing.TB) (net.Conn, net.Conn) {
		near, far := pair(t, "tcp")
		return hidden{near}, far
	}},
	{name: "tls", make: tlsPair, tls: true},
}

func each(t *testing.T, f func(t *testing.T, w *Watch, near, far net.Conn)) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			w := watching(t)
			near, far := k.make(t)
			f(t, w, near, far)
		})
	}
}

func tlsPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	near, far = pair(t, "tcp")
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	client := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// reader is a Receiver that keeps what it gets, until it has want bytes.
type reader struct {
	begin   func() (wait bool, err error)
	space   [16]byte
	got     []byte
	want    int // 0: to the end
	drained func()
}

func (r *reader) Begin() (bool, error) {
	if r.begin != nil {
		return r.begin()
	}
	return false, nil
}

func (r *reader) Space() []byte { return r.space[:] }

func (r *reader) Received(n int) (bool, error) {
	r.got = append(r.got, r.space[:n]...)
	return r.want > 0 && len(r.got) >= r.want, nil
}

func (r *reader) Drained() {
	if r.drained != nil {
		r.drained()
	}
}

// soon returns what f returns, or fails the test if that takes too long.
func soon(t *testing.T, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatalf("%s: still waiting after %v", what, patience)
		return nil
	}
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Error(err)
	}
}

func TestWhatIsSentIsReceived(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		text := "a piece that is longer than the space there is for it"
		go func() {
			for _, b := range []byte(text) {
				far.Write([]byte{b})
			}
			far.Write([]byte(text))
			far.Close()
		}()
		r := &reader{want: len(text)}
		if err := soon(t, "first", func() error { return c.Receive(r) }); err != nil {
			t.Fatal(err)
		}
		if err := soon(t, "rest", func() error { r.want = 0; return c.Receive(r) }); err != io.EOF {
			t.Errorf("at the end: %v, want EOF", err)
		}
		if string(r.got) != text+text {
			t.Errorf("got %q", r.got)
		}
	})
}

func TestQuestionAndAnswer(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		go io.Copy(far, far)
		for range 100 {
			r := &reader{want: 4, begin: func() (bool, error) { return true, c.Write([]byte("ping"), time.Second) }}
			if err := soon(t, "answer", func() error { return c.Receive(r) }); err != nil || string(r.got) != "ping" {
				t.Fatalf("got %q, %v", r.got, err)
			}
		}
		far.Close()
	})
}

func TestReceiverIsToldThatNothingIsLeft(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		drained := make(chan struct{}, 8)
		r := &reader{want: 2, drained: func() { drained <- struct{}{} }}
		go func() {
			far.Write([]byte("a"))
			<-drained
			far.Write([]byte("b"))
		}()
		if err := soon(t, "both", func() error { return c.Receive(r) }); err != nil || string(r.got) != "ab" {
			t.Errorf("got %q, %v", r.got, err)
		}
	})
}

func TestReceiversErrorsEndReceive(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		mine := errors.New("mine")
		if err := c.Receive(&reader{begin: func() (bool, error) { return false, mine }}); err != mine {
			t.Errorf("got %v", err)
		}
	})
}

// TestEndThatComesWithTheLastBytes holds that an end which is told of by the
// same edge as the bytes before it is not waited for again.
func TestEndThatComesWithTheLastBytes(t *testing.T) {
	w := watching(t)
	for range 300 {
		near, far := pair(t, "tcp")
		c := w.Add(near, nil)
		r := &reader{begin: func() (bool, error) {
			go func() {
				far.Write([]byte("last words"))
				far.Close()
			}()
			return true, nil
		}}
		if err := soon(t, "end", func() error { return c.Receive(r) }); err != io.EOF || string(r.got) != "last words" {
			t.Fatalf("got %q, %v", r.got, err)
		}
		c.Close()
	}
}

func TestEndThatWasThereBefore(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		told := make(listener, 8)
		c := w.Add(near, told)
		defer c.Close()
		write(t, far, "left behind")
		far.Close()
		told.next(t)
		r := &reader{begin: func() (bool, error) { return true, nil }}
		if err := soon(t, "end", func() error { return c.Receive(r) }); err != io.EOF || string(r.got) != "left behind" {
			t.Errorf("got %q, %v", r.got, err)
		}
	})
}

func TestLargeWritesAreWhole(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		a, b := make([]byte, 3<<20), make([]byte, 5<<20)
		for i := range a {
			a[i] = byte(i)
		}
		for i := range b {
			b[i] = byte(i * 7)
		}
		got := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(far)
			got <- all
		}()
		err := soon(t, "write", func() error {
			n, err := c.Try(a, b)
			switch {
			case err != nil:
				return err
			case n < len(a):
				err = c.Write2(a[n:], b, time.Second)
			default:
				err = c.Write(b[n-len(a):], time.Second)
			}
			return errors.Join(err, c.Write2(b, a, time.Second), c.Write(a, time.Second))
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		all := <-got
		want := append(append(append(append(append([]byte(nil), a...), b...), b...), a...), a...)
		if string(all) != string(want) {
			t.Errorf("%d bytes arrived, not the %d that were sent", len(all), len(want))
		}
	})
}

// TestOneWritesWhileTheOwnerReceives is for the race detector too.
func TestOneWritesWhileTheOwnerReceives(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		go io.Copy(far, far)
		sent := make(chan error, 1)
		r := &reader{want: 4 << 20, begin: func() (bool, error) {
			go func() { sent <- c.Write(make([]byte, 4<<20), patience) }()
			return true, nil
		}}
		if err := soon(t, "echo", func() error { return c.Receive(r) }); err != nil {
			t.Error(err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		far.Close()
	})
}

func TestDetachedConnectionIsAsItWas(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		told := make(listener, 8)
		c := w.Add(near, told)
		if err := c.Expire(time.Millisecond); err != nil {
			t.Fatal(err)
		}
		nc := c.Detach()
		defer nc.Close()
		if nc != near {
			t.Error("another connection came back")
		}
		time.AfterFunc(3*Tick, func() { far.Write([]byte("x")); far.Close() })
		all, err := io.ReadAll(nc)
		if string(all) != "x" || err != nil {
			t.Errorf("read %q, %v", all, err)
		}
		select {
		case <-told:
			t.Error("its hang-up was told")
		case <-time.After(3 * peekEvery):
		}
	})
}

func TestQuiet(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		write(t, far, "a")
		if err := c.Receive(&reader{want: 1}); err != nil {
			t.Fatal(err)
		}
		if !c.Quiet() || c.Unread() {
			t.Error("not quiet, though all was read")
		}
		write(t, far, "x")
		until(t, "bytes are noticed", func() bool { return !c.Quiet() })
		if err := c.Receive(&reader{want: 1}); err != nil {
			t.Fatal(err)
		}
		if !c.Quiet() || c.Unread() {
			t.Error("not quiet, though all was read again")
		}
		far.Close()
		until(t, "the end is noticed", func() bool { return !c.Quiet() })
	})
}

// TestUnread holds that bytes which a TLS connection has taken from its socket,
// but nobody from it, are noticed.
func TestUnread(t *testing.T) {
	w := watching(t)
	near, far := tlsPair(t)
	c := w.Add(near, nil)
	defer c.Close()
	// Both records are in the socket before the first is read.
	write(t, far, "0123456789abcdef")
	write(t, far, "more")
	until(t, "bytes arrive", func() bool { return !c.Quiet() })
	if err := c.Receive(&reader{want: 16}); err != nil {
		t.Fatal(err)
	}
	if c.Quiet() && !c.Unread() {
		t.Error("the second record is not noticed")
	}
}

// until waits for f.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-time.After(time.Millisecond)
	}
}

func TestNothingIsAllocatedOnceWarm(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	w := watching(t)
	for _, k := range kinds[:3] {
		near, far := k.make(t)
		c := w.Add(near, nil)
		go io.Copy(far, far)
		ping := []byte("ping")
		r := &reader{want: 4, begin: func() (bool, error) { return true, c.Write(ping, time.Second) }}
		turn := func() {
			r.got = r.got[:0]
			c.Expire(time.Minute)
			if err := c.Receive(r); err != nil {
				t.Fatal(err)
			}
			c.Expire(0)
			c.Write2(nil, nil, time.Second)
		}
		if n := testing.AllocsPerRun(100, turn); n > 0 {
			t.Errorf("%s: %v allocations for a question and its answer", k.name, n)
		}
		if n := testing.AllocsPerRun(100, func() { c.Quiet() }); n > 0 {
			t.Errorf("%s: %v allocations for a look", k.name, n)
		}
		c.Close()
		far.Close()
	}
}

func BenchmarkPingPong(b *testing.B) {
	for _, k := range kinds {
		b.Run(k.name, func(b *testing.B) {
			w := watching(b)
			near, far := k.make(b)
			c := w.Add(near, nil)
			go io.Copy(far, far)
			ping := []byte("ping")
			r := &reader{want: 4, begin: func() (bool, error) { return true, c.Write(ping, time.Second) }}
			b.ReportAllocs()
			for b.Loop() {
				r.got = r.got[:0]
				if err := c.Receive(r); err != nil {
					b.Fatal(err)
				}
			}
			c.Close()
			far.Close()
		})
	}
}

// TestRenew holds that an owner whose time was up can still say so, and wait
// for what the other end says to that.
func TestRenew(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		if err := c.Expire(time.Millisecond); err != nil {
			t.Fatal(err)
		}
		var got reader
		if err := c.Receive(&got); !errors.Is(err, ErrExpired) {
			t.Fatalf("got %v, want ErrExpired", err)
		}
		if err := c.Renew(); err != nil {
			t.Fatal(err)
		}
		go func() {
			b := make([]byte, 4)
			_, _ = io.ReadFull(far, b)
			_, _ = far.Write(b)
			_ = far.Close()
		}()
		if err := c.Write([]byte("late"), patience); err != nil {
			t.Fatal(err)
		}
		if err := c.Receive(&got); err != io.EOF || string(got.got) != "late" {
			t.Errorf("got %q, %v", got.got, err)
		}
		c.Interrupt()
		if err := c.Renew(); !errors.Is(err, ErrInterrupted) {
			t.Errorf("after Interrupt: %v", err)
		}
	})
}

// TestWhatComesWithAHangUp holds that bytes which arrive with the hang-up, at
// the moment in which the owner has found nothing and begins to wait, are
// received.
func TestWhatComesWithAHangUp(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		r := &reader{}
		if c.Raw() {
			r.drained = func() {
				r.drained = nil
				write(t, far, "last words")
				_ = far.Close()
				for end := time.Now().Add(patience); !c.HungUp() && time.Now().Before(end); {
					runtime.Gosched()
				}
			}
		} else {
			write(t, far, "last words")
			_ = far.Close()
		}
		if err := soon(t, "last words", func() error { return c.Receive(r) }); err != io.EOF || string(r.got) != "last words" {
			t.Errorf("got %q, %v", r.got, err)
		}
	})
}

// TestHasten holds that a wait is ended by somebody else, before it begins too,
// and that the Conn can be used again.
func TestHasten(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		for _, before := range []bool{false, true} {
			var got reader
			if before {
				c.Hasten()
			} else {
				begun := make(chan struct{})
				got.begin = func() (bool, error) { close(begun); return false, nil }
				go func() { <-begun; c.Hasten() }()
			}
			if err := soon(t, "its end", func() error { return c.Receive(&got) }); !errors.Is(err, ErrExpired) {
				t.Fatalf("got %v, want ErrExpired", err)
			}
			if err := c.Expire(time.Hour); !errors.Is(err, ErrExpired) {
				t.Errorf("a further wait could begin: %v", err)
			}
			if err := c.Renew(); err != nil {
				t.Fatal(err)
			}
		}
		write(t, far, "hello")
		got := reader{want: 5}
		if err := soon(t, "hello", func() error { return c.Receive(&got) }); err != nil || string(got.got) != "hello" {
			t.Errorf("got %q, %v", got.got, err)
		}
	})
}
