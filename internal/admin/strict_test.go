package admin

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// unclear are settings of a module that can be read in two ways, or are no text, and
// what is said of them; @ is where they stand.
var unclear = map[string]string{
	`"fail_closed":true,"fail_closed":false`:         "@.fail_closed is there twice",
	`"fail_closed":true,"fail_\u0063losed":false`:    "@.fail_closed is there twice",
	`"enabled":true,"ENABLED":false`:                 `unknown field "ENABLED" in @; want "enabled"`,
	`"Fail_Closed":true`:                             `unknown field "Fail_Closed" in @; want "fail_closed"`,
	`"max_inſtances":1`:                              `unknown field "max_inſtances" in @; want "max_instances"`,
	`"attach_points":[{"middleware":"OnRequest"}]`:   `unknown field "middleware" in @.attach_points[0]; want "Middleware"`,
	`"models":["a","\ud800"]`:                        "@.models[1] has " + halves,
	`"config":"\udc00\ud800"`:                        "@.config has " + halves,
	`"config":"\ud800\ud800\udc00"`:                  "@.config has " + halves,
	`"config":"\ud83dx"`:                             "@.config has " + halves,
	`"config":"\ud83d\n"`:                            "@.config has " + halves,
	`"\ud800":1`:                                     "a name in @ has " + halves,
	`"add_result":{"a.b":[1,{"x":1,"x":2}]}`:         `@.add_result["a.b"][1].x is there twice`,
	`"order":null`:                                   "@.order is null; want a whole number, or leave it out",
	`"enabled":null`:                                 "@.enabled is null; want true or false, or leave it out",
	`"fail_closed":null`:                             "@.fail_closed is null; want true or false, or leave it out",
	`"config":null`:                                  "@.config is null; want a string, or leave it out",
	`"name":null`:                                    "@.name is null; want a string, or leave it out",
	`"attach_points":null`:                           "@.attach_points is null; want a list, or leave it out",
	`"attach_points":[null]`:                         `@.attach_points[0] is null; want an object such as {"Middleware":"OnRequest"}, or leave it out`,
	`"attach_points":[{"Middleware":null}]`:          "@.attach_points[0].Middleware is null; want a string, or leave it out",
	`"order":1,"tenants":["\ud83d\ude00"],"order":2`: "@.order is there twice",
	`"attach_points":[{"Middleware":"OnRequest","Middleware":"OnResponse"}]`: "@.attach_points[0].Middleware is there twice",
}

const halves = `one half of a surrogate pair, \ud800 to \udfff, without the other, which is no text`

