package wasm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// A Spec says which component is to be attached where, and how.
type Spec struct {
	Name   string
	Path   string // absolute, of the file that it was read from; "" if its bytes were sent
	Attach []Hook // at which of its hooks it is called; none for all that it has

	Disabled   bool
	Order      int       // lower ones are called first; of equal ones the older
	FailClosed bool      // a request whose guest fails is refused; else it goes on as if the guest were not there
	Paths      []string  // of requests that it is for; a trailing * stands for anything; none for all
	Models     []string  // likewise
	MaxBody    int64     // bytes of the largest body that it is given; 0 for 10 MiB
	Settings   Settings  // how it is run
	FromConfig bool      // the configuration names it, so it is not kept for the next start
	Created    time.Time // when it was first registered; zero for now
	ID         uuid.UUID // zero for a new one
}

// maxName bounds a module's name, maxConfig what it is given as its configuration.
const (
	maxName   = 256
	maxConfig = 64 << 10
)

// An Attached is a module in its place. It is not written to, but for its
// counters.
type Attached struct {
	Spec
	Module *Module
	Sum    string // SHA-256 of its bytes, in hexadecimal
	Size   int64  // of its bytes
	Counts *Counts
	Store  *Store
	file   string // where its bytes are kept for the next start, "" if they are not
}

// Counts is what is counted of a module. It lives on when the module is updated.
type Counts struct {
	Calls, Failed atomic.Uint64
	Micros        atomic.Uint64 // that calls took in all
	MaxMicros     atomic.Uint64
	Last          atomic.Int64 // when it was last called, Unix nanoseconds; 0 for never
}

// Count notes a call.
func (c *Counts) Count(now time.Time, took time.Duration, err error) {
	us := uint64(max(took, 0).Microseconds())
	c.Calls.Add(1)
	c.Micros.Add(us)
	c.Last.Store(now.UnixNano())
	for m := c.MaxMicros.Load(); us > m && !c.MaxMicros.CompareAndSwap(m, us); m = c.MaxMicros.Load() {
	}
	if err != nil {
		c.Failed.Add(1)
	}
}

// A Set is the modules that are called now, in order. It is not written to.
type Set struct {
	All []*Attached           // also those that are disabled
	By  [NumHooks][]*Attached // that are called at a hook
}

// wants reports whether list has s, or something that stands for it; an empty
// list has everything.
func wants(list []string, s string) bool {
	if len(list) == 0 {
		return true
	}
	for _, p := range list {
		if p == s {
			return true
		}
		if begin, any := strings.CutSuffix(p, "*"); any && strings.HasPrefix(s, begin) {
			return true
		}
	}
	return false
}

// Wants reports whether a is for requests of a path and a model.
func (a *Attached) Wants(path, model string) bool {
	return wants(a.Paths, path) && wants(a.Models, model)
}

// Attaches reports whether a is attached to a hook.
func (a *Attached) Attaches(h Hook) bool {
	if h == OnEnd && a.Module.Whole() {
		h = OnResponse // of the two, its handle_response is called at one
	}
	return a.Module.Has(h) && (len(a.Attach) == 0 || slices.Contains(a.Attach, h))
}

// An ExistsError says that a component is registered already.
type ExistsError struct {
	ID  uuid.UUID
	Sum string
}

func (e *ExistsError) Error() string {
	return fmt.Sprintf("the component with SHA-256 %s is registered already, as %s", e.Sum, e.ID)
}

// ErrUnknown says that no module has the ID.
var ErrUnknown = errors.New("no such module")

// maxModules bounds how many modules there may be at once.
const maxModules = 256

// A Registry keeps the modules. Its methods may be called by any goroutine.
type Registry struct {
	engine *Engine
	dir    string // where modules are kept for the next start; "" for nowhere
	log    *slog.Logger
	set    atomic.Pointer[Set]

	mu   sync.Mutex     // guards changes of set, and the file
	sums map[string]int // components that are being compiled or are there; guarded by mu
}

// NewRegistry returns a Registry without modules. dir is where it keeps them for
// the next start, "" for nowhere; Restore brings them back.
func NewRegistry(e *Engine, dir string, log *slog.Logger) *Registry {
	r := &Registry{engine: e, dir: dir, log: log, sums: make(map[string]int)}
	r.set.Store(new(Set))
	return r
}

// Set returns the modules that there are now.
func (r *Registry) Set() *Set { return r.set.Load() }

