package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"sluice/test/program"
)

// told reads a flat JSON answer of the workers' API.
func told(t testing.TB, a answer) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return m
}

// TestWorkersComeAndGo walks a worker through its whole life by the API.
func TestWorkersComeAndGo(t *testing.T) {
	t.Parallel()
	e := program.Mock(t, 2, "--model", "m", "--api-key", "sk-worker-secret")
	g := program.Serve(t, "--drain-settle-secs", "1")
	u := e.URLs[0]

	a := ask(t, "POST", g.URL+"/workers", fmt.Sprintf(`{"url":%q,"api_key":"sk-worker-secret","labels":{"zone":"a"},"priority":7,"cost":2.5,"x_unknown":1}`, u))
	m := told(t, a)
	id, _ := m["worker_id"].(string)
	if a.status != 202 || m["status"] != "accepted" || m["url"] != u || m["location"] != "/workers/"+id || a.header.Get("Location") != "/workers/"+id || len(id) != 36 {
		t.Fatalf("POST: %d %s, Location %q", a.status, a.body, a.header.Get("Location"))
	}
	one := g.URL + "/workers/" + id
	if a := ask(t, "GET", one, ""); a.status != 200 {
		t.Errorf("GET at once: %d %s; a worker that joins is shown with its job", a.status, a.body)
	}
	g.WaitReady(t, 1)
	var w worker
	if err := json.Unmarshal([]byte(ask(t, "GET", one, "").body), &w); err != nil {
		t.Fatal(err)
	}
	if !w.Healthy || w.Status != "ready" || w.ModelID != "m" || w.Priority != 7 || w.Cost != 2.5 || w.Labels["zone"] != "a" || w.Runtime != "sglang" || w.JobStatus != nil {
		t.Errorf("it shows as %+v", w)
	}
	if a := post(t, g.URL, chatPath, body(chatPath, false, ""), "Authorization", "Bearer of-the-client"); a.status != 200 {
		t.Errorf("it serves with %d %s; the worker's own key goes before the client's", a.status, a.body)
	}

	a = ask(t, "POST", g.URL+"/workers", fmt.Sprintf(`{"url":%q}`, u+"/"))
	want := fmt.Sprintf("Worker already exists at URL '%s' with ID %s. Use PUT /workers/%s to replace or PATCH /workers/%s to update.", u, id, id, id)
	if m := told(t, a); a.status != 409 || m["code"] != "WORKER_ALREADY_EXISTS" || m["error"] != want {
		t.Errorf("a duplicate: %d %s", a.status, a.body)
	}

	a = ask(t, "PATCH", one, `{"priority":9,"labels":{"zone":"b","rack":"4"}}`)
	if m := told(t, a); a.status != 202 || m["status"] != "accepted" || m["worker_id"] != id {
		t.Errorf("PATCH: %d %s", a.status, a.body)
	}
	program.Eventually(t, "the patch holds", func() bool {
		w := at(workers(t, g), u)
		return w.Priority == 9 && w.Labels["zone"] == "b" && w.Labels["rack"] == "4" && w.Cost == 2.5 && w.Healthy
	})

	if a := ask(t, "PUT", one, fmt.Sprintf(`{"url":%q,"api_key":"sk-worker-secret","cost":1.5}`, u)); a.status != 202 {
		t.Errorf("PUT: %d %s", a.status, a.body)
	}
	program.Eventually(t, "the replacement holds", func() bool {
		w := at(workers(t, g), u)
		return w.Cost == 1.5 && w.Priority == 50 && w.Labels["zone"] == "" && w.Healthy
	})
	if a := ask(t, "PUT", one, fmt.Sprintf(`{"url":%q}`, e.URLs[1])); a.status != 400 || told(t, a)["code"] != "BAD_REQUEST" {
		t.Errorf("PUT with another URL: %d %s", a.status, a.body)
	}

	if a := ask(t, "DELETE", one, ""); a.status != 202 || told(t, a)["message"] != "Worker removal queued for background processing" {
		t.Errorf("DELETE: %d %s", a.status, a.body)
	}
	if a := post(t, g.URL, chatPath, body(chatPath, false, "")); a.status != 503 {
		program.Eventually(t, "no request is routed to it", func() bool { return post(t, g.URL, chatPath, body(chatPath, false, "")).status == 503 })
	}
	program.Eventually(t, "it is gone", func() bool { return ask(t, "GET", one, "").status == 404 })
	if n := len(workers(t, g)); n != 0 {
		t.Errorf("%d workers are listed after the last was removed", n)
	}
	if a := ask(t, "POST", g.URL+"/workers", fmt.Sprintf(`{"url":%q,"api_key":"sk-worker-secret"}`, u)); a.status != 202 {
		t.Errorf("adding it again: %d %s", a.status, a.body)
	}
	g.WaitReady(t, 1)
	if strings.Contains(g.Log(), "sk-worker-secret") {
		t.Error("the log holds a worker's key")
	}
}

