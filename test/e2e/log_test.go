package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/test/program"
)

func TestTheAccessLogAsText(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 2, []string{"--model", "m"}, []string{"--retry-initial-backoff-ms", "1", "--policy", "round_robin"})
	fault(t, e.URLs[0], "status=503")
	for range 2 { // one of them begins at the bad engine
		post(t, g.URL, chatPath, body(chatPath, true, `"stream_options":{"include_usage":true}`), "X-Request-Id", "log-1")
	}
	wantLine(t, g, "msg=request", "id=log-1", "method=POST", "path=/v1/chat/completions", "status=200", "model=m", "stream=true",
		"worker="+e.URLs[1], "tries=2", "bytes_in=", "bytes_out=", "duration_ms=", "ttft_ms=", "output_tokens=8", "remote=127.0.0.1")
	ask(t, "GET", g.URL+"/v1/nothing?secret=1", "", "X-Request-Id", "log-2")
	wantLine(t, g, "id=log-2", "status=404", "error=unknown_url")
	if strings.Contains(g.Log(), "secret=1") {
		t.Error("the log holds a query")
	}
	if strings.Contains(g.Log(), "tell me a story") {
		t.Error("the log holds a prompt")
	}
}

func TestTheAccessLogAsJSON(t *testing.T) {
	t.Parallel()
	e := program.Mock(t, 1, "--model", "m")
	port, dir := freePort(t), t.TempDir()
	g := program.Start(t, "serve", "--host", "127.0.0.1", "--port", port, "--prometheus-port", "0", "--worker-urls", e.URLs[0], "--log-json", "--log-dir", filepath.Join(dir, "new"))
	url := "http://127.0.0.1:" + port
	program.Eventually(t, "it serves", func() bool {
		status, _ := program.Get(t, url+"/readiness")
		return status == 200
	})
	post(t, url, chatPath, body(chatPath, false, ""), "X-Request-Id", "json-1")
	find := func(log string) map[string]any {
		whole := log[:strings.LastIndexByte(log, '\n')+1] // the line after that may still be written
		for line := range strings.SplitSeq(whole, "\n") {
			var m map[string]any
			if line != "" && json.Unmarshal([]byte(line), &m) != nil {
				t.Errorf("%q is not JSON", line)
			}
			if m["id"] == "json-1" {
				return m
			}
		}
		return nil
	}
	var m map[string]any
	program.Eventually(t, "the line is there", func() bool { m = find(g.Log()); return m != nil })
	for name, want := range map[string]any{
		"msg": "request", "method": "POST", "path": chatPath, "status": 200.0, "model": "m", "stream": false, "worker": e.URLs[0], "tries": 1.0, "output_tokens": 8.0, "level": "INFO",
	} {
		if m[name] != want {
			t.Errorf("%s is %v, want %v", name, m[name], want)
		}
	}
	for _, name := range []string{"time", "bytes_in", "bytes_out", "duration_ms", "ttft_ms", "input_tokens"} {
		if m[name] == nil {
			t.Errorf("%s is missing: %v", name, m)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "new", "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the directory holds %v, %v", files, err)
	}
	program.Eventually(t, "the file holds the line", func() bool {
		b, err := os.ReadFile(files[len(files)-1])
		return err == nil && find(string(b)) != nil
	})
}

func TestTheAccessLogCanBeLeftOut(t *testing.T) {
	t.Parallel()
	g := program.Serve(t, "--disable-access-log")
	ask(t, "GET", g.URL+"/health", "", "X-Request-Id", "quiet-1")
	if strings.Contains(g.Log(), "quiet-1") {
		t.Errorf("a line was written:\n%s", g.Log())
	}
}
