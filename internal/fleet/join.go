package fleet

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"time"

	"sluice/internal/kit/secret"
)

// joinLocked starts the job that finds out what w serves. r.mu must be held.
func (r *Registry) joinLocked(w *Worker, kind string, now time.Time) {
	h := &w.health
	revision := h.revision
	err := r.jobs.Submit(w.base, kind, func(ctx context.Context) error { return r.join(ctx, w, revision) })
	if err != nil { // the queue is full: try again at the next check
		h.joinDue = now.Add(firstPause)
		if h.cfg.Disabled {
			r.queue.set(w, h.joinDue)
		}
		return
	}
	h.joining = true
}

// join finds out what w serves and publishes it. If w does not tell, and its
// spec does not either, it is asked again after a pause.
func (r *Registry) join(ctx context.Context, w *Worker, revision int) error {
	f, err := r.discover(ctx, w, r.timeoutOf(w))

	r.mu.Lock()
	defer r.mu.Unlock()
	h := &w.health
	now := time.Now()
	if h.revision != revision || ctx.Err() != nil {
		return nil // replaced, removed or away in between, or the end
	}
	h.joining = false
	if err != nil {
		level := slog.LevelWarn
		if h.joinPause > 0 { // it was said
			level = slog.LevelDebug
		}
		r.sayLocked(level, "worker did not tell what it serves", "worker", w.base, "err", err)
		if !h.named() {
			r.joinLaterLocked(w, now)
			return err
		}
		f = h.found
	}
	r.toldStartLocked(w, f)
	h.known, h.found, h.joinPause = true, f, 0
	w.source.Store(unknownSource)
	w.info.Store(newInfo(h.spec, r.cfg.Backend, f))
	if r.expandLocked(w, now) {
		return nil // others stand for it
	}
	if r.settleLocked(w, now) && !h.asking {
		r.queue.set(w, now.Add(jitter(h.cfg.Interval)))
	}
	r.touchLocked()
	return nil
}

// refreshLocked starts the job that finds out whether w, which is ready, serves
// other models than it did: an engine can load one while it runs; and whether it
// was started anew. Of one whose spec says what it serves only that is asked, if it
// tells. If too much
// is going on, the next routine check tries again. r.mu must be held.
func (r *Registry) refreshLocked(w *Worker) {
	h := &w.health
	named := h.named()
	if h.joining || h.found == nil || named && !h.found.tellsStart() {
		return
	}
	key := w.base + " models" // not w's own: it is nothing to tell the operator of
	if _, busy := r.jobs.Status(key); busy {
		return
	}
	revision, old, timeout := h.revision, h.found, h.cfg.Timeout
	_ = r.jobs.Submit(key, "RefreshModels", func(ctx context.Context) error {
		f, err := r.rediscover(ctx, w, old, named, timeout)
		if err != nil {
			r.log.Debug("models not refreshed", "worker", w.base, "err", err)
			return nil // w stays as it was
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if h.revision != revision || h.found != old {
			return nil
		}
		r.toldStartLocked(w, f)
		if reflect.DeepEqual(f.models, old.models) {
			h.found = f
			return nil
		}
		h.found = f
		w.info.Store(newInfo(h.spec, r.cfg.Backend, f))
		r.sayLocked(slog.LevelInfo, "worker serves other models", "worker", w.base, "models", len(f.models), "were", len(old.models))
		r.touchLocked()
		return nil
	})
}

// joinLaterLocked says when w is asked again what it serves. r.mu must be held.
func (r *Registry) joinLaterLocked(w *Worker, now time.Time) {
	h := &w.health
	h.joinPause = min(max(firstPause, h.joinPause*3/2), longestPause)
	h.joinDue = now.Add(jitter(h.joinPause))
	if r.overdueLocked(w, now) {
		h.err = "the worker does not tell what it serves"
		r.giveUpLocked(w, now)
	}
	if r.byID[w.id] == w && !h.asking && h.in != &r.urgent {
		r.queue.set(w, h.joinDue)
	}
	r.wakeUp()
}

// timeoutOf returns how long w may take to answer.
func (r *Registry) timeoutOf(w *Worker) time.Duration {
	timeout, _ := r.waysOf(w)
	return timeout
}

// waysOf returns how long w may take to answer, and whether it is checked.
func (r *Registry) waysOf(w *Worker) (timeout time.Duration, checked bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return w.health.cfg.Timeout, !w.health.cfg.Disabled
}

// newInfo puts together what is known of a worker. What the spec says goes
// before what the worker said; f is nil until it said something.
func newInfo(s Spec, backend string, f *found) *Info {
	i := &Info{
		Models: slices.Clone(s.Models), Runtime: s.runtime(), Labels: make(map[string]string), Priority: 50, Cost: 1, MaxAttempts: 20,
		BootstrapPort: s.BootstrapPort, Health: s.Health, APIKey: s.APIKey, KVTokens: s.KVTokens,
	}
	if i.Runtime == "unspecified" {
		i.Runtime = "" // as if not said
	}
	set(&i.Priority, s.Priority)
	set(&i.Cost, s.Cost)
	set(&i.MaxAttempts, s.MaxConnectionAttempts)
	if !s.APIKey.Empty() {
		i.Authorization = secret.New("Bearer " + s.APIKey.Reveal())
	}
	if id := s.Labels["model_id"]; len(i.Models) == 0 && id != "" {
		i.Models = []ModelCard{{ID: id}}
	}
	if f != nil {
		i.merge(f)
	}
	maps.Copy(i.Labels, s.Labels)
	i.Wildcard = f != nil && len(i.Models) == 0
	i.Runtime = cmp.Or(i.Runtime, backend, "unspecified")
	for k := range i.Models {
		if i.Models[k].ModelType == nil {
			i.Models[k].ModelType = generation
		}
		i.ModelIDs = append(append(i.ModelIDs, i.Models[k].ID), i.Models[k].Aliases...)
		i.ContextLength = max(i.ContextLength, i.Models[k].ContextLength)
	}
	slices.Sort(i.ModelIDs)
	i.ModelIDs = slices.Compact(i.ModelIDs)
	return i
}

// merge fills what the spec left open.
func (i *Info) merge(f *found) {
	if len(i.Models) == 0 {
		i.Models = slices.Clone(f.models)
	}
	for k := range i.Models {
		m := &i.Models[k]
		m.ContextLength = cmp.Or(m.ContextLength, f.context)
		m.TokenizerPath = cmp.Or(m.TokenizerPath, f.labels["tokenizer_path"])
		if m.ModelType == nil {
			m.ModelType = f.modelType()
		}
	}
	maps.Copy(i.Labels, f.labels)
	runtime := f.runtime
	if runtime == "llamacpp" {
		i.ClosesStreams = true
		runtime = "unspecified" // the contract has no word for it
	}
	i.Runtime = cmp.Or(i.Runtime, runtime)
	i.Version, i.MaxRunning, i.ContextLength = f.labels["version"], f.maxRunning, f.context
	i.KVTokens = cmp.Or(f.kvTokens, i.KVTokens)
}
