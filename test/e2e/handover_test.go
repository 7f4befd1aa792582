package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/test/program"
)

// waking is a worker that is not well until it is told to be.
func waking(t *testing.T) (url string, wake func()) {
	t.Helper()
	var well atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch {
		case !well.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/v1/models":
			_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"m","object":"model"}]}`)
		case r.URL.Path == chatPath:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"by":"the new one"}`)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, func() { well.Store(true) }
}

// TestHandover holds that a gateway which is started beside another, on all of
// its ports, costs no client an answer: not before it has a worker, and not when
// it has.
func TestHandover(t *testing.T) {
	t.Parallel()
	e := program.Mock(t, 1, "--model", "m")
	port, metrics, health := freePort(t), freePort(t), freePort(t)
	start := func(worker string) *program.Process {
		return program.Start(t, "serve", "--host", "127.0.0.1", "--port", port, "--prometheus-port", metrics, "--health-check-port", health,
			"--reuse-port", "--worker-urls", worker, "--health-check-interval-secs", "1", "--health-success-threshold", "1")
	}
	base := "http://127.0.0.1:" + port
	old := start(e.URLs[0])
	program.Eventually(t, "the old one is ready", func() bool {
		status, _ := program.Get(t, base+"/readiness")
		return status == 200
	})
	worker, wake := waking(t)
	fresh := start(worker)
	program.Eventually(t, "the new one listens", func() bool { return strings.Contains(fresh.Log(), "msg=serving") })
	if n := strings.Count(fresh.Log(), "another gateway has this port too"); n != 2 {
		t.Errorf("it warned of %d ports that are shared, want 2:\n%s", n, fresh.Log())
	}

	var byNew atomic.Int32
	var all sync.WaitGroup
	ask := func(n int) {
		for range n {
			all.Go(func() {
				a := post(t, base, chatPath, body(chatPath, false, ""))
				if a.status != 200 {
					t.Errorf("got %d %s", a.status, a.body)
				}
				if strings.Contains(string(a.body), "the new one") {
					byNew.Add(1)
				}
			})
		}
	}
	ask(40) // each on a connection of its own: the kernel shares them out
	time.AfterFunc(500*time.Millisecond, wake)
	all.Wait()
	if byNew.Load() == 0 {
		t.Error("no connection was the new one's")
	}
	old.Signal(t, syscall.SIGTERM)
	if code := old.Wait(t); code != 0 {
		t.Errorf("the old one ended with %d", code)
	}
	ask(10)
	all.Wait()
	if byNew.Load() < 10 {
		t.Errorf("%d answers are the new one's", byNew.Load())
	}
}
