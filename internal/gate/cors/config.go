package cors

import (
	"errors"
	"fmt"
	"net/url"
)

// Config says which web pages may read answers.
type Config struct {
	Origins []string `yaml:"allowed_origins" flag:"cors-allowed-origins" help:"origins whose pages may call, or * for all; none means no CORS headers"`
}

// DefaultConfig returns the contract's defaults: no CORS.
func DefaultConfig() Config { return Config{} }

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	for _, o := range c.Origins {
		u, err := url.Parse(o)
		if o != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil) {
			errs = append(errs, fmt.Errorf("cors-allowed-origins: %q is not an origin such as https://example.com", o))
		}
	}
	return errors.Join(errs...)
}
