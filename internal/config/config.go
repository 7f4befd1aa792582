// Package config knows every setting: its flag, its key, its variable, its
// default, and who set it.
//
// Each part declares a Config struct of its own; Config here is the struct of
// those structs, and their tags are the only list of settings there is: the
// parser, the loader, --help and docs/settings.md all walk it. Flags that the
// contract knows and no struct has stand in flags.tsv, and are refused by name.
package config

import (
	"sluice/internal/fleet"
	"sluice/internal/gate/access"
	"sluice/internal/gate/auth"
	"sluice/internal/gate/cors"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/listen"
	"sluice/internal/kit/upstream"
	"sluice/internal/policy"
	"sluice/internal/route"
	"sluice/internal/server"
	"sluice/internal/wasm"
)

// Config is every setting of the gateway. Parts get their own struct and never
// see the whole.
//
// A field of a section is a setting if it has a yaml tag. The other tags: flag
// has the names of its flag, the primary one first; negative, the flags that
// set a bool to false; unit, what an integer means for a time.Duration (s or
// ms); choices, the values allowed; help, what it means.
type Config struct {
	Server     server.Config           `yaml:"server" help:"Listener"`
	Listen     listen.Config           `yaml:"listen" help:"Sockets and TLS"`
	Access     access.Config           `yaml:"access" help:"Request ids and access log"`
	Auth       auth.Config             `yaml:"auth" help:"Authentication"`
	CORS       cors.Config             `yaml:"cors" help:"Web pages"`
	Workers    fleet.Config            `yaml:"workers" help:"Workers"`
	Health     fleet.HealthConfig      `yaml:"health" help:"Health checks"`
	Breaker    breaker.Config          `yaml:"breaker" help:"Circuit breaker"`
	Policy     policy.Config           `yaml:"policy" help:"Policy"`
	RoutingKey policy.RoutingKeyConfig `yaml:"routing_key" help:"Routing keys"`
	PrefixHash policy.PrefixHashConfig `yaml:"prefix_hash" help:"Policy prefix_hash"`
	Bucket     policy.BucketConfig     `yaml:"bucket" help:"Policy bucket"`
	CacheAware policy.CacheAwareConfig `yaml:"cache_aware" help:"Policy cache_aware"`
	LeastLoad  policy.LeastLoadConfig  `yaml:"least_load" help:"Policy least_load"`
	PowerOfTwo policy.PowerOfTwoConfig `yaml:"power_of_two" help:"Policy power_of_two"`
	Ranks      policy.RanksConfig      `yaml:"ranks" help:"Data-parallel ranks"`
	Cost       policy.CostConfig       `yaml:"cost" help:"Policy cost"`
	Routing    Routing                 `yaml:"routing" help:"Models"`
	Retry      route.Config            `yaml:"retry" help:"Time limit and retries"`
	Receipts   route.ReceiptConfig     `yaml:"receipts" help:"Receipts of decisions"`
	Upstream   upstream.Config         `yaml:"upstream" help:"Connections to workers"`
	WorkerTLS  listen.ClientConfig     `yaml:"worker_tls" help:"TLS to workers"`
	Wasm       wasm.Config             `yaml:"wasm" help:"WebAssembly modules"`
	Log        Log                     `yaml:"log" help:"Log"`
	Metrics    Metrics                 `yaml:"metrics" help:"Metrics"`
	Trace      Trace                   `yaml:"trace" help:"Traces"`
}

// Log says where the log goes and how much of it there is.
type Log struct {
	Dir   string `yaml:"dir" flag:"log-dir" help:"directory for log files, one a day; none means standard error"`
	Level string `yaml:"level" flag:"log-level" choices:"debug,info,warn,error" help:"least important line that is written"`
	JSON  bool   `yaml:"json" flag:"log-json" help:"write lines as JSON"`
}

// Metrics says where the gateway can be observed.
type Metrics struct {
	Host    string    `yaml:"host" flag:"prometheus-host" help:"address of the metrics listener; none means every address of the family that --host has"`
	Port    int       `yaml:"port" flag:"prometheus-port" help:"port of /metrics; 0 for any free one"`
	Buckets []float64 `yaml:"duration_buckets" flag:"prometheus-duration-buckets" help:"bounds of the duration histograms in seconds, rising; none means the built-in ones, 0.001 to 7200"`
	Pprof   bool      `yaml:"pprof" flag:"enable-pprof" help:"serve Go profiles under /debug/pprof/ on the metrics listener"`
}

// Trace says where spans go.
type Trace struct {
	Enable   bool   `yaml:"enable" flag:"enable-trace" help:"send a span for each request"`
	Endpoint string `yaml:"endpoint" flag:"otlp-traces-endpoint" help:"host:port of the collector, OTLP over gRPC"`
}

// Routing says under which names models are asked for.
type Routing struct {
	ModelAliases []string `yaml:"model_aliases" flag:"model-alias" help:"further name of a model, as alias=model; a worker's own model of that name goes before it, and the log says so"`
}

// Default returns the settings that hold where nobody says otherwise.
func Default() *Config {
	return &Config{
		Server:     server.DefaultConfig(),
		Access:     access.DefaultConfig(),
		Auth:       auth.DefaultConfig(),
		CORS:       cors.DefaultConfig(),
		Workers:    fleet.DefaultConfig(),
		Health:     fleet.DefaultHealthConfig(),
		Breaker:    breaker.DefaultConfig(),
		Policy:     policy.DefaultConfig(),
		RoutingKey: policy.DefaultRoutingKeyConfig(),
		PrefixHash: policy.DefaultPrefixHashConfig(),
		Bucket:     policy.DefaultBucketConfig(),
		CacheAware: policy.DefaultCacheAwareConfig(),
		LeastLoad:  policy.DefaultLeastLoadConfig(),
		PowerOfTwo: policy.DefaultPowerOfTwoConfig(),
		Ranks:      policy.DefaultRanksConfig(),
		Cost:       policy.DefaultCostConfig(),
		Retry:      route.DefaultConfig(),
		Receipts:   route.DefaultReceiptConfig(),
		Upstream:   upstream.DefaultConfig(),
		WorkerTLS:  listen.DefaultClientConfig(),
		Listen:     listen.DefaultConfig(),
		Wasm:       wasm.DefaultConfig(),
		Log:        Log{Level: "info"},
		Metrics:    Metrics{Port: 29000},
		Trace:      Trace{Endpoint: "localhost:4317"},
	}
}
