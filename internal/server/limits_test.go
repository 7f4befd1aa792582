package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/bubble"
)

// TestHowManyConnections holds that the limit counts connections of every
// protocol, and that who goes makes room.
func TestHowManyConnections(t *testing.T) {
	for _, w := range roads {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			cfg := short()
			cfg.MaxConnections = 2
			s := w.on(t, cfg, plain())
			clear := w
			clear.tls = false
			clients := []*http.Client{w.client(t), w.client(t), w.client(t)}
			ask := func(c *http.Client) error {
				res, err := c.Get(s.URL + "/a")
				if err == nil {
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				return err
			}
			if err := errors.Join(ask(clients[0]), ask(clients[1])); err != nil {
				t.Fatal(err)
			}
			if n := s.counted(t, "sluice_client_connections"); n != 2 {
				t.Fatalf("%d connections are open, want 2", n)
			}
			c := clear.dial(t, s)
			if !w.tls {
				if status, closes, body := c.hear("GET"); status != 503 || !closes {
					t.Errorf("one too many got %d", status)
				} else if _, code, _ := errorOf(t, body); code != "too_many_connections" {
					t.Errorf("one too many got %s", body)
				}
			}
			if rest := c.rest(); rest != "" {
				t.Errorf("one too many got %q", rest)
			}
			if n := s.refused(t, "connections"); n != 1 {
				t.Errorf("%d were counted as refused, want 1", n)
			}
			for range 20 { // who has asked already is told, too
				c := clear.dial(t, s)
				if w.tls {
					_ = c.rest() // until it is closed: it could take the place that becomes free
				} else {
					_, _ = io.WriteString(c, get)
					if status, _, _ := c.hear("GET"); status != 503 {
						t.Errorf("one too many that has asked got %d", status)
					}
				}
			}
			left := func(n int, cs ...*http.Client) func() bool {
				return func() bool {
					for _, c := range cs {
						c.CloseIdleConnections() // of HTTP/2's clients, some moments after the answer
					}
					return s.counted(t, "sluice_client_connections") == n
				}
			}
			eventually(t, "there is room again", left(1, clients[0]))
			if err := ask(clients[2]); err != nil {
				t.Errorf("when there was room again: %v", err)
			}
			eventually(t, "all are gone", left(0, clients...))
		})
	}
}

func TestHowManyConnectionsOfOneAddress(t *testing.T) {
	cfg := short()
	cfg.MaxPerAddress = 2
	s := roads[0].on(t, cfg, plain())
	from := func(addr string) *talker {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
		nc, err := d.Dial("tcp", s.Addr)
		if err != nil {
			t.Skip("this machine has one address of its own: ", err)
		}
		t.Cleanup(func() { nc.Close() })
		_ = nc.SetDeadline(time.Now().Add(patience))
		return &talker{nc, t, bufio.NewReader(nc)}
	}
	served := func(c *talker) {
		t.Helper()
		c.say(get)
		if status, _, _ := c.hear("GET"); status != 200 {
			t.Errorf("got %d", status)
		}
	}
	first, second := from("127.0.0.1"), from("127.0.0.1")
	served(first)
	served(second)
	if status, _, _ := from("127.0.0.1").hear("GET"); status != 503 {
		t.Errorf("one too many got %d", status)
	}
	served(from("127.0.0.2"))
	if n := s.refused(t, "address"); n != 1 {
		t.Errorf("%d were counted as refused, want 1", n)
	}
	first.Close()
	eventually(t, "there is room again", func() bool { return s.counted(t, "sluice_client_connections") == 2 })
	served(from("127.0.0.1"))

	// A Unix socket's clients are not all one.
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	u := serveOn(t, l, "http", cfg, plain())
	for range 4 {
		nc, err := net.Dial("unix", u.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		served(&talker{nc, t, bufio.NewReader(nc)})
	}
}

func TestHowManyRequests(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		for name, tt := range map[string]struct {
			set    func(*Config)
			atOnce bool
			reason string
			n      int // answers
		}{
			"of a connection":            {func(c *Config) { c.MaxRequests = 3 }, false, "requests", 3},
			"of a connection, at once":   {func(c *Config) { c.MaxRequests = 3 }, true, "requests", 3},
			"ahead of their answers":     {func(c *Config) { c.MaxPipelined = 4 }, true, "pipelined", 5},
			"ahead, and long":            {func(c *Config) { c.MaxPipelined = 4 }, true, "pipelined", 5},
			"not ahead of their answers": {func(c *Config) { c.MaxPipelined = 4 }, false, "pipelined", 8},
		} {
			t.Run(name, func(t *testing.T) {
				cfg := short()
				tt.set(&cfg)
				s := w.on(t, cfg, plain())
				c := w.dial(t, s)
				ask := get
				if strings.HasSuffix(name, "long") { // no two fit into what is read at once
					ask = strings.TrimSuffix(get, "\r\n") + "X-Long: " + strings.Repeat("x", 3<<10) + "\r\n\r\n"
				}
				if tt.atOnce {
					c.say("%s", strings.Repeat(ask, 8))
				}
				for i := 1; i <= tt.n; i++ {
					if !tt.atOnce {
						c.say(get)
					}
					if _, closes, body := c.hear("GET"); body != "/a " || closes != (i == tt.n && i < 8) {
						t.Fatalf("answer %d is %q, closes: %v", i, body, closes)
					}
				}
				if tt.n == 8 {
					if n := s.refused(t, tt.reason); n != 0 {
						t.Errorf("%d were counted", n)
					}
					return
				}
				if rest := c.rest(); rest != "" {
					t.Errorf("then came %q", rest)
				}
				if n := s.refused(t, tt.reason); n != 1 {
					t.Errorf("%d were counted, want 1", n)
				}
			})
		}
	})
}

