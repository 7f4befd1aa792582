package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/bubble"
	"sluice/internal/kit/metric"
)

// A sink is where bodies pass to.
type sink struct {
	write func(p []byte) (int, error) // nil takes all
	stop  <-chan struct{}             // when the passage is told to stop; nil for never
}

// uploads is a route whose bodies of more than above bytes pass to the sink that
// f returns, as a backend has them pass: on another goroutine. The answer says
// how the body came, its length and its hash.
func uploads(above, limit int64, f func(r *infer.Request) sink) *Mux {
	work := infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
		if !r.Left() {
			return w.Send(200, "text/plain", fmt.Appendf(nil, "whole %d %x", len(r.Body), sha256.Sum256(r.Body)))
		}
		s, hash, announced := f(r), sha256.New(), r.BodyLength()
		done := make(chan error, 1)
		go func() {
			done <- r.PassBody(writer(func(p []byte) (int, error) {
				hash.Write(p)
				if s.write == nil {
					return len(p), nil
				}
				return s.write(p)
			}))
		}()
		var err error
		select {
		case err = <-done:
		case <-s.stop:
			r.StopBody()
			if err = <-done; err != nil {
				return w.Send(413, "text/plain", []byte("stopped"))
			}
		}
		if announced >= 0 && err == nil && announced != r.Size {
			err = fmt.Errorf("%d bytes were announced, %d came", announced, r.Size)
		}
		if err != nil {
			return err
		}
		r.StopBody() // too late: nobody may be hurt by it
		return w.Send(200, "text/plain", fmt.Appendf(nil, "passed %d %x", r.Size, hash.Sum(nil)))
	})
	gate := Body(limit, above, func() bool { return true }, nil, nil)
	return NewMux([]Route{{"POST", "/up", infer.Generate, gate(work)}, {"GET", "/a", 0, told}}, named)
}

type writer func(p []byte) (int, error)

func (f writer) Write(p []byte) (int, error) { return f(p) }

// taking is a sink that takes all.
func taking(*infer.Request) sink { return sink{} }

// of returns n bytes that are a JSON object.
func of(n int) string {
	const begin, end = `{"text":"`, `"}`
	return begin + strings.Repeat("0123456789abcdef", n/16+1)[:n-len(begin)-len(end)] + end
}

// send posts body by the road w, in chunks if chunked.
func (w road) send(t *testing.T, s *frontend, body string, chunked bool, more ...string) (int, string) {
	t.Helper()
	var src io.Reader = strings.NewReader(body)
	if chunked {
		src = io.MultiReader(src) // net/http cannot see its length
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/up", src)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(more); i += 2 {
		req.Header.Set(more[i], more[i+1])
	}
	res, err := w.client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// TestBodiesPassWhole holds that every body arrives as it was sent, whatever its
// size and framing, and that it is its size that says whether it is held.
func TestBodiesPassWhole(t *testing.T) {
	const above = 100 << 10
	for _, w := range roads {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			s := w.on(t, short(), uploads(above, 4<<20, taking))
			for _, n := range []int{11, 3 << 10, above - 1, above, above + 1, above + 2, 2*above - 1, 1 << 20, 4<<20 - 1, 4 << 20} {
				for _, chunked := range []bool{false, true} {
					how := "whole"
					if n > above {
						how = "passed"
					}
					for _, more := range [][]string{nil, {"Expect", "100-continue"}} {
						body := of(n)
						status, got := w.send(t, s, body, chunked, more...)
						if want := fmt.Sprintf("%s %d %x", how, n, sha256.Sum256([]byte(body))); status != 200 || got != want {
							t.Errorf("%d bytes, in chunks: %v, %v: got %d %q, want %q", n, chunked, more, status, got, want)
						}
					}
				}
			}
			for _, chunked := range []bool{false, true} {
				if status, got := w.send(t, s, of(4<<20+1), chunked); status != 413 {
					t.Errorf("over the limit, in chunks: %v: got %d %q", chunked, status, got)
				}
			}
		})
	}
}

