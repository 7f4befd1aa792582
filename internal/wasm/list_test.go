package wasm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// keptModules makes a state directory with two modules, a and b, and returns it and
// the list.
func keptModules(t *testing.T) (dir string, list []byte) {
	t.Helper()
	dir = t.TempDir()
	r := newRegistry(t, dir)
	if err := r.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := specOf("a")
	s.FailClosed, s.Models = true, []string{"m*", "<n>"}
	mustAdd(t, r, s, version(t, 1))
	mustAdd(t, r, specOf("b"), version(t, 2))
	list, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	return dir, list
}

// resealed is a list whose entries were changed, with the checksum that it then has.
func resealed(t *testing.T, list []byte, change func(entries []map[string]any) []map[string]any) []byte {
	t.Helper()
	var s struct {
		Modules []map[string]any `json:"modules"`
	}
	if err := json.Unmarshal(list, &s); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(change(s.Modules))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `{"modules":%s,"sha256":%q}`, b, Sum(b))
}

// TestADamagedList: a list that is not as a gateway has written it ends the start,
// and what lies beside it stays. One that could be read all the same may lack what
// guards the door, or leave it open.
func TestADamagedList(t *testing.T) {
	edit := func(old, now string) func(*testing.T, []byte) []byte {
		return func(t *testing.T, b []byte) []byte {
			if !bytes.Contains(b, []byte(old)) {
				t.Fatalf("the list has no %s", old)
			}
			return bytes.Replace(b, []byte(old), []byte(now), 1)
		}
	}
	is := func(s string) func(*testing.T, []byte) []byte {
		return func(*testing.T, []byte) []byte { return []byte(s) }
	}
	first := func(f func(e map[string]any)) func(*testing.T, []byte) []byte {
		return func(t *testing.T, b []byte) []byte {
			return resealed(t, b, func(all []map[string]any) []map[string]any { f(all[0]); return all })
		}
	}
	tests := []struct {
		name   string
		damage func(*testing.T, []byte) []byte
		want   string
	}{
		{"empty", is(""), "is empty"},
		{"blank", is(" \n"), "there is nothing in it"},
		{"zeros", is(strings.Repeat("\x00", 500)), "there is nothing in it"},
		{"the first half", func(_ *testing.T, b []byte) []byte { return b[:len(b)/2] }, "unexpected end of JSON input"},
		{"without the last bytes", func(_ *testing.T, b []byte) []byte { return b[:len(b)-2] }, "unexpected end of JSON input"},
		{"twice", func(_ *testing.T, b []byte) []byte { return append(b, b...) }, "after top-level value"},
		{"another list in its place", is("null"), "modules.json: it is null"},
		{"an empty list", is("[]"), "it has no checksum"},
		{"an object", is("{}"), "is missing"},
		{"a number", is("7"), "cannot unmarshal number"},
		{"much nested", is(strings.Repeat("[", 1e6)), "exceeded max depth"},
		{"without a checksum", edit(`"sha256"`, `"sha265"`), "sha256 is missing"},
		{"a door is opened", edit(`"FailClosed": true`, `"FailClosed": false`), "its modules have SHA-256"},
		{"a letter is another", edit(`"b"`, `"d"`), "its modules have SHA-256"},
		{"another checksum", edit(`"sha256": "`, `"sha256": "0`), "its modules have SHA-256"},
		{"no modules", func(_ *testing.T, b []byte) []byte {
			i := bytes.Index(b, []byte(`"modules"`))
			return append(b[:i], []byte(`"modules":[]}`)...)
		}, "its modules have SHA-256"},
		{"null for modules", is(`{"sha256":"` + Sum([]byte("null")) + `","modules":null}`), "null"},
		{"more beside them", edit(`"modules"`, `"zzz":1,"modules"`), `unknown field "zzz"`},
		{"an entry without FailClosed", first(func(e map[string]any) { delete(e, "FailClosed") }), `module 1, "a": FailClosed is missing`},
		{"FailClosed is null", first(func(e map[string]any) { e["FailClosed"] = nil }), `FailClosed is null`},
		{"without an ID", first(func(e map[string]any) { delete(e, "ID") }), `ID is missing`},
		{"an ID of zeros", first(func(e map[string]any) { e["ID"] = "00000000-0000-0000-0000-000000000000" }), `its ID is 0`},
		{"without a name", first(func(e map[string]any) { delete(e, "Name") }), `Name is missing`},
		{"without a time", first(func(e map[string]any) { delete(e["Settings"].(map[string]any), "Time") }), `Settings.Time is missing`},
		{"without limits", first(func(e map[string]any) { e["Settings"].(map[string]any)["Limits"] = nil }), `Settings.Limits is null`},
		{"a field that there is not", first(func(e map[string]any) { e["zzz"] = 1 }), `unknown field "zzz"`},
		{"a field in other letters", first(func(e map[string]any) { delete(e, "FailClosed"); e["failclosed"] = true }), `FailClosed is missing`},
		{"a number as text", first(func(e map[string]any) { e["Order"] = "1" }), `cannot unmarshal string`},
		{"of the configuration", first(func(e map[string]any) { e["FromConfig"] = true }), `FromConfig`},
		{"another file", first(func(e map[string]any) { e["Sum"] = "../../etc/passwd" }), `is no SHA-256`},
		{"an entry twice", func(t *testing.T, b []byte) []byte {
			return resealed(t, b, func(all []map[string]any) []map[string]any { return append(all, all[0]) })
		}, "is of one before it"},
	}
	dir, good := keptModules(t)
	file := filepath.Join(dir, stateFile)
	for _, tt := range tests {
		if err := os.WriteFile(file, tt.damage(t, bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		r := newRegistry(t, dir)
		err := r.Restore(t.Context())
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "put a copy back") {
			t.Errorf("%s: got %v, want %q, the file, and what to do", tt.name, err, tt.want)
		}
		if got := listed(r); got != "" {
			t.Errorf("%s: there are %s", tt.name, got)
		}
		if files, err := filepath.Glob(filepath.Join(dir, "*.wasm")); err != nil || len(files) != 2 {
			t.Errorf("%s: the modules' files are %q, %v; want both still there", tt.name, files, err)
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRegistry(t, dir)
	if err := r.Restore(t.Context()); err != nil || listed(r) != "a b" {
		t.Errorf("with the list as it was there are %q, %v", listed(r), err)
	}
}

// TestAListThatIsChangedOnPurpose: who does what the error says has what he wants,
// also with a list of the version that wrote no checksum.
func TestAListThatIsChangedOnPurpose(t *testing.T) {
	dir, good := keptModules(t)
	file := filepath.Join(dir, stateFile)
	start := func(list []byte) (there string, err error) {
		t.Helper()
		if err := os.WriteFile(file, list, 0o600); err != nil {
			t.Fatal(err)
		}
		r := newRegistry(t, dir)
		err = r.Restore(t.Context())
		return listed(r), err
	}
	var s sealed
	if err := json.Unmarshal(good, &s); err != nil {
		t.Fatal(err)
	}
	_, err := start(s.Modules)
	if err == nil {
		t.Fatal("a list without a checksum is taken")
	}
	before := regexp.MustCompile(`write (\{.*"modules":) before it, and } behind it`).FindStringSubmatch(err.Error())
	if before == nil {
		t.Fatalf("it does not say what to write: %v", err)
	}
	if got, err := start([]byte(before[1] + string(s.Modules) + "}")); err != nil || got != "a b" {
		t.Errorf("there are %q, %v", got, err)
	}

	without := resealed(t, good, func(all []map[string]any) []map[string]any { return all[1:] })
	_, err = start(bytes.Replace(without, []byte(`"sha256":"`), []byte(`"sha256":"x`), 1))
	if err == nil {
		t.Fatal("another checksum is taken")
	}
	sum := regexp.MustCompile(`have SHA-256 ([0-9a-f]{64}), .* write the former`).FindStringSubmatch(err.Error())
	if sum == nil || !bytes.Contains(without, []byte(sum[1])) {
		t.Fatalf("it does not say which it is: %v", err)
	}
	if got, err := start(without); err != nil || got != "b" {
		t.Errorf("without the entry of one there are %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, Sum(version(t, 1))+".wasm")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file that no entry names: %v", err)
	}
}

// TestLongFilesAmongTheModules: a start reads no more than a module may have.
func TestLongFilesAmongTheModules(t *testing.T) {
	for _, which := range []string{Sum(version(t, 1)) + ".wasm", stateFile} {
		dir, _ := keptModules(t)
		file := filepath.Join(dir, which)
		if err := os.Truncate(file, 5<<30); err != nil {
			t.Fatal(err)
		}
		err := newRegistry(t, dir).Restore(t.Context())
		if want := file + " has 5368709120 bytes; at most 67108864 are allowed"; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "; put") && !strings.Contains(err.Error(), "put a copy back") {
			t.Errorf("got %v, want %s, and what to do", err, want)
		}
	}
	if b, err := sealList([]kept{{Spec: Spec{Path: strings.Repeat("p", MaxBinary)}}}); err == nil {
		t.Errorf("a list of %d bytes is written, which the next start would not read", len(b))
	}
}
