package policy

// Config says how workers are chosen.
type Config struct {
	Name string `yaml:"name" flag:"policy" help:"how the worker for a request is chosen"`
}

// DefaultConfig returns least_load, the default until a policy that knows
// prefixes is built.
func DefaultConfig() Config { return Config{Name: "least_load"} }

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	_, err := New(c.Name)
	return err
}
