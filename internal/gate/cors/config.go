package cors

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
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
		if o != "*" && !isOrigin(o) {
			errs = append(errs, fmt.Errorf("cors-allowed-origins: %q is not an origin such as https://example.com", o))
		}
	}
	return errors.Join(errs...)
}

// isOrigin reports whether s is a scheme, a host and perhaps a port, and
// nothing else. A host with a * in it would match no page.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && strings.EqualFold(u.Scheme+"://"+u.Host, s) && !strings.Contains(u.Host, "*")
}