func TestHowLongAHeaderIs(t *testing.T) {
	cfg := short()
	cfg.MaxRequestLine, cfg.MaxHeader, cfg.MaxHeaderFields = 300, 1000, 10
	each(t, func(t *testing.T, w road) {
		s := w.on(t, cfg, plain())
		for _, tt := range []struct {
			name, say string
			want      int
		}{
			{"a line that fits", "GET /a?" + strings.Repeat("q", 300-len("GET /a? HTTP/1.1\r\n")-1) + " HTTP/1.1\r\nHost: x\r\n\r\n", 200},
			{"a line that does not", "GET /a?" + strings.Repeat("q", 300-len("GET /a? HTTP/1.1\r\n")+1) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
			{"a line without an end", "GET /a?" + strings.Repeat("q", 5000), 414},
			{"a field that fits", get[:len(get)-2] + "A: " + strings.Repeat("a", 900) + "\r\n\r\n", 200},
			{"a field that does not", get[:len(get)-2] + "A: " + strings.Repeat("a", 1000) + "\r\n\r\n", 431},
			{"a field without an end", get[:len(get)-2] + "A: " + strings.Repeat("a", 5000), 431},
			{"ten fields", get[:len(get)-2] + strings.Repeat("A: b\r\n", 9) + "\r\n", 200},
			{"eleven fields", get[:len(get)-2] + strings.Repeat("A: b\r\n", 10) + "\r\n", 431},
			{"many fields", get[:len(get)-2] + strings.Repeat("A: b\r\n", 1000) + "\r\n", 431},
		} {
			t.Run(tt.name, func(t *testing.T) {
				c := w.dial(t, s)
				c.say("%s", tt.say)
				if status, closes, _ := c.hear("GET"); status != tt.want || closes != (tt.want != 200) {
					t.Errorf("got %d, closes: %v; want %d", status, closes, tt.want)
				}
			})
		}
	})
}

// TestSlowHeaders holds that a header must come in its time, however it
// trickles, and that who says nothing at all is let go without a word.
func TestSlowHeaders(t *testing.T) {
	cfg := short()
	cfg.HeaderReadTimeout, cfg.IdleTimeout = time.Second, 2500*time.Millisecond // who sends no byte in that is told nothing
	each(t, func(t *testing.T, w road) {
		for _, tt := range []struct {
			name, before, say string
			want              string // "" for nothing
			counted           int
		}{
			{"the first", "", "GET /a HTTP/1.1\r\nHost: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "408 request_header_timeout", 1},
			{"the second", get, "GET /a HTTP/1.1\r\nHost: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "408 request_header_timeout", 1},
			{"no first", "", "", "", 1},
			{"no second", get, "", "", 0},
			{"half a preface", "", "PRI * HT", "", 1},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				s := w.on(t, cfg, plain())
				c := w.dial(t, s)
				if tt.before != "" {
					c.say("%s", tt.before)
					_, _, _ = c.hear("GET")
				} else if w.tls {
					c.say("%s", tt.say[:0]) // shakes hands
				}
				quiet := make(chan struct{})
				go func() {
					defer close(quiet)
					for i := range tt.say {
						if _, err := io.WriteString(c, tt.say[i:i+1]); err != nil {
							return
						}
						<-time.After(20 * time.Millisecond)
					}
				}()
				if tt.want != "" {
					status, closes, body := c.hear("GET")
					_, code, _ := errorOf(t, body)
					if got := fmt.Sprint(status, " ", code); got != tt.want || !closes {
						t.Errorf("got %s, want %s", got, tt.want)
					}
				}
				if rest := c.rest(); rest != "" {
					t.Errorf("then came %q", rest)
				}
				c.Close()
				<-quiet
				if n := s.refused(t, "header_timeout"); n != tt.counted {
					t.Errorf("%d were counted, want %d", n, tt.counted)
				}
				if n := s.refused(t, "idle"); n != 1-tt.counted {
					t.Errorf("%d were counted as idle, want %d", n, 1-tt.counted)
				}
			})
		}
	})
}

// TestSlowHandshakes holds that who does not come to the end of a TLS handshake
// is let go in the time that there is for it, and counted.
func TestSlowHandshakes(t *testing.T) {
	cfg := short()
	cfg.HandshakeTimeout, cfg.HeaderReadTimeout = 150*time.Millisecond, time.Hour
	s := roads[2].on(t, cfg, plain())
	c := roads[0].dial(t, s)
	if rest := c.rest(); rest != "" {
		t.Errorf("it got %q", rest)
	}
	eventually(t, "it was counted", func() bool { return s.refused(t, "header_timeout") == 1 })
}

// TestHowLongALastAnswerIsWaitedFor holds that a client which goes on sending
// what nobody reads keeps its connection no longer than it may.
func TestHowLongALastAnswerIsWaitedFor(t *testing.T) {
	cfg := short()
	cfg.Linger = 300 * time.Millisecond
	each(t, func(t *testing.T, w road) {
		s := w.on(t, cfg, plain())
		c := w.dial(t, s)
		c.say("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
		if _, closes, _ := c.hear("POST"); !closes {
			t.Fatal("another request may follow")
		}
		begun, watch := time.Now(), bubble.Begin(t)
		for time.Since(begun) < cfg.Linger/2 {
			c.say("x") // or it would be cut
			<-time.After(10 * time.Millisecond)
		}
		eventually(t, "it is let go", func() bool { return s.counted(t, "sluice_client_connections") == 0 })
		if took, awake := watch.End(); awake > 4*time.Second {
			t.Errorf("it was let go after %v, %v of it awake; want %v", took, awake, cfg.Linger)
		}
	})
}

// TestSlowBodies holds that a body must go on coming, and at a rate.
func TestSlowBodies(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		for _, tt := range []struct {
			name, head string
			every      time.Duration // between bytes; 0 for no byte
			rate       int
			want       int
		}{
			{"it stops", "Content-Length: 100", 0, 0, 408},
			{"it stops, in chunks", "Transfer-Encoding: chunked", 0, 0, 408},
			{"it trickles", "Content-Length: 100", 25 * time.Millisecond, 0, 200},
			{"it trickles, and there is a rate", "Content-Length: 10000", 10 * time.Millisecond, 1 << 20, 408},
			{"it is fast enough", "Content-Length: 50", 10 * time.Millisecond, 5, 200},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				cfg := short()
				cfg.BodyTimeout, cfg.BodyRate = 200*time.Millisecond, tt.rate
				if tt.want == 200 {
					cfg.BodyTimeout = 2 * time.Second // less than all takes, and much more than a piece
				}
				l, scheme := w.listen(t)
				s := serveOn(t, l, scheme, cfg, plain(), func(f *Front) { f.bodyGrace = 100 * time.Millisecond })
				c := w.dial(t, s)
				c.say("POST /a HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", tt.head)
				if strings.HasPrefix(tt.head, "Transfer") {
					c.say("64\r\n")
				}
				quiet := make(chan struct{})
				go func() {
					defer close(quiet)
					var n int
					_, _ = fmt.Sscanf(tt.head, "Content-Length: %d", &n)
					for range n {
						if tt.every == 0 {
							return
						}
						<-time.After(tt.every)
						if _, err := io.WriteString(c, "x"); err != nil {
							return
						}
					}
				}()
				status, closes, body := c.hear("POST")
				if status != tt.want || closes != (tt.want != 200) {
					t.Errorf("got %d, closes: %v; want %d", status, closes, tt.want)
				}
				counted := 0
				if tt.want == 408 {
					counted = 1
					if _, code, _ := errorOf(t, body); code != "request_body_timeout" {
						t.Errorf("got %s", body)
					}
				}
				c.Close()
				<-quiet
				if n := s.refused(t, "body_timeout"); n != counted {
					t.Errorf("%d were counted, want %d", n, counted)
				}
			})
		}
	})
}

