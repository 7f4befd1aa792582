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

// TestReplay holds when a request is sent again, and when not.
func TestReplay(t *testing.T) {
	body := strings.Repeat("x", 300<<10)
	tests := []struct {
		name   string
		body   string
		once   bool
		second func(c net.Conn) // what the worker does to the second request on a connection
		sent   int32            // how often the second one is seen
		op     string           // of the error; empty if it is answered
	}{
		{"closed unseen", "b", false, func(c net.Conn) { c.Close() }, 2, ""},
		{"reset unseen", "b", false, reset, 2, ""},
		{"closed, large request", body, false, func(c net.Conn) { c.Close() }, 2, ""},
		{"never twice", "b", true, func(c net.Conn) { c.Close() }, 1, "answer"},
		{"after a byte", "b", false, func(c net.Conn) { io.WriteString(c, "H"); c.Close() }, 1, "answer"},
		{"after 100", "b", false, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); c.Close() }, 1, "answer"},
		{"after a head", "b", false, func(c net.Conn) { io.WriteString(c, ok200+"Content-Length: 1\r\n\r\n"); c.Close() }, 1, "body"},
		{"after more than a second", "b", false, func(c net.Conn) { <-time.After(1300 * time.Millisecond); c.Close() }, 1, "answer"},
		{"after the time for the first byte", "b", false, func(c net.Conn) { io.Copy(io.Discard, c) }, 1, "answer"},
		{"what is not HTTP", "b", false, func(c net.Conn) { io.WriteString(c, "hello\r\n\r\n"); c.Close() }, 1, "answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan string, 100)
			w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
				seen <- string(body)
				if nth == 1 {
					tt.second(c)
					return false
				}
				return echo(c, nth, r, body)
			})
			o, metrics := counted()
			h := host(t, client(t, o), w.url)
			ask(t, h, "a")
			<-seen
			x := post(tt.body)
			x.Once, x.FirstByte = tt.once, 1500*time.Millisecond
			r := soon(t, "second", func() result { return do(context.Background(), h, x) })
			if tt.op == "" {
				r.want(t, 200, tt.body)
				metrics(t, "sluice_upstream_replays_total 1")
				metrics(t, "sluice_upstream_connections_opened_total 2")
				metrics(t, "sluice_upstream_connections_reused_total 1")
				metrics(t, `sluice_upstream_connections_closed_total{reason="error"} 1`)
			} else {
				var e *Error
				if !errors.As(r.err, &e) || e.Op != tt.op || !e.Reused || e.Timeout != strings.Contains(tt.name, "time for") {
					t.Errorf("got %d %q, %v", r.status, r.body, r.err)
				}
				metrics(t, "sluice_upstream_replays_total 0")
			}
			if n := int32(len(seen)); n != tt.sent {
				t.Errorf("the worker saw it %d times, want %d", n, tt.sent)
			}
		})
	}
}

// TestReplayEndsOnANewConnection holds that a worker which closes each kept
// connection is asked on two of them, and then on a new one.
func TestReplayEndsOnANewConnection(t *testing.T) {
	release := make(chan struct{})
	w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		if nth > 0 {
			return false
		}
		if string(body) == "first" {
			<-release
		}
		return echo(c, nth, r, body)
	})
	o, metrics := counted()
	h := host(t, client(t, o), w.url)
	done := make(chan result, 4)
	for range 4 {
		go func() { done <- do(context.Background(), h, post("first")) }()
	}
	until(t, "four wait", func() bool { return w.requests.Load() == 4 })
	close(release)
	for range 4 {
		(<-done).want(t, 200, "first")
	}
	ask(t, h, "second")
	if n := w.requests.Load(); n != 7 {
		t.Errorf("the worker saw it %d times, want 3", n-4)
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
		w.mu.Lock()
		for c := range w.open {
			if round%2 == 0 {
				reset(c)
			} else {
				c.Close()
			}
			delete(w.open, c)
		}
		w.mu.Unlock()
	}
}
