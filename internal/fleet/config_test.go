package fleet

import (
	"math"
	"testing"
	"time"
)

func TestEveryWrongSettingIsToldByItself(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	if err := DefaultHealthConfig().Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for _, tt := range []struct {
		name string
		tune func(*Config, *HealthConfig)
		want string // of both, a line each
	}{
		{"zeros", func(c *Config, h *HealthConfig) { h.Failures, h.Successes, c.JobConcurrency = 0, -1, 0 },
			"job-queue-concurrency 0 must be at least 1\nhealth-failure-threshold 0 must be at least 1\nhealth-success-threshold -1 must be at least 1\n"},
		{"no time at all", func(c *Config, h *HealthConfig) { c.StartupTimeout, c.StartupDelay, h.Interval = 0, 0, 0 },
			"worker-startup-timeout-secs 0 is not between 1 and 315360000\nhealth-check-interval-secs 0 is not between 1 and 315360000\n"},
		{"before now", func(c *Config, _ *HealthConfig) { c.StartupDelay = -time.Second },
			"worker-startup-delay -1 is not between 0 and 315360000\n"},
		{"so long that a tenth more is no time", func(_ *Config, h *HealthConfig) { h.Interval = math.MaxInt64 },
			"health-check-interval-secs 9223372036 is not between 1 and 315360000\n"},
		{"a path without /", func(_ *Config, h *HealthConfig) { h.Path = "health" }, "health-check-endpoint \"health\" is not a path such as /health\n"},
		{"a URL", func(_ *Config, h *HealthConfig) { h.Path = "http://a/health" }, "health-check-endpoint \"http://a/health\" is not a path such as /health\n"},
		{"a path that no request can have", func(_ *Config, h *HealthConfig) { h.Path = "/%zz" }, "health-check-endpoint \"/%zz\" is not a path such as /health\n"},
		{"a fragment", func(_ *Config, h *HealthConfig) { h.Path = "/health#x" }, "health-check-endpoint \"/health#x\" is not a path such as /health\n"},
		{"a query", func(_ *Config, h *HealthConfig) { h.Path = "/health?deep=1" }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, h := DefaultConfig(), DefaultHealthConfig()
			tt.tune(&c, &h)
			got := ""
			for _, err := range []error{c.Validate(), h.Validate()} {
				if err != nil {
					got += err.Error() + "\n"
				}
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}
