package admin

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client keeps what a client would get.
type client struct {
	header infer.Header
	status int
	body   strings.Builder
}

func (c *client) Header() *infer.Header       { return &c.header }
func (c *client) WriteHeader(status int)      { c.status = status }
func (c *client) Write(b []byte) (int, error) { return c.body.Write(b) }
func (c *client) Flush() error                { return nil }

// fleetOf returns an Admin of ready workers that answer as each says.
func fleetOf(t *testing.T, key string, each ...http.HandlerFunc) (*Admin, *fleet.Registry) {
	t.Helper()
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	reg := fleet.New(fleet.DefaultConfig(), health, breaker.DefaultConfig(), fleet.Options{})
	for _, h := range each {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		if _, err := reg.Add(fleet.Spec{URL: s.URL, APIKey: secret.New(key)}); err != nil {
			t.Fatal(err)
		}
	}
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return New(Options{Fleet: reg, Transport: tr, Models: func() []string { return nil }, Draining: func() bool { return false }}), reg
}

// get asks a for path.
func get(t *testing.T, a *Admin, path string) (*client, error) {
	t.Helper()
	for _, c := range a.Calls() {
		if c.Method == http.MethodGet && c.Pattern == path {
			got := new(client)
			err := c.Handler.Serve(context.Background(), &infer.Request{ID: "id-1"}, infer.NewReply(got))
			return got, err
		}
	}
	t.Fatalf("nothing answers %s", path)
	return nil, nil
}

func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestAnEnginesSecretsAreNotShown(t *testing.T) {
	a, _ := fleetOf(t, "sk-worker-1", say(200, `{"api_key":"sk-worker-1","host": "h","admin_api_key" : "a\"b","bos_token":"<s>","none":null,"internal_states":[{"api_key":"other"}],"argv":"--api-key sk-worker-1 -x"}`))
	c, err := get(t, a, "/get_server_info")
	want := `{"api_key":"****","host": "h","admin_api_key" : "****","bos_token":"<s>","none":null,"internal_states":[{"api_key":"****"}],"argv":"--api-key **** -x"}`
	if err != nil || c.body.String() != want {
		t.Errorf("got %s, %v; want %s", c.body.String(), err, want)
	}
}

// TestAStrangeAnswerIsNotPassedOn holds that the next worker is asked where one
// answers with what no client could make sense of.
func TestAStrangeAnswerIsNotPassedOn(t *testing.T) {
	redirect := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://10.0.0.1/")
		w.WriteHeader(http.StatusFound)
	}
	a, _ := fleetOf(t, "", redirect, say(200, "{}"))
	if c, err := get(t, a, "/get_model_info"); err != nil || c.status != 200 || c.body.String() != "{}" {
		t.Errorf("got %d %s, %v; want the second worker's answer", c.status, c.body.String(), err)
	}
	a, _ = fleetOf(t, "", redirect)
	if _, err := get(t, a, "/get_model_info"); infer.AsError(err).Status != http.StatusBadGateway {
		t.Errorf("got %v, want 502", err)
	}
}

func TestMergedMetricsSayWhoseTheyAre(t *testing.T) {
	const text = "# TYPE q gauge\nq{worker_addr=\"behind\",m=\"x\"} 1\n"
	metrics := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	a, reg := fleetOf(t, "", metrics, metrics)
	c, err := get(t, a, "/engine_metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range reg.Snapshot().All {
		if want := `q{m="x",worker_addr="` + w.Base() + `"} 1`; !strings.Contains(c.body.String(), want) {
			t.Errorf("%s is missing in:\n%s", want, c.body.String())
		}
	}
	if strings.Contains(c.body.String(), "behind") {
		t.Error("a metric has two addresses")
	}
}

