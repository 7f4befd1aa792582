package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluice/internal/kit/bubble"
)

func TestFilesThatCannotBeUsed(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert, key := ca.sign("one.test")
	_, other := ca.sign("two.test")
	block, _ := pem.Decode(key)
	tests := []struct {
		name      string
		cert, key []byte // nil for no such file
		says      []string
	}{
		{"no certificate", nil, key, []string{"tls.crt", "no such file"}},
		{"no key", cert, nil, []string{"tls.key", "no such file"}},
		{"an empty certificate", []byte{}, key, []string{"tls.crt"}},
		{"half a certificate", cert[:len(cert)/2], key, []string{"tls.crt"}},
		{"half a key", cert, key[:len(key)/2], []string{"tls.key"}},
		{"the key of another", cert, other, []string{"tls.crt", "tls.key", "does not match"}},
		{"the authority's first", append(slices.Clone(ca.pem), cert...), key, []string{"does not match"}},
		{"a locked key", cert, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: block.Bytes}), []string{"passphrase"}},
		{"a key locked in the old way", cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: block.Bytes}), []string{"passphrase"}},
		{"more than a certificate can be", make([]byte, maxFileSize+1), key, []string{"tls.crt", "more than"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, b := range map[string][]byte{"tls.crt": tt.cert, "tls.key": tt.key} {
				if b != nil {
					write(t, filepath.Join(dir, name), b)
				}
			}
			_, err := NewCertificate(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), Events{})
			refused(t, err, tt.says...)
			if strings.Contains(err.Error(), string(block.Bytes[:8])) {
				t.Error("the error shows the key")
			}
		})
	}
	t.Run("a directory", func(t *testing.T) {
		_, err := NewCertificate(t.TempDir(), t.TempDir(), Events{})
		refused(t, err, "not a regular file")
	})
}

func TestWarnings(t *testing.T) {
	ca := newAuthority(t, "ca")
	tests := []struct {
		name string
		edit func(*x509.Certificate)
		mode os.FileMode
		want string // "" for none
	}{
		{"all is well", func(*x509.Certificate) {}, 0o600, ""},
		{"the group may read the key", func(*x509.Certificate) {}, 0o640, ""},
		{"everybody may read the key", func(*x509.Certificate) {}, 0o644, "can be read by everybody"},
		{"it is over", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }, 0o600, "the certificate of one.test, 127.0.0.1 expired on"},
		{"it is early", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, 0o600, "not valid before"},
		{"it has no names", func(c *x509.Certificate) { c.DNSNames, c.IPAddresses, c.NotAfter = nil, nil, time.Unix(1e9, 0) }, 0o600, "of CN=one.test expired on 2001-09-09T01:46:40Z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert, key := ca.pairAt(t.TempDir(), "one.test", tt.edit)
			if err := os.Chmod(key, tt.mode); err != nil {
				t.Fatal(err)
			}
			c, err := NewCertificate(cert, key, Events{})
			if err != nil {
				t.Fatal(err)
			}
			w := c.Info().Warnings
			if tt.want == "" {
				if len(w) > 0 {
					t.Errorf("warned: %v", w)
				}
				return
			}
			if len(w) != 1 {
				t.Fatalf("warnings %v, want one", w)
			}
			refused(t, w[0], tt.want)
		})
	}
}

// A watcher notes what it is told.
type watcher struct {
	mu  sync.Mutex
	log []string
}

func (w *watcher) events() Events {
	say := func(s string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.log = append(w.log, s)
	}
	return Events{Loaded: func() { say("loaded") }, Failed: func(err error) { say("failed: " + err.Error()) }}
}

// told returns what it was told since the last call, without reasons.
func (w *watcher) told() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var l []string
	for _, s := range w.log {
		s, _, _ := strings.Cut(s, ":")
		l = append(l, s)
	}
	w.log = nil
	return strings.Join(l, " ")
}

