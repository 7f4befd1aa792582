package scaffold

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheWorldIsOurs: a new module gets the world that the gateway has.
func TestTheWorldIsOurs(t *testing.T) {
	want, err := os.ReadFile("../../../wit/sluice-gateway.wit")
	if err != nil {
		t.Fatal(err)
	}
	got, err := files.ReadFile("files/sluice-gateway.wit")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("files/sluice-gateway.wit is not wit/sluice-gateway.wit: copy it")
	}
}

// TestTinyGoModulesAreGo holds that what TinyGo is to compile is what Go compiles
// for WebAssembly, whose types are checked by that.
func TestTinyGoModulesAreGo(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("go is missing")
	}
	dir := filepath.Join(t.TempDir(), "my-module")
	if _, err := Write(Module{Name: "my-module", Lang: "tinygo", Hooks: Hooks()}, dir); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "go", "vet", "-unsafeptr=false", ".")
	c.Dir = dir
	c.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=-mod=mod")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestEveryLanguageBegins: whatever hooks there are, the source names them and
// nothing of the templates is left in it.
func TestEveryLanguageBegins(t *testing.T) {
	for _, lang := range Languages() {
		for _, hooks := range [][]string{{"on-request"}, {"on-end", "on-error"}, Hooks()} {
			m := Module{Name: "my-module", Lang: lang, Hooks: hooks}
			dir := filepath.Join(t.TempDir(), "my-module")
			names, err := Write(m, dir)
			if err != nil {
				t.Fatalf("%s: %v", lang, err)
			}
			for _, n := range names {
				b, err := os.ReadFile(filepath.Join(dir, n))
				if err != nil {
					t.Fatal(err)
				}
				for _, left := range []string{"@NAME@", "<no value>", "{{.", "{{-"} {
					if bytes.Contains(b, []byte(left)) {
						t.Errorf("%s: %s holds %q", lang, n, left)
					}
				}
			}
			src, err := os.ReadFile(filepath.Join(dir, m.Source()))
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range Hooks() {
				plain := strings.ReplaceAll(h, "-", "")
				has := strings.Contains(strings.ReplaceAll(strings.ToLower(string(src)), "_", ""), plain)
				if has != m.has(h) {
					t.Errorf("%s with %v: the source has %s: %v", lang, hooks, h, has)
				}
			}
			if out, err := exec.Command("sh", "-n", filepath.Join(dir, "build.sh")).CombinedOutput(); err != nil {
				t.Errorf("%s: build.sh: %v\n%s", lang, err, out)
			}
			readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(readme, []byte("\n")); n > 10 {
				t.Errorf("%s: a README of %d lines, want ten", lang, n)
			}
		}
	}
}

// TestGoIsFormatted: what is written in Go is as gofmt writes it.
func TestGoIsFormatted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	for _, hooks := range [][]string{{"on-request"}, {"on-chunk"}, {"on-error", "on-end"}, Hooks()} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Write(Module{Name: "m", Lang: "go", Hooks: hooks}, dir); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("gofmt", "-l", dir).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%v: gofmt would change %s (%v)", hooks, out, err)
		}
	}
}

func TestWriteSparesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "mine")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(Module{Name: "m", Lang: "c", Hooks: []string{"on-end"}}, dir); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("%v, want that the folder is not empty", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d files, want the one that was there", len(entries))
	}
}
