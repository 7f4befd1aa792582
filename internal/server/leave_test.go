package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/bubble"
)

// soon bounds how late a handler may hear that its client has left: 20 ms is
// what is promised, on a machine that has nothing else to do.
var soon = func() time.Duration {
	if os.Getenv("SLUICE_EXACT") != "" {
		return 20 * time.Millisecond
	}
	return 500 * time.Millisecond
}()

// A phase is how far a request has come when its client hangs up.
type phase struct {
	name  string
	say   string
	first string // what the client has had of the answer
	h     func(w *infer.Reply) error
	rest  string // what the client has, of which it hung up only its own half
}

const get = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"

var phases = []phase{
	{"before the header", get, "", func(*infer.Reply) error { return nil }, "200 rest"},
	{"before the header, of a POST", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\none", "", func(*infer.Reply) error { return nil }, "200 rest"},
	{"before the header, of HTTP/1.0", "GET /a HTTP/1.0\r\n\r\n", "", func(*infer.Reply) error { return nil }, "200 rest"},
	{"in a stream", get, "one", func(w *infer.Reply) error {
		if _, err := io.WriteString(w, "one"); err != nil {
			return err
		}
		return w.Flush()
	}, "200 onerest"},
	{"behind the header of a stream", get, "", func(w *infer.Reply) error {
		w.Commit(200)
		return w.Flush()
	}, "200 rest"},
	{"in a stream of large pieces", get, strings.Repeat("x", 100), func(w *infer.Reply) error {
		if _, err := io.WriteString(w, strings.Repeat("x", 100<<10)); err != nil {
			return err
		}
		return w.Flush()
	}, "200 " + strings.Repeat("x", 100<<10) + "rest"},
	{"in a body with a length", get, "on", func(w *infer.Reply) error {
		w.Header().Set("Content-Length", "100007")
		if _, err := io.WriteString(w, "one"+strings.Repeat("x", 100000)); err != nil {
			return err
		}
		return w.Flush()
	}, "200 one" + strings.Repeat("x", 100000) + "rest"},
}

// paused is a handler that goes so far, and then waits to be told to go on, or
// that its client has left.
type paused struct {
	there, on chan struct{}
	gone      chan struct{}
}

func (p *paused) handler(f func(w *infer.Reply) error) infer.Handler {
	return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		if err := r.ReadBody(100); err != nil {
			return err
		}
		if err := f(w); err != nil {
			return err
		}
		p.there <- struct{}{}
		select {
		case <-p.on:
			_, err := io.WriteString(w, "rest")
			return err
		case <-ctx.Done():
			close(p.gone)
			return infer.Ended(ctx, ctx.Err())
		}
	})
}

func newPaused() *paused {
	return &paused{make(chan struct{}, 1), make(chan struct{}), make(chan struct{})}
}

// TestTheClientLeaves holds that a handler hears soon that its client has
// closed its connection, however far its answer has come.
func TestTheClientLeaves(t *testing.T) {
	for _, w := range roads {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			for _, ph := range phases {
				if w.h2 && strings.Contains(ph.name, "HTTP/1.0") {
					continue
				}
				t.Run(ph.name, func(t *testing.T) {
					p := newPaused()
					s := w.on(t, short(), NewMux([]Route{{"GET", "/a", 0, p.handler(ph.h)}, {"POST", "/a", 0, p.handler(ph.h)}}))
					var leave func()
					if w.h2 {
						ctx, cancel := context.WithCancel(t.Context())
						leave = cancel
						req, err := http.NewRequestWithContext(ctx, ph.say[:strings.IndexByte(ph.say, ' ')], s.URL+"/a", nil)
						if err != nil {
							t.Fatal(err)
						}
						c := w.client(t)
						go func() {
							if res, err := c.Do(req); err == nil {
								_, _ = io.Copy(io.Discard, res.Body)
								res.Body.Close()
							}
						}()
					} else {
						c := w.dial(t, s)
						c.say("%s", ph.say)
						c.wait(ph.first)
						leave = func() { c.Close() }
					}
					<-p.there
					p.heard(t, leave)
				})
			}
		})
	}
}

