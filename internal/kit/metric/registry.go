package metric

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// DurationBuckets are the contract's bounds, in seconds, of the histograms
// that measure requests.
func DurationBuckets() []float64 {
	return []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 45, 60, 90, 120, 180, 240, 300, 480, 900, 1200, 1800, 2700, 3600, 5400, 7200}
}

// A Registry holds the metrics of one gateway, and those of its process.
type Registry struct {
	prom     *prometheus.Registry
	duration []float64 // constant; bounds of the buckets called "duration"

	mu    sync.Mutex
	descs []Desc // guarded by mu
}

// A Desc says what a metric is.
type Desc struct {
	Name   string
	Type   string // counter, gauge or histogram
	Labels []string
	Help   string
}

// NewRegistry returns a Registry in which only the process's own metrics
// (go_…, process_…) are. Histograms of durations get the bounds given, in
// seconds and ascending, or the contract's if there are none.
func NewRegistry(durationBuckets []float64) *Registry {
	if len(durationBuckets) == 0 {
		durationBuckets = DurationBuckets()
	}
	r := &Registry{prom: prometheus.NewRegistry(), duration: slices.Clone(durationBuckets)}
	r.prom.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Handler answers with all metrics in Prometheus's text format.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.prom, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Describe returns what was filled, sorted by name. The process's own metrics
// are not among them.
func (r *Registry) Describe() []Desc {
	r.mu.Lock()
	defer r.mu.Unlock()
	descs := slices.Clone(r.descs)
	slices.SortFunc(descs, func(a, b Desc) int { return strings.Compare(a.Name, b.Name) })
	return descs
}

// Markdown returns descs as a table.
func Markdown(descs []Desc) []byte {
	var b bytes.Buffer
	b.WriteString("| metric | type | labels | counts |\n|---|---|---|---|\n")
	for _, d := range descs {
		labels := "–"
		if len(d.Labels) > 0 {
			labels = "`" + strings.Join(d.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.Name, d.Type, labels, strings.ReplaceAll(d.Help, "|", `\|`))
	}
	return b.Bytes()
}
