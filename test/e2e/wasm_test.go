package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"sluice/test/program"
)

// everything puts the module of the tests that has every hook in a place of its
// own and returns its path. It does what a request's query says
// (internal/wasm/testdata/every.c).
func everything(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../internal/wasm/testdata/every.wasm")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "every.wasm")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestModulesAtWork holds that modules come after authentication, and that what
// they make of requests, answers and streams is framed right.
func TestModulesAtWork(t *testing.T) {
	t.Parallel()
	var streams atomic.Bool // the worker's answers
	w := newRogueOf(t, "other", func(c net.Conn, _ *http.Request) {
		if streams.Load() {
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: " + sse + "\r\nConnection: close\r\n\r\n" + one + one + "data: [DONE]\n\n"))
			return
		}
		say(c, "200 OK", "application/json", `{"said":"what the worker says"}`)
	})
	g := inFrontOf(t, 1, []string{w.URL}, "--api-key", "k", "--enable-wasm", "--wasm-module", "every="+everything(t)+";fail_closed=true")
	chat, key := body(chatPath, false, ""), []string{"Authorization", "Bearer k"}
	const calls = `sluice_wasm_calls_total{action="reject",hook="OnRequest",module="every"}`

	if a := post(t, g.URL, chatPath+"?request=reject", chat); a.status != 401 {
		t.Errorf("a stranger's request: %d %s", a.status, a.body)
	}
	if n, _ := metric(t, g, calls); n != 0 {
		t.Errorf("a module was asked about a stranger, %v times", n)
	}
	if a := post(t, g.URL, chatPath+"?request=reject", chat, key...); a.status != 403 || a.body != "" || a.header.Get("Content-Length") != "0" {
		t.Errorf("a rejected request: %d %q %v", a.status, a.body, a.header)
	}
	wantMetric(t, g, calls, 1)

	const replaced = `{"model":"other","messages":[{"role":"user","content":"a longer text than there was"}]}`
	a := post(t, g.URL, chatPath+"?request=body&response=body", chat, key...)
	if a.status != 200 || a.body != `{"said":"another thing"}` || a.header.Get("Content-Length") != "24" {
		t.Errorf("an answer that is replaced: %d %s %v", a.status, a.body, a.header)
	}
	if r, sent := w.last(t); sent != replaced || r.ContentLength != int64(len(replaced)) {
		t.Errorf("the worker got %d bytes, %s", r.ContentLength, sent)
	}
	streams.Store(true)
	a = post(t, g.URL, chatPath+"?request=body&chunk=replace", chat, key...)
	if a.status != 200 || a.cut != nil || a.body != "["+one+"]["+one+"][data: [DONE]\n\n]" {
		t.Errorf("a stream: %d %v %q", a.status, a.cut, a.body)
	}
	a = post(t, g.URL, chatPath+"?request=body&chunk=finish", chat, key...)
	if a.status != 200 || a.cut != nil || a.body != "data: the end\n\n" {
		t.Errorf("a stream that a module ends: %d %v %q", a.status, a.cut, a.body)
	}
	wantLine(t, g, "status=200", "path="+chatPath)

	streams.Store(false)
	for _, does := range []string{"request=trap", "request=spin", "request=line-end", "request=body&response=trap", "request=body&response=spin"} {
		a = post(t, g.URL, chatPath+"?"+does, chat, key...)
		if a.status != 503 || a.header.Get("X-Smg-Error-Code") != "wasm_module_failed" || !strings.Contains(a.body, `"code":"wasm_module_failed"`) {
			t.Errorf("%s: a door that is kept: %d %s", does, a.status, a.body)
		}
	}
	a = post(t, g.URL, messagesPath+"?request=trap", body(messagesPath, false, ""), key...)
	if a.status != 503 || !strings.HasPrefix(a.body, `{"type":"error","error":{"type":`) {
		t.Errorf("in Anthropic's words: %d %s", a.status, a.body)
	}
	streams.Store(true)
	a = post(t, g.URL, chatPath+"?request=body&chunk=trap", chat, key...)
	if a.status != 200 || !strings.Contains(a.body, `"code":"wasm_module_failed"`) || strings.Contains(a.body, "choices") {
		t.Errorf("a stream whose module fails: %d %q", a.status, a.body)
	}
}

// TestModulesSeeAWorkersErrors holds that what a module makes of a worker's error
// is what the client gets, in either dialect, also where the gateway has asked
// again; and that a request without a model passes no module by.
func TestModulesSeeAWorkersErrors(t *testing.T) {
	t.Parallel()
	w := newRogueOf(t, "m", func(c net.Conn, _ *http.Request) {
		say(c, "500 Internal Server Error", "application/json", `{"error":{"message":"the key is secret"}}`)
	})
	g := inFrontOf(t, 1, []string{w.URL}, "--model-alias", "guarded=m", "--enable-wasm", "--wasm-module", "every="+everything(t)+";fail_closed=true;models=m")
	for query, want := range map[string]string{
		"response=body":   `500 {"said":"another thing"}`,
		"response=reject": `403 {"error":{"message":"the key is secret"}}`,
	} {
		a := post(t, g.URL, chatPath+"?"+query, body(chatPath, false, ""))
		if got := fmt.Sprint(a.status, " ", a.body); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	a := post(t, g.URL, messagesPath+"?response=body", body(messagesPath, false, ""))
	if a.status != 500 || !strings.HasPrefix(a.body, `{"type":"error","error":{"type":`) || strings.Contains(a.body, "secret") {
		t.Errorf("in Anthropic's words: %d %s", a.status, a.body)
	}
	if a = post(t, g.URL, chatPath+"?response=trap", body(chatPath, false, "")); a.status != 503 || !strings.Contains(a.body, "could not look at the answer") {
		t.Errorf("a door that is kept: %d %s", a.status, a.body)
	}
	for _, ask := range []string{`{"text":"hello"}`, `{"model":"m","text":"hello"}`, `{"model":"guarded","text":"hello"}`} {
		if a = post(t, g.URL, "/generate?request=reject", ask); a.status != 403 {
			t.Errorf("%s: %d %s", ask, a.status, a.body)
		}
	}
	wantMetric(t, g, `sluice_wasm_calls_total{action="continue",hook="OnError",module="every"}`, 1) // of the one that the gateway made
}

// TestModulesOutliveAStop holds that what was registered is there at the next
// start, as it was, and that a gateway whose module was tampered with does not
// start without it.
func TestModulesOutliveAStop(t *testing.T) {
	t.Parallel()
	dir, path := filepath.Join(t.TempDir(), "state"), everything(t)
	flags := []string{"--enable-wasm", "--wasm-state-dir", dir}
	g := program.Serve(t, flags...)
	a := ask(t, "POST", g.URL+"/wasm", `{"modules":[{"name":"kept","file_path":"`+path+`","module_type":"Middleware","attach_points":[{"Middleware":"OnRequest"}],"fail_closed":true,"order":3}]}`)
	if a.status != 200 {
		t.Fatalf("registering: %d %s", a.status, a.body)
	}
	_, before := program.Get(t, g.URL+"/wasm")
	g.Signal(t, syscall.SIGTERM)
	if code := g.Wait(t); code != 0 {
		t.Fatalf("exit code %d\n%s", code, g.Log())
	}
	if err := os.Remove(path); err != nil { // its bytes are kept
		t.Fatal(err)
	}
	g = program.Serve(t, flags...)
	if _, after := program.Get(t, g.URL+"/wasm"); after != before {
		t.Errorf("before %s\nafter  %s", before, after)
	}
	g.Signal(t, syscall.SIGTERM)
	g.Wait(t)

	kept, err := filepath.Glob(filepath.Join(dir, "modules", "*.wasm"))
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}
	b, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(kept[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, log, code := program.Run(t, append([]string{"serve", "--port", "0", "--prometheus-port", "0", "--host", "127.0.0.1"}, flags...)...)
	if code == 0 || !strings.Contains(log, `module "kept": its file `+kept[0]+` has SHA-256`) {
		t.Errorf("a module that was tampered with: exit code %d, %s", code, log)
	}
}

// TestModulesGuardWebSockets: a door that modules keep has no other beside it.
func TestModulesGuardWebSockets(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "m")
	g := inFrontOf(t, 1, []string{k.URL}, "--enable-wasm", "--wasm-module", "every="+everything(t)+";fail_closed=true")
	for query, want := range map[string]int{"request=reject": 403, "request=trap": 503} {
		_, res, err := websocket.Dial(t.Context(), g.URL+realtimePath+"?model=m&"+query, nil)
		if err == nil || res == nil || res.StatusCode != want {
			t.Errorf("%s: %v, %v; want %d", query, res, err, want)
		}
	}
	if _, n := k.last(); n != 0 {
		t.Errorf("the worker was asked %d times", n)
	}
	c := dial(t, g, "?model=m&response=status&chunk=replace", nil)
	if got := tell(t, c, "hello"); got != "hello" {
		t.Errorf("said hello, got %q", got)
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	program.Eventually(t, "the module is told of the end", func() bool {
		n, _ := metric(t, g, `sluice_wasm_calls_total{action="continue",hook="OnEnd",module="every"}`)
		return n == 3
	})
}

// TestModulesAreToldOfADeadWorker kills a worker that streams. The client's
// stream ends with an error event and without [DONE]; the module hears of the
// error once, and then of the end; nobody else is asked. It is so in either
// dialect, and whether a module sees the events or the stream passes.
func TestModulesAreToldOfADeadWorker(t *testing.T) {
	t.Parallel()
	for path, end := range map[string]string{chatPath: "error call_upstream_body_error", messagesPath: "error api_error"} {
		for name, setting := range map[string]string{
			"the module sees the events": "",
			"the stream passes":          ";attach_points=OnRequest,OnError,OnEnd",
		} {
			t.Run(name+", "+path, func(t *testing.T) {
				t.Parallel()
				engines := []*program.Engines{program.Mock(t, 1, slowEngine...), program.Mock(t, 1, slowEngine...)}
				g := inFrontOf(t, 2, []string{engines[0].URLs[0], engines[1].URLs[0]}, "--enable-wasm", "--wasm-module", "every="+everything(t)+setting)
				long := strings.Replace(body(path, true, ""), `"max_tokens":8`, `"max_tokens":4000`, 1) // 100 s
				res, err := oneShot.Post(g.URL+path, "application/json", strings.NewReader(long))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				var got strings.Builder
				for r := bufio.NewReader(io.TeeReader(res.Body, &got)); !strings.Contains(got.String(), "delta"); {
					if _, err := r.ReadString('\n'); err != nil {
						t.Fatalf("the stream begins with %q, %v", got.String(), err)
					}
				}
				if state(t, engines[0].URLs[0]).Counts.Requests == 0 {
					slices.Reverse(engines)
				}
				engines[0].Signal(t, syscall.SIGKILL)
				if _, err := io.Copy(&got, res.Body); err != nil {
					t.Errorf("the stream is cut: %v", err)
				}
				if how, err := endOf(events(t, got.String())); res.StatusCode != 200 || how != end || err != nil {
					t.Errorf("%d, and the end is %q, %v; want %q:\n%s", res.StatusCode, how, err, end, got.String())
				}
				if n := state(t, engines[1].URLs[0]).Counts.Requests; n != 0 {
					t.Errorf("the other worker was asked %d times", n)
				}

				wantMetric(t, g, `sluice_wasm_calls_total{action="continue",hook="OnEnd",module="every"}`, 1)
				wantMetric(t, g, `sluice_wasm_calls_total{action="continue",hook="OnError",module="every"}`, 1)
				wantLine(t, g, "module=every", `text="error 502 call_upstream_body_error"`)
				wantLine(t, g, "module=every", `text="end 200 `)
				wantLine(t, g, "msg=request", "status=200", "path="+path, "error=stream_error")
			})
		}
	}
}
