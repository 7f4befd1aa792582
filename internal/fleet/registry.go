package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"sluice/internal/kit/breaker"
	"sluice/internal/kit/jobs"
	"sluice/internal/kit/secret"
)

// ErrUnknown says that no worker has the ID.
var ErrUnknown = errors.New("no such worker")

// An ExistsError says that the URL is registered already.
type ExistsError struct {
	ID  ID
	URL string
}

// Error has the contract's words, which clients of its API know.
func (e *ExistsError) Error() string {
	return fmt.Sprintf("Worker already exists at URL '%s' with ID %s.", e.URL, e.ID)
}

// A Snapshot is the fleet at one moment. It is never written to after it is
// published; readers may keep it as long as they like.
type Snapshot struct {
	Epoch uint64
	Ready []*Worker // selectable: Ready, and the breaker lets requests pass; in the order of Worker.Compare
	All   []*Worker // in the same order
}

// Events are calls that the Registry makes as things happen; each may be nil.
// They must not block and must not call the Registry. None is on a request's
// path: what requests count is read from the Worker.
type Events struct {
	OnProbe   func(w *Worker, ok bool)         // a health check has ended
	OnStatus  func(w *Worker, from, to Status) // also when it begins to drain
	OnBreaker func(w *Worker, from, to breaker.State)
	OnReadmit func(w *Worker)                // it passed its checks again, which closed its breaker early
	OnVeto    func(w *Worker, from, to Veto) // may be called by several goroutines at once
	OnForget  func(w *Worker)                // it is gone from the Registry
}

// Options are a Registry's collaborators.
type Options struct {
	Transport http.RoundTripper   // for checks and discovery; nil for the Registry's own
	Self      func(*url.URL) bool // reports that a URL is this gateway's; nil for never
	Log       *slog.Logger        // nil for none
	Events    Events
}

// A Patch is what Update changes; nil fields stay.
type Patch struct {
	Priority *int              `json:"priority,omitempty"`
	Cost     *float64          `json:"cost,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"` // added to those there are; an empty value removes one
	APIKey   *secret.String    `json:"api_key,omitempty"`
	Health   *HealthSpec       `json:"health,omitempty"`
}

// A Registry keeps the fleet: it asks the workers how they are, finds out what
// they serve, and publishes who can be chosen. Its methods may be called by
// any goroutine.
type Registry struct {
	cfg     Config         // constant
	checks  HealthConfig   // constant
	breaker breaker.Config // constant
	opt     Options        // constant
	log     *slog.Logger   // constant
	client  *http.Client   // constant
	jobs    *jobs.Queue    // constant
	stale   time.Duration  // constant; the age from which a load report is not believed

	snap     atomic.Pointer[Snapshot] // never nil
	wake     chan struct{}            // tells Run to look; holds at most one word
	dirty    atomic.Bool              // the Snapshot may be out of date
	suspects chan *Worker             // whose suspect was set
	crowded  atomic.Bool              // there were more than fit into suspects
	vetoes   atomic.Bool              // a Veto is newer than the Snapshot

	mu      sync.Mutex
	byID    map[ID]*Worker     // guarded by mu
	byURL   map[string]*Worker // guarded by mu; by Root, one of the ranks if there are several
	all     []*Worker          // guarded by mu; in the order of Worker.Compare, replaced when it changes
	slots   slots              // guarded by mu; of the workers in byID
	watch   []func(*Snapshot)  // guarded by mu; called with mu held, in order
	changed bool               // guarded by mu; some Info is newer than the Snapshot
	queue   schedule           // guarded by mu; who is asked when
	hung    schedule           // guarded by mu; likewise, those that let the last check time out
	urgent  schedule           // guarded by mu; suspects, and those whose drain time ends
	doubts  []*Worker          // guarded by mu; those to which a connection has failed, since health.doubted
	probing int                // guarded by mu; checks that are out
	joining int                // guarded by mu; workers added while running that have not joined
	running bool               // guarded by mu; Run has begun
	shown   time.Time          // guarded by mu; when it was last looked whether the Snapshot is out of date
	rest    time.Time          // guarded by mu; when the next breaker's rest ends, zero for none
	lines   []slog.Record      // guarded by mu; to be written when mu is free, at most maxLines
	unsaid  int                // guarded by mu; lines that did not fit
}

