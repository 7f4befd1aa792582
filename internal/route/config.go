package route

import (
	"errors"
	"time"
)

// Config says how often and how soon a request is tried again, and how long it
// may take.
type Config struct {
	Timeout    time.Duration `yaml:"request_timeout_secs" flag:"request-timeout-secs" unit:"s" help:"how long a request may take in all, streams included"`
	MaxRetries int           `yaml:"max_retries" flag:"retry-max-retries" help:"attempts in all, the first included; each goes to another worker"`
	Initial    time.Duration `yaml:"initial_backoff_ms" flag:"retry-initial-backoff-ms" unit:"ms" help:"pause before the second attempt"`
	Max        time.Duration `yaml:"max_backoff_ms" flag:"retry-max-backoff-ms" unit:"ms" help:"longest pause between two attempts"`
	Multiplier float64       `yaml:"backoff_multiplier" flag:"retry-backoff-multiplier" help:"how much longer each further pause is"`
	Jitter     float64       `yaml:"jitter_factor" flag:"retry-jitter-factor" help:"part of a pause that is left to chance, 0 to 1"`
	Disabled   bool          `yaml:"disable" flag:"disable-retries" help:"make one attempt only"`
}

// DefaultConfig returns the contract's defaults.
func DefaultConfig() Config {
	return Config{Timeout: 1800 * time.Second, MaxRetries: 5, Initial: 50 * time.Millisecond, Max: 30 * time.Second, Multiplier: 1.5, Jitter: 0.2}
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.Timeout <= 0 {
		errs = append(errs, errors.New("request-timeout-secs must be at least 1"))
	}
	if c.MaxRetries < 1 {
		errs = append(errs, errors.New("retry-max-retries must be at least 1: the first attempt counts"))
	}
	if c.Initial <= 0 {
		errs = append(errs, errors.New("retry-initial-backoff-ms must be at least 1"))
	}
	if c.Max < c.Initial {
		errs = append(errs, errors.New("retry-max-backoff-ms must not be below retry-initial-backoff-ms"))
	}
	if !(c.Multiplier >= 1) {
		errs = append(errs, errors.New("retry-backoff-multiplier must be at least 1"))
	}
	if !(c.Jitter >= 0 && c.Jitter <= 1) {
		errs = append(errs, errors.New("retry-jitter-factor must be between 0 and 1"))
	}
	return errors.Join(errs...)
}
