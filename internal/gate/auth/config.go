package auth

import (
	"errors"
	"strings"

	"sluice/internal/kit/secret"
)

// Config says who may call.
type Config struct {
	APIKey secret.String `yaml:"api_key" flag:"api-key" help:"key that clients must send as a bearer token; also sent to the workers named at the start"`
}

// DefaultConfig returns the contract's defaults: no key.
func DefaultConfig() Config { return Config{} }

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	if strings.TrimSpace(c.APIKey.Reveal()) != c.APIKey.Reveal() || strings.ContainsFunc(c.APIKey.Reveal(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("api-key has spaces around it or control characters in it, which no client can send")
	}
	return nil
}
