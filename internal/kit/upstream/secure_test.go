package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// TestAuthoritiesOfTheMoment holds that a worker is believed by what is trusted
// when it is connected to, not by what was when the client was made.
func TestAuthoritiesOfTheMoment(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a") }))
	defer s.Close()
	s.Config.ErrorLog = nil
	var trusted atomic.Pointer[x509.CertPool]
	trusted.Store(x509.NewCertPool())
	h := host(t, client(t, Options{Secure: func() *tls.Config { return &tls.Config{RootCAs: trusted.Load()} }}), s.URL)
	if r := do(t.Context(), h, post("a")); r.err == nil {
		t.Fatal("a worker was believed that nobody vouches for")
	}
	now := x509.NewCertPool()
	now.AddCert(s.Certificate())
	trusted.Store(now)
	if r := do(t.Context(), h, post("a")); r.err != nil || r.status != 200 {
		t.Errorf("got %d, %v", r.status, r.err)
	}
}
