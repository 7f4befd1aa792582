package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// shows returns a Certificate of ca for name, and its file.
func shows(t *testing.T, ca *authority, name string) (*Certificate, string) {
	t.Helper()
	cert, key := ca.pairAt(t.TempDir(), name)
	c, err := NewCertificate(cert, key, Events{})
	if err != nil {
		t.Fatal(err)
	}
	return c, cert
}

func TestWhatIsAgreed(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert, _ := shows(t, ca, "one.test")
	both := serve(t, ServerTLS(cert, ServerOptions{}))
	plain := serve(t, ServerTLS(cert, ServerOptions{NextProtos: []string{"http/1.1"}}))
	tests := []struct {
		name    string
		addr    string
		client  *tls.Config
		version uint16 // 0 if they cannot agree
		proto   string
	}{
		{"a client of today", both, &tls.Config{NextProtos: []string{"http/1.1", "h2"}}, tls.VersionTLS13, "h2"},
		{"a client without h2", both, &tls.Config{NextProtos: []string{"http/1.1"}}, tls.VersionTLS13, "http/1.1"},
		{"a client that says nothing", both, &tls.Config{}, tls.VersionTLS13, ""},
		{"a client of yesterday", both, &tls.Config{MaxVersion: tls.VersionTLS12}, tls.VersionTLS12, ""},
		{"a client of long ago", both, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, 0, ""},
		{"a listener without h2", plain, &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, tls.VersionTLS13, "http/1.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.client.RootCAs = ca.pool()
			s, err := shake(tt.addr, tt.client)
			if tt.version == 0 {
				if err == nil {
					t.Errorf("they agreed on %s", tls.VersionName(s.Version))
				}
				return
			}
			if err != nil || s.Version != tt.version || s.NegotiatedProtocol != tt.proto {
				t.Errorf("%s, %q, %v; want %s, %q", tls.VersionName(s.Version), s.NegotiatedProtocol, err, tls.VersionName(tt.version), tt.proto)
			}
		})
	}
}