// New returns an empty Registry. The settings must be valid. Nothing is asked
// before Run.
func New(cfg Config, checks HealthConfig, br breaker.Config, opt Options) *Registry {
	r := &Registry{
		cfg: cfg, checks: checks, breaker: br, opt: opt, log: opt.Log,
		jobs: jobs.New(cfg.JobCapacity, cfg.JobConcurrency), wake: make(chan struct{}, 1), suspects: make(chan *Worker, maxSuspects),
		byID: make(map[ID]*Worker), byURL: make(map[string]*Worker),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.stale = max(cfg.Stale, cfg.LoadInterval+cfg.LoadInterval/2)
	r.client = newClient(opt.Transport)
	r.snap.Store(&Snapshot{})
	return r
}

// Snapshot returns the fleet as it is now.
func (r *Registry) Snapshot() *Snapshot { return r.snap.Load() }

// Watch calls f with the present Snapshot and with each that follows, in
// order. f must not block and must not call r.
func (r *Registry) Watch(f func(*Snapshot)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watch = append(r.watch, f)
	f(r.snap.Load())
}

// Get returns the worker of that ID.
func (r *Registry) Get(id ID) (*Worker, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.byID[id]
	return w, ok
}

// Add registers a worker. It is asked and joins in the background; its Status
// is Pending until then. Errors: *FieldError (perhaps several, joined),
// *ExistsError, jobs.ErrFull if too many are joining or there are too many.
//
// A worker that drains at the same URL is forgotten at once to make room.
func (r *Registry) Add(spec Spec) (ID, error) {
	if err := spec.Validate(); err != nil {
		return "", err
	}
	u, err := ParseURL(spec.URL, false)
	if err != nil {
		return "", err
	}
	if r.opt.Self != nil && r.opt.Self(u) {
		return "", &FieldError{Field: "worker_url", Value: printable(spec.URL), Want: "URL must not be the gateway's own"}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("making an ID for worker %s: %w", u, err)
	}
	w := r.newWorker(ID(id.String()), u, wholeEngine, spec)

	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.byURL[w.root]; old != nil {
		if old.Status() != Draining {
			return "", &ExistsError{ID: old.id, URL: old.root}
		}
		for _, o := range r.groupLocked(old) {
			r.forgetLocked(o)
		}
	}
	if r.running && r.joining >= r.cfg.JobCapacity || len(r.byID) >= maxWorkers {
		return "", jobs.ErrFull
	}
	r.byURL[w.root] = w
	r.enterLocked(w)
	r.beginLocked(w, spec.clone(), time.Now())
	if why := r.Idle(spec); why != "" {
		r.sayLocked(slog.LevelWarn, "a field of a worker has no effect", "worker", w.base, "why", why)
	}
	r.touchLocked()
	return w.id, nil
}

// Idle returns a sentence about what of spec changes nothing because of r's
// settings, "" for nothing.
func (r *Registry) Idle(spec Spec) string {
	if r.cfg.DPAware {
		return ""
	}
	switch {
	case spec.DPSize != nil:
		return "dp_size does nothing without --dp-aware"
	case spec.Labels[labelRanks] != "":
		return "the label dp_size does nothing without --dp-aware"
	}
	return ""
}

// newWorker makes a worker that nobody knows yet.
func (r *Registry) newWorker(id ID, u *url.URL, rank int, spec Spec) *Worker {
	w := &Worker{id: id, from: id, url: u, root: u.String(), rank: rank, reg: r, meter: new(Meter)}
	w.base = w.root
	if rank != wholeEngine {
		w.base += "@" + strconv.Itoa(rank)
	}
	w.br = breaker.New(spec.breaker(r.breaker))
	w.br.Notify(func(from, to breaker.State) { r.turned(w, from, to) })
	return w
}

// enterLocked puts w into r. r.mu must be held.
func (r *Registry) enterLocked(w *Worker) {
	w.slot = r.slots.take()
	r.byID[w.id] = w
	at, _ := slices.BinarySearchFunc(r.all, w, (*Worker).Compare)
	r.all = slices.Insert(slices.Clip(r.all), at, w)
}

// Replace gives the worker, and the other ranks of its engine, another Spec of
// the same URL. Its status and its
// running requests stay; what it serves is found out anew. Errors: ErrUnknown,
// *FieldError.
func (r *Registry) Replace(id ID, spec Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	u, err := ParseURL(spec.URL, false)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.byID[id]
	if w == nil || w.Status() == Draining {
		return ErrUnknown
	}
	if u.String() != w.root {
		return &FieldError{Field: "url", Value: printable(spec.URL), Want: "URL must be the worker's own, " + w.root}
	}
	for _, o := range r.groupLocked(w) {
		o.br.Configure(spec.breaker(r.breaker))
		r.respecLocked(o, spec.clone(), time.Now())
	}
	r.touchLocked()
	return nil
}

// Update changes some of what the worker, and the other ranks of its engine, were
// registered with. Errors:
// ErrUnknown, *FieldError.
func (r *Registry) Update(id ID, p Patch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.byID[id]
	if w == nil || w.Status() == Draining {
		return ErrUnknown
	}
	spec := w.health.spec.clone()
	if p.Priority != nil {
		spec.Priority = p.Priority
	}
	if p.Cost != nil {
		spec.Cost = p.Cost
	}
	set(&spec.APIKey, p.APIKey)
	spec.Labels = mergeLabels(spec.Labels, p.Labels)
	spec.Health = spec.Health.merge(p.Health)
	if err := spec.Validate(); err != nil {
		return err
	}
	for _, o := range r.groupLocked(w) {
		r.amendLocked(o, spec.clone(), time.Now())
	}
	r.touchLocked()
	return nil
}

// Remove makes the worker, and the other ranks of its engine, drain: it takes no more requests, and after the
// drain time it is forgotten. Its running requests are never cut. A worker
// that is not ready is forgotten at once. Errors: ErrUnknown.
func (r *Registry) Remove(id ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.byID[id]
	switch {
	case w == nil:
		return ErrUnknown
	case w.Status() == Draining:
		return nil
	}
	for _, o := range r.groupLocked(w) {
		if o.Status() == Ready && o.health.settle > 0 && r.running {
			r.drainLocked(o, time.Now())
		} else {
			r.forgetLocked(o)
		}
	}
	r.touchLocked()
	return nil
}

// forgetLocked takes w out of the Registry. r.mu must be held.
func (r *Registry) forgetLocked(w *Worker) {
	delete(r.byID, w.id)
	r.slots.give(w.slot)
	all := slices.Clone(r.all)
	r.all = slices.DeleteFunc(all, func(o *Worker) bool { return o == w })
	if r.byURL[w.root] == w {
		delete(r.byURL, w.root)
		for _, o := range r.groupLocked(w) {
			r.byURL[w.root] = o
		}
	}
	r.endLocked(w)
	r.jobs.Cancel(w.base)
	if w.Status() != Draining { // those who still hold w must see that it takes nothing
		r.turnLocked(w, Draining, time.Now())
	}
	if f := r.opt.Events.OnForget; f != nil {
		f(w)
	}
}

// turned hears that w's breaker changed. It is called with the breaker's lock
// held, perhaps by a request, so it only leaves word.
func (r *Registry) turned(w *Worker, from, to breaker.State) {
	r.dirty.Store(true)
	r.wakeUp()
	if f := r.opt.Events.OnBreaker; f != nil {
		f(w, from, to)
	}
}

// touchLocked notes that the membership or an Info changed. Before Run it is
// published at once; afterwards Run does it. r.mu must be held.
func (r *Registry) touchLocked() {
	r.changed = true
	if r.running {
		r.dirty.Store(true)
		r.wakeUp()
		return
	}
	r.publishLocked(time.Now())
}

// publishLocked replaces the Snapshot if it is out of date. r.mu must be held.
func (r *Registry) publishLocked(now time.Time) {
	r.dirty.Store(false) // before looking: what changes from here on is seen next time
	r.rest, r.shown = time.Time{}, now
	vetoes := r.vetoes.Swap(false)
	old := r.snap.Load()
	ready := make([]*Worker, 0, len(old.Ready)+1)
	for _, w := range r.all {
		if w.Status() != Ready {
			continue
		}
		if end, open := w.br.RestEnds(); open && now.Before(end) {
			if r.rest.IsZero() || end.Before(r.rest) {
				r.rest = end
			}
			continue
		}
		ready = append(ready, w)
	}
	if !r.changed && !vetoes && slices.Equal(old.Ready, ready) {
		return
	}
	r.changed = false
	s := &Snapshot{Epoch: old.Epoch + 1, Ready: ready, All: r.all}
	r.snap.Store(s)
	for _, f := range r.watch {
		f(s)
	}
}

func (r *Registry) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// sayLocked keeps a log line until r.mu is free: whoever reads the log may be
// slow, and all of the Registry would wait with it. r.mu must be held.
func (r *Registry) sayLocked(level slog.Level, msg string, args ...any) {
	if len(r.lines) >= maxLines {
		r.unsaid++
		return
	}
	line := slog.NewRecord(time.Now(), level, msg, 0)
	line.Add(args...)
	r.lines = append(r.lines, line)
}

// say writes the lines that were kept. Only Run's goroutine calls it, so they
// stay in order.
func (r *Registry) say(ctx context.Context) {
	r.mu.Lock()
	lines, unsaid := r.lines, r.unsaid
	r.lines, r.unsaid = nil, 0
	r.mu.Unlock()
	for _, l := range lines {
		if h := r.log.Handler(); h.Enabled(ctx, l.Level) {
			_ = h.Handle(ctx, l) // as slog.Logger does
		}
	}
	if unsaid > 0 {
		r.log.Warn("lines about workers were left out: there were too many", "lines", unsaid)
	}
}

// Run asks the workers until ctx is done. All goroutines that r starts end
// before it returns. It may be called once.
func (r *Registry) Run(ctx context.Context) error {
	r.mu.Lock()
	r.running = true
	r.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.jobs.Run(ctx) }) // never fails
	if r.cfg.EngineMetrics || !r.cfg.NoLoads {
		wg.Go(func() { r.watchLoads(ctx) })
	}
	r.loop(ctx)
	wg.Wait()
	r.say(context.WithoutCancel(ctx))
	r.client.CloseIdleConnections()
	return nil
}
