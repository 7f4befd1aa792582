package wasm

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestAListThatCannotBeWritten: of a disk that takes nothing, such as one that is
// full, nobody is told that the next start may have other modules.
func TestAListThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "modules")
	var told bytes.Buffer
	r := newRegistry(t, dir)
	r.log = slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := r.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := mustAdd(t, r, specOf("a"), version(t, 1))
	elsewhere := dir + "-elsewhere"
	if err := os.Rename(dir, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(a.ID); err == nil || listed(r) != "a" {
		t.Errorf("%v, and there are %q", err, listed(r))
	}
	if told.Len() > 0 {
		t.Errorf("the log has %s", &told)
	}
	if err := os.Rename(elsewhere, dir); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(a.ID); err != nil {
		t.Error(err)
	}
}

// TestAPipeAmongTheModules: what is no file does not hold up a start, but ends it.
func TestAPipeAmongTheModules(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "modules")
	r := newRegistry(t, dir)
	if err := r.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	file := r.fileOf(mustAdd(t, r, specOf("a"), version(t, 1)).Sum)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := newRegistry(t, dir).Restore(t.Context()); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("got %v", err)
	}
}