// TestWhatIsUnclearIsRefused holds that no setting is passed over: neither the first
// of two, nor one in other letters, nor a null, nor text that would become other text.
func TestWhatIsUnclearIsRefused(t *testing.T) {
	a, r, dir := newModules(t)
	file := writeModule(t, filepath.Join(dir, "m.wasm"), 1)
	m, err := r.Add(t.Context(), wasm.Spec{Name: "there", Settings: wasm.DefaultSettings()}, module(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	at := "/wasm/" + m.ID.String()
	for settings, want := range unclear {
		listed, alone := strings.ReplaceAll(want, "@", "modules[0]"), strings.ReplaceAll(strings.ReplaceAll(want, "@.", ""), " in @", "")
		status, text := posted(t, a, `{"modules":[{"file_path":"`+file+`",`+settings+`}]}`)
		if status != 400 || text != "the body is not a list of modules: "+listed {
			t.Errorf("POST %s:\ngot  %d %s\nwant %s", settings, status, text, listed)
		}
		for method, body := range map[string]string{"PATCH": `{` + settings + `}`, "PUT": `{"file_path":"` + file + `",` + settings + `}`} {
			if status, text := sent(t, a, method, at, "application/json", []byte(body)); status != 400 || !strings.HasSuffix(text, ": "+alone) {
				t.Errorf("%s %s:\ngot  %d %s\nwant %s", method, settings, status, text, alone)
			}
		}
	}
	for body, want := range map[string]string{
		`null`:                           "it is null; want an object",
		`{"modules":null}`:               "modules is null; want a list, or leave it out",
		`{"modules":[null]}`:             "modules[0] is null; want an object, or leave it out",
		`{"modules":[{}],"modules":[]}`:  "modules is there twice",
		`{"Modules":[]}`:                 `unknown field "Modules"; want "modules"`,
		` { "modules" : [ ] , "x" : 1 }`: `unknown field "x"`,
	} {
		if status, text := posted(t, a, body); status != 400 || text != "the body is not a list of modules: "+want {
			t.Errorf("%s:\ngot  %d %s\nwant %s", body, status, text, want)
		}
	}
	if status, text := sent(t, a, "PATCH", at, "application/json", []byte("null")); status != 400 || !strings.HasSuffix(text, ": it is null; want an object") {
		t.Errorf("a change that is null: %d %s", status, text)
	}
	if all := r.Set().All; len(all) != 1 || all[0] != m {
		t.Errorf("what was refused has changed the modules to %+v", all)
	}
}

// TestNestedDeeply holds that it is said where a fault is, and no more.
func TestNestedDeeply(t *testing.T) {
	a, _, _ := newModules(t)
	deep := strings.Repeat("[", 5000)
	status, text := posted(t, a, `{"modules":[{"add_result":`+deep+`{"x":1,"x":2}`+strings.Repeat("]", 5000)+`}]}`)
	if status != 400 || !strings.Contains(text, "modules[0].add_result[0][0]") || !strings.HasSuffix(text, "[0]… is there twice") || len(text) > 200 {
		t.Errorf("%d %.300s", status, text)
	}
}

// TestSettingsInTheQueryOfJSON holds that settings are not passed over because they
// stand in the wrong place.
func TestSettingsInTheQueryOfJSON(t *testing.T) {
	a, r, dir := newModules(t)
	file := writeModule(t, filepath.Join(dir, "m.wasm"), 1)
	m, err := r.Add(t.Context(), wasm.Spec{Name: "there", Settings: wasm.DefaultSettings()}, module(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	at := "/wasm/" + m.ID.String()
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/wasm?fail_closed=true&order=3", `{"modules":[{"name":"m","file_path":"` + file + `"}]}`},
		{"POST", "/wasm?name=y", `{"modules":[]}`},
		{"POST", "/wasm?name=y", ``},
		{"PUT", at + "?fail_closed=true", `{"file_path":"` + file + `"}`},
		{"PATCH", at + "?order=7", `{}`},
		{"PATCH", at + "?order=7", ``},
	} {
		if status, text := sent(t, a, c.method, c.path, "application/json", []byte(c.body)); status != 400 || !strings.Contains(text, "settings stand in the body") {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, status, text)
		}
	}
	if all := r.Set().All; len(all) != 1 || all[0] != m {
		t.Errorf("what was refused has changed the modules to %+v", all)
	}
	if status, text := posted(t, a, `{"modules":[]}`); status != 200 || text != `{"modules":[]}` { // as in SMG: all of none succeeded
		t.Errorf("an empty list: %d %s", status, text)
	}
}

// TestChangesThatAreMade holds that a change that is answered with 200 is made, and
// that null is for all, as GET shows it.
func TestChangesThatAreMade(t *testing.T) {
	a, r, dir := newModules(t)
	file := writeModule(t, filepath.Join(dir, "m.wasm"), 1)
	const some = `"paths":["/v1/*"],"models":["a"],"tenants":["t"]`
	status, text := posted(t, a, `{"modules":[{"name":"m","file_path":"`+file+`","paths":null,"models":["a"],"tenants":null}]}`)
	if status != 200 || !strings.Contains(text, `"attach_points":[],`) || !strings.Contains(text, `"paths":null,"models":["a"],"tenants":null`) {
		t.Errorf("registered: %d %s", status, text)
	}
	at := "/wasm/" + r.Set().All[0].ID.String()
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`{` + some + `}`, 200, some},
		{`{"paths":null}`, 200, `"paths":null,"models":["a"],"tenants":["t"]`},
		{`{"models":null}`, 200, `"paths":null,"models":null,"tenants":["t"]`},
		{`{"tenants":null}`, 200, `"paths":null,"models":null,"tenants":null`},
		{`{` + some + `}`, 200, some},
		{`{}`, 200, some},
		{`{"models":[null]}`, 400, "models has one of 0 bytes"},
		{`{"name":""}`, 400, "a module needs a name"},
		{`{"name":"  "}`, 400, "a module needs a name"},
		{`{"module_type":""}`, 400, "are not changed by PATCH"},
		{`{"file_path":""}`, 400, "are not changed by PATCH"},
		{`{"add_result":{}}`, 400, "are not changed by PATCH"},
	} {
		status, text := sent(t, a, "PATCH", at, "application/json", []byte(c.body))
		if status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("PATCH %s: %d %s, want %d with %s", c.body, status, text, c.status, c.want)
		}
	}
	for _, c := range []struct{ query, kind, body, want string }{
		{"", "application/json", `{"file_path":"` + file + `","module_type":"Filter"}`, `unknown module_type "Filter"`},
		{"", "application/json", `{"file_path":"` + file + `","name":""}`, "a module needs a name"},
		{"", "application/json", `{}`, "needs a file_path"},
		{"?name=", "application/wasm", string(module(t, 2)), "a module needs a name"},
	} {
		if status, text := sent(t, a, "PUT", at+c.query, c.kind, []byte(c.body)); status != 400 || !strings.Contains(text, c.want) {
			t.Errorf("PUT %s %.80s: %d %s, want 400 with %s", c.query, c.body, status, text, c.want)
		}
	}
	if m := r.Set().All[0]; m.Name != "m" || m.Sum != wasm.Sum(module(t, 1)) || len(m.Models) != 1 {
		t.Errorf("at the end: %+v", m.Spec)
	}
}

