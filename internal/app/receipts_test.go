package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluice/internal/kit/bubble"
)

// words is a log that may be read while it is written.
type words struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// TestMissingLinesAreTold: a trace of requests that cannot be written is told of,
// with how many lines are missing, and once a minute at most.
func TestMissingLinesAreTold(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const full = "/dev/full" // takes nothing, as a disk that is full
		if _, err := os.Stat(full); err != nil {
			t.Skip("Linux only: ", err)
		}
		var out words
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
			synctest.Wait()
		}
		put(5)
		if out.String() != "" {
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
		synctest.Wait()
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
