package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/internal/kit/secret"
)

// raw answers with bytes of its own and closes the connection.
func raw(w http.ResponseWriter, text string) {
	c, bw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = bw.WriteString(text)
	_ = bw.Flush()
	_ = c.Close()
}

const eventHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

func TestEveryWayToFailHasItsKind(t *testing.T) {
	events := func(data ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for _, d := range data {
				event(w, d)
			}
		}
	}
	const token = `{"choices":[{"delta":{"content":"x"}}]}`
	tests := []struct {
		name    string
		stream  bool
		handler http.HandlerFunc
		kind    string
		example string
	}{
		{"status 429", false, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "slow down", http.StatusTooManyRequests) }, "status_429", "slow down"},
		{"status 503 of a stream", true, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no worker", http.StatusServiceUnavailable)
		}, "status_503", "no worker"},
		{"a redirect is not followed", false, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/else", http.StatusTemporaryRedirect)
		}, "status_307", ""},
		{"body is not JSON", false, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, "<html>") }, "bad_json", "<html>"},
		{"body is two JSON texts", false, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, unary+unary) }, "bad_json", ""},
		{"body is an error with status 200", false, func(w http.ResponseWriter, _ *http.Request) {
			answerJSON(w, `{"error":{"message":"queue is full"}}`)
		}, "error_body", "queue is full"},
		{"body is shorter than announced", false, func(w http.ResponseWriter, _ *http.Request) {
			raw(w, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"choices\":")
		}, "cut", "EOF"},
		{"connection closed without an answer", false, func(w http.ResponseWriter, _ *http.Request) { raw(w, "") }, "connection", "EOF"},
		{"answer is no HTTP", false, func(w http.ResponseWriter, _ *http.Request) { raw(w, "SSH-2.0-x\r\n\r\n") }, "connection", "malformed"},
		{"header that never ends", false, func(w http.ResponseWriter, _ *http.Request) {
			raw(w, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 1<<20)+"\r\n\r\n")
		}, "connection", ""},
		{"never answers", false, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "timeout", "2s"},
		{"stream stalls", true, func(w http.ResponseWriter, r *http.Request) {
			events(token)(w, r)
			<-r.Context().Done()
		}, "timeout", "2s"},
		{"stream never ends", true, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				events(token)(w, r)
				time.Sleep(time.Millisecond)
			}
		}, "timeout", "2s"},
		{"stream cut without [DONE]", true, events(token, token), "cut", "without its last event"},
		{"stream cut inside a chunk", true, func(w http.ResponseWriter, _ *http.Request) {
			raw(w, eventHead+"200\r\ndata: "+token)
		}, "cut", "EOF"},
		{"event is not JSON", true, events(token, `{"choices":[`, "[DONE]"), "bad_json", `{"choices":[`},
		{"error event and [DONE]", true, events(token, `{"error":{"message":"worker lost"}}`, "[DONE]"), "error_event", "worker lost"},
		{"error event and no more", true, events(token, `{"error":{"message":"worker lost"}}`), "error_event", "worker lost"},
		{"event named error", true, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "event: error\ndata: {\"detail\":\"lost\"}\n\ndata: [DONE]\n\n")
		}, "error_event", "lost"},
		{"stream with nothing in it", true, events(`{"choices":[{"delta":{"role":"assistant"}}]}`, "[DONE]"), "empty_stream", ""},
		{"stream of nothing", true, events(), "cut", ""},
		{"JSON where a stream was asked for", true, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, unary) }, "not_a_stream", "hi"},
		{"endless event", true, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: ")
			for range 64 {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
					return
				}
			}
		}, "too_large", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := serve(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					tt.handler(w, r)
				})
				r := mustRun(t, t.Context(), config(func(c *Config) {
					c.Stream, c.Concurrency, c.Requests, c.Timeout = tt.stream, 2, 6, 2*time.Second
				}), w)
				e, ok := r.Errors[tt.kind]
				if !ok || e.Count != 6 || r.Requests.Failed != 6 || len(r.Errors) != 1 {
					t.Fatalf("errors %+v, want 6 of %s", r.Errors, tt.kind)
				}
				has(t, "example", e.Example, tt.example)
				if len(e.Example) > maxExample+4 {
					t.Errorf("example of %d bytes", len(e.Example))
				}
				if r.Latency.Count != 0 {
					t.Errorf("%d failed answers are in the distribution", r.Latency.Count)
				}
			})
		})
	}
}

