package hook

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// judge is what the front finds wrong with requests here: a header x-set that is
// not old, or a body that is no JSON.
func judge(r *infer.Request) error {
	if err := header(r); err != nil {
		return err
	}
	return lookAt(r)
}

func header(r *infer.Request) error {
	if set := string(r.Header.Get("x-set")); set != "old" && set != "" {
		return &infer.Error{Status: http.StatusUnsupportedMediaType, Code: "bad_x_set"}
	}
	return nil
}

// faulty is newRequest with a body and an x-set, as the front has judged it.
func faulty(query, body, set string) *infer.Request {
	r := newRequest(query)
	r.Header.Set("x-set", set)
	r.SetBytes([]byte(body))
	r.Model = ""
	r.Fault = judge(r)
	return r
}

// TestARequestWithAFault holds that modules see what the gateway would refuse, may
// repair or answer it, and that it is refused if they leave it, with the fault that
// it has then. No worker gets it.
func TestARequestWithAFault(t *testing.T) {
	const other = `other {"model":"other","messages":[{"role":"user","content":"a longer text than there was"}]}`
	tests := []struct {
		name, does, body, set string
		want                  string // what the worker gets, or the client instead
		told                  string // of errors and the end
	}{
		{"is left", "", "{", "old", "400 json_parse_error", "error 400 json_parse_error; end 400 0+0"},
		{"is repaired", "body", "{", "old", other, "end 200 0+0"},
		{"is answered", "reject", "{", "old", "403 ", "end 403 0+0"},
		{"gets a header", "tell", "{", "old", "400 json_parse_error", "error 400 json_parse_error; end 400 0+0"},
		{"gets another fault", "headers", "{", "old", "415 bad_x_set", "error 415 bad_x_set; end 415 0+0"},
		{"has two, and one is repaired", "body", "{", "bad", "415 bad_x_set", "error 415 bad_x_set; end 415 0+0"},
		{"is taken for a failure", "trap", "{", "old", "400 json_parse_error", "error 400 json_parse_error; end 400 0+0"},
		{"is seen too late", "spin", "{", "old", "400 json_parse_error", "error 400 json_parse_error; end 400 0+0"},
		{"is changed into nonsense", "line-end", "{", "old", "400 json_parse_error", "error 400 json_parse_error; end 400 0+0"},
		{"is emptied", "no-body", "{", "old", "400 json_parse_error", "error 400 json_parse_error; end 400 0+0"},
		{"has none, and gets one by its header", "headers", chat, "old", "m " + chat, "end 200 0+0"},
		{"has none, and gets one by its body", "no-body", chat, "old", "m " + chat, "end 200 0+0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			h.add(t, "m", func(s *wasm.Spec) {
				if tt.does == "spin" {
					s.Settings.Time = soon
				}
			})
			g := h.gateWith(func(o *Options) { o.Look, o.LookHeader = judge, header })
			got, c := "", new(client)
			w := infer.NewReply(c)
			r := faulty("request="+tt.does+"&response=status", tt.body, tt.set)
			before := slices.Clone(r.Header.Fields())
			err := g(sound(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
				got = r.Model + " " + string(r.Body)
				if tt.body == chat && !slices.EqualFunc(r.Header.Fields(), before, func(a, b infer.Field) bool {
					return string(a.Name) == string(b.Name) && string(a.Value) == string(b.Value)
				}) {
					t.Errorf("the header that was put back is %q, was %q", r.Header.Fields(), before)
				}
				w.Commit(http.StatusOK)
				return nil
			})).Serve(t.Context(), r, w)
			if err != nil && !w.Committed() {
				refuse(w, err)
			}
			if got == "" {
				got = c.got()
			} else if c.status != 201 {
				t.Errorf("on-response has not seen the answer: %d", c.status)
			}
			told := strings.ReplaceAll(h.told(), "end 201", "end 200")
			if got != tt.want || told != tt.told {
				t.Errorf("got %q, want %q; told %q, want %q (%v)", got, tt.want, told, tt.told, err)
			}
			h.whole(t)
		})
	}
}

