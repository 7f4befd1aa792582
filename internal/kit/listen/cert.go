package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A Certificate is a chain and its key, read from two files and read again
// when they change.
type Certificate struct{ w watched[pair] }

type pair struct {
	cert tls.Certificate
	info Info
}

// Info says what a certificate is.
type Info struct {
	Names               []string // what it is valid for
	NotBefore, NotAfter time.Time

	// Warnings are what is odd about it and its files, and keeps nobody from
	// using them: its time is over or has not come, or everybody on the
	// machine can read the key.
	Warnings []error
}

// NewCertificate reads a certificate chain, the gateway's own first, and its
// key, both PEM. Files that cannot be used are an error. Look at Info for
// warnings. Nothing is watched before Run.
func NewCertificate(certFile, keyFile string, ev Events) (*Certificate, error) {
	c := &Certificate{watched[pair]{names: []string{certFile, keyFile}, parse: parsePair, faulty: (*pair).expired, events: ev}}
	if err := c.w.open(); err != nil {
		return nil, err
	}
	return c, nil
}

// Run reads the files again when they change, until ctx ends. They may be
// written in place, one after the other, renamed into place, or be reached
// through symbolic links that change, as Kubernetes has it.
func (c *Certificate) Run(ctx context.Context) error { return c.w.Run(ctx) }

// Reload reads the files now. If they cannot be used, the certificate stays as
// it was; the error is returned and Events are not told of it.
func (c *Certificate) Reload() error { return c.w.Reload() }

// Info says what the certificate in use is.
func (c *Certificate) Info() Info { return c.w.value.Load().info }

// GetCertificate returns the certificate in use; it is for tls.Config.
func (c *Certificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &c.w.value.Load().cert, nil
}

// parsePair makes a pair of the text of its two files.
func parsePair(files []file) (*pair, error) {
	cert, key := files[0], files[1]
	if locked(key.text) {
		return nil, fmt.Errorf("key %s is locked with a passphrase; want it without", key.name)
	}
	tc, err := tls.X509KeyPair(cert.text, key.text)
	if err != nil {
		return nil, fmt.Errorf("certificate %s and key %s: %w", cert.name, key.name, err)
	}
	p := &pair{cert: tc}
	p.info = Info{Names: names(tc.Leaf), NotBefore: tc.Leaf.NotBefore, NotAfter: tc.Leaf.NotAfter}
	now := time.Now()
	if now.Before(tc.Leaf.NotBefore) {
		p.info.Warnings = append(p.info.Warnings, fmt.Errorf("certificate %s is not valid before %s", cert.name, date(tc.Leaf.NotBefore)))
	}
	if err := p.expired(now); err != nil {
		p.info.Warnings = append(p.info.Warnings, err)
	}
	// A group may be there for this; and on Windows the mode says nothing.
	if mode := key.info.Mode().Perm(); mode&0o004 != 0 && runtime.GOOS != "windows" {
		p.info.Warnings = append(p.info.Warnings, fmt.Errorf("key %s can be read by everybody on this machine (mode %04o); want 0600 or 0640", key.name, mode))
	}
	return p, nil
}

// expired returns an error if p's time is over at now.
func (p *pair) expired(now time.Time) error {
	if now.After(p.info.NotAfter) {
		return fmt.Errorf("the certificate of %s expired on %s", strings.Join(p.info.Names, ", "), date(p.info.NotAfter))
	}
	return nil
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// names returns what c is valid for; for one that says nothing in the way
// that is read today, its subject.
func names(c *x509.Certificate) []string {
	l := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		l = append(l, ip.String())
	}
	for _, u := range c.URIs {
		l = append(l, u.String())
	}
	if len(l) == 0 {
		l = []string{c.Subject.String()}
	}
	return l
}

// locked reports whether a PEM key is encrypted.
func locked(text []byte) bool {
	for b := range blocks(text) {
		if b.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED") {
			return true
		}
	}
	return false
}

// blocks yields the blocks of a PEM text.
func blocks(text []byte) func(yield func(*pem.Block) bool) {
	return func(yield func(*pem.Block) bool) {
		for {
			var b *pem.Block
			if b, text = pem.Decode(text); b == nil || !yield(b) {
				return
			}
		}
	}
}

// Roots are the certificates of authorities, read from files and read again
// when those change.
type Roots struct{ w watched[x509.CertPool] }

// NewRoots reads authorities from PEM files, each of which has one or more.
// Nothing is watched before Run.
func NewRoots(files []string, ev Events) (*Roots, error) {
	if len(files) == 0 {
		return nil, errors.New("no files of certificate authorities")
	}
	r := &Roots{watched[x509.CertPool]{names: slices.Clone(files), events: ev, parse: func(files []file) (*x509.CertPool, error) {
		pool := x509.NewCertPool()
		return pool, addRoots(pool, files)
	}}}
	if err := r.w.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// Run reads the files again when they change, until ctx ends.
func (r *Roots) Run(ctx context.Context) error { return r.w.Run(ctx) }

// Reload reads the files now. If they cannot be used, the authorities stay as
// they were; the error is returned and Events are not told of it.
func (r *Roots) Reload() error { return r.w.Reload() }

// Pool returns the authorities as they are now. It must not be changed.
func (r *Roots) Pool() *x509.CertPool { return r.w.value.Load() }

// addRoots adds the certificates of files to pool. Each file must have one,
// and each must be readable: an authority that is left out in silence is
// missed when its workers cannot be reached.
func addRoots(pool *x509.CertPool, files []file) error {
	for _, f := range files {
		found := false
		for b := range blocks(f.text) {
			if b.Type != "CERTIFICATE" {
				continue
			}
			c, err := x509.ParseCertificate(bytes.Clone(b.Bytes))
			if err != nil {
				return fmt.Errorf("certificate authorities %s: %w", f.name, err)
			}
			pool.AddCert(c)
			found = true
		}
		if !found {
			return fmt.Errorf("certificate authorities %s: there is no certificate in it", f.name)
		}
	}
	return nil
}
