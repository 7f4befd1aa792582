package server

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"sluice/internal/kit/h1"
)

// Config says where the gateway listens and what it takes from clients.
type Config struct {
	Host              string        `yaml:"host" flag:"host" help:"address to listen on"`
	Port              int           `yaml:"port" flag:"port" help:"port of the API; 0 for any free one"`
	HealthPort        int           `yaml:"health_check_port" flag:"health-check-port" help:"further port that answers /liveness, /readiness and /health only; 0 for none"`
	MaxBody           int64         `yaml:"max_payload_size" flag:"max-payload-size" help:"largest request body in bytes; larger ones get 413"`
	MaxBuffered       int64         `yaml:"max_buffered_bodies" flag:"max-buffered-bodies" help:"bytes of memory that request bodies of more than 64 KiB may have at once, those left out that pass as they come; further long ones get 503, but one alone may be as long as any. 0 for any number"`
	StreamAbove       int64         `yaml:"stream_body_above" flag:"stream-body-above" help:"bytes of a request body above which it goes to a worker as it comes, instead of being read first, if there is only one model to choose and no alias for it; nobody looks into it then and it is sent once, without retries. 0 for never"`
	HeaderReadTimeout time.Duration `yaml:"header_read_timeout_secs" flag:"header-read-timeout-secs" unit:"s" help:"how long a client may take to send a request's header"`
	HandshakeTimeout  time.Duration `yaml:"tls_handshake_timeout_secs" flag:"tls-handshake-timeout-secs" unit:"s" help:"how long a client may take for the TLS handshake"`
	IdleTimeout       time.Duration `yaml:"idle_connection_timeout_secs" flag:"idle-connection-timeout-secs" unit:"s" help:"how long an idle client connection is kept"`
	BodyTimeout       time.Duration `yaml:"body_read_timeout_secs" flag:"body-read-timeout-secs" unit:"s" help:"how long a client may send nothing of a request body that it has begun"`
	BodyRate          int           `yaml:"body_min_rate" flag:"body-min-rate" help:"bytes per second that a request body must come with on average, after the first 30 seconds; 0 for any"`
	WriteTimeout      time.Duration `yaml:"client_write_timeout_secs" flag:"client-write-timeout-secs" unit:"s" help:"how long a client may read nothing of its answer"`
	Linger            time.Duration `yaml:"client_linger_timeout_secs" flag:"client-linger-timeout-secs" unit:"s" help:"how long a connection stays open for its client to read the last answer, what it still sends being thrown away; closed sooner, it could see a reset before the answer"`
	TunnelIdle        time.Duration `yaml:"tunnel_idle_timeout_secs" flag:"tunnel-idle-timeout-secs" unit:"s" help:"how long a WebSocket may pass nothing in either direction; 0 for any time"`
	TunnelHalf        time.Duration `yaml:"tunnel_half_closed_timeout_secs" flag:"tunnel-half-closed-timeout-secs" unit:"s" help:"how long a WebSocket of which one end has hung up may pass nothing; 0 for as long as any other"`
	MaxConnections    int           `yaml:"max_connections" flag:"max-connections" help:"open client connections; further ones get 503"`
	MaxPerAddress     int           `yaml:"max_connections_per_address" flag:"max-connections-per-address" help:"open client connections of one address; further ones get 503; 0 for any number"`
	MaxRequests       int           `yaml:"max_requests_per_connection" flag:"max-requests-per-connection" help:"requests after which a client connection is closed; 0 for any number"`
	MaxPipelined      int           `yaml:"max_pipelined_requests" flag:"max-pipelined-requests" help:"requests that a client may send ahead of its answers in a row before its connection is closed"`
	MaxRequestLine    int           `yaml:"max_request_line" flag:"max-request-line" help:"longest request line in bytes; longer ones get 414"`
	MaxHeader         int           `yaml:"max_header" flag:"max-header" help:"largest request header in bytes; larger ones get 431"`
	MaxHeaderFields   int           `yaml:"max_header_fields" flag:"max-header-fields" help:"most fields of a request header, 256 at most; more get 431"`
	Grace             time.Duration `yaml:"shutdown_grace_period_secs" flag:"shutdown-grace-period-secs" unit:"s" help:"how long running requests may take to end after SIGTERM"`
	RuntimeThreads    int           `yaml:"runtime_worker_threads" flag:"runtime-worker-threads" help:"threads that run Go code at once; 0 for as many as the machine or its cgroup has"`
	FixedThreads      bool          `yaml:"runtime_fixed_threads" flag:"runtime-fixed-threads" help:"let all these threads run at all times, not only as many as there is work for"`
}

