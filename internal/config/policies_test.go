package config

import (
	"slices"
	"strings"
	"testing"
)

// TestSettingsWithoutEffectAreTold holds that each pair of settings of which one
// makes the other useless is named, and no pair that makes sense.
func TestSettingsWithoutEffectAreTold(t *testing.T) {
	f := func(flags string, want ...string) {
		t.Helper()
		c, _, err := Load(strings.Fields(flags), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range c.Idle() {
			name, _, _ := strings.Cut(s, " ")
			got = append(got, name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v do nothing, want %v", flags, got, want)
		}
	}
	f("")
	f("--prefill-policy bucket", "prefill-policy")
	f("--policy random --decode-policy random", "decode-policy")
	f("--dp-minimum-tokens-scheduler", "dp-minimum-tokens-scheduler")
	f("--dp-minimum-tokens-scheduler --dp-aware")
	f("--worker-overload-shed")
	f("--worker-overload-shed --disable-worker-overload-protection", "worker-overload-shed")
	const knobs = " --worker-overload-shed --least-load-max-waiting-requests 3 --balance-token-usage-threshold 0.3 --overload-token-usage-threshold 0.9"
	f("--disable-load-monitoring"+knobs, "worker-overload-shed", "least-load-max-waiting-requests", "balance-token-usage-threshold", "overload-token-usage-threshold")
	f("--disable-load-monitoring --engine-metrics" + knobs)
	f("--cache-boundaries 128,256", "cache-boundaries")
	f("--cache-boundaries 128,256 --cache-index hash")
}
