//go:build linux

// Package abuse does to the built gateway what the worst clients do. Sizes are
// moderate; SLUICE_SOAK=1 takes those that are promised.
package abuse

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/test/program"
)

func TestMain(m *testing.M) {
	code := m.Run()
	program.Clean()
	os.Exit(code)
}

// soak says that the promised sizes are wanted.
var soak = os.Getenv("SLUICE_SOAK") == "1"

func size(moderate, promised int) int {
	if soak {
		return promised
	}
	return moderate
}

const (
	chat = `{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":4}`
	head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
)

// A victim is a gateway, and what it needed before it was abused.
type victim struct {
	*program.Gateway
	addr                   string
	files, goroutines, rss int
}

// fleet starts an engine and a gateway before it, at most files open if that is
// not 0.
func fleet(t *testing.T, files int, flags ...string) *victim {
	t.Helper()
	e := program.Mock(t, 1, "--model", "m")
	return before(t, e.URLs[0], files, flags...)
}

// before is fleet for a worker that is there.
func before(t *testing.T, worker string, files int, flags ...string) *victim {
	t.Helper()
	flags = append([]string{"--worker-urls", worker}, flags...)
	v := &victim{}
	if files > 0 {
		v.Gateway = program.ServeWith(t, files, flags...)
	} else {
		v.Gateway = program.Serve(t, flags...)
	}
	v.WaitReady(t, 1)
	http.DefaultClient.CloseIdleConnections() // which asked
	v.addr = strings.TrimPrefix(v.URL, "http://")
	return v
}

// settle notes what the gateway needs when all is well.
func (v *victim) settle(t *testing.T) {
	t.Helper()
	for range 3 {
		v.ask(t)
	}
	v.files, v.goroutines, v.rss = v.openFiles(t), v.metric(t, "go_goroutines"), v.memory(t)
}

// ask asks as everybody does, on a connection of its own.
func (v *victim) ask(t *testing.T) {
	t.Helper()
	c := v.dial(t)
	defer c.Close()
	watch := bubble.Begin(t)
	if status, body := c.ask(); status != 200 {
		t.Fatalf("a normal request got %d %s", status, body)
	}
	if took, awake := watch.End(); awake > 5*time.Second {
		t.Errorf("a normal request took %s, %s of it awake", took, awake)
	}
}

// recovers waits until the gateway needs what it needed before.
func (v *victim) recovers(t *testing.T, memory int) {
	t.Helper()
	program.Eventually(t, "descriptors are given back", func() bool { return v.openFiles(t) <= v.files+2 })
	program.Eventually(t, "goroutines have ended", func() bool { return v.metric(t, "go_goroutines") <= v.goroutines+4 })
	program.Eventually(t, "no client's connection counts", func() bool { return v.metric(t, "sluice_client_connections") == 0 })
	now := v.memory(t)
	t.Logf("memory was %d MiB, is %d MiB", v.rss>>20, now>>20)
	if now > v.rss+memory {
		t.Errorf("it needs %d MiB now and %d MiB before; want %d MiB more at most", now>>20, v.rss>>20, memory>>20)
	}
	v.ask(t)
}

func (v *victim) openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", v.PID()))
	if err != nil {
		t.Fatalf("the gateway is gone: %v", err)
	}
	return len(fds)
}

