package upstream

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// certificate returns a self-signed one for names, and the pool that trusts it.
func certificate(t testing.TB, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(names[0]); ip != nil {
		template.IPAddresses = []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// secure is start with TLS.
func secure(t testing.TB, cfg *tls.Config, script func(net.Conn, int, *http.Request, []byte) bool) *worker {
	t.Helper()
	w := serve(t, tls.NewListener(listen(t, "tcp"), cfg), script)
	w.url = strings.Replace(w.url, "http:", "https:", 1)
	return w
}

func TestTLS(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	var protocol, name string
	w := secure(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		state := c.(*tls.Conn).ConnectionState()
		protocol, name = state.NegotiatedProtocol, state.ServerName
		return echo(c, nth, r, body)
	})
	h := host(t, client(t, Options{TLS: &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}}}), w.url)
	ask(t, h, "a")
	for _, n := range []int{1, oneWrite + 1, 3 << 20, 2} {
		ask(t, h, strings.Repeat("x", n))
	}
	if n := w.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if protocol != "http/1.1" || name != "" {
		t.Errorf("protocol %q, name %q", protocol, name)
	}
}

func TestTLSThatIsNotTrusted(t *testing.T) {
	cert, _ := certificate(t, "worker.test")
	w := secure(t, &tls.Config{Certificates: []tls.Certificate{cert}}, echo)
	h := host(t, client(t, Options{}), w.url)
	r := do(context.Background(), h, post("{}"))
	var e *Error
	var bad *tls.CertificateVerificationError
	if !errors.As(r.err, &e) || e.Op != "dial" || !errors.As(r.err, &bad) {
		t.Errorf("got %v", r.err)
	}
	if open, _ := h.counts(); open != 0 {
		t.Errorf("%d connections are open", open)
	}
}

func TestMutualTLS(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	mine, theirs := certificate(t, "gateway.test")
	var who string
	w := secure(t, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: theirs}, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		who = c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
		return echo(c, nth, r, body)
	})
	ask(t, host(t, client(t, Options{TLS: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{mine}}}), w.url), "a")
	if who != "gateway.test" {
		t.Errorf("the worker was asked by %q", who)
	}
	if r := do(context.Background(), host(t, client(t, Options{TLS: &tls.Config{RootCAs: pool}}), w.url), post("{}")); r.err == nil {
		t.Error("an answer without a certificate")
	}
}

// corked is a connection that can send several writes as one.
type corked struct {
	net.Conn
	on   bool
	held []byte
}

func (c *corked) Write(p []byte) (int, error) {
	if c.on {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *corked) flush() error {
	_, err := c.Conn.Write(c.held)
	c.on, c.held = false, nil
	return err
}

type corkListener struct{ net.Listener }

func (l corkListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &corked{Conn: c}, err
}

// TestTLSKeepsNothingBack holds that a second answer is nobody's which came
// with the first, in a record of its own, or right behind it.
func TestTLSKeepsNothingBack(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	sent := make(chan error, 1)
	ln := tls.NewListener(corkListener{listen(t, "tcp")}, &tls.Config{Certificates: []tls.Certificate{cert}})
	w := serve(t, ln, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		under := c.(*tls.Conn).NetConn().(*corked)
		switch string(body) {
		case "at once":
			under.on = true
			echo(c, nth, r, body)
			echo(c, nth, r, []byte("poison"))
			sent <- under.flush()
		case "behind":
			echo(c, nth, r, body)
			echo(c, nth, r, []byte("poison"))
			sent <- nil
		default:
			echo(c, nth, r, body)
		}
		return true
	})
	h := host(t, client(t, Options{TLS: &tls.Config{RootCAs: pool}}), strings.Replace(w.url, "http", "https", 1))
	for range 20 {
		for _, attack := range []string{"at once", "behind"} {
			ask(t, h, attack)
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			ask(t, h, "honest")
		}
	}
}

// tunnel makes an Exchange that asks for another protocol.
func tunnel() *Exchange {
	x := NewExchange(0)
	x.Method = "GET"
	x.Head = append(x.Head, "GET /v1/realtime HTTP/1.1\r\nHost: worker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"...)
	return x
}

func TestTunnel(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	script := func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		if r.Header.Get("Upgrade") == "" {
			return echo(c, nth, r, body)
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
		io.Copy(c, c)
		return false
	}
	for name, w := range map[string]*worker{
		"tcp": start(t, script), "unix": serve(t, listen(t, "unix"), script),
		"tls": secure(t, &tls.Config{Certificates: []tls.Certificate{cert}}, script),
	} {
		t.Run(name, func(t *testing.T) {
			h := host(t, client(t, Options{TLS: &tls.Config{RootCAs: pool}}), w.url)
			ask(t, h, "a") // leaves a connection, which is not used for this
			x, s := tunnel(), new(wires)
			x.Sink, x.FirstByte = s, 500*time.Millisecond
			ctx, cancel := context.WithCancel(context.Background())
			nc, early, err := h.Tunnel(ctx, x)
			x.Free()
			cancel() // the tunnel is the caller's by now
			if err != nil || nc == nil || s.status != 101 || string(early) != "early" {
				t.Fatalf("got %v %q, status %d, %v", nc, early, s.status, err)
			}
			defer nc.Close()
			<-time.After(900 * time.Millisecond) // longer than its head might have taken
			fmt.Fprintln(nc, "over and back")
			if line, err := bufio.NewReader(nc).ReadString('\n'); err != nil || line != "over and back\n" {
				t.Errorf("got %q, %v", line, err)
			}
			if open, idle := h.counts(); open != 1 || idle != 1 {
				t.Errorf("%d open, %d idle", open, idle)
			}
			if n := w.conns.Load(); n != 2 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func TestTunnelThatIsRefused(t *testing.T) {
	w := start(t, func(c net.Conn, nth int, r *http.Request, body []byte) bool {
		io.WriteString(c, "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
		return true
	})
	h := host(t, client(t, Options{}), w.url)
	x, c := tunnel(), &Collect{Limit: 10}
	x.Sink = c
	nc, _, err := h.Tunnel(context.Background(), x)
	if nc != nil || err != nil || c.Status != 426 || string(c.Bytes()) != "no" {
		t.Errorf("got %v, %d %q, %v", nc, c.Status, c.Bytes(), err)
	}
	c.Free()
	x.Free()
	if _, idle := h.counts(); idle != 1 {
		t.Error("the connection is not kept")
	}
}
