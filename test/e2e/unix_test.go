package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"sluice/test/program"
)

// sockets returns a directory whose names are short enough for Unix sockets.
func sockets(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// through returns a client that reaches whoever listens on a socket.
func through(t testing.TB, socket string) *http.Client {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// onSocket moves a worker to a Unix socket and returns its URL.
func onSocket(t testing.TB, socket string, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	return "unix:" + strings.TrimPrefix(socket, "unix:")
}

// TestUnixSockets has a gateway that is reached through a Unix socket, and
// workers on others: nothing listens on a port but the metrics.
func TestUnixSockets(t *testing.T) {
	t.Parallel()
	dir := sockets(t)
	at := filepath.Join(dir, "gateway.sock")
	k, late := newTalker(t, "m"), newTalker(t, "late")
	asked := make(chan string, 100)
	engine := func(k *talker) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/", k.Config.Handler)
		mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
			asked <- r.Host
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"choices":[]}`)
		})
		mux.HandleFunc("POST /flush_cache", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "flushed") })
		return mux
	}
	first := onSocket(t, filepath.Join(dir, "engine.sock"), engine(k))
	second := onSocket(t, filepath.Join(dir, "late.sock"), engine(late))

	g := program.Serve(t, "--unix-socket", "unix:"+at, "--worker-urls", first)
	if g.URL != "unix:"+at {
		t.Errorf("the gateway says it listens at %q, want unix:%s", g.URL, at)
	}
	c := through(t, at)
	call := func(method, path, body string, header ...string) answer {
		t.Helper()
		a, err := try(t.Context(), c, method, "http://localhost"+path, body, header...)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	ready := func(n int) {
		t.Helper()
		program.Eventually(t, fmt.Sprintf("%d workers are ready", n), func() bool {
			return strings.Contains(call("GET", "/readiness", "").body, fmt.Sprintf(`"healthy_workers":%d,`, n))
		})
	}
	ready(1)
	if a := call("POST", chatPath, body(chatPath, false, "")); a.status != 200 || a.body != `{"choices":[]}` {
		t.Errorf("a request gets %d %s", a.status, a.body)
	}
	if host := <-asked; host != "localhost" {
		t.Errorf("the worker was asked as %q, want localhost", host)
	}

	// Whoever may connect to the socket is on the gateway's own host.
	if a := call("POST", "/workers", `{"url":"`+strings.Replace(second, "unix:", "unix://", 1)+`"}`); a.status != 202 || !strings.Contains(a.body, `"url":"unix:`) {
		t.Errorf("adding a worker gets %d %s", a.status, a.body)
	}
	ready(2)
	if a := call("GET", "/workers", ""); a.status != 200 || !strings.Contains(a.body, `"url":"`+first+`"`) || !strings.Contains(a.body, `"url":"`+second+`"`) {
		t.Errorf("the workers are %d %s", a.status, a.body)
	}
	if a := call("GET", "/workers", "", "X-Forwarded-For", "192.0.2.1"); a.refused(t) != "403 control_plane_loopback_only" {
		t.Errorf("through a proxy the workers are %d %s", a.status, a.body)
	}
	if a := call("POST", "/flush_cache", ""); a.status != 200 || !strings.Contains(a.body, `"workers_flushed":2`) {
		t.Errorf("flushing gets %d %s", a.status, a.body)
	}
	for url, want := range map[string]int{second: 409, "unix:" + at: 400, "unix:relative": 400, "unix:" + dir + "/../x": 400} {
		if a := call("POST", "/workers", `{"url":"`+url+`"}`); a.status != want {
			t.Errorf("adding %s gets %d %s, want %d", url, a.status, a.body, want)
		}
	}

	ws, _, err := websocket.Dial(t.Context(), "http://localhost/v1/realtime?model=late", &websocket.DialOptions{HTTPClient: c})
	if err != nil {
		t.Fatal(err)
	}
	if got := tell(t, ws, "hello"); got != "hello" {
		t.Errorf("said hello, got %q", got)
	}
	_ = ws.CloseNow()
	_ = late.ended(t)

	if _, m := program.Get(t, g.MetricsURL); !strings.Contains(m, `worker="`+first+`"`) {
		t.Error("the metrics do not name the worker by its URL")
	}
	program.Eventually(t, "the log tells of client and worker", func() bool {
		return strings.Contains(g.Log(), "remote=unix") && strings.Contains(g.Log(), "worker="+first)
	})
}

// TestAWorkerOnASocketThatNobodyHas holds that a worker that is not there yet,
// and one that goes, are known by their checks as others are.
func TestAWorkerOnASocketThatNobodyHas(t *testing.T) {
	t.Parallel()
	at := filepath.Join(sockets(t), "engine.sock")
	g := program.Serve(t, "--worker-urls", "unix:"+at, "--worker-startup-check-interval", "1")
	program.Eventually(t, "the worker's check fails", func() bool {
		_, b := program.Get(t, g.URL+"/workers")
		return strings.Contains(b, "connect")
	})
	onSocket(t, at, newTalker(t, "m").Config.Handler)
	g.WaitReady(t, 1)
}
