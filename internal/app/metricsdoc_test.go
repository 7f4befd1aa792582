package app

import (
	"bytes"
	"flag"
	"log/slog"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sluice/internal/config"
	"sluice/internal/kit/metric"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

const metricsHead = `<!-- Made from the parts' metric structs: go test ./internal/app -run TestMetricsDoc -update -->

# Metrics

` + "`GET /metrics`" + ` on the metrics port (` + "`--prometheus-port`" + `, 29000) answers in Prometheus's text format. Nothing else answers there, but for
` + "`/debug/pprof/`" + ` where a setting asks for it.

- Names that begin with ` + "`smg_`" + ` have the name, type and labels of the SGLang Model Gateway, so its dashboards work. What is new begins with ` + "`sluice_`" + `.
  Beside these there are the Go runtime's (` + "`go_…`" + `) and the process's (` + "`process_…`" + `).
- A label ` + "`worker`" + ` is the worker's URL. When a worker is removed, its series go.
- Times are in seconds. ` + "`--prometheus-duration-buckets`" + ` sets the bounds of the histograms of durations.
- A metric has at most 10,000 sets of label values; what comes beyond is counted under ` + "`other`" + `. Of gauges that are read from the fleet the first 8,192 are shown.
  No label holds what a client made up: an unknown path is ` + "`other`" + `, an unknown model ` + "`unknown`" + `.
- ` + "`error_type`" + ` is one of ` + "`no_workers`, `timeout`, `validation_error`, `backend_error`, `client_closed`, `internal_error`" + `.

`

// TestMetricsDoc holds docs/metrics.md to what a gateway registers.
func TestMetricsDoc(t *testing.T) {
	const file = "../../docs/metrics.md"
	cfg := config.Default()
	cfg.Server.Host, cfg.Server.Port, cfg.Metrics.Port = "127.0.0.1", 0, 0
	cfg.Wasm.Enable = true
	a, err := New(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	got := append([]byte(metricsHead), metric.Markdown(a.metrics.Describe())...)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("docs/metrics.md is not fresh; run make gen:\n%s", cmp.Diff(string(want), string(got)))
	}
}
