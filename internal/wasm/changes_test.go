package wasm

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestWhatIsDoneIsLogged holds that each change of the modules leaves one line in
// the log, which says what has changed and tells no secret.
func TestWhatIsDoneIsLogged(t *testing.T) {
	r := newRegistry(t, "")
	var out bytes.Buffer
	r.log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	logged := func(want string) {
		t.Helper()
		if got := strings.TrimSuffix(out.String(), "\n"); got != want {
			t.Errorf("the log has\n%s\nwant\n%s", got, want)
		}
		out.Reset()
	}
	change := func(a *Attached, f func(*Spec), binary []byte) *Attached {
		t.Helper()
		next, err := r.Update(t.Context(), a.ID, f, binary)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	s := specOf("a")
	s.FailClosed, s.Models = true, []string{"m1", "m2*"}
	a := mustAdd(t, r, s, version(t, 1))
	of := func(a *Attached) string { return " module=" + a.Name + " uuid=" + a.ID.String() + " sha256=" + a.Sum }
	logged(`level=INFO msg="a module is registered"` + of(a) + ` settings="fail_closed=true models=m1,m2*"`)
	a = change(a, func(s *Spec) { s.Disabled, s.Models, s.Attach = true, nil, []Hook{OnRequest} }, nil)
	logged(`level=INFO msg="a module is changed"` + of(a) + ` changed="enabled=false models=all attach_points=[OnRequest]"`)
	a = change(a, func(s *Spec) { s.Settings.Time, s.Settings.Isolation = 70*time.Millisecond, Fresh }, version(t, 2))
	logged(`level=INFO msg="a module is replaced"` + of(a) + ` changed="isolation=fresh max_execution_time_ms=70"`)
	if _, err := r.Update(t.Context(), a.ID, func(s *Spec) { s.Name = "" }, nil); err == nil {
		t.Error("a name is taken away")
	}
	logged("")
	if err := r.Remove(a.ID); err != nil {
		t.Fatal(err)
	}
	logged(`level=INFO msg="a module is removed"` + of(a))

	s = specOf("b")
	s.FromConfig = true
	b := mustAdd(t, r, s, version(t, 3))
	logged("") // the start tells
	if err := r.Remove(b.ID); err != nil {
		t.Fatal(err)
	}
	logged(`level=INFO msg="a module is removed, and the next start brings it back: the configuration names it"` + of(b))

	was, is := specOf("c"), specOf("c")
	is.Settings.Config = "hunter2"
	if got := is.changes(&was); got != "config" {
		t.Errorf("of another configuration it is told %q", got)
	}
	is = specOf("c")
	is.Paths = slices.Repeat([]string{"/ä"}, 256)
	if got := is.changes(&was); !strings.HasPrefix(got, "paths=/ä,/ä,") || !strings.HasSuffix(got, "…") || len(got) > 600 {
		t.Errorf("of many paths it is told %q", got)
	}
}

// TestWhatRemovedModulesCounted holds that what was counted is not forgotten with
// the module, also of calls that end after it was removed, and that what is kept
// of that has a bound.
func TestWhatRemovedModulesCounted(t *testing.T) {
	r := newRegistry(t, "")
	a := mustAdd(t, r, specOf("a"), version(t, 1))
	a.Counts.Count(time.Unix(1, 0), 3*time.Millisecond, nil)
	if err := r.Remove(a.ID); err != nil {
		t.Fatal(err)
	}
	a.Counts.Count(time.Unix(2, 0), 2*time.Millisecond, errClosed)
	gone := r.Set().Gone
	if len(gone) != 1 || gone[0].Calls.Load() != 2 || gone[0].Failed.Load() != 1 {
		t.Fatalf("%d are remembered: %+v", len(gone), gone)
	}
	for range 3 * maxModules {
		c := new(Counts)
		c.Count(time.Unix(3, 0), time.Millisecond, nil)
		gone = remember(gone, c)
	}
	var calls, failed, nanos, most uint64
	for _, c := range gone {
		calls, failed, nanos, most = calls+c.Calls.Load(), failed+c.Failed.Load(), nanos+c.Nanos.Load(), max(most, c.MaxNanos.Load())
	}
	if want := uint64(2 + 3*maxModules); len(gone) > maxModules || calls != want || failed != 1 || nanos != (want+3)*1e6 || most != 3e6 {
		t.Errorf("%d are remembered, with %d calls, of which %d failed, of %d ns, at most %d; want %d calls", len(gone), calls, failed, nanos, most, want)
	}
}

// TestNames holds that a new name has no control character, and that a module that
// had one before can still be changed.
func TestNames(t *testing.T) {
	r := newRegistry(t, "")
	for _, name := range []string{"a\nb", "a\x1b[2J", "a\x00", "\xff", "a\u0085"} {
		if _, err := r.Add(t.Context(), specOf(name), version(t, 1)); err == nil || !strings.Contains(err.Error(), "control character") {
			t.Errorf("%q: %v", name, err)
		}
	}
	old, err := r.add(t.Context(), specOf("a\nb"), version(t, 1), true)
	if err != nil {
		t.Fatalf("one of the last run: %v", err)
	}
	if _, err := r.Update(t.Context(), old.ID, func(s *Spec) { s.Disabled = true }, nil); err != nil {
		t.Errorf("it cannot be disabled: %v", err)
	}
	if _, err := r.Update(t.Context(), old.ID, func(s *Spec) { s.Name = "c\nd" }, nil); err == nil {
		t.Error("it gets another such name")
	}
	mustAdd(t, r, specOf("Tür 1 ✓"), version(t, 2))
}
