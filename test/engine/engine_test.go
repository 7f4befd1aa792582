// Package engine holds the gateway to a real engine: the built program in front
// of llama.cpp's server with a tiny model of noise. What the model says is
// never looked at. Without the server the tests are skipped; run.sh installs it.
package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"sluice/test/program"
)

func TestMain(m *testing.M) {
	code := m.Run()
	program.Clean()
	os.Exit(code)
}

// model is what the engine's model is called.
const model = "tiny"

// A llama is a llama.cpp server.
type llama struct {
	url  string
	port int
	kind string // "", or "embedding"

	cmd *exec.Cmd // nil while it is dead
	log *os.File
}

// launch starts a server of the given kind on a free port, which ends with t.
func launch(t *testing.T, kind string) *llama {
	t.Helper()
	if os.Getenv("SLUICE_ENGINE") == "" {
		t.Skip("no real engine here: test/engine/run.sh (make engine) installs llama.cpp's server, about 210 MB, and runs these tests")
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &llama{port: port.Addr().(*net.TCPAddr).Port, kind: kind}
	l.url = fmt.Sprintf("http://127.0.0.1:%d", l.port)
	if err := port.Close(); err != nil {
		t.Fatal(err)
	}
	l.start(t)
	t.Cleanup(func() { l.kill(t) })
	return l
}

// start starts l on its port, for the first time or again, and waits until it
// answers.
func (l *llama) start(t *testing.T) {
	t.Helper()
	dir := os.Getenv("SLUICE_ENGINE")
	args := []string{"server.py", filepath.Join(dir, "tiny.gguf"), fmt.Sprint(l.port), model}
	if l.kind != "" {
		args = append(args, l.kind)
	}
	log, err := os.CreateTemp(t.TempDir(), "llama-*.log")
	if err != nil {
		t.Fatal(err)
	}
	l.log = log
	l.cmd = exec.Command(filepath.Join(dir, "venv", "bin", "python"), args...)
	l.cmd.Stdout, l.cmd.Stderr = log, log
	if _, err := l.cmd.StdinPipe(); err != nil { // the server ends when we do
		t.Fatal(err)
	}
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	program.Eventually(t, "llama.cpp answers", func() bool {
		status, _ := program.Get(t, l.url+"/health")
		return status == http.StatusOK
	})
}

// kill ends l as a crash does.
func (l *llama) kill(t *testing.T) {
	t.Helper()
	if l.cmd == nil {
		return
	}
	if err := l.cmd.Process.Kill(); err != nil {
		t.Errorf("killing llama.cpp: %v", err)
	}
	_ = l.cmd.Wait() // says that it was killed
	l.cmd = nil
	if t.Failed() {
		if b, err := os.ReadFile(l.log.Name()); err == nil {
			t.Logf("llama.cpp wrote:\n%s", b)
		}
	}
	_ = l.log.Close()
}

// busy returns how many requests l works on.
func (l *llama) busy(t *testing.T) int {
	t.Helper()
	var slots []struct {
		Processing bool `json:"is_processing"`
	}
	status, body := program.Get(t, l.url+"/slots")
	if err := json.Unmarshal([]byte(body), &slots); status != http.StatusOK || err != nil {
		t.Fatalf("/slots: %d %v %s", status, err, body)
	}
	n := 0
	for _, s := range slots {
		if s.Processing {
			n++
		}
	}
	return n
}

// made returns how many tokens l has made for answers that are over.
func (l *llama) made(t *testing.T) float64 {
	t.Helper()
	_, body := program.Get(t, l.url+"/metrics")
	for line := range strings.Lines(body) {
		var n float64
		if _, err := fmt.Sscanf(line, "llamacpp:tokens_predicted_total %g", &n); err == nil {
			return n
		}
	}
	t.Fatalf("/metrics does not count tokens:\n%s", body)
	return 0
}

// serve starts a gateway before l and waits until it takes requests for l.
func serve(t *testing.T, l *llama, flags ...string) *program.Gateway {
	t.Helper()
	g := program.Serve(t, append([]string{"--worker-urls", l.url}, flags...)...)
	g.WaitReady(t, 1)
	return g
}

// client returns the SDK's client of g. It tries once: what is tried again is
// the gateway's.
func client(g *program.Gateway) openai.Client {
	return openai.NewClient(option.WithBaseURL(g.URL+"/v1"), option.WithAPIKey("unused"), option.WithMaxRetries(0))
}

// within bounds a request.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// asking is a chat of one question whose answer has a number of tokens; see
// wholly.
func asking(question string, tokens int64) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: model, MaxTokens: openai.Int(tokens),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
	}
}

// wholly lets noise speak on, up to the limit: else it ends where chance has it.
var wholly = option.WithJSONSet("ignore_eos", true)

// endless is more tokens than any test waits for, and fits the model.
const endless = 30000

// post sends body as it is and returns the whole answer.
func post(t *testing.T, url, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}
