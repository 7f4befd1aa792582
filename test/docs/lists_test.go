package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// sources calls f for each Go file of the program, parsed. The path is from
// the repository's root, with slashes.
func sources(t *testing.T, f func(path string, file *ast.File)) {
	t.Helper()
	for _, dir := range []string{"cmd", "internal", "test"} {
		err := filepath.WalkDir(filepath.Join(top, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			a, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(top, path)
			f(filepath.ToSlash(rel), a)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestEveryPackageIsInTheHouse: docs/architecture.md shows each room.
func TestEveryPackageIsInTheHouse(t *testing.T) {
	page := read(t, "docs/architecture.md")
	seen := map[string]bool{}
	sources(t, func(path string, _ *ast.File) {
		dir := path[:strings.LastIndexByte(path, '/')]
		if !strings.HasPrefix(dir, "internal/") || seen[dir] {
			return
		}
		seen[dir] = true
		if !strings.Contains(page, "`"+dir+"`") {
			t.Errorf("docs/architecture.md does not show %s", dir)
		}
	})
}

// TestEveryLockIsListed: docs/locks.md links each file that declares a mutex.
func TestEveryLockIsListed(t *testing.T) {
	page := read(t, "docs/locks.md")
	sources(t, func(path string, file *ast.File) {
		locks := false
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			locks = locks || ok && isName(s.X, "sync") && (s.Sel.Name == "Mutex" || s.Sel.Name == "RWMutex")
			return true
		})
		if locks && !strings.Contains(page, "](../"+path+")") {
			t.Errorf("docs/locks.md does not list %s: say what its lock guards, and where it stands in the order", path)
		}
	})
}

// TestEveryGoroutineIsListed: docs/goroutines.md links each file that starts
// one.
func TestEveryGoroutineIsListed(t *testing.T) {
	page := read(t, "docs/goroutines.md")
	sources(t, func(path string, file *ast.File) {
		starts := false
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				starts = true
			case *ast.CallExpr:
				s, ok := n.Fun.(*ast.SelectorExpr)
				starts = starts || ok && (s.Sel.Name == "Go" || s.Sel.Name == "AfterFunc" && isName(s.X, "time"))
			}
			return true
		})
		if starts && !strings.Contains(page, "](../"+path+")") {
			t.Errorf("docs/goroutines.md does not list %s: say who starts it, what it owns, and what ends it", path)
		}
	})
}

// TestEveryErrorCodeIsListed: docs/migrating.md has each code that a client
// can get.
func TestEveryErrorCodeIsListed(t *testing.T) {
	page := read(t, "docs/migrating.md")
	check := func(path string, e ast.Expr) {
		l, ok := e.(*ast.BasicLit)
		if !ok || l.Kind != token.STRING {
			return
		}
		if code, err := strconv.Unquote(l.Value); err == nil && !strings.Contains(page, "`"+code+"`") {
			t.Errorf("docs/migrating.md does not list the error code %s, from %s", code, path)
		}
	}
	sources(t, func(path string, file *ast.File) {
		if strings.HasPrefix(path, "internal/mock/") || strings.HasPrefix(path, "internal/bench/") || strings.HasPrefix(path, "test/") {
			return // engines' and measurements' own words
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				s, ok := n.Type.(*ast.SelectorExpr)
				if !(ok && s.Sel.Name == "Error" && isName(s.X, "infer") || isName(n.Type, "Error")) {
					return true
				}
				for _, e := range n.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok && isName(kv.Key, "Code") {
						check(path, kv.Value)
					}
				}
			case *ast.AssignStmt:
				for i, l := range n.Lhs {
					if s, ok := l.(*ast.SelectorExpr); ok && s.Sel.Name == "Code" && i < len(n.Rhs) {
						check(path, n.Rhs[i])
					}
				}
			case *ast.CallExpr:
				switch {
				case isName(n.Fun, "forbidden"):
					check(path, n.Args[0])
				case isName(n.Fun, "workerError"):
					check(path, n.Args[2])
				}
			}
			return true
		})
	})
}

func isName(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}