// heard holds that p hears soon that its client is gone, when it leaves.
func (p *paused) heard(t *testing.T, leave func()) {
	t.Helper()
	watch := bubble.Begin(t)
	leave()
	select {
	case <-p.gone:
		if took, awake := watch.End(); awake > soon {
			t.Errorf("it heard so after %v, %v of it awake", took, awake)
		}
	case <-time.After(patience):
		t.Error("it never heard so")
	}
}

// wait reads what a client gets until some of it ends with s.
func (c *talker) wait(s string) {
	c.t.Helper()
	if s == "" {
		return
	}
	for got := ""; !strings.HasSuffix(got, s); {
		b, err := c.br.ReadByte()
		if err != nil {
			c.t.Fatalf("waiting for %q: %v", s, err)
		}
		got += string(b)
		if len(got) > 4096 {
			got = got[len(got)-2048:]
		}
	}
}

// TestHalfClosedClients holds that a client which has only said that it will
// ask no more gets its whole answer, whenever it said so.
func TestHalfClosedClients(t *testing.T) {
	w := roads[0] // over TLS below; elsewhere, half a connection counts as none
	for _, ph := range phases {
		for _, when := range []string{"with the request", "later"} {
			t.Run(ph.name+", "+when, func(t *testing.T) {
				p := newPaused()
				s := w.on(t, short(), NewMux([]Route{{"GET", "/a", 0, p.handler(ph.h)}, {"POST", "/a", 0, p.handler(ph.h)}}))
				c := w.dial(t, s)
				half := c.Conn.(*net.TCPConn)
				if when == "with the request" { // `printf … | nc -N`
					cork(half, true)
					c.say("%s", ph.say)
					_ = half.CloseWrite()
					<-p.there
				} else {
					c.say("%s", ph.say)
					<-p.there
					_ = half.CloseWrite()
				}
				p.finishes(t, c, ph.rest)
			})
		}
	}
}

// finishes holds that p's client, which has ended its half, does not count as
// gone, and gets the whole answer and nothing behind it.
func (p *paused) finishes(t *testing.T, c *talker, want string) {
	t.Helper()
	select {
	case <-time.After(30 * time.Millisecond):
	case <-p.gone:
		t.Fatal("the client was taken for gone")
	}
	close(p.on)
	status, _, body := c.hear("GET")
	if got := fmt.Sprintf("%d %s", status, body); got != want {
		t.Errorf("got %d bytes %.40q, want %d: %.40q", len(got), got, len(want), want)
	}
	if rest := c.rest(); rest != "" {
		t.Errorf("then came %q", rest)
	}
}

// TestHalfClosedAtOnce has clients that end their half with what they ask, and
// answers that are there at once.
func TestHalfClosedAtOnce(t *testing.T) {
	s := roads[0].on(t, short(), plain())
	for name, tt := range map[string]struct {
		say  string
		want []string
	}{
		"one":                        {"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", []string{"200 /a "}},
		"three":                      {"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /stream HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", []string{"200 /a ", "200 piece 0\npiece 1\npiece 2\n", "200 /b hi"}},
		"a refusal":                  {"BAD\r\n\r\n", []string{"400 "}},
		"half a body":                {"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nhi", []string{"400 "}},
		"half a chunk":               {"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi", []string{"400 "}},
		"no body that was asked for": {"POST /b HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 20\r\n\r\n", []string{"100 ", "400 "}},
		"half a head":                {"GET /b HTTP/1.1\r\nHo", nil},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 20 {
				c := roads[0].dial(t, s)
				half := c.Conn.(*net.TCPConn)
				cork(half, i%2 == 0)
				c.say("%s", tt.say)
				_ = half.CloseWrite()
				for _, want := range tt.want {
					status, _, body := c.hear("GET")
					if status >= 400 {
						errorOf(t, body)
						body = ""
					}
					if status == 400 && want == "100 " {
						break // nobody was there to be invited
					}
					if got := fmt.Sprintf("%d %s", status, body); got != want {
						t.Errorf("got %q, want %q", got, want)
					}
				}
				if rest := c.rest(); rest != "" {
					t.Errorf("then came %q", rest)
				}
				c.Close()
			}
		})
	}
}
