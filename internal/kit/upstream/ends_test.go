package upstream

import (
	"bufio"
	"context"
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
	"sluice/internal/kit/metric"
	"sluice/internal/kit/sock"
)

// A phase is where an exchange can be when nobody wants it any more.
type phase struct {
	name    string
	op      string
	prepare func(t *testing.T) (h *Host, x *Exchange, there <-chan struct{})
}

// silent is a worker that does f when it is connected to, and then waits for
// the end of the connection, without reading.
func silent(t testing.TB, f func(c net.Conn)) (base string) {
	t.Helper()
	ln := listen(t, "tcp")
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				f(c)
				<-stop
			})
		}
	})
	t.Cleanup(func() {
		close(stop)
		ln.Close()
		all.Wait()
	})
	return "http://" + ln.Addr().String()
}

func phases() []phase {
	big := strings.Repeat("x", 32<<20)
	says := func(wire string) func(t *testing.T) (*Host, *Exchange, <-chan struct{}) {
		return func(t *testing.T) (*Host, *Exchange, <-chan struct{}) {
			there := make(chan struct{}, 1)
			base := silent(t, func(c net.Conn) {
				http.ReadRequest(bufio.NewReader(c))
				io.WriteString(c, wire)
				there <- struct{}{}
			})
			return host(t, client(t, Options{}), base), post("{}"), there
		}
	}
	return []phase{
		{"in the queue", "wait", func(t *testing.T) (*Host, *Exchange, <-chan struct{}) {
			cfg := DefaultConfig()
			cfg.MaxConnections = 1
			release := make(chan struct{})
			w := start(t, func(c net.Conn, _ int, r *http.Request, body []byte) bool {
				<-release
				return echo(c, 0, r, body)
			})
			h := host(t, client(t, Options{Config: cfg}), w.url)
			done := make(chan result, 1)
			go func() { done <- do(context.Background(), h, post("{}")) }()
			t.Cleanup(func() { close(release); (<-done).want(t, 200, "{}") })
			until(t, "the place is taken", func() bool { return w.requests.Load() == 1 })
			there := make(chan struct{}, 1)
			there <- struct{}{}
			return h, post("{}"), there
		}},
		{"connecting", "dial", func(t *testing.T) (*Host, *Exchange, <-chan struct{}) {
			there := make(chan struct{}, 1)
			c := client(t, Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				there <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}})
			return host(t, c, "http://127.0.0.1"), post("{}"), there
		}},
		{"TLS handshake", "dial", func(t *testing.T) (*Host, *Exchange, <-chan struct{}) {
			there := make(chan struct{}, 1)
			base := silent(t, func(net.Conn) { there <- struct{}{} })
			return host(t, client(t, Options{}), strings.Replace(base, "http", "https", 1)), post("{}"), there
		}},
		{"sending", "send", func(t *testing.T) (*Host, *Exchange, <-chan struct{}) {
			there := make(chan struct{}, 1)
			base := silent(t, func(net.Conn) { there <- struct{}{} })
			return host(t, client(t, Options{}), base), post(big), there
		}},
		{"before an answer", "answer", says("")},
		{"after 100", "answer", says("HTTP/1.1 100 Continue\r\n\r\n")},
		{"in the head", "answer", says(ok200 + "Content-Le")},
		{"before the body", "body", says(ok200 + "Content-Length: 5\r\n\r\n")},
		{"in the body", "body", says(ok200 + "Content-Length: 5\r\n\r\nhel")},
		{"between chunks", "body", says(ok200 + chunked + "\r\n5\r\nhello\r\n")},
		{"in a body until close", "body", says(ok200 + "\r\nhello")},
	}
}

// TestCancel holds that an exchange ends at once when its context does, in
// every phase, however it hears of it: not when something else is due. On a busy
// machine, at once is a little later.
func TestCancel(t *testing.T) {
	cause := errors.New("the client has gone")
	for _, p := range phases() {
		for _, how := range []string{"context", "waits"} {
			t.Run(p.name+", "+how, func(t *testing.T) {
				h, x, there := p.prepare(t)
				ctx, cancel := context.WithCancelCause(context.Background())
				end := func() { cancel(cause) }
				if how == "waits" {
					var w sock.Waits
					ctx = context.WithValue(ctx, sock.Key{}, &w)
					end = func() { cancel(cause); w.End() }
				}
				done := make(chan result, 1)
				go func() { done <- do(ctx, h, x) }()
				select {
				case <-there:
				case <-time.After(patience):
					t.Fatal("never came so far")
				}
				<-time.After(20 * time.Millisecond) // so that it does not only begin to wait
				watch := bubble.Begin(t)
				end()
				var r result
				select {
				case r = <-done:
				case <-time.After(patience):
					t.Fatal("still waiting")
				}
				if took, awake := watch.End(); awake > 300*time.Millisecond {
					t.Errorf("took %v, %v of it awake", took, awake)
				}
				var e *Error
				if !errors.Is(r.err, cause) || !errors.As(r.err, &e) || e.Op != p.op || e.Timeout {
					t.Errorf("got %v, want it to be of %q", r.err, p.op)
				}
				if _, idle := h.counts(); idle > 0 {
					t.Error("the connection is kept")
				}
			})
		}
	}
}

