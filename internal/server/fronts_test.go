package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
)

// hiding is a listener whose connections do not show that they are sockets, as
// those of TLS do not.
type hiding struct{ net.Listener }

func (l hiding) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return hidden{nc}, nil
}

type hidden struct{ net.Conn }

func (h hidden) NetConn() net.Conn { return h.Conn }

func (h hidden) CloseWrite() error { return h.Conn.(*net.TCPConn).CloseWrite() }

func (h hidden) SetLinger(sec int) error { return h.Conn.(*net.TCPConn).SetLinger(sec) }

// A road is one in which clients reach the same handlers.
type road struct {
	name   string
	hidden bool
	tls    bool
	h2     bool
}

var roads = []road{
	{name: "own"},
	{name: "own, hidden", hidden: true},
	{name: "own, TLS", tls: true},
	{name: "h2c", h2: true},
	{name: "h2, TLS", tls: true, h2: true},
}

// listen opens a listener for w.
func (w road) listen(t testing.TB) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case w.tls:
		return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate(t)}, NextProtos: []string{"h2", "http/1.1"}}), "https"
	case w.hidden:
		return hiding{l}, "http"
	}
	return l, "http"
}

// client speaks what w says.
func (w road) client(t testing.TB) *http.Client {
	tr := w.transport()
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// alone is a client that has one connection to s and no other: one that pools
// connections may open a second before it knows that the first has room.
func (w road) alone(t testing.TB, s *frontend) *http.Client {
	t.Helper()
	scheme, _, _ := strings.Cut(s.URL, "://")
	c, err := w.transport().NewClientConn(t.Context(), scheme, s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &http.Client{Transport: c, Timeout: patience}
}

func (w road) transport() *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP1(!w.h2)
	p.SetHTTP2(w.h2 && w.tls)
	p.SetUnencryptedHTTP2(w.h2 && !w.tls)
	return &http.Transport{Protocols: p, DisableCompression: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
}

// patience is how long anything may take before a test gives up on it.
const patience = 30 * time.Second

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// on serves mux by the road w.
func (w road) on(t *testing.T, cfg Config, mux *Mux) *frontend {
	t.Helper()
	l, scheme := w.listen(t)
	return serveOn(t, l, scheme, cfg, mux)
}

// show answers with all that a handler sees of a request.
var show = infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
	if err := r.ReadBody(8 << 20); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s ?%s param=%q local=%v\n", r.Method, r.Path, r.Query, r.Param, r.Remote.IsLoopback())
	var fs []string
	for _, f := range r.Header.Fields() {
		switch name := strings.ToLower(string(f.Name)); name {
		case "host":
			_, port, _ := net.SplitHostPort(string(f.Value))
			fs = append(fs, fmt.Sprintf("host with a port: %v\n", port != ""))
		case "content-length", "connection", "accept-encoding": // HTTP/2 needs none
		default:
			fs = append(fs, fmt.Sprintf("%s=%s\n", name, f.Value))
		}
	}
	slices.Sort(fs)
	fmt.Fprintf(&b, "%sbody %d %.40q", strings.Join(fs, ""), len(r.Body), r.Body)
	return w.Send(200, "text/plain", []byte(b.String()))
})