// TestFilesAreReplaced plays how files come to be others. Each step is some
// seconds, so that each is seen, and no look is under way when the next begins.
// The clock is the test's; the files' is not.
func TestFilesAreReplaced(t *testing.T) {
	ca := newAuthority(t, "ca")
	one, oneKey := ca.sign("one.test")
	two, twoKey := ca.sign("two.test")
	type step struct {
		do   func(t *testing.T, dir string)
		want string // what is told
		name string // what is shown
	}
	put := func(f func(*testing.T, string, []byte), name string, b []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) { t.Helper(); f(t, filepath.Join(dir, name), b) }
	}
	nothing := func(*testing.T, string) {}
	both := func(t *testing.T, dir string) {
		put(replace, "tls.crt", two)(t, dir)
		put(replace, "tls.key", twoKey)(t, dir)
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"nothing happens", []step{{nothing, "", "one.test"}, {nothing, "", "one.test"}}},
		{"both at once", []step{{both, "loaded", "two.test"}, {nothing, "", "two.test"}}},
		{"one after the other, by renaming", []step{
			{put(replace, "tls.crt", two), "failed", "one.test"},
			{nothing, "", "one.test"},
			{put(replace, "tls.key", twoKey), "loaded", "two.test"},
			{nothing, "", "two.test"},
		}},
		{"one after the other, in place, the key first", []step{
			{put(write, "tls.key", twoKey), "failed", "one.test"},
			{put(write, "tls.crt", two[:100]), "", "one.test"},
			{put(write, "tls.crt", two), "loaded", "two.test"},
		}},
		{"it was a mistake", []step{
			{put(write, "tls.crt", two), "failed", "one.test"},
			{put(write, "tls.crt", one), "loaded", "one.test"},
			{put(write, "tls.crt", []byte("x")), "failed", "one.test"},
			{put(write, "tls.crt", one), "loaded", "one.test"},
		}},
		{"a file goes and comes back", []step{
			{func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "tls.key"))) }, "failed", "one.test"},
			{nothing, "", "one.test"},
			{put(write, "tls.key", oneKey), "loaded", "one.test"},
		}},
		{"written again with the same", []step{
			{put(replace, "tls.crt", one), "", "one.test"},
		}},
		{"the key's mode is mended", []step{
			{func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "tls.key"), 0o644)) }, "loaded", "one.test"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
			write(t, cert, one)
			write(t, key, oneKey)
			bubble.Test(t, func(t *testing.T) {
				var w watcher
				c, err := NewCertificate(cert, key, w.events())
				if err != nil {
					t.Fatal(err)
				}
				stop := run(t, c.Run)
				for i, s := range tt.steps {
					s.do(t, dir)
					time.Sleep(10 * time.Second)
					synctest.Wait()
					if got := w.told(); got != s.want {
						t.Errorf("step %d: told %q, want %q", i, got, s.want)
					}
					if got := c.Info().Names[0]; got != s.name {
						t.Errorf("step %d: %s is shown, want %s", i, got, s.name)
					}
				}
				stop()
			})
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs loop until the function that it returns is called.
func run(t *testing.T, loop func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- loop(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestKubernetesReplacesASecret: the files are links into ..data, which is a
// link that changes in one step.
func TestKubernetesReplacesASecret(t *testing.T) {
	ca := newAuthority(t, "ca")
	dir := t.TempDir()
	volume := func(version, name string) {
		t.Helper()
		must(t, os.Mkdir(filepath.Join(dir, version), 0o755))
		ca.pairAt(filepath.Join(dir, version), name)
		must(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	volume("..2026_1", "one.test")
	for _, f := range []string{"tls.crt", "tls.key"} {
		must(t, os.Symlink(filepath.Join("..data", f), filepath.Join(dir, f)))
	}
	bubble.Test(t, func(t *testing.T) {
		var w watcher
		c, err := NewCertificate(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), w.events())
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, c.Run)
		volume("..2026_2", "two.test")
		must(t, os.RemoveAll(filepath.Join(dir, "..2026_1")))
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if got := w.told(); got != "loaded" || c.Info().Names[0] != "two.test" {
			t.Errorf("told %q, and %s is shown", got, c.Info().Names)
		}
		stop()
	})
}

// TestReloadTellsItsCaller: and nobody else of what is wrong.
func TestReloadTellsItsCaller(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert, key := ca.pairAt(t.TempDir(), "one.test")
	bubble.Test(t, func(t *testing.T) {
		var w watcher
		c, err := NewCertificate(cert, key, w.events())
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, c.Run)
		write(t, key, []byte("x"))
		refused(t, c.Reload(), cert, key)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := w.told(); got != "" {
			t.Errorf("events were told %q", got)
		}
		ca.pairAt(filepath.Dir(cert), "two.test")
		if err := c.Reload(); err != nil {
			t.Error(err)
		}
		if got := w.told(); got != "loaded" || c.Info().Names[0] != "two.test" {
			t.Errorf("told %q, and %s is shown", got, c.Info().Names)
		}
		stop()
	})
}

// TestFilesThatRestAreOnlyLookedAt: if their times are old, what is the same
// by all that stat says is not read. Reload reads it.
func TestFilesThatRestAreOnlyLookedAt(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert, key := ca.pairAt(t.TempDir(), "one.test")
	old := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC) // before the bubble's time
	for _, f := range []string{cert, key} {
		must(t, os.Chtimes(f, old, old))
	}
	good, err := os.ReadFile(cert)
	must(t, err)
	bubble.Test(t, func(t *testing.T) {
		var w watcher
		c, err := NewCertificate(cert, key, w.events())
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, c.Run)
		write(t, cert, []byte(strings.Repeat("x", len(good))))
		must(t, os.Chtimes(cert, old, old))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := w.told(); got != "" {
			t.Errorf("told %q", got)
		}
		refused(t, c.Reload(), cert)
		stop()
	})
}

