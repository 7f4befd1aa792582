package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/test/program"
)

// setter puts an http-wasm module in a place of its own that gives each request a
// header field, and returns its path. Both texts are shorter than 32 bytes.
func setter(t *testing.T, name, value string) string {
	t.Helper()
	text := func(s string) string { return string(rune(len(s))) + s }
	section := func(id byte, s string) string { return string(rune(id)) + text(s) }
	data := func(at int, s string) string { return "\x00\x41" + string(rune(at)) + "\x0b" + text(s) }
	put := "\x00\x41\x00\x41\x00\x41" + string(rune(len(name))) + "\x41\x20\x41" + string(rune(len(value))) + "\x10\x00\x42\x01\x0b"
	b := "\x00asm\x01\x00\x00\x00" +
		section(1, "\x03\x60\x05\x7f\x7f\x7f\x7f\x7f\x00\x60\x00\x01\x7e\x60\x02\x7f\x7f\x00") +
		section(2, "\x01"+text("http_handler")+text("set_header_value")+"\x00\x00") +
		section(3, "\x02\x01\x02") +
		section(5, "\x01\x00\x01") +
		section(7, "\x03"+text("memory")+"\x02\x00"+text("handle_request")+"\x00\x01"+text("handle_response")+"\x00\x02") +
		section(10, "\x02"+text(put)+text("\x00\x0b")) +
		section(11, "\x02"+data(0, name)+data(32, value))
	path := filepath.Join(t.TempDir(), "setter.wasm")
	if err := os.WriteFile(path, []byte(b), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestModulesAreAskedBeforeTheGateway holds that a module sees what the gateway
// would refuse, may answer it or repair it, that what it leaves is refused as ever,
// and that no worker gets it.
func TestModulesAreAskedBeforeTheGateway(t *testing.T) {
	t.Parallel()
	w := newRogueOf(t, "other", func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", `{"said":"hi"}`) })
	g := inFrontOf(t, 1, []string{w.URL}, "--max-payload-size", "1000", "--enable-wasm", "--wasm-module", "every="+everything(t)+";paths=/v1/*")
	const sound = `{"model":"other","messages":[{"role":"user","content":"hi"}]}`
	tests := []struct {
		path, body, kind, version string
		status                    int
		code                      string
	}{
		{chatPath, `{`, "application/json", "", 400, "json_parse_error"},
		{chatPath + "?request=reject", `{`, "application/json", "", 403, ""},
		{chatPath + "?request=body", `{`, "application/json", "", 200, ""},
		{chatPath + "?request=body", ``, "application/json", "", 200, ""},
		{chatPath + "?request=trap", `{"model":"other"}`, "application/json", "", 400, "missing_required_parameter"},
		{chatPath + "?request=reject", `{"model":"other"}`, "application/json", "", 403, ""},
		{chatPath + "?request=body", `{"model":"nobody's"}`, "application/json", "", 200, ""},
		{chatPath + "?request=reject", sound, "text/plain", "", 403, ""},
		{chatPath + "?request=body", sound, "text/plain", "", 415, "unsupported_media_type"},
		{messagesPath + "?request=reject", sound, "application/json", "never", 403, ""},
		{messagesPath + "?request=body", sound, "application/json", "never", 400, "invalid_anthropic_version"},
		{chatPath + "?request=reject", sound[:len(sound)-1] + strings.Repeat(" ", 1000) + "}", "application/json", "", 413, "request_body_too_large"},
		{generatePath + "?request=reject", `{`, "application/json", "", 400, "json_parse_error"}, // no module is for it
		{chatPath + "?request=no-body", sound, "application/json", "", 200, ""},                  // which is not done
	}
	for _, tt := range tests {
		before := w.times()
		a := post(t, g.URL, tt.path, tt.body, "Content-Type", tt.kind, "Anthropic-Version", tt.version)
		if tt.version == "" {
			a = post(t, g.URL, tt.path, tt.body, "Content-Type", tt.kind)
		}
		if code := a.header.Get("X-Smg-Error-Code"); a.status != tt.status || code != tt.code {
			t.Errorf("%s with %.40s, %s: %d %s, want %d %s", tt.path, tt.body, tt.kind, a.status, code, tt.status, tt.code)
		}
		if asked := w.times() > before; asked != (tt.status == 200) {
			t.Errorf("%s with %.40s: the worker was asked: %t", tt.path, tt.body, asked)
		}
	}
	wantLine(t, g, "msg=request", "status=403", "path="+chatPath, "module=every")
}

// TestModulesMendHeaders is the same for what only a header says.
func TestModulesMendHeaders(t *testing.T) {
	t.Parallel()
	for field, tests := range map[[2]string][]struct {
		path, kind, version string
		want                int
	}{
		{"content-type", "application/json"}: {{chatPath, "text/plain", "", 200}, {chatPath, "", "", 200}, {messagesPath, "text/plain", "never", 400}},
		{"anthropic-version", "2023-06-01"}:  {{messagesPath, "application/json", "never", 200}, {messagesPath, "text/plain", "never", 415}},
		{"content-type", "text/plain"}:       {{chatPath, "application/json", "", 200}},               // which is not done
		{"anthropic-version", "soon"}:        {{messagesPath, "application/json", "2023-06-01", 200}}, // nor is that
		{"content-encoding", "gzip"}:         {{chatPath, "application/json", "", 200}},               // nor that
	} {
		w := newRogueOf(t, "m", func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", `{"said":"hi"}`) })
		g := inFrontOf(t, 1, []string{w.URL}, "--enable-wasm", "--wasm-module", "setter="+setter(t, field[0], field[1]))
		for _, tt := range tests {
			more := []string{"Content-Type", tt.kind}
			if tt.version != "" {
				more = append(more, "Anthropic-Version", tt.version)
			}
			a := post(t, g.URL, tt.path, body(tt.path, false, ""), more...)
			if a.status != tt.want {
				t.Errorf("%v, a request of %q to %s: %d %s, want %d", field, tt.kind, tt.path, a.status, a.body, tt.want)
			}
			if a.status != 200 {
				continue
			}
			r, sent := w.last(t)
			if kind, v := r.Header.Get("Content-Type"), r.Header.Get("Anthropic-Version"); kind != "application/json" || tt.version != "" && v != "2023-06-01" || sent != body(tt.path, false, "") {
				t.Errorf("%v: the worker got %q, version %q, %s", field, kind, v, sent)
			}
		}
	}
}

// TestAnswersDoNotWaitForOnEnd holds that a client has its whole answer while the
// module is still told of the end, that each end is told once, however it comes,
// and that a gateway that stops lets a module finish.
func TestAnswersDoNotWaitForOnEnd(t *testing.T) {
	t.Parallel()
	// Two seconds is as long as a spinning module takes.
	g, e := program.Fleet(t, 1, slowEngine, []string{"--enable-wasm", "--wasm-module", "every=" + everything(t) + ";max_execution_time_ms=2000", "--retry-max-retries", "1"})
	const late = `sluice_wasm_errors_total{hook="OnEnd",kind="timeout",module="every"}`
	ended := func(action string) string {
		return fmt.Sprintf(`sluice_wasm_calls_total{action=%q,hook="OnEnd",module="every"}`, action)
	}
	spun := 0
	for _, path := range []string{chatPath, messagesPath} {
		for _, stream := range []bool{false, true} {
			watch := bubble.Begin(t)
			a := post(t, g.URL, path+"?end=spin", body(path, stream, ""))
			n, _ := metric(t, g, late)
			took, awake := watch.End()
			switch {
			case a.status != 200 || a.cut != nil:
				t.Errorf("%s, stream %t: %d %v", path, stream, a.status, a.cut)
			case n != float64(spun) && took-awake < 500*time.Millisecond: // else the machine stood still, and nobody knows
				t.Errorf("%s, stream %t: %v calls have ended before the client had its answer, want %d", path, stream, n, spun)
			}
			spun++
			wantMetric(t, g, late, float64(spun))
		}
	}
	refused := post(t, g.URL, chatPath+"?error=spin", of("nobody's", body(chatPath, false, "")))
	if n, _ := metric(t, g, strings.Replace(late, "OnEnd", "OnError", 1)); refused.status != 404 || n != 0 {
		t.Errorf("an error waits for on-error: %d, %v calls have ended", refused.status, n)
	}
	wantMetric(t, g, ended("continue"), 1)

	fault(t, e.URLs[0], "status=500")
	for i, tt := range []struct {
		query, body string
		status      int
	}{
		{"", body(chatPath, false, ""), 500},
		{"?request=reject", body(chatPath, false, ""), 403},
		{"", `{`, 400},
		{"", of("nobody's", body(chatPath, true, "")), 404},
	} {
		if a := post(t, g.URL, chatPath+tt.query, tt.body); a.status != tt.status {
			t.Errorf("%s: %d, want %d", tt.query, a.status, tt.status)
		}
		wantMetric(t, g, ended("continue"), float64(i+2))
	}
	fault(t, e.URLs[0], "")
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "POST", g.URL+chatPath, strings.NewReader(strings.Replace(body(chatPath, true, ""), `"max_tokens":8`, `"max_tokens":4000`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := oneShot.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	leave()
	_ = res.Body.Close()
	wantMetric(t, g, ended("continue"), 6)

	if a := post(t, g.URL, chatPath+"?end=spin", body(chatPath, false, "")); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	g.Signal(t, syscall.SIGTERM)
	if code := g.Wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	var told, timeouts int
	for _, l := range g.Lines() {
		if strings.Contains(l, `text="end `) {
			told++
		}
		if strings.Contains(l, `msg="a module failed"`) && strings.Contains(l, "hook=OnEnd") {
			timeouts++
		}
	}
	if told != 6 || timeouts != spun+1 {
		t.Errorf("%d ends are told and %d take too long, want 6 and %d", told, timeouts, spun+1)
	}
}
