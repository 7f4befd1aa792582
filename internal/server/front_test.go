package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
)

// A talker is a client that says what it likes.
type talker struct {
	net.Conn
	t  *testing.T
	br *bufio.Reader
}

// dial connects to s without a word.
func (w road) dial(t *testing.T, s *frontend) *talker {
	t.Helper()
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	if w.tls {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	return &talker{nc, t, bufio.NewReader(nc)}
}

func (c *talker) say(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, format, args...); err != nil {
		c.t.Fatalf("saying %.40q: %v", format, err)
	}
}

// hear reads an answer: its status, whether the connection closes, and its
// body; "cut" if that is not whole.
func (c *talker) hear(method string) (status int, closes bool, body string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, res.Close, "cut"
	}
	return res.StatusCode, res.Close, string(b)
}

// rest reads until the server closes.
func (c *talker) rest() string {
	c.t.Helper()
	b, err := io.ReadAll(c.br)
	if err != nil {
		c.t.Fatalf("it did not close: %v, after %q", err, b)
	}
	return string(b)
}

// each runs f on every road that HTTP/1.1 comes by.
func each(t *testing.T, f func(t *testing.T, w road)) {
	for _, w := range roads {
		if !w.h2 {
			t.Run(w.name, func(t *testing.T) {
				t.Parallel()
				f(t, w)
			})
		}
	}
}

// told answers with the path and the body.
var told = infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
	if err := r.ReadBody(4 << 20); err != nil {
		return err
	}
	return w.Send(200, "text/plain", fmt.Appendf(nil, "%s %s", r.Path, r.Body))
})

// plain are the routes of most tests here.
func plain() *Mux {
	stream := infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		for i := range 3 {
			if _, err := fmt.Fprintf(w, "piece %d\n", i); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
		}
		return nil
	})
	var rs []Route
	for _, p := range []string{"/a", "/b", "/c"} {
		rs = append(rs, Route{"GET", p, 0, told}, Route{"POST", p, 0, told})
	}
	return NewMux(append(rs,
		Route{"GET", "/stream", 0, stream},
		Route{"POST", "/unread", 0, infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			return w.Send(200, "text/plain", []byte("unread"))
		})},
		Route{"GET", "/204", 0, infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error { w.Commit(204); return nil })},
		Route{"GET", "/304", 0, infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error { w.Commit(304); return nil })},
	), named)
}

