package logfile

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// lookEvery is how often a File looks at most whether it was moved.
const lookEvery = time.Second

// A File is one file to which lines are appended. Whoever rotates logs may move or
// remove it: what is written from a second later on goes to a new one at the same
// path.
type File struct {
	path   string           // constant
	mode   os.FileMode      // constant
	now    func() time.Time // constant
	turned func(is error)   // constant

	mu     sync.Mutex
	out    *os.File  // guarded by mu
	looked time.Time // guarded by mu; when it was last looked for
	err    error     // guarded by mu; why no new file could be opened when the old one was gone
}

// OpenFile opens or makes the file at path. turned is called when the file was
// moved and another begun: is is nil, or why it could not be and the old one is
// written on. Each is told once, not at each try.
func OpenFile(path string, mode os.FileMode, now func() time.Time, turned func(is error)) (*File, error) {
	f := &File{path: path, mode: mode, now: now, turned: turned, looked: now()}
	out, err := f.open()
	if err != nil {
		return nil, err
	}
	f.out = out
	return f, nil
}

func (f *File) open() (*os.File, error) {
	return os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, f.mode)
}

// Write appends b, which is whole lines.
func (f *File) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.looked) >= lookEvery {
		f.looked = now
		f.followLocked()
	}
	return f.out.Write(b)
}

// followLocked opens the file that is at path if that is another one than it was, or
// none. f.mu must be held.
func (f *File) followLocked() {
	is, err := os.Stat(f.path)
	if err != nil && !os.IsNotExist(err) {
		return // it may be there
	}
	was, errWas := f.out.Stat()
	if err == nil && errWas == nil && os.SameFile(was, is) {
		f.err = nil
		return
	}
	out, err := f.open()
	if err != nil {
		err = fmt.Errorf("opening it again: %w", err)
	} else {
		_ = f.out.Close()
		f.out = out
	}
	if err == nil || f.err == nil {
		f.turned(err)
	}
	f.err = err
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Close()
}
