package wasm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newRegistry returns a Registry that keeps modules in dir, and runs its Engine.
func newRegistry(t testing.TB, dir string) *Registry {
	t.Helper()
	e, err := NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	r := NewRegistry(e, dir, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		r.Close()
		cancel()
		<-done
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// version is the C guest of the tests as another component: its bytes end with a
// section that says nothing.
func version(t testing.TB, n byte) []byte {
	t.Helper()
	return append(slices.Clone(component_(t, "c-auth-smg")), 0, 3, 1, 'v', n)
}

func specOf(name string) Spec { return Spec{Name: name, Settings: DefaultSettings()} }

func mustAdd(t testing.TB, r *Registry, s Spec, b []byte) *Attached {
	t.Helper()
	a, err := r.Add(t.Context(), s, b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// listed is what r has, in order: a name, a number of its version's file, and
// whether it is called.
func listed(r *Registry) string {
	var s []string
	for _, a := range r.Set().All {
		n := a.Name
		if a.Disabled {
			n += "(off)"
		}
		s = append(s, n)
	}
	return strings.Join(s, " ")
}

// TestAPowerCut holds that a module that was registered is on the disk before that
// is said: its bytes, then the list that names them, and for each the directory
// that has the name.
func TestAPowerCut(t *testing.T) {
	var synced []string
	before := syncFile
	t.Cleanup(func() { syncFile = before })
	top := t.TempDir()
	dir := filepath.Join(top, "state", "modules")
	syncFile = func(f *os.File) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(top, f.Name())
		switch {
		case err != nil:
			return err
		case !info.IsDir():
			name = fmt.Sprintf("%d bytes in %s", info.Size(), filepath.Dir(name))
		default:
			entries, err := os.ReadDir(f.Name())
			if err != nil {
				return err
			}
			for _, e := range entries {
				name += " " + e.Name()
			}
		}
		synced = append(synced, name)
		return before(f)
	}
	r := newRegistry(t, dir)
	if err := r.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := mustAdd(t, r, specOf("a"), version(t, 1))
	list, err := os.Stat(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	none, err := sealList(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		". state", "state modules",
		fmt.Sprintf("%d bytes in state/modules", len(none)), "state/modules " + stateFile, // bytes without a list would end the next start
		fmt.Sprintf("%d bytes in state/modules", a.Size), "state/modules " + a.Sum + ".wasm " + stateFile,
		fmt.Sprintf("%d bytes in state/modules", list.Size()), "state/modules " + a.Sum + ".wasm " + stateFile,
	}
	if !slices.Equal(synced, want) {
		t.Errorf("on the disk, one after another: %q\nwant %q", synced, want)
	}
	// The list is renamed, and then the disk is gone: it may be the new list that
	// the next start finds, which must not fail for want of bytes.
	broken := errors.New("the disk is gone")
	left := 3
	syncFile = func(*os.File) error {
		if left--; left < 0 {
			return broken
		}
		return nil
	}
	if _, err := r.Add(t.Context(), specOf("c"), version(t, 3)); !errors.Is(err, broken) || listed(r) != "a" {
		t.Errorf("%v, and there are %s", err, listed(r))
	}
	if err := newRegistry(t, dir).Restore(t.Context()); err != nil {
		t.Error(err)
	}
	syncFile = func(*os.File) error { return broken }
	if _, err := r.Add(t.Context(), specOf("b"), version(t, 2)); !errors.Is(err, broken) || listed(r) != "a" {
		t.Errorf("%v, and there are %s; want none that the next start may not find", err, listed(r))
	}
}

// TestAChangeThatCannotBeKept holds that the next start has the modules that there
// are now also if a new list is in place, and only the wait for the disk fails.
func TestAChangeThatCannotBeKept(t *testing.T) {
	before := syncFile
	t.Cleanup(func() { syncFile = before })
	dir := filepath.Join(t.TempDir(), "modules")
	r := newRegistry(t, dir)
	if err := r.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := mustAdd(t, r, specOf("a"), version(t, 1))
	broken := errors.New("the disk does not answer")
	for _, tt := range []struct {
		name   string
		change func() error
	}{
		{"removed", func() error { return r.Remove(a.ID) }},
		{"disabled", func() error {
			_, err := r.Update(t.Context(), a.ID, func(s *Spec) { s.Disabled = true }, nil)
			return err
		}},
		{"replaced", func() error {
			_, err := r.Update(t.Context(), a.ID, func(s *Spec) { s.Name = "b" }, version(t, 2))
			return err
		}},
	} {
		directories := 0
		syncFile = func(f *os.File) error {
			if info, err := f.Stat(); err != nil || !info.IsDir() {
				return err
			}
			if directories++; tt.name == "replaced" && directories == 1 { // the bytes' own
				return nil
			}
			return broken
		}
		if err := tt.change(); !errors.Is(err, broken) {
			t.Errorf("%s: got %v, want that it fails", tt.name, err)
		}
		if got := listed(r); got != "a" {
			t.Errorf("%s: there are %s", tt.name, got)
		}
		syncFile = before
		next := newRegistry(t, dir)
		if err := next.Restore(t.Context()); err != nil {
			t.Errorf("%s: the next start: %v", tt.name, err)
		}
		if got := listed(next); got != "a" {
			t.Errorf("%s: the next start has %q, and there are %q now", tt.name, got, "a")
		}
	}
}

// TestTenantsThatNobodyIs holds that a module is refused that is for tenants that
// no request can be of, however it comes to that; but not one that was there
// before, nor a change of something else of it.
func TestTenantsThatNobodyIs(t *testing.T) {
	for _, tt := range []struct {
		there []string // tenants
		for_  []string
		ok    bool
	}{
		{nil, nil, true},
		{nil, []string{"*"}, true},
		{nil, []string{"acme"}, false},
		{nil, []string{"a*"}, false},
		{[]string{"acme"}, []string{"acne"}, false},
		{[]string{"acme"}, []string{"acne", "ac*"}, true},
		{[]string{"beta", "acme"}, []string{"acme"}, true},
	} {
		dir := filepath.Join(t.TempDir(), "modules")
		r := newRegistry(t, dir)
		r.OnlyTenants(tt.there)
		if err := r.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := specOf("a")
		s.Tenants = tt.for_
		is := func(what string, err error) {
			t.Helper()
			if tt.ok && err != nil || !tt.ok && (err == nil || !strings.Contains(err.Error(), "no request can be of")) {
				t.Errorf("for %q, and there are %q: %s: %v", tt.for_, tt.there, what, err)
			}
		}
		_, err := r.Add(t.Context(), s, version(t, 1))
		is("added", err)
		b := mustAdd(t, r, specOf("b"), version(t, 2))
		for n, binary := range [][]byte{nil, version(t, 3)} {
			_, err = r.Update(t.Context(), b.ID, func(s *Spec) { s.Tenants = tt.for_ }, binary)
			is([]string{"changed", "replaced"}[n], err)
		}
	}

	dir := filepath.Join(t.TempDir(), "modules")
	r := newRegistry(t, dir)
	if err := r.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := specOf("a")
	s.Tenants = []string{"acme"}
	a := mustAdd(t, r, s, version(t, 1)) // anybody may be a tenant here
	next := newRegistry(t, dir)
	next.OnlyTenants(nil)
	if err := next.Restore(t.Context()); err != nil || listed(next) != "a" {
		t.Fatalf("after a restart there is %q, %v", listed(next), err)
	}
	if _, err := next.Update(t.Context(), a.ID, func(s *Spec) { s.Disabled = true }, nil); err != nil {
		t.Errorf("it cannot be disabled: %v", err)
	}
}

func TestModulesAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "modules")
	r := newRegistry(t, dir)
	if err := r.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := specOf("a")
	s.Attach, s.Models, s.Tenants, s.FailClosed, s.MaxBody = []Hook{OnResponse}, []string{"m*"}, []string{"acme"}, true, 1234
	s.Settings.Limits.MemoryPages, s.Settings.Time, s.Settings.Isolation = 17, 70*time.Millisecond, Shared
	a := mustAdd(t, r, s, version(t, 1))
	b := mustAdd(t, r, specOf("b"), version(t, 2))
	mustAdd(t, r, Spec{Name: "c", Settings: DefaultSettings(), FromConfig: true}, version(t, 3))
	if _, err := r.Update(t.Context(), b.ID, func(s *Spec) { s.Order, s.Disabled = -1, true }, nil); err != nil {
		t.Fatal(err)
	}
	if a.ID.Version() != 7 {
		t.Errorf("the ID %s is of version %d, want 7", a.ID, a.ID.Version())
	}
	for range 2 { // what is restored is kept as well
		again := newRegistry(t, dir)
		mustAdd(t, again, Spec{Name: "of the configuration", Settings: DefaultSettings(), FromConfig: true}, version(t, 3))
		if err := again.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := listed(again); got != "b(off) a of the configuration" {
			t.Errorf("restored: %s", got)
		}
		got := again.Find(a.ID)
		if got == nil {
			t.Fatal("a module is not restored")
		}
		if !got.Created.Equal(a.Created) || got.Settings != s.Settings || !slices.Equal(got.Attach, s.Attach) ||
			!slices.Equal(got.Models, s.Models) || !slices.Equal(got.Tenants, s.Tenants) || !got.FailClosed || got.MaxBody != 1234 || got.Sum != a.Sum {
			t.Errorf("restored: %+v, want %+v", got, a)
		}
		if !got.Attaches(OnResponse) || got.Attaches(OnRequest) {
			t.Error("it is attached to other hooks than before")
		}
	}
	if err := r.Remove(a.ID); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(b.ID); err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.wasm")); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

func TestWhatIsKeptIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	r := newRegistry(t, dir)
	a := mustAdd(t, r, specOf("a"), version(t, 1))
	mustAdd(t, r, specOf("b"), version(t, 2))
	list, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, a.Sum+".wasm")
	spoil := func(f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	spoil(func() error { return os.WriteFile(file, version(t, 9), 0o600) })
	spoil(func() error { return os.WriteFile(filepath.Join(dir, newFile+"1"), nil, 0o600) })
	again := newRegistry(t, dir)
	if err := again.Restore(t.Context()); err == nil || !strings.Contains(err.Error(), `module "a": its file `+file+` has SHA-256`) {
		t.Errorf("a file that was changed: %v", err)
	}
	if got := listed(again); got != "b" {
		t.Errorf("restored: %s, want the other", got)
	}
	if now, _ := os.ReadFile(filepath.Join(dir, stateFile)); string(now) != string(list) {
		t.Errorf("the list was changed while it was read:\n%s", now)
	}
	if _, err := os.Stat(filepath.Join(dir, newFile+"1")); err == nil {
		t.Error("what a stop has left is still there")
	}
	spoil(func() error { return os.Remove(file) })
	if err := newRegistry(t, dir).Restore(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is missing: %v", err)
	}
	spoil(func() error { return os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600) })
	if err := newRegistry(t, dir).Restore(t.Context()); err == nil {
		t.Error("a list that is none is restored")
	}
	spoil(func() error { return os.Remove(filepath.Join(dir, stateFile)) })
	if err := newRegistry(t, dir).Restore(t.Context()); err == nil || !strings.Contains(err.Error(), "modules.json is missing, and 1 modules (.wasm) are in "+dir) {
		t.Errorf("no list, and a module: %v", err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.wasm")); len(files) != 1 {
		t.Errorf("the files are %v, want the one module still there", files)
	}
	spoil(func() error { return os.Remove(filepath.Join(dir, wasmFile(t, dir))) })
	if err := newRegistry(t, dir).Restore(t.Context()); err != nil {
		t.Errorf("no list, and no modules: %v", err)
	}
}

// wasmFile is the one file of a module in dir.
func wasmFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.wasm"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v; want one", files, err)
	}
	return filepath.Base(files[0])
}

