package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sluice/internal/kit/h1"
	"sluice/internal/kit/secret"
)

// Config says who may call.
type Config struct {
	APIKey       secret.String   `yaml:"api_key" flag:"api-key" help:"key that clients must send as a bearer token; also sent to the workers named at the start"`
	TenantKeys   []secret.String `yaml:"tenant_api_keys" flag:"tenant-api-key" help:"further key for clients, as tenant:key, which opens the data plane only and says whose a request is; a tenant may have several"`
	TrustTenant  bool            `yaml:"trust_tenant_header" flag:"trust-tenant-header" help:"let a header say whose a request is, unless a tenant's key does; for a gateway that is reached only through what sets that header"`
	TenantHeader string          `yaml:"tenant_header_name" flag:"tenant-header-name" help:"header that names the tenant with --trust-tenant-header"`
}

// DefaultConfig returns the contract's defaults: no key.
func DefaultConfig() Config { return Config{TenantHeader: "x-smg-tenant-id"} }

// Keyed reports whether requests need a key.
func (c Config) Keyed() bool { return !c.APIKey.Empty() || len(c.TenantKeys) > 0 }

// Tenants returns the names of those who have keys. c must be valid.
func (c Config) Tenants() []string {
	names := make([]string, 0, len(c.TenantKeys))
	for _, k := range c.TenantKeys {
		name, _, _ := strings.Cut(k.Reveal(), ":")
		names = append(names, name)
	}
	return names
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if !sendable(c.APIKey.Reveal()) {
		errs = append(errs, errors.New("api-key has spaces around it or control characters in it, which no client can send"))
	}
	first := make(map[string]int, len(c.TenantKeys)) // by key
	for i, k := range c.TenantKeys {
		if err := c.checkTenant(k.Reveal(), i+1, first); err != nil {
			errs = append(errs, err)
		}
	}
	if _, ok := h1.AppendField(nil, c.TenantHeader, ""); !ok && (c.TrustTenant || c.TenantHeader != "") {
		errs = append(errs, fmt.Errorf("tenant-header-name: %q is not a header name", c.TenantHeader))
	}
	if slices.Contains(secretHeaders, strings.ToLower(c.TenantHeader)) {
		errs = append(errs, fmt.Errorf("tenant-header-name: %q holds secrets, and tenants are logged", c.TenantHeader))
	}
	return errors.Join(errs...)
}

// checkTenant returns what is wrong with the nth key of tenants. It says which
// one and not more: what is written in the wrong place may be the key.
func (c Config) checkTenant(s string, n int, first map[string]int) error {
	name, key, ok := strings.Cut(s, ":")
	switch {
	case !ok:
		return fmt.Errorf("tenant-api-key: number %d is not tenant:key", n)
	case !isTenant(name):
		return fmt.Errorf("tenant-api-key: number %d has no tenant before its colon; want 1 to %d visible ASCII characters, without a comma", n, maxTenant)
	case key == "":
		return fmt.Errorf("tenant-api-key: number %d has no key behind its colon", n)
	case !sendable(key):
		return fmt.Errorf("tenant-api-key: number %d has spaces around its key or control characters in it, which no client can send", n)
	case key == c.APIKey.Reveal():
		return fmt.Errorf("tenant-api-key: number %d is the same key as api-key, which is no tenant's", n)
	case first[key] > 0:
		return fmt.Errorf("tenant-api-key: number %d has the same key as number %d", n, first[key])
	}
	first[key] = n
	return nil
}

// sendable reports whether a client can send a key.
func sendable(key string) bool {
	return strings.TrimSpace(key) == key && !strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// secretHeaders are fields whose values must not be shown, in lower case.
var secretHeaders = []string{"authorization", "proxy-authorization", "x-api-key", "cookie", "sec-websocket-protocol"}
