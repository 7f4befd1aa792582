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
// Each component has a directory there, whose time is when it was last loaded.
type disk struct {
	dir  string // constant
	room int64  // constant
	log  *slog.Logger

	mu   sync.Mutex
	uses map[string]int // of directories that must stay; guarded by mu
}

// newDisk returns a disk that keeps its files in dir, which is made.
func newDisk(dir string, room int64, log *slog.Logger) (*disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for compiled code: %w", err)
	}
	d := &disk{dir: dir, room: room, log: log, uses: make(map[string]int)}
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

// open returns a cache on a component's directory, and whether there was one.
// close must follow if there is no error.
func (d *disk) open(place string) (c wazero.CompilationCache, known bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	path := filepath.Join(d.dir, place)
	if _, err := os.Stat(path); err == nil {
		known = true
	}
	if c, err = wazero.NewCompilationCacheWithDir(path); err != nil {
		return nil, false, fmt.Errorf("keeping compiled code: %w", err)
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return nil, false, errors.Join(fmt.Errorf("keeping compiled code: %w", err), c.Close(context.Background()))
	}
	d.uses[place]++
	return c, known, nil
}

// close notes that a component's code is used no more.
func (d *disk) close(place string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.uses[place]--; d.uses[place] <= 0 {
		delete(d.uses, place)
	}
}

// forget removes what is kept of a component, if nobody uses it.
func (d *disk) forget(place string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.uses[place] > 0 {
		return errors.New("it is in use")
	}
	return os.RemoveAll(filepath.Join(d.dir, place))
}

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
		if d.uses[e.Name()] == 0 {
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
		return compile(ctx, component, l, e.cache)
	}
	place := placeOf(component, l)
	for {
		c, known, err := e.fromDisk(ctx, place, component, l)
		if err == nil {
			e.disk.tidy()
			return c, nil
		}
		// A file that a machine's end has left half written must not keep a
		// module from being loaded.
		ferr := e.disk.forget(place)
		switch {
		case ctx.Err() != nil:
			return nil, err
		case isSystem(err) || ferr != nil:
			// Nor must a disk that is full, or not to be written to.
			e.disk.log.Warn("compiled code is not kept on disk", "directory", e.disk.dir, "err", errors.Join(err, ferr))
			return compile(ctx, component, l, e.cache)
		case !known:
			return nil, err
		}
	}
}

// isSystem reports whether err is the system's, and not the component's.
func isSystem(err error) bool {
	_, ok := errors.AsType[syscall.Errno](err)
	return ok
}

// fromDisk compiles with a component's directory as the cache.
func (e *Engine) fromDisk(ctx context.Context, place string, component []byte, l Limits) (c *code, known bool, err error) {
	cache, known, err := e.disk.open(place)
	if err != nil {
		return nil, false, err
	}
	done := func(ctx context.Context) {
		_ = cache.Close(ctx)
		e.disk.close(place)
	}
	// The engine takes a file that it once wrote as it is; a damaged one may make
	// it panic.
	c, err = try(ctx, func(ctx context.Context) (*code, error) { return compile(ctx, component, l, cache) })
	if err != nil {
		done(context.Background())
		return nil, known, err
	}
	c.done = done
	return c, known, nil
}
