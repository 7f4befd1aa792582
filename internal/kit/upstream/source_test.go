package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/internal/kit/h1"
)

// A feed is a Source that gives its pieces, and then what end says: nil is the
// body's end. Without an end it waits to be stopped.
type feed struct {
	pieces [][]byte
	end    func() error
	asked  int
	given  int // pieces that were taken
	failed error

	once sync.Once
	stop chan struct{}
}

func feeding(body []byte, size int, end func() error) *feed {
	f := &feed{end: end, stop: make(chan struct{})}
	for len(body) > 0 {
		n := min(size, len(body))
		f.pieces, body = append(f.pieces, body[:n]), body[n:]
	}
	return f
}

// whole is the end of a body that is whole.
func whole() error { return nil }

func (f *feed) Pass(w io.Writer) error {
	f.asked++
	for _, p := range f.pieces {
		if _, err := w.Write(bytes.Clone(p)); err != nil {
			f.failed = err
			return err
		}
		f.given++
	}
	if f.end != nil {
		return f.end()
	}
	<-f.stop
	return errors.New("stopped")
}

func (f *feed) Stop() { f.once.Do(func() { close(f.stop) }) }

// stopped reports whether somebody said so.
func (f *feed) stopped() bool {
	select {
	case <-f.stop:
		return true
	default:
		return false
	}
}

// from makes an Exchange whose body f gives: of length bytes, or in chunks if
// that is negative.
func from(f *feed, length int64) *Exchange {
	x := NewExchange(0)
	x.Method = "POST"
	x.Draw(f, length)
	x.Head = append(x.Head, "POST /v1/x HTTP/1.1\r\nHost: worker\r\n"...)
	if length < 0 {
		x.Head = append(x.Head, h1.ChunkedField...)
	} else {
		x.Head, _ = h1.AppendContentLength(x.Head, length)
	}
	x.Head = append(x.Head, h1.EndHead...)
	return x
}

func TestBodiesOfSources(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	workers := map[string]*worker{
		"plain": start(t, echo),
		"TLS":   secure(t, &tls.Config{Certificates: []tls.Certificate{cert}}, echo),
	}
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte('a' + i%23)
	}
	for name, w := range workers {
		h := host(t, client(t, Options{TLS: &tls.Config{RootCAs: pool}}), w.url)
		for _, n := range []int{0, 1, 4095, 4096, 64 << 10, 64<<10 + 1, 1 << 20, len(big)} {
			for _, size := range []int{997, 64 << 10} {
				if n/size > 1000 {
					continue
				}
				for _, chunked := range []bool{false, true} {
					length := int64(n)
					if chunked {
						length = -1
					}
					f := feeding(big[:n], size, whole)
					r := soon(t, "echo", func() result { return do(context.Background(), h, from(f, length)) })
					if r.err != nil || r.body != string(big[:n]) {
						t.Errorf("%s, %d bytes in pieces of %d, in chunks: %v: got %d of %d, %v", name, n, size, chunked, r.status, len(r.body), r.err)
					}
					if f.stopped() {
						t.Errorf("%s, %d bytes: it was stopped", name, n)
					}
				}
			}
		}
		ask(t, h, "small") // on the connection that was opened last
		if open, idle := h.counts(); open != idle || idle == 0 {
			t.Errorf("%s: %d connections are open, %d of them idle", name, open, idle)
		}
	}
}