// TestWhatIsBehindABodyIsTheNextRequest holds that a passage ends where its body
// does, wherever the pieces break.
func TestWhatIsBehindABodyIsTheNextRequest(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		const above = 1 << 10
		s := w.on(t, short(), uploads(above, 1<<20, taking))
		body := of(70 << 10)
		hash := fmt.Sprintf("%d %x", len(body), sha256.Sum256([]byte(body)))
		whole := "POST /up HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\n\r\n" + body
		var chunks strings.Builder
		chunks.WriteString("POST /up HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
		for at, n := 0, 1; at < len(body); n = n%997 + 13 {
			end := min(at+n, len(body))
			fmt.Fprintf(&chunks, "%x;a=b\r\n%s\r\n", end-at, body[at:end])
			at = end
		}
		chunks.WriteString("0\r\nX-Trailer: a\r\n\r\n")
		c := w.dial(t, s)
		go func() {
			for _, size := range []int{1 << 20, 1009, 17} {
				say := whole + "GET /a HTTP/1.1\r\nHost: x\r\n\r\n" + chunks.String() + "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
				for len(say) > 0 {
					n := min(size, len(say))
					if _, err := io.WriteString(c, say[:n]); err != nil {
						return
					}
					say = say[n:]
				}
			}
		}()
		for i := range 12 {
			want := []string{"passed " + hash, "/a "}[i%2]
			if status, _, got := c.hear("POST"); status != 200 || got != want {
				t.Fatalf("answer %d: got %d %q, want %q", i, status, got, want)
			}
		}
	})
}

// TestNobodyIsBlind holds that a body is read whole after all, if requests
// cannot be routed without.
func TestNobodyIsBlind(t *testing.T) {
	for _, w := range roads {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			h := infer.HandlerFunc(func(_ context.Context, r *infer.Request, rw *infer.Reply) error {
				return rw.Send(200, "text/plain", fmt.Appendf(nil, "%v %s %d %x", r.Left(), r.Model, len(r.Body), sha256.Sum256(r.Body)))
			})
			sees := Body(1<<20, 1<<10, func() bool { return false }, nil, nil)(h)
			blind := Body(1<<20, 1<<10, func() bool { return true }, nil, nil)(h)
			s := w.on(t, short(), NewMux([]Route{{"POST", "/up", infer.Generate, sees}, {"POST", "/rerank", infer.Rerank, blind}}, named))
			for _, n := range []int{1 << 10, 1<<10 + 1, 100 << 10} {
				for _, chunked := range []bool{false, true} {
					body := of(n)
					body = `{"model":"m1",` + body[1:]
					status, got := w.send(t, s, body, chunked)
					if want := fmt.Sprintf("false m1 %d %x", len(body), sha256.Sum256([]byte(body))); status != 200 || got != want {
						t.Errorf("%d bytes, in chunks: %v: got %d %q, want %q", n, chunked, status, got, want)
					}
				}
			}
			s.URL = strings.TrimSuffix(s.URL, "/") // rerank's answers need what was asked
			req, _ := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/rerank", strings.NewReader(of(4<<10)))
			req.Header.Set("Content-Type", "application/json")
			res, err := w.client(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if !strings.HasPrefix(string(b), "false ") {
				t.Errorf("rerank got %q", b)
			}
		})
	}
}

// TestTheSinkSetsThePace holds that no more is read of a client than the sink
// takes, that this is no fault of the client's, and that a sink which fails ends
// the passage with its own error.
func TestTheSinkSetsThePace(t *testing.T) {
	for _, w := range roads {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			cfg := short()
			cfg.BodyTimeout, cfg.BodyRate = time.Second, 1<<20
			began, on := make(chan struct{}), make(chan struct{})
			var once sync.Once
			most := 0
			broken := &infer.Error{Status: 502, Code: "broken", Msg: "It broke."}
			l, scheme := w.listen(t)
			s := serveOn(t, l, scheme, cfg, uploads(1<<10, 64<<20, func(r *infer.Request) sink {
				n := 0
				return sink{write: func(p []byte) (int, error) {
					once.Do(func() { close(began); <-on })
					most = max(most, len(p))
					if n += len(p); n > 20<<20 {
						return 0, broken
					}
					return len(p), nil
				}}
			}), func(f *Front) { f.bodyGrace = 300 * time.Millisecond })
			sent := &counted{Reader: strings.NewReader(of(32 << 20))}
			req, _ := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/up", sent)
			req.Header.Set("Content-Type", "application/json")
			got := make(chan string, 1)
			go func() {
				res, err := w.client(t).Do(req)
				if err != nil {
					got <- err.Error()
					return
				}
				b, _ := io.ReadAll(res.Body)
				res.Body.Close()
				got <- fmt.Sprint(res.StatusCode, string(b))
			}()
			<-began
			<-time.After(1500 * time.Millisecond) // longer than any client may take
			if n := sent.read(); n > 16<<20 {
				t.Errorf("the client could send %d bytes that nobody took", n)
			}
			close(on)
			if out := <-got; !strings.Contains(out, "broken") && !connectionBroke(out) {
				t.Errorf("got %.200s", out)
			}
			if most > passSize {
				t.Errorf("%d bytes were in hand at once", most)
			}
		})
	}
}