func TestARefusedConnectionDoesNotMakeTheClientSpin(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, nil)
		w.dial = (&pipes{conns: nil, done: closedChan()}).dial
		r := mustRun(t, t.Context(), config(func(c *Config) { c.Concurrency, c.Duration = 4, 10*time.Second }), w)
		if n := r.Errors["connect"].Count; n != r.Requests.Failed || n < 160 || n > 200 {
			t.Errorf("%+v", r.Errors)
		}
		has(t, "example", r.Errors["connect"].Example, "refused")
	})
}

func closedChan() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestARealRefusedConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	r, err := Run(t.Context(), config(func(c *Config) { c.URL, c.Requests = addr, 3 }), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Errors["connect"].Count != 3 {
		t.Errorf("%+v", r.Errors)
	}
}

// A server that sends [DONE] and then holds the connection open must not hold
// the client, and its answer was good.
func TestAServerThatHoldsTheConnectionAfterTheEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			stream(w, 2, time.Millisecond, time.Millisecond)
			<-r.Context().Done()
		})
		start := time.Now()
		r := mustRun(t, t.Context(), config(func(c *Config) { c.Stream, c.Concurrency, c.Requests = true, 1, 3 }), w)
		if r.Requests.OK != 3 || time.Since(start) > 10*time.Second {
			t.Errorf("%+v in %v", r.Requests, time.Since(start))
		}
		near(t, "latency", r.Latency.Max, 2)
	})
}

func TestConnectionsAreKept(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		keep   bool
		least  int
		most   int // net/http may hand a connection on to who was about to open one
	}{{"answers", 200, true, 4, 8}, {"errors", 500, true, 4, 8}, {"not if asked not to", 200, false, 100, 100}} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := serve(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					if tt.status != 200 {
						http.Error(w, strings.Repeat("long ", 2000), tt.status)
						return
					}
					stream(w, 2, time.Millisecond, time.Millisecond)
				})
				dials := make(chan struct{}, 1000)
				dial := w.dial
				w.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					dials <- struct{}{}
					return dial(ctx, network, addr)
				}
				mustRun(t, t.Context(), config(func(c *Config) {
					c.Stream, c.Concurrency, c.Requests, c.NoKeepalive = true, 4, 100, !tt.keep
				}), w)
				if n := len(dials); n < tt.least || n > tt.most {
					t.Errorf("%d connections, want %d to %d", n, tt.least, tt.most)
				}
			})
		})
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer sk-hunter2" || r.Header.Get("X-Tenant-Key") != "Basic topsecret" {
				t.Errorf("header %v", r.Header)
			}
			http.Error(w, "Incorrect API key provided: sk-hunter2 / topsecret", http.StatusUnauthorized)
		})
		r := mustRun(t, t.Context(), config(func(c *Config) {
			c.URL = "http://server/v1?key=querysecret"
			c.APIKey, c.Headers, c.Requests = secret.New("sk-hunter2"), []string{"x-tenant-key: Basic topsecret"}, 1
		}), w)
		j, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := errors.Join(r.WriteTable(&b, true), r.WriteTable(&b, false)); err != nil {
			t.Fatal(err)
		}
		has(t, "result", string(j), "Incorrect API key provided: **** / ****")
		has(t, "echo", string(j), `"headers":["X-Tenant-Key"]`)
		for _, word := range []string{"hunter2", "topsecret", "querysecret"} {
			if strings.Contains(string(j)+b.String(), word) {
				t.Errorf("%s shows:\n%s\n%s", word, j, b.String())
			}
		}
	})
}

func TestHostileNamesAndCounts(t *testing.T) {
	r := newRecorder(time.Time{}, time.Time{})
	now := time.Now()
	for i := range 3 * maxWorkers {
		r.add(&answer{planned: now, begun: now, end: now, status: 100 + i%900, worker: strings.Repeat("w", 1000) + string(rune(i)), kind: "x"})
		r.add(&answer{planned: now, begun: now, end: now, worker: "w" + string(rune('a'+i)), kind: "x"})
	}
	if n := len(r.t.workers); n > maxWorkers+1 {
		t.Errorf("%d worker names are kept", n)
	}
	for name := range r.t.workers {
		if len(name) > 256 {
			t.Errorf("a worker name of %d bytes is kept", len(name))
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	s := stampReader{r: bufio.NewReader(strings.NewReader(strings.Repeat("x", 100))), left: 64}
	b, err := io.ReadAll(&s)
	if len(b) != 64 || !errors.Is(err, errTooLarge) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
}
