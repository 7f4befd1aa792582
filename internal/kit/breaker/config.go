package breaker

import (
	"errors"
	"time"
)

// Config says when a Breaker opens and closes.
type Config struct {
	Failures  int           `yaml:"failure_threshold" flag:"cb-failure-threshold" help:"consecutive failures that open a worker's circuit breaker"`
	Successes int           `yaml:"success_threshold" flag:"cb-success-threshold" help:"consecutive successes that close a half-open breaker"`
	Rest      time.Duration `yaml:"timeout_duration_secs" flag:"cb-timeout-duration-secs" unit:"s" help:"how long an open breaker keeps requests away before it lets some try"`
	Window    time.Duration `yaml:"window_duration_secs" flag:"cb-window-duration-secs" unit:"s" help:"failures that lie further apart than this are not counted as consecutive; 0 for no bound"`
	Disabled  bool          `yaml:"disable" flag:"disable-circuit-breaker" help:"never keep requests away from a worker for its failures"`
}

// DefaultConfig returns the contract's defaults.
func DefaultConfig() Config {
	return Config{Failures: 10, Successes: 3, Rest: 60 * time.Second, Window: 120 * time.Second}
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.Failures < 1 {
		errs = append(errs, errors.New("cb-failure-threshold must be at least 1"))
	}
	if c.Successes < 1 {
		errs = append(errs, errors.New("cb-success-threshold must be at least 1"))
	}
	if c.Rest < 0 {
		errs = append(errs, errors.New("cb-timeout-duration-secs must not be negative"))
	}
	if c.Window < 0 {
		errs = append(errs, errors.New("cb-window-duration-secs must not be negative"))
	}
	return errors.Join(errs...)
}
