package wasm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

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
	Tenants    []string  // likewise
	MaxBody    int64     // bytes of the largest body that it is given; 0 for 10 MiB
	Settings   Settings  // how it is run
	FromConfig bool      // the configuration names it, so it is not kept for the next start
	Created    time.Time // when it was first registered; zero stands for the present moment
	ID         uuid.UUID // zero for a new one
}

// DefaultMaxBody is the largest body that a module is given unless its Spec says
// otherwise: the contract's.
const DefaultMaxBody = 10 << 20

// maxName bounds a module's name and each of what it is for, of which there are at
// most maxFilter; maxConfig bounds what it is given as its configuration.
const (
	maxName   = 256
	maxFilter = 256
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
	Nanos         atomic.Uint64 // that calls took in all
	MaxNanos      atomic.Uint64
	Last          atomic.Int64 // when it was last called, Unix nanoseconds; 0 for never
}

// Count notes a call.
func (c *Counts) Count(now time.Time, took time.Duration, err error) {
	ns := uint64(max(took, 0))
	c.Calls.Add(1)
	c.Nanos.Add(ns)
	c.Last.Store(now.UnixNano())
	for m := c.MaxNanos.Load(); ns > m && !c.MaxNanos.CompareAndSwap(m, ns); m = c.MaxNanos.Load() {
	}
	if err != nil {
		c.Failed.Add(1)
	}
}