// memory is what is resident, in bytes.
func (v *victim) memory(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(v.PID()), "status"))
	if err != nil {
		t.Fatalf("the gateway is gone: %v", err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// metric is the sum of a metric's values.
func (v *victim) metric(t *testing.T, name string) (sum int) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get(v.MetricsURL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for s := bufio.NewScanner(res.Body); s.Scan(); {
		rest, ok := strings.CutPrefix(s.Text(), name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		n, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += int(n)
	}
	return sum
}

// A conn is one client's.
type conn struct {
	net.Conn
	br *bufio.Reader
}

func (v *victim) dial(t *testing.T) *conn {
	t.Helper()
	nc, err := net.DialTimeout("tcp", v.addr, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(2 * time.Minute))
	return &conn{nc, bufio.NewReader(nc)}
}

// dials opens n connections, until the test ends.
func (v *victim) dials(t *testing.T, n int) []*conn {
	t.Helper()
	cs := make([]*conn, n)
	for i := range cs {
		cs[i] = v.dial(t)
	}
	t.Cleanup(func() { closeAll(cs) })
	return cs
}

func closeAll(cs []*conn) {
	for _, c := range cs {
		_ = c.Close()
	}
}

func (c *conn) ask() (status int, body string) { return c.tokens(4) }

// tokens asks for an answer of so many tokens.
func (c *conn) tokens(n int) (status int, body string) {
	ask := strings.Replace(chat, `"max_tokens":4`, fmt.Sprintf(`"max_tokens":%d`, n), 1)
	_, _ = fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n%s", head, len(ask), ask)
	return c.answer()
}

func (c *conn) answer() (status int, body string) {
	res, err := http.ReadResponse(c.br, nil)
	if err != nil {
		return 0, err.Error()
	}
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// TestHalfOpenConnections has very many clients connect and ask nothing, or
// not to the end.
func TestHalfOpenConnections(t *testing.T) {
	t.Parallel()
	v := fleet(t, 0)
	v.settle(t)
	n := size(1000, 5000)
	cs := v.dials(t, n)
	for i, c := range cs {
		switch i % 4 {
		case 1:
			_, _ = io.WriteString(c, "POST /v1/chat/comp")
		case 2:
			_, _ = fmt.Fprintf(c, "%sContent-Length: 1000\r\n\r\n{", head)
		}
	}
	program.Eventually(t, "all are connected", func() bool { return v.metric(t, "sluice_client_connections") == n })
	for range 50 {
		v.ask(t)
	}
	each := (v.memory(t) - v.rss) / n
	t.Logf("%d B a connection", each)
	if each > 48<<10 {
		t.Errorf("a connection that asks nothing costs %d KiB", each>>10)
	}
	closeAll(cs)
	v.recovers(t, 32<<20+n*48<<10)
}

// TestSlowHeaders has clients send a byte now and then.
func TestSlowHeaders(t *testing.T) {
	t.Parallel()
	v := fleet(t, 0, "--header-read-timeout-secs", "4") // long enough for a first byte on a busy machine: who sends none is told nothing
	v.settle(t)
	cs := v.dials(t, size(200, 2000))
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		for i := 0; i < 20; i++ {
			for _, c := range cs {
				_, _ = c.Write([]byte(head[i : i+1]))
			}
			time.Sleep(time.Second / 4)
		}
	}()
	watch := bubble.Begin(t)
	for range 20 {
		v.ask(t)
	}
	for _, c := range cs {
		if status, body := c.answer(); status != 408 || !strings.Contains(body, "request_header_timeout") {
			t.Fatalf("a slow client got %d %s", status, body)
		}
	}
	if took, awake := watch.End(); awake > 20*time.Second {
		t.Errorf("they were let go after %s, %s of it awake; want 4 s", took, awake)
	}
	<-quiet
	closeAll(cs)
	v.recovers(t, 32<<20+len(cs)*48<<10)
}

// TestSlowBodies has clients announce much and send a byte a second.
func TestSlowBodies(t *testing.T) {
	t.Parallel()
	v := fleet(t, 0)
	v.settle(t)
	n := size(300, 2000)
	cs := v.dials(t, n)
	for i, c := range cs {
		switch i % 2 {
		case 0:
			_, _ = fmt.Fprintf(c, "%sContent-Length: 100000000\r\n\r\n{", head)
		case 1:
			_, _ = fmt.Fprintf(c, "%sTransfer-Encoding: chunked\r\n\r\nfffffff\r\n{", head)
		}
	}
	for range size(3, 40) {
		time.Sleep(time.Second)
		for _, c := range cs {
			_, _ = c.Write([]byte(" "))
		}
	}
	for range 20 {
		v.ask(t)
	}
	each := (v.memory(t) - v.rss) / n
	t.Logf("%d B a connection", each)
	if each > 64<<10 {
		t.Errorf("a body of a few bytes costs %d KiB", each>>10)
	}
	if soak { // 30 s are given at any rate
		for _, c := range cs {
			if status, body := c.answer(); status != 408 || !strings.Contains(body, "request_body_timeout") {
				t.Fatalf("a slow client got %d %s", status, body)
			}
		}
	}
	closeAll(cs)
	v.recovers(t, 32<<20+n*64<<10)
}

// endless is a worker whose streams do not end.
type endless struct {
	url   string
	begun atomic.Int64 // streams
	alive atomic.Int64 // of them, those that have not ended
}

func newEndless(t *testing.T) *endless {
	t.Helper()
	w := &endless{}
	event := []byte("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" + strings.Repeat("a", 1000) + "\"}}]}\n\n")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v1/models", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, `{"object":"list","data":[{"id":"m","owned_by":"x"}]}`)
	})
	mux.HandleFunc("POST /v1/chat/completions", func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if !strings.Contains(string(b), `"stream":true`) {
			rw.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(rw, `{"ok":true}`)
			return
		}
		w.begun.Add(1)
		w.alive.Add(1)
		defer w.alive.Add(-1)
		rw.Header().Set("Content-Type", "text/event-stream")
		for {
			if _, err := rw.Write(event); err != nil {
				return
			}
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	w.url = "http://" + l.Addr().String()
	return w
}

// TestClientsThatDoNotRead has clients ask for streams and never read them.
func TestClientsThatDoNotRead(t *testing.T) {
	t.Parallel()
	w := newEndless(t)
	v := before(t, w.url, 0, "--client-write-timeout-secs", "3")
	v.settle(t)
	n := size(50, 500)
	cs := v.dials(t, n)
	stream := strings.Replace(chat, `"model"`, `"stream":true,"model"`, 1)
	for _, c := range cs {
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		_, _ = fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n%s", head, len(stream), stream)
	}
	program.Eventually(t, "all streams have begun", func() bool { return w.begun.Load() == int64(n) })
	for range 10 {
		v.ask(t)
	}
	each := (v.memory(t) - v.rss) / n
	t.Logf("%d B a stream that stands", each)
	if each > 192<<10 { // what was read of its worker and is not taken, twice at most, and its stack
		t.Errorf("a stream that stands costs %d KiB", each>>10)
	}
	program.Eventually(t, "their workers are let go", func() bool { return w.alive.Load() == 0 })
	program.Eventually(t, "all are counted as stalled", func() bool {
		return v.metric(t, `sluice_client_connections_refused_total{reason="stalled"}`) == n
	})
	closeAll(cs)
	v.recovers(t, 32<<20+n*192<<10)
}

// TestChurn has clients come and go, each in its own way.
func TestChurn(t *testing.T) {
	t.Parallel()
	v := fleet(t, 0)
	v.settle(t)
	var wg sync.WaitGroup
	n := size(2000, 20000)
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				nc, err := net.Dial("tcp", v.addr)
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
				c := &conn{nc, bufio.NewReader(nc)}
				switch i % 5 {
				case 0: // asks and leaves
					_, _ = io.WriteString(c, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
				case 1: // resets
					_, _ = fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n%s", head, len(chat), chat)
					_ = nc.(*net.TCPConn).SetLinger(0)
				case 2: // says nothing
				default:
					if status, body := c.ask(); status != 200 {
						t.Errorf("request %d got %d %s", i, status, body)
					}
				}
				_ = c.Close()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	v.recovers(t, 64<<20)
}

// TestHugeHeaders has clients send headers without an end.
func TestHugeHeaders(t *testing.T) {
	t.Parallel()
	v := fleet(t, 0)
	v.settle(t)
	for range size(50, 500) {
		for _, say := range []string{
			"GET /health HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 20_000),
			"GET /health HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("b", 1<<20),
			"GET /health HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Forwarded-For: 10.0.0.1\r\n", 5000) + "\r\n",
		} {
			c := v.dial(t)
			go func() { _, _ = io.WriteString(c, say) }()
			if status, body := c.answer(); status != 431 {
				t.Fatalf("got %d %s, want 431", status, body)
			}
			_ = c.Close()
		}
	}
	v.recovers(t, 64<<20)
}

// TestDescriptorsRunOut has more clients than the gateway may have files open:
// those who are connected reach workers all the same, all at once, and those who
// are not wait until others leave.
func TestDescriptorsRunOut(t *testing.T) {
	t.Parallel()
	e := program.Mock(t, 1, "--model", "m", "--speed", "1") // answers take their time
	v := before(t, e.URLs[0], 200)
	v.settle(t)
	held := v.dials(t, 60)
	for _, c := range held {
		if status, body := c.ask(); status != 200 {
			t.Fatalf("got %d %s", status, body)
		}
	}
	cs := v.dials(t, 400) // those that are not accepted wait in the kernel
	program.Eventually(t, "accepting stops", func() bool { return strings.Contains(v.Log(), "connections cannot be accepted") })
	if n := v.metric(t, "sluice_client_connections"); n != 75 {
		t.Errorf("of 200 descriptors clients have %d, want 75", n)
	}
	opened := v.metric(t, "sluice_upstream_connections_opened_total")
	var wg sync.WaitGroup
	for i, c := range held {
		wg.Go(func() {
			if status, body := c.tokens(150); status != 200 {
				t.Errorf("on connection %d, which was open: got %d %s", i, status, body)
			}
		})
	}
	wg.Wait()
	if n := v.metric(t, "sluice_upstream_connections_opened_total") - opened; n < len(held)*3/4 {
		t.Errorf("%d connections to the worker were opened: the requests were not at once", n)
	}
	if n := v.metric(t, "sluice_upstream_connections_failed_total"); n != 0 {
		t.Errorf("%d connections to the worker could not be opened", n)
	}
	for range 20 {
		if status, body := held[0].ask(); status != 200 {
			t.Fatalf("on a connection that was open: got %d %s", status, body)
		}
	}
	last := cs[len(cs)-1] // who came last
	closeAll(cs[:len(cs)-1])
	if status, body := last.ask(); status != 200 {
		t.Errorf("who had waited got %d %s", status, body)
	}
	program.Eventually(t, "connections are accepted again", func() bool { return strings.Contains(v.Log(), "connections are accepted again") })
	if n := strings.Count(v.Log(), "connections cannot be accepted"); n != 1 {
		t.Errorf("that connections are not accepted stands in the log %d times, want 1", n)
	}
	v.ask(t)
	_ = last.Close()
	closeAll(held)
	v.recovers(t, 32<<20)
}