// TestSourcesGetNewConnections holds that a body which cannot be had again is
// not sent on a connection that the worker may just be closing, and that its
// connection serves others afterwards.
func TestSourcesGetNewConnections(t *testing.T) {
	w := start(t, echo)
	h := host(t, client(t, Options{}), w.url)
	ask(t, h, "a")
	do(context.Background(), h, from(feeding([]byte("body"), 2, whole), 4)).want(t, 200, "body")
	if n := w.conns.Load(); n != 2 {
		t.Errorf("%d connections, want another one", n)
	}
	ask(t, h, "b")
	ask(t, h, "c")
	if n := w.conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// answering is a worker that reads the head of a request, does f, and then waits
// for the end of the connection, which it tells.
func answering(t testing.TB, f func(c net.Conn, in *bufio.Reader)) (base string, gone <-chan time.Time) {
	t.Helper()
	ln := listen(t, "tcp")
	ends := make(chan time.Time, 10)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				f(c, in)
				_, _ = io.Copy(io.Discard, in)
				ends <- time.Now()
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return "http://" + ln.Addr().String(), ends
}

// TestAnswersThatComeEarly holds that a worker which refuses a body before it
// has read it is heard, whether the body's bytes are there or awaited, and that
// one which accepts it gets the rest.
func TestAnswersThatComeEarly(t *testing.T) {
	const says413 = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge"
	big := bytes.Repeat([]byte("x"), 32<<20)
	for _, tt := range []struct {
		name   string
		source func() *feed
		length int64
	}{
		{"while the source waits", func() *feed { return feeding([]byte("begin"), 5, nil) }, 1 << 20},
		{"while the source waits, in chunks", func() *feed { return feeding([]byte("begin"), 5, nil) }, -1},
		{"while the worker reads nothing", func() *feed { return feeding(big, 64<<10, whole) }, int64(len(big))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hold := make(chan struct{})
			base, _ := answering(t, func(c net.Conn, _ *bufio.Reader) {
				io.WriteString(c, says413)
				<-hold
			})
			h := host(t, client(t, Options{}), base)
			f := tt.source()
			soon(t, "413", func() result { return do(context.Background(), h, from(f, tt.length)) }).want(t, 413, "large")
			if !f.stopped() {
				t.Error("the source was not stopped")
			}
			if open, _ := h.counts(); open != 0 {
				t.Error("the connection was kept")
			}
			close(hold)
		})
	}
	t.Run("and is good", func(t *testing.T) {
		var got []byte
		base, _ := answering(t, func(c net.Conn, in *bufio.Reader) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			got = make([]byte, len(big))
			_, _ = io.ReadFull(in, got)
		})
		h := host(t, client(t, Options{}), base)
		f := feeding(big, 64<<10, whole)
		soon(t, "200", func() result { return do(context.Background(), h, from(f, int64(len(big)))) }).want(t, 200, "ok")
		if f.stopped() || f.given != len(f.pieces) {
			t.Errorf("the worker was given %d pieces of %d", f.given, len(f.pieces))
		}
	})
	t.Run("and says why it closes", func(t *testing.T) {
		base, _ := answering(t, func(c net.Conn, in *bufio.Reader) {
			_, _ = io.CopyN(io.Discard, in, 1<<20)
			io.WriteString(c, strings.Replace(says413, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
			_ = c.(*net.TCPConn).CloseWrite()
		})
		h := host(t, client(t, Options{}), base)
		soon(t, "413", func() result {
			return do(context.Background(), h, from(feeding(big, 64<<10, whole), int64(len(big))))
		}).want(t, 413, "large")
	})
}

// TestWorkersThatDieInAnUpload holds that the source is stopped, the error says
// that the worker failed, and nothing is sent again.
func TestWorkersThatDieInAnUpload(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func() error
		die  func(c net.Conn)
	}{
		{"closes while the source waits", nil, func(c net.Conn) { c.Close() }},
		{"resets while the source waits", nil, func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); c.Close() }},
		{"closes with bytes unread", whole, func(c net.Conn) { c.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base, _ := answering(t, func(c net.Conn, _ *bufio.Reader) { tt.die(c) })
			h := host(t, client(t, Options{}), base)
			f := feeding(bytes.Repeat([]byte("x"), 32<<20), 64<<10, tt.end)
			if tt.end == nil {
				f.pieces = f.pieces[:1]
			}
			r := soon(t, "an error", func() result { return do(context.Background(), h, from(f, 32<<20)) })
			var e *Error
			if !errors.As(r.err, &e) || e.Timeout || e.Op != "send" {
				t.Errorf("got %v", r.err)
			}
			if f.asked != 1 {
				t.Errorf("the source was asked %d times", f.asked)
			}
		})
	}
	t.Run("cannot be reached", func(t *testing.T) {
		ln := listen(t, "tcp")
		ln.Close()
		h := host(t, client(t, Options{}), "http://"+ln.Addr().String())
		f := feeding([]byte("x"), 1, whole)
		r := do(context.Background(), h, from(f, 1))
		var e *Error
		if !errors.As(r.err, &e) || e.Op != "dial" || f.asked != 0 || f.stopped() {
			t.Errorf("got %v; the source was asked %d times", r.err, f.asked)
		}
	})
}

