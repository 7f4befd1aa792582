package wasm

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAPipeIsNotWaitedFor: opening one that nobody writes to would never return.
func TestAPipeIsNotWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe.wasm")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := ReadFile(path)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it is waited for")
	}
}

// TestTrim: what one request needed a lot of is not kept for all.
func TestTrim(t *testing.T) {
	a, c := Action{Body: []byte("x"), mem: make([]byte, 1, 1000)}, ChunkAction{Data: []byte("x"), mem: make([]byte, 1, 1000)}
	a.Trim(1000)
	c.Trim(1000)
	if a.Body != nil || cap(a.mem) != 1000 || c.Data != nil || cap(c.mem) != 1000 {
		t.Errorf("of a little is kept: %d and %d bytes, %q %q", cap(a.mem), cap(c.mem), a.Body, c.Data)
	}
	a.Trim(999)
	c.Trim(999)
	if cap(a.mem) != 0 || cap(c.mem) != 0 {
		t.Errorf("of a lot is kept: %d and %d bytes", cap(a.mem), cap(c.mem))
	}
}

// TestHowMuchIsRead: a file may have as many bytes as are allowed, and one that
// grows meanwhile is not read on and on.
func TestHowMuchIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.wasm")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := readRegular(path, 10); err != nil || string(b) != "0123456789" {
		t.Errorf("of 10 bytes, which are allowed: %q, %v", b, err)
	}
	if _, err := readRegular(path, 9); err == nil || !strings.Contains(err.Error(), path+" has 10 bytes; at most 9 are allowed") {
		t.Errorf("of 10 bytes, where 9 are allowed: %v", err)
	}
	f, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(&limited{f, 1000}); err == nil || len(b) != 1000 {
		t.Errorf("of a file without an end %d bytes, %v", len(b), err)
	}
}
