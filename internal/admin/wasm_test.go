package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// newModules returns an Admin with modules, and where to put their files.
func newModules(t *testing.T) (a *Admin, r *wasm.Registry, dir string) {
	t.Helper()
	return modulesKept(t, "")
}

// modulesKept is newModules with a directory for the next start.
func modulesKept(t *testing.T, kept string) (a *Admin, r *wasm.Registry, dir string) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	e, err := wasm.NewEngine("", log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	r = wasm.NewRegistry(e, kept, log)
	t.Cleanup(func() {
		r.Close()
		cancel()
		<-done
	})
	a, _ = fleetOf(t, "")
	a.modules = r
	return a, r, t.TempDir()
}

// module is the contract's C guest, with a section at its end that says nothing
// but n.
func module(t *testing.T, n byte) []byte {
	t.Helper()
	b, err := os.ReadFile("../wasm/component/testdata/c-auth-smg.component.wasm")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, 0, 3, 1, 'n', n)
}

func writeModule(t *testing.T, path string, n byte) string {
	t.Helper()
	if err := os.WriteFile(path, module(t, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// sent calls a with a body of a type.
func sent(t *testing.T, a *Admin, method, path, kind string, body []byte) (status int, text string) {
	t.Helper()
	path, query, _ := strings.Cut(path, "?")
	pattern, param := path, ""
	if id, ok := strings.CutPrefix(path, "/wasm/"); ok {
		pattern, param = "/wasm/{id}", id
	}
	for _, c := range a.Calls() {
		if c.Method == method && c.Pattern == pattern {
			r := &infer.Request{ID: "id-1", Method: method, Path: path, Query: query, Param: param}
			r.Header.AddString("Content-Type", kind)
			r.SetBytes(body)
			got := new(client)
			if err := c.Handler.Serve(context.Background(), r, infer.NewReply(got)); err != nil {
				t.Fatal(err)
			}
			return got.status, got.body.String()
		}
	}
	t.Fatalf("nothing answers %s %s", method, path)
	return 0, ""
}

func posted(t *testing.T, a *Admin, body string) (status int, text string) {
	t.Helper()
	return sent(t, a, "POST", "/wasm", "application/json", []byte(body))
}

const v7 = `[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`

// matches holds that text is what pattern says, but for the places of << and >>,
// between which it is a regular expression.
func matches(t *testing.T, what, text, pattern string) {
	t.Helper()
	var re strings.Builder
	for i, p := range strings.Split(pattern, "<<") {
		if i > 0 {
			raw, rest, _ := strings.Cut(p, ">>")
			re.WriteString(raw)
			p = rest
		}
		re.WriteString(regexp.QuoteMeta(p))
	}
	if !regexp.MustCompile("^" + re.String() + "$").MatchString(text) {
		t.Errorf("%s:\ngot  %s\nwant %s", what, text, pattern)
	}
}

// TestTheContractsModules is the contract's life of a module, to the letter.
func TestTheContractsModules(t *testing.T) {
	a, r, dir := newModules(t)
	one, two := writeModule(t, filepath.Join(dir, "one.wasm"), 1), writeModule(t, filepath.Join(dir, "two.component.wasm"), 2)

	_, text := sent(t, a, "GET", "/wasm", "", nil)
	matches(t, "an empty list", text, `{"modules":[],"metrics":{"total_executions":0,"successful_executions":0,"failed_executions":0,"total_execution_time_ms":0,"max_execution_time_ms":0}}`)

	add := `{"modules":[{"name":"m1","file_path":"` + one + `","module_type":"Middleware","attach_points":[{"Middleware":"OnRequest"},{"Middleware":"OnResponse"}],"add_result":null}]}`
	status, text := posted(t, a, add)
	matches(t, "added", text, strings.Replace(add, "null", `{"Success":"<<`+v7+`>>"}`, 1))
	if status != 200 {
		t.Errorf("added: %d", status)
	}
	id := r.Set().All[0].ID

	status, text = posted(t, a, `{"modules":[
		{"name":"again","file_path":"`+one+`","module_type":"Middleware","attach_points":[],"add_result":null},
		{"name":"m2","file_path":"`+two+`","module_type":"Middleware","attach_points":[{"Middleware":"OnError"},{"Middleware":"OnRequest"}],"add_result":null}]}`)
	if status != 400 {
		t.Errorf("one of two cannot be added: %d, want 400", status)
	}
	matches(t, "one of two", text, `{"modules":[{"name":"again","file_path":"`+one+`","module_type":"Middleware","attach_points":[],"add_result":{"Error":"the component with SHA-256 <<[0-9a-f]{64}>> is registered already, as `+id.String()+`"}},`+
		`{"name":"m2","file_path":"`+two+`","module_type":"Middleware","attach_points":[{"Middleware":"OnError"},{"Middleware":"OnRequest"}],"add_result":{"Success":"<<`+v7+`>>"}}]}`)

	m := r.Find(id)
	m.Counts.Count(time.Date(2026, 11, 21, 12, 0, 0, 123456789, time.UTC), 3*time.Millisecond, nil)
	m.Counts.Count(time.Date(2026, 11, 21, 12, 0, 1, 123456789, time.UTC), 2*time.Millisecond, errors.New("no"))
	status, text = sent(t, a, "GET", "/wasm", "", nil)
	var list struct {
		Modules []struct {
			UUID string          `json:"module_uuid"`
			Meta json.RawMessage `json:"module_meta"`
		} `json:"modules"`
		Metrics json.RawMessage `json:"metrics"`
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil || status != 200 || len(list.Modules) != 2 || list.Modules[0].UUID != id.String() {
		t.Fatalf("%d %s, %v", status, text, err)
	}
	matches(t, "meta", string(list.Modules[0].Meta), `{"name":"m1","file_path":"`+one+`","sha256_hash":"`+m.Sum+`","size_bytes":5291,"created_at":"<<20[0-9]{2}-[0-9T:.-]+Z>>",`+
		`"last_accessed_at":"2026-11-21T12:00:01.123456789Z","access_count":2,"attach_points":[{"Middleware":"OnRequest"},{"Middleware":"OnResponse"}]}`)
	matches(t, "metrics", string(list.Metrics), `{"total_executions":2,"successful_executions":1,"failed_executions":1,"total_execution_time_ms":5,"max_execution_time_ms":3,"average_execution_time_ms":2.5}`)

	for _, tt := range []struct {
		id     string
		status int
		text   string
	}{
		{"none", 400, ""},
		{uuid.NewString(), 400, "removing module <<.*>>: no such module"},
		{id.String(), 200, "Module removed successfully"},
		{id.String(), 400, "removing module " + id.String() + ": no such module"},
	} {
		status, text := sent(t, a, "DELETE", "/wasm/"+tt.id, "", nil)
		matches(t, "DELETE "+tt.id, text, tt.text)
		if status != tt.status {
			t.Errorf("DELETE %s: %d, want %d", tt.id, status, tt.status)
		}
	}
	if n := len(r.Set().All); n != 1 {
		t.Errorf("%d modules are left, want 1", n)
	}
	_, text = sent(t, a, "GET", "/wasm", "", nil)
	if want := `"metrics":` + string(list.Metrics); !strings.Contains(text, want) {
		t.Errorf("once it is removed: %s, want %s as before", text, want)
	}
}

// TestAModuleOfTheConfigurationIsRemoved holds that it is said that this does not
// last.
func TestAModuleOfTheConfigurationIsRemoved(t *testing.T) {
	a, r, _ := newModules(t)
	m, err := r.Add(t.Context(), wasm.Spec{Name: "m", Settings: wasm.DefaultSettings(), FromConfig: true}, module(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	status, text := sent(t, a, "DELETE", "/wasm/"+m.ID.String(), "", nil)
	if want := "Module removed successfully, until the next start: the configuration names it"; status != 200 || text != want {
		t.Errorf("%d %s, want %s", status, text, want)
	}
}

// TestErrorsAreInWordsOfTheAPI holds that what is refused is named as clients wrote
// it, with what is wanted in its place, and without words of Go.
func TestErrorsAreInWordsOfTheAPI(t *testing.T) {
	a, r, _ := newModules(t)
	for body, want := range map[string]string{
		"":                                     "it is empty",
		`{"modules":[`:                         "it ends before it is whole",
		`[]`:                                   "it is a list; want an object",
		`{"modules":7}`:                        "modules is a number; want a list",
		`{"modules":[7]}`:                      "modules is a number; want an object",
		`{"modules":[{"name":7}]}`:             "modules.name is a number; want a string",
		`{"modules":[{"ordre":7}]}`:            `unknown field "ordre" in modules[0]`,
		`{"modules":[{"order":"7"}]}`:          "modules.order is a string; want a whole number",
		`{"modules":[{"order":1.5}]}`:          "modules.order is 1.5; want a whole number",
		`{"modules":[{"enabled":[]}]}`:         "modules.enabled is a list; want true or false",
		`{"modules":[{"models":"m"}]}`:         "modules.models is a string; want a list",
		`{"modules":[{"models":[true]}]}`:      "modules.models is true or false; want a string",
		`{"modules":[{"max_stack_size":1.5}]}`: "modules.max_stack_size is 1.5; want a whole number",
		`{"modules":[{"attach_points":["OnRequest"]}]}`: `modules.attach_points is a string; want an object such as {"Middleware":"OnRequest"}`,
	} {
		status, text := posted(t, a, body)
		if want = "the body is not a list of modules: " + want; status != 400 || text != want {
			t.Errorf("%s:\ngot  %d %s\nwant %s", body, status, text, want)
		}
	}
	for query, want := range map[string]string{
		"foo=x":             `unknown field "foo"`,
		"foo=1":             `unknown field "foo"`,
		"name=a%0ab":        `the name "a\nb" has a control character, or is not UTF-8`,
		"order=x":           `order is "x"; want a whole number`,
		"order=null":        `order is "null"; want a whole number`,
		"order=1.5":         "the query: order is 1.5; want a whole number",
		"max_instances=[]":  "the query: max_instances is a list; want a whole number",
		"fail_closed=maybe": `fail_closed is "maybe"; want true or false`,
		"enabled=1":         `enabled is "1"; want true or false`,
	} {
		if !strings.Contains(query, "name") {
			query = "name=m&" + query
		}
		if status, text := sent(t, a, "POST", "/wasm?"+query, "application/wasm", module(t, 1)); status != 400 || text != want {
			t.Errorf("%s:\ngot  %d %s\nwant %s", query, status, text, want)
		}
	}
	if n := len(r.Set().All); n > 0 {
		t.Errorf("%d modules are there", n)
	}
}

// TestWhatTheMachineCannotDo holds that a client is not blamed for a disk.
func TestWhatTheMachineCannotDo(t *testing.T) {
	a, r, dir := modulesKept(t, filepath.Join(t.TempDir(), "gone"))
	if status, text := sent(t, a, "POST", "/wasm?name=m", "application/wasm", module(t, 1)); status != 500 || !strings.Contains(text, "keeping the") {
		t.Errorf("sent: %d %s, want 500", status, text)
	}
	file := writeModule(t, filepath.Join(dir, "m.wasm"), 1)
	if status, text := posted(t, a, `{"modules":[{"name":"m","file_path":"`+file+`"}]}`); status != 400 || !strings.Contains(text, "keeping the") { // the contract's status of any that fails
		t.Errorf("of a file: %d %s, want 400", status, text)
	}
	m, err := r.Add(t.Context(), wasm.Spec{Name: "m", Settings: wasm.DefaultSettings(), FromConfig: true}, module(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	if status, text := sent(t, a, "PATCH", "/wasm/"+m.ID.String(), "application/json", []byte(`{"order":1}`)); status != 500 {
		t.Errorf("changed: %d %s, want 500", status, text)
	}
	for err, want := range map[error]int{
		fmt.Errorf("writing: %w", syscall.ENOSPC): 507,
		fmt.Errorf("writing: %w", syscall.EDQUOT): 507,
		fmt.Errorf("writing: %w", syscall.EROFS):  500,
		errors.New("it is a core module"):         400,
		new(wasm.ConflictError):                   409,
	} {
		if got := refusal(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

// TestModulesThatAreRefused holds the contract's rules for what may be registered.
func TestModulesThatAreRefused(t *testing.T) {
	a, r, dir := newModules(t)
	good := writeModule(t, filepath.Join(dir, "good.wasm"), 1)
	put := func(name, content string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	link := filepath.Join(dir, "link.wasm")
	if err := os.Symlink("/proc/self/exe", link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.wasm"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, rest, want string }{
		{"", good, "", "needs a name"},
		{"   ", good, "", "needs a name"},
		{"m", "", "", "needs a file_path"},
		{"m", "good.wasm", "", "is not absolute"},
		{"m", dir + "/x/../good.wasm", "", "has parts such as"},
		{"m", dir + "//good.wasm", "", "has parts such as"},
		{"m", dir + "/./good.wasm", "", "has parts such as"},
		{"m", put("good.txt", "x"), "", "does not end in .wasm"},
		{"m", "/etc/m.wasm", "", "under /etc"},
		{"m", "/proc/1/m.wasm", "", "under /proc"},
		{"m", "/root/m.wasm", "", "under /root"},
		{"m", "/var/run/m.wasm", "", "under /var/run"},
		{"m", link, "", ""}, // leads out of where modules may be
		{"m", filepath.Join(dir, "folder.wasm"), "", "is not a regular file"},
		{"m", put("empty.wasm", ""), "", "is empty"},
		{"m", filepath.Join(dir, "missing.wasm"), "", "no such file"},
		{"m", put("none.wasm", "#!/bin/sh"), "", ""},
		{"m", put("core.wasm", "\x00asm\x01\x00\x00\x00"), "", ""},
		{"m", good, `,"module_type":"Filter"`, "unknown module_type"},
		{"m", good, `,"attach_points":[{"Middleware":"OnTuesday"}]`, "unknown attach point"},
		{"m", good, `,"attach_points":[{"Middleware":"OnChunk"}]`, "does not export"},
		{"m", good, `,"isolation":"some"`, "unknown isolation"},
	} {
		status, text := posted(t, a, `{"modules":[{"name":"`+tt.name+`","file_path":"`+tt.path+`"`+tt.rest+`}]}`)
		if status != 400 || !strings.Contains(text, `"add_result":{"Error":"`) || !strings.Contains(text, tt.want) {
			t.Errorf("%s %s: got %d %s, want %q", tt.path, tt.rest, status, text, tt.want)
		}
	}
	for _, body := range []string{"", "[]", "{}", `{"modules":null}`, `{"modules":[]}{}`, `{"modules":[{"name":"m","file_path":"` + good + `","fail_close":true}]}`, `{"modules":7}`, `{"modules":[{"name":7}]}`, `{"modules":[` + strings.Repeat(`{},`, 64) + `{}]}`} {
		if status, text := posted(t, a, body); status != 400 {
			t.Errorf("%.40s: got %d %s", body, status, text)
		}
	}
	if n := len(r.Set().All); n != 0 {
		t.Errorf("%d modules are there", n)
	}
}

// TestBounds holds that a limit is refused for the same reason however it is said,
// and that the contract's bounds are let in.
func TestBounds(t *testing.T) {
	a, r, dir := newModules(t)
	path := writeModule(t, filepath.Join(dir, "m.wasm"), 1)
	there, err := r.Add(t.Context(), wasm.Spec{Name: "there", Settings: wasm.DefaultSettings()}, module(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	at := "/wasm/" + there.ID.String()
	ways := []struct {
		name string
		say  func(key, n string) (status int, text string)
	}{
		{"POST", func(key, n string) (int, string) {
			return posted(t, a, `{"modules":[{"name":"m","file_path":"`+path+`","`+key+`":`+n+`}]}`)
		}},
		{"POST, the query", func(key, n string) (int, string) {
			return sent(t, a, "POST", "/wasm?name=m&"+key+"="+n, "application/wasm", module(t, 1))
		}},
		{"PATCH", func(key, n string) (int, string) {
			return sent(t, a, "PATCH", at, "application/json", []byte(`{"`+key+`":`+n+`}`))
		}},
		{"PUT", func(key, n string) (int, string) {
			return sent(t, a, "PUT", at, "application/json", []byte(`{"file_path":"`+path+`","`+key+`":`+n+`}`))
		}},
		{"the configuration", func(key, n string) (int, string) {
			if _, err := wasm.ParseSpec("m=" + path + ";" + key + "=" + n); err != nil {
				return 400, err.Error()
			}
			return 200, ""
		}},
	}
	for _, tt := range []struct{ key, least, most string }{
		{"max_memory_pages", "1", "65536"},
		{"max_execution_time_ms", "1", "300000"},
		{"max_stack_size", "65536", "16777216"},
		{"max_body_size", "1", "104857600"},
		{"max_instances", "1", "4096"},
	} {
		more, err := strconv.Atoi(tt.most)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []string{"-1", "0", strconv.Itoa(more + 1), "9223372036854775807"} {
			for _, way := range ways {
				status, text := way.say(tt.key, n)
				if want := "; want " + tt.least + " to " + tt.most; status != 400 || !strings.Contains(text, tt.key+" is "+n) || !strings.Contains(text, want) {
					t.Errorf("%s, %s of %s: %d %s; want %q", way.name, tt.key, n, status, text, want)
				}
			}
		}
		for _, n := range []string{tt.least, tt.most} {
			// Of its least memory and time a module may not start; that is another reason.
			if _, text := ways[0].say(tt.key, n); strings.Contains(text, "; want ") {
				t.Errorf("%s of %s: %s", tt.key, n, text)
			}
			for _, m := range r.Set().All {
				if m != there {
					if err := r.Remove(m.ID); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	if now := r.Find(there.ID); now != there {
		t.Errorf("what was refused has changed it to %+v", now.Spec)
	}
}

// TestConfigurations holds that what a module is given as its configuration is what
// was sent, or is refused; and that no answer shows it.
func TestConfigurations(t *testing.T) {
	a, r, dir := newModules(t)
	guest, err := os.ReadFile("../wasm/httpwasm/testdata/guest.wasm")
	if err != nil {
		t.Fatal(err)
	}
	next := byte(0)
	version := func() []byte {
		next++
		return append(slices.Clone(guest), 0, 3, 1, 'n', next)
	}
	last := func() string {
		all := r.Set().All
		if len(all) == 0 {
			return "no module"
		}
		return all[len(all)-1].Settings.Config
	}
	for _, want := range []string{`{"key":"hunter2; & + % =\n","n":["ä"]}`, ";;", " hunter2 ", "\x00\x01"} {
		status, text := sent(t, a, "POST", "/wasm?name=q&config="+url.QueryEscape(want), "application/wasm", version())
		if status != 200 || last() != want {
			t.Errorf("%q in the query: %d %s, got %q", want, status, text, last())
		}
		path := filepath.Join(dir, "m.wasm")
		if err := os.WriteFile(path, version(), 0o600); err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(map[string]any{"modules": []any{map[string]any{"name": "f", "file_path": path, "config": want}}})
		if err != nil {
			t.Fatal(err)
		}
		status, text = posted(t, a, string(body))
		if status != 200 || last() != want || strings.Contains(text, "hunter2") || !strings.Contains(text, `"config":"****"`) {
			t.Errorf("%q in JSON: %d %s, got %q", want, status, text, last())
		}
	}
	if _, text := sent(t, a, "GET", "/wasm", "", nil); strings.Contains(text, "hunter2") {
		t.Errorf("the list shows a configuration: %s", text)
	}
	before := len(r.Set().All)
	for query, want := range map[string]string{
		"config=a;b": "%3B is a ;", "config=a&b": `unknown field "b"`, "config=%zz": "%25 a %", "config=%ff": `"config" is not UTF-8`,
		"config=" + strings.Repeat("x", 65537): "a configuration of 65537 bytes; at most 65536 are allowed",
	} {
		if status, text := sent(t, a, "POST", "/wasm?name=x&"+query, "application/wasm", version()); status != 400 || !strings.Contains(text, want) {
			t.Errorf("%.20s: %d %s, want %s", query, status, text, want)
		}
	}
	if status, text := posted(t, a, `{"modules":[{"name":"m","config":"`+"\xff"+`"}]}`); status != 400 || !strings.Contains(text, "it is not UTF-8") {
		t.Errorf("JSON that is not UTF-8: %d %s", status, text)
	}
	if status, text := sent(t, a, "POST", "/wasm?name=x&config=a", "application/wasm", module(t, 1)); status != 400 || !strings.Contains(text, "which only http-wasm modules can ask for") {
		t.Errorf("of a component: %d %s", status, text)
	}
	if got := len(r.Set().All); got != before {
		t.Errorf("%d modules more are there", got-before)
	}
}

// TestWithoutModules holds the contract's answer where they are not enabled.
func TestWithoutModules(t *testing.T) {
	a, _ := fleetOf(t, "")
	for _, c := range [][2]string{{"GET", "/wasm"}, {"POST", "/wasm"}, {"DELETE", "/wasm/" + uuid.NewString()}, {"GET", "/wasm/x"}, {"PUT", "/wasm/x"}, {"PATCH", "/wasm/x"}} {
		if status, text := sent(t, a, c[0], c[1], "application/json", []byte("{}")); status != 500 || text != "" {
			t.Errorf("%s %s: got %d %q, want 500 and nothing", c[0], c[1], status, text)
		}
	}
}

// TestAModulesOwnLife follows what goes beyond the contract: bytes that are sent,
// changes, and new versions.
func TestAModulesOwnLife(t *testing.T) {
	a, r, dir := newModules(t)
	status, text := sent(t, a, "POST", "/wasm?name=sent&fail_closed=true", "application/wasm", module(t, 1))
	matches(t, "sent", text, `{"module_uuid":"<<`+v7+`>>"}`)
	m := r.Set().All[0]
	if status != 200 || m.Name != "sent" || !m.FailClosed || m.Path != "" {
		t.Errorf("%d, %+v", status, m.Spec)
	}
	at := "/wasm/" + m.ID.String()
	for _, step := range []struct {
		name, method, path, kind, body string
		status                         int
		want                           []string
	}{
		{"sent again", "POST", "/wasm?name=x", "application/wasm", string(module(t, 1)), 400, []string{"registered already"}},
		{"sent without a name", "POST", "/wasm", "application/wasm", string(module(t, 2)), 400, []string{"needs a name"}},
		{"sent with nonsense", "POST", "/wasm?name=x&fail_closed=maybe", "application/wasm", string(module(t, 2)), 400, []string{"fail_closed"}},
		{"sent as what curl says it is", "POST", "/wasm", "application/x-www-form-urlencoded", string(module(t, 2)), 400, []string{"needs a name"}},
		{"sent with a misspelling", "POST", "/wasm?name=x&fail_close=true", "application/wasm", string(module(t, 2)), 400, []string{`unknown field "fail_close"`}},
		{"sent with two answers", "POST", "/wasm?name=x&fail_closed=true&fail_closed=false", "application/wasm", string(module(t, 2)), 400, []string{`"fail_closed" is there 2 times`}},
		{"sent with a path", "POST", "/wasm?name=x&file_path=/x.wasm", "application/wasm", string(module(t, 2)), 400, []string{"file_path is not of a module whose bytes are sent"}},
		{"sent with a limit that is none", "POST", "/wasm?name=x&max_stack_size=1", "application/wasm", string(module(t, 2)), 400, []string{"max_stack_size is 1; want 65536"}},
		{"sent half", "POST", "/wasm?name=x", "application/wasm", string(module(t, 2)[:1000]), 400, nil},
		{"shown", "GET", at, "", "", 200, []string{`"enabled":true`, `"fail_closed":true`, `"max_memory_pages":1024`, `"max_body_size":10485760`, `"isolation":"snapshot"`, `"world":"smg:gateway"`, `"idle":1`}},
		{"another", "GET", "/wasm/" + uuid.NewString(), "", "", 404, []string{"no module has the id"}},
		{"no id", "GET", "/wasm/x", "", "", 400, nil},
		{"disabled and moved", "PATCH", at, "application/json", `{"enabled":false,"order":-3,"paths":["/v1/*"],"tenants":["acme"],"name":"new"}`, 200, []string{`"enabled":false`, `"order":-3`, `"paths":["/v1/*"]`, `"tenants":["acme"]`, `"name":"new"`, `"fail_closed":true`}},
		{"attached to one", "PATCH", at, "application/json", `{"attach_points":[{"Middleware":"OnRequest"}]}`, 200, []string{`"attach_points":[{"Middleware":"OnRequest"}]`}},
		{"attached to all that it has", "PATCH", at, "application/json", `{"attach_points":[]}`, 200, []string{`"attach_points":[{"Middleware":"OnRequest"},{"Middleware":"OnResponse"}]`}},
		{"enabled", "PATCH", at, "application/json", `{"enabled":true,"attach_points":[{"Middleware":"OnResponse"}]}`, 200, []string{`"enabled":true`, `"attach_points":[{"Middleware":"OnResponse"}]`}},
		{"changed by nonsense", "PATCH", at, "application/json", `{"enable":true}`, 400, []string{"unknown field"}},
		{"attached to what it has not", "PATCH", at, "application/json", `{"attach_points":[{"Middleware":"OnEnd"}]}`, 400, []string{"does not export"}},
		{"limits alone", "PATCH", at, "application/json", `{"max_memory_pages":7}`, 400, []string{"together with the component's bytes"}},
		{"a path without its bytes", "PATCH", at, "application/json", `{"file_path":"/x.wasm"}`, 400, []string{"PUT gives a module other bytes"}},
		{"another is changed", "PATCH", "/wasm/" + uuid.NewString(), "application/json", `{}`, 404, nil},
		{"a new version", "PUT", at, "application/wasm", string(module(t, 3)), 200, []string{`"sha256_hash":"` + wasm.Sum(module(t, 3)) + `"`, `"name":"new"`}},
		{"of a file, with limits", "PUT", at, "application/json", `{"file_path":"` + writeModule(t, filepath.Join(dir, "v.wasm"), 4) + `","max_memory_pages":7}`, 200, []string{`"max_memory_pages":7`, wasm.Sum(module(t, 4))}},
		{"of bytes, with settings", "PUT", at + "?max_memory_pages=9&order=5&models=a,b*&tenants=beta,c*&attach_points=OnRequest,OnResponse&isolation=fresh", "application/wasm", string(module(t, 6)), 200,
			[]string{`"max_memory_pages":9`, `"order":5`, `"models":["a","b*"]`, `"tenants":["beta","c*"]`, `"file_path":""`, `"isolation":"fresh"`, `"attach_points":[{"Middleware":"OnRequest"},{"Middleware":"OnResponse"}]`}},
		{"of bytes, with a misspelling", "PUT", at + "?ordre=5", "application/wasm", string(module(t, 7)), 400, []string{`unknown field "ordre"`}},
		{"of a file with a misspelling", "PUT", at, "application/json", `{"file_path":"` + filepath.Join(dir, "v.wasm") + `","ordre":5}`, 400, []string{`unknown field "ordre"`}},
		{"nonsense", "PUT", at, "application/wasm", "no", 400, nil},
		{"of a file that is none", "PUT", at, "application/json", `{"file_path":"/etc/passwd"}`, 400, []string{"does not end in .wasm"}},
		{"of another", "PUT", "/wasm/" + uuid.NewString(), "application/wasm", string(module(t, 5)), 404, nil},
		{"still what it was", "GET", at, "", "", 200, []string{wasm.Sum(module(t, 6))}},
	} {
		status, text := sent(t, a, step.method, step.path, step.kind, []byte(step.body))
		if status != step.status {
			t.Errorf("%s: got %d %s, want %d", step.name, status, text, step.status)
		}
		for _, want := range step.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %s is missing in %s", step.name, want, text)
			}
		}
	}
	if all := r.Set().All; len(all) != 1 || !slices.Equal(all[0].Attach, []wasm.Hook{wasm.OnRequest, wasm.OnResponse}) {
		t.Errorf("at the end: %+v", all)
	}
}

// TestUpdatesAtOnce: of updates of one module that meet some are made, and the
// others are told to try again.
func TestUpdatesAtOnce(t *testing.T) {
	a, r, _ := newModules(t)
	m, err := r.Add(t.Context(), wasm.Spec{Name: "m", Settings: wasm.DefaultSettings()}, module(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var made atomic.Int32
	for n := range byte(8) {
		all.Go(func() {
			status, text := sent(t, a, "PUT", "/wasm/"+m.ID.String(), "application/wasm", module(t, 1+n%4))
			switch {
			case status == 200:
				made.Add(1)
			case status == 400 && strings.Contains(text, "is registered already"):
			case status != 409 || !strings.Contains(text, "try again"):
				t.Errorf("got %d %s, want 409 and what to do", status, text)
			}
		})
	}
	all.Wait()
	if made.Load() == 0 {
		t.Error("none was made")
	}
}
