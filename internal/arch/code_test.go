package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// A file is one Go file of the repository.
type file struct {
	path string // from the repository's root, with slashes
	ast  *ast.File
	fset *token.FileSet
}

func (f file) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// line returns where n begins.
func (f file) line(n ast.Node) int { return f.fset.Position(n.Pos()).Line }

// lines returns how many lines n has.
func (f file) lines(n ast.Node) int { return f.fset.Position(n.End()).Line - f.line(n) + 1 }

// files parses all Go files of the repository but the tools'.
func files(t *testing.T) []file {
	t.Helper()
	top := filepath.Join("..", "..")
	var all []file
	for _, dir := range []string{"cmd", "internal", "test"} {
		err := filepath.WalkDir(filepath.Join(top, dir), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return filepath.SkipDir
			case d.IsDir() || !strings.HasSuffix(path, ".go"):
				return nil
			}
			fset := token.NewFileSet()
			a, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(top, path)
			all = append(all, file{filepath.ToSlash(rel), a, fset})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestPackageDocs asks each package to say once what it is.
func TestPackageDocs(t *testing.T) {
	docs := map[string][]string{} // the files that say it, by folder
	for _, f := range files(t) {
		dir := filepath.ToSlash(filepath.Dir(f.path))
		if _, seen := docs[dir]; !seen {
			docs[dir] = nil
		}
		if f.ast.Doc == nil {
			continue
		}
		docs[dir] = append(docs[dir], f.path)
		begins := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			begins = "Command " + filepath.Base(dir) + " "
		}
		if !strings.HasPrefix(f.ast.Doc.Text(), begins) {
			t.Errorf("%s: the package comment must begin %q", f.path, begins)
		}
	}
	for dir, in := range docs {
		switch {
		case len(in) == 0:
			t.Errorf("%s has no package comment: say in one file what the package is and the one idea a reader needs", dir)
		case len(in) > 1:
			t.Errorf("%s has several package comments, in %s: keep one", dir, strings.Join(in, ", "))
		}
	}
}

const (
	maxFunction  = 100  // lines
	maxFile      = 1000 // lines
	maxInterface = 5    // methods
)

// TestFileSizes holds what is read in one go to what can be read in one go.
func TestFileSizes(t *testing.T) {
	for _, f := range files(t) {
		if n := f.fset.File(f.ast.Pos()).LineCount(); n > maxFile {
			t.Errorf("%s has %d lines, more than %d: it holds more than one noun", f.path, n, maxFile)
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				// A table of cases is as long as it has cases; a test's
				// length says nothing of how hard it is to read.
				if l := f.lines(n); l > maxFunction && !f.isTest() {
					t.Errorf("%s:%d: %s has %d lines, more than %d: name its parts", f.path, f.line(n), n.Name.Name, l, maxFunction)
				}
			case *ast.TypeSpec:
				if i, ok := n.Type.(*ast.InterfaceType); ok && i.Methods.NumFields() > maxInterface {
					t.Errorf("%s:%d: interface %s has %d methods, more than %d: callers need less", f.path, f.line(n), n.Name.Name, i.Methods.NumFields(), maxInterface)
				}
			}
			return true
		})
	}
}

// forbidden are words that name a form and not what a thing is for.
var forbidden = []string{"manager", "service", "helper", "helpers", "util", "utils", "common", "base", "impl", "factory"}

// TestNoForbiddenNames asks packages, files and types for names that say what
// they are for.
func TestNoForbiddenNames(t *testing.T) {
	check := func(what, name, where string) {
		for _, w := range words(name) {
			if slices.Contains(forbidden, w) {
				t.Errorf("%s: %s %s: %q names a form; say what it is for", where, what, name, w)
			}
		}
	}
	for _, f := range files(t) {
		check("package", f.ast.Name.Name, f.path)
		check("file", strings.TrimSuffix(filepath.Base(f.path), ".go"), f.path)
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if s, ok := n.(*ast.TypeSpec); ok {
				check("type", s.Name.Name, f.path)
			}
			return true
		})
	}
}

// words splits a name as_this_is or asThisIs.
func words(name string) []string {
	var b strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.FieldsFunc(b.String(), func(r rune) bool { return r == '_' || r == '-' || r == '.' })
}

// TestNothingHappensOnImport: an import that acts cannot be seen where it acts.
func TestNothingHappensOnImport(t *testing.T) {
	for _, f := range files(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s:%d: init runs before anybody asks: make it a function that app or a test calls", f.path, f.line(fn))
			}
		}
		for _, imp := range f.ast.Imports {
			// The compiler wants these imported for //go:embed and //go:linkname; they do
			// nothing else.
			wanted := imp.Path.Value == `"embed"` || imp.Path.Value == `"unsafe"`
			if imp.Name != nil && imp.Name.Name == "_" && !wanted && !f.isTest() {
				t.Errorf("%s:%d: %s is imported for what it does on import: name what is needed of it", f.path, f.line(imp), imp.Path.Value)
			}
		}
	}
}