// TestClientsThatDoNotRead holds that a handler does not wait for ever for a
// client that takes nothing, and does for one that takes little.
func TestClientsThatDoNotRead(t *testing.T) {
	for _, w := range roads {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			cfg := short()
			cfg.WriteTimeout = 200 * time.Millisecond
			ended := make(chan error, 1)
			h := infer.HandlerFunc(func(_ context.Context, _ *infer.Request, rw *infer.Reply) error {
				piece := make([]byte, 64<<10)
				for range 4096 { // no kernel keeps 256 MiB for one who does not read
					if _, err := rw.Write(piece); err != nil {
						ended <- err
						return err
					}
				}
				ended <- nil
				return nil
			})
			s := w.on(t, cfg, NewMux([]Route{{"GET", "/a", 0, h}}))
			if w.h2 {
				res, err := w.client(t).Get(s.URL + "/a")
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
			} else {
				w.dial(t, s).say(get)
			}
			select {
			case err := <-ended:
				if err == nil {
					t.Error("everything was written")
				}
			case <-time.After(patience):
				t.Error("the handler still waits")
			}
			eventually(t, "it was counted", func() bool { return s.refused(t, "stalled") == 1 })
		})
	}
}

// TestTheDrain holds what becomes of each connection when the gateway stops.
func TestTheDrain(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		begun, on := make(chan struct{}), make(chan struct{})
		h := infer.HandlerFunc(func(_ context.Context, _ *infer.Request, rw *infer.Reply) error {
			begun <- struct{}{}
			<-on
			return rw.Send(200, "text/plain", []byte("whole"))
		})
		stream := infer.HandlerFunc(func(_ context.Context, _ *infer.Request, rw *infer.Reply) error {
			if _, err := io.WriteString(rw, "begun,"); err != nil {
				return err
			}
			if err := rw.Flush(); err != nil {
				return err
			}
			begun <- struct{}{}
			<-on
			_, err := io.WriteString(rw, "whole")
			return err
		})
		cfg := DefaultConfig()
		s := w.on(t, cfg, NewMux([]Route{{"GET", "/a", 0, told}, {"GET", "/slow", 0, h}, {"GET", "/stream", 0, stream}}))
		fresh, used, busy, streams := w.dial(t, s), w.dial(t, s), w.dial(t, s), w.dial(t, s)
		if w.tls {
			fresh.say("")
		}
		used.say(get)
		_, _, _ = used.hear("GET")
		busy.say("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
		streams.say("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
		<-begun
		<-begun
		eventually(t, "all are there", func() bool { return s.counted(t, "sluice_client_connections") == 4 })
		stopped := make(chan error, 1)
		go func() { stopped <- s.stop() }()
		for _, c := range []*talker{fresh, used} {
			if rest := c.rest(); rest != "" {
				t.Errorf("an idle connection got %q", rest)
			}
		}
		close(on)
		if status, closes, body := busy.hear("GET"); status != 200 || body != "whole" || !closes {
			t.Errorf("a request that ran got %d %q, closes: %v", status, body, closes)
		}
		if status, _, body := streams.hear("GET"); status != 200 || body != "begun,whole" {
			t.Errorf("a stream that ran got %d %q", status, body)
		}
		watch := bubble.Begin(t)
		for _, c := range []*talker{busy, streams} {
			if rest := c.rest(); rest != "" {
				t.Errorf("then came %q", rest)
			}
			c.Close()
		}
		if err := <-stopped; err != nil {
			t.Errorf("the drain ended with %v", err)
		}
		if took, awake := watch.End(); awake > time.Second {
			t.Errorf("the drain took %v after the last answer, %v of it awake", took, awake)
		}
	})
}

