package wasm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/tetratelabs/wazero"
)

// diskRoom is how much compiled code is kept on disk. Code in use does not count
// against what is not, but stays whatever it takes.
const diskRoom = 1 << 30

// A disk keeps compiled code in files, so that the next start need not compile.
// Each component has a directory there, its place, whose time is when it was last
// loaded. The engine reads and writes the files in it; those that are not as they
// were written are removed before it sees them.
type disk struct {
	dir  string // constant
	room int64  // constant
	log  *slog.Logger

	mu   sync.Mutex
	uses map[string]*use // of places that must stay; guarded by mu
}

// A use is that of one place.
type use struct {
	n    int           // by those who use it, or wait for their turn; guarded by the disk's mu
	turn chan struct{} // holds a word while one reads or writes the files
}

// newDisk returns a disk that keeps its files in dir, which is made.
func newDisk(dir string, room int64, log *slog.Logger) (*disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for compiled code: %w", err)
	}
	d := &disk{dir: dir, room: room, log: log, uses: make(map[string]*use)}
	d.tidy()
	return d, nil
}

// placeOf is the directory of a component under d's.
func placeOf(component []byte, l Limits) string {
	h := sha256.New()
	h.Write(component)
	_ = binary.Write(h, binary.LittleEndian, l) // to a hash: it cannot fail
	return fmt.Sprintf("%x", h.Sum(nil)[:16])
}

// enter waits until nobody else reads or writes the files of a place. leave must
// follow if there is no error, and close once the code is used no more.
func (d *disk) enter(ctx context.Context, place string) (leave func(), err error) {
	d.mu.Lock()
	u := d.uses[place]
	if u == nil {
		u = &use{turn: make(chan struct{}, 1)}
		d.uses[place] = u
	}
	u.n++
	d.mu.Unlock()
	select {
	case u.turn <- struct{}{}:
		return func() { <-u.turn }, nil
	case <-ctx.Done():
		d.close(place)
		return nil, fmt.Errorf("another is compiling it: %w", context.Cause(ctx))
	}
}

// close notes that a component's code is used no more.
func (d *disk) close(place string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.uses[place]
	if u.n--; u.n == 0 {
		delete(d.uses, place)
	}
}

// open returns a cache on a place, what of it is as it was written, and whether it
// was there. It must be the caller's turn.
func (d *disk) open(place string) (c wazero.CompilationCache, good sums, known bool, err error) {
	path := filepath.Join(d.dir, place)
	if info, err := os.Lstat(path); err == nil {
		known = true
		if good, err = d.inspect(path, info); err != nil {
			return nil, nil, known, err
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil { // the engine's own error would not say that it is the system's
		return nil, nil, known, fmt.Errorf("keeping compiled code: %w", err)
	}
	if c, err = wazero.NewCompilationCacheWithDir(path); err != nil {
		return nil, nil, known, fmt.Errorf("keeping compiled code: %w", err)
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return nil, nil, known, errors.Join(fmt.Errorf("keeping compiled code: %w", err), c.Close(context.Background()))
	}
	return c, good, known, nil
}

// inspect removes from a place what is not as it was written.
func (d *disk) inspect(path string, info fs.FileInfo) (good sums, err error) {
	why := errors.New("it is not a directory")
	if info.IsDir() {
		good, why = verify(path)
	}
	if why == nil {
		return good, nil
	}
	d.log.Warn("compiled code on disk is not what was written there, and is compiled anew", "directory", path, "because", why)
	if _, is := errors.AsType[*damage](why); is {
		return good, nil
	}
	return nil, os.RemoveAll(path)
}

// forget removes what is kept of a component. It must be the caller's turn; others
// who use the code have it in memory.
func (d *disk) forget(place string) error { return os.RemoveAll(filepath.Join(d.dir, place)) }

// tidy removes what was loaded longest ago, until what is left has room. What is
// in use stays.
func (d *disk) tidy() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.tidyLocked(); err != nil {
		d.log.Warn("compiled code cannot be removed, of which there is too much", "directory", d.dir, "err", err)
	}
}

func (d *disk) tidyLocked() error {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	type kept struct {
		path string
		size int64
		last time.Time
	}
	var idle []kept
	var total int64
	for _, e := range entries {
		k := kept{path: filepath.Join(d.dir, e.Name())}
		if info, err := e.Info(); err == nil {
			k.last = info.ModTime()
		}
		if k.size, err = sizeOf(k.path); err != nil {
			return err
		}
		total += k.size
		if d.uses[e.Name()] == nil {
			idle = append(idle, k)
		}
	}
	slices.SortFunc(idle, func(a, b kept) int { return cmp.Or(a.last.Compare(b.last), cmp.Compare(a.path, b.path)) })
	for _, k := range idle {
		if total <= d.room {
			break
		}
		if err := os.RemoveAll(k.path); err != nil {
			return err
		}
		total -= k.size
	}
	return nil
}

// sizeOf is how many bytes the files have that are under path.
func sizeOf(path string) (n int64, err error) {
	err = filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another gateway's, which has just removed it
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// compile compiles a component, or loads what was compiled of it before.
func (e *Engine) compile(ctx context.Context, component []byte, l Limits) (*code, error) {
	if e.disk == nil {
		return compile(ctx, component, l, nil)
	}
	place := placeOf(component, l)
	leave, err := e.disk.enter(ctx, place)
	if err != nil {
		return nil, err
	}
	defer e.disk.tidy()
	defer leave()
	for {
		c, known, err := e.fromDisk(ctx, place, component, l)
		if err == nil {
			return c, nil // which closes the place
		}
		ferr := e.disk.forget(place)
		switch {
		case ctx.Err() != nil:
		case isSystem(err) || ferr != nil:
			// A disk that is full, or not to be written to, must not keep a module
			// from being loaded.
			e.disk.log.Warn("compiled code is not kept on disk", "directory", e.disk.dir, "err", errors.Join(err, ferr))
			c, err = compile(ctx, component, l, nil)
		case known: // nor must what an engine like this one has written, whatever is wrong with it
			e.disk.log.Warn("compiled code on disk cannot be loaded, and is compiled anew", "directory", filepath.Join(e.disk.dir, place), "err", err)
			continue
		}
		e.disk.close(place)
		return c, err
	}
}

// isSystem reports whether err is the system's, and not the component's.
func isSystem(err error) bool {
	_, ok := errors.AsType[syscall.Errno](err)
	return ok
}

// fromDisk compiles with a component's place as the cache. If there is no error,
// the place is closed with the code.
func (e *Engine) fromDisk(ctx context.Context, place string, component []byte, l Limits) (c *code, known bool, err error) {
	cache, good, known, err := e.disk.open(place)
	if err != nil {
		return nil, known, err
	}
	// The engine panics rather than fails of some files that it did not write.
	c, err = try(ctx, func(ctx context.Context) (*code, error) { return compile(ctx, component, l, cache) })
	if err != nil {
		_ = cache.Close(context.Background())
		return nil, known, err
	}
	path := filepath.Join(e.disk.dir, place)
	if err := seal(path, good); err != nil { // what has no checksum is not loaded
		e.disk.log.Warn("compiled code is not kept on disk", "directory", path, "err", err)
	}
	c.done = func(ctx context.Context) {
		_ = cache.Close(ctx)
		e.disk.close(place)
	}
	return c, known, nil
}