// sleepers may call time.Sleep outside a bubble, each for a reason.
// The name is a file, or a file and a function in it.
var sleepers = map[string]string{
	"internal/bench/kinds_test.go":                           "a server that writes without end, and not as fast as it can",
	"internal/bench/nap_other.go nap":                        "what the load generator waits with where there is no finer clock",
	"internal/bench/world_test.go stream":                    "a simulated engine, run in the caller's bubble",
	"internal/fleet/discover_test.go":                        "polls a worker's status with a deadline; real connections do not run in a bubble",
	"internal/fleet/fleet_test.go after":                     "called in bubbles only",
	"internal/kit/cores/cores_test.go":                       "polls with a deadline",
	"internal/policy/script_test.go act":                     "a script's pause, in a bubble",
	"internal/policy/script_test.go comeByRank":              "in a bubble",
	"internal/kit/upstream/pace_linux_test.go":               "a worker that takes its time; too long is as good",
	"internal/mock/mock_test.go eventually":                  "polls with a deadline",
	"test/abuse/abuse_test.go TestSlowHeaders":               "clients that are slow",
	"test/abuse/abuse_test.go TestSlowBodies":                "clients that are slow",
	"test/e2e/uploads_test.go TestTheWorkerSetsThePace":      "a worker that takes nothing, for longer than a client may be silent",
	"test/e2e/uploads_test.go TestTheClientLeavesInAnUpload": "the time in which a worker is promised to hear that the client left",
	"test/e2e/smuggling_test.go TestWhatIsSaidUnasked":       "a worker that speaks when nobody asks; too short a wait is too early a request, which may fail",
	"test/e2e/client_leaves_test.go TestTheClientLeaves":     "lets an answer get under way; too short a wait leaves earlier in it, which must work as well",
	"test/e2e/hostile_test.go reset":                         "a reset that follows at once overtakes the bytes before it; the kernel tells nobody when they are read",
	"test/perf/main.go waitFor":                              "polls with a deadline",
	"test/program/program.go Eventually":                     "polls with a deadline; a process cannot wake a test",
}

// TestNoHopefulSleep finds waits that hope. A time.Sleep inside bubble.Test
// is of the bubble's clock and does not wait.
func TestNoHopefulSleep(t *testing.T) {
	used := map[string]bool{}
	for _, f := range files(t) {
		for _, d := range f.ast.Decls {
			key := f.path
			if fn, ok := d.(*ast.FuncDecl); ok {
				key += " " + fn.Name.Name
			}
			ast.Inspect(d, func(n ast.Node) bool {
				if isCall(n, "bubble", "Test") {
					return false
				}
				if isCall(n, "synctest", "Test") && !strings.HasPrefix(f.path, "internal/kit/bubble/") {
					t.Errorf("%s:%d: synctest.Test crashes the race detector: call bubble.Test", f.path, f.line(n))
				}
				if !isCall(n, "time", "Sleep") {
					return true
				}
				for _, k := range []string{key, f.path} {
					if sleepers[k] != "" {
						used[k] = true
						return true
					}
				}
				t.Errorf("%s:%d: time.Sleep outside bubble.Test: wait for what is meant (a channel, program.Eventually), or say why in sleepers", f.path, f.line(n))
				return true
			})
		}
	}
	for k := range sleepers {
		if !used[k] {
			t.Errorf("sleepers lists %s, which does not sleep any more", k)
		}
	}
}

// isCall reports whether n calls pkg.name.
func isCall(n ast.Node, pkg, name string) bool {
	c, ok := n.(*ast.CallExpr)
	if !ok {
		return false
	}
	s, ok := c.Fun.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg
}

// TestGoVersion: the language version is said once, and the toolchain that
// builds the tools is not older.
func TestGoVersion(t *testing.T) {
	version := func(name string) string {
		b, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "go "); ok {
				return strings.TrimSpace(v)
			}
		}
		return ""
	}
	major := func(v string) string {
		p := strings.SplitN(v, ".", 3)
		return strings.Join(p[:min(2, len(p))], ".")
	}
	if a, b := version("go.mod"), version("tools/go.mod"); major(a) != major(b) {
		t.Errorf("go.mod is of Go %s and tools/go.mod of Go %s: keep them together", a, b)
	}
}