// TestWhoSeesAFault holds that a module that is for some models sees a request
// whose model nobody could find, and no request for another model or tenant, and
// that a door that is kept stays shut.
func TestWhoSeesAFault(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*wasm.Spec)
		query  string
		model  string
		want   string
	}{
		{"no model is known", func(s *wasm.Spec) { s.Models = []string{"x"} }, "request=reject", "", "403 "},
		{"its model is", func(s *wasm.Spec) { s.Models = []string{"m"} }, "request=reject", "m", "403 "},
		{"another is", func(s *wasm.Spec) { s.Models = []string{"x"} }, "request=reject", "m", "400 fault"},
		{"another path's", func(s *wasm.Spec) { s.Paths = []string{"/generate"} }, "request=reject", "", "400 fault"},
		{"another tenant's", func(s *wasm.Spec) { s.Tenants = []string{"acme"} }, "request=reject", "", "400 fault"},
		{"a module that fails and must not", func(s *wasm.Spec) { s.FailClosed = true }, "request=trap", "", "503 wasm_module_failed"},
		{"one that may fail", nil, "request=trap", "", "400 fault"},
	} {
		h := newHouse(t)
		h.add(t, "m", tt.change)
		r := newRequest(tt.query)
		r.Model, r.Fault = tt.model, &infer.Error{Status: http.StatusBadRequest, Code: "fault"}
		if c, _ := h.ask(r, worker("text/plain", "ok")); c.got() != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, c.got(), tt.want)
		}
		h.whole(t)
	}
}

// TestModulesBehindARepair holds that those behind the module that has repaired a
// request are for it as it is then.
func TestModulesBehindARepair(t *testing.T) {
	h := newHouse(t)
	h.add(t, "repairs", nil)
	h.add(t, "other", func(s *wasm.Spec) { s.Order, s.Models = 1, []string{"other"} })
	h.add(t, "x", func(s *wasm.Spec) { s.Order, s.Models = 1, []string{"x"} })
	r := faulty("request=body", "{", "old")
	if c, err := h.ask(r, worker("text/plain", "ok")); c.got() != "200 ok" {
		t.Errorf("got %q, %v", c.got(), err)
	}
	calls := h.scrape("sluice_wasm_calls_total")
	for name, want := range map[string]bool{"repairs": true, "other": true, "x": false} {
		if got := slices.ContainsFunc(calls, func(l string) bool { return strings.Contains(l, `hook="OnRequest",module="`+name+`"`) }); got != want {
			t.Errorf("%s was asked: %t, want %t", name, got, want)
		}
	}
}

// TestACallWithAFaultBecomesAnother holds that a call of which a module makes
// another is judged as that.
func TestACallWithAFaultBecomesAnother(t *testing.T) {
	for _, tt := range []struct {
		body, want string
	}{
		{`{"model":"m"}`, "200 completions"}, // which needs no messages
		{`{`, "400 none"},
	} {
		l := newLetterbox(t, nil, func(method, path string) (infer.Endpoint, bool) {
			return infer.Completions, method == "PUT" && path == "/v1/completions"
		})
		l.look = func(r *infer.Request) error {
			if len(r.Body) < 2 || r.Endpoint == infer.Chat {
				return &infer.Error{Status: http.StatusBadRequest, Code: "none"}
			}
			r.Model = "m"
			return nil
		}
		c := new(client)
		r := newRequest("")
		r.Path += "/e"
		r.SetBytes([]byte(tt.body))
		r.Fault = l.look(r)
		w := infer.NewReply(c)
		if err := l.gate(sound(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
			return w.Send(200, "text/plain", []byte(r.Endpoint.Label()))
		})).Serve(t.Context(), r, w); err != nil {
			refuse(w, err)
		}
		if c.got() != tt.want {
			t.Errorf("%s: got %q, want %q", tt.body, c.got(), tt.want)
		}
		l.idle(t)
	}
}
