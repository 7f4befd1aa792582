package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/internal/wasm"
	"sluice/internal/wasm/component"
)

const examples = "../../examples/wasm/"

func TestWasmSaysWhatToDoNext(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	core := file("core.wasm", coreOf(t, examples+"rate-limit/rate-limit.wasm"))
	api := examples + "api-key/api-key.wasm"
	request := "POST /v1/chat/completions HTTP/1.1\n\n{}\n"
	tests := []struct {
		name string
		args []string
		code int
		want string // in what it prints
	}{
		{"nothing", []string{"wasm"}, exitOK, "From nothing to a module that runs"},
		{"a command that is misspelt", []string{"wasm", "insect"}, exitUsage, "did you mean inspect?"},
		{"a flag before the command", []string{"wasm", "--json", "inspect"}, exitUsage, "stands before the command"},
		{"a flag that is misspelt", []string{"wasm", "test", api, "--requst", "x"}, exitUsage, "did you mean --request?"},
		{"no file", []string{"wasm", "inspect"}, exitUsage, "the module's file is missing"},
		{"two files", []string{"wasm", "inspect", "a", "b"}, exitUsage, "want one"},
		{"a file that is not there", []string{"wasm", "inspect", "x.wasm"}, exitFailed, "build script makes it"},
		{"a core module that is not there", []string{"wasm", "wrap", "x.wasm", "--out", "y.wasm"}, exitFailed, "sluice wasm wrap: there is no file x.wasm; want the core module that a compiler has written\n"},
		{"no WebAssembly", []string{"wasm", "inspect", file("junk", "junk")}, exitFailed, "it is no WebAssembly; want a component, or an http-wasm core module"},
		{"WebAssembly of another time", []string{"wasm", "bench", file("second", "\x00asm\x02\x00\x00\x00")}, exitFailed, "it is WebAssembly of another version (02 00 00 00); want a component, or an http-wasm core module of version 1"},
		{"no WebAssembly to wrap", []string{"wasm", "wrap", file("junk", "junk"), "--out", filepath.Join(dir, "out")}, exitFailed, "not a core WebAssembly module of version 1"},
		{"the help of help", []string{"wasm", "help", "inspect"}, exitOK, "--config"},
		{"help of a command of a command", []string{"help", "wasm", "inspect"}, exitOK, "--config"},
		{"help of a command that there is not", []string{"wasm", "help", "insect"}, exitUsage, "did you mean inspect?"},
		{"help of config", []string{"config", "help"}, exitOK, "sluice config check FILE"},
		{"a file without an end to inspect", []string{"wasm", "inspect", "/dev/zero"}, exitFailed, "/dev/zero has more than 67108864 bytes"},
		{"a file without an end to test", []string{"wasm", "test", "/dev/zero", "--request", "x"}, exitFailed, "/dev/zero has more than 67108864 bytes"},
		{"a file without an end to bench", []string{"wasm", "bench", "/dev/zero"}, exitFailed, "/dev/zero has more than 67108864 bytes"},
		{"a file without an end to wrap", []string{"wasm", "wrap", "/dev/zero", "--out", filepath.Join(dir, "out")}, exitFailed, "/dev/zero has more than 67108864 bytes"},
		{"requests without an end", []string{"wasm", "test", api, "--request", "/dev/zero"}, exitFailed, "as many as a file of requests may have"},
		{"no requests", []string{"wasm", "test", api}, exitUsage, "request is missing"},
		{"a file of nothing", []string{"wasm", "test", api, "--request", file("empty", "\n\n")}, exitFailed, "it has no request"},
		{"a line that is no header", []string{"wasm", "test", api, "--request", file("bad", "POST / HTTP/1.1\nHost\n")}, exitFailed, "line 2: \"Host\" is no header line"},
		{"an answer to nothing", []string{"wasm", "test", api, "--request", file("answer", "HTTP/1.1 200 OK\n\n{}\n")}, exitFailed, "line 1: an answer stands before any request"},
		{"two answers", []string{"wasm", "test", api, "--request", file("two", request+"###\nHTTP/1.1 200 OK\n\n###\nHTTP/1.1 200 OK\n")}, exitFailed, "line 8: the request of line 1 has an answer already, at line 5"},
		{"a core module", []string{"wasm", "inspect", core}, exitFailed, "sluice wasm wrap " + core},
		{"a core module to be tried", []string{"wasm", "test", core, "--request", file("one", request)}, exitFailed, "sluice wasm wrap " + core},
		{"a component to be wrapped", []string{"wasm", "wrap", api, "--out", filepath.Join(dir, "out")}, exitFailed, "a component already"},
		{"nowhere to wrap to", []string{"wasm", "wrap", core}, exitUsage, "out is missing"},
		{"no language", []string{"wasm", "new", "my-module", "--dir", dir + "/a"}, exitUsage, "none of rust, tinygo, go, c, js"},
		{"a language that is misspelt", []string{"wasm", "new", "my-module", "--lang", "rsut", "--dir", dir + "/a"}, exitUsage, "did you mean rust?"},
		{"a hook that is misspelt", []string{"wasm", "new", "my-module", "--lang", "c", "--hooks", "on-requst", "--dir", dir + "/a"}, exitUsage, "did you mean on-request?"},
		{"a name with a blank", []string{"wasm", "new", "my module", "--lang", "c", "--dir", dir + "/a"}, exitUsage, "is not made of a-z, 0-9 and -, at most 63 of them"},
		{"a folder with a blank", []string{"wasm", "new", "my-module", "--lang", "js", "--dir", dir + "/it's new"}, exitOK, "  (cd '" + dir + `/it'\''s new' && npm install)` + "\n  '" + dir + `/it'\''s new/build.sh'`},
		{"a folder that has something", []string{"wasm", "new", "my-module", "--lang", "c", "--dir", dir}, exitFailed, "name another folder with --dir"},
		{"a hook that the module has not", []string{"wasm", "bench", api, "--hook", "on-chunk"}, exitFailed, "sluice wasm inspect shows which it has"},
		{"a time too short", []string{"wasm", "bench", api, "--duration", "1ms"}, exitUsage, "want 10ms or more"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, out, err := run(tt.args...)
			if code != tt.code || !strings.Contains(out+err, tt.want) {
				t.Errorf("exit code %d, want %d, and %q in:\n%s%s", code, tt.code, tt.want, out, err)
			}
		})
	}
	for _, c := range wasmCommands() {
		if code, out, _ := run("wasm", c.name, "--help"); code != exitOK || !strings.Contains(out, "  sluice wasm "+c.name) {
			t.Errorf("sluice wasm %s --help: exit code %d, without an example:\n%s", c.name, code, out)
		}
	}
}

