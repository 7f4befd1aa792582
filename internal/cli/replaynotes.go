package cli

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"sluice/internal/kit/tracefile"
	"sluice/internal/policy"
	"sluice/internal/sim"
)

// remark tells what of a trace was left out, and which settings change nothing.
// given reports whether a flag was given.
func remark(out io.Writer, opt *replayOptions, cfg *sim.Config, given func(string) bool, t *tracefile.Trace, cs []sim.Contender) {
	if t.Damage.Lines > 0 {
		fmt.Fprintf(out, "sluice replay: trace %s: %v\n", opt.Trace, t.Damage)
	}
	notes := idleFlags(cfg, given, t)
	for i := range cs {
		notes = append(notes, idleSettings(&cs[i])...)
	}
	for _, n := range notes {
		fmt.Fprintf(out, "sluice replay: a setting has no effect: %s\n", n)
	}
}

// idleFlags returns a sentence for each flag that was given for nothing.
func idleFlags(cfg *sim.Config, given func(string) bool, t *tracefile.Trace) []string {
	var l []string
	add := func(idle bool, sentence string, flags ...string) {
		for _, f := range flags {
			if idle && given(f) {
				l = append(l, f+" does nothing "+sentence)
			}
		}
	}
	sessions := t.Sessions != nil
	add(!sessions, "with a trace that has no sessions", "session-rate", "session-time")
	add(sessions, "with a trace of sessions", "copies", "first", "crowd")
	add(sessions || cfg.Crowd == 0, "without a crowd", "crowd-tokens")
	add(!cfg.Protect, "without worker-overload-protection", "worker-overload-waiting-requests", "worker-overload-token-usage")
	return l
}

// idleSettings returns a sentence for each setting of c that changes nothing.
func idleSettings(c *sim.Contender) []string {
	var l []string
	s := &c.Settings
	_, settings, _ := strings.Cut(c.Label, ":")
	for setting := range strings.SplitSeq(settings, ":") {
		name, _, _ := strings.Cut(strings.TrimPrefix(setting, "--"), "=")
		section, field := settingNamed(name)
		switch {
		case section == "":
		case section == "Ranks":
			l = append(l, name+" does nothing in a replay: no rank is known")
		case field == "Boundaries" && c.Policy == "cache_aware" && s.CacheAware.Index != "hash":
			l = append(l, name+" does nothing without cache-index hash")
		case s.Reads(c.Policy, section, field):
		default:
			l = append(l, name+" does nothing with policy "+c.Policy)
		}
	}
	return l
}

// settingNamed returns the field of policy.Settings in which a flag's setting
// is, and the field of that; empty for none.
func settingNamed(flag string) (section, field string) {
	t := reflect.TypeFor[policy.Settings]()
	for i := range t.NumField() {
		s := t.Field(i)
		if s.Type.Kind() != reflect.Struct {
			continue
		}
		for k := range s.Type.NumField() {
			if f := s.Type.Field(k); flag != "" && slices.Contains(strings.Split(f.Tag.Get("flag"), ","), flag) {
				return s.Name, f.Name
			}
		}
	}
	return "", ""
}
