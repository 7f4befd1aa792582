package e2e

import (
	"strconv"
	"strings"
	"testing"

	"sluice/test/program"
)

// metric returns the value of a series as the metrics port writes it, and
// whether it is there. Labels must be in the order of their names.
func metric(t testing.TB, g *program.Gateway, series string) (float64, bool) {
	t.Helper()
	_, text := program.Get(t, g.MetricsURL)
	for line := range strings.SplitSeq(text, "\n") {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return v, true
		}
	}
	return 0, false
}

func wantMetric(t testing.TB, g *program.Gateway, series string, want float64) {
	t.Helper()
	var got float64
	var ok bool
	program.Eventually(t, series, func() bool {
		got, ok = metric(t, g, series)
		return ok && got == want
	})
}

// TestMetrics counts a few requests of every kind.
func TestMetrics(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 1, []string{"--model", "m"}, []string{"--engine-metrics", "--load-monitor-interval", "1"})
	u := e.URLs[0]
	for range 3 {
		post(t, g.URL, chatPath, body(chatPath, true, `"stream_options":{"include_usage":true}`))
	}
	post(t, g.URL, chatPath, body(chatPath, false, ""))
	post(t, g.URL, messagesPath, body(messagesPath, true, ""))
	post(t, g.URL, chatPath, of("nope", body(chatPath, false, "")))
	ask(t, "GET", g.URL+"/no/such/path", "")
	fault(t, u, "status=500")
	post(t, g.URL, chatPath, body(chatPath, false, ""))
	fault(t, u, "")
	for series, want := range map[string]float64{
		`smg_http_requests_total{method="POST",path="/v1/chat/completions"}`:                                   6,
		`smg_http_requests_total{method="GET",path="other"}`:                                                   1,
		`smg_http_responses_total{error_code="",path="/v1/chat/completions",status_code="200"}`:                4,
		`smg_http_responses_total{error_code="model_not_found",path="/v1/chat/completions",status_code="404"}`: 1,
		`smg_http_responses_total{error_code="unknown_url",path="other",status_code="404"}`:                    1,
		`smg_http_request_duration_seconds_count{method="POST",path="/v1/messages"}`:                           1,
		`smg_http_connections_active`: 0,
		`smg_router_requests_total{backend_type="regular",connection_mode="http",endpoint="chat",model="m",router_type="http",streaming="true"}`:                    3,
		`smg_router_requests_total{backend_type="regular",connection_mode="http",endpoint="chat",model="m",router_type="http",streaming="false"}`:                   2,
		`smg_router_request_duration_seconds_count{backend_type="regular",connection_mode="http",endpoint="chat",model="m",router_type="http"}`:                     5,
		`smg_router_request_errors_total{backend_type="regular",connection_mode="http",endpoint="chat",error_type="no_workers",model="unknown",router_type="http"}`: 1,
		`smg_router_request_errors_total{backend_type="regular",connection_mode="http",endpoint="chat",error_type="backend_error",model="m",router_type="http"}`:    1,
		`smg_router_upstream_responses_total{error_code="",router_type="http",status_code="200"}`:                                                                   5,
		`smg_router_upstream_responses_total{error_code="call_upstream_status_error",router_type="http",status_code="500"}`:                                         1,
		`smg_router_ttft_seconds_count{backend_type="regular",endpoint="chat",model="m",router_type="http"}`:                                                        3,
		`smg_router_tpot_seconds_count{backend_type="regular",endpoint="chat",model="m",router_type="http"}`:                                                        3,
		`smg_router_generation_duration_seconds_count{backend_type="regular",endpoint="messages",model="m",router_type="http"}`:                                     1,
		`smg_router_tokens_total{backend_type="regular",endpoint="chat",model="m",router_type="http",token_type="output"}`:                                          32,
		`smg_router_tokens_total{backend_type="regular",endpoint="messages",model="m",router_type="http",token_type="output"}`:                                      8,
		`smg_worker_pool_size{connection_mode="http",model="m",worker_type="regular"}`:                                                                              1,
		`smg_worker_requests_total{model="m",worker="` + u + `"}`:                                                                                                   6,
		`smg_worker_requests_active{worker="` + u + `"}`:                                                                                                            0,
		`smg_worker_health{worker="` + u + `"}`:                                                            1,
		`smg_worker_cb_state{worker="` + u + `"}`:                                                          0,
		`smg_worker_cb_consecutive_failures{worker="` + u + `"}`:                                           1,
		`smg_worker_cb_outcomes_total{outcome="failure",worker="` + u + `"}`:                               1,
		`smg_worker_cb_outcomes_total{outcome="success",worker="` + u + `"}`:                               5,
		`smg_worker_errors_total{connection_mode="http",error_type="backend_error",worker_type="regular"}`: 1,
		`smg_worker_selection_total{connection_mode="http",model="m",policy="cost",worker_type="regular"}`: 6,
		`smg_engine_running_requests{dp_rank="0",model="m",worker="` + u + `"}`:                            0,
	} {
		wantMetric(t, g, series, want)
	}
	program.Eventually(t, "two health checks at least have passed", func() bool {
		v, _ := metric(t, g, `smg_worker_health_checks_total{result="success",worker_type="regular"}`)
		return v >= 2
	})
	if v, _ := metric(t, g, `smg_router_tokens_total{backend_type="regular",endpoint="chat",model="m",router_type="http",token_type="input"}`); v < 20 {
		t.Errorf("%v input tokens were counted for four requests", v)
	}
	if _, m := program.Get(t, g.MetricsURL); strings.Contains(m, "nope") || strings.Contains(m, "no/such") {
		t.Error("what clients invent became a label")
	}
}

// The metrics port answers /metrics only, and profiles if asked.
func TestTheMetricsPort(t *testing.T) {
	t.Parallel()
	g := program.Serve(t)
	base := strings.TrimSuffix(g.MetricsURL, "/metrics")
	for path, want := range map[string]int{"/metrics": 200, "/": 404, "/workers": 404, "/health": 404, "/debug/pprof/": 404, "/debug/pprof/goroutine": 404} {
		if a := ask(t, "GET", base+path, ""); a.status != want {
			t.Errorf("%s: %d, want %d", path, a.status, want)
		}
	}
	if a := ask(t, "POST", base+"/metrics", "{}"); a.status != 405 {
		t.Errorf("POST /metrics: %d, want 405", a.status)
	}
	if a := ask(t, "GET", g.URL+"/metrics", ""); a.status != 404 {
		t.Errorf("/metrics on the API port: %d, want 404", a.status)
	}
}

// The port of metrics asks for no key, so nothing there may tell one.
func TestProfilesTellNoKey(t *testing.T) {
	t.Parallel()
	g := program.Serve(t, "--enable-pprof", "--api-key", "a-key-of-this-test")
	base := strings.TrimSuffix(g.MetricsURL, "/metrics")
	for path, want := range map[string]int{"/metrics": 200, "/debug/pprof/": 200, "/debug/pprof/goroutine?debug=2": 200, "/debug/pprof/cmdline": 404} {
		if a := ask(t, "GET", base+path, ""); a.status != want || strings.Contains(a.body, "a-key-of-this-test") {
			t.Errorf("%s: %d, want %d, and no key: %.300s", path, a.status, want, a.body)
		}
	}
}