// TestFailuresAreJSON holds that who asks for JSON gets it also if there is no
// result.
func TestFailuresAreJSON(t *testing.T) {
	dir := t.TempDir()
	api := examples + "api-key/api-key.wasm"
	for _, args := range [][]string{
		{"wasm", "inspect", dir},
		{"wasm", "inspect", "/dev/zero"},
		{"wasm", "test", "none.wasm", "--request", examples + "api-key/test.http"},
		{"wasm", "test", api, "--request", dir + "/none"},
		{"wasm", "test", examples + "api-key/test.http", "--request", examples + "api-key/test.http"},
		{"wasm", "bench", "none.wasm"},
		{"wasm", "bench", api, "--hook", "on-chunk"},
		{"replay", "--trace", dir + "/none"},
		{"bench", "--url", "http://127.0.0.1:1", "--model", "m1", "--sessions", dir + "/none", "--rate", "1"},
	} {
		code, out, err := run(append(args, "--json")...)
		var got map[string]string
		if json.Unmarshal([]byte(out), &got) != nil || len(got) != 1 || got["error"] == "" || code != exitFailed || !strings.Contains(err, got["error"]) {
			t.Errorf("%q: exit code %d, prints %q and %q; want an object with error, and the same as text", args, code, out, err)
		}
	}
	if code, out, _ := run("wasm", "inspect", dir); code != exitFailed || out != "" {
		t.Errorf("without --json: exit code %d, prints %q", code, out)
	}
}

