package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"sluice/internal/infer"
	"sluice/internal/kit/secret"
	"sluice/internal/wasm"
)

// wasmCalls are the calls about modules.
func (a *Admin) wasmCalls() []Call {
	call := func(method, pattern string, f infer.HandlerFunc) Call {
		return Call{method, pattern, false, infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			if a.modules == nil {
				return empty(w, http.StatusInternalServerError) // the contract's answer without --enable-wasm
			}
			return f(ctx, r, w)
		})}
	}
	return []Call{
		call("GET", "/wasm", a.listModules),
		call("POST", "/wasm", a.addModules),
		call("GET", "/wasm/{id}", a.getModule),
		call("PUT", "/wasm/{id}", a.replaceModule),
		call("PATCH", "/wasm/{id}", a.updateModule),
		call("DELETE", "/wasm/{id}", a.removeModule),
	}
}

func empty(w *infer.Reply, status int) error {
	w.Header().Set("Content-Length", "0")
	w.Commit(status)
	return nil
}

func text(w *infer.Reply, status int, s string) error {
	return w.Send(status, "text/plain; charset=utf-8", []byte(s))
}

// A descriptor is a module as the contract's clients write it, with our own
// fields behind theirs.
type descriptor struct {
	Name         *string         `json:"name"`
	FilePath     *string         `json:"file_path"`
	ModuleType   *string         `json:"module_type"`
	AttachPoints []attachPoint   `json:"attach_points"`
	AddResult    json.RawMessage `json:"add_result"`
	moduleOptions
}

// moduleOptions are the settings of a module that the contract does not have.
// Those that are left out stay as they are, or at their defaults.
type moduleOptions struct {
	Enabled    *bool  `json:"enabled,omitempty"`
	Order      *int   `json:"order,omitempty"`
	FailClosed *bool  `json:"fail_closed,omitempty"`
	Paths      filter `json:"paths,omitzero"`
	Models     filter `json:"models,omitzero"`
	Tenants    filter `json:"tenants,omitzero"`
	MaxBody    *int64 `json:"max_body_size,omitempty"`

	MemoryPages *int64  `json:"max_memory_pages,omitempty"`
	TimeMillis  *int64  `json:"max_execution_time_ms,omitempty"`
	Stack       *int64  `json:"max_stack_size,omitempty"`
	Instances   *int64  `json:"max_instances,omitempty"`
	Isolation   *string `json:"isolation,omitempty"`
	Config      *string `json:"config,omitempty"`
}

// A filter is a list of what a module is for. null is one that has everything.
type filter struct {
	given bool
	list  []string
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *filter) UnmarshalJSON(b []byte) error {
	*f = filter{given: true}
	return json.Unmarshal(b, &f.list)
}

// MarshalJSON implements json.Marshaler.
func (f filter) MarshalJSON() ([]byte, error) { return json.Marshal(f.list) }

// IsZero reports whether f was left out.
func (f filter) IsZero() bool { return !f.given }

