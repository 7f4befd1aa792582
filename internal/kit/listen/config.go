package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"time"
)

// Config says how the API is listened for. Its host and port are the
// server's.
type Config struct {
	CertFile  string        `yaml:"tls_cert_path" flag:"tls-cert-path" help:"PEM file with the certificate that clients are shown, followed by what signed it; with it, clients must speak TLS. Read again when it changes"`
	KeyFile   string        `yaml:"tls_key_path" flag:"tls-key-path" help:"PEM file with the key of --tls-cert-path, without a passphrase. Read again when it changes"`
	ClientCA  []string      `yaml:"tls_client_ca_paths" flag:"tls-client-ca-paths" help:"PEM files with certificate authorities; with any, a client must show a certificate that one of them has signed. Read again when they change"`
	Unix      string        `yaml:"unix_socket" flag:"unix-socket" help:"Unix socket to listen on in place of --host and --port, as unix:/path or, on Linux, unix:@name"`
	UnixMode  string        `yaml:"unix_socket_mode" flag:"unix-socket-mode" help:"who may connect to --unix-socket, as an octal file mode"`
	ReusePort bool          `yaml:"reuse_port" flag:"reuse-port" help:"let several gateways listen on one port (SO_REUSEPORT; Linux, macOS); the kernel shares connections out"`
	KeepAlive time.Duration `yaml:"tcp_keepalive_secs" flag:"tcp-keepalive-secs" unit:"s" help:"after how much silence the kernel asks whether a client is still there; 0 for never"`
}

// DefaultConfig returns the contract's defaults: no TLS; and ours.
func DefaultConfig() Config {
	return Config{UnixMode: "0660", KeepAlive: DefaultKeepAlive}
}

// Validate reports everything that is wrong with c. It looks at no file.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if (c.CertFile == "") != (c.KeyFile == "") {
		bad("tls-cert-path and tls-key-path must be given together")
	}
	if len(c.ClientCA) > 0 && c.CertFile == "" {
		bad("tls-client-ca-paths needs tls-cert-path and tls-key-path: without TLS, clients show no certificate")
	}
	if slices.Contains(c.ClientCA, "") {
		bad("tls-client-ca-paths has an empty name")
	}
	if c.Unix != "" {
		if a, err := ParseAddress(c.Unix); err != nil {
			bad("unix-socket: %w", err)
		} else if a.Network != "unix" {
			bad("unix-socket %q is not of the form unix:/path or unix:@name", c.Unix)
		}
		if c.ReusePort {
			bad("reuse-port is for TCP ports, and unix-socket takes the place of the port")
		}
	}
	if _, err := parseMode(c.UnixMode); err != nil {
		bad("unix-socket-mode %q is not an octal file mode, as 0660, that lets somebody connect", c.UnixMode)
	}
	if c.KeepAlive < 0 || c.KeepAlive > maxKeepAlive {
		bad("tcp-keepalive-secs is not between 0 and %d", maxKeepAlive/time.Second)
	}
	return errors.Join(errs...)
}

// maxKeepAlive is Linux's bound.
const maxKeepAlive = 32767 * time.Second

var errMode = errors.New("not a mode")

// parseMode reads an octal mode that has at least one right to write, which is
// what connecting needs.
func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 || n&0o222 == 0 {
		return 0, errMode
	}
	return fs.FileMode(n), nil
}

// Options returns what Open is to be told. c must be valid.
func (c Config) Options() Options {
	mode, _ := parseMode(c.UnixMode)
	o := Options{ReusePort: c.ReusePort, KeepAlive: c.KeepAlive, Mode: mode}
	if c.KeepAlive == 0 {
		o.KeepAlive = -1
	}
	return o
}

// Address returns where the API is listened for, host and port being what
// holds unless c says otherwise. c must be valid.
func (c Config) Address(host string, port int) Address {
	if c.Unix == "" {
		return TCP(host, port)
	}
	a, _ := ParseAddress(c.Unix)
	return a
}

// ClientConfig says how workers at https URLs are spoken to.
type ClientConfig struct {
	CertFile           string   `yaml:"client_cert_path" flag:"client-cert-path" help:"PEM file with the certificate that workers are shown when they ask for one, followed by what signed it. Read again when it changes"`
	KeyFile            string   `yaml:"client_key_path" flag:"client-key-path" help:"PEM file with the key of --client-cert-path, without a passphrase. Read again when it changes"`
	CAFiles            []string `yaml:"ca_cert_paths" flag:"ca-cert-paths" help:"PEM files with certificate authorities that workers' certificates may be signed by, beside the system's. Read again when they change"`
	InsecureSkipVerify bool     `yaml:"insecure_skip_verify" flag:"worker-tls-insecure-skip-verify" help:"believe any certificate of a worker: whoever is between could read and change all; for trials only"`
}

// DefaultClientConfig returns the contract's defaults: what the system trusts.
func DefaultClientConfig() ClientConfig { return ClientConfig{} }

// Validate reports everything that is wrong with c. It looks at no file.
func (c ClientConfig) Validate() error {
	var errs []error
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, errors.New("client-cert-path and client-key-path must be given together"))
	}
	if slices.Contains(c.CAFiles, "") {
		errs = append(errs, errors.New("ca-cert-paths has an empty name"))
	}
	return errors.Join(errs...)
}
