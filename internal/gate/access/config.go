package access

import (
	"errors"
	"fmt"
)

// Config says how requests are named and logged.
type Config struct {
	IDHeaders   []string `yaml:"request_id_headers" flag:"request-id-headers" help:"headers in which a client's request id is looked for, in order"`
	NoAccessLog bool     `yaml:"disable_access_log" flag:"disable-access-log" help:"write no line per request"`
	ShowWorker  bool     `yaml:"expose_worker" flag:"expose-worker" help:"name the worker in the answer's x-smg-routed-worker-id; it shows internal addresses"`
}

// DefaultConfig returns the contract's defaults.
func DefaultConfig() Config {
	return Config{IDHeaders: []string{"x-request-id", "x-correlation-id", "x-trace-id", "request-id"}}
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	for _, h := range c.IDHeaders {
		if !isToken(h) {
			errs = append(errs, fmt.Errorf("request-id-headers: %q is not a header name", h))
		}
	}
	return errors.Join(errs...)
}

// isToken reports whether s is a token as RFC 9110 §5.6.2 has it.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || containsByte(`"(),/:;<=>?@[\]{}`, c) {
			return false
		}
	}
	return s != ""
}

func containsByte(s string, c byte) bool {
	for i := range len(s) {
		if s[i] == c {
			return true
		}
	}
	return false
}
