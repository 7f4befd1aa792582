package wasm

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
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
	// What is set aside keeps its bytes, also if another with the same goes.
	same := mustAdd(t, second, specOf("e"), version(t, 1))
	if err := second.Remove(same.ID); err != nil {
		t.Fatal(err)
	}
	if err := second.Remove(a.ID); err != nil {
		t.Fatal(err)
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