// Find returns the module with the ID, or nil.
func (r *Registry) Find(id uuid.UUID) *Attached {
	for _, a := range r.Set().All {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// Add compiles a component and attaches it. It takes as long as compiling does,
// during which requests are not disturbed.
func (r *Registry) Add(ctx context.Context, s Spec, binary []byte) (*Attached, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	sum := Sum(binary)
	if err := r.reserve(sum); err != nil {
		return nil, err
	}
	a, err := r.load(ctx, s, binary, sum)
	if err != nil {
		r.unreserve(sum)
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.keep(a, binary); err != nil {
		r.drop(sum)
		a.Module.Close()
		return nil, err
	}
	r.publish(append(slices.Clone(r.Set().All), a))
	return a, r.save()
}

// check holds what a Spec must be.
func (s *Spec) check() error {
	switch {
	case strings.TrimSpace(s.Name) == "":
		return errors.New("a module needs a name")
	case len(s.Name) > maxName:
		return fmt.Errorf("a name of %d bytes; at most %d are allowed", len(s.Name), maxName)
	case s.MaxBody < 0 || s.MaxBody > 100<<20:
		return fmt.Errorf("max body %d is not between 0 and 104857600", s.MaxBody)
	}
	return s.Settings.check()
}

// check holds the contract's bounds.
func (s *Settings) check() error {
	switch {
	case s.Limits.MemoryPages < 1 || s.Limits.MemoryPages > 1<<16-1:
		return fmt.Errorf("memory of %d pages is not between 1 and 65535", s.Limits.MemoryPages)
	case s.Limits.Stack < 64<<10 || s.Limits.Stack > 16<<20:
		return fmt.Errorf("a stack of %d bytes is not between 65536 and 16777216", s.Limits.Stack)
	case s.Time < time.Millisecond || s.Time > 300*time.Second:
		return fmt.Errorf("a time limit of %s is not between 1ms and 300s", s.Time)
	case len(s.Config) > maxConfig:
		return fmt.Errorf("a configuration of %d bytes; at most %d are allowed", len(s.Config), maxConfig)
	case s.Instances < 0 || s.Instances > 4096:
		return fmt.Errorf("%d instances are not between 1 and 4096", s.Instances)
	}
	switch s.Isolation {
	case "", Snapshot, Fresh, Shared:
		return nil
	}
	return fmt.Errorf("unknown isolation %.64q; want snapshot, fresh or shared", s.Isolation)
}

// reserve claims a component, so that it is compiled once however many ask.
func (r *Registry) reserve(sum string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.Set().All {
		if a.Sum == sum {
			return &ExistsError{ID: a.ID, Sum: sum}
		}
	}
	if r.sums[sum] > 0 {
		return fmt.Errorf("the component with SHA-256 %s is being registered", sum)
	}
	if len(r.sums) >= maxModules {
		return fmt.Errorf("there are %d modules, which is as many as there may be", maxModules)
	}
	r.sums[sum]++
	return nil
}

func (r *Registry) unreserve(sum string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(sum)
}

// drop forgets a component. r.mu must be held.
func (r *Registry) drop(sum string) {
	if r.sums[sum]--; r.sums[sum] <= 0 {
		delete(r.sums, sum)
	}
}

// load compiles a component and holds that it has the hooks that it is to be
// attached to.
func (r *Registry) load(ctx context.Context, s Spec, binary []byte, sum string) (*Attached, error) {
	m, err := r.engine.Load(ctx, binary, s.Settings)
	if err != nil {
		return nil, err
	}
	for _, h := range s.Attach {
		if !m.Has(h) && h != OnError { // the contract takes OnError of modules that cannot have it
			m.Close()
			return nil, fmt.Errorf("it is to be attached to %s, which it does not export", h)
		}
	}
	if m.Whole() && len(s.Attach) > 0 && !slices.Contains(s.Attach, OnRequest) {
		m.Close()
		return nil, fmt.Errorf("it is to be attached to %v and not to %s, without which an http-wasm module sees no answer", s.Attach, OnRequest)
	}
	if s.ID == uuid.Nil {
		if s.ID, err = uuid.NewV7(); err != nil {
			m.Close()
			return nil, fmt.Errorf("making an id: %w", err)
		}
	}
	if s.Created.IsZero() {
		s.Created = time.Now()
	}
	if is, why := m.Isolation(); why != "" {
		r.log.Warn("a module gets a new instance for each call, which is slow", "module", s.Name, "isolation", is, "because", why)
	}
	return &Attached{Spec: s, Module: m, Sum: sum, Size: int64(len(binary)), Counts: new(Counts), Store: NewStore()}, nil
}

// publish makes all the modules that there are. r.mu must be held.
func (r *Registry) publish(all []*Attached) {
	slices.SortStableFunc(all, func(a, b *Attached) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), a.Created.Compare(b.Created))
	})
	s := &Set{All: all}
	for _, a := range all {
		for h := range NumHooks {
			if !a.Disabled && a.Attaches(h) {
				s.By[h] = append(s.By[h], a)
			}
		}
	}
	r.set.Store(s)
}