// A worker that is removed ends the streams that it has.
func TestARemovedWorkerFinishes(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 1, slowEngine, []string{"--drain-settle-secs", "0"})
	_, r := begin(t, g, 60)
	ask(t, "DELETE", g.URL+"/workers/"+at(workers(t, g), e.URLs[0]).ID, "")
	program.Eventually(t, "it is gone", func() bool { return len(workers(t, g)) == 0 })
	var rest strings.Builder
	if _, err := r.WriteTo(&rest); err != nil || !strings.HasSuffix(rest.String(), "data: [DONE]\n\n") {
		t.Errorf("its stream ended with %v: %.300s", err, rest.String())
	}
}

// TestWorkersThatCannotBe has every URL and spec that the API refuses.
func TestWorkersThatCannotBe(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 1, []string{"--model", "m"}, nil)
	port := g.URL[strings.LastIndexByte(g.URL, ':')+1:]
	metrics := strings.TrimSuffix(g.MetricsURL, "/metrics")
	const unknown = "/workers/00000000-0000-0000-0000-000000000000"
	url := func(s string) string { return fmt.Sprintf(`{"url":%q}`, s) }
	tests := []struct {
		name, method, path, body string
		status                   int
		code, says               string
	}{
		{"no scheme", "POST", "/workers", url("127.0.0.1:9199"), 400, "BAD_REQUEST", "Invalid value for field 'worker_url': 127.0.0.1:9199 - URL must start with a lowercase http://, https://, grpc://, grpcs://, or ipc:// scheme"},
		{"another scheme", "POST", "/workers", url("ftp://x"), 400, "BAD_REQUEST", "scheme"},
		{"a scheme in capitals", "POST", "/workers", url("HTTP://x"), 400, "BAD_REQUEST", "scheme"},
		{"one that is not built", "POST", "/workers", url("grpc://x:1"), 400, "BAD_REQUEST", "not supported yet"},
		{"no host", "POST", "/workers", url("http://"), 400, "BAD_REQUEST", "host"},
		{"a port that is none", "POST", "/workers", url("http://x:99999"), 400, "BAD_REQUEST", "port"},
		{"a password", "POST", "/workers", url("http://user:hunter2@x:1"), 400, "BAD_REQUEST", "api_key"},
		{"a query", "POST", "/workers", url("http://x:1/?a=b"), 400, "BAD_REQUEST", "query"},
		{"nothing at all", "POST", "/workers", url(""), 400, "BAD_REQUEST", ""},
		{"no url", "POST", "/workers", `{"urll":"x"}`, 400, "BAD_REQUEST", "missing field `url`"},
		{"no JSON", "POST", "/workers", `{"url":`, 400, "BAD_REQUEST", ""},
		{"a duplicate", "POST", "/workers", url(e.URLs[0]), 409, "WORKER_ALREADY_EXISTS", "already exists"},
		{"the gateway itself", "POST", "/workers", url(g.URL), 400, "BAD_REQUEST", "gateway's own"},
		{"the gateway by name", "POST", "/workers", url("http://localhost:" + port), 400, "BAD_REQUEST", "gateway's own"},
		{"the gateway's metrics", "POST", "/workers", url(metrics), 400, "BAD_REQUEST", "gateway's own"},
		{"a worker type that is not built", "POST", "/workers", `{"url":"http://x:1","worker_type":"prefill"}`, 400, "BAD_REQUEST", "not supported yet"},
		{"a cost below nothing", "POST", "/workers", `{"url":"http://x:1","cost":-1}`, 400, "BAD_REQUEST", "cost"},
		{"asking for no UUID", "GET", "/workers/zzz", "", 400, "BAD_REQUEST", "Invalid worker_id 'zzz' (expected UUID)"},
		{"asking for nobody", "GET", unknown, "", 404, "WORKER_NOT_FOUND", "Worker 00000000-0000-0000-0000-000000000000 not found"},
		{"removing nobody", "DELETE", unknown, "", 404, "WORKER_NOT_FOUND", ""},
		{"replacing nobody", "PUT", unknown, url("http://x:1"), 404, "WORKER_NOT_FOUND", ""},
		{"changing nobody", "PATCH", unknown, `{"cost":1}`, 404, "WORKER_NOT_FOUND", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := ask(t, tt.method, g.URL+tt.path, tt.body)
			m := told(t, a)
			if says, _ := m["error"].(string); a.status != tt.status || m["code"] != tt.code || !strings.Contains(says, tt.says) || says == "" {
				t.Errorf("got %d %s, want %d %s with %q", a.status, a.body, tt.status, tt.code, tt.says)
			}
			if strings.Contains(a.body, "hunter2") {
				t.Errorf("the answer shows a password: %s", a.body)
			}
		})
	}
	for _, c := range []struct {
		method, contentType string
		want                string
	}{{"POST", "", "415 unsupported_media_type"}, {"POST", "text/plain", "415 unsupported_media_type"}, {"PUT", "application/json", "405 method_not_allowed"}} {
		if a := ask(t, c.method, g.URL+"/workers", url("http://x:1"), "Content-Type", c.contentType); a.refused(t) != c.want {
			t.Errorf("%s with %q: %d %s, want %s", c.method, c.contentType, a.status, a.body, c.want)
		}
	}
	if ws := workers(t, g); len(ws) != 1 {
		t.Errorf("%d workers are registered after all that, want 1", len(ws))
	}
}

