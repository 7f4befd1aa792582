package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/test/program"
)

// hooks are all that there are, for sluice wasm new.
const hooks = "on-request,on-response,on-chunk,on-error,on-end"

// needsCompilers skips a test that is for make wasm-new: it needs compilers, and
// for JavaScript a registry.
func needsCompilers(t *testing.T) {
	t.Helper()
	if os.Getenv("SLUICE_NEW_MODULES") == "" {
		t.Skip("make wasm-new runs it")
	}
}

// beginModule writes a module of a language and returns its folder.
func beginModule(t *testing.T, name, lang, hooks string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if _, err, code := program.Run(t, "wasm", "new", name, "--lang", lang, "--hooks", hooks, "--dir", dir); code != 0 {
		t.Fatalf("exit code %d: %s", code, err)
	}
	return dir
}

// runIn runs a command in a folder, with the program in PATH as sluice.
func runIn(t *testing.T, dir, name string, args ...string) (string, error) {
	t.Helper()
	ctx, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	c := exec.CommandContext(ctx, name, args...)
	c.WaitDelay = time.Second
	c.Dir, c.Env = dir, append(os.Environ(), "SLUICE="+program.Binary(t))
	out, err := c.CombinedOutput()
	return string(out), err
}

// npm installs what a module in JavaScript needs, or skips the test if that cannot
// be had here.
func npm(t *testing.T, dir string) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing", tool)
		}
	}
	if out, err := runIn(t, dir, "npm", "install", "--no-audit", "--no-fund"); err != nil {
		if why, err := runIn(t, dir, "npm", "view", "npm", "version"); err != nil {
			t.Skipf("npm's registry is missing: %s", why)
		}
		t.Fatalf("npm install: %v\n%s", err, out)
	}
}