// coreOf returns the core module that a component was made of.
func coreOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := component.Link(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(p.Modules[0].Binary)
}

// TestWrapMakesWhatIsCommitted: the components of the examples are what wrap
// makes of their core modules.
func TestWrapMakesWhatIsCommitted(t *testing.T) {
	for _, name := range []string{"api-key", "rate-limit", "header-routing", "redact", "request-log"} {
		path := examples + name + "/" + name + ".wasm"
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		core, out := filepath.Join(dir, "core.wasm"), filepath.Join(dir, "out.wasm")
		if err := os.WriteFile(core, []byte(coreOf(t, path)), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, err := run("wasm", "wrap", core, "--out", out); code != exitOK {
			t.Fatalf("%s: exit code %d: %s", name, code, err)
		}
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another component of %d bytes, want %d; make wasm-examples makes them anew (%v)", name, len(got), len(want), err)
		}
	}
}

func TestInspectTellsWhatAModuleMay(t *testing.T) {
	tells := func(file string, want ...string) {
		t.Helper()
		code, out, err := run("wasm", "inspect", file)
		if code != exitOK {
			t.Fatalf("exit code %d: %s", code, err)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("it does not say %q:\n%s", w, out)
			}
		}
	}
	tells(examples+"redact/redact.wasm", "kind        component", "world       sluice:gateway", "hook        on-chunk", "sluice:gateway/host@0.1.0  ", "remember 65536 bytes", "may not     open files")
	tells("../wasm/component/testdata/rust-auth-smg.component.wasm", "world       smg:gateway", "print to the gateway's log", "get-environment  (finds nothing)", "exit  (ends the call)")
	code, out, _ := run("wasm", "inspect", examples+"header-routing/header-routing.wasm")
	if code != exitOK || strings.Contains(out, "may  ") {
		t.Errorf("exit code %d; a module that imports nothing may nothing:\n%s", code, out)
	}
}

// TestInspectTellsWhatIsNotCalled holds that an export of a component that is no
// hook is not taken for one.
func TestInspectTellsWhatIsNotCalled(t *testing.T) {
	f := func(kind, want string) {
		t.Helper()
		var b strings.Builder
		printInspection(&b, "x.wasm", &wasm.Inspection{Kind: kind, Exports: []wasm.InspectedFunc{{Name: "init"}}})
		if !strings.Contains(b.String(), "\nexports     "+want+"\n") {
			t.Errorf("%s: want %q in:\n%s", kind, want, b.String())
		}
	}
	f("component", "init  (not called)")
	f("http-wasm module", "init") // _initialize is one
}

