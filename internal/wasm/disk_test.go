package wasm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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

// codeOf is the one file with compiled code under dir, and its place.
func codeOf(t *testing.T, dir string) (file, place string) {
	t.Helper()
	for _, f := range filesOf(t, dir) {
		if filepath.Base(f) == sumsFile {
			place = filepath.Dir(f)
		} else if file == "" {
			file = f
		}
	}
	if file == "" || place == "" {
		t.Fatalf("no compiled code is kept, or no checksums: %q", filesOf(t, dir))
	}
	return file, place
}

// offsets is where in a file of the engine's the list begins of where functions do,
// which is not in the engine's own checksum.
func offsets(t *testing.T, b []byte) int {
	t.Helper()
	const magic = "WAZEVO"
	if !bytes.HasPrefix(b, []byte(magic)) {
		t.Fatalf("it begins with %q", b[:8])
	}
	return len(magic) + 1 + int(b[len(magic)]) + 4
}

// TestDamagedCode: compiled code that is not as it was written is not run. That is
// told in one line, and mended.
func TestDamagedCode(t *testing.T) {
	edit := func(change func([]byte) []byte) func(t *testing.T, file, place string) error {
		return func(t *testing.T, file, _ string) error {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return os.WriteFile(file, change(b), 0o600)
		}
	}
	tests := []struct {
		name   string
		damage func(t *testing.T, file, place string) error
		told   string
	}{
		{"a function begins elsewhere", func(t *testing.T, file, place string) error {
			return edit(func(b []byte) []byte { b[offsets(t, b)] ^= 16; return b })(t, file, place)
		}, "has SHA-256"},
		{"a bit of the code", edit(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), "has SHA-256"},
		{"half is missing", edit(func(b []byte) []byte { return b[:len(b)/2] }), "has SHA-256"},
		{"all is missing", edit(func(b []byte) []byte { return nil }), "has SHA-256"},
		{"something follows", edit(func(b []byte) []byte { return append(b, 0) }), "has SHA-256"},
		{"another file is in its place", func(t *testing.T, file, place string) error {
			return errors.Join(os.Remove(file), os.Symlink("/dev/zero", file))
		}, "is not a file"},
		{"there is no list, as before there was one", func(t *testing.T, file, place string) error {
			return os.Remove(filepath.Join(place, sumsFile))
		}, "has no checksum"},
		{"half of the list is missing", func(t *testing.T, file, place string) error {
			return os.Truncate(filepath.Join(place, sumsFile), 20)
		}, "has no checksum"},
		{"the list is longer than one can be", func(t *testing.T, file, place string) error {
			return os.Truncate(filepath.Join(place, sumsFile), mostSums+1)
		}, "at most 1048576 are allowed"},
		{"the directory is a file", func(t *testing.T, file, place string) error {
			return errors.Join(os.RemoveAll(place), os.WriteFile(place, nil, 0o600))
		}, "is not a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			called(t, newDiskEngine(t, dir), version(t, 1)).Close()
			file, place := codeOf(t, dir)
			if err := tt.damage(t, file, place); err != nil {
				t.Fatal(err)
			}
			load := func() string {
				var told bytes.Buffer
				e, err := NewEngine(dir, slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelWarn})))
				if err != nil {
					t.Fatal(err)
				}
				called(t, e, version(t, 1)).Close()
				if err := e.Close(context.Background()); err != nil {
					t.Error(err)
				}
				return told.String()
			}
			if told := load(); strings.Count(told, "\n") != 1 || !strings.Contains(told, tt.told) {
				t.Errorf("the log has %q, want one line with %q", told, tt.told)
			}
			if told := load(); told != "" {
				t.Errorf("it is not mended: %q", told)
			}
			if info, err := os.Stat(file); err != nil || info.Size() < 1000 {
				t.Errorf("it is not kept: %v, %v", info, err)
			}
		})
	}
}

// TestUnfinishedCode: what a stop in the middle of writing has left is removed, and
// what is beside it is loaded.
func TestUnfinishedCode(t *testing.T) {
	dir := t.TempDir()
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	file, place := codeOf(t, dir)
	left := []string{file + ".123.tmp", filepath.Join(place, newFile+"123")}
	for _, f := range left {
		if err := os.WriteFile(f, make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	for _, f := range left {
		if _, err := os.Stat(f); err == nil {
			t.Errorf("%s stays", f)
		}
	}
	if info, err := os.Stat(file); err != nil || time.Since(info.ModTime()) < time.Minute {
		t.Errorf("it was compiled again: %v", err)
	}
}

// TestCodeThatMakesTheEnginePanic: a file that is as it was written, and of which
// the engine panics all the same, does not keep a module from being loaded, and is
// mended too.
func TestCodeThatMakesTheEnginePanic(t *testing.T) {
	dir := t.TempDir()
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	file, place := codeOf(t, dir)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// Of no functions and no code, with places in that code: the engine takes the
	// address of its first byte.
	damage := append(make([]byte, 4+8), 1, 1, 0, 0, 0, 0, 0, 0, 0)
	if err := os.WriteFile(file, append(b[:offsets(t, b)-4], damage...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := seal(place, nil); err != nil {
		t.Fatal(err)
	}
	called(t, newDiskEngine(t, dir), version(t, 1)).Close()
	if info, err := os.Stat(file); err != nil || info.Size() < 1000 {
		t.Errorf("%s is not mended: %v", file, err)
	}
}

// TestCodeInUseIsMended: that a component is used already does not keep its damaged
// file on the disk.
func TestCodeInUseIsMended(t *testing.T) {
	dir := t.TempDir()
	e := newDiskEngine(t, dir)
	limits := DefaultLimits()
	first, err := e.compile(t.Context(), version(t, 1), limits)
	if err != nil {
		t.Fatal(err)
	}
	defer first.close(t.Context())
	file, _ := codeOf(t, dir)
	if err := os.Truncate(file, 500); err != nil {
		t.Fatal(err)
	}
	second, err := e.compile(t.Context(), version(t, 1), limits)
	if err != nil {
		t.Fatal(err)
	}
	defer second.close(t.Context())
	if info, err := os.Stat(file); err != nil || info.Size() < 1000 {
		t.Errorf("%s is not mended: %v", file, err)
	}
}

// TestOneAtATimeCompiles holds that those who compile one component with the same
// limits, as with different configurations, do not take what the others write for
// damaged.
func TestOneAtATimeCompiles(t *testing.T) {
	dir := t.TempDir()
	var told bytes.Buffer
	e, err := NewEngine(dir, slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			c, err := e.compile(t.Context(), version(t, 1), DefaultLimits())
			if err != nil {
				t.Error(err)
				return
			}
			c.close(context.Background())
		})
	}
	all.Wait()
	if err := e.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if told.Len() > 0 {
		t.Errorf("the log has %q", told.String())
	}
	if len(e.disk.uses) > 0 {
		t.Errorf("in use: %v", e.disk.uses)
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
