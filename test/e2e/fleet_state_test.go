package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/test/program"
)

// A worker is what GET /workers says of one.
type worker struct {
	ID        string            `json:"id"`
	ModelID   string            `json:"model_id"`
	URL       string            `json:"url"`
	Healthy   bool              `json:"is_healthy"`
	Status    string            `json:"status"`
	Load      int               `json:"load"`
	Runtime   string            `json:"runtime_type"`
	Labels    map[string]string `json:"labels"`
	Priority  int               `json:"priority"`
	Cost      float64           `json:"cost"`
	JobStatus *struct {
		Type    string `json:"job_type"`
		URL     string `json:"worker_url"`
		Status  string `json:"status"`
		Message string `json:"message"`
	} `json:"job_status"`
}

// workers reads GET /workers.
func workers(t testing.TB, g *program.Gateway) []worker {
	t.Helper()
	var list struct {
		Workers []worker `json:"workers"`
		Total   int      `json:"total"`
	}
	a := ask(t, "GET", g.URL+"/workers", "")
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || list.Total != len(list.Workers) {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return list.Workers
}

// at returns the worker of a URL, nil if there is none.
func at(ws []worker, url string) *worker {
	for i := range ws {
		if ws[i].URL == url {
			return &ws[i]
		}
	}
	return nil
}

// A worker that is not there at the start serves about two seconds after it is.
func TestAWorkerThatComesUpLate(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	url := "http://127.0.0.1:" + port
	g := program.Serve(t, "--worker-urls", url)
	program.Eventually(t, "the worker is known and not ready", func() bool {
		w := at(workers(t, g), url)
		return w != nil && !w.Healthy && w.JobStatus != nil && w.JobStatus.Status == "processing"
	})
	program.Start(t, "mock", "--port", port, "--model", "m", "--speed", "0")
	program.Eventually(t, "the engine listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	watch := bubble.Begin(t)
	program.Eventually(t, "a request is served", func() bool {
		return post(t, g.URL, chatPath, body(chatPath, false, "")).status == 200
	})
	took, awake := watch.End()
	t.Logf("served %s after the engine listened", took.Round(time.Millisecond))
	if awake > 4*time.Second {
		t.Errorf("served %s after the engine listened, %s of it awake; want about 2s", took, awake)
	}
	if w := at(workers(t, g), url); w.Status != "ready" || w.JobStatus != nil || w.ModelID != "m" {
		t.Errorf("it shows as %+v", w)
	}
}

// engineAt starts an engine at a URL, and kill takes one off the network.
func engineAt(t testing.TB, url string) {
	t.Helper()
	program.Start(t, "mock", "--port", url[strings.LastIndexByte(url, ':')+1:], "--model", "m", "--speed", "0")
}

func kill(t testing.TB, url string) {
	t.Helper()
	if a := ask(t, "POST", url+"/mock/kill", ""); a.status != 202 || a.cut != nil {
		t.Fatalf("killing %s: %d %s, %v", url, a.status, a.body, a.cut)
	}
}

// What GET /workers and /readiness say is true within a second of what requests
// saw, and a worker that returns is used again.
func TestAKilledWorkerIsSeen(t *testing.T) {
	t.Parallel()
	dead, other := closedPort(t), program.Mock(t, 1, "--model", "m")
	engineAt(t, dead)
	g := inFrontOf(t, 2, []string{dead, other.URLs[0]}, "--policy", "round_robin")
	kill(t, dead)
	for range 2 { // one of them reaches for the dead one
		if a := post(t, g.URL, chatPath, body(chatPath, false, "")); a.status != 200 {
			t.Errorf("a request failed: %d %s", a.status, a.body)
		}
	}
	watch := bubble.Begin(t)
	program.Eventually(t, "both calls say so", func() bool {
		w := at(workers(t, g), dead)
		_, ready := program.Get(t, g.URL+"/readiness")
		return !w.Healthy && w.Status == "not_ready" && strings.Contains(ready, `"healthy_workers":1,"total_workers":2`)
	})
	took, awake := watch.End()
	t.Logf("said so %s after the failing request", took.Round(time.Millisecond))
	if awake > 2*time.Second { // promised is one; this machine may be busy
		t.Errorf("said so %s after the failing request, %s of it awake; want 1s", took, awake)
	}
	engineAt(t, dead)
	g.WaitReady(t, 2)
	program.Eventually(t, "it is asked again", func() bool {
		post(t, g.URL, chatPath, body(chatPath, false, ""))
		return state(t, dead).Counts.Served > 0
	})
}

// When the last worker dies, readiness is false; when it returns, true.
func TestTheLastWorkerDies(t *testing.T) {
	t.Parallel()
	u := closedPort(t)
	engineAt(t, u)
	g := inFrontOf(t, 1, []string{u})
	kill(t, u)
	if a := post(t, g.URL, chatPath, body(chatPath, false, "")); a.refused(t) != "502 call_upstream_connection_failed" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	program.Eventually(t, "readiness turns false", func() bool {
		status, body := program.Get(t, g.URL+"/readiness")
		return status == 503 && strings.Contains(body, "insufficient healthy workers")
	})
	a := post(t, g.URL, chatPath, body(chatPath, false, ""))
	if a.refused(t) != "503 no_available_workers" || a.header.Get("Retry-After") == "" {
		t.Errorf("meanwhile: %d %s; the model is known", a.status, a.body)
	}
	engineAt(t, u)
	g.WaitReady(t, 1)
	program.Eventually(t, "it serves", func() bool { return post(t, g.URL, chatPath, body(chatPath, false, "")).status == 200 })
}

// Health that flaps takes a worker away, though it would answer.
func TestAnUnhealthyWorkerIsNotAsked(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 2, []string{"--model", "m"}, []string{"--health-check-interval-secs", "1", "--health-failure-threshold", "1"})
	ask(t, "POST", e.URLs[0]+"/mock/health", `{"status":503}`)
	program.Eventually(t, "it is taken out", func() bool { return at(workers(t, g), e.URLs[0]).Status == "not_ready" })
	before := state(t, e.URLs[0]).Counts.Requests
	for range 6 {
		if a := post(t, g.URL, chatPath, body(chatPath, false, "")); a.status != 200 {
			t.Errorf("got %d %s", a.status, a.body)
		}
	}
	if n := state(t, e.URLs[0]).Counts.Requests - before; n != 0 {
		t.Errorf("it was asked %d times", n)
	}
	ask(t, "POST", e.URLs[0]+"/mock/health", `{"status":200}`)
	program.Eventually(t, "it is taken in", func() bool { return at(workers(t, g), e.URLs[0]).Status == "ready" })
}

func TestWithoutHealthChecks(t *testing.T) {
	t.Parallel()
	e := program.Mock(t, 1, "--model", "m")
	ask(t, "POST", e.URLs[0]+"/mock/health", `{"status":503}`)
	g := program.Serve(t, "--worker-urls", e.URLs[0], "--disable-health-check")
	g.WaitReady(t, 1)
	program.Eventually(t, "it serves", func() bool { return post(t, g.URL, chatPath, body(chatPath, false, "")).status == 200 })
}

func TestUnhealthyWorkersAreRemovedIfAsked(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 2, []string{"--model", "m"},
		[]string{"--remove-unhealthy-workers", "--health-check-interval-secs", "1", "--health-failure-threshold", "1"})
	kill(t, e.URLs[0])
	program.Eventually(t, "it is forgotten", func() bool { return at(workers(t, g), e.URLs[0]) == nil })
	if n := len(workers(t, g)); n != 1 {
		t.Errorf("%d workers are left, want 1", n)
	}
	program.Eventually(t, "its metrics are forgotten", func() bool {
		_, m := program.Get(t, g.MetricsURL)
		return !strings.Contains(m, e.URLs[0])
	})
}

