package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/bubble"
	"sluice/internal/kit/sock"
)

// An ends is a tunnel seen from both sides.
type ends struct {
	client, worker *net.TCPConn
	served         infer.Served
	done           chan error
}

// pipe returns two ends of a connection.
func pipe(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		other.Close()
	})
	return nc.(*net.TCPConn), other.(*net.TCPConn)
}

// dig begins a tunnel.
func dig(t *testing.T, ctx context.Context, cfg Config, said, early string) *ends {
	t.Helper()
	b := backend(t)
	b.cfg = cfg
	client, clientEnd := pipe(t)
	worker, workerEnd := pipe(t)
	e := &ends{client: client, worker: worker, done: make(chan error, 1)}
	go func() {
		w := infer.NewReply(new(wire))
		err := b.pass(ctx, w, clientEnd, []byte(said), workerEnd, []byte(early))
		e.served = w.Served
		e.done <- err
	}()
	t.Cleanup(func() {
		client.Close()
		worker.Close()
	})
	return e
}

// wire is one on which nothing is sent.
type wire struct{ infer.Wire }

// end waits for the tunnel's end.
func (e *ends) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-e.done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("the tunnel does not end")
		return nil
	}
}

// hears reads as many bytes as want has.
func hears(t *testing.T, nc net.Conn, want string) {
	t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, len(want))
	if _, err := io.ReadFull(nc, b); err != nil || string(b) != want {
		t.Fatalf("heard %q, %v; want %q", b, err, want)
	}
}

// isOver holds that nothing more comes.
func isOver(t *testing.T, nc net.Conn) {
	t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := nc.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read %d bytes, %v; want the end", n, err)
	}
}