// built builds a module, or skips the test if there is no compiler, and returns the
// component's path.
func built(t *testing.T, dir string) string {
	t.Helper()
	if out, err := runIn(t, dir, "./build.sh"); err != nil {
		if !strings.HasSuffix(t.Name(), "/go") && (strings.Contains(out, " is missing; ") || strings.Contains(out, "cannot compile for WebAssembly")) {
			t.Skip(out)
		}
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	return filepath.Join(dir, filepath.Base(dir)+".wasm")
}

// load registers a module, which keeps the door.
func load(t *testing.T, g *program.Gateway, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(g.URL+"/wasm?name=mine&fail_closed=true", "application/wasm", bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("POST /wasm: %d %s", resp.StatusCode, said)
	}
}

// TestNewModulesAreBuilt holds that a module that was begun in a language, with all
// hooks, is built by that language's compiler without a warning, and does in the
// gateway what its source says.
func TestNewModulesAreBuilt(t *testing.T) {
	needsCompilers(t)
	for _, lang := range []string{"c", "rust", "go", "tinygo", "js"} {
		t.Run(lang, func(t *testing.T) {
			dir := beginModule(t, "my-module", lang, hooks)
			if lang == "js" {
				npm(t, dir)
			}
			path := built(t, dir)
			if out, _, code := program.Run(t, "wasm", "inspect", path); code != 0 || strings.Count(out, "\nhook  ") != 5 || !strings.Contains(out, "isolation   snapshot") {
				t.Errorf("exit code %d, want five hooks and snapshots:\n%s", code, out)
			}
			if out, _, code := program.Run(t, "wasm", "test", path, "--request", filepath.Join(dir, "test.http")); code != 0 || !strings.Contains(out, "client gets   401") || !strings.Contains(out, "+ x-my-module: seen") {
				t.Errorf("exit code %d, want a request that is refused and one that is changed:\n%s", code, out)
			}

			var streams atomic.Bool
			const told = "data: {\"choices\":[{\"delta\":{\"content\":\"the secretsecret is secre\"}}]}\n\n"
			w := newRogueOf(t, "m", func(c net.Conn, _ *http.Request) {
				if streams.Load() {
					_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: " + sse + "\r\nConnection: close\r\n\r\n" + one + told + "data: [DONE]\n\n"))
					return
				}
				say(c, "200 OK", "application/json", `{"choices":[]}`)
			})
			g := inFrontOf(t, 1, []string{w.URL}, "--enable-wasm")
			load(t, g, path)
			if a := post(t, g.URL, chatPath, body(chatPath, false, "")); a.status != 401 {
				t.Errorf("without a key: %d %s", a.status, a.body)
			}
			if a := post(t, g.URL, chatPath, body(chatPath, false, ""), "X-API-Key", "k"); a.status != 200 || a.body != `{"choices":[]}` || a.header.Get("X-My-Module") != "seen" {
				t.Errorf("with a key: %d %v %s", a.status, a.header, a.body)
			}
			streams.Store(true)
			if a := post(t, g.URL, chatPath, body(chatPath, true, ""), "X-API-Key", "k"); a.status != 200 || a.cut != nil || a.body != one+strings.ReplaceAll(told, "secret", "[...]")+"data: [DONE]\n\n" {
				t.Errorf("a stream: %d %v %q", a.status, a.cut, a.body)
			}
			wantLine(t, g, "200 after")
			for hook, calls := range map[string]float64{"OnRequest": 3, "OnResponse": 1, "OnChunk": 3, "OnEnd": 3} {
				wantMetric(t, g, fmt.Sprintf(`sluice_wasm_call_duration_seconds_count{hook=%q,module="mine"}`, hook), calls)
				wantMetric(t, g, fmt.Sprintf(`sluice_wasm_calls_total{action="error",hook=%q,module="mine"}`, hook), 0)
			}
		})
	}
}

// inJavaScript is a module that uses all that modules in JavaScript have.
const inJavaScript = `
import { add, count, get, log, model, setState, state } from "sluice:gateway/host@0.1.0";
import "./sluice.js";

let calls = 0;
export const onRequest = {
  onRequest(req) {
    if (req.query === "throw") throw new Error("oh dear");
    calls++;
    setState(new TextEncoder().encode("für " + model()));
    count("asked", 2);
    add("asked", 1, 0);
    console.warn("careful", { a: 1 });
    const chat = JSON.parse(new TextDecoder().decode(req.body));
    chat.messages = [{ role: "user", content: "große € 😀" }];
    const val = { headersSet: [], headersAdd: [], headersRemove: [], bodyReplace: new TextEncoder().encode(JSON.stringify(chat)) };
    return { tag: "modify", val };
  },
};


const hex = (text) => [...text].map((c) => c.codePointAt(0).toString(16)).join(" ");
export const onResponse = {
  onResponse(resp) {
    const say = {
      "x-state": encodeURIComponent(new TextDecoder().decode(state())),
      "x-asked": get("asked"),
      "x-calls": calls,
      "x-now": Date.now(),
      "x-decoded": hex(new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 0x61, 0xff, 0xe2, 0x82, 0x62, 0xed, 0xa0, 0x80]))),
      "x-encoded": new TextEncoder().encode("a€\ud800").join(" "),
    };
    return { tag: "modify", val: { headersSet: Object.entries(say).map(([name, v]) => ({ name, value: String(v) })), headersAdd: [], headersRemove: [] } };
  },
};
`

// TestJavaScriptHasWhatItNeeds holds that a module in JavaScript has the gateway's
// functions, text and bytes, a console and the time; that calls see nothing of each
// other; that what it throws is in the log; and that a hook that would not be called
// is told when it is built.
func TestJavaScriptHasWhatItNeeds(t *testing.T) {
	needsCompilers(t)
	dir := beginModule(t, "my-module", "js", "on-request,on-response")
	npm(t, dir)
	write := func(source string) {
		if err := os.WriteFile(filepath.Join(dir, "my-module.js"), []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(inJavaScript)
	path := built(t, dir)
	w := newRogueOf(t, "m", func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", `{"choices":[]}`) })
	g := inFrontOf(t, 1, []string{w.URL}, "--enable-wasm", "--wasm-module", "mine="+path+";fail_closed=true")
	for asked := 1; asked <= 3; asked++ {
		begin := time.Now().UnixMilli()
		a := post(t, g.URL, chatPath, body(chatPath, false, ""))
		want := fmt.Sprintf("200 f%%C3%%BCr%%20m %d 0 61 fffd fffd 62 fffd fffd fffd 97 226 130 172 239 191 189", asked)
		got := fmt.Sprint(a.status)
		for _, name := range []string{"X-State", "X-Asked", "X-Calls", "X-Decoded", "X-Encoded"} {
			got += " " + a.header.Get(name)
		}
		if got != want {
			t.Fatalf("it says %s, want %s\n%s", got, want, g.Log())
		}
		var now int64
		if _, err := fmt.Sscan(a.header.Get("X-Now"), &now); err != nil || now < begin || now > time.Now().UnixMilli() {
			t.Errorf("the time is %s, want one after %d (%v)", a.header.Get("X-Now"), begin, err)
		}
	}
	if _, sent := w.last(t); !strings.Contains(sent, "große € 😀") {
		t.Errorf("the worker got %s", sent)
	}
	wantMetric(t, g, `sluice_wasm_guest_total{module="mine",name="asked"}`, 6)
	wantLine(t, g, "careful", "WARN")
	if a := post(t, g.URL, chatPath+"?throw", body(chatPath, false, "")); a.status != 503 || !strings.Contains(a.body, "wasm_module_failed") {
		t.Errorf("it throws: %d %s", a.status, a.body)
	}
	wantLine(t, g, "oh dear", "mine")

	for source, want := range map[string]string{
		inJavaScript + "export const onChunk = { onChunk: () => ({ tag: \"pass\" }) };\n":       "it would not be called; add at its end",
		strings.Replace(inJavaScript, "export const onResponse", "export const onResponses", 1): `has no "export const onResponse ="`,
		inJavaScript + "console.log(1);\n":                                                      "calls the gateway, perhaps by console, outside of its hooks",
		inJavaScript + "throw Error(\"no\");\n":                                                 "my-module.js: Failed to evaluate user JavaScript module",
		"import \"./sluice.jsx\";\n" + inJavaScript:                                             "sluice.jsx",
	} {
		write(source)
		if out, err := runIn(t, dir, "./build.sh"); err == nil || !strings.Contains(out, want) {
			t.Errorf("%v, want a build that fails with %q:\n%s", err, want, out)
		}
	}
}
