package wasm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// changes tells what of s is not as in old, for the log: key=value each. What a
// module is given as its configuration may be a secret, so of that it is told only
// that it is another.
func (s *Spec) changes(old *Spec) string {
	var all []string
	tell := func(key string, was, is any) {
		if was, is := fmt.Sprint(was), fmt.Sprint(is); was != is {
			all = append(all, key+"="+short(is))
		}
	}
	list := func(key string, was, is []string) {
		if !slices.Equal(was, is) {
			all = append(all, key+"="+cmp.Or(short(strings.Join(is, ",")), "all"))
		}
	}
	tell("name", old.Name, s.Name)
	tell("file_path", old.Path, s.Path)
	tell("enabled", !old.Disabled, !s.Disabled)
	tell("order", old.Order, s.Order)
	tell("fail_closed", old.FailClosed, s.FailClosed)
	list("paths", old.Paths, s.Paths)
	list("models", old.Models, s.Models)
	list("tenants", old.Tenants, s.Tenants)
	tell("attach_points", old.Attach, s.Attach)
	tell("max_body_size", cmp.Or(old.MaxBody, DefaultMaxBody), cmp.Or(s.MaxBody, DefaultMaxBody))
	was, is := &old.Settings, &s.Settings
	tell("isolation", cmp.Or(was.Isolation, Snapshot), cmp.Or(is.Isolation, Snapshot))
	tell("max_memory_pages", was.Limits.MemoryPages, is.Limits.MemoryPages)
	tell("max_execution_time_ms", was.Time.Milliseconds(), is.Time.Milliseconds())
	tell("max_stack_size", was.Limits.Stack, is.Limits.Stack)
	tell("max_instances", was.Instances, is.Instances)
	if was.Config != is.Config {
		all = append(all, configKey)
	}
	return strings.Join(all, " ")
}

// short is s, or its beginning: 256 paths of 256 bytes are no line of a log.
func short(s string) string {
	const most = 512
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// tellAdded logs that a was registered, with what of it is not the default.
func (r *Registry) tellAdded(a *Attached) {
	r.log.Info("a module is registered", "module", a.Name, "uuid", a.ID.String(), "sha256", a.Sum,
		"settings", a.changes(&Spec{Name: a.Name, Settings: DefaultSettings()}))
}

// tellChanged logs that next has taken old's place.
func (r *Registry) tellChanged(old, next *Attached) {
	pairs := []any{"module", next.Name, "uuid", next.ID.String(), "sha256", next.Sum, "changed", next.changes(&old.Spec)}
	if next.Module != old.Module {
		r.log.Info("a module is replaced", pairs...)
		return
	}
	r.log.Info("a module is changed", pairs...)
}

// tellRemoved logs that a was removed.
func (r *Registry) tellRemoved(a *Attached) {
	pairs := []any{"module", a.Name, "uuid", a.ID.String(), "sha256", a.Sum}
	if a.FromConfig {
		r.log.Info("a module is removed, and the next start brings it back: the configuration names it", pairs...)
		return
	}
	r.log.Info("a module is removed", pairs...)
}
