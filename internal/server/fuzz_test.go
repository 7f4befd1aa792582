package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/internal/infer"
)

// heard is what reached a handler.
type heard struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func (h *heard) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.all
	h.all = nil
	return all
}

// gate answers each request whose body could be read, and notes it.
func (h *heard) gate(next infer.Handler) infer.Handler {
	return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		if r.Method == "" { // it is none
			return next.Serve(ctx, r, w)
		}
		if err := r.ReadBody(1 << 20); err != nil {
			return err
		}
		said := describe(r.Method, r.Path, r.Query, string(r.Header.Get("Host")), r.Body)
		h.mu.Lock()
		h.all = append(h.all, said)
		h.mu.Unlock()
		return w.Send(200, "text/plain", []byte(said))
	})
}

func describe(method, path, query, host string, body []byte) string {
	return fmt.Sprintf("%s %s ?%s of %s: %x", method, path, query, host, body)
}

// asNetHTTP returns the requests that net/http reads in a stream.
func asNetHTTP(in []byte) (all []string) {
	br := bufio.NewReader(bytes.NewReader(in))
	for {
		if b, err := br.Peek(2); err == nil && string(b) == "\r\n" { // RFC 9112 §2.2
			_, _ = br.Discard(2)
		}
		req, err := http.ReadRequest(br)
		if err != nil {
			return all
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return all
		}
		path := req.RequestURI
		if _, rest, isAbsolute := strings.Cut(path, "://"); isAbsolute && !strings.HasPrefix(path, "/") {
			path = rest
			if i := strings.IndexAny(rest, "/?"); i >= 0 {
				path = rest[i:]
			} else if path = "/"; req.Method == "OPTIONS" {
				path = "*"
			}
		}
		path, _, _ = strings.Cut(path, "?")
		if path == "" {
			path = "/"
		}
		all = append(all, describe(req.Method, path, req.URL.RawQuery, req.Host, body))
	}
}

// FuzzFront sends a stream of bytes in pieces, and holds that the requests
// which reach a handler are the first of those that net/http reads in it, that
// each gets its own answer, in order, and that the connection ends with what is
// no request.
func FuzzFront(f *testing.F) {
	const host = "Host: h\r\n"
	for _, s := range []string{
		get + get, "\r\n" + get, "GET http://t/x?y HTTP/1.1\r\n" + host + "\r\n", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n",
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\nabc" + get,
		"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n" + get,
		"POST / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc" + get,
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get,
		"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + "GET /2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + "HEAD /3 HTTP/1.0\r\n\r\n" + get,
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 10\r\n\r\nshort", "GET / HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n" + get,
		"GET /%zz HTTP/1.1\r\n" + host + "\r\n", "PRI * HTTP/2.0\r\n\r\n", "PUT / HTTP/1.1\r\n" + host + "Upgrade: x\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nxx" + get,
	} {
		f.Add([]byte(s), []byte{255})
		f.Add([]byte(s), []byte{1, 1, 1, 40, 3})
	}
	f.Add([]byte("POST / HTTP/1.1\r\n"+host+"Content-Length: 40000\r\n\r\n"+strings.Repeat("x", 40000)+get), []byte{255, 255, 255})
	var h heard
	var fronts []*frontend
	for _, w := range roads[:2] {
		l, scheme := w.listen(f)
		fronts = append(fronts, serveOn(f, l, scheme, short(), NewMux(nil, h.gate), func(f *Front) {
			f.limits.Extension, f.limits.Trailer = 1<<10, 1<<10 // net/http has its own
		}))
	}
	f.Fuzz(func(t *testing.T, in, cuts []byte) {
		if bytes.HasPrefix(in, []byte("PRI * HTTP/2.0")) || len(in) > 64<<10 {
			return // net/http's, to which nothing is compared here
		}
		for _, s := range fronts {
			h.take()
			answers := stream(t, s, in, cuts)
			got, want := h.take(), asNetHTTP(in)
			for i, r := range got {
				if i >= len(want) || r != want[i] {
					t.Fatalf("request %d of %q was read as %q; net/http reads %q", i, in, r, want)
				}
			}
			if len(answers) < len(got) || len(answers) > len(got)+1 {
				t.Fatalf("%d requests of %q have %d answers: %q", len(got), in, len(answers), answers)
			}
			for i, a := range answers {
				if i < len(got) && a != "200 "+got[i] && !(strings.HasPrefix(got[i], "HEAD ") && a == "200 ") || i == len(got) && a < "400" {
					t.Fatalf("answer %d of %q is %q; the requests were %q", i, in, a, got)
				}
			}
		}
	})
}

// stream sends in, in pieces of as many bytes as cuts say, and returns the
// answers.
func stream(t *testing.T, s *frontend, in, cuts []byte) (answers []string) {
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	methods := make(chan string, 1<<10)
	for _, r := range asNetHTTP(in) {
		method, _, _ := strings.Cut(r, " ")
		select {
		case methods <- method:
		default:
		}
	}
	close(methods)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for rest := in; len(rest) > 0; {
			n := len(rest)
			if len(cuts) > 0 {
				n, cuts = min(n, max(int(cuts[0]), 1)), cuts[1:]
			}
			if _, err := nc.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
		_ = nc.(*net.TCPConn).CloseWrite()
	}()
	defer func() { <-sent }()
	br := bufio.NewReader(nc)
	last := false
	for {
		if _, err := br.Peek(1); err != nil {
			if err != io.EOF && !(last && errors.Is(err, syscall.ECONNRESET)) { // who goes on after its last request asks for a reset
				t.Fatalf("%q: it ends with %v, after %q", in, err, answers)
			}
			return answers
		}
		method := <-methods
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		for err == nil && res.StatusCode == http.StatusContinue {
			res, err = http.ReadResponse(br, &http.Request{Method: method})
		}
		if err != nil {
			t.Fatalf("%q: an answer is none: %v, after %q", in, err, answers)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatalf("%q: an answer is cut: %v, after %q", in, err, answers)
		}
		last = res.Close && res.StatusCode < 400
		answers = append(answers, fmt.Sprintf("%d %s", res.StatusCode, b))
	}
}
