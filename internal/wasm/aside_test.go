package wasm

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
)

// versions is what r has: names, each with the number of its version's file.
func versions(t *testing.T, r *Registry) string {
	t.Helper()
	var s []string
	for _, a := range r.Set().All {
		n := byte(0)
		for a.Sum != Sum(version(t, n)) {
			n++
		}
		s = append(s, a.Name+string('0'+n))
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}

// TestTheConfigurationHasItsNamesAlone: a module that was registered is not loaded
// beside one of the configuration's that has its name or its bytes. That is told;
// and it is there again at a start without that.
func TestTheConfigurationHasItsNamesAlone(t *testing.T) {
	dir := t.TempDir()
	first := newRegistry(t, dir)
	if err := first.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, first, specOf("a"), version(t, 1))
	mustAdd(t, first, specOf("b"), version(t, 2))
	mustAdd(t, first, specOf("d"), version(t, 4))

	var told bytes.Buffer
	second := newRegistry(t, dir)
	second.log = slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelWarn}))
	configured := func(name string, n byte) *Attached {
		s := specOf(name)
		s.FromConfig = true
		return mustAdd(t, second, s, version(t, n))
	}
	a := configured("a", 3)
	configured("c", 2)
	if err := second.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := versions(t, second); got != "a3 c2 d4" {
		t.Errorf("there are %s", got)
	}
	for _, want := range []string{"module=a ", "the configuration has a module of its name", "module=b ", "is registered already"} {
		if !strings.Contains(told.String(), want) {
			t.Errorf("the log has no %s: %s", want, &told)
		}
	}

	const want = `the configuration has a module called "a"`
	if _, err := second.Add(t.Context(), specOf("a"), version(t, 5)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("another of the name: %v", err)
	}
	d := second.Set().All[slices.IndexFunc(second.Set().All, func(a *Attached) bool { return a.Name == "d" })]
	rename := func(s *Spec) { s.Name = "a" }
	if _, err := second.Update(t.Context(), d.ID, rename, nil); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("renamed: %v", err)
	}
	if _, err := second.Update(t.Context(), d.ID, rename, version(t, 6)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("replaced and renamed: %v", err)
	}
	// Of two with the same bytes the next start would load one: the bytes of what is
	// set aside are not taken for another, nor those that the configuration has.
	if err := second.Remove(a.ID); err != nil { // what the configuration has it has also while it is not there
		t.Fatal(err)
	}
	for n, want := range map[byte]string{1: `was registered before, as "a"`, 3: `the configuration has the component`} {
		if _, err := second.Add(t.Context(), specOf("e"), version(t, n)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("another with bytes %d: %v", n, err)
		}
		if _, err := second.Update(t.Context(), d.ID, func(*Spec) {}, version(t, n)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("replaced by bytes %d: %v", n, err)
		}
	}
	if got := versions(t, second); got != "c2 d4" {
		t.Errorf("there are %s", got)
	}

	third := newRegistry(t, dir)
	if err := third.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := versions(t, third); got != "a1 b2 d4" {
		t.Errorf("without the configuration there are %s", got)
	}
}

// TestWhatStandsAsideCanBeRemoved: a module in whose place the configuration has
// another is gone for good when it is removed, and what has its bytes may come.
func TestWhatStandsAsideCanBeRemoved(t *testing.T) {
	dir := t.TempDir()
	first := newRegistry(t, dir)
	old := mustAdd(t, first, specOf("a"), version(t, 1))
	second := newRegistry(t, dir)
	s := specOf("a")
	s.FromConfig = true
	mine := mustAdd(t, second, s, version(t, 2))
	if err := second.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Update(t.Context(), mine.ID, func(*Spec) {}, version(t, 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Update(t.Context(), mine.ID, func(*Spec) {}, version(t, 2)); err != nil {
		t.Errorf("the configuration's module cannot have its bytes again: %v", err)
	}
	if err := second.Remove(old.ID); err != nil {
		t.Fatal(err)
	}
	if err := second.Remove(old.ID); !errors.Is(err, ErrUnknown) {
		t.Errorf("removed twice: %v", err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.wasm")); len(files) != 0 {
		t.Errorf("there are %s", files)
	}
	mustAdd(t, second, specOf("b"), version(t, 1))
	third := newRegistry(t, dir)
	if err := third.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := versions(t, third); got != "b1" {
		t.Errorf("without the configuration there are %s", got)
	}
}

// TestTwoOfTheSameBytesEndAStart: of a list with such entries, which were made by
// hand, one would not be loaded, and it may be what guards the door.
func TestTwoOfTheSameBytesEndAStart(t *testing.T) {
	dir := t.TempDir()
	first := newRegistry(t, dir)
	a := mustAdd(t, first, specOf("a"), version(t, 1))
	another := a.Spec
	another.Name, another.ID = "b", uuid.Must(uuid.NewV7())
	b, err := sealList([]kept{{a.Spec, a.Sum}, {another, a.Sum}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	err = newRegistry(t, dir).Restore(t.Context())
	if err == nil || !strings.Contains(err.Error(), `module "b": the component with SHA-256 `+a.Sum+" is registered already") {
		t.Errorf("got %v", err)
	}
}

// TestWhatCannotBeKeptTakesNoRoom: if the list of modules cannot be written because
// the disk is full, the bytes that were written before are gone again.
func TestWhatCannotBeKeptTakesNoRoom(t *testing.T) {
	dir := t.TempDir()
	r := newRegistry(t, dir)
	mustAdd(t, r, specOf("a"), version(t, 1))
	full := false
	sync := syncFile
	t.Cleanup(func() { syncFile = sync })
	syncFile = func(f *os.File) error {
		if b, err := os.ReadFile(f.Name()); full && err == nil && bytes.HasPrefix(b, []byte("{")) {
			return syscall.ENOSPC
		}
		return sync(f)
	}
	full = true
	if _, err := r.Add(t.Context(), specOf("b"), version(t, 2)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if _, err := r.Update(t.Context(), r.Set().All[0].ID, func(*Spec) {}, version(t, 3)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.wasm")); len(files) != 1 {
		t.Errorf("there are %s", files)
	}
}