// TestWhatCannotBeKept holds that a change which would be lost at the next start
// is not made.
func TestWhatCannotBeKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "modules")
	r := newRegistry(t, dir)
	if err := r.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := mustAdd(t, r, specOf("a"), version(t, 1))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Add(t.Context(), specOf("b"), version(t, 2)); err == nil {
		t.Error("added")
	}
	if _, err := r.Update(t.Context(), a.ID, func(s *Spec) { s.Disabled = true }, nil); err == nil {
		t.Error("disabled")
	}
	if _, err := r.Update(t.Context(), a.ID, func(*Spec) {}, version(t, 3)); err == nil {
		t.Error("updated")
	}
	if err := r.Remove(a.ID); err == nil {
		t.Error("removed")
	}
	if got := listed(r); got != "a" || r.Find(a.ID) != a {
		t.Errorf("there are %s", got)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, r, specOf("b"), version(t, 2)) // it was not forgotten that it is not there
	if _, err := r.Update(t.Context(), a.ID, func(*Spec) {}, version(t, 3)); err != nil {
		t.Error(err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	r := newRegistry(t, "")
	a := mustAdd(t, r, specOf("a"), version(t, 1))
	good := version(t, 2)
	tests := []struct {
		name   string
		change func(*Spec)
		binary []byte
		want   string
	}{
		{"no name", func(s *Spec) { s.Name = " " }, good, "needs a name"},
		{"a long name", func(s *Spec) { s.Name = strings.Repeat("n", 257) }, good, "at most 256"},
		{"no memory", func(s *Spec) { s.Settings.Limits.MemoryPages = 0 }, good, "want 1 to 65536"},
		{"a small stack", func(s *Spec) { s.Settings.Limits.Stack = 1000 }, good, "want 65536 to 16777216"},
		{"no time", func(s *Spec) { s.Settings.Time = 0 }, good, "want 1 to 300000"},
		{"too much time", func(s *Spec) { s.Settings.Time = time.Hour }, good, "want 1 to 300000"},
		{"too many instances", func(s *Spec) { s.Settings.Instances = 5000 }, good, "want 1 to 4096"},
		{"another isolation", func(s *Spec) { s.Settings.Isolation = "none" }, good, "snapshot, fresh or shared"},
		{"a large body", func(s *Spec) { s.MaxBody = 101 << 20 }, good, "want 1 to 104857600"},
		{"a hook that it has not", func(s *Spec) { s.Attach = []Hook{OnChunk} }, good, "OnChunk, which it does not export"},
		{"a path that no request has", func(s *Spec) { s.Paths = []string{"v1/chat/*"} }, good, `"v1/chat/*", which no request has`},
		{"an empty path", func(s *Spec) { s.Paths = []string{""} }, good, "which no request has"},
		{"a * that stands for nothing", func(s *Spec) { s.Paths = []string{"/v1/*/completions"} }, good, "a * stands at the end"},
		{"an empty model", func(s *Spec) { s.Models = []string{"a", ""} }, good, "models has one of 0 bytes"},
		{"a model that none is", func(s *Spec) { s.Models = []string{"*-8b"} }, good, "a * stands at the end"},
		{"too many models", func(s *Spec) { s.Models = slices.Repeat([]string{"m"}, 257) }, good, "at most 256"},
		{"an empty tenant", func(s *Spec) { s.Tenants = []string{""} }, good, "tenants has one of 0 bytes"},
		{"a tenant that nobody is", func(s *Spec) { s.Tenants = []string{"*-dev"} }, good, "a * stands at the end"},
		{"nothing", nil, nil, "it is empty"},
		{"not WebAssembly", nil, []byte("#!/bin/sh"), ""},
		{"a part", nil, good[:len(good)/2], ""},
		{"the same again", nil, version(t, 1), "registered already, as " + a.ID.String()},
		{"too little memory to start", func(s *Spec) { s.Settings.Limits.MemoryPages = 1 }, component_(t, "clibc-auth-smg"), ""},
	}
	for _, tt := range tests {
		s := specOf("x")
		if tt.change != nil {
			tt.change(&s)
		}
		if _, err := r.Add(t.Context(), s, tt.binary); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if got := listed(r); got != "a" {
		t.Errorf("there are %s", got)
	}
	if err := r.Remove(uuid.New()); !errors.Is(err, ErrUnknown) {
		t.Errorf("removing what is not there: %v", err)
	}
	if _, err := r.Update(t.Context(), uuid.New(), func(*Spec) {}, good); !errors.Is(err, ErrUnknown) {
		t.Errorf("updating what is not there: %v", err)
	}
	if _, err := r.Update(t.Context(), a.ID, func(s *Spec) { s.Attach = []Hook{OnEnd} }, nil); err == nil {
		t.Error("it is attached to a hook that it does not have")
	}
	if _, err := r.Update(t.Context(), a.ID, func(s *Spec) { s.Settings.Time = time.Minute }, nil); err == nil {
		t.Error("its limits are changed, and it is not made anew")
	}
	mustAdd(t, r, specOf("b"), good) // none of these attempts holds it
}

// TestOneOfManyWhoRegister holds that a component is compiled for one of those
// who register it at once; the others are told so.
func TestOneOfManyWhoRegister(t *testing.T) {
	r := newRegistry(t, "")
	var added atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := r.Add(context.Background(), specOf("a"), version(t, 1))
			switch {
			case err == nil:
				added.Add(1)
			case !strings.Contains(err.Error(), "being registered") && !strings.Contains(err.Error(), "registered already"):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(r.Set().All); added.Load() != 1 || n != 1 {
		t.Errorf("%d were added, %d are there", added.Load(), n)
	}
}

// TestAnUpdateLeavesNoGap holds that calls go on while a module is updated,
// disabled and enabled, moved, and removed, and that what served before ends.
func TestAnUpdateLeavesNoGap(t *testing.T) {
	r := newRegistry(t, t.TempDir())
	a := mustAdd(t, r, specOf("a"), version(t, 0))
	var seen []*Set
	r.Watch(func(s *Set) { seen = append(seen, s) })
	stop := make(chan struct{})
	var calls, none atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			req, act := request(100), new(Action)
			for {
				select {
				case <-stop:
					return
				default:
				}
				by := r.Set().By[OnRequest]
				if len(by) == 0 {
					none.Add(1)
					continue
				}
				// The set was there a moment ago; the module may have been
				// replaced since.
				if err := by[0].Module.OnRequest(context.Background(), new(Call), req, act); err != nil && !strings.Contains(err.Error(), "it was removed") {
					t.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	first := a.Module
	for n := byte(1); n <= 5; n++ {
		before := calls.Load()
		for calls.Load() < before+10 { // calls come between the updates
			runtime.Gosched()
		}
		if _, err := r.Update(t.Context(), a.ID, func(s *Spec) { s.Order = int(n) }, version(t, n)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if none.Load() > 0 {
		t.Errorf("%d times there was no module", none.Load())
	}
	if n := first.Stats().Instances; len(first.all) != 0 {
		t.Errorf("the first version still has instances: %d", n)
	}
	if len(seen) != 6 {
		t.Errorf("who watches was told %d times, want 6", len(seen))
	}
	if now := r.Find(a.ID); now.Order != 5 || now.Created != a.Created || now.Counts != a.Counts || now.Store != a.Store {
		t.Errorf("after five updates: %+v", now)
	}
}

// TestUpdatesDoNotUndoEachOther: what one changes stays when another changes
// something else at the same time.
func TestUpdatesDoNotUndoEachOther(t *testing.T) {
	r := newRegistry(t, "")
	a := mustAdd(t, r, specOf("a"), version(t, 0))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := r.Update(context.Background(), a.ID, func(s *Spec) { s.Order += 1 << i }, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		if _, err := r.Update(context.Background(), a.ID, func(s *Spec) { s.FailClosed = true }, version(t, 1)); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if now := r.Find(a.ID); now.Order != 1<<20-1 || !now.FailClosed || now.Sum != Sum(version(t, 1)) {
		t.Errorf("order %b, closed %t", now.Order, now.FailClosed)
	}
}

func TestClosedRegistriesTakeNothing(t *testing.T) {
	r := newRegistry(t, "")
	mustAdd(t, r, specOf("a"), version(t, 0))
	r.Close()
	if _, err := r.Add(t.Context(), specOf("b"), version(t, 1)); !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if n := len(r.Set().All); n != 0 {
		t.Errorf("%d modules are there", n)
	}
}