func (f filter) set(to *[]string) {
	if f.given {
		*to = f.list
	}
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// apply changes s as o says. If it fails s is of no use.
func (o *moduleOptions) apply(s *wasm.Spec) error {
	if o.Enabled != nil {
		s.Disabled = !*o.Enabled
	}
	set(&s.Order, o.Order)
	set(&s.FailClosed, o.FailClosed)
	o.Paths.set(&s.Paths)
	o.Models.set(&s.Models)
	o.Tenants.set(&s.Tenants)
	set(&s.Settings.Config, o.Config)
	if o.Isolation != nil {
		s.Settings.Isolation = wasm.Isolation(*o.Isolation)
	}
	for _, l := range []struct {
		key string
		n   *int64
	}{
		{"max_body_size", o.MaxBody}, {"max_memory_pages", o.MemoryPages}, {"max_execution_time_ms", o.TimeMillis},
		{"max_stack_size", o.Stack}, {"max_instances", o.Instances},
	} {
		if l.n == nil {
			continue
		}
		if err := s.Limit(l.key, *l.n); err != nil {
			return err
		}
	}
	return nil
}

// An attachPoint is {"Middleware":"OnRequest"}.
type attachPoint struct {
	Middleware string `json:"Middleware"`
}

// allHooks are the attach points.
var allHooks = []wasm.Hook{wasm.OnRequest, wasm.OnResponse, wasm.OnChunk, wasm.OnError, wasm.OnEnd}

// hooks reads attach points.
func hooks(points []attachPoint) ([]wasm.Hook, error) {
	var hs []wasm.Hook
	for _, p := range points {
		i := slices.IndexFunc(allHooks, func(h wasm.Hook) bool { return h.String() == p.Middleware })
		if i < 0 {
			return nil, fmt.Errorf("unknown attach point %.64q; want one of %v", p.Middleware, allHooks)
		}
		hs = append(hs, allHooks[i])
	}
	return hs, nil
}

// fill makes empty what the contract's answer has and d does not.
func (d *descriptor) fill() {
	d.Name, d.FilePath, d.ModuleType = cmp.Or(d.Name, new("")), cmp.Or(d.FilePath, new("")), cmp.Or(d.ModuleType, new(""))
	if d.AttachPoints == nil {
		d.AttachPoints = []attachPoint{} // null would be refused if it were sent back
	}
}

// checkType holds that d is of the one type that there is.
func (d *descriptor) checkType() error {
	if d.ModuleType != nil && *d.ModuleType != "" && *d.ModuleType != "Middleware" {
		return fmt.Errorf("unknown module_type %.64q; want Middleware", *d.ModuleType)
	}
	return nil
}

// spec reads d.
func (d *descriptor) spec() (wasm.Spec, error) {
	s := wasm.Spec{Settings: wasm.DefaultSettings()}
	set(&s.Name, d.Name)
	set(&s.Path, d.FilePath)
	err := d.checkType()
	if err != nil {
		return s, err
	}
	if s.Attach, err = hooks(d.AttachPoints); err != nil {
		return s, err
	}
	return s, d.apply(&s)
}

// maxModulesBody bounds the bodies of these calls, maxAdded the modules of one.
const (
	maxModulesBody = wasm.MaxBinary
	maxAdded       = 64
)

// addModules registers modules: a list of files that the gateway can read, or
// one component as the body.
func (a *Admin) addModules(ctx context.Context, r *infer.Request, w *infer.Reply) error {
	if err := r.ReadFixed(maxModulesBody); err != nil {
		return err
	}
	if isBinary(r) {
		return a.addBinary(ctx, r, w)
	}
	if err := unqueried(r); err != nil {
		return text(w, http.StatusBadRequest, err.Error())
	}
	var in struct {
		Modules []descriptor `json:"modules"`
	}
	if err := strictly(r.Body, &in, 0); err != nil {
		return text(w, http.StatusBadRequest, "the body is not a list of modules: "+err.Error())
	}
	if in.Modules == nil {
		return text(w, http.StatusBadRequest, `the body is not a list of modules; want {"modules":[{"name":…,"file_path":…}]}, or Content-Type: application/wasm and a module's bytes`)
	}
	if len(in.Modules) > maxAdded {
		return text(w, http.StatusBadRequest, fmt.Sprintf("%d modules; at most %d are allowed at once", len(in.Modules), maxAdded))
	}
	status := http.StatusOK
	for i := range in.Modules {
		d := &in.Modules[i]
		d.fill()
		id, err := a.addFile(ctx, d)
		if d.Config != nil {
			d.Config = new(secret.Mask)
		}
		if err != nil {
			status = http.StatusBadRequest
			d.AddResult = result("Error", err.Error())
			continue
		}
		d.AddResult = result("Success", id.String())
	}
	return sendJSON(w, status, in)
}

// numbers are the settings of a module that are one.
var numbers = []string{"order", "max_body_size", "max_memory_pages", "max_execution_time_ms", "max_stack_size", "max_instances"}

// queried reads the settings of a module that is sent as bytes. They are in the
// query, called as in JSON; a list has commas in between.
func queried(query string) (d descriptor, err error) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return d, fmt.Errorf("the query cannot be read: %w; within a value, %%3B is a ;, %%26 a & and %%25 a %%", err)
	}
	all := make(map[string]any)
	for key, values := range q {
		v := values[0]
		switch {
		case len(values) > 1:
			return d, fmt.Errorf("%.64q is there %d times", key, len(values))
		case !utf8.ValidString(key) || !utf8.ValidString(v):
			return d, fmt.Errorf("%.64q is not UTF-8", key)
		case key == "name" || key == "isolation" || key == "config":
			all[key] = v
		case key == "paths" || key == "models" || key == "tenants":
			all[key] = strings.Split(v, ",")
		case key == "attach_points":
			points := []attachPoint{}
			for _, p := range strings.Split(v, ",") {
				points = append(points, attachPoint{p})
			}
			all[key] = points
		case key == "file_path" || key == "module_type" || key == "add_result":
			return d, fmt.Errorf("%s is not of a module whose bytes are sent", key)
		case key == "enabled" || key == "fail_closed":
			if v != "true" && v != "false" {
				return d, fmt.Errorf("%s is %.64q; want true or false", key, v)
			}
			all[key] = json.RawMessage(v)
		case !slices.Contains(numbers, key):
			return d, fmt.Errorf("unknown field %.64q", key)
		case v == "null" || !json.Valid([]byte(v)): // null would be as if it were not there
			return d, fmt.Errorf("%s is %.64q; want a whole number", key, v)
		default:
			all[key] = json.RawMessage(v)
		}
	}
	b, err := json.Marshal(all)
	if err == nil {
		err = strictly(b, &d, 0)
	}
	if err != nil {
		return d, fmt.Errorf("the query: %w", err)
	}
	return d, nil
}

