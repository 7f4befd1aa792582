// Package logfile writes a log into one file a day.
package logfile

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A Dir is a directory of log files: PREFIX.2006-01-02.log, by the UTC date at
// which a line is written. Old files are left to whoever rotates logs on the machine.
type Dir struct {
	path, prefix string           // constant
	now          func() time.Time // constant

	mu  sync.Mutex
	day string   // guarded by mu; of file
	out *os.File // guarded by mu; nil until the first line
}

// Open makes the directory if there is none and begins today's file.
func Open(path, prefix string, now func() time.Time) (*Dir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("making the log directory: %w", err)
	}
	d := &Dir{path: path, prefix: prefix, now: now}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d, d.turnLocked()
}

// Write appends b, which is whole lines, in a new file if the day has changed.
func (d *Dir) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.turnLocked(); err != nil {
		return 0, err
	}
	return d.out.Write(b)
}

// Close closes the file of the day.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.out == nil {
		return nil
	}
	err := d.out.Close()
	d.out, d.day = nil, ""
	return err
}

// turnLocked makes sure that out is the file of the day. d.mu must be held.
func (d *Dir) turnLocked() error {
	day := d.now().UTC().Format(time.DateOnly)
	if day == d.day {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(d.path, d.prefix+"."+day+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("opening the log file: %w", err)
	}
	if d.out != nil {
		_ = d.out.Close()
	}
	d.out, d.day = f, day
	return nil
}