// TestTheDrainHearsWhoHasJustCome holds that a request is answered whose
// connection was accepted just before the drain, and that who asks nothing does
// not hold that up.
func TestTheDrainHearsWhoHasJustCome(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		var s *frontend
		var c, silent *talker
		stopped := make(chan error, 1)
		for tries := 5; ; tries-- { // until the machine lets it ask in time
			s = w.on(t, DefaultConfig(), plain())
			c, silent = w.dial(t, s), roads[0].dial(t, s)
			eventually(t, "both are there", func() bool { return s.counted(t, "sluice_client_connections") == 2 })
			begun := time.Now()
			go func() { stopped <- s.stop() }()
			eventually(t, "it drains", s.front.draining.Load)
			_, err := io.WriteString(c, get)
			if err == nil && time.Since(begun) < freshTime/2 || tries == 0 {
				break
			}
			<-stopped
		}
		if status, closes, body := c.hear("GET"); status != 200 || body != "/a " || !closes {
			t.Errorf("got %d %q, closes: %v", status, body, closes)
		}
		c.Close()
		watch := bubble.Begin(t)
		if rest := silent.rest(); rest != "" {
			t.Errorf("who asked nothing got %q", rest)
		}
		if err := <-stopped; err != nil {
			t.Errorf("the drain ended with %v", err)
		}
		if took, awake := watch.End(); awake > freshTime+3*time.Second {
			t.Errorf("it took %v for a client that asked nothing, %v of it awake", took, awake)
		}
	})
}