// connectionBroke reports whether a client that was still sending was cut off,
// and says so instead of what it was told.
func connectionBroke(err string) bool {
	for _, s := range []string{"broken pipe", "reset by peer", "closed", "EOF"} {
		if strings.Contains(err, s) {
			return true
		}
	}
	return false
}

// counted counts what is read of it.
type counted struct {
	io.Reader
	mu sync.Mutex
	n  int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
	return n, err
}

func (c *counted) read() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// TestAPassageIsStopped holds that a client which is not wanted any more gets
// its answer, whether it is sending or silent.
func TestAPassageIsStopped(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		for _, framing := range []string{"Content-Length: 1000000\r\n\r\n" + strings.Repeat("x", 5000), "Transfer-Encoding: chunked\r\n\r\n1388\r\n" + strings.Repeat("x", 5000) + "\r\n"} {
			for _, silent := range []bool{true, false} {
				stop := make(chan struct{})
				s := w.on(t, short(), uploads(1<<10, 1<<20, func(*infer.Request) sink { return sink{stop: stop} }))
				c := w.dial(t, s)
				c.say("POST /up HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s", framing)
				quiet := make(chan struct{})
				go func() {
					defer close(quiet)
					for range 100 {
						if silent {
							return
						}
						if _, err := io.WriteString(c, "10\r\n0123456789abcdef\r\n"); err != nil {
							return
						}
						<-time.After(time.Millisecond)
					}
				}()
				close(stop)
				if status, closes, got := c.hear("POST"); status != 413 || got != "stopped" || !closes {
					t.Errorf("silent: %v: got %d %q, closes: %v", silent, status, got, closes)
				}
				c.Close()
				<-quiet
			}
		}
	})
}

// TestStoppedOverHTTP2 holds the same of streams.
func TestStoppedOverHTTP2(t *testing.T) {
	for _, w := range roads[3:] {
		stop := make(chan struct{})
		s := w.on(t, short(), uploads(1<<10, 1<<20, func(*infer.Request) sink { return sink{stop: stop} }))
		body, more := io.Pipe()
		req, _ := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/up", body)
		req.ContentLength = 100 << 10
		req.Header.Set("Content-Type", "application/json")
		go func() {
			_, _ = io.WriteString(more, strings.Repeat("x", 10<<10))
			close(stop)
		}()
		res, err := w.client(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 413 || string(b) != "stopped" || err != nil {
			t.Errorf("%s: got %d %q, %v", w.name, res.StatusCode, b, err)
		}
		more.Close()
	}
}

// TestPassagesThatClientsEnd is what is said of bodies that come to no good end.
func TestPassagesThatClientsEnd(t *testing.T) {
	const head = "POST /up HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	many := strings.Repeat("x", 3000)
	for _, tt := range []struct {
		name, say string
		every     time.Duration // between further bytes; 0 for none
		rate      int
		hangUp    bool
		want      string
	}{
		{"it stops", head + "Content-Length: 100000\r\n\r\n" + many, 0, 0, false, "408 request_body_timeout"},
		{"it stops, in chunks", head + "Transfer-Encoding: chunked\r\n\r\nbb8\r\n" + many, 0, 0, false, "408 request_body_timeout"},
		{"it begins with nothing", head + "Content-Length: 100000\r\n\r\n", 0, 0, false, "408 request_body_timeout"},
		{"it trickles", head + "Content-Length: 100000\r\n\r\n" + many, 10 * time.Millisecond, 1 << 20, false, "408 request_body_timeout"},
		{"it says no more", head + "Content-Length: 100000\r\n\r\n" + many, 0, 0, true, "400 request_body_unreadable"},
		{"it says no more, in chunks", head + "Transfer-Encoding: chunked\r\n\r\nbb8\r\n" + many, 0, 0, true, "400 request_body_unreadable"},
		{"its chunks are none", head + "Transfer-Encoding: chunked\r\n\r\nbb8\r\n" + many + "\r\nzz\r\n", 0, 0, false, "400 request_body_unreadable"},
		{"a chunk is longer than it said", head + "Transfer-Encoding: chunked\r\n\r\nbb7\r\n" + many, 0, 0, false, "400 request_body_unreadable"},
		{"it is longer than may be", head + "Transfer-Encoding: chunked\r\n\r\nbb8\r\n" + many + "\r\nf4240\r\n" + strings.Repeat("x", 1_000_000), 0, 0, false, "413 request_body_too_large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			each(t, func(t *testing.T, w road) {
				if tt.hangUp && w.name != "own" {
					return // elsewhere, half a connection counts as none
				}
				cfg := short()
				cfg.BodyTimeout, cfg.BodyRate = 200*time.Millisecond, tt.rate
				if !strings.HasPrefix(tt.want, "408") {
					cfg.BodyTimeout = patience
				}
				l, scheme := w.listen(t)
				s := serveOn(t, l, scheme, cfg, uploads(1<<10, 500_000, taking), func(f *Front) { f.bodyGrace = 100 * time.Millisecond })
				c := w.dial(t, s)
				quiet := make(chan struct{})
				go func() {
					defer close(quiet)
					if _, err := io.WriteString(c, tt.say); err != nil {
						return
					}
					if tt.hangUp {
						_ = c.Conn.(*net.TCPConn).CloseWrite()
					}
					for tt.every > 0 {
						<-time.After(tt.every)
						if _, err := io.WriteString(c, "x"); err != nil {
							return
						}
					}
				}()
				status, closes, body := c.hear("POST")
				_, code, _ := errorOf(t, body)
				if got := fmt.Sprint(status, " ", code); got != tt.want || !closes {
					t.Errorf("got %s, closes: %v; want %s", got, closes, tt.want)
				}
				c.Close()
				<-quiet
			})
		})
	}
}

