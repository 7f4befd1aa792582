package server

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Config says where the gateway listens and what it takes from clients.
type Config struct {
	Host              string        `yaml:"host" flag:"host" help:"address to listen on"`
	Port              int           `yaml:"port" flag:"port" help:"port of the API; 0 for any free one"`
	HealthPort        int           `yaml:"health_check_port" flag:"health-check-port" help:"further port that answers /liveness, /readiness and /health only; 0 for none"`
	MaxBody           int64         `yaml:"max_payload_size" flag:"max-payload-size" help:"largest request body in bytes; larger ones get 413"`
	HeaderReadTimeout time.Duration `yaml:"header_read_timeout_secs" flag:"header-read-timeout-secs" unit:"s" help:"how long a client may take to send a request's header"`
	IdleTimeout       time.Duration `yaml:"idle_connection_timeout_secs" flag:"idle-connection-timeout-secs" unit:"s" help:"how long an idle client connection is kept"`
	Grace             time.Duration `yaml:"shutdown_grace_period_secs" flag:"shutdown-grace-period-secs" unit:"s" help:"how long running requests may take to end after SIGTERM"`
	RuntimeThreads    int           `yaml:"runtime_worker_threads" flag:"runtime-worker-threads" help:"threads that run Go code at once; 0 for as many as the machine or its cgroup has"`
}

// DefaultConfig returns the contract's defaults.
func DefaultConfig() Config {
	return Config{
		Host: "0.0.0.0", Port: 30000, MaxBody: 512 << 20,
		HeaderReadTimeout: 30 * time.Second, IdleTimeout: 90 * time.Second, Grace: 180 * time.Second,
	}
}

// maxMaxBody is more than any machine can hold, and far from where sums
// overflow.
const maxMaxBody = 1 << 50

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, err := netip.ParseAddr(c.Host); err != nil && c.Host != "localhost" {
		bad("host %q is not an IP address", c.Host)
	}
	if c.Port < 0 || c.Port > 65535 {
		bad("port %d is not between 0 and 65535", c.Port)
	}
	if c.HealthPort < 0 || c.HealthPort > 65535 {
		bad("health-check-port %d is not between 0 and 65535", c.HealthPort)
	}
	if c.HealthPort != 0 && c.HealthPort == c.Port {
		bad("health-check-port and port are both %d", c.Port)
	}
	if c.MaxBody < 1 || c.MaxBody > maxMaxBody {
		bad("max-payload-size %d is not between 1 and %d", c.MaxBody, int64(maxMaxBody))
	}
	if c.HeaderReadTimeout <= 0 || c.IdleTimeout <= 0 {
		bad("header-read-timeout-secs and idle-connection-timeout-secs must be at least 1")
	}
	if c.Grace < 0 {
		bad("shutdown-grace-period-secs must not be negative")
	}
	if c.RuntimeThreads < 0 {
		bad("runtime-worker-threads must not be negative")
	}
	return errors.Join(errs...)
}
