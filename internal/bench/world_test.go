package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipes is a listener whose connections are pipes, so that a server and its
// clients can live in a bubble of synctest.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve starts h on pipes; it ends with the test.
func serve(t *testing.T, h http.HandlerFunc) world {
	t.Helper()
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	var running sync.WaitGroup
	srv := &http.Server{Handler: h, ConnState: func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			running.Add(1)
		case http.StateClosed, http.StateHijacked:
			running.Done()
		}
	}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(p)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-ended
		running.Wait()
	})
	return world{dial: p.dial, nap: time.Sleep}
}

// config is a short load for serve's server.
func config(change func(*Config)) Config {
	c := DefaultConfig()
	c.URL, c.Model = "http://server", "m"
	c.PromptTokens, c.OutputTokens = 4, 64
	if change != nil {
		change(&c)
	}
	return c
}

func mustRun(t *testing.T, ctx context.Context, c Config, w world) *Result {
	t.Helper()
	r, err := run(ctx, c, nil, w)
	if err != nil {
		t.Fatal(err)
	}
	q := r.Requests
	if q.Planned != q.OK+q.Failed+q.Unfinished+q.Shed {
		t.Errorf("requests do not add up: %+v", q)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Errorf("the result is no JSON: %v", err)
	}
	return r
}

// stream answers as a chat engine does: tokens after first, gap apart.
func stream(w http.ResponseWriter, tokens int, first, gap time.Duration) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	event(w, `{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}`)
	for i := range tokens {
		if i == 0 {
			time.Sleep(first)
		} else {
			time.Sleep(gap)
		}
		event(w, fmt.Sprintf(`{"choices":[{"index":0,"delta":{"content":"t%d "}}]}`, i))
	}
	event(w, fmt.Sprintf(`{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":60}}}`, tokens))
	event(w, "[DONE]")
}

func event(w io.Writer, data string) {
	_, _ = io.WriteString(w, "data: "+data+"\n\n")
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}

const unary = `{"choices":[{"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`

func answerJSON(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, body)
}

// near fails unless got is within one part in 200 of want, or 1 µs.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if d := got - want; d > want/200+0.001 || d < -want/200-0.001 {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// golden compares got with a file; SLUICE_UPDATE=1 writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("SLUICE_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s:\ngot\n%s\nwant\n%s", file, got, want)
	}
}

func has(t *testing.T, what, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("%s does not hold %q:\n%s", what, want, text)
	}
}