func TestContextThatIsOver(t *testing.T) {
	w := start(t, echo)
	h := host(t, client(t, Options{}), w.url)
	ask(t, h, "a")
	var waits sock.Waits
	waits.End()
	ended, cancel := context.WithCancel(context.WithValue(context.Background(), sock.Key{}, &waits))
	cancel()
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	for want, ctx := range map[error]context.Context{context.Canceled: canceled, context.DeadlineExceeded: late} {
		if r := do(ctx, h, post("b")); !errors.Is(r.err, want) {
			t.Errorf("got %d, %v; want %v", r.status, r.err, want)
		}
	}
	if r := do(ended, h, post("b")); !errors.Is(r.err, context.Canceled) {
		t.Errorf("got %d, %v", r.status, r.err)
	}
	if _, idle := h.counts(); idle != 1 {
		t.Error("a connection was given up for requests that nobody wants")
	}
}

// TestDeadline holds that the context's deadline bounds every phase, to the
// Watch's precision and never early.
func TestDeadline(t *testing.T) {
	const d = time.Second // in which each gets to its phase, also on a busy machine
	for _, p := range phases() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			h, x, _ := p.prepare(t)
			var w sock.Waits // nobody Ends it: the deadline alone must do
			watch := bubble.Begin(t)
			ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), sock.Key{}, &w), d)
			defer cancel()
			r := soon(t, "end", func() result { return do(ctx, h, x) })
			if took, awake := watch.End(); took < d || awake > d+2*sock.Tick+time.Second {
				t.Errorf("after %v, %v of it awake", took, awake)
			}
			var e *Error
			if !errors.Is(r.err, context.DeadlineExceeded) || !errors.As(r.err, &e) || !e.Timeout || e.Op != p.op {
				t.Errorf("got %v, want it to be of %q", r.err, p.op)
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	slowly := func(n int, every time.Duration, piece string) func(net.Conn, int, *http.Request, []byte) bool {
		return func(c net.Conn, _ int, _ *http.Request, _ []byte) bool {
			for range n {
				<-time.After(every)
				if _, err := io.WriteString(c, piece); err != nil {
					return false
				}
			}
			io.Copy(io.Discard, c)
			return false
		}
	}
	tests := []struct {
		name               string
		script             func(net.Conn, int, *http.Request, []byte) bool
		firstByte, between time.Duration
		op                 string
	}{
		{"no first byte", slowly(0, 0, ""), 200 * time.Millisecond, 0, "answer"},
		{"head that does not end", slowly(30, 50*time.Millisecond, "H"), 200 * time.Millisecond, 0, "answer"},
		{"interim answers only", slowly(10, 100*time.Millisecond, "HTTP/1.1 100 Continue\r\n\r\n"), 200 * time.Millisecond, 0, "answer"},
		{"silence in the body", func(c net.Conn, _ int, r *http.Request, _ []byte) bool {
			io.WriteString(c, ok200+"Content-Length: 9\r\n\r\nhello")
			return slowly(0, 0, "")(c, 0, r, nil)
		}, 0, 200 * time.Millisecond, "body"},
		{"silence before the body", func(c net.Conn, _ int, r *http.Request, _ []byte) bool {
			io.WriteString(c, ok200+"Content-Length: 9\r\n\r\n")
			return slowly(0, 0, "")(c, 0, r, nil)
		}, 0, 200 * time.Millisecond, "body"},
		{"slow, but never silent", func(c net.Conn, _ int, _ *http.Request, _ []byte) bool {
			io.WriteString(c, ok200+"Content-Length: 12\r\n\r\n")
			for range 12 {
				<-time.After(300 * time.Millisecond)
				io.WriteString(c, "x")
			}
			return true
		}, 3 * time.Second, 3 * time.Second, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, tt.script)
			m, reg := new(Metrics), metric.NewRegistry(nil)
			metric.Fill(reg, m)
			h := host(t, client(t, Options{Metrics: m}), w.url)
			x := post("{}")
			x.FirstByte, x.Between = tt.firstByte, tt.between
			r := soon(t, "end", func() result { return do(context.Background(), h, x) })
			if tt.op == "" {
				r.want(t, 200, strings.Repeat("x", 12))
				if _, idle := h.counts(); idle != 1 {
					t.Error("the connection is not kept")
				}
				ask := post("{}")
				if got := soon(t, "again", func() result { return do(context.Background(), h, ask) }); got.err != nil {
					t.Errorf("the next on it: %v", got.err)
				}
				return
			}
			var e *Error
			if !errors.As(r.err, &e) || e.Op != tt.op {
				t.Fatalf("got %d, %v", r.status, r.err)
			}
			var broken *h1.Error
			if !e.Timeout && !errors.As(r.err, &broken) { // a head of H only is no HTTP
				t.Errorf("%v is no timeout", r.err)
			}
			if n := shown(reg, fmt.Sprintf("sluice_upstream_timeouts_total{phase=%q}", e.Op)); e.Timeout != (n == "1") {
				t.Errorf("%v: %s were counted", r.err, n)
			}
			if errors.Is(r.err, context.DeadlineExceeded) {
				t.Errorf("%v is taken for the context's", r.err)
			}
		})
	}
}