// TestConversations is what is said on one connection, and answered: "status
// body", and whether the connection ends then.
func TestConversations(t *testing.T) {
	const host = "Host: x\r\n"
	tests := []struct {
		name, say string
		want      []string // of GETs; those of other methods begin with it
		closes    bool
	}{
		{"it is kept", "GET /a HTTP/1.1\r\n" + host + "\r\n", []string{"200 /a "}, false},
		{"it is not", "GET /a HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n", []string{"200 /a "}, true},
		{"close among others, in capitals", "GET /a HTTP/1.1\r\n" + host + "Connection: keep-alive, CLOSE\r\n\r\n", []string{"200 /a "}, true},
		{"HTTP/1.0", "GET /a HTTP/1.0\r\n\r\n", []string{"200 /a "}, true},
		{"HTTP/1.0 that wants to be kept", "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", []string{"200 /a "}, false},
		{"HTTP/1.0, until it closes", "GET /stream HTTP/1.0\r\n\r\n", []string{"200 piece 0\npiece 1\npiece 2\n"}, true},
		{"HTTP/1.0 that wants to be kept, until it closes", "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", []string{"200 piece 0\npiece 1\npiece 2\n"}, true},
		{"HTTP/1.9 is 1.1", "GET /stream HTTP/1.9\r\n" + host + "\r\n", []string{"200 piece 0\npiece 1\npiece 2\n"}, false},
		{"one empty line before", "\r\nGET /a HTTP/1.1\r\n" + host + "\r\n", []string{"200 /a "}, false},
		{"HEAD", "HEAD /a HTTP/1.1\r\n" + host + "\r\nGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"HEAD 200 ", "200 /b "}, false},
		{"HEAD of chunks", "HEAD /stream HTTP/1.1\r\n" + host + "\r\nGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"HEAD 200 ", "200 /b "}, false},
		{"HEAD of what is not there", "HEAD /nope HTTP/1.1\r\n" + host + "\r\nGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"HEAD 404 ", "200 /b "}, false},
		{"204 and 304", "GET /204 HTTP/1.1\r\n" + host + "\r\nGET /304 HTTP/1.1\r\n" + host + "\r\nGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"204 ", "304 ", "200 /b "}, false},
		{"two at once", "GET /a HTTP/1.1\r\n" + host + "\r\nGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"200 /a ", "200 /b "}, false},
		{"bodies between", "POST /a HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\none" +
			"POST /b HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n2\r\ntw\r\n1\r\no\r\n0\r\n\r\n" +
			"POST /c HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n" + "GET /stream HTTP/1.1\r\n" + host + "\r\n" + "GET /a HTTP/1.1\r\n" + host + "\r\n",
			[]string{"200 /a one", "200 /b two", "200 /c ", "200 piece 0\npiece 1\npiece 2\n", "200 /a "}, false},
		{"a body that nobody reads", "POST /unread HTTP/1.1\r\n" + host + "Content-Length: 9\r\n\r\nGET /evilGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"200 unread", "200 /b "}, false},
		{"chunks that nobody reads", "POST /unread HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"200 unread"}, true},
		{"after close there is nothing", "GET /a HTTP/1.1\r\n" + host + "Connection: close\r\n\r\nGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"200 /a "}, true},
		{"trailers and extensions", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3;a=b;c=\"d\"\r\none\r\n0;x\r\nX-T: 1\r\n\r\nGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"200 /a one", "200 /b "}, false},
		{"a body of GET", "GET /a HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\noneGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"200 /a one", "200 /b "}, false},
		{"an empty body in chunks", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"200 /a ", "200 /b "}, false},
		{"a length with zeros", "POST /a HTTP/1.1\r\n" + host + "Content-Length: 003\r\n\r\none", []string{"200 /a one"}, false},
		{"nonsense after a request", "GET /a HTTP/1.1\r\n" + host + "\r\nnonsense\r\n\r\n", []string{"200 /a ", "400 "}, true},
		{"a fault in the chunks", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3\r\none\r\nzz\r\nGET /b HTTP/1.1\r\n" + host + "\r\n", []string{"400 "}, true},
		{"a chunk without its end", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3\r\noneX\r\n0\r\n\r\n", []string{"400 "}, true},
		{"a forbidden trailer", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\nContent-Length: 3\r\n\r\n", []string{"400 "}, true},
		{"another expectation", "POST /a HTTP/1.1\r\n" + host + "Expect: 200-ok\r\nContent-Length: 3\r\n\r\none", []string{"417 "}, true},
		{"another version", "GET /a HTTP/2.0\r\n" + host + "\r\n", []string{"505 "}, true},
		{"a tunnel", "CONNECT x:1 HTTP/1.1\r\n" + host + "\r\n", []string{"501 "}, true},
	}
	each(t, func(t *testing.T, w road) {
		s := w.on(t, short(), plain())
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				c := w.dial(t, s)
				c.say("%s", tt.say)
				for i, want := range tt.want {
					method := "GET"
					if strings.HasPrefix(want, "HEAD ") {
						method, want = "HEAD", want[len("HEAD "):]
					}
					status, closes, body := c.hear(method)
					if status >= 400 {
						if method != "HEAD" {
							errorOf(t, body)
						}
						body = ""
					}
					if got := fmt.Sprintf("%d %s", status, body); got != want {
						t.Errorf("answer %d is %q, want %q", i, got, want)
					}
					if closes != (tt.closes && i == len(tt.want)-1) {
						t.Errorf("answer %d says that it closes: %v", i, closes)
					}
				}
				if !tt.closes {
					c.say("GET /c HTTP/1.1\r\nHost: x\r\n\r\n")
					if _, _, body := c.hear("GET"); body != "/c " {
						t.Errorf("a further request got %q", body)
					}
					return
				}
				if rest := c.rest(); rest != "" {
					t.Errorf("behind the last answer came %q", rest)
				}
			})
		}
	})
}

// TestCutAnywhere sends requests in two pieces, cut at every byte, and byte by
// byte.
func TestCutAnywhere(t *testing.T) {
	const said = "POST /a?q HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3;e=\"q\\\"\"\r\none\r\n00a\r\n0123456789\r\n0\r\nX-T: v\r\n\r\n" +
		"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde" +
		"GET /c HTTP/1.1\r\nHost: x\r\n\r\n"
	want := []string{"/a one0123456789", "/b abcde", "/c "}
	each(t, func(t *testing.T, w road) {
		s := w.on(t, short(), plain())
		c := w.dial(t, s)
		hear := func(at int) {
			t.Helper()
			for _, want := range want {
				if status, closes, body := c.hear("POST"); status != 200 || body != want || closes {
					t.Fatalf("cut at %d: got %d %q, closes: %v; want %q", at, status, body, closes, want)
				}
			}
		}
		for at := 1; at < len(said); at++ {
			c.say("%s", said[:at])
			if at%7 == 0 { // the pieces may come together, or apart
				<-time.After(time.Millisecond)
			}
			c.say("%s", said[at:])
			hear(at)
		}
		for i := range len(said) {
			c.say("%s", said[i:i+1])
		}
		hear(-1)
	})
}

func TestExpect(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		s := w.on(t, short(), plain())
		const head = "POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
		go100 := "HTTP/1.1 100 Continue\r\n\r\n"
		invited := func(c *talker) {
			t.Helper()
			b := make([]byte, len(go100))
			if _, err := io.ReadFull(c.br, b); err != nil || string(b) != go100 {
				t.Fatalf("got %q, %v; want an invitation", b, err)
			}
		}
		t.Run("invited", func(t *testing.T) {
			c := w.dial(t, s)
			for range 2 {
				c.say(head, "/a")
				invited(c)
				c.say("one")
				if status, closes, body := c.hear("POST"); status != 200 || body != "/a one" || closes {
					t.Errorf("got %d %q", status, body)
				}
			}
		})
		t.Run("behind another's answer", func(t *testing.T) {
			c := w.dial(t, s)
			c.say("GET /b HTTP/1.1\r\nHost: x\r\n\r\n"+head, "/a")
			if _, _, body := c.hear("GET"); body != "/b " {
				t.Errorf("got %q", body)
			}
			invited(c)
			c.say("one")
			if _, _, body := c.hear("POST"); body != "/a one" {
				t.Errorf("got %q", body)
			}
		})
		t.Run("in chunks", func(t *testing.T) {
			c := w.dial(t, s)
			c.say("POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n")
			invited(c)
			c.say("3\r\none\r\n0\r\n\r\n")
			if _, _, body := c.hear("POST"); body != "/a one" {
				t.Errorf("got %q", body)
			}
		})
		t.Run("without waiting", func(t *testing.T) {
			c := w.dial(t, s)
			c.say(head+"one", "/a")
			if status, _, body := c.hear("POST"); status != 200 || body != "/a one" {
				t.Errorf("got %d %q, want no invitation and an answer", status, body)
			}
		})
		t.Run("refused", func(t *testing.T) {
			for _, path := range []string{"/nope", "/unread"} {
				c := w.dial(t, s)
				c.say(head, path)
				if status, closes, _ := c.hear("POST"); status == 100 || !closes {
					t.Errorf("%s: got %d, closes: %v; want an answer at once, and the last", path, status, closes)
				}
				if rest := c.rest(); rest != "" {
					t.Errorf("behind the last answer came %q", rest)
				}
			}
		})
		t.Run("by HTTP/1.0", func(t *testing.T) {
			c := w.dial(t, s)
			c.say("POST /a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
			c.say("one")
			if status, _, body := c.hear("POST"); status != 200 || body != "/a one" {
				t.Errorf("got %d %q, want no invitation", status, body)
			}
		})
	})
}

// TestWhichHost holds that the target's host is the one that counts.
func TestWhichHost(t *testing.T) {
	h := infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
		return w.Send(200, "text/plain", fmt.Appendf(nil, "%s %s ?%s", r.Header.Get("Host"), r.Path, r.Query))
	})
	each(t, func(t *testing.T, w road) {
		s := w.on(t, short(), NewMux([]Route{{"GET", "/a", 0, h}, {"GET", "/", 0, h}, {"OPTIONS", "*", 0, h}}))
		c := w.dial(t, s)
		for _, tt := range []struct{ line, want string }{
			{"GET /a?q=1 HTTP/1.1\r\nHost: h:80", "h:80 /a ?q=1"},
			{"GET http://target:81/a HTTP/1.1\r\nHost: h", "target:81 /a ?"},
			{"GET HTTPS://Target/a?x?y HTTP/1.1\r\nHost: h", "Target /a ?x?y"},
			{"GET http://target HTTP/1.1\r\nHost: h", "target / ?"},
			{"GET http://target?q HTTP/1.1\r\nHost: h", "target / ?q"},
			{"OPTIONS * HTTP/1.1\r\nHost: h", "h * ?"},
			{"OPTIONS http://target HTTP/1.1\r\nHost: h", "target * ?"},
			{"GET /a HTTP/1.1\r\nHost:", " /a ?"},
		} {
			c.say("%s\r\n\r\n", tt.line)
			if _, _, body := c.hear("GET"); body != tt.want {
				t.Errorf("%q: got %q, want %q", tt.line, body, tt.want)
			}
		}
	})
}

// TestManyAtOnce holds that what is asked at once is answered in order.
func TestManyAtOnce(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		const n = 100
		s := w.on(t, short(), plain())
		c := w.dial(t, s)
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n%04d", i)
		}
		for range 3 {
			go func() { _, _ = io.WriteString(c, b.String()) }()
			for i := range n {
				if _, closes, body := c.hear("POST"); body != fmt.Sprintf("/a %04d", i) || closes {
					t.Fatalf("answer %d is %q, closes: %v", i, body, closes)
				}
			}
		}
	})
}

// TestLargeBodies holds that bodies of all sizes come whole, both ways, and
// leave the connection for the next.
func TestLargeBodies(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		s := w.on(t, short(), plain())
		c := w.dial(t, s)
		for _, n := range []int{1, 100, inSize - 200, inSize, inSize + 1, 64 << 10, 1<<20 + 1, 3 << 20} {
			body := strings.Repeat("0123456789", n/10+1)[:n]
			for name, send := range map[string]func(){
				"with a length": func() { c.say("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", n, body) },
				"in chunks": func() {
					c.say("POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
					for b := body; b != ""; {
						k := min(len(b), 1000+len(b)/3)
						c.say("%x\r\n%s\r\n", k, b[:k])
						b = b[k:]
					}
					c.say("0\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n")
				},
			} {
				go send()
				if status, closes, got := c.hear("POST"); status != 200 || got != "/a "+body || closes {
					t.Fatalf("%d bytes %s: got %d with %d bytes, closes: %v", n, name, status, len(got), closes)
				}
				if name == "in chunks" {
					if _, _, got := c.hear("GET"); got != "/b " {
						t.Fatalf("the next got %q", got)
					}
				}
			}
		}
	})
}

// TestARefusalArrives holds that the answer to a request whose body nobody
// wants is not lost by a reset while the client still sends.
func TestARefusalArrives(t *testing.T) {
	each(t, func(t *testing.T, w road) {
		s := w.on(t, short(), plain())
		for _, head := range []string{
			"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
			"POST /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n",
			"POST /unread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nf4240\r\n",
			"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4194305\r\n\r\n",
			"POST /a HTTP/1.1\r\nHost: x\r\nBad : x\r\nContent-Length: 1000000\r\n\r\n",
			"POST /a HTTP/1.0\r\nContent-Length: 4194305\r\n\r\n",
		} {
			c := w.dial(t, s)
			c.say("%s", head)
			part := strings.Repeat("x", 10000)
			for range 100 {
				c.say("%s", part) // fails if there is a reset
			}
			if status, closes, body := c.hear("POST"); status < 200 || !closes || body == "cut" {
				t.Errorf("%.40q: got %d %q", head, status, body)
			}
			if rest := c.rest(); rest != "" {
				t.Errorf("%.40q: behind the answer came %q", head, rest)
			}
		}
	})
}

// TestCutAnswers holds that no client takes a part for the whole, in whatever
// way the answer is delimited.
func TestCutAnswers(t *testing.T) {
	h := infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
		if r.Query == "length" {
			w.Header().Set("Content-Length", "100")
		}
		if _, err := io.WriteString(w, "part"); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		panic(http.ErrAbortHandler)
	})
	each(t, func(t *testing.T, w road) {
		s := w.on(t, short(), NewMux([]Route{{"GET", "/a", 0, h}, {"POST", "/a", 0, h}}))
		for _, say := range []string{
			"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", "GET /a?length HTTP/1.1\r\nHost: x\r\n\r\n", "GET /a HTTP/1.0\r\n\r\n", "GET /a?length HTTP/1.0\r\n\r\n",
			"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", "POST /a HTTP/1.0\r\nContent-Length: 10\r\n\r\n",
		} {
			c := w.dial(t, s)
			c.say("%s", say)
			res, err := http.ReadResponse(c.br, nil)
			if err != nil {
				if !strings.Contains(say, "HTTP/1.0") { // a reset may overtake it
					t.Errorf("%q: no answer: %v", say, err)
				}
				continue
			}
			if b, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("%q: %q passes for the whole", say, b)
			}
		}
	})
}
