package relay

import (
	"errors"
	"time"
)

// Config says how workers are connected to.
type Config struct {
	PoolIdle time.Duration `yaml:"pool_idle_timeout_secs" flag:"upstream-pool-idle-timeout-secs" unit:"s" help:"how long an unused connection to a worker is kept"`
}

// DefaultConfig returns the contract's defaults.
func DefaultConfig() Config { return Config{PoolIdle: 3 * time.Second} }

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	if c.PoolIdle <= 0 {
		return errors.New("upstream-pool-idle-timeout-secs must be at least 1")
	}
	return nil
}
