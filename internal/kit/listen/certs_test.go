package listen

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

var serials atomic.Int64

// An authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serials.Add(1)), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(50, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// sign returns the PEM of a certificate for name and 127.0.0.1, and its key.
func (a *authority) sign(name string, edit ...func(*x509.Certificate)) (cert, key []byte) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serials.Add(1)), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(20, 0, 0),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, f := range edit {
		f(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})
}

// pairAt signs a certificate into dir and returns its files.
func (a *authority) pairAt(dir, name string, edit ...func(*x509.Certificate)) (certFile, keyFile string) {
	a.t.Helper()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	cert, key := a.sign(name, edit...)
	write(a.t, certFile, cert)
	write(a.t, keyFile, key)
	return certFile, keyFile
}

// write writes a file in place, as an editor or cp would.
func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace renames a new file into the place of another.
func replace(t *testing.T, name string, b []byte) {
	t.Helper()
	write(t, name+".new", b)
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// serve answers TLS handshakes with cfg for the time of the test. A client
// reads ok and the end.
func serve(t *testing.T, cfg *tls.Config) (addr string) {
	t.Helper()
	l := opened(t, "127.0.0.1:0", Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = Accept(t.Context(), l, func(c net.Conn) {
			go func() {
				tc := tls.Server(c, cfg)
				_, _ = io.WriteString(tc, "ok") // the handshake is in it
				_ = tc.Close()
			}()
		}, Trouble{})
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// shake makes a connection to addr and returns what was agreed, once the
// server has taken it too.
func shake(addr string, cfg *tls.Config) (tls.ConnectionState, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	c, err := tls.DialWithDialer(&d, "tcp", addr, cfg)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(c)
	if err == nil && string(b) != "ok" {
		err = errors.New("the server said " + string(b))
	}
	return c.ConnectionState(), err
}

// shown returns the name in the certificate that addr shows.
func shown(t *testing.T, addr string, cfg *tls.Config) string {
	t.Helper()
	s, err := shake(addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s.PeerCertificates[0].Subject.CommonName
}
