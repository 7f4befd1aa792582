package config

import (
	"fmt"
	"reflect"
	"strings"

	"sluice/internal/policy"
)

// PolicySettings returns what policies are made with under c, with metrics that
// nobody reads: a section whose type is that of a field of policy.Settings is
// that field's value.
func (c *Config) PolicySettings() *policy.Settings {
	s := policy.DefaultSettings()
	to, from := reflect.ValueOf(s).Elem(), reflect.ValueOf(c).Elem()
	for i := range from.NumField() {
		if f, ok := settingsField(from.Field(i).Type()); ok {
			to.FieldByIndex(f.Index).Set(from.Field(i))
		}
	}
	return s
}

// settingsField returns the field of policy.Settings that has a section's type.
func settingsField(section reflect.Type) (reflect.StructField, bool) {
	t := reflect.TypeFor[policy.Settings]()
	for i := range t.NumField() {
		if t.Field(i).Type == section {
			return t.Field(i), true
		}
	}
	return reflect.StructField{}, false
}

// LoadPolicySettings makes what policies are made with of flags, and of nothing
// else. Flags of other things are refused. The error is a *Faults.
func LoadPolicySettings(args []string) (*policy.Settings, error) {
	l := newLoader()
	p := parseArgs(args, &l.faults)
	if p.given {
		l.faults.addf("--%s is not a setting of a policy", flagConfig)
	}
	own := p.out[:0]
	for _, s := range p.out {
		if _, ok := settingsField(reflect.TypeFor[Config]().Field(s.field.index[0]).Type); !ok {
			l.faults.addf("%s is not a setting of a policy", s.where)
			continue
		}
		own = append(own, s)
	}
	l.apply(own)
	cfg, _, err := l.done()
	if err != nil {
		return nil, err
	}
	return cfg.PolicySettings(), nil
}

// Idle returns a sentence for each setting of c that changes nothing because of
// another one, or because nothing can make use of it. Such a configuration can be used, but is not what somebody meant.
func (c *Config) Idle() []string {
	var l []string
	add := func(idle bool, sentence string) {
		if idle {
			l = append(l, sentence)
		}
	}
	settings := c.PolicySettings()
	reads := func(section, field string) bool { return settings.Reads(c.Policy.Name, section, field) }
	deaf := c.Workers.NoLoads && !c.Workers.EngineMetrics
	add(c.Policy.Prefill != "", "prefill-policy does nothing: no worker that only computes prompts can be registered yet")
	add(c.Policy.Decode != "", "decode-policy does nothing: no worker that only answers can be registered yet")
	add(c.Ranks.MinTokens && !c.Workers.DPAware, "dp-minimum-tokens-scheduler does nothing without dp-aware: no rank is known")
	add(c.Workers.OverShed && !c.Workers.Protect, "worker-overload-shed does nothing with disable-worker-overload-protection: no worker counts as overloaded")
	add(c.Workers.OverShed && deaf, "worker-overload-shed does nothing with disable-load-monitoring: no worker counts as overloaded")
	if reads("LeastLoad", "") {
		add(c.LeastLoad.MaxWaiting > 0 && deaf, "least-load-max-waiting-requests does nothing with disable-load-monitoring: no worker says how many requests wait")
	}
	if reads("CacheAware", "") {
		add(c.CacheAware.Spread < 1 && deaf, "balance-token-usage-threshold does nothing with disable-load-monitoring: no worker says how full its cache is")
		add(c.CacheAware.Full < 1 && deaf, "overload-token-usage-threshold does nothing with disable-load-monitoring: no worker says how full its cache is")
		add(c.CacheAware.Boundaries != "" && c.CacheAware.Index != "hash", "cache-boundaries does nothing without cache-index hash")
	}
	for _, flag := range c.unread(reads) {
		add(true, fmt.Sprintf("%s does nothing with policy %s, but for models whose workers' label policy names one that reads it", flag, c.Policy.Name))
	}
	return l
}

// unread returns the flags of the settings of policies that are not as by default and
// that reads says are for nothing.
func (c *Config) unread(reads func(section, field string) bool) (flags []string) {
	is, usual := reflect.ValueOf(c).Elem(), reflect.ValueOf(Default()).Elem()
	for i := range is.NumField() {
		section, ok := settingsField(is.Field(i).Type())
		if !ok {
			continue
		}
		for k := range section.Type.NumField() {
			f := section.Type.Field(k)
			flag, _, _ := strings.Cut(f.Tag.Get("flag"), ",")
			if flag != "" && !reads(section.Name, f.Name) && !reflect.DeepEqual(is.Field(i).Field(k).Interface(), usual.Field(i).Field(k).Interface()) {
				flags = append(flags, flag)
			}
		}
	}
	return flags
}
