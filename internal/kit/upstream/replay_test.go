package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/metric"
	"sluice/internal/kit/sock"
)

// counted returns Options whose metrics can be read.
func counted() (Options, func(t *testing.T, want string)) {
	reg := metric.NewRegistry(nil)
	m := new(Metrics)
	metric.Fill(reg, m)
	return Options{Metrics: m}, func(t *testing.T, want string) {
		t.Helper()
		rec := httptest.NewRecorder()
		reg.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		if !strings.Contains(rec.Body.String(), "\n"+want+"\n") {
			t.Errorf("metrics do not say %q:\n%s", want, rec.Body)
		}
	}
}

// reset closes c so that the other end hears of an error.
func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// unheard makes o's client one that does not hear of hang-ups, so that it uses
// connections that its worker has closed. It has no clock either.
func unheard(t *testing.T, o Options, base string) *Host {
	t.Helper()
	w, err := sock.NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	o.Watch, o.Config = w, DefaultConfig()
	c := New(o)
	t.Cleanup(func() {
		c.Close()
		w.Close()
	})
	return host(t, c, base)
}

// end does f to all connections, once their last answers are out.
func (w *worker) end(f func(net.Conn)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		f(c)
		delete(w.open, c)
	}
}

// TestReplay holds that a request is sent again if the worker had closed its
// connection before, and never if it was not.
func TestReplay(t *testing.T) {
	large := strings.Repeat("x", 300<<10)
	for name, end := range map[string]func(net.Conn){"closed": func(c net.Conn) { c.Close() }, "reset": reset} {
		for _, body := range []string{"b", large} {
			for _, once := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " ", len(body), " ", once), func(t *testing.T) {
					w := start(t, echo)
					o, metrics := counted()
					h := unheard(t, o, w.url)
					ask(t, h, "a")
					w.end(end)
					x := post(body)
					x.Once = once
					r := soon(t, "second", func() result { return do(context.Background(), h, x) })
					if once {
						var e *Error
						if !errors.As(r.err, &e) || !e.Reused || e.Received {
							t.Errorf("got %d %q, %v", r.status, r.body, r.err)
						}
						return
					}
					r.want(t, 200, body)
					if n := w.requests.Load(); n != 2 {
						t.Errorf("the worker saw %d requests, want 2", n)
					}
					metrics(t, "sluice_upstream_replays_total 1")
					metrics(t, "sluice_upstream_connections_opened_total 2")
					metrics(t, "sluice_upstream_connections_reused_total 1")
					metrics(t, `sluice_upstream_connections_closed_total{reason="error"} 1`)
				})
			}
		}
	}
}

// TestNoReplay holds that what a worker may have begun to work on is not sent
// again.
func TestNoReplay(t *testing.T) {
	tests := []struct {
		name   string
		second func(c net.Conn) // what the worker does when it has read the second request
		op     string           // of the error
	}{
		{"closed", func(c net.Conn) { c.Close() }, "answer"},
		{"reset", reset, "answer"},
		{"after a byte", func(c net.Conn) { io.WriteString(c, "H"); c.Close() }, "answer"},
		{"after 100", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); c.Close() }, "answer"},
		{"after a head", func(c net.Conn) { io.WriteString(c, ok200+"Content-Length: 1\r\n\r\n"); c.Close() }, "body"},
		{"after more than a second", func(c net.Conn) { <-time.After(1300 * time.Millisecond); c.Close() }, "answer"},
		{"after the time for the first byte", func(c net.Conn) { io.Copy(io.Discard, c) }, "answer"},
		{"what is not HTTP", func(c net.Conn) { io.WriteString(c, "hello\r\n\r\n"); c.Close() }, "answer"},
	}
	for _, tt := range tests {
		for _, body := range []string{"b", strings.Repeat("x", 300<<10)} {
			t.Run(fmt.Sprint(tt.name, " ", len(body)), func(t *testing.T) {
				t.Parallel()
				w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
					if nth == 1 {
						tt.second(c)
						return false
					}
					return echo(c, nth, r, body)
				})
				o, metrics := counted()
				h := host(t, client(t, o), w.url)
				ask(t, h, "a")
				x := post(body)
				x.FirstByte = 2500 * time.Millisecond
				r := soon(t, "second", func() result { return do(context.Background(), h, x) })
				var e *Error
				if !errors.As(r.err, &e) || e.Op != tt.op || !e.Reused || e.Timeout != strings.Contains(tt.name, "time for") {
					t.Errorf("got %d %q, %v", r.status, r.body, r.err)
				}
				metrics(t, "sluice_upstream_replays_total 0")
				if n := w.requests.Load(); n != 2 {
					t.Errorf("the worker saw %d requests, want 2", n)
				}
			})
		}
	}
}

// TestReplayEndsOnANewConnection holds that a request is tried on two
// connections that were kept, and then on a new one.
func TestReplayEndsOnANewConnection(t *testing.T) {
	release := make(chan struct{})
	w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		if string(body) == "first" {
			<-release
		}
		return echo(c, nth, r, body)
	})
	o, metrics := counted()
	h := unheard(t, o, w.url)
	done := make(chan result, 4)
	for range 4 {
		go func() { done <- do(context.Background(), h, post("first")) }()
	}
	until(t, "four wait", func() bool { return w.requests.Load() == 4 })
	close(release)
	for range 4 {
		(<-done).want(t, 200, "first")
	}
	w.end(func(c net.Conn) { c.Close() })
	ask(t, h, "second")
	if n := w.requests.Load(); n != 5 {
		t.Errorf("the worker saw %d requests, want 5", n)
	}
	metrics(t, "sluice_upstream_replays_total 2")
	metrics(t, "sluice_upstream_connections_opened_total 5")
}

func TestNewConnectionIsNotReplayed(t *testing.T) {
	w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool { return false })
	h := host(t, client(t, Options{}), w.url)
	r := do(context.Background(), h, post("{}"))
	var e *Error
	if !errors.As(r.err, &e) || e.Op != "answer" || e.Reused || e.Received || !errors.Is(r.err, io.EOF) {
		t.Errorf("got %v", r.err)
	}
	if n := w.requests.Load(); n != 1 {
		t.Errorf("the worker saw it %d times", n)
	}
}

// TestWorkerRestarts holds that nobody notices when all kept connections break
// at once and the worker is there again.
func TestWorkerRestarts(t *testing.T) {
	w := start(t, echo)
	h := host(t, client(t, Options{}), w.url)
	for round := range 30 {
		ask(t, h, fmt.Sprint(round))
		if round%2 == 0 {
			w.end(reset)
		} else {
			w.end(func(c net.Conn) { c.Close() })
		}
	}
}
