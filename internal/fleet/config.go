package fleet

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Config says which workers there are at the start and how they join.
type Config struct {
	WorkerURLs      []string      `yaml:"worker_urls" flag:"worker-urls" help:"workers to begin with: http:// or https:// URLs, host:port, or unix:/path"`
	Backend         string        `yaml:"backend" flag:"backend,runtime" choices:"sglang,vllm,tokenspeed,openai,anthropic,trtllm,gemini" help:"what the workers are, where they do not say it themselves"`
	StartupTimeout  time.Duration `yaml:"startup_timeout_secs" flag:"worker-startup-timeout-secs" unit:"s" help:"how long a new worker may take to answer before its registration counts as failed; it is asked again ever after"`
	StartupDelay    time.Duration `yaml:"startup_delay" flag:"worker-startup-delay" unit:"s" help:"pause before a new worker is first asked"`
	StartupInterval time.Duration `yaml:"startup_check_interval" flag:"worker-startup-check-interval" unit:"s" help:"longest pause between two questions to a worker that is starting"`
	JobCapacity     int           `yaml:"job_queue_capacity" flag:"job-queue-capacity" help:"registrations and removals that may wait; further ones are refused with 503"`
	JobConcurrency  int           `yaml:"job_queue_concurrency" flag:"job-queue-concurrency" help:"registrations and removals that run at once"`
	LoadInterval    time.Duration `yaml:"load_monitor_interval" flag:"load-monitor-interval" unit:"s" help:"pause between two load reports of a worker"`
	EngineMetrics   bool          `yaml:"engine_metrics" flag:"engine-metrics" help:"ask workers for their load and show it as smg_engine_* metrics"`
	DrainSettle     time.Duration `yaml:"drain_settle_secs" flag:"drain-settle-secs" unit:"s" help:"how long a worker that is removed stays known as draining; its running requests are never cut"`
	RemoveUnhealthy bool          `yaml:"remove_unhealthy" flag:"remove-unhealthy-workers,no-worker-auto-recovery" negative:"no-remove-unhealthy-workers,worker-auto-recovery" help:"forget workers that reached the failed state instead of asking them for ever"`

	DPAware     bool          `yaml:"dp_aware" flag:"dp-aware" help:"treat each data-parallel rank of a worker as a worker of its own, url@rank: as many as SGLang tells, or as the field or label dp_size of a worker says"`
	NoLoads     bool          `yaml:"disable_load_monitoring" flag:"disable-load-monitoring" help:"do not ask workers for their load, unless engine-metrics needs it: policies go by this gateway's own requests, and no worker counts as overloaded"`
	Stale       time.Duration `yaml:"stale_secs" flag:"worker-stale-secs" unit:"s" help:"age at which a worker's load report is not believed any more; at least one and a half load-monitor-intervals"`
	Protect     bool          `yaml:"overload_protection" flag:"worker-overload-protection" negative:"disable-worker-overload-protection" help:"give workers that report too much load no requests while others can serve them"`
	OverWaiting int           `yaml:"overload_waiting_requests" flag:"worker-overload-waiting-requests" help:"waiting requests from which a worker counts as overloaded, until they are three quarters of it"`
	OverUsage   float64       `yaml:"overload_token_usage" flag:"worker-overload-token-usage" help:"used part of its KV cache, above 0 to 1, from which a worker counts as overloaded, until it is 0.05 less"`
	OverShed    bool          `yaml:"overload_shed" flag:"worker-overload-shed" help:"refuse requests while every worker for them is overloaded, instead of giving them to one"`
	Stall       time.Duration `yaml:"stall_secs" flag:"worker-stall-secs" unit:"s" help:"how long a worker to which connections fail may be silent before others are preferred"`
	Wedge       time.Duration `yaml:"wedge_secs" flag:"worker-wedge-secs" unit:"s" help:"how long a worker's load reports may show requests and no movement before others are preferred; 0 for ever"`
}