// TestBodiesThatAreTooLong holds that the bound is told that is in the way, and not
// the setting that has no say in it.
func TestBodiesThatAreTooLong(t *testing.T) {
	a, _, _ := newModules(t)
	for _, c := range []struct {
		method, pattern string
		n               int
		want            string
	}{
		{"POST", "/wasm", 70 << 20, "64 MiB"},
		{"PUT", "/wasm/{id}", 70 << 20, "64 MiB"},
		{"PATCH", "/wasm/{id}", 2 << 20, "1 MiB"},
	} {
		for _, call := range a.Calls() {
			if call.Method != c.method || call.Pattern != c.pattern {
				continue
			}
			r := &infer.Request{ID: "id-1", Method: c.method, Param: "0197a1b2-0000-7000-8000-000000000000"}
			r.SetBody(infer.NewBody(strings.NewReader(strings.Repeat("x", c.n)), int64(c.n)))
			err := call.Handler.Serve(t.Context(), r, infer.NewReply(new(client)))
			e, _ := errors.AsType[*infer.Error](err)
			if e == nil || e.Status != 413 || e.Code != "request_body_too_large" || !strings.Contains(e.Msg, c.want) || strings.Contains(e.Msg, "max_payload_size") {
				t.Errorf("%s %s: %v, want 413 that names %s", c.method, c.pattern, err, c.want)
			}
		}
	}
}

// FuzzStrictly holds that what is let in is what encoding/json reads, with nothing
// of it passed over: written again it is the same but for blanks and order.
func FuzzStrictly(f *testing.F) {
	for s := range unclear {
		f.Add([]byte(`{` + s + `}`))
	}
	f.Add([]byte(`{"name":"a\"\\\u00e4\ud83d\ude00", "models": [ "a" , "b" ] ,"order":-1 }`))
	f.Add([]byte(`{"add_result":{"x":[1e3,{"y":null}]},"fail_closed":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d descriptor
		if err := strictly(b, &d, 0); err != nil {
			if !json.Valid(b) && strings.Contains(err.Error(), "twice") {
				t.Errorf("of what is no JSON: %v", err)
			}
			return
		}
		var is map[string]any
		if err := json.Unmarshal(b, &is); err != nil {
			t.Fatal(err)
		}
		written, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]any
		if err := json.Unmarshal(written, &want); err != nil {
			t.Fatal(err)
		}
		for key, v := range is {
			if got, there := want[key]; !there && !(key == "add_result" && v == nil) {
				t.Errorf("%s: %v is passed over: %v", b, key, got)
			}
		}
	})
}
