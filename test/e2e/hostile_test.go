package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// A rogue is a worker that passes every check and then misbehaves, byte by
// byte as a test wants it.
type rogue struct {
	URL   string
	model string
	takes bool // reply reads the body

	mu    sync.Mutex
	asked []*http.Request // guarded by mu; those that infer
	bytes []string        // guarded by mu; their bodies
}

// newRogue returns a worker that serves model m and leaves what infers to
// reply, which writes to the connection what it likes; then it is closed.
func newRogue(t testing.TB, reply func(c net.Conn, r *http.Request)) *rogue {
	t.Helper()
	return newRogueOf(t, "m", reply)
}

// newRogueOf is newRogue for another model.
func newRogueOf(t testing.TB, model string, reply func(c net.Conn, r *http.Request)) *rogue {
	t.Helper()
	return startRogue(t, &rogue{model: model}, reply)
}

// newTaker is newRogue for a reply that reads the body itself.
func newTaker(t testing.TB, reply func(c net.Conn, r *http.Request)) *rogue {
	t.Helper()
	return startRogue(t, &rogue{model: "m", takes: true}, reply)
}

func startRogue(t testing.TB, w *rogue, reply func(c net.Conn, r *http.Request)) *rogue {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.URL = "http://" + l.Addr().String()
	var all sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			all.Go(func() {
				w.serve(c, reply)
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
				c.Close()
			})
		}
	})
	return w
}

func (w *rogue) serve(c net.Conn, reply func(net.Conn, *http.Request)) {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	if r.Method == http.MethodGet {
		switch r.URL.Path {
		case "/health":
			say(c, "200 OK", "text/plain", "ok")
		case "/v1/models":
			if w.model == "" { // it takes any name
				say(c, "200 OK", "application/json", `{"object":"list","data":[]}`)
				return
			}
			say(c, "200 OK", "application/json", fmt.Sprintf(`{"object":"list","data":[{"id":%q,"owned_by":"x"}]}`, w.model))
		default:
			say(c, "404 Not Found", "text/plain", "")
		}
		return
	}
	var b []byte
	if !w.takes {
		if b, err = io.ReadAll(r.Body); err != nil {
			return
		}
	}
	w.mu.Lock()
	w.asked, w.bytes = append(w.asked, r), append(w.bytes, string(b))
	w.mu.Unlock()
	reply(c, r)
}

// times is how often it was asked to infer.
func (w *rogue) times() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

// last is the last request to infer, and its body.
func (w *rogue) last(t testing.TB) (*http.Request, string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.asked) == 0 {
		t.Fatal("the worker was not asked")
	}
	return w.asked[len(w.asked)-1], w.bytes[len(w.bytes)-1]
}

// say answers as a worker does.
func say(c net.Conn, status, contentType, body string) {
	fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, contentType, len(body), body)
}

// raw returns a reply that is these bytes.
func raw(s string) func(net.Conn, *http.Request) {
	return func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, s) }
}

// reset returns a reply of these bytes that ends with a reset.
func reset(s string) func(net.Conn, *http.Request) {
	return func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, s)
		time.Sleep(20 * time.Millisecond) // a reset overtakes bytes that are not read yet
		_ = c.(*net.TCPConn).SetLinger(0)
	}
}

// silent is a reply that never comes: it waits until the other side leaves.
func silent(s string) func(net.Conn, *http.Request) {
	return func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, s)
		_, _ = io.Copy(io.Discard, c)
	}
}

// chunked returns a chunked answer of these pieces, without its end.
func chunked(contentType string, pieces ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", contentType)
	for _, p := range pieces {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(p), p)
	}
	return b.String()
}
