package wasm

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// newDiskEngine returns an Engine that keeps compiled code in dir.
func newDiskEngine(t *testing.T, dir string) *Engine {
	t.Helper()
	e, err := NewEngine(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

// filesOf are the files with compiled code under dir.
func filesOf(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// called loads a component and calls it, so that it is known to work.
func called(t *testing.T, e *Engine, b []byte) *Module {
	t.Helper()
	m, err := e.Load(t.Context(), b, DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.OnRequest(t.Context(), new(Call), request(10), new(Action)); err != nil {
		t.Error(err)
	}
	return m
}

// TestARestartNeedNotCompile: what was compiled is read, and not written again.
func TestARestartNeedNotCompile(t *testing.T) {
	dir := t.TempDir()
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	before := filesOf(t, dir)
	if len(before) == 0 {
		t.Fatal("nothing is kept")
	}
	old := time.Now().Add(-time.Hour)
	for _, f := range before {
		if err := os.Chtimes(f, old, old); err != nil {
			t.Fatal(err)
		}
	}
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	if after := filesOf(t, dir); !slices.Equal(before, after) {
		t.Errorf("kept: %q, before %q", after, before)
	}
	for _, f := range before {
		if info, err := os.Stat(f); err != nil || time.Since(info.ModTime()) < time.Minute {
			t.Errorf("%s was written again: %v, %v", f, info.ModTime(), err)
		}
	}
}

// TestCompiledCodeHasABound holds that of the code on disk what was loaded longest
// ago makes room, and what is in use stays, however old.
func TestCompiledCodeHasABound(t *testing.T) {
	dir := t.TempDir()
	e := newDiskEngine(t, dir)
	e.shelf.room = 0 // nothing is kept in memory that nobody uses
	place := func(n byte) string { return filepath.Join(dir, placeOf(version(t, n), DefaultLimits())) }
	there := func() (l []byte) {
		for n := range byte(9) {
			if _, err := os.Stat(place(n)); err == nil {
				l = append(l, '0'+n)
			}
		}
		return l
	}
	age := func(n byte, d time.Duration) {
		then := time.Now().Add(-d)
		if err := os.Chtimes(place(n), then, then); err != nil {
			t.Fatal(err)
		}
	}
	stranger := filepath.Join(dir, "wazero-v0-arch-os", "of-another-version")
	if err := os.MkdirAll(filepath.Dir(stranger), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stranger, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	used := called(t, e, version(t, 1))
	one, err := sizeOf(place(1))
	if err != nil || one < 1000 {
		t.Fatalf("%d bytes are kept of a component, %v", one, err)
	}
	e.disk.room = 3 * one // and somewhat less than one that has another size
	age(1, 9*time.Hour)
	called(t, e, version(t, 2)).Close()
	age(2, 2*time.Hour)
	called(t, e, version(t, 3)).Close()
	age(3, 3*time.Hour)
	called(t, e, version(t, 2)).Close() // so it was used last
	called(t, e, version(t, 4)).Close()
	if got := string(there()); got != "124" {
		t.Errorf("there are %s; want 1, which is in use, and 2 and 4, which were used last", got)
	}
	if _, err := os.Stat(stranger); err == nil {
		t.Error("what another version has left is kept for ever")
	}
	used.Close()
	age(1, 9*time.Hour)
	called(t, e, version(t, 5)).Close()
	if got := string(there()); got != "245" {
		t.Errorf("there are %s; want 2, 4 and 5", got)
	}
	e = newDiskEngine(t, dir) // a start looks too
	e.disk.room = one
	e.disk.tidy()
	if got := string(there()); got != "5" {
		t.Errorf("there are %s, want the last", got)
	}
}

// TestHalfWrittenCode: what a machine's end has left does not keep a module from
// being loaded, and is mended.
func TestHalfWrittenCode(t *testing.T) {
	dir := t.TempDir()
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	for _, f := range filesOf(t, dir) {
		b, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(f, b[:len(b)/2], 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	sizes := func() (n int64) {
		n, err := sizeOf(dir)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	mended := sizes()
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	if got := sizes(); got != mended || got < 1000 {
		t.Errorf("%d bytes are kept, then %d", mended, got)
	}
}

// TestCodeThatMakesTheEnginePanic: nor does a file that is damaged so that the
// engine panics when it reads it, and that is mended too.
func TestCodeThatMakesTheEnginePanic(t *testing.T) {
	dir := t.TempDir()
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	// Of no functions and no code, with places in that code: the engine takes the
	// address of its first byte.
	damage := append(make([]byte, 4+8), 1, 1, 0, 0, 0, 0, 0, 0, 0)
	files := filesOf(t, dir)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		const magic = "WAZEVO"
		if !bytes.HasPrefix(b, []byte(magic)) {
			t.Fatalf("%s begins with %q", f, b[:8])
		}
		b = append(b[:len(magic)+1+int(b[len(magic)])], damage...)
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() < 100 {
			t.Errorf("%s is not mended: %v", f, err)
		}
	}
}

// TestWhatIsRefusedIsNotKept: a component that cannot be loaded leaves nothing.
func TestWhatIsRefusedIsNotKept(t *testing.T) {
	dir := t.TempDir()
	e := newDiskEngine(t, dir)
	if _, err := e.Load(t.Context(), []byte("\x00asm\x0d\x00\x01\x00"), DefaultSettings()); err == nil || !strings.Contains(err.Error(), "want a hook") {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("there is %v, %v", entries, err)
	}
	if len(e.disk.uses) > 0 {
		t.Errorf("in use: %v", e.disk.uses)
	}
}
