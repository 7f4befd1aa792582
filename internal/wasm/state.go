package wasm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// keep writes a's bytes to where the next start finds them. r.mu must be held.
func (r *Registry) keep(a *Attached, binary []byte) error {
	if r.dir == "" || a.FromConfig {
		return nil
	}
	// Bytes beside which there is no list end the next start: a stop that comes
	// before the new list must find the old one.
	if _, err := os.Stat(r.listFile()); errors.Is(err, os.ErrNotExist) {
		if err := r.save(r.Set().All); err != nil {
			return err
		}
	}
	file := r.fileOf(a.Sum)
	if err := writeFile(file, binary); err != nil {
		return fmt.Errorf("keeping the module: %w", err)
	}
	a.file = file
	return nil
}

// fileOf is where the bytes of a component are kept.
func (r *Registry) fileOf(sum string) string { return filepath.Join(r.dir, sum+".wasm") }

// listFile is where the list is kept.
func (r *Registry) listFile() string { return filepath.Join(r.dir, stateFile) }

// unkeep removes a's bytes. The list must not name them as a's any more. r.mu must
// be held.
func (r *Registry) unkeep(a *Attached) {
	if a.file != "" && !slices.ContainsFunc(r.aside, func(k kept) bool { return k.Sum == a.Sum }) {
		_ = os.Remove(a.file) // one that stays is removed at the next start
	}
}

// takeBack removes a's bytes after a failure. If it is not certain that the list
// does not name them, because a new one is in place, they stay: a start fails
// without. Where no list was put in place they go at once, also to make room. r.mu
// must be held.
func (r *Registry) takeBack(a *Attached, err error) {
	if a.file == "" {
		return
	}
	if _, placed := errors.AsType[*placedError](err); !placed || r.save(r.Set().All) == nil {
		r.unkeep(a)
	}
}

// save writes the list of those that are kept. r.mu must be held.
func (r *Registry) save(all []*Attached) error {
	if r.dir == "" {
		return nil
	}
	var l []kept
	for _, a := range all {
		if a.file != "" {
			l = append(l, kept{a.Spec, a.Sum})
		}
	}
	l = append(l, r.aside...)
	b, err := sealList(l)
	if err == nil {
		err = writeFile(r.listFile(), b)
	}
	if err != nil {
		return fmt.Errorf("keeping the list of modules: %w", err)
	}
	return nil
}

// newFile is what the name of a file begins with that is being written.
const newFile = ".new-"

// writeFile writes a file as a whole, or not at all. When it returns, the file is
// there also after a power cut.
func writeFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, newFile+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = syncFile(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return &placedError{err}
	}
	return nil
}

// A placedError is that of a file that is in its place, and may not be after a power
// cut.
type placedError struct{ err error }

func (e *placedError) Error() string { return e.err.Error() }
func (e *placedError) Unwrap() error { return e.err }

// syncFile waits until what was written is on the disk. Tests look who calls it.
var syncFile = (*os.File).Sync

// syncDir is syncFile for the names that a directory has.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncFile(d)
}

// makeDir makes a directory and those above it, so that they are there also after
// a power cut.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if above := filepath.Dir(dir); above != dir {
		if err := makeDir(above); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// Restore brings back the modules that were there at the last stop, but for those
// that the configuration has, by their name or their bytes: it says how they are
// to be. They stay in the list, so that a start without it has them. What cannot be
// brought back is reported; the others are there all the same, and the list is left
// as it is. Of a list that is damaged nothing is brought back.
func (r *Registry) Restore(ctx context.Context) error {
	if r.dir == "" {
		return nil
	}
	if err := makeDir(r.dir); err != nil {
		return fmt.Errorf("making the directory for modules: %w", err)
	}
	b, err := readRegular(r.listFile(), MaxBinary)
	if errors.Is(err, os.ErrNotExist) {
		return r.unlisted()
	}
	var l []kept
	if err == nil {
		if l, err = openList(b); err != nil {
			err = fmt.Errorf("%s: %w", r.listFile(), err)
		}
	}
	if err != nil { // a module that nobody knows of may be what guards the door
		return fmt.Errorf("reading the list of modules: %w; put a copy back that is whole, or move %s away, start, and register the modules again", err, r.dir)
	}
	var errs []error
	named := make(map[string]bool)
	for _, k := range l {
		named[filepath.Base(r.fileOf(k.Sum))] = true
		if err := r.restore(ctx, k); err != nil {
			errs = append(errs, fmt.Errorf("module %.64q: %w", k.Name, err))
		}
	}
	r.tidy(named)
	return errors.Join(errs...)
}

// unlisted holds that there are no modules where there is no list of them: one may
// be what guards the door.
func (r *Registry) unlisted() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("reading the directory for modules: %w", err)
	}
	n := 0
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".wasm" {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%s is missing, and %d modules (.wasm) are in %s, of which one may be what guards the door; put the list back, or take them away and register them again", stateFile, n, r.dir)
}

// tidy removes what a stop in the middle of a change has left.
func (r *Registry) tidy(named map[string]bool) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return // it costs room, and nothing else
	}
	for _, e := range entries {
		if n := e.Name(); !named[n] && (filepath.Ext(n) == ".wasm" || strings.HasPrefix(n, newFile)) {
			if filepath.Ext(n) == ".wasm" {
				r.log.Warn("a module's file is removed, which the list of modules does not name", "file", filepath.Join(r.dir, n))
			}
			_ = os.Remove(filepath.Join(r.dir, n))
		}
	}
}

func (r *Registry) restore(ctx context.Context, k kept) error {
	if r.setAside(k, nil) {
		return nil
	}
	file := r.fileOf(k.Sum)
	b, err := readRegular(file, MaxBinary)
	if err == nil {
		if got := Sum(b); got != k.Sum {
			err = fmt.Errorf("its file %s has SHA-256 %s, want %s", file, got, k.Sum)
		}
	}
	if err != nil {
		return fmt.Errorf("%w; put its file back, or take its entry out of %s and register it again", err, r.listFile())
	}
	_, err = r.add(ctx, k.Spec, b, true)
	if there, is := errors.AsType[*ExistsError](err); is {
		if a := r.Find(there.ID); a != nil && a.FromConfig {
			r.setAside(k, there)
			return nil
		} // else two entries have the same bytes, and the one that is left out may be what guards the door
	}
	if err != nil {
		return fmt.Errorf("%w; mend its entry in %s, or take it out", err, r.listFile())
	}
	return nil
}

// setAside leaves k out if the configuration has it, which it does if there is its
// name, or if it is there already. It reports whether it did.
func (r *Registry) setAside(k kept, there *ExistsError) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var why string
	switch {
	case there != nil:
		why = there.Error()
	case r.isNamed(k.Name):
		why = "the configuration has a module of its name"
	default:
		return false
	}
	r.aside = append(r.aside, k)
	r.log.Warn("a module that was registered is not loaded", "module", k.Name, "uuid", k.ID.String(), "sha256", k.Sum, "because", why)
	return true
}
