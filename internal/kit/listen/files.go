package listen

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Events are told what becomes of files that are watched. Either may be nil.
// They are called one at a time, must not block, and must not call what they
// are told of but to read it.
type Events struct {
	// Loaded: new contents are in use, or what had failed is mended.
	Loaded func()
	// Failed: the files cannot be used, or a certificate's time is over; what
	// was loaded before stays in use. It is told once until it is mended.
	Failed func(err error)
}

func (e Events) loaded() {
	if e.Loaded != nil {
		e.Loaded()
	}
}

func (e Events) failed(err error) {
	if e.Failed != nil {
		e.Failed(err)
	}
}

const (
	// watchEvery is how often files are looked at.
	watchEvery = 3 * time.Second

	// settledAfter is how old a file's time must be for an unchanged time to
	// mean unchanged contents: file systems count in steps of up to 2 s.
	settledAfter = 3 * time.Second

	// loadTries is how often files that change while they are read are read
	// again at once. The next look tries again.
	loadTries = 3

	// maxFileSize is more than any bundle of certificates has.
	maxFileSize = 4 << 20
)

// A file is what was read of one.
type file struct {
	name string
	info os.FileInfo
	text []byte
}

// A watched is a value made of files that may be replaced at any time.
type watched[T any] struct {
	names  []string                        // constant
	parse  func([]file) (*T, error)        // constant; must not keep the text
	faulty func(v *T, now time.Time) error // constant; what has become wrong with v by itself; nil for nothing ever
	events Events                          // constant
	every  time.Duration                   // constant
	value  atomic.Pointer[T]               // replaced with mu held

	mu      sync.Mutex    // one look at a time; guards what follows
	seen    []os.FileInfo // of the files of value
	settled bool          // seen can be trusted: see settledAfter
	sum     [sha256.Size]byte
	failing bool // the last look failed
	aged    bool // faulty has been told of value
}

// open reads the files for the first time.
func (w *watched[T]) open() error {
	w.every = watchEvery
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.loadLocked()
	return err
}

// Run looks at the files every few seconds until ctx ends, and uses what it
// finds. It returns nil.
func (w *watched[T]) Run(ctx context.Context) error {
	if len(w.names) == 0 {
		<-ctx.Done()
		return nil
	}
	t := time.NewTicker(w.every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			w.look()
		}
	}
}

// Reload reads the files now, whether or not they seem to have changed. If
// they cannot be used, what was loaded stays in use, and the error is the
// caller's to tell: Events are not told the same.
func (w *watched[T]) Reload() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed, err := w.loadLocked()
	w.tellLocked(changed, err, false)
	return err
}

// look loads the files if they seem to have changed.
func (w *watched[T]) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.failing && w.settled && w.unchangedLocked() {
		w.tellLocked(false, nil, true)
		return
	}
	changed, err := w.loadLocked()
	w.tellLocked(changed, err, true)
}

// tellLocked tells events of a look: whether value has changed, or why it
// could not be made. w.mu must be held.
func (w *watched[T]) tellLocked(changed bool, err error, failures bool) {
	if err != nil {
		if !w.failing && failures {
			w.events.failed(err)
		}
		w.failing = true
		return
	}
	if changed || w.failing {
		w.failing = false
		w.events.loaded()
	}
	if w.aged || w.faulty == nil {
		return
	}
	if err := w.faulty(w.value.Load(), time.Now()); err != nil {
		w.aged = true
		w.events.failed(err)
	}
}

// unchangedLocked reports whether the files are those of value. w.mu must be
// held.
func (w *watched[T]) unchangedLocked() bool {
	for i, name := range w.names {
		if fi, err := os.Stat(name); err != nil || !same(fi, w.seen[i]) {
			return false
		}
	}
	return true
}

// same reports whether a and b look like one file with one content and mode.
func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.Mode() == b.Mode() && a.ModTime().Equal(b.ModTime())
}

// loadLocked reads the files and makes value of them, if it would be another
// one. w.mu must be held.
func (w *watched[T]) loadLocked() (changed bool, err error) {
	files, err := w.read()
	if err != nil {
		return false, err
	}
	now := time.Now()
	seen, settled, h := make([]os.FileInfo, len(files)), true, sha256.New()
	for i, f := range files {
		seen[i] = f.info
		settled = settled && now.Sub(f.info.ModTime()) > settledAfter
		fmt.Fprintf(h, "%d %v ", len(f.text), f.info.Mode())
		h.Write(f.text)
	}
	sum := [sha256.Size]byte(h.Sum(nil))
	if w.value.Load() == nil || sum != w.sum {
		v, err := w.parse(files)
		if err != nil {
			return false, err
		}
		w.value.Store(v)
		w.sum, changed = sum, true
		w.aged = w.faulty != nil && w.faulty(v, now) != nil // told with the load
	}
	w.seen, w.settled = seen, settled
	return changed, nil
}

// read returns the files as they were at one moment, if they rest for one.
func (w *watched[T]) read() ([]file, error) {
	for try := 1; ; try++ {
		files := make([]file, len(w.names))
		var err error
		for i, name := range w.names {
			if files[i], err = readFile(name); err != nil {
				break
			}
		}
		// One may have been replaced after another was read: both would be
		// whole, and of two pairs.
		rested := !slices.ContainsFunc(files, func(f file) bool {
			if f.info == nil {
				return false
			}
			now, err := os.Stat(f.name)
			return err != nil || !same(now, f.info)
		})
		if rested || try == loadTries {
			return files, err
		}
	}
}

// readFile reads a regular file of at most maxFileSize.
func readFile(name string) (file, error) {
	f, err := os.Open(name)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return file{}, err
	}
	if !fi.Mode().IsRegular() {
		return file{}, fmt.Errorf("%s is not a regular file", name)
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(f, maxFileSize+1)); err != nil {
		return file{}, fmt.Errorf("reading %s: %w", name, err)
	}
	if b.Len() > maxFileSize {
		return file{}, fmt.Errorf("%s has more than %d bytes", name, maxFileSize)
	}
	return file{name, fi, b.Bytes()}, nil
}
