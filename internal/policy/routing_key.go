package policy

import (
	"errors"
	"fmt"
	"time"

	"sluice/internal/infer"
)

// RoutingKeyConfig says which requests belong together because a header says so,
// and what manual and the override remember of it.
type RoutingKeyConfig struct {
	Override bool          `yaml:"override" flag:"routing-key-override,sticky-sessions" help:"keep the requests of a routing key at one worker, whatever the policy; manual and consistent_hashing do so anyway"`
	Headers  []string      `yaml:"headers" flag:"routing-key-headers" help:"where routing keys are looked for, the first that has a value; none means X-SMG-Routing-Key, which manual and consistent_hashing look into in any case"`
	Mode     string        `yaml:"assignment_mode" flag:"assignment-mode" choices:"random,min_load,min_group,delegate" help:"where a new routing key goes: to any worker, the one with the fewest requests, the one with the fewest active keys, or where the policy under the override says, which without one is min_load; none means random for manual and delegate for the override"`
	Idle     time.Duration `yaml:"max_idle" flag:"max-idle-secs,sticky-key-idle-secs" unit:"s" help:"a routing key that was not used for so long is forgotten; 0 for never"`
	MaxKeys  int           `yaml:"max_keys" flag:"sticky-max-keys" help:"routing keys remembered for each model, 64 bytes each; the one not used for longest makes room"`
}

// DefaultRoutingKeyConfig returns the contract's defaults, and a million keys.
func DefaultRoutingKeyConfig() RoutingKeyConfig {
	return RoutingKeyConfig{Idle: 4 * time.Hour, MaxKeys: 1 << 20}
}

// maxKeys is the most that MaxKeys may be: 4 GiB of keys.
const maxKeys = 1 << 26

// Validate reports everything that is wrong with c.
func (c RoutingKeyConfig) Validate() error {
	var errs []error
	for _, name := range c.Headers {
		if !isToken(name) {
			errs = append(errs, fmt.Errorf("routing-key-headers: %.64q cannot be the name of a header", name))
		}
	}
	if c.Idle < 0 {
		errs = append(errs, fmt.Errorf("max-idle-secs must not be negative, not %v", c.Idle.Seconds()))
	}
	if c.MaxKeys < 1 || c.MaxKeys > maxKeys {
		errs = append(errs, fmt.Errorf("sticky-max-keys must be 1 to %d, not %d", maxKeys, c.MaxKeys))
	}
	return errors.Join(errs...)
}

// isToken reports whether s is a token as RFC 9110 §5.6.2 has it.
func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '!', '#' <= c && c <= '\'', c == '*', c == '+', c == '-', c == '.', '^' <= c && c <= '`', c == '|', c == '~':
		default:
			return false
		}
	}
	return s != ""
}

// keyHeaders are the names of the headers that may hold a routing key.
type keyHeaders []string

const routingKeyHeader = "X-SMG-Routing-Key"

// keyHeaders returns where the override looks.
func (c *RoutingKeyConfig) keyHeaders() keyHeaders {
	if len(c.Headers) == 0 {
		return keyHeaders{routingKeyHeader}
	}
	return c.Headers
}

// ownHeaders returns where policies look that are about routing keys.
func (c *RoutingKeyConfig) ownHeaders() keyHeaders {
	return append(append(keyHeaders{}, c.Headers...), routingKeyHeader)
}

// of returns the first value that is not empty, or nil. It is the client's own
// bytes, as many as a header may have.
func (names keyHeaders) of(r *infer.Request) []byte { return firstOf(r, names) }

// firstOf returns the first value that is not empty of the headers so named.
func firstOf(r *infer.Request, names []string) []byte {
	for _, name := range names {
		if v := r.Header.Get(name); len(v) > 0 {
			return v
		}
	}
	return nil
}
