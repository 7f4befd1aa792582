package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Config says how workers are chosen.
type Config struct {
	Name string `yaml:"name" flag:"policy" help:"how the worker for a request is chosen"`
}

// DefaultConfig returns least_load, the default until a policy that knows
// prefixes is built.
func DefaultConfig() Config { return Config{Name: "least_load"} }

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	if !slices.Contains(Names(), c.Name) {
		return fmt.Errorf("unknown policy %q; want one of %s", c.Name, strings.Join(Names(), ", "))
	}
	return nil
}

// Settings is what policies are made with. Each policy reads its own part.
type Settings struct {
	Metrics *Metrics // never nil

	// Rand is what chance comes from; nil is the runtime's source. A simulation
	// that is to run the same way again gives its own, which only one goroutine
	// may use.
	Rand func() uint32
}

// DefaultSettings returns the defaults of every policy, with metrics that
// nobody reads.
func DefaultSettings() *Settings { return &Settings{Metrics: new(Metrics)} }
