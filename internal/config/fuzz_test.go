package config

import (
	"errors"
	"strings"
	"testing"
)

// whole checks what must hold of every answer of Load: either a configuration
// that is valid, or Faults that are sentences of one line each.
func whole(t *testing.T, c *Config, o *Origins, err error) {
	t.Helper()
	if err == nil {
		if c == nil || o == nil || c.Validate() != nil {
			t.Fatalf("no error, and %v, %v, %v", c, o, c.Validate())
		}
		return
	}
	var f *Faults
	if !errors.As(err, &f) || len(f.List) == 0 || len(f.List) > maxFaults || c != nil || o != nil {
		t.Fatalf("the error is %#v beside %v; want Faults alone", err, c)
	}
	for _, s := range f.List {
		if s == "" || strings.ContainsAny(s, "\n\x1b\x00") {
			t.Fatalf("the fault %q is not a line that a terminal can show", s)
		}
	}
}

// FuzzArgs holds that any argument list is a valid configuration or Faults.
func FuzzArgs(f *testing.F) {
	for _, s := range []string{
		"--port 1", "--worker-urls a b --port=2", "--prefill u 1 --prefill u none --port 1", "--_ --= -- - -1 -.5", "--enable_igw=false --log-json=TRUE",
		"--api-key --x --api-key=", "--no-remove-unhealthy-workers=x", "--model-alias a=b --model-alias", "--config \x1b", "--prot 1 -p --prometheus-duration-buckets -1 -.1 nan",
	} {
		f.Add(strings.ReplaceAll(s, " ", "\n"))
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, o, err := Load(strings.Split(s, "\n"), nil, files("s.yaml", ""))
		whole(t, c, o, err)
	})
}

// FuzzEnv holds the same of the environment.
func FuzzEnv(f *testing.F) {
	for _, s := range []string{"SLUICE_PORT=1", "SLUICE_PORT=tcp://1:1", "SLUICE_=", "SLUICE_WORKER_URLS=a,,b", "=", "SLUICE_CONFIG=x", "SLUICE_SERVICE_PORT_X=1", "SLUICE_PROT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, o, err := Load(nil, strings.Split(s, "\n"), files("s.yaml", ""))
		whole(t, c, o, err)
	})
}

// FuzzFile holds the same of the settings file.
func FuzzFile(f *testing.F) {
	for _, s := range []string{
		"server: {port: 1}", "server: &a {port: 1}\nlog: *a", "a: &a [*a]", "? [a]\n: b", "server:\n  port: 1\n  port: 2", "---\n---\n", "server: !x {}", "auth: {api_key: *x}",
		"<<: {server: {port: 1}}", "metrics: {duration_buckets: [1, .inf, 0x10, 1_0]}", "server: {port: 0o17}", "\t", "server: {port: 2001-01-01}", "workers: {worker_urls: [~]}", "\"\\x1b\": 1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, o, err := Load([]string{"--config", "s.yaml"}, nil, func(string) ([]byte, error) { return []byte(s), nil })
		whole(t, c, o, err)
	})
}
