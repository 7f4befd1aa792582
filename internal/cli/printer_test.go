package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// printing are commands that print something and end by themselves.
var printing = [][]string{
	{"help"},
	{"--version"},
	{"serve", "--help"},
	{"mock", "--help"},
	{"config"},
	{"config", "--json"},
	{"replay", "--trace", "sample", "--policies", "random", "--workers", "2"},
	{"replay", "--trace", "sample", "--policies", "random", "--workers", "2", "--json"},
	{"wasm"},
	{"wasm", "inspect", examples + "redact/redact.wasm"},
	{"wasm", "inspect", examples + "redact/redact.wasm", "--json"},
	{"wasm", "test", examples + "redact/redact.wasm", "--request", examples + "redact/test.http"},
	{"wasm", "test", examples + "redact/redact.wasm", "--request", examples + "redact/test.http", "--json"},
	{"wasm", "bench", examples + "redact/redact.wasm", "--duration", "10ms"},
}

// TestOutputThatIsLostIsNoticed holds that no command says that all went well if
// what it printed could not be written.
func TestOutputThatIsLostIsNoticed(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	lost := append([][]string{{"wasm", "new", "my-module", "--lang", "c", "--dir", filepath.Join(t.TempDir(), "new")}}, printing...)
	for _, args := range lost {
		var says strings.Builder
		code := Main(args, strings.NewReader(""), full, &says)
		if code != exitFailed || strings.Count(says.String(), "no space left on device") != 1 {
			t.Errorf("%q: exit code %d, want %d, and one line that says why: %q", args, code, exitFailed, says.String())
		}
	}
	if code := Main([]string{"nonsense"}, strings.NewReader(""), full, new(strings.Builder)); code != exitUsage {
		t.Errorf("a command that there is not: exit code %d, want %d", code, exitUsage)
	}
}

// TestReadersMayLeave holds that a reader that has seen enough, as head has, is no
// failure.
func TestReadersMayLeave(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range printing {
		var says strings.Builder
		if code := Main(args, strings.NewReader(""), w, &says); code != exitOK || says.String() != "" {
			t.Errorf("%q: exit code %d, says %q; want %d and nothing", args, code, says.String(), exitOK)
		}
	}
	if code := Main([]string{"wasm", "inspect", "none.wasm", "--json"}, strings.NewReader(""), w, new(strings.Builder)); code != exitFailed {
		t.Errorf("a file that is not there: exit code %d, want %d", code, exitFailed)
	}
}