// TestTroubleEndsOverTLS: that there is room again is told although no client
// comes.
func TestTroubleEndsOverTLS(t *testing.T) {
	cert, _ := shows(t, newAuthority(t, "ca"), "one.test")
	l := Secure(opened(t, "127.0.0.1:0", Options{}), ServerTLS(cert, ServerOptions{}))
	room := make(chan struct{})
	began, ended, done := make(chan struct{}, 1), make(chan struct{}, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		done <- Accept(ctx, l, func(c net.Conn) { _ = c.Close() }, Trouble{
			Full: func() error {
				select {
				case <-room:
					return nil
				default:
					return errors.New("full")
				}
			},
			Began: func(error) { began <- struct{}{} },
			Ended: func(time.Duration) { ended <- struct{}{} },
		})
	}()
	<-began
	close(room)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("nobody was told that connections are accepted again")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSessionsAreResumed(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert, _ := shows(t, ca, "one.test")
	addr := serve(t, ServerTLS(cert, ServerOptions{}))
	cfg := &tls.Config{RootCAs: ca.pool(), ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for i := range 2 {
		if s, err := shake(addr, cfg); err != nil || s.DidResume != (i == 1) {
			t.Errorf("connection %d: resumed %v, %v", i, s.DidResume, err)
		}
	}
}

// TestClientsMustShowWhoTheyAre: also when the authorities change, and when
// they had a session before.
func TestClientsMustShowWhoTheyAre(t *testing.T) {
	ca, friends, strangers := newAuthority(t, "ca"), newAuthority(t, "friends"), newAuthority(t, "strangers")
	cert, _ := shows(t, ca, "one.test")
	file := filepath.Join(t.TempDir(), "ca.crt")
	write(t, file, friends.pem)
	roots, err := NewRoots([]string{file}, Events{})
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, ServerTLS(cert, ServerOptions{ClientCA: roots}))
	client := func(of *authority) *tls.Config {
		c := &tls.Config{RootCAs: ca.pool(), ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		if of != nil {
			own, _ := shows(t, of, "client")
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.GetCertificate(nil) }
		}
		return c
	}
	friend, stranger, nobody := client(friends), client(strangers), client(nil)
	expect := func(who string, c *tls.Config, welcome, resumed bool) {
		t.Helper()
		s, err := shake(addr, c)
		if (err == nil) != welcome || err == nil && s.DidResume != resumed {
			t.Errorf("%s: resumed %v, %v; want welcome %v, resumed %v", who, s.DidResume, err, welcome, resumed)
		}
	}
	expect("a friend", friend, true, false)
	expect("a friend who comes again", friend, true, true)
	expect("a stranger", stranger, false, false)
	expect("nobody", nobody, false, false)
	write(t, file, strangers.pem)
	if err := roots.Reload(); err != nil {
		t.Fatal(err)
	}
	expect("a friend of old", friend, false, false)
	expect("a stranger of old", stranger, true, false)
	write(t, file, slices.Concat(friends.pem, []byte("a comment\n"), strangers.pem))
	if err := roots.Reload(); err != nil {
		t.Fatal(err)
	}
	expect("a friend again", client(friends), true, false)
	expect("a stranger again", client(strangers), true, false)
}

func dialing(t *testing.T, cfg ClientConfig) *Client {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	c, err := ClientTLS(cfg, Events{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// to returns c's settings for a worker that is called name.
func to(c *Client, name string) *tls.Config {
	cfg := c.Config().Clone()
	cfg.ServerName = name
	return cfg
}

func TestWhichWorkersAreBelieved(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	cert, _ := shows(t, ca, "worker.test")
	addr := serve(t, ServerTLS(cert, ServerOptions{}))
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one.crt"), filepath.Join(dir, "two.crt")
	write(t, one, ca.pem)
	write(t, two, other.pem)
	tests := []struct {
		name   string
		cfg    ClientConfig
		worker string
		want   bool
	}{
		{"of an authority that is known", ClientConfig{CAFiles: []string{one}}, "worker.test", true},
		{"of one of several", ClientConfig{CAFiles: []string{two, one}}, "worker.test", true},
		{"of one that is not", ClientConfig{CAFiles: []string{two}}, "worker.test", false},
		{"of none of the system's", ClientConfig{}, "worker.test", false},
		{"of another name", ClientConfig{CAFiles: []string{one}}, "other.test", false},
		{"whoever it is", ClientConfig{InsecureSkipVerify: true}, "other.test", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := shake(addr, to(dialing(t, tt.cfg), tt.worker))
			if (err == nil) != tt.want {
				t.Fatalf("%v; want it believed: %v", err, tt.want)
			}
			if err == nil && s.NegotiatedProtocol != "http/1.1" {
				t.Errorf("%q is spoken, want http/1.1", s.NegotiatedProtocol)
			}
		})
	}
}

// TestWorkersAskWhoWeAre: our certificate, and whom we believe, change without
// a restart.
func TestWorkersAskWhoWeAre(t *testing.T) {
	ca, us := newAuthority(t, "ca"), newAuthority(t, "us")
	cert, _ := shows(t, ca, "worker.test")
	roots := filepath.Join(t.TempDir(), "us.crt")
	write(t, roots, us.pem)
	workers, err := NewRoots([]string{roots}, Events{})
	if err != nil {
		t.Fatal(err)
	}
	var seen string // by the worker, before it answers
	cfg := ServerTLS(cert, ServerOptions{ClientCA: workers})
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		seen = s.PeerCertificates[0].Subject.CommonName
		return nil
	}
	addr := serve(t, cfg)

	dir := t.TempDir()
	trust := filepath.Join(dir, "ca.crt")
	write(t, trust, ca.pem)
	if _, err := shake(addr, to(dialing(t, ClientConfig{CAFiles: []string{trust}}), "worker.test")); err == nil {
		t.Error("a worker that asks let nobody in")
	}
	ours, key := us.pairAt(dir, "gateway-1")
	c := dialing(t, ClientConfig{CAFiles: []string{trust}, CertFile: ours, KeyFile: key})
	if info, ok := c.Info(); !ok || info.Names[0] != "gateway-1" {
		t.Errorf("we show %v, %v", info, ok)
	}
	kept := to(c, "worker.test")
	expect := func(cfg *tls.Config, name string) {
		t.Helper()
		if _, err := shake(addr, cfg); err != nil || seen != name {
			t.Errorf("the worker saw %q, %v; want %q", seen, err, name)
		}
	}
	expect(to(c, "worker.test"), "gateway-1")
	us.pairAt(dir, "gateway-2")
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	expect(to(c, "worker.test"), "gateway-2")
	kept.ClientSessionCache = nil
	expect(kept, "gateway-2")

	// A pair that cannot be used changes nothing.
	write(t, key, []byte("x"))
	refused(t, c.Reload(), "client certificate")
	expect(to(c, "worker.test"), "gateway-2")

	us.pairAt(dir, "gateway-3")
	write(t, trust, us.pem)
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := shake(addr, to(c, "worker.test")); err == nil {
		t.Error("a worker of an authority that is gone was believed")
	}
}

func TestClientFilesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	for _, cfg := range []ClientConfig{
		{CAFiles: []string{filepath.Join(dir, "none")}},
		{CertFile: filepath.Join(dir, "none"), KeyFile: filepath.Join(dir, "none")},
	} {
		if _, err := ClientTLS(cfg, Events{}); !os.IsNotExist(err) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// TestNothingToWatch: without files, Run waits for its end.
func TestNothingToWatch(t *testing.T) {
	run(t, dialing(t, ClientConfig{}).Run)()
}