// TestSourcesThatFail holds that their error is the exchange's, and that the
// worker hears at once that there is no more.
func TestSourcesThatFail(t *testing.T) {
	own := errors.New("the client has left")
	for _, tt := range []struct {
		name   string
		end    func() error
		length int64
		want   error
	}{
		{"with an error", func() error { return own }, 1000, own},
		{"in chunks", func() error { return own }, -1, own},
		{"with too little", whole, 1000, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var watch *bubble.Stopwatch
			base, gone := answering(t, func(net.Conn, *bufio.Reader) {})
			h := host(t, client(t, Options{}), base)
			f := feeding([]byte("begin"), 5, func() error { watch = bubble.Begin(t); return tt.end() })
			r := soon(t, "an error", func() result { return do(context.Background(), h, from(f, tt.length)) })
			if !errors.Is(r.err, tt.want) {
				t.Errorf("got %v, want %v", r.err, tt.want)
			}
			<-gone
			if took, awake := watch.End(); awake > time.Second {
				t.Errorf("the worker heard of it after %v, %v of it awake", took, awake)
			}
			if f.stopped() {
				t.Log("it was stopped as well")
			}
		})
	}
}

// TestNobodyWantsAnUpload holds that the end of the context ends an upload in
// every phase: while the source waits, while the worker takes nothing, and while
// an answer that came early waits for the rest.
func TestNobodyWantsAnUpload(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 32<<20)
	for _, tt := range []struct {
		name   string
		pieces int // -1 for all
		says   string
	}{
		{"the source waits", 1, ""},
		{"the worker takes nothing", -1, ""},
		{"an answer waits", 1, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 50\r\n\r\n"},
	} {
		for _, deadline := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, ", by a deadline: ", deadline), func(t *testing.T) {
				there, hold := make(chan struct{}), make(chan struct{})
				defer close(hold)
				base, _ := answering(t, func(c net.Conn, _ *bufio.Reader) {
					io.WriteString(c, tt.says)
					close(there)
					<-hold
				})
				h := host(t, client(t, Options{}), base)
				f := feeding(big, 64<<10, nil)
				if tt.pieces > 0 {
					f.pieces = f.pieces[:tt.pieces]
				}
				ctx, cancel := context.WithCancel(context.Background())
				if deadline {
					ctx, cancel = context.WithTimeout(context.Background(), time.Second) // so that it begins
				}
				go func() {
					<-there
					if !deadline {
						<-time.After(100 * time.Millisecond)
						cancel()
					}
				}()
				r := soon(t, "its end", func() result { return do(ctx, h, from(f, int64(len(big)))) })
				var e *Error
				<-ctx.Done() // its timer may be later than who looks at the clock
				if !errors.As(r.err, &e) || !errors.Is(e, ctx.Err()) {
					t.Errorf("got %v", r.err)
				}
				if !f.stopped() && f.failed == nil {
					t.Error("the source was not stopped")
				}
				cancel()
			})
		}
	}
}

// TestASourceThatNeverStops holds that a deadline also ends an upload whose
// worker takes every piece at once, and has answered already.
func TestASourceThatNeverStops(t *testing.T) {
	base, _ := answering(t, func(c net.Conn, in *bufio.Reader) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	h := host(t, client(t, Options{}), base)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	soon(t, "its end", func() result { return do(ctx, h, fromDrip()) })
}

// fromDrip makes an Exchange whose body never ends.
func fromDrip() *Exchange {
	x := from(&feed{}, -1)
	x.Draw(drip{}, -1)
	return x
}

// drip is a Source that goes on until nobody takes more.
type drip struct{}

func (drip) Pass(w io.Writer) error {
	for {
		if _, err := w.Write([]byte("x")); err != nil {
			return err
		}
		<-time.After(time.Millisecond)
	}
}

func (drip) Stop() {}