// DefaultConfig returns the contract's defaults.
func DefaultConfig() Config {
	return Config{
		Host: "0.0.0.0", Port: 30000, MaxBody: 512 << 20, MaxBuffered: 1 << 30, StreamAbove: 8 << 20,
		HeaderReadTimeout: 30 * time.Second, HandshakeTimeout: 10 * time.Second, IdleTimeout: 90 * time.Second, Grace: 180 * time.Second,
		BodyTimeout: 60 * time.Second, BodyRate: 1 << 10, WriteTimeout: 300 * time.Second, Linger: 5 * time.Second,
		TunnelIdle: time.Hour, TunnelHalf: 10 * time.Second,
		MaxConnections: 100_000, MaxPipelined: 100,
		MaxRequestLine: 8 << 10, MaxHeader: 64 << 10, MaxHeaderFields: 100,
	}
}

// bodyGrace is how long a request body may come at any rate.
const bodyGrace = 30 * time.Second

// limits are what the parser holds requests to.
func (c Config) limits() h1.Limits {
	l := h1.DefaultLimits()
	l.RequestLine, l.Head, l.Fields = c.MaxRequestLine, c.MaxHeader, c.MaxHeaderFields
	return l
}

// maxMaxBody is more than any machine can hold, and far from where sums
// overflow.
const maxMaxBody = 1 << 50

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, err := netip.ParseAddr(c.Host); err != nil && c.Host != "localhost" {
		bad("host %q is not an IP address", c.Host)
	}
	if c.Port < 0 || c.Port > 65535 {
		bad("port %d is not between 0 and 65535", c.Port)
	}
	if c.HealthPort < 0 || c.HealthPort > 65535 {
		bad("health-check-port %d is not between 0 and 65535", c.HealthPort)
	}
	if c.HealthPort != 0 && c.HealthPort == c.Port {
		bad("health-check-port and port are both %d", c.Port)
	}
	if c.MaxBody < 1 || c.MaxBody > maxMaxBody {
		bad("max-payload-size %d is not between 1 and %d", c.MaxBody, int64(maxMaxBody))
	}
	if c.StreamAbove < 0 || c.MaxBuffered < 0 {
		bad("stream-body-above and max-buffered-bodies must not be negative")
	}
	if c.HeaderReadTimeout <= 0 || c.HandshakeTimeout <= 0 || c.IdleTimeout <= 0 {
		bad("header-read-timeout-secs, tls-handshake-timeout-secs and idle-connection-timeout-secs must be at least 1")
	}
	if c.BodyTimeout <= 0 || c.WriteTimeout <= 0 {
		bad("body-read-timeout-secs and client-write-timeout-secs must be at least 1")
	}
	if c.TunnelIdle < 0 || c.TunnelHalf < 0 || c.Linger < 0 {
		bad("tunnel-idle-timeout-secs, tunnel-half-closed-timeout-secs and client-linger-timeout-secs must not be negative")
	}
	if c.BodyRate < 0 || c.MaxPerAddress < 0 || c.MaxRequests < 0 {
		bad("body-min-rate, max-connections-per-address and max-requests-per-connection must not be negative")
	}
	if c.MaxConnections < 1 || c.MaxPipelined < 1 {
		bad("max-connections and max-pipelined-requests must be at least 1")
	}
	if c.MaxRequestLine < 256 || c.MaxHeader < c.MaxRequestLine || c.MaxHeader > 16<<20 {
		bad("max-request-line %d and max-header %d must be at least 256 and at most %d, the line no longer than the header", c.MaxRequestLine, c.MaxHeader, 16<<20)
	}
	if c.MaxHeaderFields < 1 || c.MaxHeaderFields > h1.MaxFields {
		bad("max-header-fields %d is not between 1 and %d", c.MaxHeaderFields, h1.MaxFields)
	}
	if c.Grace < 0 {
		bad("shutdown-grace-period-secs must not be negative")
	}
	if c.RuntimeThreads < 0 {
		bad("runtime-worker-threads must not be negative")
	}
	return errors.Join(errs...)
}
