package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/kit/metric"
	"sluice/internal/kit/sock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything may take before a test gives up on it.
const patience = 30 * time.Second

// client returns a Client whose Watch Runs until the test ends.
func client(t testing.TB, o Options) *Client {
	t.Helper()
	w, err := sock.NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	o.Watch = w
	if o.Config == (Config{}) {
		o.Config = DefaultConfig()
	}
	if o.Metrics == nil {
		o.Metrics = new(Metrics)
		metric.Fill(metric.NewRegistry(nil), o.Metrics)
	}
	c := New(o)
	t.Cleanup(func() {
		c.Close()
		if open := c.sum(func(h *Host) int { return h.open }); open != 0 {
			t.Errorf("%v connections are open at the end", open)
		}
		cancel()
		<-done
	})
	return c
}

func host(t testing.TB, c *Client, base string) *Host {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	h, err := c.Host(u)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// A worker answers requests by a script.
type worker struct {
	url      string
	requests atomic.Int32
	conns    atomic.Int32

	mu   sync.Mutex // guards open
	open map[net.Conn]bool
}

// serve starts a worker on ln. script is called for each request, with how many
// there were on the connection before, and reports whether it may serve
// another.
func serve(t testing.TB, ln net.Listener, script func(c net.Conn, nth int, r *http.Request, body []byte) bool) *worker {
	t.Helper()
	w := &worker{url: "http://" + ln.Addr().String(), open: make(map[net.Conn]bool)}
	if ln.Addr().Network() == "unix" {
		w.url = "unix:" + ln.Addr().String()
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			w.conns.Add(1)
			w.mu.Lock()
			w.open[c] = true
			w.mu.Unlock()
			all.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for nth := 0; ; nth++ {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					body, err := io.ReadAll(r.Body)
					if err != nil {
						return
					}
					w.requests.Add(1)
					if !script(c, nth, r, body) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		w.mu.Lock()
		for c := range w.open {
			c.Close()
		}
		w.mu.Unlock()
		all.Wait()
	})
	return w
}

func listen(t testing.TB, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "w")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// start is serve on a port of its own.
func start(t testing.TB, script func(c net.Conn, nth int, r *http.Request, body []byte) bool) *worker {
	t.Helper()
	return serve(t, listen(t, "tcp"), script)
}

// echo answers with the request's body.
func echo(c net.Conn, _ int, _ *http.Request, body []byte) bool {
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	return true
}

// post makes an Exchange.
func post(body string) *Exchange {
	x := NewExchange(0)
	x.Method = "POST"
	x.Head = fmt.Appendf(x.Head, "POST /v1/x HTTP/1.1\r\nHost: worker\r\nContent-Length: %d\r\n\r\n", len(body))
	x.Body = []byte(body)
	return x
}

// result is what became of an exchange.
type result struct {
	status int
	body   string
	err    error
}

// do sends x and frees it.
func do(ctx context.Context, h *Host, x *Exchange) result {
	c := &Collect{Limit: 64 << 20}
	x.Sink = c
	err := h.Do(ctx, x)
	r := result{c.Status, string(c.Bytes()), err}
	c.Free()
	x.Free()
	return r
}

// soon fails the test if f takes too long.
func soon(t testing.TB, what string, f func() result) result {
	t.Helper()
	done := make(chan result, 1)
	go func() { done <- f() }()
	select {
	case r := <-done:
		return r
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
		return result{}
	}
}

// want fails the test if an exchange did not go as it should.
func (r result) want(t testing.TB, status int, body string) {
	t.Helper()
	if r.err != nil || r.status != status || r.body != body {
		t.Fatalf("got %d %.60q, %v; want %d %.60q", r.status, r.body, r.err, status, body)
	}
}

// ask sends body and wants it back.
func ask(t testing.TB, h *Host, body string) {
	t.Helper()
	soon(t, "echo", func() result { return do(context.Background(), h, post(body)) }).want(t, 200, body)
}

// until waits for f.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-time.After(time.Millisecond)
	}
}

func (h *Host) counts() (open, idle int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open, h.idle.n
}

// shown is the value of a metric, named with its labels as it is shown.
func shown(reg *metric.Registry, name string) string {
	w := httptest.NewRecorder()
	reg.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func TestHosts(t *testing.T) {
	c := client(t, Options{})
	for _, bad := range []string{"ftp://a", "http://", "unix:", "/path"} {
		u, err := url.Parse(bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Host(u); err == nil {
			t.Errorf("%q is taken for a worker", bad)
		}
	}
	h := host(t, c, "https://[::1]/v1")
	if h.port != "443" || h.name != "::1" || h.fixed == nil {
		t.Errorf("read as %q %q", h.name, h.port)
	}
	c.Close()
	if _, err := c.Host(&url.URL{Scheme: "http", Host: "a"}); err == nil {
		t.Error("a closed client takes workers")
	}
}

func TestUnixSocket(t *testing.T) {
	w := serve(t, listen(t, "unix"), echo)
	h := host(t, client(t, Options{}), w.url)
	ask(t, h, "a")
	ask(t, h, "b")
	if n := w.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestBodiesOfAllSizes(t *testing.T) {
	w := start(t, echo)
	h := host(t, client(t, Options{}), w.url)
	big := make([]byte, 9<<20)
	for i := range big {
		big[i] = byte('a' + i%23)
	}
	for _, n := range []int{0, 1, oneWrite - 1, oneWrite, oneWrite + 1, readSize * 2, 200 << 10, 2 << 20, len(big), 3} {
		ask(t, h, string(big[:n]))
	}
	if n := w.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestManyAtOnce(t *testing.T) {
	w := start(t, echo)
	h := host(t, client(t, Options{}), w.url)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for k := range 50 {
				body := fmt.Sprint(i, "/", k)
				if r := do(context.Background(), h, post(body)); r.err != nil || r.body != body {
					t.Errorf("asked %q, got %q, %v", body, r.body, r.err)
				}
			}
		})
	}
	all.Wait()
	if n := w.conns.Load(); n > 16 {
		t.Errorf("%d connections for 16 who ask one after another", n)
	}
}

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{
		{PoolIdle: 0, ConnectTimeout: 1}, {PoolIdle: 1, ConnectTimeout: 0},
		{PoolIdle: 1, ConnectTimeout: 1, MaxIdle: -1}, {PoolIdle: 1, ConnectTimeout: 1, MaxConnections: -1},
		{PoolIdle: 1, ConnectTimeout: 1, FirstByte: -1}, {PoolIdle: 1, ConnectTimeout: 1, Silence: -1},
	} {
		if c.Validate() == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
