package examples

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sluice/internal/cli"
	wasmcomponent "sluice/internal/wasm/component"
	"sluice/internal/wasm/scaffold"
)

var update = flag.Bool("update", false, "write what is compared with")

// modules are the examples, as they were begun.
var modules = []scaffold.Module{
	{Name: "api-key", Lang: "rust", Hooks: []string{"on-request"}},
	{Name: "header-routing", Lang: "c", Hooks: []string{"on-request"}},
	{Name: "rate-limit", Lang: "c", Hooks: []string{"on-request"}},
	{Name: "redact", Lang: "rust", Hooks: []string{"on-response", "on-chunk"}},
	{Name: "request-log", Lang: "go", Hooks: []string{"on-request", "on-error", "on-end"}},
}

func component(m scaffold.Module) string { return filepath.Join(m.Name, m.Name+".wasm") }

// sluice runs a command, which must succeed, and returns what it prints.
func sluice(t *testing.T, args ...string) string {
	t.Helper()
	var out, err bytes.Buffer
	if code := cli.Main(args, strings.NewReader(""), &out, &err); code != 0 {
		t.Fatalf("sluice %s: exit code %d\n%s%s", strings.Join(args, " "), code, out.String(), err.String())
	}
	return out.String()
}

// times are what differs from run to run.
var times = regexp.MustCompile(` +[0-9.]+ µs|"ms":[0-9]+`)

// TestExamplesDoWhatTheySay runs each component on its test.http and compares
// with test.want.
func TestExamplesDoWhatTheySay(t *testing.T) {
	for _, m := range modules {
		t.Run(m.Name, func(t *testing.T) {
			got := sluice(t, "wasm", "test", component(m), "--request", filepath.Join(m.Name, "test.http"))
			compare(t, filepath.Join(m.Name, "test.want"), times.ReplaceAllString(got, ""))
		})
	}
}

// compare compares got with a file, or writes it with -update.
func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("it says:\n%s\n%s has:\n%s", got, file, want)
	}
}

// TestRateLimitEnds: the sixty-first request of a client within a minute is
// refused, and another client's is not. The minute may turn within the test; so
// there are more requests than two minutes allow.
func TestRateLimitEnds(t *testing.T) {
	var file strings.Builder
	ask := func(key string) {
		fmt.Fprintf(&file, "POST /v1/chat/completions HTTP/1.1\nContent-Type: application/json\nAuthorization: Bearer %s\n\n%s\n###\n", key,
			`{"model":"m1","messages":[{"role":"user","content":"hello"}]}`)
	}
	for range 121 {
		ask("sk-acme")
	}
	ask("sk-initech")
	path := filepath.Join(t.TempDir(), "many.http")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Requests []struct{ Status int }
	}
	if err := json.Unmarshal([]byte(sluice(t, "wasm", "test", "rate-limit/rate-limit.wasm", "--request", path, "--json")), &got); err != nil {
		t.Fatal(err)
	}
	limited := 0
	for i, r := range got.Requests {
		if r.Status == 429 {
			limited++
			if i < 60 {
				t.Errorf("request %d of a client is refused", i+1)
			}
		}
	}
	if limited < 1 || limited > 61 {
		t.Errorf("%d of 121 requests are refused, want 61, or some less if a minute ended within them", limited)
	}
	if s := got.Requests[121].Status; s != 200 {
		t.Errorf("another client's request gets %d, want 200", s)
	}
}

// TestExamplesAreSmall holds what a module may weigh, and that it has its hooks
// and no others.
func TestExamplesAreSmall(t *testing.T) {
	for _, m := range modules {
		b, err := os.ReadFile(component(m))
		if err != nil {
			t.Fatal(err)
		}
		most := 150 << 10
		if m.Lang == "go" {
			most = 2 << 20 // the runtime
		}
		if len(b) > most {
			t.Errorf("%s has %d bytes, more than %d", m.Name, len(b), most)
		}
		plan, err := wasmcomponent.Link(b)
		if err != nil {
			t.Fatalf("%s: %v", m.Name, err)
		}
		var got, want []string
		for _, e := range plan.Exports {
			got = append(got, e.Interface+"#"+e.Name)
		}
		for _, h := range m.Hooks {
			want = append(want, "sluice:gateway/"+h+"@0.1.0#"+h)
		}
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s exports %v, want %v", m.Name, got, want)
		}
	}
}

// TestExamplesBeganAsNewModules: what a module's author need not touch is what
// sluice wasm new writes now.
func TestExamplesBeganAsNewModules(t *testing.T) {
	own := []string{"README.md", "test.http", "go.mod"}
	for _, m := range modules {
		dir := t.TempDir()
		names, err := scaffold.Write(m, dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if n == m.Source() || slices.Contains(own, n) {
				continue
			}
			want, err := os.ReadFile(filepath.Join(dir, n))
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(m.Name, n))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				if *update {
					if err := os.WriteFile(filepath.Join(m.Name, n), want, 0o644); err != nil {
						t.Fatal(err)
					}
					continue
				}
				t.Errorf("%s/%s is not what sluice wasm new writes: go test ./examples/wasm -update, then make wasm-examples", m.Name, n)
			}
		}
	}
}

// TestComponentsAreBuiltOfTheirSources: built.txt says of which sources each
// component was built. make wasm-examples writes it.
func TestComponentsAreBuiltOfTheirSources(t *testing.T) {
	var got strings.Builder
	for _, m := range modules {
		h := sha256.New()
		entries, err := os.ReadDir(m.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			switch filepath.Ext(e.Name()) {
			case ".rs", ".c", ".h", ".go", ".mod", ".sh", ".wasm":
				b, err := os.ReadFile(filepath.Join(m.Name, e.Name()))
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(h, "%s %d\n%s", e.Name(), len(b), b)
			}
		}
		fmt.Fprintf(&got, "%s %x\n", m.Name, h.Sum(nil))
	}
	compare(t, "built.txt", got.String())
}