// TestWhoFlushesHasForgotten: policies that remember prompts hear that a worker
// has flushed its cache, and not that another refused to.
func TestWhoFlushesHasForgotten(t *testing.T) {
	a, reg := fleetOf(t, "", say(200, "Cache flushed."), say(400, "There are pending requests."))
	if status, text := call(t, a, "POST", "/flush_cache", "", ""); status/100 != 2 {
		t.Fatalf("%d %s", status, text)
	}
	if ws := reg.Snapshot().All; ws[0].Epoch() != 1 || ws[1].Epoch() != 0 {
		t.Errorf("epochs %d and %d, want 1 for the one that flushed and 0 for the other", ws[0].Epoch(), ws[1].Epoch())
	}
}

// TestRanksOfAnEngine holds that the ranks of an engine are shown each, and that
// the engine is asked once where they have all the same to say.
func TestRanksOfAnEngine(t *testing.T) {
	var mu sync.Mutex
	calls := make(map[string]int)
	engine := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		calls[r.URL.Path]++
		mu.Unlock()
		switch r.URL.Path {
		case "/health", "/flush_cache":
		case "/server_info":
			_, _ = io.WriteString(w, `{"served_model_name":"m","version":"0.5.9","dp_size":2}`)
		case "/v1/loads":
			_, _ = io.WriteString(w, `{"loads":[{"dp_rank":0,"num_running_reqs":1},{"dp_rank":1,"num_running_reqs":5}]}`)
		case "/metrics":
			_, _ = io.WriteString(w, "# TYPE q gauge\nq 1\n")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}
	s := httptest.NewServer(http.HandlerFunc(engine))
	defer s.Close()
	cfg := fleet.DefaultConfig()
	cfg.DPAware, cfg.NoLoads = true, true
	reg := fleet.New(cfg, fleet.DefaultHealthConfig(), breaker.DefaultConfig(), fleet.Options{})
	if _, err := reg.Add(fleet.Spec{URL: s.URL}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- reg.Run(ctx) }()
	defer func() { cancel(); <-done }()
	both := make(chan struct{})
	var once sync.Once
	reg.Watch(func(s *fleet.Snapshot) {
		if len(s.Ready) == 2 {
			once.Do(func() { close(both) })
		}
	})
	select {
	case <-both:
	case <-time.After(20 * time.Second):
		t.Fatal("the engine's ranks are not ready")
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	a := New(Options{Fleet: reg, Transport: tr, Models: func() []string { return nil }, Draining: func() bool { return false }})

	c, err := get(t, a, "/workers")
	for _, want := range []string{
		`"url":"` + s.URL + `@0"`, `"dp_base_url":"` + s.URL + `","dp_rank":0,"dp_size":2`, `"dp_base_url":"` + s.URL + `","dp_rank":1,"dp_size":2`,
	} {
		if err != nil || !strings.Contains(c.body.String(), want) {
			t.Errorf("%s is missing in %s, %v", want, c.body.String(), err)
		}
	}
	c, err = get(t, a, "/get_loads")
	for _, want := range []string{`"dp_rank_count":2`, `@0","worker_type":"regular","dp_rank":0,"num_running_reqs":1`, `@1","worker_type":"regular","dp_rank":1,"num_running_reqs":5`} {
		if err != nil || !strings.Contains(c.body.String(), want) {
			t.Errorf("%s is missing in %s, %v", want, c.body.String(), err)
		}
	}
	if c, err = get(t, a, "/engine_metrics"); err != nil || strings.Count(c.body.String(), "q{") != 1 || !strings.Contains(c.body.String(), `q{worker_addr="`+s.URL+`"} 1`) {
		t.Errorf("an engine's metrics: %s, %v; want them once", c.body.String(), err)
	}
	status, text := call(t, a, "POST", "/flush_cache", "", "")
	ws := reg.Snapshot().All
	if status != 200 || !strings.Contains(text, `"workers_flushed":1`) || ws[0].Epoch() != 1 || ws[1].Epoch() != 1 {
		t.Errorf("flushed: %d %s, epochs %d and %d", status, text, ws[0].Epoch(), ws[1].Epoch())
	}
	mu.Lock()
	defer mu.Unlock()
	if calls["/metrics"] != 1 || calls["/flush_cache"] != 1 {
		t.Errorf("the engine was asked %v", calls)
	}
}
