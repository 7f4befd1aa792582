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
			at := make(map[int]bool) // where what a command is for stands
			for line := range strings.Lines(string(readme)) {
				if strings.HasPrefix(line, "    ") {
					at[strings.Index(line, " # ")] = true
				}
			}
			if delete(at, -1); len(at) != 1 || !strings.Contains(string(readme), "\n    sluice demo --wasm-module ") {
				t.Errorf("%s: want commands with what they are for below each other, and the demo among them:\n%s", lang, readme)
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

// path makes a folder that holds the usual programs, and those given as scripts,
// and nothing that compiles.
func path(t *testing.T, scripts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"sh", "dirname", "mktemp", "rm", "ls", "tail", "cat", "mkdir", "pwd"} {
		from, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(from, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil { //nolint:gosec // it is run
			t.Fatal(err)
		}
	}
	return dir
}

// TestBuildScriptsSayWhatIsMissing holds that who lacks a compiler is told which,
// and how it is had.
func TestBuildScriptsSayWhatIsMissing(t *testing.T) {
	has := func(names ...string) map[string]string {
		m := make(map[string]string)
		for _, n := range names {
			m[n] = "exit 0"
		}
		return m
	}
	tests := []struct {
		lang    string
		scripts map[string]string
		want    string
	}{
		{"c", nil, "sluice is missing; put it into PATH or say where it is: SLUICE=/path/to/sluice"},
		{"rust", nil, "sluice is missing"},
		{"go", nil, "sluice is missing"},
		{"tinygo", nil, "sluice is missing"},
		{"rust", has("sluice"), "none/rustc is missing; https://rustup.rs, or on Debian: apt-get install rustc lld libstd-rust-dev-wasm32"},
		{"go", has("sluice"), "go is missing; https://go.dev/dl"},
		{"tinygo", has("sluice", "go"), "tinygo is missing; https://tinygo.org"},
		{"js", nil, "node is missing; https://nodejs.org"},
		{"js", has("node"), "the JavaScript engine is missing; once, with the network: (cd "},
	}
	for _, tt := range tests {
		dir := filepath.Join(t.TempDir(), "m")
		if _, err := Write(Module{Name: "m", Lang: tt.lang, Hooks: Hooks()}, dir); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(filepath.Join(dir, "build.sh"))
		c.Env = []string{"PATH=" + path(t, tt.scripts)}
		if tt.lang == "rust" {
			c.Env = append(c.Env, "RUSTC=none/rustc") // the script looks into /usr/bin itself
		}
		if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: %v, want %q in\n%s", tt.lang, err, tt.want, out)
		}
	}
}

// TestBuildScriptsFromAnywhere holds that a script finds its files and sluice also if
// it is called from another folder, and that a rustc which cannot compile for
// WebAssembly is told.
func TestBuildScriptsFromAnywhere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	if _, err := Write(Module{Name: "m", Lang: "rust", Hooks: Hooks()}, dir); err != nil {
		t.Fatal(err)
	}
	lib := t.TempDir()
	bin := path(t, map[string]string{
		"rustc":   `case $* in *target-libdir*) echo ` + lib + ` ;; *sysroot*) echo ` + lib + ` ;; *) while [ "$1" != -o ]; do shift; done; echo core > "$2"; echo "$2" >> ` + lib + `/outputs; ls m.rs sluice.rs ;; esac`,
		"wasm-ld": "exit 0",
		"wrapper": `cat "$3"; echo component > "$5"`,
	})
	build := func() (string, error) {
		c := exec.Command(filepath.Join(dir, "build.sh"))
		c.Dir, c.Env = bin, []string{"PATH=" + bin, "SLUICE=./wrapper"}
		out, err := c.CombinedOutput()
		return string(out), err
	}
	for range 2 {
		out, err := build()
		if err != nil || !strings.Contains(out, "core\n") {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "m.wasm")); err != nil || string(b) != "component\n" {
		t.Errorf("the component is %q (%v)", b, err)
	}
	b, err := os.ReadFile(filepath.Join(lib, "outputs"))
	if err != nil {
		t.Fatal(err)
	}
	// rustc names what it writes in between by the output's name up to a dot, and
	// leaves it beside the output: builds at the same time need a folder each.
	outputs := strings.Fields(string(b))
	if len(outputs) != 2 || filepath.Dir(outputs[0]) == filepath.Dir(outputs[1]) {
		t.Errorf("two builds write to %v, want two folders", outputs)
	}
	for _, o := range outputs {
		if _, err := os.Stat(filepath.Dir(o)); err == nil {
			t.Errorf("%s is left behind", filepath.Dir(o))
		}
	}
	if err := os.Remove(lib + "/outputs"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(lib); err != nil { // as where rustup's target is not there
		t.Fatal(err)
	}
	c := exec.Command(filepath.Join(dir, "build.sh"))
	c.Dir, c.Env = bin, []string{"PATH=" + bin, "SLUICE=./wrapper", "RUSTC=rustc"}
	if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), "rustc cannot compile for WebAssembly; rustup target add wasm32-unknown-unknown") {
		t.Errorf("without the target: %v\n%s", err, out)
	}
}

// TestNamesThatAreOthers holds that a module's name meets no name that something
// else has: Go is content with those that it has itself, and one that the module's own
// files have is refused.
func TestNamesThatAreOthers(t *testing.T) {
	for _, name := range []string{"std", "cmd", "go", "all", "con"} {
		dir := filepath.Join(t.TempDir(), name)
		if _, err := Write(Module{Name: name, Lang: "go", Hooks: Hooks()}, dir); err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(t.Context(), "go", "list", ".")
		c.Dir, c.Env = dir, append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=-mod=mod")
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	for _, lang := range Languages() {
		if err := (Module{Name: "sluice", Lang: lang, Hooks: Hooks()}).Validate(); err == nil || !strings.Contains(err.Error(), "want another") {
			t.Errorf("%s: a module may be named sluice: %v", lang, err)
		}
	}
}

// TestTheGuideShowsWhatIsWritten holds that who follows docs/wasm.md sees in the file
// what the page shows.
func TestTheGuideShowsWhatIsWritten(t *testing.T) {
	page, err := os.ReadFile("../../../docs/wasm.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(page), "```c\n")
	code, _, ok := strings.Cut(code, "```")
	if !ok {
		t.Fatal("docs/wasm.md has no block of C")
	}
	m := Module{Name: "tenant-check", Lang: "c", Hooks: []string{"on-request"}}
	dir := filepath.Join(t.TempDir(), m.Name)
	if _, err := Write(m, dir); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(filepath.Join(dir, m.Source()))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(src), code) {
		t.Errorf("the page has\n%s\nthe file has\n%s", code, src)
	}
}