// TestTheClientLeavesInItsUpload holds that the sink hears of it soon, also
// while it takes nothing.
func TestTheClientLeavesInItsUpload(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		there, ended := make(chan struct{}), make(chan struct{}, 1)
		var once sync.Once
		h := infer.HandlerFunc(func(_ context.Context, r *infer.Request, _ *infer.Reply) error {
			err := r.PassBody(writer(func(p []byte) (int, error) { once.Do(func() { close(there) }); return len(p), nil }))
			ended <- struct{}{}
			return err
		})
		s := w.on(t, short(), NewMux([]Route{{"POST", "/up", infer.Generate, Body(1<<20, 1<<10, func() bool { return true }, nil, nil)(h)}}, named))
		c := w.dial(t, s)
		c.say("POST /up HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 5000))
		<-there
		watch := bubble.Begin(t)
		c.Close()
		select {
		case <-ended:
			if took, awake := watch.End(); awake > time.Second {
				t.Errorf("it was heard of after %v, %v of it awake", took, awake)
			}
		case <-time.After(patience):
			t.Error("it was never heard of")
		}
	})
}

// TestUploadsAreServedBySlowClientsToo holds that a client which sends a byte at
// a time, at the rate that is asked for, is served.
func TestUploadsAreServedBySlowClientsToo(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		s := w.on(t, short(), uploads(8, 1<<20, taking))
		c := w.dial(t, s)
		body := of(200)
		c.say("POST /up HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
		var chunks bytes.Buffer
		for _, b := range []byte(body) {
			fmt.Fprintf(&chunks, "1\r\n%c\r\n", b)
		}
		chunks.WriteString("0\r\n\r\n")
		for _, b := range chunks.Bytes() {
			c.say("%c", b)
		}
		if _, _, got := c.hear("POST"); got != fmt.Sprintf("passed 200 %x", sha256.Sum256([]byte(body))) {
			t.Errorf("got %q", got)
		}
	})
}

// TestHTTP2BodiesMustKeepUp holds that bodies over HTTP/2 must come at a rate,
// too.
func TestHTTP2BodiesMustKeepUp(t *testing.T) {
	m, reg := new(Metrics), metric.NewRegistry(nil)
	metric.Fill(reg, m)
	mux := uploads(1<<10, 1<<20, taking)
	h := &netHTTP{h: mux, stall: 5 * time.Second, unread: time.Second, rate: 1 << 20, grace: 100 * time.Millisecond, late: m.Ended.With("body_timeout")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: p}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() { s.Close(); <-served }()
	body, more := io.Pipe()
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		for {
			if _, err := io.WriteString(more, "x"); err != nil {
				return
			}
			<-time.After(5 * time.Millisecond)
		}
	}()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+l.Addr().String()+"/up", body)
	req.ContentLength = 100 << 10
	req.Header.Set("Content-Type", "application/json")
	res, err := road{h2: true}.client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	res.Body.Close()
	body.CloseWithError(errors.New("enough"))
	<-quiet
	if res.StatusCode != 408 {
		t.Errorf("got %d %s", res.StatusCode, b)
	}
	if n := (&frontend{metrics: reg}).refused(t, "body_timeout"); n != 1 {
		t.Errorf("%d were counted, want 1", n)
	}
}
