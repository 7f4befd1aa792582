package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/test/program"
)

// guest puts the http-wasm guest of the tests in a place of its own and returns
// its path. It does what the last letter of a request's URI stands for.
func guest(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../internal/wasm/httpwasm/testdata/guest.wasm")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "guest.wasm")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHTTPWasmModules(t *testing.T) {
	t.Parallel()
	g, _ := program.Fleet(t, 1, []string{"--model", "m"}, []string{"--enable-wasm", "--wasm-module", "letters=" + guest(t) + ";config=from the operator"})
	chat, streamed := body(chatPath, false, ""), body(chatPath, true, "")
	plain := post(t, g.URL, chatPath+"?a", chat)
	if plain.status != 200 || !strings.Contains(plain.body, `"choices"`) {
		t.Fatalf("a request that may go on: %d %s", plain.status, plain.body)
	}

	a := post(t, g.URL, chatPath+"?b", chat)
	if a.status != 403 || a.body != "kept out" || a.header.Get("X-Why") != "1" {
		t.Errorf("a request that is kept out: %d %s %v", a.status, a.body, a.header)
	}
	a = post(t, g.URL, chatPath+"?v", chat)
	if a.status != 201 || !strings.HasPrefix(a.body, "<{") || !strings.HasSuffix(a.body, "}>") || a.header.Get("X-Ctx") != "7" {
		t.Errorf("an answer that is changed: %d %s %v", a.status, a.body, a.header)
	}
	a = post(t, g.URL, chatPath+"?v", streamed)
	if a.status != 201 || !strings.HasPrefix(a.body, "<data: {") || !strings.HasSuffix(a.body, "data: [DONE]\n\n>") || a.cut != nil {
		t.Errorf("a stream that is wanted as a whole: %d %v %s", a.status, a.cut, a.body)
	}
	a = post(t, g.URL, chatPath+"?B", streamed)
	if a.status != 200 || !strings.HasPrefix(a.body, "predata: {") || a.header.Get("X-Early") != "1" || !strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
		t.Errorf("a stream that a module begins: %d %s %v", a.status, a.body, a.header)
	}
	for _, letter := range []string{"a", "C", "w", "f", "g", "h", "u", "e", "z"} {
		for _, ask := range []string{chat, streamed} {
			if a = post(t, g.URL, chatPath+"?"+letter, ask); a.status != 200 || a.cut != nil || !strings.Contains(a.body, `"choices"`) {
				t.Errorf("%s: a module that fails, fail-open: %d %v %s", letter, a.status, a.cut, a.body)
			}
		}
	}
	post(t, g.URL, chatPath+"?G", chat)
	wantLine(t, g, "level=INFO", `msg="a module says"`, "module=letters", `text="from the operator"`)
	wantLine(t, g, "level=WARN", `msg="a module says"`, "text=127.0.0.1:")
	wantLine(t, g, "level=ERROR", `msg="a module says"`, "text=HTTP/1.1")
	wantLine(t, g, `msg="a module failed"`, "module=letters", "hook=OnRequest", "timeout: it did not end in time")
	if n, ok := metric(t, g, `sluice_wasm_errors_total{hook="OnRequest",kind="stack",module="letters"}`); !ok || n != 2 {
		t.Errorf("%v calls that were nested too deep, want 2", n)
	}
}

// TestHTTPWasmModulesAreManaged holds that they are registered, shown and removed
// as components are.
func TestHTTPWasmModulesAreManaged(t *testing.T) {
	t.Parallel()
	g, _ := program.Fleet(t, 1, []string{"--model", "m"}, []string{"--enable-wasm"})
	path := guest(t)
	add := `{"modules":[{"name":"letters","file_path":"` + path + `","module_type":"Middleware","fail_closed":true,"config":"c",
		"attach_points":[{"Middleware":"OnRequest"},{"Middleware":"OnResponse"}],"add_result":null}]}`
	a := ask(t, "POST", g.URL+"/wasm", add)
	var in struct {
		Modules []struct {
			Result map[string]string `json:"add_result"`
		} `json:"modules"`
	}
	if err := json.Unmarshal([]byte(a.body), &in); err != nil || a.status != 200 || len(in.Modules) != 1 || in.Modules[0].Result["Success"] == "" {
		t.Fatalf("registering: %d %s", a.status, a.body)
	}
	if a = ask(t, "POST", g.URL+"/wasm", add); a.status != 400 || !strings.Contains(a.body, "is registered already") {
		t.Errorf("registering it again: %d %s", a.status, a.body)
	}
	chat := body(chatPath, false, "")
	if a = post(t, g.URL, chatPath+"?f", chat); a.status != 503 || a.header.Get("X-SMG-Error-Code") != "wasm_module_failed" {
		t.Errorf("a module that fails, fail-closed: %d %s", a.status, a.body)
	}
	if a = post(t, g.URL, chatPath+"?v", chat); a.status != 201 {
		t.Errorf("an answer that is changed: %d %s", a.status, a.body)
	}
	if a = ask(t, "GET", g.URL+"/wasm", ""); !strings.Contains(a.body, `"world":"http-wasm"`) || !strings.Contains(a.body, `"access_count":`) {
		t.Errorf("the list: %s", a.body)
	}
	if a = ask(t, "DELETE", g.URL+"/wasm/"+in.Modules[0].Result["Success"], ""); a.status != 200 {
		t.Errorf("removing: %d %s", a.status, a.body)
	}
	if a = post(t, g.URL, chatPath+"?f", chat); a.status != 200 {
		t.Errorf("after it was removed: %d %s", a.status, a.body)
	}
}
