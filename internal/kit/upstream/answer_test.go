package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/h1"
)

const (
	ok200   = "HTTP/1.1 200 OK\r\n"
	chunked = "Transfer-Encoding: chunked\r\n"
)

type answerCase struct {
	name, method, wire string
	status             int
	body               string
	kept               bool
}

// answers are what workers say to a request, and close the connection. Those
// with a status are answers, those without break a rule.
var answers = []answerCase{
	{"length", "POST", ok200 + "Content-Length: 5\r\n\r\nhello", 200, "hello", true},
	{"length 0", "POST", ok200 + "Content-Length: 0\r\n\r\n", 200, "", true},
	{"chunks", "POST", ok200 + chunked + "\r\n3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\n\r\n", 200, "hello", true},
	{"chunks and trailer", "POST", ok200 + chunked + "\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", 200, "hello", true},
	{"until close", "POST", ok200 + "\r\nhello", 200, "hello", false},
	{"until close, nothing", "POST", ok200 + "\r\n", 200, "", false},
	{"until close, HTTP/1.0", "POST", "HTTP/1.0 200 OK\r\n\r\nhello", 200, "hello", false},
	{"HTTP/1.0 with length", "POST", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", false},
	{"HTTP/1.0 that keeps", "POST", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", true},
	{"last on its connection", "POST", ok200 + "Connection: close\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", false},
	{"no content", "POST", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", true},
	{"not modified", "POST", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, "", true},
	{"HEAD", "HEAD", ok200 + "Content-Length: 5\r\n\r\n", 200, "", true},
	{"refusal", "POST", "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", 503, "busy", true},
	{"after 100 and 103", "POST", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + ok200 + "Content-Length: 5\r\n\r\nhello", 200, "hello", true},
	{"no reason", "POST", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, "", true},
	{"long head", "POST", ok200 + "X: " + strings.Repeat("x", 60<<10) + "\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", true},
	{"long body", "POST", ok200 + "Content-Length: 200000\r\n\r\n" + strings.Repeat("0123456789", 20000), 200, strings.Repeat("0123456789", 20000), true},
	{"more than the answer", "POST", ok200 + "Content-Length: 5\r\n\r\nhello there", 200, "hello", false},
	{"more than nothing", "POST", "HTTP/1.1 204 No Content\r\n\r\nx", 204, "", false},
	{"two answers", "POST", ok200 + "Content-Length: 1\r\n\r\na" + ok200 + "Content-Length: 1\r\n\r\nb", 200, "a", false},
	{"two answers in chunks", "POST", ok200 + chunked + "\r\n1\r\na\r\n0\r\n\r\n" + ok200 + chunked + "\r\n1\r\nb\r\n0\r\n\r\n", 200, "a", false},

	{"both length and chunks", "POST", ok200 + "Content-Length: 5\r\n" + chunked + "\r\n0\r\n\r\n", 0, "", false},
	{"two lengths", "POST", ok200 + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 0, "", false},
	{"list of lengths", "POST", ok200 + "Content-Length: 5, 6\r\n\r\nhello", 0, "", false},
	{"negative length", "POST", ok200 + "Content-Length: -5\r\n\r\nhello", 0, "", false},
	{"huge length", "POST", ok200 + "Content-Length: 99999999999999999999\r\n\r\nhello", 0, "", false},
	{"other coding", "POST", ok200 + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 0, "", false},
	{"chunked is not last", "POST", ok200 + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 0, "", false},
	{"bare LF", "POST", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", 0, "", false},
	{"bare CR", "POST", ok200 + "X: a\rb\r\nContent-Length: 5\r\n\r\nhello", 0, "", false},
	{"folded field", "POST", ok200 + "X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", 0, "", false},
	{"space before the colon", "POST", ok200 + "Content-Length : 5\r\n\r\nhello", 0, "", false},
	{"NUL", "POST", ok200 + "X: a\x00\r\nContent-Length: 5\r\n\r\nhello", 0, "", false},
	{"not HTTP", "POST", "SSH-2.0-OpenSSH_9\r\n", 0, "", false},
	{"HTTP/2", "POST", "HTTP/2.0 200 OK\r\n\r\n", 0, "", false},
	{"status of two digits", "POST", "HTTP/1.1 20 OK\r\n\r\n", 0, "", false},
	{"endless head", "POST", ok200 + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 100), 0, "", false},
	{"endless line", "POST", ok200 + "X: " + strings.Repeat("x", 100<<10), 0, "", false},
	{"endless status line", "POST", "HTTP/1.1 200 " + strings.Repeat("x", 100<<10), 0, "", false},
	{"many fields", "POST", ok200 + strings.Repeat("X: y\r\n", 1000) + "\r\n", 0, "", false},
	{"flood of 100", "POST", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1000) + ok200 + "Content-Length: 0\r\n\r\n", 0, "", false},
	{"switch unasked", "POST", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 0, "", false},
	{"negative chunk", "POST", ok200 + chunked + "\r\n-5\r\nhello\r\n0\r\n\r\n", 0, "", false},
	{"huge chunk", "POST", ok200 + chunked + "\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n", 0, "", false},
	{"chunk that is longer than it says", "POST", ok200 + chunked + "\r\n4\r\nhello\r\n0\r\n\r\n", 0, "", false},
	{"chunks with bare LF", "POST", ok200 + chunked + "\r\n5\nhello\n0\n\n", 0, "", false},
	{"framing in a trailer", "POST", ok200 + chunked + "\r\n0\r\nContent-Length: 5\r\n\r\n", 0, "", false},
	{"closed at once", "POST", "", 0, "", false},
	{"cut in the status line", "POST", "HTTP/1.1 2", 0, "", false},
	{"closed in the head", "POST", ok200 + "Content-Le", 0, "", false},
	{"closed after 100", "POST", "HTTP/1.1 100 Continue\r\n\r\n", 0, "", false},
	{"closed before the body", "POST", ok200 + "Content-Length: 5\r\n\r\n", 0, "", false},
	{"closed in the body", "POST", ok200 + "Content-Length: 5\r\n\r\nhel", 0, "", false},
	{"closed in a chunk's size", "POST", ok200 + chunked + "\r\n5", 0, "", false},
	{"closed in a chunk", "POST", ok200 + chunked + "\r\n5\r\nhel", 0, "", false},
	{"closed before the last chunk", "POST", ok200 + chunked + "\r\n5\r\nhello\r\n", 0, "", false},
	{"closed in the trailer", "POST", ok200 + chunked + "\r\n5\r\nhello\r\n0\r\nX: y\r\n", 0, "", false},
}

func request(method string) *Exchange {
	x := NewExchange(0)
	x.Method = method
	x.Head = append(x.Head, method+" / HTTP/1.1\r\nHost: worker\r\n"...)
	if method == "POST" {
		x.Head = append(x.Head, "Content-Length: 2\r\n"...)
		x.Body = []byte("{}")
	}
	x.Head = append(x.Head, "\r\n"...)
	return x
}

// cut writes p in pieces of n bytes.
func cut(c net.Conn, p string, n int) {
	for len(p) > 0 {
		k := min(n, len(p))
		if _, err := io.WriteString(c, p[:k]); err != nil {
			return
		}
		p = p[k:]
	}
}

// TestAnswers holds that each answer is read, or refused, however it is cut,
// and that no connection is kept on which something is left.
func TestAnswers(t *testing.T) {
	for _, a := range answers {
		t.Run(a.name, func(t *testing.T) {
			for _, piece := range []int{1 << 30, 1, 7, 1000} {
				if piece < 1000 && len(a.wire) > 2000 {
					continue
				}
				w := start(t, func(c net.Conn, _ int, _ *http.Request, _ []byte) bool {
					cut(c, a.wire, piece)
					// The connection stays while the client would keep it.
					if a.kept {
						io.Copy(io.Discard, c)
					}
					return false
				})
				h := host(t, client(t, Options{}), w.url)
				r := soon(t, "answer", func() result { return do(context.Background(), h, request(a.method)) })
				a.check(t, r)
				if _, idle := h.counts(); (idle == 1) != a.kept {
					// What is behind an answer may come after it was given out.
					if a.status == 0 || piece > 7 {
						t.Errorf("in pieces of %d: %d connections are kept", piece, idle)
					}
				}
				if n := w.requests.Load(); n != 1 {
					t.Errorf("in pieces of %d: asked %d times", piece, n)
				}
				h.Close()
			}
		})
	}
}

func (a *answerCase) check(t *testing.T, r result) {
	t.Helper()
	if a.status != 0 {
		r.want(t, a.status, a.body)
		return
	}
	var e *Error
	if !errors.As(r.err, &e) {
		t.Fatalf("got %d %.60q, %v; want an Error", r.status, r.body, r.err)
	}
	var broken *h1.Error
	closed := strings.HasPrefix(a.name, "closed")
	switch {
	case !closed && !errors.As(r.err, &broken):
		t.Errorf("%v is not for a broken rule", r.err)
	case closed && !errors.Is(r.err, io.EOF) && !errors.Is(r.err, io.ErrUnexpectedEOF):
		t.Errorf("%v is not for a connection that ended", r.err)
	case e.Received != (len(a.wire) > 0), e.Reused, e.Timeout:
		t.Errorf("%+v", e)
	}
}

// TestAnswersCutAnywhere does so at each byte, on a connection that keeps what
// is written apart.
func TestAnswersCutAnywhere(t *testing.T) {
	for _, a := range answers {
		if len(a.wire) > 2000 {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			var at int
			c := client(t, Options{Dial: func(context.Context, string, string) (net.Conn, error) {
				near, far := net.Pipe()
				at := at
				go func() {
					defer far.Close()
					if _, err := http.ReadRequest(bufio.NewReader(far)); err != nil {
						return
					}
					io.WriteString(far, a.wire[:at])
					io.WriteString(far, a.wire[at:])
				}()
				return near, nil
			}})
			h := host(t, c, "http://127.0.0.1")
			for at = range len(a.wire) {
				x := request("HEAD") // the body of a POST would have to be read by the pipe
				x.Method = a.method
				a.check(t, soon(t, "answer", func() result { return do(context.Background(), h, x) }))
				h.evict(func(*conn) (reason, bool, bool) { return shutdown, true, true })
			}
		})
	}
}

// TestAnswersAsOthersReadThem holds that net/http reads the same in what is
// taken here.
func TestAnswersAsOthersReadThem(t *testing.T) {
	for _, a := range answers {
		if a.status == 0 {
			continue
		}
		w := start(t, func(c net.Conn, _ int, _ *http.Request, _ []byte) bool {
			io.WriteString(c, a.wire)
			return false
		})
		rt := &http.Transport{DisableCompression: true}
		r, err := http.NewRequest(a.method, w.url, bytes.NewReader([]byte("{}")))
		if err != nil {
			t.Fatal(err)
		}
		res, err := rt.RoundTrip(r)
		if err != nil {
			t.Errorf("%s: net/http says %v", a.name, err)
			continue
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != a.status || string(body) != a.body {
			t.Errorf("%s: net/http reads %d %.60q, %v", a.name, res.StatusCode, body, err)
		}
		rt.CloseIdleConnections()
	}
}

// wires is a Sink that keeps what is on the wire.
type wires struct {
	status int
	wire   []byte
	fail   error
}

func (w *wires) Answer(h *h1.ResponseHead) error {
	w.status = h.Status
	return nil
}

func (w *wires) Body(b *h1.Body, wire []byte) (int, error) {
	n, _, err := b.Scan(wire)
	w.wire = append(w.wire, wire[:n]...)
	if w.fail != nil {
		return n, w.fail
	}
	return n, err
}

func TestFramingIsHandedOutAsItCame(t *testing.T) {
	body := "3\r\nhel\r\n2;a=\"b\"\r\nlo\r\n0\r\nX: y\r\n\r\n"
	w := start(t, func(c net.Conn, _ int, _ *http.Request, _ []byte) bool {
		cut(c, ok200+chunked+"\r\n"+body, 5)
		return true
	})
	h := host(t, client(t, Options{}), w.url)
	x, s := post("{}"), new(wires)
	x.Sink = s
	if err := h.Do(context.Background(), x); err != nil || string(s.wire) != body {
		t.Errorf("got %q, %v", s.wire, err)
	}
	x.Free()
}

// TestSinksErrorsAreItsOwn holds that the error of who takes an answer comes
// back as it is, and that the worker is not asked to go on.
func TestSinksErrorsAreItsOwn(t *testing.T) {
	closed := make(chan struct{})
	w := start(t, func(c net.Conn, _ int, _ *http.Request, _ []byte) bool {
		defer close(closed)
		io.WriteString(c, ok200+chunked+"\r\n5\r\nhello\r\n")
		io.Copy(io.Discard, c)
		return false
	})
	h := host(t, client(t, Options{}), w.url)
	x, s := post("{}"), &wires{fail: errors.New("the client has gone")}
	x.Sink = s
	if err := h.Do(context.Background(), x); err != s.fail {
		t.Errorf("got %v", err)
	}
	x.Free()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("the worker's connection is open")
	}
	if open, _ := h.counts(); open != 0 {
		t.Errorf("%d connections are open", open)
	}
}

func TestCollectsNoMoreThanItsLimit(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	for name, wire := range map[string]string{
		"announced": ok200 + "Content-Length: 102400\r\n\r\n" + long,
		"chunks":    ok200 + chunked + "\r\n19000\r\n" + long + "\r\n0\r\n\r\n",
		"to close":  ok200 + "\r\n" + long,
	} {
		w := start(t, func(c net.Conn, _ int, _ *http.Request, _ []byte) bool {
			io.WriteString(c, wire)
			// One that closes a connection which is kept for another request
			// resets that, and what was reset is not sent again.
			return name != "to close"
		})
		h := host(t, client(t, Options{}), w.url)
		for limit, fits := range map[int]bool{len(long): true, len(long) - 1: false, 10: false} {
			x := post("{}")
			c := &Collect{Limit: limit}
			x.Sink = c
			err := h.Do(context.Background(), x)
			if fits && (err != nil || string(c.Bytes()) != long) || !fits && !errors.Is(err, ErrTooLong) {
				t.Errorf("%s, limit %d: %d bytes, %v", name, limit, len(c.Bytes()), err)
			}
			if len(c.Bytes()) > limit {
				t.Errorf("%s: kept %d bytes of %d", name, len(c.Bytes()), limit)
			}
			c.Free()
			x.Free()
		}
	}
}
