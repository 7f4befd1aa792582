package arch

import (
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

// floors reads floors.txt: the floor's number by package.
func floors(t *testing.T) map[string]int {
	t.Helper()
	b, err := os.ReadFile("floors.txt")
	if err != nil {
		t.Fatal(err)
	}
	m, n := map[string]int{"arch": 0}, 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		for _, p := range f[1:] {
			m[p] = n
		}
		n++
	}
	return m
}

type pkg struct {
	ImportPath string
	Doc        string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,Imports", root+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var ps []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

func TestFloors(t *testing.T) {
	floor := floors(t)
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, root)
		from, ok := floor[name]
		if !ok {
			t.Errorf("%s stands on no floor: add it to floors.txt", name)
			continue
		}
		for _, imp := range p.Imports {
			dep, ok := strings.CutPrefix(imp, root)
			if !ok || dep == path.Dir(name) {
				continue
			}
			if to := floor[dep]; to >= from {
				t.Errorf("%s (floor %d) imports %s (floor %d)", name, from, dep, to)
			}
		}
	}
}

func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		if !strings.HasPrefix(p.Doc, "Package ") {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
