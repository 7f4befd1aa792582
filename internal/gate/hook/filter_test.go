package hook

import (
	"slices"
	"strings"
	"testing"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// TestWhomAModuleIsFor holds the filters, and that they look at what the client
// asked for.
func TestWhomAModuleIsFor(t *testing.T) {
	tests := []struct {
		paths, models, tenants []string
		off                    bool
		tenant                 string // of the request
		want                   bool
	}{
		{want: true},
		{off: true},
		{paths: []string{"/v1/chat/completions"}, want: true},
		{paths: []string{"/v1/chat/*"}, want: true},
		{paths: []string{"/v1/embeddings", "/v1/messages*"}},
		{models: []string{"m"}, want: true},
		{models: []string{"other", "m*"}, want: true},
		{models: []string{"M"}},
		{paths: []string{"/v1/chat/completions"}, models: []string{"x"}},
		{tenant: "acme", want: true},
		{tenants: []string{"acme"}, tenant: "acme", want: true},
		{tenants: []string{"beta", "ac*"}, tenant: "acme", want: true},
		{tenants: []string{"acme"}, tenant: "acme-2"},
		{tenants: []string{"acme"}, tenant: "Acme"},
		{tenants: []string{"acme", "a*"}},
		{tenants: []string{"*"}, want: true},
		{tenants: []string{"acme"}, models: []string{"x"}, tenant: "acme"},
		{tenants: []string{"acme"}, models: []string{"m"}, paths: []string{"/v1/*"}, tenant: "acme", want: true},
	}
	for _, tt := range tests {
		h := newHouse(t)
		h.add(t, "m", func(s *wasm.Spec) { s.Paths, s.Models, s.Tenants, s.Disabled = tt.paths, tt.models, tt.tenants, tt.off })
		r := newRequest("request=reject")
		r.Tenant = tt.tenant
		r.Header.AddString("X-SMG-Tenant-ID", "acme") // what a client says is not asked for here
		c, _ := h.ask(r, worker("text/plain", "no"))
		if got := c.status == 403; got != tt.want {
			t.Errorf("paths %q, models %q, tenants %q, disabled %t, a request of %q: called %t, want %t", tt.paths, tt.models, tt.tenants, tt.off, tt.tenant, got, tt.want)
		}
	}
}

// TestARequestWithoutAModel holds that leaving the model out leads past no module
// that is for some models: the router finds out later which it is.
func TestARequestWithoutAModel(t *testing.T) {
	for _, tt := range []struct {
		model, path string
		want        int
	}{
		{"", "/generate", 403}, {"", "/other", 200}, {"guarded", "/generate", 403}, {"free", "/generate", 200}, {"alias", "/generate", 403},
	} {
		h := newHouse(t)
		h.own = func(name string) string { return strings.Replace(name, "alias", "guarded", 1) }
		h.add(t, "m", func(s *wasm.Spec) { s.Models, s.Paths = []string{"guarded"}, []string{"/generate"} })
		r := newRequest("request=reject")
		r.Model, r.Path = tt.model, tt.path
		if c, _ := h.ask(r, worker("text/plain", "ok")); c.status != tt.want {
			t.Errorf("model %q at %s: %d, want %d", tt.model, tt.path, c.status, tt.want)
		}
	}
}

// TestModulesAreForWhatOthersMake holds that a module is for a request as those
// before it have made it.
func TestModulesAreForWhatOthersMake(t *testing.T) {
	h := newHouse(t)
	only := func(order int, models ...string) func(*wasm.Spec) {
		return func(s *wasm.Spec) { s.Order, s.Models = order, models }
	}
	h.add(t, "before", only(-1, "other"))
	h.add(t, "first", only(0, "m"))
	h.add(t, "was", only(1, "m"))
	h.add(t, "is", only(2, "other"))
	h.add(t, "all", only(3))
	c, err := h.ask(newRequest("request=body&chunk=replace"), events("text/event-stream", "data: 1\n\n"))
	if want := "[[[data: 1\n\n]]]"; err != nil || c.body.String() != want {
		t.Errorf("got %q, %v; want %q", c.body.String(), err, want)
	}
	for name, want := range map[string]bool{"before": false, "first": true, "was": false, "is": true, "all": true} {
		for _, hook := range []string{"OnRequest", "OnChunk", "OnEnd"} {
			if got := slices.ContainsFunc(h.scrape("sluice_wasm_calls_total"), func(l string) bool {
				return strings.Contains(l, `hook="`+hook+`",module="`+name+`"`)
			}); got != want {
				t.Errorf("%s is called at %s: %t, want %t", name, hook, got, want)
			}
		}
	}
	h.whole(t)
}

// TestAModuleIsReplacedBeforeItsTurn holds that a module that joins a request
// late, because of what another made of it, may have been replaced or removed.
func TestAModuleIsReplacedBeforeItsTurn(t *testing.T) {
	h := newHouse(t)
	h.add(t, "first", func(s *wasm.Spec) { s.Models = []string{"m"} })
	second := h.add(t, "second", func(s *wasm.Spec) { s.Order, s.Models = 1, []string{"other"} })
	third := h.add(t, "third", func(s *wasm.Spec) { s.Order, s.Models = 2, []string{"other"} })
	changed := false
	g := h.gateWith(func(o *Options) {
		o.Look = func(r *infer.Request) error {
			if changed {
				return lookAt(r)
			}
			changed = true
			b, _ := everything()
			if _, err := h.modules.Update(t.Context(), second.ID, func(*wasm.Spec) {}, append(slices.Clone(b), 0, 2, 1, 'v')); err != nil {
				t.Error(err)
			}
			if err := h.modules.Remove(third.ID); err != nil {
				t.Error(err)
			}
			return lookAt(r)
		}
	})
	c := new(client)
	err := g(events("text/event-stream", "data: 1\n\n")).Serve(t.Context(), newRequest("request=body&chunk=replace"), infer.NewReply(c))
	if want := "[[data: 1\n\n]]"; err != nil || c.body.String() != want {
		t.Errorf("got %q, %v; want %q", c.body.String(), err, want)
	}
	h.whole(t)
}
