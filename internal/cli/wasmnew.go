package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"sluice/internal/config"
	"sluice/internal/wasm/scaffold"
)

const newHelp = `Begin a module: a folder with a source that does something, what it needs of the
gateway, a build script, and requests to try it with.

  sluice wasm new my-module --lang rust
  sluice wasm new my-module --lang c --hooks on-request,on-end --dir /tmp/my-module

  rust    rustc and its target wasm32-unknown-unknown    35 KB, 1 to 5 µs a call
  c       clang and wasm-ld                               5 KB, 1 to 2 µs
  go      Go 1.24                                         2 MB, 5 to 20 µs
  tinygo  TinyGo 0.35                                     between C and Rust
  js      Node.js 20, and npm install once              1.6 MB, 10 to 50 µs

The build needs no network once the compiler is there (js: npm install, once).
`

// wasmNew writes the beginning of a module.
func wasmNew(args []string, std streams) int {
	opt := struct {
		Lang  string `flag:"lang" help:"language: rust, tinygo, go, c, js"`
		Hooks string `flag:"hooks" help:"at what it is called, with commas in between: on-request, on-response, on-chunk, on-error, on-end"`
		Dir   string `flag:"dir" help:"folder to make; the module's name if left out"`
	}{Hooks: "on-request"}
	fs := flagsOf("wasm new", &opt)
	if wantsHelp(args) {
		usage(std.out, newHelp, fs)
		return exitOK
	}
	name, err := takeOne(fs, args, "the module's name")
	if err != nil {
		return refuse(std, "wasm new", err)
	}
	m := scaffold.Module{Name: name, Lang: opt.Lang}
	for h := range strings.SplitSeq(opt.Hooks, ",") {
		if h = strings.TrimSpace(h); h != "" && !contains(m.Hooks, h) {
			m.Hooks = append(m.Hooks, h)
		}
	}
	if err := m.Validate(); err != nil {
		return refuse(std, "wasm new", withNearest(err, m))
	}
	dir := opt.Dir
	if dir == "" {
		dir = name
	}
	names, err := scaffold.Write(m, dir)
	if err != nil {
		return failed(std, "wasm new", err)
	}
	for _, n := range names {
		fmt.Fprintf(std.out, "  %s\n", filepath.Join(dir, n))
	}
	fmt.Fprintf(std.out, "\n%s is what it does. Next:\n\n", filepath.Join(dir, m.Source()))
	if m.Lang == "js" {
		fmt.Fprintf(std.out, "  (cd %s && npm install)\n", quoted(dir))
	}
	built := filepath.Join(dir, name+".wasm")
	script := filepath.Join(dir, "build.sh")
	if !filepath.IsAbs(script) {
		script = "." + string(os.PathSeparator) + script
	}
	fmt.Fprintf(std.out, "  %s\n  sluice wasm test %s --request %s\n", quoted(script), quoted(built), quoted(filepath.Join(dir, "test.http")))
	return exitOK
}

// quoted is a path as a shell takes it.
func quoted(path string) string {
	if plainPath.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

var plainPath = regexp.MustCompile(`^[A-Za-z0-9_./+@%:,-]+$`)

// withNearest adds to each line of err what was perhaps meant.
func withNearest(err error, m scaffold.Module) error {
	lines := strings.Split(err.Error(), "\n")
	for i, l := range lines {
		for _, given := range append(m.Hooks, m.Lang) {
			known := scaffold.Hooks()
			if given == m.Lang {
				known = scaffold.Languages()
			}
			if n := config.Nearest(given, known); n != "" && n != given && strings.Contains(l, strconv.Quote(given)) {
				lines[i] += "; did you mean " + n + "?"
			}
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}
