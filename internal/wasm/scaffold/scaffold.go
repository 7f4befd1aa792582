// Package scaffold writes the beginnings of modules: sources that do something,
// what they need of the gateway, how they are built, and a request to try them
// with.
package scaffold

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

//go:embed files
var files embed.FS

// Languages are those that there are beginnings in.
func Languages() []string { return []string{"rust", "tinygo", "go", "c", "js"} }

// Hooks are the names of the hooks, as the world has them.
func Hooks() []string {
	return []string{"on-request", "on-response", "on-chunk", "on-error", "on-end"}
}

// A file is one of a module's, and where it comes from.
type file struct {
	name, from string
	mode       fs.FileMode
}

// A Module is what a beginning is made for.
type Module struct {
	Name  string
	Lang  string
	Hooks []string // at which it is called
}

// goodName is what is a name in all languages, once - is replaced.
var goodName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Validate reports everything that is wrong with m.
func (m Module) Validate() error {
	var errs []error
	switch {
	case !goodName.MatchString(m.Name):
		errs = append(errs, fmt.Errorf("the name %.80q is not made of a-z, 0-9 and -, at most 63 of them, beginning with a letter, as in my-module", m.Name))
	case m.Name == "sluice":
		errs = append(errs, errors.New("the name sluice is that of a file that modules have; want another, as in my-module"))
	}
	if !slices.Contains(Languages(), m.Lang) {
		errs = append(errs, fmt.Errorf("lang %.80q is none of %s", m.Lang, strings.Join(Languages(), ", ")))
	}
	for _, h := range m.Hooks {
		if !slices.Contains(Hooks(), h) {
			errs = append(errs, fmt.Errorf("hooks: %.80q is none of %s", h, strings.Join(Hooks(), ", ")))
		}
	}
	if len(m.Hooks) == 0 {
		errs = append(errs, fmt.Errorf("hooks is empty; want some of %s", strings.Join(Hooks(), ", ")))
	}
	return errors.Join(errs...)
}

func (m Module) has(hook string) bool { return slices.Contains(m.Hooks, hook) }

// OnRequest and the others say for templates which hooks there are.
func (m Module) OnRequest() bool  { return m.has("on-request") }
func (m Module) OnResponse() bool { return m.has("on-response") }
func (m Module) OnChunk() bool    { return m.has("on-chunk") }
func (m Module) OnError() bool    { return m.has("on-error") }
func (m Module) OnEnd() bool      { return m.has("on-end") }

// Language is the language's name.
func (m Module) Language() string {
	return map[string]string{"rust": "Rust", "tinygo": "Go, for TinyGo", "go": "Go", "c": "C", "js": "JavaScript"}[m.Lang]
}

// Source is the file that is the author's own.
func (m Module) Source() string {
	switch m.Lang {
	case "rust":
		return m.Name + ".rs"
	case "js", "c":
		return m.Name + "." + m.Lang
	}
	return "module.go"
}

// Needs says what has to be done before the first build, for the README.
func (m Module) Needs() string {
	if m.Lang == "js" {
		return "; once before: npm install"
	}
	return ""
}

// files lists what m consists of.
func (m Module) files() []file {
	fs := []file{{"README.md", "README.md.tmpl", 0o644}, {"test.http", "test.http.tmpl", 0o644}, {"sluice-gateway.wit", "sluice-gateway.wit", 0o644}}
	add := func(from string, names ...string) {
		for _, n := range names {
			fs = append(fs, file{strings.TrimSuffix(n, ".tmpl"), from + "/" + n, 0o644})
		}
	}
	build := func(from string) { fs = append(fs, file{"build.sh", from, 0o755}) }
	switch m.Lang {
	case "rust":
		fs = append(fs, file{m.Source(), "rust/module.rs.tmpl", 0o644})
		add("rust", "sluice.rs")
		build("rust/build.sh")
	case "c":
		fs = append(fs, file{m.Source(), "c/module.c.tmpl", 0o644})
		add("c", "sluice.h")
		build("c/build.sh")
	case "js":
		fs = append(fs, file{m.Source(), "js/module.js.tmpl", 0o644})
		add("js", "sluice.js", "package.json", "build.mjs")
		build("js/build.sh")
	default:
		add("go", "module.go.tmpl", "sluice.go.tmpl", "go.mod.tmpl")
		for _, h := range m.Hooks {
			add("go", strings.ReplaceAll(h, "-", "_")+".go.tmpl")
		}
		build(map[string]string{"go": "go/build.sh", "tinygo": "go/build-tinygo.sh"}[m.Lang])
	}
	return fs
}

// content makes one file.
func (m Module) content(f file) ([]byte, error) {
	b, err := files.ReadFile("files/" + f.from)
	if err != nil {
		return nil, fmt.Errorf("BUG: %w", err)
	}
	switch {
	case f.name == "sluice-gateway.wit":
		b = fmt.Appendf(b, "\n// What this module has of it.\nworld module {\n  import host;\n")
		for _, h := range m.Hooks {
			b = fmt.Appendf(b, "  export %s;\n", h)
		}
		return append(b, "}\n"...), nil
	case !strings.HasSuffix(f.from, ".tmpl"), strings.HasPrefix(f.from, "go/") && f.from != "go/module.go.tmpl":
		return bytes.ReplaceAll(b, []byte("@NAME@"), []byte(m.Name)), nil
	}
	t, err := template.New(f.from).Parse(string(b))
	if err != nil {
		return nil, fmt.Errorf("BUG: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, m); err != nil {
		return nil, fmt.Errorf("BUG: %w", err)
	}
	return out.Bytes(), nil
}

// Write makes the folder dir, which must not be there or be empty, and writes m
// into it. It returns the names of the files.
func Write(m Module, dir string) (names []string, err error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	there, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("making the folder: %w", err)
	case len(there) > 0:
		return nil, fmt.Errorf("%s is there and is not empty; name another folder with --dir", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the folder: %w", err)
	}
	for _, f := range m.files() {
		b, err := m.content(f)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), b, f.mode); err != nil {
			return nil, fmt.Errorf("writing the module: %w", err)
		}
		names = append(names, f.name)
	}
	return names, nil
}