// TestFrontsAreAlike holds that neither a handler nor its client can tell on
// which front end they meet: requests, answers, errors and breaks are the same.
func TestFrontsAreAlike(t *testing.T) {
	type step = func(context.Context, *infer.Request, *infer.Reply) error
	whole := func(status int, body string) step {
		return func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Commit(status)
			_, err := io.WriteString(w, body)
			return err
		}
	}
	refusal := &infer.Error{Status: 503, Code: "no_workers", Msg: "None.", RetryAfter: time.Second}
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	handlers := map[string]step{
		"nothing": func(context.Context, *infer.Request, *infer.Reply) error { return nil },
		"promised and not kept": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().Set("Content-Length", "5")
			return nil
		},
		"promised, committed and not kept": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().Set("Content-Length", "5")
			w.Commit(200)
			return nil
		},
		"less than promised": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().Set("Content-Length", "5")
			_, err := io.WriteString(w, "abc")
			return err
		},
		"more than promised": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().Set("Content-Length", "5")
			if _, err := io.WriteString(w, "abc"); err != nil {
				return err
			}
			if _, err := io.WriteString(w, "defg"); err == nil {
				return errors.New("it was taken")
			}
			return nil
		},
		"more than promised, after all": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().Set("Content-Length", "3")
			if _, err := io.WriteString(w, "abc"); err != nil {
				return err
			}
			_, _ = io.WriteString(w, "d")
			return nil
		},
		"short":           whole(200, "short"),
		"teapot":          whole(418, ""),
		"a body of a 204": whole(204, "none"),
		"a body of a 304": whole(304, "none"),
		"large":           whole(200, big),
		"large, announced": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			return w.Send(200, "a/b", []byte(big))
		},
		"in pieces": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			for i := range 5000 {
				if _, err := fmt.Fprintf(w, "%d,", i); err != nil {
					return err
				}
				if i%100 == 0 {
					if err := w.Flush(); err != nil {
						return err
					}
				}
			}
			return nil
		},
		"flushed before its status": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			if err := w.Flush(); err != nil {
				return err
			}
			return refusal
		},
		"flushed before its body": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Commit(202)
			if err := w.Flush(); err != nil {
				return err
			}
			_, err := io.WriteString(w, "later")
			return err
		},
		"refused": func(context.Context, *infer.Request, *infer.Reply) error { return refusal },
		"failed":  func(context.Context, *infer.Request, *infer.Reply) error { return errors.New("secret") },
		"failed midway": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			_, _ = io.WriteString(w, "a")
			_ = w.Flush()
			return refusal
		},
		"panics": func(context.Context, *infer.Request, *infer.Reply) error { panic(http.ErrAbortHandler) },
		"panics midway": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			_, _ = io.WriteString(w, "a")
			_ = w.Flush()
			panic(http.ErrAbortHandler)
		},
		"the client's leave": func(context.Context, *infer.Request, *infer.Reply) error {
			return &infer.Error{Status: infer.StatusClientGone}
		},
		"odd fields": func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			h := w.Header()
			h.AddString("X-Two", "1")
			h.AddString("x-two", "2")
			h.AddString("X-Empty", "")
			h.AddString("X-Split", "a\r\nX-Evil: 1")
			h.AddString("X Name", "v")
			h.AddString("Connection", "X-Two")
			h.AddString("Transfer-Encoding", "gzip")
			return w.Send(200, "text/plain", []byte("odd"))
		},
		"reads no body": whole(200, "unread"),
	}
	routes := []Route{
		{"GET", "/show", 0, show}, {"POST", "/show", 0, show}, {"GET", "/show/{id}", 0, show}, {"GET", "/", 0, show},
		{"POST", "/small", 0, JSON(10)(show)},
	}
	for name, h := range handlers {
		p := "/" + strings.ReplaceAll(name, " ", "-")
		routes = append(routes, Route{"GET", p, 0, infer.HandlerFunc(h)}, Route{"POST", p, 0, infer.HandlerFunc(h)})
	}
	mux := NewMux(routes, named)

	type ask struct {
		method, target, body string
		header               http.Header
	}
	torn := map[string]bool{
		"promised and not kept": true, "promised, committed and not kept": true, "less than promised": true, "failed midway": true,
		"panics": true, "panics midway": true, "the client's leave": true,
	}
	js := http.Header{"Content-Type": {"application/json"}}
	asks := []ask{
		{"GET", "/show?a=b&c=%20x;y", "", http.Header{"X-A": {"1", "2"}, "X-Empty": {""}, "Cookie": {"a=b; c=d"}, "Te": {"trailers"}, "Authorization": {"Bearer x"}}},
		{"GET", "/show", "", nil},
		{"GET", "/show?", "", nil},
		{"GET", "/show/a%2Fb%20c", "", nil},
		{"GET", `/show/{"x"}|^[y]`, "", nil},
		{"GET", "/show/a//b/../c", "", nil},
		{"POST", "/show", "body", js},
		{"POST", "/show", big, nil},
		{"POST", "/show", "", nil},
		{"POST", "/small", "12345678901", js},
		{"POST", "/small", "1234567890", js},
		{"POST", "/small", "1234567890", nil},
		{"PUT", "/show", "x", nil},
		{"GET", "/nope", "", nil},
		{"OPTIONS", "/show", "", nil},
	}
	for name := range handlers {
		p := "/" + strings.ReplaceAll(name, " ", "-")
		asks = append(asks, ask{"GET", p, "", nil}, ask{"HEAD", p, "", nil})
		if !torn[name] { // its client may find that it cannot send a body before it finds the answer
			asks = append(asks, ask{"POST", p, "a body", nil})
		}
	}
	slices.SortFunc(asks[15:], func(a, b ask) int { return strings.Compare(a.target, b.target) })

	want := make(map[string]string)
	for _, w := range roads {
		t.Run(w.name, func(t *testing.T) {
			s := w.on(t, patient(), mux)
			c := w.client(t)
			for i, a := range asks {
				for _, chunked := range []bool{false, true} {
					if chunked && a.body == "" {
						continue
					}
					key := fmt.Sprintf("%d %s %s %v", i, a.method, a.target, chunked)
					got := exchange(t, c, s.URL, a.method, a.target, a.body, a.header, chunked)
					if first, ok := want[key]; !ok {
						want[key] = got
					} else if got != first {
						t.Errorf("%s:\n got %s\nwant %s", key, got, first)
					}
				}
			}
		})
	}
}

// patient is a configuration with which no client is late: a machine that stood
// still for a minute would be told from one front end and not from another.
func patient() Config {
	c := short()
	for _, d := range []*time.Duration{&c.HeaderReadTimeout, &c.HandshakeTimeout, &c.IdleTimeout, &c.BodyTimeout, &c.WriteTimeout, &c.Linger} {
		*d = time.Hour
	}
	c.BodyRate = 0
	return c
}

// exchange says how a call went, in words that do not depend on the protocol.
func exchange(t *testing.T, c *http.Client, base, method, target, body string, header http.Header, chunked bool) string {
	t.Helper()
	var rd io.Reader
	switch {
	case chunked:
		rd = io.MultiReader(strings.NewReader(body))
	case body != "":
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, base+"/", rd)
	if err != nil {
		t.Fatal(err)
	}
	path, query, asked := strings.Cut(target, "?")
	req.URL.Opaque = path // as it is
	req.URL.RawQuery, req.URL.ForceQuery = query, asked
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", "test")
	res, err := c.Transport.RoundTrip(req)
	if err != nil {
		return "no answer"
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	how := "whole"
	if err != nil {
		how = "cut"
	}
	var fs []string
	for name, values := range res.Header {
		if name != "Date" && name != "Connection" && name != "Content-Length" {
			fs = append(fs, fmt.Sprintf("%s=%q", name, values))
		}
	}
	slices.Sort(fs)
	return fmt.Sprintf("%d %s %s, %d bytes %.300q", res.StatusCode, strings.Join(fs, " "), how, len(b), b)
}