// TestTheBreaker opens, rests, tries and closes as its flags say.
func TestTheBreaker(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 1, []string{"--model", "m"},
		[]string{"--cb-failure-threshold", "2", "--cb-success-threshold", "1", "--cb-timeout-duration-secs", "6", "--disable-health-check"})
	u := e.URLs[0]
	program.Eventually(t, "it has joined", func() bool { return post(t, g.URL, chatPath, body(chatPath, false, "")).status == 200 })
	fault(t, u, "status=500")
	for range 2 {
		if a := post(t, g.URL, chatPath, body(chatPath, false, "")); a.status != 500 {
			t.Fatalf("got %d %s", a.status, a.body)
		}
	}
	asked := state(t, u).Counts.Requests
	program.Eventually(t, "requests are kept away", func() bool {
		return post(t, g.URL, chatPath, body(chatPath, false, "")).status == 503
	})
	if n := state(t, u).Counts.Requests; n > asked+1 {
		t.Errorf("the open breaker let %d requests pass", n-asked)
	}
	wantMetric(t, g, fmt.Sprintf(`smg_worker_cb_state{worker=%q}`, u), 1)
	if status, _ := program.Get(t, g.URL+"/readiness"); status != 503 {
		t.Errorf("/readiness says %d while no worker may be asked", status)
	}
	fault(t, u, "")
	opened := time.Now()
	program.Eventually(t, "a trial closes it", func() bool {
		return post(t, g.URL, chatPath, body(chatPath, false, "")).status == 200
	})
	t.Logf("closed %s later", time.Since(opened).Round(time.Millisecond))
	wantMetric(t, g, fmt.Sprintf(`smg_worker_cb_state{worker=%q}`, u), 0)
	for _, turn := range []string{`from="closed",to="open"`, `from="open",to="half_open"`, `from="half_open",to="closed"`} {
		wantMetric(t, g, fmt.Sprintf(`smg_worker_cb_transitions_total{%s,worker=%q}`, turn, u), 1)
	}
}