// A Set is the modules that are called now, in order. It is not written to.
type Set struct {
	All []*Attached           // also those that are disabled
	By  [NumHooks][]*Attached // that are called at a hook

	// Gone is what was counted of modules that were removed, whose last calls may
	// still run. There are not many: the first stands for all that are older.
	Gone []*Counts
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

// Wants reports whether s is for requests of a path, a model and a tenant, which
// is "" of a request that is nobody's.
func (s *Spec) Wants(path, model, tenant string) bool {
	return s.WantsSome(path, tenant) && wants(s.Models, model)
}

// WantsSome reports whether s is for requests of a path and a tenant, of some
// model.
func (s *Spec) WantsSome(path, tenant string) bool {
	return wants(s.Paths, path) && s.WantsTenant(tenant)
}

// WantsTenant reports whether s is for some requests of a tenant.
func (s *Spec) WantsTenant(tenant string) bool { return wants(s.Tenants, tenant) }

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

// A ConflictError says that another change of modules came in between. Tried again
// this one may be made.
type ConflictError struct{ what string }

func (e *ConflictError) Error() string { return e.what + "; try again" }

// ErrUnknown says that no module has the ID.
var ErrUnknown = errors.New("no such module")

// maxModules bounds how many modules there may be at once.
const maxModules = 256

// A Registry keeps the modules. Its methods may be called by any goroutine.
type Registry struct {
	engine  *Engine
	dir     string // where modules are kept for the next start; "" for nowhere
	log     *slog.Logger
	tenants []string // that requests can be of, "" for nobody's; nil for any. Constant once there are modules
	set     atomic.Pointer[Set]

	mu       sync.Mutex     // guards changes of set, and the file
	sums     map[string]int // components that are being compiled or are there; guarded by mu
	watchers []func(*Set)   // guarded by mu
	gone     []*Counts      // of the next Set; guarded by mu, itself not written to
	named    []naming       // what the configuration has; guarded by mu
	aside    []kept         // that are kept and not there: the configuration has them in their place; guarded by mu
	closed   bool           // guarded by mu
}

// A naming is a module as the configuration has it: it has its name and its bytes
// alone, because at a start nothing is loaded beside it that has one of them.
type naming struct{ name, sum string }

// NewRegistry returns a Registry without modules. dir is where it keeps them for
// the next start, "" for nowhere; Restore brings them back.
func NewRegistry(e *Engine, dir string, log *slog.Logger) *Registry {
	r := &Registry{engine: e, dir: dir, log: log, sums: make(map[string]int)}
	r.set.Store(new(Set))
	return r
}

// OnlyTenants says that a request is of one of these tenants or nobody's, so that
// modules are refused that are for none of them. Otherwise anybody may be one. It
// must be called before there are modules.
func (r *Registry) OnlyTenants(names []string) { r.tenants = append([]string{""}, names...) }

// checkTenants holds that s is for requests that there can be.
func (r *Registry) checkTenants(s *Spec) error {
	if r.tenants == nil || slices.ContainsFunc(r.tenants, s.WantsTenant) {
		return nil
	}
	return fmt.Errorf("it is for the tenants %q, and no request can be of these: the gateway has no keys of theirs, and trusts no header that names tenants", s.Tenants)
}

// Set returns the modules that there are now.
func (r *Registry) Set() *Set { return r.set.Load() }

// Watch calls f with the modules that there are, now and whenever that has
// changed. f must not block, nor call r.
func (r *Registry) Watch(f func(*Set)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers = append(r.watchers, f)
	f(r.Set())
}

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
// during which requests are not disturbed. If it fails there is no such module.
func (r *Registry) Add(ctx context.Context, s Spec, binary []byte) (*Attached, error) {
	if err := s.checkName(); err != nil {
		return nil, err
	}
	a, err := r.add(ctx, s, binary, false)
	if err == nil && !s.FromConfig { // what is there from the start is told there
		r.tellAdded(a)
	}
	return a, err
}

// add is Add; of a module that is restored nothing has to be written.
func (r *Registry) add(ctx context.Context, s Spec, binary []byte, restored bool) (*Attached, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	switch err := r.checkTenants(&s); {
	case err == nil:
	case !restored:
		return nil, err
	default: // it was right once; a start that fails would be worse than a module that has nothing to do
		r.log.Warn("a module is never called", "module", s.Name, "because", err)
	}
	sum := Sum(binary)
	if err := r.reserve(sum, s.FromConfig); err != nil {
		return nil, err
	}
	a, err := r.load(ctx, s, binary, sum)
	if err != nil {
		r.unreserve(sum)
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := append(slices.Clone(r.Set().All), a)
	switch {
	case r.closed:
		err = errClosed
	case restored:
		a.file = r.fileOf(sum)
	case !s.FromConfig && r.isNamed(s.Name):
		err = errNamed(s.Name)
	case s.FromConfig: // it is not kept, and the list may not have been read yet
		r.named = append(r.named, naming{s.Name, sum})
	default:
		if err = r.keep(a, binary); err == nil {
			err = r.save(all)
		}
	}
	if err != nil {
		r.takeBack(a, err)
		r.drop(sum)
		a.Module.Close()
		return nil, err
	}
	r.publish(all)
	return a, nil
}

// isNamed reports whether the configuration has a module of that name. r.mu must
// be held.
func (r *Registry) isNamed(name string) bool {
	return slices.ContainsFunc(r.named, func(n naming) bool { return n.name == name })
}

// errNamed is why a module may not have a name: the next start would set it aside.
func errNamed(name string) error {
	return fmt.Errorf("the configuration has a module called %.100q, and what it names it has alone; take another name, or give that one other bytes by PUT", name)
}

var errClosed = errors.New("the gateway is stopping")

// check holds what a Spec must be.
func (s *Spec) check() error {
	switch {
	case strings.TrimSpace(s.Name) == "":
		return errors.New("a module needs a name")
	case len(s.Name) > maxName:
		return fmt.Errorf("a name of %d bytes; at most %d are allowed", len(s.Name), maxName)
	}
	if err := s.checkBounds(); err != nil {
		return err
	}
	for _, p := range s.Paths {
		if p != "*" && !strings.HasPrefix(p, "/") {
			return fmt.Errorf("a path %.100q, which no request has; want one that begins with /, or *", p)
		}
	}
	if err := checkFilter("paths", s.Paths); err != nil {
		return err
	}
	if err := checkFilter("models", s.Models); err != nil {
		return err
	}
	if err := checkFilter("tenants", s.Tenants); err != nil {
		return err
	}
	return s.Settings.check()
}

// checkName holds that a name can be a metric's label and be shown anywhere. It is
// asked of new names only: a start must not fail for one that was let in before.
func (s *Spec) checkName() error {
	if !utf8.ValidString(s.Name) || strings.ContainsFunc(s.Name, unicode.IsControl) {
		return fmt.Errorf("the name %.100q has a control character, or is not UTF-8", s.Name)
	}
	return nil
}

// checkFilter holds that a list of what a module is for can be met: a module that
// is never called, because of a slip, guards nothing.
func checkFilter(name string, list []string) error {
	if len(list) > maxFilter {
		return fmt.Errorf("%d %s; at most %d are allowed", len(list), name, maxFilter)
	}
	for _, p := range list {
		switch i := strings.IndexByte(p, '*'); {
		case p == "" || len(p) > maxName:
			return fmt.Errorf("%s has one of %d bytes; want 1 to %d", name, len(p), maxName)
		case i >= 0 && i < len(p)-1:
			return fmt.Errorf("%s has %.100q; a * stands at the end", name, p)
		}
	}
	return nil
}

// bounds are of the limits that an operator may set, as they are called there: the
// contract's, but for the last.
var bounds = map[string]struct{ least, most int64 }{
	"max_memory_pages":      {1, 1 << 16},
	"max_stack_size":        {64 << 10, 16 << 20},
	"max_execution_time_ms": {1, 300_000},
	"max_body_size":         {1, 100 << 20},
	"max_instances":         {1, 4096},
}

// CheckBound holds that a limit that an operator has set is within its bounds. 0
// is not, also of those that have a default that 0 stands for in a Spec.
func CheckBound(key string, n int64) error {
	b, known := bounds[key]
	switch {
	case !known:
		return fmt.Errorf("unknown setting %.64q", key)
	case n < b.least || n > b.most:
		return fmt.Errorf("%s is %d; want %d to %d", key, n, b.least, b.most)
	}
	return nil
}

// checkBounds holds that limits are within their bounds.
func (s *Spec) checkBounds() error {
	set := &s.Settings
	err := cmp.Or(
		CheckBound("max_memory_pages", int64(set.Limits.MemoryPages)),
		CheckBound("max_stack_size", int64(set.Limits.Stack)),
		CheckBound("max_execution_time_ms", set.Time.Milliseconds()),
	)
	if err == nil && s.MaxBody != 0 {
		err = CheckBound("max_body_size", s.MaxBody)
	}
	if err == nil && set.Instances != 0 {
		err = CheckBound("max_instances", int64(set.Instances))
	}
	return err
}

// check holds what is no limit.
func (s *Settings) check() error {
	switch {
	case len(s.Config) > maxConfig:
		return fmt.Errorf("a configuration of %d bytes; at most %d are allowed", len(s.Config), maxConfig)
	case !utf8.ValidString(s.Config):
		return errors.New("a configuration that is not UTF-8")
	}
	switch s.Isolation {
	case "", Snapshot, Fresh, Shared:
		return nil
	}
	return fmt.Errorf("unknown isolation %.64q; want snapshot, fresh or shared", s.Isolation)
}

// reserve claims a component, so that it is compiled once however many ask. Unless
// it is to be the configuration's, it must not be one that a start would load
// something else instead of.
func (r *Registry) reserve(sum string, fromConfig bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.Set().All {
		if a.Sum == sum {
			return &ExistsError{ID: a.ID, Sum: sum}
		}
	}
	if !fromConfig {
		if err := r.spokenFor(sum); err != nil {
			return err
		}
	}
	if r.sums[sum] > 0 {
		return &ConflictError{fmt.Sprintf("the component with SHA-256 %s is just being registered", sum)}
	}
	if len(r.sums) >= maxModules {
		return fmt.Errorf("there are %d modules, which is as many as there may be", maxModules)
	}
	r.sums[sum]++
	return nil
}

// spokenFor is why a component cannot be kept for the next start, nil if it can.
// r.mu must be held.
func (r *Registry) spokenFor(sum string) error {
	for _, n := range r.named {
		if n.sum == sum {
			return fmt.Errorf("the configuration has the component with SHA-256 %s, as %.100q, and what it has nobody else may: the next start would not load this one; take it out of the configuration first, or change the module there", sum, n.name)
		}
	}
	for _, k := range r.aside {
		if k.Sum == sum {
			return fmt.Errorf("the component with SHA-256 %s was registered before, as %.100q, which stands aside for what the configuration has; DELETE %s first, if it is not wanted any more", sum, k.Name, k.ID)
		}
	}
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
	if err := s.fits(m); err != nil {
		m.Close()
		return nil, err
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

// fits holds that m has the hooks that s attaches it to.
func (s *Spec) fits(m *Module) error {
	for _, h := range s.Attach {
		if !m.Has(h) && h != OnError { // the contract takes OnError of modules that cannot have it
			return fmt.Errorf("it is to be attached to %s, which it does not export", h)
		}
	}
	if m.Whole() && len(s.Attach) > 0 && !slices.Contains(s.Attach, OnRequest) {
		return fmt.Errorf("it is to be attached to %v and not to %s, without which an http-wasm module sees no answer", s.Attach, OnRequest)
	}
	return nil
}

// publish makes all the modules that there are. r.mu must be held.
func (r *Registry) publish(all []*Attached) {
	slices.SortStableFunc(all, func(a, b *Attached) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), a.Created.Compare(b.Created))
	})
	s := &Set{All: all, Gone: r.gone}
	for _, a := range all {
		for h := range NumHooks {
			if !a.Disabled && a.Attaches(h) {
				s.By[h] = append(s.By[h], a)
			}
		}
	}
	r.set.Store(s)
	for _, f := range r.watchers {
		f(s)
	}
}

// Remove takes a module away. Calls that it has end in peace. If the list for the
// next start cannot be written, the module stays.
func (r *Registry) Remove(id uuid.UUID) error {
	a, err := r.remove(id)
	if err == nil {
		r.tellRemoved(a)
	}
	return err
}

// forgetAside takes away a module that stands aside for the configuration's. It
// returns nil if there is none with the ID. r.mu must be held.
func (r *Registry) forgetAside(id uuid.UUID) (*Attached, error) {
	i := slices.IndexFunc(r.aside, func(k kept) bool { return k.ID == id })
	if i < 0 {
		return nil, nil
	}
	before := r.aside
	r.aside = slices.Delete(slices.Clone(before), i, i+1)
	if err := r.save(r.Set().All); err != nil {
		r.aside = before
		return nil, r.unsaved(err)
	}
	a := &Attached{Spec: before[i].Spec, Sum: before[i].Sum, file: r.fileOf(before[i].Sum)}
	r.unkeep(a)
	return a, nil
}

func (r *Registry) remove(id uuid.UUID) (*Attached, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.Find(id)
	if a == nil {
		a, err := r.forgetAside(id)
		if a == nil && err == nil {
			err = ErrUnknown
		}
		return a, err
	}
	all := slices.DeleteFunc(slices.Clone(r.Set().All), func(x *Attached) bool { return x == a })
	before := r.gone
	r.gone = remember(before, a.Counts)
	if err := r.change(all); err != nil {
		r.gone = before
		return nil, err
	}
	r.drop(a.Sum)
	a.Module.Close()
	r.unkeep(a)
	return a, nil
}

// remember returns gone with c at its end. It is not longer than maxModules: the
// first two are made one, whose calls are long over.
func remember(gone []*Counts, c *Counts) []*Counts {
	if len(gone) < maxModules {
		return append(slices.Clone(gone), c)
	}
	a, b := gone[0], gone[1]
	sum := new(Counts)
	sum.Calls.Store(a.Calls.Load() + b.Calls.Load())
	sum.Failed.Store(a.Failed.Load() + b.Failed.Load())
	sum.Nanos.Store(a.Nanos.Load() + b.Nanos.Load())
	sum.MaxNanos.Store(max(a.MaxNanos.Load(), b.MaxNanos.Load()))
	return append(append([]*Counts{sum}, gone[2:]...), c)
}

// Update changes how a module is attached, and what it is if binary is not nil:
// the new one serves before the old one ends. If it fails all is as before.
func (r *Registry) Update(ctx context.Context, id uuid.UUID, change func(*Spec), binary []byte) (*Attached, error) {
	var old, next *Attached
	var err error
	if binary == nil {
		old, next, err = r.modify(id, change)
	} else {
		old, next, err = r.renew(ctx, id, change, binary)
	}
	if err != nil {
		return nil, err
	}
	r.tellChanged(old, next)
	return next, nil
}

// modify is Update without new bytes.
func (r *Registry) modify(id uuid.UUID, change func(*Spec)) (old, next *Attached, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old = r.Find(id); old == nil {
		return nil, nil, ErrUnknown
	}
	s, err := old.changed(change)
	if err == nil && !slices.Equal(s.Tenants, old.Tenants) {
		err = r.checkTenants(&s)
	}
	if err == nil {
		err = r.checkRenamed(old, &s)
	}
	switch {
	case err != nil:
		return nil, nil, err
	case s.Settings != old.Settings:
		return nil, nil, errors.New("limits and isolation are changed together with the component's bytes")
	}
	if err := s.fits(old.Module); err != nil {
		return nil, nil, err
	}
	another := *old
	another.Spec = s
	return old, &another, r.replace(old, &another)
}

// checkRenamed holds that no module takes a name of one that the configuration
// names. r.mu must be held.
func (r *Registry) checkRenamed(a *Attached, s *Spec) error {
	if s.Name != a.Name && !a.FromConfig && r.isNamed(s.Name) {
		return errNamed(s.Name)
	}
	return nil
}

// changed returns a's Spec after a change.
func (a *Attached) changed(change func(*Spec)) (Spec, error) {
	s := a.Spec
	change(&s)
	s.ID, s.Created, s.FromConfig = a.ID, a.Created, a.FromConfig
	if s.Name != a.Name {
		if err := s.checkName(); err != nil {
			return s, err
		}
	}
	return s, s.check()
}

// renew is Update with new bytes.
func (r *Registry) renew(ctx context.Context, id uuid.UUID, change func(*Spec), binary []byte) (old, next *Attached, err error) {
	if old = r.Find(id); old == nil {
		return nil, nil, ErrUnknown
	}
	s, err := old.changed(change)
	if err == nil && !slices.Equal(s.Tenants, old.Tenants) {
		err = r.checkTenants(&s)
	}
	if err != nil {
		return nil, nil, err
	}
	sum := Sum(binary)
	another := sum != old.Sum
	if another {
		if err := r.reserve(sum, old.FromConfig); err != nil {
			return nil, nil, err
		}
	}
	if next, err = r.load(ctx, s, binary, sum); err != nil {
		if another {
			r.unreserve(sum)
		}
		return nil, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch now := r.Find(id); {
	case r.closed:
		err = errClosed
	case now == nil:
		err = ErrUnknown
	case now.Sum != old.Sum || now.Settings != old.Settings:
		err = &ConflictError{fmt.Sprintf("the module %s was given other bytes or limits meanwhile", id)}
	default:
		old = now
		if next.Spec, err = now.changed(change); err == nil { // how it is attached may have changed meanwhile
			next.Settings, next.Counts, next.Store = s.Settings, now.Counts, now.Store
			next.Module.follow(now.Module)
			if err = cmp.Or(next.fits(next.Module), r.checkRenamed(now, &next.Spec)); err == nil {
				err = r.keep(next, binary)
			}
		}
	}
	if err == nil {
		if err = r.replace(old, next); err != nil && another {
			r.takeBack(next, err)
		}
	}
	if err != nil {
		if another {
			r.drop(sum)
		}
		next.Module.Close()
		return nil, nil, err
	}
	if another {
		r.drop(old.Sum)
		r.unkeep(old)
	}
	old.Module.Close()
	return old, next, nil
}

// replace puts next in old's place. r.mu must be held.
func (r *Registry) replace(old, next *Attached) error {
	all := slices.Clone(r.Set().All)
	all[slices.Index(all, old)] = next
	return r.change(all)
}

// change makes all the modules that there are, now and at the next start. If it
// fails all is as before. r.mu must be held.
func (r *Registry) change(all []*Attached) error {
	if err := r.save(all); err != nil {
		return r.unsaved(err)
	}
	r.publish(all)
	return nil
}

// unsaved sees to it that the list is that of the modules that there are, after
// one that was to be could not be saved for err, which it returns. The new one is
// in place all the same if only the wait for the disk has failed, and a module that
// the next start does not have may guard a door. r.mu must be held.
func (r *Registry) unsaved(err error) error {
	if _, placed := errors.AsType[*placedError](err); !placed {
		return err
	}
	if again := r.save(r.Set().All); again != nil {
		r.log.Error("it is not certain that the next start has the modules that there are now", "directory", r.dir, "err", again)
	}
	return err
}

// Close ends all modules once the calls that they have are over.
func (r *Registry) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.Set().All
	r.closed = true
	r.publish(nil)
	for _, a := range all {
		a.Module.Close()
	}
}
