package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what the tests would compare with")

// golden compares got with a file, or writes it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (-want +got); -update writes it:\n%s", file, d)
	}
}

func TestPrint(t *testing.T) {
	env := []string{"SLUICE_API_KEY=hunter2", "SLUICE_LOG_DIR=/var/log/two words"}
	file := files("s.yaml", "server:\n  port: 8080\nworkers:\n  worker_urls:\n  - http://a:1\n  - http://b:1\n")
	c, o, err := Load(words("--config s.yaml --retry-initial-backoff-ms 75 --prometheus-duration-buckets 0.1 1 --disable-health-check"), env, file)
	if err != nil {
		t.Fatal(err)
	}
	for _, asJSON := range []bool{false, true} {
		var b bytes.Buffer
		if err := Print(&b, c, o, asJSON); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), "hunter2") {
			t.Errorf("a secret is printed:\n%s", b.String())
		}
		if name := "testdata/print.txt"; !asJSON {
			golden(t, name, b.Bytes())
			continue
		}
		golden(t, "testdata/print.json", b.Bytes())
		var m map[string]struct {
			Value  any
			Origin string
		}
		if err := json.Unmarshal(b.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		if len(m) != len(fields()) || m["server.port"].Value != 8080.0 || m["server.port"].Origin != "file s.yaml:2" {
			t.Errorf("%d settings, port %v; want %d, and 8080 of the file", len(m), m["server.port"], len(fields()))
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// TestConfigurationsOfModulesAreMasked: what a module is given may be a key.
func TestConfigurationsOfModulesAreMasked(t *testing.T) {
	c := Default()
	c.Wasm.Modules = []string{"m=/m.wasm;order=3;config=hunter2;fail_closed=true"}
	for _, asJSON := range []bool{false, true} {
		var b strings.Builder
		if err := Print(&b, c, new(Origins), asJSON); err != nil {
			t.Fatal(err)
		}
		if got := b.String(); strings.Contains(got, "hunter2") || !strings.Contains(got, "m=/m.wasm;order=3;config=****;fail_closed=true") {
			t.Errorf("JSON %t: %s", asJSON, got)
		}
	}
}

func TestPrintTellsOfFailure(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		if err := Print(full{}, Default(), &Origins{}, asJSON); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("got %v, want %v", err, io.ErrShortWrite)
		}
	}
}

func TestUsage(t *testing.T) {
	var b bytes.Buffer
	Usage(&b, 100)
	golden(t, "testdata/usage.txt", b.Bytes())
	for _, width := range []int{0, 60, 80, 100, 200} {
		b.Reset()
		Usage(&b, width)
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > max(width, 60) && strings.Count(strings.TrimSpace(line), " ") > 1 {
				t.Errorf("width %d: a line has %d: %s", width, n, line)
			}
			if strings.TrimRight(line, " \n")+"\n" != line {
				t.Errorf("width %d: spaces end the line %q", width, line)
			}
		}
		for _, f := range knownFlags() {
			if f.built() && !strings.Contains(b.String(), "\n  --"+f.name) {
				t.Errorf("width %d: --%s works and is not there", width, f.name)
			}
		}
	}
}

// docs/settings.md is what the structs say.
func TestSettingsDoc(t *testing.T) {
	const file = "../../docs/settings.md"
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
	} else if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		t.Skip("docs/settings.md is not there; -update writes it")
	}
	got := Markdown()
	golden(t, file, got)
	_, example, _ := strings.Cut(string(got), "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	if err := Check("example", func(string) ([]byte, error) { return []byte(example), nil }); err != nil || example == "" {
		t.Errorf("the example %q: %v", example, err)
	}
	for _, f := range knownFlags() {
		for _, n := range append([]string{f.name}, f.aliases...) {
			if !bytes.Contains(got, []byte("`--"+n+"`")) {
				t.Errorf("--%s is not documented", n)
			}
		}
	}
}