func result(key, value string) json.RawMessage {
	b, err := json.Marshal(map[string]string{key: value})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

func (a *Admin) addFile(ctx context.Context, d *descriptor) (uuid.UUID, error) {
	s, err := d.spec()
	if err != nil {
		return uuid.Nil, err
	}
	b, err := wasm.ReadFile(s.Path)
	if err != nil {
		return uuid.Nil, err
	}
	return a.register(ctx, s, b)
}

func (a *Admin) register(ctx context.Context, s wasm.Spec, b []byte) (uuid.UUID, error) {
	m, err := a.modules.Add(ctx, s, b)
	if err != nil {
		return uuid.Nil, err
	}
	return m.ID, nil
}

// isBinary reports whether the body is a module, and not JSON about one: it says
// so, or begins as JSON cannot.
func isBinary(r *infer.Request) bool {
	return bytes.HasPrefix(r.Header.Get("Content-Type"), []byte("application/wasm")) || bytes.HasPrefix(r.Body, []byte("\x00asm"))
}

// unqueried refuses settings that stand in the query while the body is JSON. Those
// are not looked at: a fail_closed there would leave a door open.
func unqueried(r *infer.Request) error {
	if r.Query == "" {
		return nil
	}
	return errors.New(`there is a query, and the body is JSON or empty: settings stand in the body then, as in {"order":7,"fail_closed":true}; in the query are those of a module whose bytes are sent, with Content-Type: application/wasm`)
}

// addBinary registers the component in the body, whose settings are in the query.
func (a *Admin) addBinary(ctx context.Context, r *infer.Request, w *infer.Reply) error {
	d, err := queried(r.Query)
	if err != nil {
		return text(w, http.StatusBadRequest, err.Error())
	}
	s, err := d.spec()
	if err != nil {
		return text(w, http.StatusBadRequest, err.Error())
	}
	id, err := a.register(ctx, s, bytes.Clone(r.Body))
	if err != nil {
		return text(w, refusal(err), err.Error())
	}
	return sendJSON(w, http.StatusOK, map[string]string{"module_uuid": id.String()})
}

// moduleInfo is a module as GET shows it.
type moduleInfo struct {
	UUID    string     `json:"module_uuid"`
	Meta    moduleMeta `json:"module_meta"`
	Options any        `json:"options"`
	State   any        `json:"state"`
}

type moduleMeta struct {
	Name         string        `json:"name"`
	FilePath     string        `json:"file_path"`
	Sum          string        `json:"sha256_hash"`
	Size         int64         `json:"size_bytes"`
	Created      string        `json:"created_at"`
	LastAccessed string        `json:"last_accessed_at"`
	AccessCount  uint64        `json:"access_count"`
	AttachPoints []attachPoint `json:"attach_points"`
}

func describe(m *wasm.Attached) moduleInfo {
	last := m.Created
	if ns := m.Counts.Last.Load(); ns > 0 {
		last = time.Unix(0, ns)
	}
	points := []attachPoint{}
	for _, h := range allHooks {
		if m.Attaches(h) {
			points = append(points, attachPoint{h.String()})
		}
	}
	is, why := m.Module.Isolation()
	stats := m.Module.Stats()
	enabled, millis, isolation := !m.Disabled, m.Settings.Time.Milliseconds(), string(is)
	most := cmp.Or(m.MaxBody, wasm.DefaultMaxBody)
	pages, stack, instances := int64(m.Settings.Limits.MemoryPages), int64(m.Settings.Limits.Stack), int64(m.Settings.Instances)
	return moduleInfo{
		UUID: m.ID.String(),
		Meta: moduleMeta{
			Name: m.Name, FilePath: m.Path, Sum: m.Sum, Size: m.Size, Created: m.Created.UTC().Format(time.RFC3339Nano),
			LastAccessed: last.UTC().Format(time.RFC3339Nano), AccessCount: m.Counts.Calls.Load(), AttachPoints: points,
		},
		Options: moduleOptions{
			Enabled: &enabled, Order: &m.Order, FailClosed: &m.FailClosed, MaxBody: &most,
			Paths: filter{true, m.Paths}, Models: filter{true, m.Models}, Tenants: filter{true, m.Tenants},
			MemoryPages: &pages, TimeMillis: &millis, Stack: &stack, Instances: &instances, Isolation: &isolation,
		},
		State: struct {
			World        string `json:"world"`
			Instances    int    `json:"instances"`
			Idle         int    `json:"idle"`
			Memory       int64  `json:"memory_bytes"`
			Failed       uint64 `json:"failed"`
			NotIsolation string `json:"isolation_reason,omitempty"`
		}{m.Module.World(), stats.Instances, stats.Idle, stats.Memory, m.Counts.Failed.Load(), why},
	}
}

func (a *Admin) listModules(_ context.Context, _ *infer.Request, w *infer.Reply) error {
	out := struct {
		Modules []moduleInfo  `json:"modules"`
		Metrics moduleMetrics `json:"metrics"`
	}{Modules: []moduleInfo{}}
	var nanos uint64
	set := a.modules.Set()
	counts := slices.Clone(set.Gone) // the contract's counters are of all that has run, so they do not fall
	for _, m := range set.All {
		out.Modules = append(out.Modules, describe(m))
		counts = append(counts, m.Counts)
	}
	for _, c := range counts {
		x := &out.Metrics
		calls, bad := c.Calls.Load(), c.Failed.Load()
		x.Total += calls
		x.Failed += bad
		x.Successful += calls - min(calls, bad)
		nanos += c.Nanos.Load()
		x.Max = max(x.Max, c.MaxNanos.Load()/1e6)
	}
	out.Metrics.TotalMillis = nanos / 1e6
	if out.Metrics.Total > 0 {
		mean := float64(nanos) / 1e6 / float64(out.Metrics.Total)
		out.Metrics.Average = &mean
	}
	return sendJSON(w, http.StatusOK, out)
}

// moduleMetrics are the contract's counters.
type moduleMetrics struct {
	Total       uint64   `json:"total_executions"`
	Successful  uint64   `json:"successful_executions"`
	Failed      uint64   `json:"failed_executions"`
	TotalMillis uint64   `json:"total_execution_time_ms"`
	Max         uint64   `json:"max_execution_time_ms"`
	Average     *float64 `json:"average_execution_time_ms,omitempty"`
}

func (a *Admin) getModule(_ context.Context, r *infer.Request, w *infer.Reply) error {
	id, err := uuid.Parse(r.Param)
	if err != nil {
		return empty(w, http.StatusBadRequest)
	}
	m := a.modules.Find(id)
	if m == nil {
		return text(w, http.StatusNotFound, "no module has the id "+id.String())
	}
	return sendJSON(w, http.StatusOK, describe(m))
}

// replaceModule gives a module new bytes: the body, or a file that it names. The
// new version serves before the old one ends.
func (a *Admin) replaceModule(ctx context.Context, r *infer.Request, w *infer.Reply) error {
	id, err := uuid.Parse(r.Param)
	if err != nil {
		return empty(w, http.StatusBadRequest)
	}
	if err := r.ReadFixed(maxModulesBody); err != nil {
		return err
	}
	var d descriptor
	var b []byte
	if isBinary(r) {
		b = bytes.Clone(r.Body)
		d, err = queried(r.Query)
	} else {
		if err := unqueried(r); err != nil {
			return text(w, http.StatusBadRequest, err.Error())
		}
		if err := strictly(r.Body, &d, 0); err != nil {
			return text(w, http.StatusBadRequest, "the body is neither application/wasm nor a module: "+err.Error())
		}
		if err = d.checkType(); err == nil {
			var path string
			set(&path, d.FilePath)
			b, err = wasm.ReadFile(path)
		}
	}
	if err != nil {
		return text(w, http.StatusBadRequest, err.Error())
	}
	return a.change(ctx, w, id, &d, b)
}

// updateModule changes how a module is attached.
func (a *Admin) updateModule(ctx context.Context, r *infer.Request, w *infer.Reply) error {
	id, err := uuid.Parse(r.Param)
	if err != nil {
		return empty(w, http.StatusBadRequest)
	}
	if err := r.ReadFixed(maxBody); err != nil {
		return err
	}
	if err := unqueried(r); err != nil {
		return text(w, http.StatusBadRequest, err.Error())
	}
	var d descriptor
	if err := strictly(r.Body, &d, 0); err != nil {
		return text(w, http.StatusBadRequest, "the body is not a change of a module: "+err.Error())
	}
	if d.FilePath != nil || d.ModuleType != nil || d.AddResult != nil {
		return text(w, http.StatusBadRequest, "file_path, module_type and add_result are not changed by PATCH; PUT gives a module other bytes")
	}
	return a.change(ctx, w, id, &d, nil)
}

func (a *Admin) change(ctx context.Context, w *infer.Reply, id uuid.UUID, d *descriptor, b []byte) error {
	attach, err := hooks(d.AttachPoints)
	if err == nil {
		err = d.apply(new(wasm.Spec)) // so that within Update it does not fail
	}
	if err != nil {
		return text(w, http.StatusBadRequest, err.Error())
	}
	m, err := a.modules.Update(ctx, id, func(s *wasm.Spec) {
		set(&s.Name, d.Name)
		if b != nil {
			s.Path = "" // of bytes that were sent
			set(&s.Path, d.FilePath)
		}
		if d.AttachPoints != nil { // an empty list is all that it has
			s.Attach = attach
		}
		_ = d.apply(s)
	}, b)
	switch {
	case errors.Is(err, wasm.ErrUnknown):
		return text(w, http.StatusNotFound, "no module has the id "+id.String())
	case err != nil:
		return text(w, refusal(err), err.Error())
	}
	return sendJSON(w, http.StatusOK, describe(m))
}

// refusal is the status of a module that is not registered or changed: 400 if it
// is what was sent, 409 if another change came in between, 5xx if it is this machine.
func refusal(err error) int {
	if _, is := errors.AsType[*wasm.ConflictError](err); is {
		return http.StatusConflict
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	switch {
	case !ok:
		return http.StatusBadRequest
	case errno == syscall.ENOSPC || errno == syscall.EDQUOT:
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

func (a *Admin) removeModule(_ context.Context, r *infer.Request, w *infer.Reply) error {
	id, err := uuid.Parse(r.Param)
	if err != nil {
		return empty(w, http.StatusBadRequest)
	}
	m := a.modules.Find(id)
	if err := a.modules.Remove(id); err != nil {
		return text(w, http.StatusBadRequest, fmt.Sprintf("removing module %s: %v", id, err))
	}
	done := "Module removed successfully"
	if m != nil && m.FromConfig {
		done += ", until the next start: the configuration names it"
	}
	return text(w, http.StatusOK, done)
}
