package route

import (
	"errors"
	"fmt"
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

// ReceiptConfig says what is kept of decisions, and who is shown it.
type ReceiptConfig struct {
	Keep   int    `yaml:"keep" flag:"route-receipts" help:"decisions that are remembered for GET /routes/recent, which lists 1,000 at a time at most; 0 for none"`
	Header bool   `yaml:"debug_headers" flag:"debug-headers" help:"tell every client that sends x-sluice-debug: route how it was routed, in x-sluice-route; it shows internal addresses. Without it, only those who may use the control plane are told"`
	Log    string `yaml:"route_log" flag:"route-log" help:"file to which a line is appended for each request that was answered, in the format of Mooncake's traces, to be played by sluice replay; it may be moved or removed, and is begun anew within a second"`
}

// DefaultReceiptConfig returns the defaults.
func DefaultReceiptConfig() ReceiptConfig { return ReceiptConfig{Keep: 4096} }

// maxReceipts bounds the memory of receipts, to some 256 MiB.
const maxReceipts = 1 << 20

// Validate reports everything that is wrong with c.
func (c ReceiptConfig) Validate() error {
	if c.Keep < 0 || c.Keep > maxReceipts {
		return fmt.Errorf("route-receipts %d is not between 0 and %d", c.Keep, maxReceipts)
	}
	return nil
}