// What is asked of the fleet is answered from all its workers, or by one.
func TestQuestionsToTheFleet(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 2, []string{"--model", "m"}, nil)
	for _, c := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/health_generate", 200, ""},
		{"GET", "/get_model_info", 200, `"model_path"`},
		{"GET", "/get_server_info", 200, `"version"`},
		{"GET", "/engine_metrics", 200, `worker_addr="` + e.URLs[1] + `"`},
		{"GET", "/get_loads", 200, `"dp_rank_count":1`},
		{"POST", "/flush_cache", 200, `"message":"Successfully flushed cache on all 2 workers"`},
		{"GET", "/workers?model=m", 200, `"total":2`},
		{"GET", "/workers?model=x", 200, `"total":0`},
	} {
		if a := ask(t, c.method, g.URL+c.path, ""); a.status != c.status || !strings.Contains(a.body, c.want) {
			t.Errorf("%s: %d %.600s, want %d with %s", c.path, a.status, a.body, c.status, c.want)
		}
	}
	kill(t, e.URLs[0])
	if a := ask(t, "POST", g.URL+"/flush_cache", ""); a.status != 206 || !strings.Contains(a.body, `"workers_flushed":1`) {
		t.Errorf("with one worker dead: %d %s", a.status, a.body)
	}
	if a := ask(t, "GET", g.URL+"/get_server_info", ""); a.status != 200 {
		t.Errorf("with one worker dead, the other is asked: %d %s", a.status, a.body)
	}
}
