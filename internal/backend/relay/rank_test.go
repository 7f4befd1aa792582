package relay

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
)

// TestARankIsNamed: what goes to one data-parallel rank of an engine says which.
func TestARankIsNamed(t *testing.T) {
	for _, engine := range []string{"sglang", "vllm"} {
		var mu sync.Mutex
		var header, body string // guarded by mu
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/v1/models":
				fmt.Fprintf(w, `{"data":[{"id":"m","owned_by":%q}]}`, engine)
			case "/v1/chat/completions", "/generate":
				b, _ := io.ReadAll(r.Body)
				mu.Lock()
				header, body = r.Header.Get("X-Data-Parallel-Rank"), string(b)
				mu.Unlock()
			case "/health":
			default:
				http.NotFound(w, r)
			}
		}))
		defer s.Close()
		w := rankOf(t, s.URL, 1)
		const own = `"data_parallel_rank":`
		tests := []struct{ name, in, want string }{
			{"chat", `{"model":"m"}`, `{` + own + `1,"model":"m"}`},
			{"space", " \n{ \"model\":\"m\" }\n", " \n{" + own + "1, \"model\":\"m\" }\n"},
			{"nothing", `{}`, `{` + own + `1}`},
			{"nothing and space", `{ }`, `{` + own + `1 }`},
			{"the client names one", `{"model":"m", ` + own + ` 7 ,"x":1}`, `{"model":"m", ` + own + ` 1 ,"x":1}`},
			{"the client names one deeper", `{"x":{` + own + `7}}`, `{` + own + `1,"x":{` + own + `7}}`},
			{"the client names two", `{` + own + `7,` + own + `8}`, `{` + own + `7,` + own + `8}`},
			{"no JSON", `--b--`, `--b--`},
			{"no object", `[]`, `[]`},
			{"no body", ``, ``},
		}
		for _, tt := range tests {
			r := chat()
			r.Body = []byte(tt.in)
			r.Header.AddString("X-Data-Parallel-Rank", "7")
			if err := backend(t).Serve(t.Context(), r, infer.NewReply(new(client)), fleet.Team{Lead: w}); err != nil {
				t.Fatal(err)
			}
			if engine == "vllm" {
				tt.want = tt.in
			}
			mu.Lock()
			if header != "1" || body != tt.want {
				t.Errorf("%s, %s: the worker got rank %q and %s, want 1 and %s", engine, tt.name, header, body, tt.want)
			}
			mu.Unlock()
			if string(r.Body) != tt.in {
				t.Errorf("%s, %s: the request became %s", engine, tt.name, r.Body)
			}
		}
	}
}

// rankOf returns one of the two ranks of the engine at url.
func rankOf(t *testing.T, url string, rank int) *fleet.Worker {
	t.Helper()
	cfg := fleet.DefaultConfig()
	cfg.DPAware = true
	reg := fleet.New(cfg, fleet.DefaultHealthConfig(), breaker.DefaultConfig(), fleet.Options{})
	found := make(chan *fleet.Worker, 1)
	reg.Watch(func(s *fleet.Snapshot) {
		for _, w := range s.Ready {
			if n, ok := w.Rank(); ok && n == rank {
				select {
				case found <- w:
				default:
				}
			}
		}
	})
	if _, err := reg.Add(fleet.Spec{URL: url, Labels: map[string]string{"dp_size": "2"}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- reg.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	select {
	case w := <-found:
		return w
	case <-time.After(10 * time.Second):
		t.Fatal("the rank is not ready after 10 s")
		return nil
	}
}
