package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

// TestMissingLinesAreTold: a trace of requests that cannot be written is told of,
// with how many lines are missing, and once a minute at most.
func TestMissingLinesAreTold(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const full = "/dev/full" // takes nothing, as a disk that is full
		if _, err := os.Stat(full); err != nil {
			t.Skip("Linux only: ", err)
		}
		var out bytes.Buffer
		path := filepath.Join(t.TempDir(), "trace")
		r, err := openRecording(path, slog.New(slog.NewTextHandler(&out, nil)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.run(ctx) }()
		put := func(lines int) {
			for range lines {
				r.trace().Put([]byte("{}\n"))
			}
			time.Sleep(time.Second)
		}
		put(5)
		if out.Len() > 0 {
			t.Errorf("while all is well: %s", &out)
		}
		if err := errors.Join(os.Remove(path), os.Symlink(full, path)); err != nil {
			t.Fatal(err)
		}
		put(3)
		for range 30 {
			put(2)
		}
		if got := out.String(); strings.Count(got, "lines are missing") != 1 || !strings.Contains(got, "lines=3") {
			t.Errorf("within half a minute: %s; want one line, of 3", got)
		}
		time.Sleep(time.Minute)
		if got := out.String(); strings.Count(got, "lines are missing") != 2 || !strings.Contains(got, "lines=60") {
			t.Errorf("a minute later: %s; want a second one, of the other 60", got)
		}
		put(4)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := out.String(); strings.Count(got, "lines are missing") != 3 || !strings.Contains(got, "lines=4") {
			t.Errorf("at the end: %s; want a third one, of the last 4", got)
		}
	})
}
