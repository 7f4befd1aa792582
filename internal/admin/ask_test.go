package admin

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
