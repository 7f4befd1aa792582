package logfile

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAFileThatIsMoved holds what rotating does: lines go on at the path a second
// later at most, none is lost, and it is told once.
func TestAFileThatIsMoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path, away := filepath.Join(dir, "log"), filepath.Join(dir, "log.1")
	now := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	var told []error
	f, err := OpenFile(path, 0o600, func() time.Time { return now }, func(is error) { told = append(told, is) })
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write := func(line string, after time.Duration) {
		t.Helper()
		now = now.Add(after)
		if _, err := io.WriteString(f, line); err != nil {
			t.Errorf("writing %q: %v", line, err)
		}
	}
	holds := func(path, want string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v; want %q", path, b, err, want)
		}
	}
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	write("a", 0)
	write("b", time.Minute)
	move(path, away)
	write("c", lookEvery/2)
	holds(away, "abc")
	write("d", lookEvery/2)
	holds(away, "abc")
	holds(path, "d")
	if len(told) != 1 || told[0] != nil {
		t.Errorf("told %v, want that it was moved", told)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write("e", time.Minute)
	holds(path, "e")
	if err := os.WriteFile(path+".new", []byte("made by who rotates\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	move(path+".new", path)
	write("f", time.Minute)
	holds(path, "made by who rotates\nf")
	told = nil

	gone := dir + ".gone" // no file can be made where there is no directory
	move(dir, gone)
	write("g", time.Minute)
	write("h", time.Minute)
	holds(filepath.Join(gone, "log"), "made by who rotates\nfgh")
	if len(told) != 1 || told[0] == nil || !strings.Contains(told[0].Error(), "opening it again") {
		t.Errorf("told %v, want once that it cannot be", told)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write("i", time.Minute)
	holds(path, "i")
	if len(told) != 2 || told[1] != nil {
		t.Errorf("told %v, want that it can be again", told)
	}
}