// Remove takes a module away. Calls that it has end in peace.
func (r *Registry) Remove(id uuid.UUID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.Find(id)
	if a == nil {
		return ErrUnknown
	}
	r.publish(slices.DeleteFunc(slices.Clone(r.Set().All), func(x *Attached) bool { return x == a }))
	r.drop(a.Sum)
	a.Module.Close()
	if a.file != "" {
		_ = os.Remove(a.file)
	}
	return r.save()
}

// Update changes how a module is attached, and what it is if binary is not nil:
// the new one serves before the old one ends.
func (r *Registry) Update(ctx context.Context, id uuid.UUID, change func(*Spec), binary []byte) (*Attached, error) {
	old := r.Find(id)
	if old == nil {
		return nil, ErrUnknown
	}
	s := old.Spec
	change(&s)
	s.ID, s.Created = old.ID, old.Created
	if err := s.check(); err != nil {
		return nil, err
	}
	if binary == nil && s.Settings != old.Settings {
		return nil, errors.New("limits and isolation are changed together with the component's bytes")
	}
	next := &Attached{Spec: s, Module: old.Module, Sum: old.Sum, Size: old.Size, Counts: old.Counts, Store: old.Store, file: old.file}
	if binary != nil {
		sum := Sum(binary)
		if sum != old.Sum {
			if err := r.reserve(sum); err != nil {
				return nil, err
			}
		}
		loaded, err := r.load(ctx, s, binary, sum)
		if err != nil {
			if sum != old.Sum {
				r.unreserve(sum)
			}
			return nil, err
		}
		next.Module, next.Sum, next.Size = loaded.Module, sum, loaded.Size
	}
	return next, r.replace(old, next, binary)
}

// replace puts next in old's place.
func (r *Registry) replace(old, next *Attached, binary []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.Set().All)
	i := slices.Index(all, old)
	if i < 0 {
		if next.Module != old.Module {
			next.Module.Close()
		}
		return ErrUnknown
	}
	if binary != nil {
		if err := r.keep(next, binary); err != nil {
			next.Module.Close()
			return err
		}
	}
	all[i] = next
	r.publish(all)
	if next.Module != old.Module {
		if next.Sum != old.Sum {
			r.drop(old.Sum)
		}
		old.Module.Close()
		if old.file != "" && old.file != next.file {
			_ = os.Remove(old.file)
		}
	}
	return r.save()
}

// Close ends all modules once the calls that they have are over.
func (r *Registry) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.Set().All
	r.set.Store(new(Set))
	for _, a := range all {
		a.Module.Close()
	}
}

// stateFile is the list of modules in the Registry's directory.
const stateFile = "modules.json"

// keep writes a's bytes to where the next start finds them, and adds it to the
// list there. r.mu must be held.
func (r *Registry) keep(a *Attached, binary []byte) error {
	if r.dir == "" || a.FromConfig {
		return nil
	}
	a.file = filepath.Join(r.dir, a.Sum+".wasm")
	if err := writeFile(a.file, binary); err != nil {
		return fmt.Errorf("keeping the module: %w", err)
	}
	return nil
}

// A kept is a line of the list: a Spec, and the checksum of the bytes.
type kept struct {
	Spec
	Sum string
}

// save writes the list. r.mu must be held.
func (r *Registry) save() error {
	if r.dir == "" {
		return nil
	}
	var l []kept
	for _, a := range r.Set().All {
		if a.file != "" {
			l = append(l, kept{a.Spec, a.Sum})
		}
	}
	b, err := json.MarshalIndent(l, "", "  ")
	if err == nil {
		err = writeFile(filepath.Join(r.dir, stateFile), b)
	}
	if err != nil {
		return fmt.Errorf("keeping the list of modules: %w", err)
	}
	return nil
}

// writeFile writes a file as a whole, or not at all.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Restore brings back the modules that were there at the last stop. What cannot
// be brought back is reported; the others are there all the same.
func (r *Registry) Restore(ctx context.Context) error {
	if r.dir == "" {
		return nil
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("making the directory for modules: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(r.dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var l []kept
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		return fmt.Errorf("reading the list of modules: %w", err)
	}
	var errs []error
	for _, k := range l {
		if err := r.restore(ctx, k); err != nil {
			errs = append(errs, fmt.Errorf("module %.64q: %w", k.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Registry) restore(ctx context.Context, k kept) error {
	b, err := os.ReadFile(filepath.Join(r.dir, filepath.Base(k.Sum)+".wasm"))
	if err != nil {
		return err
	}
	if got := Sum(b); got != k.Sum {
		return fmt.Errorf("its file has SHA-256 %s, want %s", got, k.Sum)
	}
	_, err = r.Add(ctx, k.Spec, b)
	return err
}
