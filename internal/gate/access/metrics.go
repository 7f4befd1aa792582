package access

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"sluice/internal/kit/metric"
)

// Metrics is what is counted of every request, whoever answers it. The names
// and labels are the contract's.
type Metrics struct {
	Requests  *metric.CounterVec   `name:"smg_http_requests_total" labels:"method,path" help:"requests received; path is the route's pattern, or other"`
	Duration  *metric.HistogramVec `name:"smg_http_request_duration_seconds" labels:"method,path" buckets:"duration" help:"time from a request's arrival to the last byte of its answer"`
	Responses *metric.CounterVec   `name:"smg_http_responses_total" labels:"path,status_code,error_code" help:"answers; status 499 is a client that left, error_code stream_error an answer that broke off"`
	Active    *metric.Gauge        `name:"smg_http_connections_active" help:"requests that are being answered"`
	Dropped   *metric.Counter      `name:"sluice_access_log_dropped_total" help:"lines of requests that are missing in the log because it could not be written, or not fast enough"`

	calls table[call, *callMetrics]
}

// A call is what a request's metrics are bound by.
type call struct{ method, route string }

// callMetrics are the metrics of one call.
type callMetrics struct {
	requests  *metric.Counter
	duration  *metric.Histogram
	responses table[result, *metric.Counter]
}

// A result is how a request ended.
type result struct {
	status int
	code   string // "" if nothing went wrong
}

// bind returns the metrics of a call.
func (m *Metrics) bind(method, route string) *callMetrics {
	if route == "" {
		route = "other"
	}
	c := call{method: knownMethod(method), route: route}
	return m.calls.get(c, func() *callMetrics {
		return &callMetrics{
			requests: m.Requests.With(c.method, c.route),
			duration: m.Duration.With(c.method, c.route),
		}
	})
}

// response returns the counter of requests to route that ended as res says.
func (m *Metrics) response(cm *callMetrics, route string, res result) *metric.Counter {
	if route == "" {
		route = "other"
	}
	return cm.responses.get(res, func() *metric.Counter {
		return m.Responses.With(route, strconv.Itoa(res.status), res.code)
	})
}

// knownMethod returns method, or "other" if HTTP has none of that name.
func knownMethod(method string) string {
	switch method {
	case "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "CONNECT", "TRACE":
		return method
	}
	return "other"
}

// maxTable is how many entries a table keeps: more than there are routes times
// methods, or statuses times error codes.
const maxTable = 1024

// few is how many entries of a table are found without hashing.
const few = 8

// A table is a map that is read without a lock and only grows. It is copied
// when it does, which ends once every call has been seen.
type table[K comparable, V any] struct {
	now atomic.Pointer[entries[K, V]]

	mu sync.Mutex // held while now is replaced
}

// entries are those of a table at one moment. They are immutable.
type entries[K comparable, V any] struct {
	first []entry[K, V] // few, those that were seen first
	all   map[K]V
}

type entry[K comparable, V any] struct {
	k K
	v V
}

func (e *entries[K, V]) find(k K) (v V, ok bool) {
	if e == nil {
		return v, false
	}
	for i := range e.first {
		if e.first[i].k == k {
			return e.first[i].v, true
		}
	}
	v, ok = e.all[k]
	return v, ok
}

// get returns the value of k, which create makes the first time. A table that
// is full makes it every time.
func (t *table[K, V]) get(k K, create func() V) V {
	if v, ok := t.now.Load().find(k); ok {
		return v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	grown := &entries[K, V]{all: map[K]V{}}
	if e := t.now.Load(); e != nil {
		if v, ok := e.find(k); ok {
			return v
		}
		if len(e.all) >= maxTable {
			return create()
		}
		grown.first, grown.all = slices.Clip(e.first), maps.Clone(e.all)
	}
	v := create()
	grown.all[k] = v
	if len(grown.first) < few {
		grown.first = append(grown.first, entry[K, V]{k, v})
	}
	t.now.Store(grown)
	return v
}
