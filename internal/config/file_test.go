package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each file in testdata/bad begins with the errors it must give, a line each
// after "# want: ".
func TestBadFiles(t *testing.T) {
	names, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(names) < 20 {
		t.Fatalf("%d files, %v; want at least 20", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".yaml"), func(t *testing.T) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(b)) {
				w, ok := strings.CutPrefix(line, "# want: ")
				if !ok {
					break
				}
				want = append(want, strings.TrimSpace(w))
			}
			err = Check(filepath.Base(name), func(n string) ([]byte, error) { return os.ReadFile(filepath.Join("testdata/bad", n)) })
			if err == nil {
				t.Fatalf("the file is taken for good, want %q", want)
			}
			if got := strings.ReplaceAll(err.Error(), known, "KNOWN"); got != strings.Join(want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
		})
	}
}

// Every setting can be written in a file, and reads as it was.
func TestFileHasEverySetting(t *testing.T) {
	var b strings.Builder
	d := Default()
	for _, s := range sections() {
		b.WriteString(s.name + ":\n")
		for _, f := range s.fields {
			v := f.text(d)
			if f.kind.list() {
				v = "[" + strings.ReplaceAll(v, " ", ", ") + "]"
			} else if f.kind == text || f.kind == hidden {
				v = `"` + v + `"`
			}
			b.WriteString("  " + f.key + ": " + v + "\n")
		}
	}
	c, o, err := Load([]string{"--config", "s.yaml"}, nil, files("s.yaml", b.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	for _, f := range fields() {
		if got, want := f.text(c), f.text(d); got != want || !strings.HasPrefix(o.Of(f.path()), "file s.yaml:") {
			t.Errorf("%s is %s of %s, want %s of the file", f.path(), got, o.Of(f.path()), want)
		}
	}
}

func TestFileTooLarge(t *testing.T) {
	err := Check("s.yaml", func(string) ([]byte, error) { return make([]byte, maxFile+1), nil })
	if err == nil || !strings.Contains(err.Error(), "2097153 bytes are more than the 2097152") {
		t.Errorf("got %v", err)
	}
}

func TestCheckReadsFiles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "good.yaml")
	if err := os.WriteFile(name, []byte("server: {port: 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Check(name, nil); err != nil {
		t.Error(err)
	}
	if err := Check("", nil); err == nil {
		t.Error("no file is taken for a good one")
	}
}