// HealthConfig says how workers are asked how they are.
type HealthConfig struct {
	Failures  int           `yaml:"failure_threshold" flag:"health-failure-threshold" help:"failed checks in a row that make a worker not ready"`
	Successes int           `yaml:"success_threshold" flag:"health-success-threshold" help:"passed checks in a row that make a worker ready"`
	Timeout   time.Duration `yaml:"check_timeout_secs" flag:"health-check-timeout-secs" unit:"s" help:"how long a worker may take to answer a health check"`
	Interval  time.Duration `yaml:"check_interval_secs" flag:"health-check-interval-secs" unit:"s" help:"pause between two checks of a worker that is ready"`
	Path      string        `yaml:"check_endpoint" flag:"health-check-endpoint" help:"path that is asked; any 2xx answer is good"`
	Disabled  bool          `yaml:"disable" flag:"disable-health-check" help:"take workers for ready without asking"`
}

// DefaultConfig returns the contract's defaults.
func DefaultConfig() Config {
	return Config{
		StartupTimeout: 1800 * time.Second, StartupInterval: 30 * time.Second,
		JobCapacity: 1000, JobConcurrency: 200, LoadInterval: 10 * time.Second, DrainSettle: 5 * time.Second,
		Stale: 15 * time.Second, Protect: true, OverWaiting: 8, OverUsage: 0.8, Stall: 2 * time.Second, Wedge: 3 * time.Second,
	}
}

// DefaultHealthConfig returns the contract's defaults.
func DefaultHealthConfig() HealthConfig {
	return HealthConfig{Failures: 3, Successes: 2, Timeout: 5 * time.Second, Interval: 60 * time.Second, Path: "/health"}
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch c.Backend {
	case "openai", "anthropic", "gemini":
		bad("backend %q is not supported yet: external providers are not built; use sglang or vllm", c.Backend)
	}
	seen := make(map[string]bool, len(c.WorkerURLs))
	for _, s := range c.WorkerURLs {
		u, err := ParseURL(s, true)
		switch {
		case err != nil:
			bad("worker-urls: %w", err)
		case seen[u.String()]:
			bad("worker-urls: %s stands there twice", u.Redacted())
		default:
			seen[u.String()] = true
		}
	}
	errs = append(errs, inSecs("worker-startup-timeout-secs", c.StartupTimeout, 1), inSecs("worker-startup-check-interval", c.StartupInterval, 1),
		inSecs("worker-startup-delay", c.StartupDelay, 0), inSecs("drain-settle-secs", c.DrainSettle, 0), inSecs("load-monitor-interval", c.LoadInterval, 1))
	errs = append(errs, countFrom1("job-queue-capacity", c.JobCapacity), countFrom1("job-queue-concurrency", c.JobConcurrency))
	errs = append(errs, countFrom1("worker-overload-waiting-requests", c.OverWaiting), inSecs("worker-stale-secs", c.Stale, 1),
		inSecs("worker-stall-secs", c.Stall, 1), inSecs("worker-wedge-secs", c.Wedge, 0))
	if !(c.OverUsage > 0 && c.OverUsage <= 1) {
		bad("worker-overload-token-usage %v is not above 0 and at most 1", c.OverUsage)
	}
	return errors.Join(errs...)
}

// Validate reports everything that is wrong with c.
func (c HealthConfig) Validate() error {
	errs := []error{
		countFrom1("health-failure-threshold", c.Failures), countFrom1("health-success-threshold", c.Successes),
		inSecs("health-check-timeout-secs", c.Timeout, 1), inSecs("health-check-interval-secs", c.Interval, 1),
	}
	if u, err := url.ParseRequestURI(c.Path); err != nil || u.Host != "" || !strings.HasPrefix(c.Path, "/") || strings.Contains(c.Path, "#") {
		errs = append(errs, fmt.Errorf("health-check-endpoint %q is not a path such as /health", c.Path))
	}
	return errors.Join(errs...)
}

func countFrom1(name string, n int) error {
	if n < 1 {
		return fmt.Errorf("%s %d must be at least 1", name, n)
	}
	return nil
}

// inSecs bounds a time, so that the tenth that jitter adds cannot overflow.
func inSecs(name string, d time.Duration, least int) error {
	if d < time.Duration(least)*time.Second || d > maxSecs*time.Second {
		return fmt.Errorf("%s %d is not between %d and %d", name, d/time.Second, least, maxSecs)
	}
	return nil
}