func write(t *testing.T, nc net.Conn, s string) {
	t.Helper()
	if _, err := nc.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasReadAlreadyComesFirst(t *testing.T) {
	e := dig(t, t.Context(), Config{}, "said ", "early ")
	hears(t, e.worker, "said ")
	hears(t, e.client, "early ")
	write(t, e.client, "more")
	write(t, e.worker, "more too")
	hears(t, e.worker, "more")
	hears(t, e.client, "more too")
	e.client.Close()
	isOver(t, e.worker)
	e.worker.Close()
	if err := e.end(t); err != nil || e.served.TunnelIn != 9 || e.served.TunnelOut != 14 {
		t.Errorf("ended with %v after %d bytes in and %d out, want 9 and 14", err, e.served.TunnelIn, e.served.TunnelOut)
	}
}

func TestHalfAnEndIsPassedOn(t *testing.T) {
	for _, name := range []string{"client", "worker"} {
		t.Run(name, func(t *testing.T) {
			e := dig(t, t.Context(), Config{}, "", "")
			first, last := e.client, e.worker
			if name == "worker" {
				first, last = last, first
			}
			write(t, first, "my last word")
			_ = first.CloseWrite()
			hears(t, last, "my last word")
			isOver(t, last)
			write(t, last, "and mine")
			hears(t, first, "and mine")
			last.Close()
			isOver(t, first)
			if err := e.end(t); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestAResetEndsBothHalves(t *testing.T) {
	for _, name := range []string{"client", "worker"} {
		t.Run(name, func(t *testing.T) {
			e := dig(t, t.Context(), Config{}, "", "")
			first, last := e.client, e.worker
			if name == "worker" {
				first, last = last, first
			}
			write(t, first, "x")
			hears(t, last, "x")
			_ = first.SetLinger(0)
			first.Close()
			isOver(t, last)
			if err := e.end(t); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// TestWhoDoesNotListenIsWaitedFor holds that a tunnel takes no more than is
// taken from it, loses nothing, and ends when it is told to.
func TestWhoDoesNotListenIsWaitedFor(t *testing.T) {
	waits := new(sock.Waits)
	ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), sock.Key{}, waits))
	defer cancel(nil)
	e := dig(t, ctx, Config{TunnelIdle: time.Hour}, "", "")
	piece := bytes.Repeat([]byte("0123456789"), 100<<10)
	sent := make(chan int, 1)
	go func() {
		n := 0
		for {
			_ = e.client.SetWriteDeadline(time.Now().Add(time.Second))
			k, err := e.client.Write(piece)
			if n += k; err != nil || n > 256<<20 {
				sent <- n
				return
			}
		}
	}()
	n := <-sent
	if n > 64<<20 {
		t.Fatalf("%d bytes were taken that nobody read", n)
	}
	got := 0
	for b := make([]byte, 64<<10); got < n; {
		_ = e.worker.SetReadDeadline(time.Now().Add(30 * time.Second))
		k, err := e.worker.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range k {
			if b[i] != byte('0'+(got+i)%10) {
				t.Fatalf("byte %d is %q", got+i, b[i])
			}
		}
		got += k
	}
	cancel(infer.Stopping)
	waits.End()
	if err := e.end(t); !errors.Is(err, infer.Stopping) {
		t.Errorf("ended with %v, want %v", err, infer.Stopping)
	}
	isOver(t, e.client)
	isOver(t, e.worker)
}

func TestNothingPassesForTooLong(t *testing.T) {
	t.Parallel()
	e := dig(t, t.Context(), Config{TunnelIdle: 5 * time.Second}, "", "") // so that the machine may stand still a little
	begin := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Since(begin) < 6*time.Second {
		write(t, e.client, "x")
		hears(t, e.worker, "x")
		<-tick.C
	}
	err := e.end(t)
	var own *infer.Error
	if !errors.As(err, &own) || own.Code != "tunnel_idle" {
		t.Errorf("ended with %v, want tunnel_idle", err)
	}
	isOver(t, e.client)
	isOver(t, e.worker)
}

// TestHalfAnEndIsNotWaitedForForEver holds that a tunnel of which one end has
// hung up has a time of its own for the other.
func TestHalfAnEndIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	e := dig(t, t.Context(), Config{TunnelIdle: time.Hour, TunnelHalf: 5 * time.Second}, "", "")
	_ = e.client.CloseWrite()
	isOver(t, e.worker)
	begin := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Since(begin) < 6*time.Second {
		write(t, e.worker, "x")
		hears(t, e.client, "x")
		<-tick.C
	}
	if err := e.end(t); err != nil {
		t.Errorf("ended with %v", err)
	}
	isOver(t, e.client)
}

func TestAContextWithoutWaitsEndsIt(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	e := dig(t, ctx, Config{}, "early", "")
	hears(t, e.worker, "early")
	cancel(infer.Stopping)
	if err := e.end(t); !errors.Is(err, infer.Stopping) {
		t.Errorf("ended with %v, want %v", err, infer.Stopping)
	}
}

// TestNoGoodByeIsWaitedFor holds that a tunnel which is cut ends at once, whoever
// does not listen: over TLS, closing has a word to say.
func TestNoGoodByeIsWaitedFor(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	near, far := net.Pipe() // holds nothing: what is not read is not written
	defer far.Close()
	worker := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() {
		shaken <- tls.Server(far, &tls.Config{Certificates: cert.TLS.Certificates, SessionTicketsDisabled: true}).Handshake()
	}()
	if err := errors.Join(worker.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	client, clientEnd := pipe(t)
	b := backend(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.pass(ctx, infer.NewReply(new(wire)), clientEnd, nil, worker, nil) }()
	write(t, client, "to nobody")
	cancel()
	watch := bubble.Begin(t)
	if err := <-done; infer.AsError(err).Status != infer.StatusClientGone {
		t.Errorf("got %v", err)
	}
	if took, awake := watch.End(); awake > 3*time.Second {
		t.Errorf("it ended after %v, %v of it awake", took, awake)
	}
	isOver(t, client)
}

func TestQuery(t *testing.T) {
	f := func(query, model, want string) {
		t.Helper()
		if got := of(query, model); got != want {
			t.Errorf("query %q with model %q: %q, want %q", query, model, got, want)
		}
	}
	f("model=m", "m", "model=m")
	f("model=alias", "m", "model=m")
	f("a=1&model=alias&b=%20", "a b&c", "a=1&model="+url.QueryEscape("a b&c")+"&b=%20")
	f("mod%65l=m", "m", "mod%65l=m")
	f("model=a%20b", "a b", "model=a%20b")
	f("intent=transcription&model=x", "x", "intent=transcription&model=x")
}

func of(q, model string) string { return query(&infer.Request{Query: q, Model: model}) }

// TestAHandshakeIsWhole holds that no client makes the gateway ask a worker for a
// WebSocket without the key that the worker's answer is held against, or with
// another version than it has asked for.
func TestAHandshakeIsWhole(t *testing.T) {
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	for _, tt := range []struct{ name, connection, version string }{
		{"as ever", "Upgrade", ""},
		{"the key is said to be the connection's", "Upgrade, Sec-WebSocket-Key", ""},
		{"so is the version", "Upgrade, Sec-WebSocket-Version", ""},
		{"there are two versions", "Upgrade", "8"},
	} {
		r := &infer.Request{Endpoint: infer.Realtime, Query: "model=m", Model: "m", ID: "id"}
		r.Header.AddString("Connection", tt.connection)
		r.Header.AddString("Sec-WebSocket-Key", key)
		r.Header.AddString("Sec-WebSocket-Version", "13")
		if tt.version != "" {
			r.Header.AddString("Sec-WebSocket-Version", tt.version)
		}
		b := backend(t)
		lead := worker(t, "http://w:8000", "")
		p, err := b.peer(lead)
		if err != nil {
			t.Fatal(err)
		}
		head, err := appendUpgrade(nil, r, lead, p)
		if err != nil {
			t.Fatal(err)
		}
		up, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err != nil {
			t.Fatal(err)
		}
		if k, v := up.Header["Sec-Websocket-Key"], up.Header["Sec-Websocket-Version"]; !slices.Equal(k, []string{key}) || !slices.Equal(v, []string{"13"}) {
			t.Errorf("%s: the worker gets the keys %q and the versions %q", tt.name, k, v)
		}
	}
}
