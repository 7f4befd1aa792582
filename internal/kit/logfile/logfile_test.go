package logfile

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestANewDayIsANewFile(t *testing.T) {
	now := time.Date(2026, 11, 21, 23, 59, 0, 0, time.UTC)
	dir := filepath.Join(t.TempDir(), "made", "for it")
	d, err := Open(dir, "sluice", func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	io.WriteString(d, "one\n")
	now = now.Add(2 * time.Minute)
	io.WriteString(d, "two\n")
	for name, want := range map[string]string{"sluice.2026-11-21.log": "one\n", "sluice.2026-11-22.log": "two\n"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
		}
	}
}

func TestADirectoryThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, "sluice", time.Now); err == nil {
		t.Error("a file was taken for a directory")
	}
}
