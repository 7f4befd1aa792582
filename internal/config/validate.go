package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"sluice/internal/wasm"
)

// Faults is everything that is wrong with a configuration, a sentence each.
type Faults struct{ List []string }

// Error returns the sentences, one a line.
func (f *Faults) Error() string { return strings.Join(f.List, "\n") }

// maxFaults bounds how many faults are told, and with it the work that a
// file of nonsense can cause.
const maxFaults = 100

func (f *Faults) addf(format string, args ...any) {
	if len(f.List) < maxFaults {
		f.List = append(f.List, fmt.Sprintf(format, args...))
	}
}

func (f *Faults) full() bool { return len(f.List) >= maxFaults }

// err returns f, or nil if nothing is wrong.
func (f *Faults) err() error {
	if len(f.List) == 0 {
		return nil
	}
	return f
}

// Validate reports everything that is wrong with c, as *Faults.
func (c *Config) Validate() error {
	var f Faults
	for _, p := range c.problems() {
		f.addf("%s", p.msg)
	}
	return f.err()
}

// A problem is a fault and the settings that have part in it.
type problem struct {
	msg    string
	fields []*field
}

// problems asks every section, and checks what lies between them.
func (c *Config) problems() []problem {
	var ps []problem
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		s, ok := v.Field(i).Interface().(interface{ Validate() error })
		section := yamlName(v.Type().Field(i))
		if !ok {
			continue
		}
		for _, msg := range sentences(s.Validate()) {
			fs := mentioned(section, msg)
			if len(fs) == 0 {
				msg = section + ": " + msg
			}
			ps = append(ps, problem{msg, fs})
		}
	}
	for _, f := range fields() {
		if t := f.text(c); len(f.choices) > 0 && t != f.text(Default()) && !slices.Contains(f.choices, t) {
			ps = append(ps, problem{fmt.Sprintf("%s %s is not one of %s", f.name(), shown(t), strings.Join(f.choices, ", ")), []*field{f}})
		}
	}
	return append(ps, c.clashes()...)
}

// sentences takes an error that errors.Join made apart.
func sentences(err error) []string {
	if err == nil {
		return nil
	}
	j, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // the outermost error is the one that was joined
	if !ok {
		return []string{err.Error()}
	}
	var l []string
	for _, e := range j.Unwrap() {
		l = append(l, sentences(e)...)
	}
	return l
}

// MetricsHost returns the address of the metrics listener: the one set, or
// every address of the family that the API's address has.
func (c *Config) MetricsHost() string {
	if c.Metrics.Host != "" {
		return c.Metrics.Host
	}
	if a, err := netip.ParseAddr(c.Server.Host); err == nil && a.Is6() {
		return "::"
	}
	return "0.0.0.0"
}

// clashes finds settings that are right each and wrong together.
func (c *Config) clashes() []problem { return append(c.portClashes(), c.unmet()...) }

// unmet finds modules for tenants that no request can be of: a slip in a name,
// and a module that guards nothing.
func (c *Config) unmet() []problem {
	if c.Auth.TrustTenant || c.Auth.Validate() != nil {
		return nil
	}
	names := append(c.Auth.Tenants(), "") // a request may be nobody's
	var ps []problem
	for _, m := range c.Wasm.Modules {
		s, err := wasm.ParseSpec(m)
		if err == nil && !slices.ContainsFunc(names, s.WantsTenant) {
			ps = append(ps, problem{fmt.Sprintf("wasm-module %s is for tenants that no request is of; tenant-api-key and trust-tenant-header say which there are", shown(s.Name)),
				byPaths("wasm.modules", "auth.tenant_api_keys")})
		}
	}
	return ps
}

func (c *Config) portClashes() []problem {
	if c.Metrics.Port < 1 || c.Metrics.Port > 65535 || !meet(c.Server.Host, c.MetricsHost()) {
		return nil
	}
	var ps []problem
	if c.Metrics.Port == c.Server.Port {
		ps = append(ps, problem{fmt.Sprintf("prometheus-port and port are both %d on the same host", c.Metrics.Port), byPaths("metrics.port", "server.port", "metrics.host", "server.host")})
	}
	if c.Metrics.Port == c.Server.HealthPort {
		ps = append(ps, problem{fmt.Sprintf("prometheus-port and health-check-port are both %d on the same host", c.Metrics.Port), byPaths("metrics.port", "server.health_check_port", "metrics.host", "server.host")})
	}
	return ps
}

// meet reports whether a port can be bound on only one of a and b.
func meet(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	local := func(s string, ip netip.Addr) bool { return s == "localhost" || ip.IsLoopback() }
	switch {
	case errX == nil && x.IsUnspecified(), errY == nil && y.IsUnspecified():
		return true
	case a == "localhost" || b == "localhost":
		return local(a, x) && local(b, y)
	}
	return errX == nil && errY == nil && x.Unmap() == y.Unmap()
}

// Validate reports everything that is wrong with m.
func (m Metrics) Validate() error {
	var errs []error
	if _, err := netip.ParseAddr(m.Host); err != nil && m.Host != "" && m.Host != "localhost" {
		errs = append(errs, fmt.Errorf("prometheus-host %s is not an IP address", shown(m.Host)))
	}
	if m.Port < 0 || m.Port > 65535 {
		errs = append(errs, fmt.Errorf("prometheus-port %d is not between 0 and 65535", m.Port))
	}
	last := 0.0
	for _, b := range m.Buckets {
		if !(b > last) || math.IsInf(b, 0) {
			errs = append(errs, fmt.Errorf("prometheus-duration-buckets: %v after %v; the bounds must be positive and rising", b, last))
			break
		}
		last = b
	}
	return errors.Join(errs...)
}

// Validate reports everything that is wrong with t.
func (t Trace) Validate() error {
	host, port, err := net.SplitHostPort(t.Endpoint)
	n, errPort := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" || errPort != nil || n == 0 || strings.ContainsAny(host, "/@ ") {
		return fmt.Errorf("otlp-traces-endpoint %s is not host:port such as localhost:4317; it has no scheme and no path", shown(t.Endpoint))
	}
	return nil
}

// Validate reports everything that is wrong with r.
func (r Routing) Validate() error {
	var errs []error
	models := make(map[string]string, len(r.ModelAliases))
	for _, s := range r.ModelAliases {
		alias, model, ok := strings.Cut(s, "=")
		if !ok || alias == "" || model == "" || strings.TrimSpace(alias) != alias || strings.TrimSpace(model) != model {
			errs = append(errs, fmt.Errorf("model-alias %s is not alias=model", shown(s)))
			continue
		}
		if was, ok := models[alias]; ok && was != model {
			errs = append(errs, fmt.Errorf("model-alias %s stands for both %s and %s", shown(alias), shown(was), shown(model)))
			continue
		}
		models[alias] = model
	}
	for _, s := range r.ModelAliases {
		alias, model, _ := strings.Cut(s, "=")
		if next, ok := models[model]; ok && models[alias] == model {
			errs = append(errs, fmt.Errorf("model-alias %s stands for %s, which is itself an alias, of %s; name the model", shown(alias), shown(model), shown(next)))
		}
	}
	return errors.Join(errs...)
}

// Aliases returns the model that each alias stands for. r must be valid.
func (r Routing) Aliases() map[string]string {
	m := make(map[string]string, len(r.ModelAliases))
	for _, s := range r.ModelAliases {
		alias, model, _ := strings.Cut(s, "=")
		m[alias] = model
	}
	return m
}