// TestTheDrainDoesNotWaitForClients holds that answered clients which keep
// their connections do not make a drain one that cut requests.
func TestTheDrainDoesNotWaitForClients(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		begun, on := make(chan struct{}), make(chan struct{})
		h := infer.HandlerFunc(func(_ context.Context, _ *infer.Request, rw *infer.Reply) error {
			close(begun)
			<-on
			return rw.Send(200, "text/plain", []byte("whole"))
		})
		cfg := DefaultConfig()
		cfg.Grace = 3 * time.Second
		s := w.on(t, cfg, NewMux([]Route{{"GET", "/a", 0, h}}))
		c := w.dial(t, s)
		c.say(get)
		<-begun
		stopped := make(chan error, 1)
		go func() { stopped <- s.stop() }()
		eventually(t, "it drains", s.front.draining.Load)
		close(on)
		if _, closes, body := c.hear("GET"); body != "whole" || !closes {
			t.Errorf("got %q, closes: %v", body, closes)
		}
		if err := <-stopped; err != nil {
			t.Errorf("the drain ended with %v", err)
		}
	})
}

// TestWhatIsAnnouncedIsNotAllBelieved holds that lengths alone, however many
// and large, take no more memory than was set aside for them, and that bodies
// which do come are served beside them.
func TestWhatIsAnnouncedIsNotAllBelieved(t *testing.T) {
	t.Parallel()
	w := roads[0]
	s := w.on(t, short(), plain())
	const n = trustedAll/trusted + 20
	var cs []*talker
	for range n {
		c := w.dial(t, s)
		c.say("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nx", trusted)
		cs = append(cs, c)
	}
	eventually(t, "all is lent", func() bool { return s.front.lent.Load() == trustedAll })
	body := strings.Repeat("y", 3<<20)
	c := w.dial(t, s)
	go func() {
		_, _ = fmt.Fprintf(c, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}()
	if status, _, got := c.hear("POST"); status != 200 || got != "/a "+body {
		t.Errorf("a body that came got %d with %d bytes", status, len(got))
	}
	for _, c := range cs {
		c.Close()
	}
	eventually(t, "all is given back", func() bool { return s.front.lent.Load() == 0 })
}

// TestHTTP2HasTheSameLimits holds requests over HTTP/2 to the lengths and the
// number of others.
func TestHTTP2HasTheSameLimits(t *testing.T) {
	cfg := short()
	cfg.MaxRequestLine, cfg.MaxHeaderFields, cfg.MaxRequests = 300, 10, 3
	for _, secure := range []bool{false, true} {
		w := road{h2: true, tls: secure}
		s := w.on(t, cfg, plain())
		ask := func(c *http.Client, path string, fields int) (status int, from string) {
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { from = i.Conn.LocalAddr().String() }})
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			for range fields {
				req.Header.Add("X-A", "b")
			}
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			if res.ProtoMajor != 2 {
				t.Fatalf("got %s", res.Proto)
			}
			return res.StatusCode, from
		}
		fits := "/a?" + strings.Repeat("q", 300-len("GET /a? HTTP/2.0"))
		for _, tt := range []struct {
			name, path string
			fields     int // and Host, Accept-Encoding or User-Agent
			want       int
		}{
			{"a line that fits", fits, 0, 200},
			{"a line that does not", fits + "q", 0, 414},
			{"a byte that no line has", "/a?\xff", 0, 400},
			{"few fields", "/a", 7, 200},
			{"many fields", "/a", 11, 431},
		} {
			if got, _ := ask(w.client(t), tt.path, tt.fields); got != tt.want {
				t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
			}
		}
		c := w.client(t)
		conns := make(map[string]int)
		for range 7 {
			status, from := ask(c, "/a", 0)
			if status != 200 {
				t.Errorf("got %d", status)
			}
			conns[from]++
		}
		if got := slices.Sorted(maps.Values(conns)); !slices.Equal(got, []int{1, 3, 3}) {
			t.Errorf("seven requests went by connections %v, want 3, 3 and 1", got)
		}
		if n := s.refused(t, "requests"); n != 2 {
			t.Errorf("%d were counted, want 2", n)
		}
	}
}