// TestItsTimeIsOver: a certificate that expires while it is in use is told of
// once, though no file has changed.
func TestItsTimeIsOver(t *testing.T) {
	ca := newAuthority(t, "ca")
	begin := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // of every bubble
	cert, key := ca.pairAt(t.TempDir(), "one.test", func(c *x509.Certificate) { c.NotAfter = begin.Add(time.Minute) })
	bubble.Test(t, func(t *testing.T) {
		var w watcher
		c, err := NewCertificate(cert, key, w.events())
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, c.Run)
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if got := w.told(); got != "" {
			t.Errorf("told %q before it was over", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.told(); got != "failed" {
			t.Errorf("told %q, want failed, once", got)
		}
		ca.pairAt(filepath.Dir(cert), "two.test")
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if got := w.told(); got != "loaded" {
			t.Errorf("told %q of a new one", got)
		}
		// One that is over when it comes is told with its coming.
		ca.pairAt(filepath.Dir(cert), "three.test", func(c *x509.Certificate) { c.NotAfter = begin })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := w.told(); got != "loaded" || len(c.Info().Warnings) != 1 {
			t.Errorf("told %q, warned %v", got, c.Info().Warnings)
		}
		stop()
	})
}

// TestReplacedUnderTraffic: whatever moment a client comes at, it is shown a
// whole pair, and in the end the last one.
func TestReplacedUnderTraffic(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert, key := ca.pairAt(t.TempDir(), "0.test")
	c, err := NewCertificate(cert, key, Events{})
	if err != nil {
		t.Fatal(err)
	}
	c.w.every = time.Millisecond
	addr := serve(t, ServerTLS(c, ServerOptions{}))
	stop := run(t, c.Run)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-ended:
					if n == 0 {
						t.Error("no traffic")
					}
					return
				default:
				}
				if _, err := shake(addr, &tls.Config{RootCAs: ca.pool(), ServerName: "127.0.0.1"}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	const times = 50
	for i := 1; i <= times; i++ {
		b, k := ca.sign(fmt.Sprintf("%d.test", i))
		if i%2 == 0 {
			write(t, cert, b)
			write(t, key, k)
		} else {
			replace(t, key, k)
			replace(t, cert, b)
		}
		if i%5 == 0 {
			if err := c.Reload(); err != nil {
				t.Error(err)
			}
		}
	}
	close(ended)
	wg.Wait()
	if got, want := shown(t, addr, &tls.Config{RootCAs: ca.pool(), ServerName: "127.0.0.1"}), fmt.Sprintf("%d.test", times); got != want {
		t.Errorf("%s is shown in the end, want %s", got, want)
	}
	stop()
}

func TestRootsThatCannotBeUsed(t *testing.T) {
	ca := newAuthority(t, "ca")
	dir := t.TempDir()
	f := func(b []byte, says ...string) {
		t.Helper()
		name := filepath.Join(dir, "ca.crt")
		write(t, name, b)
		_, err := NewRoots([]string{name}, Events{})
		refused(t, err, append(says, name)...)
	}
	f(nil, "no certificate in it")
	f([]byte("hello"), "no certificate in it")
	f(append(slices.Clone(ca.pem), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})...), "x509")
	if _, err := NewRoots(nil, Events{}); err == nil {
		t.Error("no files were taken for authorities")
	}
	if _, err := NewRoots([]string{filepath.Join(dir, "none")}, Events{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// FuzzFiles holds that no text of files breaks what reads them.
func FuzzFiles(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMTIz\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN PRIVATE KEY-----\nMTIz\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMTIz\n-----END EC PRIVATE KEY-----\n"), []byte{})
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		info, err := os.Stat(".")
		if err != nil {
			t.Fatal(err)
		}
		files := []file{{"cert", info, cert}, {"key", info, key}}
		if p, err := parsePair(files); err == nil && (p.cert.Leaf == nil || len(p.info.Names) == 0) {
			t.Errorf("a pair without a certificate: %+v", p)
		}
		if pool := x509.NewCertPool(); addRoots(pool, files) == nil && pool.Equal(x509.NewCertPool()) {
			t.Error("authorities without any")
		}
	})
}