// lazy is a Sink that takes its time.
type lazy struct {
	wires
	pause time.Duration
}

func (l *lazy) Body(b *h1.Body, wire []byte) (int, error) {
	<-time.After(l.pause)
	return l.wires.Body(b, wire)
}

func TestClientThatReadsSlowlyIsNotTheWorkersFault(t *testing.T) {
	t.Parallel()
	w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		io.WriteString(c, ok200+"Content-Length: 10\r\n\r\nhello")
		<-time.After(50 * time.Millisecond)
		io.WriteString(c, "there")
		return true
	})
	h := host(t, client(t, Options{}), w.url)
	x, s := post("{}"), &lazy{pause: 3 * time.Second}
	x.Sink, x.FirstByte, x.Between = s, 2*time.Second, 2*time.Second
	if err := h.Do(context.Background(), x); err != nil || string(s.wire) != "hellothere" {
		t.Errorf("got %q, %v", s.wire, err)
	}
	x.Free()
	if _, idle := h.counts(); idle != 1 {
		t.Error("the connection is not kept")
	}
}

// TestEarlyAnswers holds that a worker may refuse a request before it has read
// it, and that it is not waited for to read the rest.
func TestEarlyAnswers(t *testing.T) {
	big := strings.Repeat("x", 32<<20)
	refusal := "HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nlong"
	readHead := func(c net.Conn) { bufio.NewReaderSize(c, 16).ReadString('\n') }
	tests := []struct {
		name string
		do   func(c net.Conn)
	}{
		{"and reads no more", func(c net.Conn) { readHead(c); io.WriteString(c, refusal) }},
		{"and closes", func(c net.Conn) { readHead(c); io.WriteString(c, refusal); c.Close() }},
		{"and says that it closes", func(c net.Conn) {
			readHead(c)
			io.WriteString(c, strings.Replace(refusal, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
			c.(*net.TCPConn).CloseWrite()
		}},
		{"and goes on to read", func(c net.Conn) {
			readHead(c)
			io.WriteString(c, refusal)
			io.CopyN(io.Discard, c, 1<<20)
		}},
		{"without having read anything", func(c net.Conn) { io.WriteString(c, refusal) }},
		{"in two halves", func(c net.Conn) {
			readHead(c)
			io.WriteString(c, refusal[:20])
			<-time.After(50 * time.Millisecond)
			io.WriteString(c, refusal[20:])
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := silent(t, tt.do)
			h := host(t, client(t, Options{}), base)
			watch := bubble.Begin(t)
			r := soon(t, "refusal", func() result { return do(context.Background(), h, post(big)) })
			r.want(t, 413, "long")
			if took, awake := watch.End(); awake > 2*time.Second {
				t.Errorf("after %v, %v of it awake", took, awake)
			}
			if open, _ := h.counts(); open != 0 {
				t.Error("a connection is kept on which half a request was sent")
			}
		})
	}
}

// TestAnswerThatBeginsEarly holds that an answer which is not a refusal does
// not end the sending.
func TestAnswerThatBeginsEarly(t *testing.T) {
	const size = 8 << 20
	got := make(chan int64, 1)
	base := silent(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		io.WriteString(c, ok200+"Content-Length: 5\r\n\r\n")
		n, _ := io.Copy(io.Discard, r.Body)
		io.WriteString(c, "hello")
		got <- n
	})
	h := host(t, client(t, Options{}), base)
	soon(t, "answer", func() result { return do(context.Background(), h, post(strings.Repeat("x", size))) }).want(t, 200, "hello")
	if n := <-got; n != size {
		t.Errorf("%d bytes came", n)
	}
	if _, idle := h.counts(); idle != 1 {
		t.Error("the connection is not kept")
	}
}

// TestBodyIsLeftAloneAfterTheAnswer is for the race detector: who has an answer
// may use the request's memory again.
func TestBodyIsLeftAloneAfterTheAnswer(t *testing.T) {
	base := silent(t, func(c net.Conn) {
		bufio.NewReaderSize(c, 16).ReadString('\n')
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
	})
	h := host(t, client(t, Options{}), base)
	for range 5 {
		x := post(strings.Repeat("x", 16<<20))
		x.Sink = scribbler{x.Body}
		if err := h.Do(context.Background(), x); err != nil {
			t.Error(err)
		}
		x.Free()
	}
}

// scribbler is a Sink that writes to what it was given.
type scribbler struct{ p []byte }

func (s scribbler) Answer(*h1.ResponseHead) error {
	for i := range s.p {
		s.p[i] = 'y'
	}
	return nil
}

func (s scribbler) Body(*h1.Body, []byte) (int, error) { return 0, fmt.Errorf("no body was expected") }
