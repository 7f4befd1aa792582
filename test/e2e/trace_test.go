package e2e

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/internal/kit/trace/tracetest"
	"sluice/test/program"
)

const (
	clientTrace  = "0af7651916cd43dd8448eb211c80319c"
	clientSpan   = "b7ad6b7169203331"
	clientParent = "00-" + clientTrace + "-" + clientSpan + "-01"
)

// tracedWorker starts a worker that streams one word, and returns its URL and
// the header of each chat that it got.
func tracedWorker(t *testing.T) (url string, got <-chan http.Header) {
	headers := make(chan http.Header, 100)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"object":"list","data":[{"id":"m","object":"model"}]}`)
	})
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, `data: {"id":"1","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":"hi"}}]}`+"\n\n"+
			`data: {"id":"1","object":"chat.completion.chunk","model":"m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}`+"\n\ndata: [DONE]\n\n")
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL, headers
}

// chat streams an answer, as the client of a trace.
func chat(t *testing.T, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", url+"/v1/chat/completions",
		strings.NewReader(`{"model":"m","stream":true,"messages":[{"role":"user","content":"the secret prompt"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("traceparent", clientParent)
	req.Header.Set("tracestate", "vendor=1")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || !strings.HasSuffix(string(b), "data: [DONE]\n\n") {
		t.Fatalf("got %d, %v:\n%s", res.StatusCode, err, b)
	}
}

func TestATraceReachesWorkerAndCollector(t *testing.T) {
	c := tracetest.Start(t, nil)
	worker, got := tracedWorker(t)
	g := program.Serve(t, "--enable-trace", "--otlp-traces-endpoint", c.Addr, "--worker-urls", worker)
	g.WaitReady(t, 1)
	chat(t, g.URL)
	h := <-got
	parent := strings.Split(h.Get("traceparent"), "-")
	if len(parent) != 4 || parent[1] != clientTrace || parent[2] == clientSpan || h.Get("tracestate") != "vendor=1" {
		t.Fatalf("the worker got traceparent %q and tracestate %q; want trace %s, another span than %s, and the client's state",
			h.Get("traceparent"), h.Get("tracestate"), clientTrace, clientSpan)
	}
	g.Signal(t, syscall.SIGTERM) // before the batch is due
	if code := g.Wait(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	s := c.Next(t)
	if hex.EncodeToString(s.TraceId) != clientTrace || hex.EncodeToString(s.SpanId) != parent[2] || hex.EncodeToString(s.ParentSpanId) != clientSpan {
		t.Errorf("the span is %x-%x under %x; the worker got %q", s.TraceId, s.SpanId, s.ParentSpanId, h.Get("traceparent"))
	}
	a := s.Attrs()
	for k, want := range map[string]string{
		"http.route": "/v1/chat/completions", "http.response.status_code": "200", "gen_ai.request.model": "m", "sluice.stream": "true",
		"sluice.request_id": h.Get("x-request-id"), "sluice.tries": "1", "server.address": "127.0.0.1",
		"gen_ai.usage.input_tokens": "7", "gen_ai.usage.output_tokens": "1",
	} {
		if a[k] != want {
			t.Errorf("%s is %q, want %q", k, a[k], want)
		}
	}
	if a["gen_ai.response.time_to_first_chunk"] == "" || strings.Contains(s.String(), "secret") || s.Resource["service.name"] != "sluice" {
		t.Errorf("the span is %v of %v", s.Span, s.Resource)
	}
	if c.Len() != 0 {
		t.Errorf("%d more spans, want none: probes have none", c.Len())
	}
}

func TestATracePassesWhereNoneIsMade(t *testing.T) {
	worker, got := tracedWorker(t)
	g := program.Serve(t, "--worker-urls", worker)
	g.WaitReady(t, 1)
	chat(t, g.URL)
	if h := <-got; h.Get("traceparent") != clientParent || h.Get("tracestate") != "vendor=1" {
		t.Errorf("the worker got traceparent %q and tracestate %q, want the client's", h.Get("traceparent"), h.Get("tracestate"))
	}
}

func TestNobodyMissesACollector(t *testing.T) {
	worker, _ := tracedWorker(t)
	g := program.Serve(t, "--enable-trace", "--otlp-traces-endpoint", "127.0.0.1:1", "--worker-urls", worker)
	g.WaitReady(t, 1)
	for range 50 {
		chat(t, g.URL)
	}
	watch := bubble.Begin(t)
	g.Signal(t, syscall.SIGTERM)
	if code := g.Wait(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if took, awake := watch.End(); awake > 10*time.Second {
		t.Errorf("the end took %s, %s of it awake", took, awake)
	}
	if log := g.Log(); !strings.Contains(log, `msg="spans lost"`) || !strings.Contains(log, "total=50 ") {
		t.Error("the log does not say that 50 spans were lost")
	}
}