// Back-pressure and clients' errors open no breaker.
func TestWhatOpensNoBreaker(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{"status=429;retry-after=1", "status=503;retry-after=1", "status=400", "status=404"} {
		t.Run(spec, func(t *testing.T) {
			t.Parallel()
			g, e := program.Fleet(t, 1, []string{"--model", "m", "--fault", spec}, []string{"--cb-failure-threshold", "1", "--disable-retries"})
			for range 5 {
				post(t, g.URL, chatPath, body(chatPath, false, ""))
			}
			if n := state(t, e.URLs[0]).Counts.Requests; n != 5 {
				t.Errorf("the engine was asked %d times of 5", n)
			}
		})
	}
	t.Run("--disable-circuit-breaker", func(t *testing.T) {
		t.Parallel()
		g, e := program.Fleet(t, 1, []string{"--model", "m", "--fault", "status=500"}, []string{"--cb-failure-threshold", "1", "--disable-circuit-breaker"})
		for range 5 {
			post(t, g.URL, chatPath, body(chatPath, false, ""))
		}
		if n := state(t, e.URLs[0]).Counts.Requests; n != 5 {
			t.Errorf("the engine was asked %d times of 5", n)
		}
	})
}

// TestSeveralModels has two models, an alias, and a worker that takes any name.
func TestSeveralModels(t *testing.T) {
	t.Parallel()
	a, b := program.Mock(t, 1, "--model", "model-a"), program.Mock(t, 1, "--model", "org/model-b")
	g := program.Serve(t, "--worker-urls", a.URLs[0], b.URLs[0], "--model-alias", "gpt-4=org/model-b")
	g.WaitReady(t, 2)
	chat := func(model string) answer { return post(t, g.URL, chatPath, of(model, body(chatPath, false, ""))) }
	for model, engine := range map[string]string{"model-a": a.URLs[0], "org/model-b": b.URLs[0], "gpt-4": b.URLs[0]} {
		before := state(t, engine).Counts.Served
		if got := chat(model); got.status != 200 || state(t, engine).Counts.Served != before+1 {
			t.Errorf("%s: %d %s; want its own engine's answer", model, got.status, got.body)
		}
	}
	if got := chat("model-c"); got.refused(t) != "404 model_not_found" {
		t.Errorf("an unknown model: %d %s", got.status, got.body)
	}
	if got := post(t, g.URL, generatePath, `{"text":"x"}`); got.refused(t) != "400 missing_model" {
		t.Errorf("no model where there are two: %d %s", got.status, got.body)
	}
	var list struct{ Data []struct{ ID string } }
	if err := json.Unmarshal([]byte(ask(t, "GET", g.URL+"/v1/models", "").body), &list); err != nil || len(list.Data) < 2 {
		t.Errorf("/v1/models: %+v, %v", list, err)
	}
	for path, want := range map[string]int{"/v1/models/model-a": 200, "/v1/models/org/model-b": 200, "/v1/models/org%2Fmodel-b": 200, "/v1/models/model-c": 404} {
		if got := ask(t, "GET", g.URL+path, ""); got.status != want {
			t.Errorf("%s: %d %s, want %d", path, got.status, got.body, want)
		}
	}
	wild := newRogueOf(t, "", func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", `{"wild":true}`) })
	if got := ask(t, "POST", g.URL+"/workers", fmt.Sprintf(`{"url":%q}`, wild.URL)); got.status != 202 {
		t.Fatalf("adding a worker: %d %s", got.status, got.body)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the workers are %s", ask(t, "GET", g.URL+"/workers", "").body)
		}
	})
	program.Eventually(t, "the worker that takes any name takes model-c", func() bool { return chat("model-c").body == `{"wild":true}` })
}

// TestPolicies holds that each policy that can be named spreads requests.
func TestPolicies(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"random", "round_robin", "power_of_two", "least_load"} {
		t.Run(p, func(t *testing.T) {
			t.Parallel()
			g, e := program.Fleet(t, 2, []string{"--model", "m"}, []string{"--policy", p})
			for range 40 {
				if a := post(t, g.URL, generatePath, body(generatePath, false, "")); a.status != 200 {
					t.Fatalf("got %d %s", a.status, a.body)
				}
			}
			for _, u := range e.URLs {
				if n := state(t, u).Counts.Served; n == 0 || p == "round_robin" && (n < 17 || n > 23) {
					t.Errorf("an engine served %d of 40", n)
				}
			}
		})
	}
}
