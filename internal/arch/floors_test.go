package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
)

const root = "sluice/internal/"

// floors reads floors.txt: the number and the name of each package's floor.
func floors(t *testing.T) (number map[string]int, name map[string]string) {
	t.Helper()
	b, err := os.ReadFile("floors.txt")
	if err != nil {
		t.Fatal(err)
	}
	number, name = map[string]int{"arch": 0}, map[string]string{"arch": "ground"}
	n := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		for _, p := range f[1:] {
			if other, twice := name[p]; twice {
				t.Errorf("floors.txt: %s stands on two floors, %s and %s", p, other, f[0])
			}
			number[p], name[p] = n, f[0]
		}
		n++
	}
	return number, name
}

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// packages returns what go list says of every package of the house.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", root+"...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing packages: %v\n%s", err, stderr.String())
	}
	var ps []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

// TestFloors holds every import to floors.txt: downward, or to the own parent.
func TestFloors(t *testing.T) {
	number, name := floors(t)
	exists := map[string]bool{}
	for _, p := range packages(t) {
		room := strings.TrimPrefix(p.ImportPath, root)
		exists[room] = true
		from, ok := number[room]
		if !ok {
			t.Errorf("internal/%s stands on no floor: add it to internal/arch/floors.txt, above all that it imports", room)
			continue
		}
		check := func(imports []string, in string) {
			for _, imp := range imports {
				dep, ok := strings.CutPrefix(imp, root)
				if !ok || dep == path.Dir(room) || dep == room {
					continue
				}
				if in != "" && path.Dir(dep) == room && strings.HasSuffix(dep, "test") {
					continue // what a package has for tests, its own use too
				}
				if to := number[dep]; to >= from {
					t.Errorf("internal/%s (floor %d, %s) imports internal/%s (floor %d, %s)%s: a package imports lower floors and its own parent only; "+
						"let the one that calls declare a small interface, and app tie the two together", room, from, name[room], dep, to, name[dep], in)
				}
			}
		}
		check(p.Imports, "")
		check(p.TestImports, " in a test")
		check(p.XTestImports, " in a test")
	}
	for room := range number {
		if !exists[room] {
			t.Errorf("floors.txt lists %s, which is not built: a room is listed when its first file is written", room)
		}
	}
}
