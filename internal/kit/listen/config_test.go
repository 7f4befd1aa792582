package listen

import (
	"testing"
	"time"
)

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	if err := DefaultClientConfig().Validate(); err != nil {
		t.Error(err)
	}
	tests := []struct {
		name string
		edit func(*Config)
		says string // "" for valid
	}{
		{"TLS", func(c *Config) { c.CertFile, c.KeyFile = "a", "b" }, ""},
		{"mutual TLS", func(c *Config) { c.CertFile, c.KeyFile, c.ClientCA = "a", "b", []string{"c"} }, ""},
		{"a certificate without its key", func(c *Config) { c.CertFile = "a" }, "tls-cert-path and tls-key-path must be given together"},
		{"a key without its certificate", func(c *Config) { c.KeyFile = "a" }, "must be given together"},
		{"authorities without TLS", func(c *Config) { c.ClientCA = []string{"a"} }, "tls-client-ca-paths needs tls-cert-path"},
		{"an authority without a name", func(c *Config) { c.CertFile, c.KeyFile, c.ClientCA = "a", "b", []string{""} }, "tls-client-ca-paths has an empty name"},
		{"a socket", func(c *Config) { c.Unix = "unix:/run/s" }, ""},
		{"a path without unix:", func(c *Config) { c.Unix = "/run/s" }, "unix-socket"},
		{"a port for a socket", func(c *Config) { c.Unix = "127.0.0.1:80" }, "is not of the form unix:/path"},
		{"a shared socket", func(c *Config) { c.Unix, c.ReusePort = "unix:/run/s", true }, "reuse-port is for TCP ports"},
		{"a mode in words", func(c *Config) { c.UnixMode = "rw" }, `unix-socket-mode "rw"`},
		{"a mode in tens", func(c *Config) { c.UnixMode = "0680" }, "unix-socket-mode"},
		{"a mode that lets nobody in", func(c *Config) { c.UnixMode = "0444" }, "unix-socket-mode"},
		{"a mode with more bits", func(c *Config) { c.UnixMode = "4660" }, "unix-socket-mode"},
		{"silence before the beginning", func(c *Config) { c.KeepAlive = -time.Second }, "tcp-keepalive-secs"},
		{"more silence than Linux counts", func(c *Config) { c.KeepAlive = 10 * time.Hour }, "tcp-keepalive-secs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			tt.edit(&c)
			err := c.Validate()
			if tt.says != "" {
				refused(t, err, tt.says)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	refused(t, ClientConfig{CertFile: "a", CAFiles: []string{""}}.Validate(), "client-cert-path and client-key-path must be given together", "ca-cert-paths has an empty name")
}

func TestWhatOpenIsTold(t *testing.T) {
	c := DefaultConfig()
	if got, want := c.Options(), (Options{KeepAlive: 30 * time.Second, Mode: 0o660}); got != want {
		t.Errorf("by default %+v, want %+v", got, want)
	}
	if got, want := c.Address("::1", 80), (Address{"tcp", "[::1]:80"}); got != want {
		t.Errorf("by default %v, want %v", got, want)
	}
	c = Config{Unix: "unix:///run/s", UnixMode: "0600", ReusePort: true}
	if got, want := c.Options(), (Options{KeepAlive: -1, Mode: 0o600, ReusePort: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := c.Address("::1", 80), (Address{"unix", "/run/s"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
