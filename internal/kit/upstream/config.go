package upstream

import (
	"errors"
	"time"
)

// Config says how workers are connected to.
type Config struct {
	PoolIdle       time.Duration `yaml:"pool_idle_timeout_secs" flag:"upstream-pool-idle-timeout-secs" unit:"s" help:"how long an unused connection to a worker is kept"`
	MaxIdle        int           `yaml:"max_idle_connections" flag:"upstream-max-idle-connections" help:"how many unused connections to one worker are kept"`
	MaxConnections int           `yaml:"max_connections" flag:"upstream-max-connections" help:"how many connections to one worker there may be; requests beyond wait in the order they came. 0 is no bound"`
	FirstByte      time.Duration `yaml:"first_byte_timeout_secs" flag:"upstream-first-byte-timeout-secs" unit:"s" help:"how long a worker may take to begin its answer, which for one that is not streamed is all of it; then another is asked. 0 for as long as the request may take"`
	Silence        time.Duration `yaml:"silence_timeout_secs" flag:"upstream-silence-timeout-secs" unit:"s" help:"how long a worker may send nothing within an answer that it has begun; 0 for as long as the request may take"`
	ConnectTimeout time.Duration `yaml:"connect_timeout_secs" flag:"upstream-connect-timeout-secs" unit:"s" help:"how long a worker may take to accept a connection, with TLS"`
	SendTimeout    time.Duration `yaml:"send_timeout_secs" flag:"upstream-send-timeout-secs" unit:"s" help:"how long a worker may take nothing of a request that is being sent to it; then another is asked"`
	MaxDials       int           `yaml:"max_dials" flag:"upstream-max-dials" help:"how many connections to one worker are opened at once; requests beyond wait"`
}

// DefaultConfig returns the contract's defaults, and for what it does not know
// what has served.
func DefaultConfig() Config {
	return Config{PoolIdle: 3 * time.Second, MaxIdle: 1024, ConnectTimeout: 10 * time.Second, Silence: 600 * time.Second, SendTimeout: 30 * time.Second, MaxDials: 16}
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.PoolIdle <= 0 {
		errs = append(errs, errors.New("upstream-pool-idle-timeout-secs must be at least 1"))
	}
	if c.MaxIdle < 0 {
		errs = append(errs, errors.New("upstream-max-idle-connections must be at least 0"))
	}
	if c.MaxConnections < 0 {
		errs = append(errs, errors.New("upstream-max-connections must be at least 0"))
	}
	if c.FirstByte < 0 {
		errs = append(errs, errors.New("upstream-first-byte-timeout-secs must be at least 0"))
	}
	if c.Silence < 0 {
		errs = append(errs, errors.New("upstream-silence-timeout-secs must be at least 0"))
	}
	if c.ConnectTimeout <= 0 {
		errs = append(errs, errors.New("upstream-connect-timeout-secs must be at least 1"))
	}
	if c.SendTimeout <= 0 {
		errs = append(errs, errors.New("upstream-send-timeout-secs must be at least 1"))
	}
	if c.MaxDials < 1 {
		errs = append(errs, errors.New("upstream-max-dials must be at least 1"))
	}
	return errors.Join(errs...)
}
