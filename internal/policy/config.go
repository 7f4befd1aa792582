package policy

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"sluice/internal/fleet"
	"sluice/internal/kit/blocks"
)

// Config says how workers are chosen.
type Config struct {
	Name    string `yaml:"name" flag:"policy" help:"how the worker for a request is chosen"`
	Prefill string `yaml:"prefill" flag:"prefill-policy" help:"how the worker that computes a prompt is chosen, where another one answers; none means --policy"`
	Decode  string `yaml:"decode" flag:"decode-policy" help:"how the worker that answers is chosen, where another one computes the prompt; none means --policy"`
}

// DefaultConfig returns cost, which is the best of them or as good as any wherever
// prompts begin alike, and evens out load where they do not.
func DefaultConfig() Config { return Config{Name: "cost"} }

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	errs := []error{Suits(c.Name, fleet.Regular)}
	if c.Prefill != "" {
		errs = append(errs, prefixed("prefill-policy", Suits(c.Prefill, fleet.Prefill)))
	}
	if c.Decode != "" {
		errs = append(errs, prefixed("decode-policy", Suits(c.Decode, fleet.Decode)))
	}
	return errors.Join(errs...)
}

func prefixed(flag string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", flag, err)
}

// For returns the name of the policy for workers of a role: the one set for it,
// or Name, or the default's where Name is none for that role.
func (c Config) For(role fleet.Role) string {
	switch {
	case role == fleet.Prefill && c.Prefill != "":
		return c.Prefill
	case role == fleet.Decode && c.Decode != "":
		return c.Decode
	case Suits(c.Name, role) != nil:
		return DefaultConfig().Name
	}
	return c.Name
}

// Suits reports what keeps a policy from choosing workers of a role, nil if it
// may. Lengths of prompts say nothing of a worker that does not compute them, and
// a team has more than one worker to choose.
func Suits(name string, role fleet.Role) error {
	switch {
	case !slices.Contains(Names(), name):
		return fmt.Errorf("unknown policy %q; want one of %s", name, strings.Join(Names(), ", "))
	case role == fleet.Decode && name == "bucket":
		return errors.New("policy bucket is not for decode workers: it goes by the length of prompts")
	case role != fleet.Regular && name == "passthrough":
		return fmt.Errorf("policy passthrough is not for %s workers: it chooses none", role)
	}
	return nil
}

// Settings is what policies are made with. Each policy reads its own part.
type Settings struct {
	Metrics *Metrics     // never nil
	Log     *slog.Logger // for Bind, nil for none; requests log nothing

	RoutingKey RoutingKeyConfig
	PrefixHash PrefixHashConfig
	Bucket     BucketConfig
	CacheAware CacheAwareConfig
	LeastLoad  LeastLoadConfig
	PowerOfTwo PowerOfTwoConfig
	Ranks      RanksConfig
	Cost       CostConfig

	// Prefixes is the memory for what policies of all models remember of prompts.
	// Nil gives each its own.
	Prefixes *blocks.Budget

	// Rand is what chance comes from; nil is the runtime's source. A simulation
	// that is to run the same way again gives its own, which only one goroutine
	// may use.
	Rand func() uint32
}

// DefaultSettings returns the defaults of every policy, with metrics that
// nobody reads.
func DefaultSettings() *Settings {
	return &Settings{
		Metrics:    new(Metrics),
		RoutingKey: DefaultRoutingKeyConfig(),
		PrefixHash: DefaultPrefixHashConfig(),
		Bucket:     DefaultBucketConfig(),
		CacheAware: DefaultCacheAwareConfig(),
		LeastLoad:  DefaultLeastLoadConfig(),
		PowerOfTwo: DefaultPowerOfTwoConfig(),
		Ranks:      DefaultRanksConfig(),
		Cost:       DefaultCostConfig(),
	}
}

// reads tells which of Settings a policy goes by: sections, or single fields of
// one.
var reads = map[string][]string{
	"bucket":             {"Bucket", "CacheAware.Abs", "CacheAware.Rel"},
	"cache_aware":        {"CacheAware"},
	"consistent_hashing": {"RoutingKey.Headers"},
	"cost":               {"Cost"},
	"least_load":         {"LeastLoad"},
	"manual":             {"RoutingKey"},
	"passthrough":        {},
	"power_of_two":       {"PowerOfTwo"},
	"prefix_hash":        {"PrefixHash", "RoutingKey.Headers"},
	"random":             {},
	"round_robin":        {},
}

// Reads reports whether the policy of that name, made with s, goes by a field of a
// section of s. The Ranks are read by none, but stand over all.
func (s *Settings) Reads(name, section, field string) bool {
	switch {
	case section == "Ranks":
		return true
	case section == "RoutingKey" && s.RoutingKey.Override && name != "consistent_hashing":
		return true
	}
	return slices.Contains(reads[name], section) || slices.Contains(reads[name], section+"."+field)
}