func TestInspectTellsWhyAModuleIsRefused(t *testing.T) {
	broken, err := os.ReadFile(examples + "api-key/api-key.wasm")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "broken.wasm")
	if err := os.WriteFile(path, broken[:len(broken)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := run("wasm", "inspect", path, "--json")
	var got struct{ Kind, Refused string }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if code != exitFailed || got.Kind != "component" || !strings.Contains(got.Refused, "at offset") {
		t.Errorf("exit code %d, %+v; want where it is broken", code, got)
	}
}

// TestTryShowsWhatFails: a module that traps is reported, and the exit code tells.
func TestTryShowsWhatFails(t *testing.T) {
	request := filepath.Join(t.TempDir(), "spin.http")
	if err := os.WriteFile(request, []byte("POST /v1/chat/completions?trap HTTP/1.1\nContent-Type: application/json\n\n"+`{"model":"m1","messages":[{"role":"user","content":"hello"}]}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	module := "../wasm/component/testdata/c-spin-smg.component.wasm"
	code, out, _ := run("wasm", "test", module, "--request", request)
	if code != exitFailed || !strings.Contains(out, "on-request    failed") || !strings.Contains(out, "trap: ") || !strings.Contains(out, "client gets   200") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	code, out, _ = run("wasm", "test", module, "--request", request, "--fail-closed")
	if code != exitFailed || !strings.Contains(out, "client gets   503 wasm_module_failed") {
		t.Errorf("fail-closed: exit code %d:\n%s", code, out)
	}
}

// TestBenchTellsThatAllFailed holds that the exit code says that nothing was timed
// but failures.
func TestBenchTellsThatAllFailed(t *testing.T) {
	request := filepath.Join(t.TempDir(), "trap.http")
	if err := os.WriteFile(request, []byte("POST /v1/chat/completions?trap HTTP/1.1\n\n{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := run("wasm", "bench", "../wasm/component/testdata/c-spin-smg.component.wasm", "--duration", "20ms", "--request", request)
	if code != exitFailed || !strings.Contains(out, "calls failed, the first with trap: ") {
		t.Errorf("exit code %d, want %d:\n%s", code, exitFailed, out)
	}
}

func TestBenchComparesIsolations(t *testing.T) {
	code, out, err := run("wasm", "bench", examples+"rate-limit/rate-limit.wasm", "--duration", "20ms", "--json")
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, err)
	}
	var got timing
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range got.Modes {
		names = append(names, m.Isolation)
		if m.Calls == 0 || m.P50 <= 0 || m.Failed > 0 {
			t.Errorf("%+v: want calls, none of which failed", m)
		}
	}
	if got.Hook != "on-request" || strings.Join(names, " ") != "snapshot fresh shared" {
		t.Errorf("%s, %v", got.Hook, names)
	}
	if code, out, _ := run("wasm", "bench", examples+"redact/redact.wasm", "--duration", "20ms", "--hook", "on-chunk", "--request", examples+"redact/test.http"); code != exitOK || !strings.Contains(out, "redact.wasm, on-chunk") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

// TestBenchTimesExchanges holds that of an http-wasm module a request and its answer
// are one call, that it is said what was timed, and that the answer is part of it.
func TestBenchTimesExchanges(t *testing.T) {
	guest := "../wasm/httpwasm/testdata/guest.wasm"
	for path, want := range map[string]string{ // the last letter says what the guest does
		"/a": "handle_request and handle_response as one call",
		"/v": "handle_request and handle_response as one call", // it has the answer before it is sent
		"/b": "handle_request, which answers this request itself",
	} {
		request := filepath.Join(t.TempDir(), "r.http")
		if err := os.WriteFile(request, []byte("POST "+path+" HTTP/1.1\n\n{}\n###\nHTTP/1.1 200 OK\n\n{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errText := run("wasm", "bench", guest, "--request", request, "--duration", "20ms")
		if code != exitOK || !strings.Contains(out, "guest.wasm, "+want+"\n") || strings.Contains(out, "failed") {
			t.Errorf("%s: exit code %d:\n%s%s\nwant %s", path, code, out, errText, want)
		}
	}
	trap := filepath.Join(t.TempDir(), "trap.http")
	if err := os.WriteFile(trap, []byte("POST /C HTTP/1.1\n\n{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := run("wasm", "bench", guest, "--request", trap, "--duration", "20ms"); code != exitFailed || !strings.Contains(out, "calls failed, the first with trap") {
		t.Errorf("an answer that traps: exit code %d:\n%s", code, out)
	}
	if code, _, err := run("wasm", "bench", guest, "--hook", "on-response"); code != exitFailed || !strings.Contains(err, "timed as one call; want no --hook") {
		t.Errorf("a hook: exit code %d: %s", code, err)
	}
}

func TestBodiesAreCutToWhatDiffers(t *testing.T) {
	f := func(old, now string, want ...string) {
		t.Helper()
		var got []string
		for _, c := range diffBody([]byte(old), []byte(now)) {
			got = append(got, c.Op+c.Text)
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%q, %q: %q, want %q", old, now, got, want)
		}
	}
	f("same", "same")
	f("a", "b", "-a", "+b")
	f("a", "", "-a")
	f("", "b", "+b")
	f("aa", "aaa", "-aa", "+aaa")
	long := strings.Repeat("x", 100)
	f(long+"old"+long, long+"new"+long, "-…"+long[:24]+"old"+long[:24]+"…", "+…"+long[:24]+"new"+long[:24]+"…")
	f("event\n\n", "other\n\n", "-event", "+other")
}
