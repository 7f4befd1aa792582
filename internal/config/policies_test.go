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
	const (
		waiting = " --policy least_load --worker-overload-shed --least-load-max-waiting-requests 3"
		caches  = " --policy cache_aware --balance-token-usage-threshold 0.3 --overload-token-usage-threshold 0.9"
	)
	f("--disable-load-monitoring"+waiting, "worker-overload-shed", "least-load-max-waiting-requests")
	f("--disable-load-monitoring"+caches, "balance-token-usage-threshold", "overload-token-usage-threshold")
	f("--disable-load-monitoring --engine-metrics" + waiting)
	f("--disable-load-monitoring --engine-metrics" + caches)
	f("--policy cache_aware --cache-boundaries 128,256", "cache-boundaries")
	f("--policy cache_aware --cache-boundaries 128,256 --cache-index hash")

	f("--cache-threshold 0.5 --eviction-interval 60", "cache-threshold", "eviction-interval")
	f("--cache-threshold 0.3") // what it is anyway
	f("--policy cache_aware --cache-threshold 0.5")
	f("--policy cache_aware --cost-kv-full 0.5", "cost-kv-full")
	f("--policy bucket --balance-abs-threshold 5 --cache-threshold 0.4", "cache-threshold")
	f("--policy prefix_hash --routing-key-headers x-key --max-idle-secs 5", "max-idle-secs")
	f("--policy random --routing-key-override --max-idle-secs 5 --sticky-max-keys 9")
	f("--max-idle-secs 5", "max-idle-secs")
}
