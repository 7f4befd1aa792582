package cors

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sluice/internal/infer"
)

// fakeWire is a browser.
type fakeWire struct {
	header infer.Header
	status int
}

func (w *fakeWire) Header() *infer.Header       { return &w.header }
func (w *fakeWire) WriteHeader(status int)      { w.status = status }
func (w *fakeWire) Write(b []byte) (int, error) { return len(b), nil }
func (w *fakeWire) Flush() error                { return nil }
func (w *fakeWire) Splices() bool               { return w.status == 200 }
func (w *fakeWire) Splice([]byte, int) error    { return nil }

// answer is what a browser reads of the answer to a request with the fields
// given, as "name: value"; relayed are those that a worker sent.
func answer(t *testing.T, origins []string, method string, sent, relayed []string) (*fakeWire, bool, error) {
	t.Helper()
	cfg := Config{Origins: origins}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	passed := false
	h := Gate(cfg)(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		passed = true
		add(w.Header(), relayed)
		return w.Send(200, "application/json", []byte("{}"))
	}))
	wire := &fakeWire{}
	r := &infer.Request{Method: method}
	add(&r.Header, sent)
	err := h.Serve(t.Context(), r, infer.NewReply(wire))
	return wire, passed, err
}

func add(h *infer.Header, lines []string) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.AddString(name, value)
	}
}

// corsFields are the fields that browsers and caches look at.
func corsFields(h *infer.Header) []string {
	var lines []string
	for _, f := range h.Fields() {
		name := strings.ToLower(string(f.Name))
		if name == "vary" || strings.HasPrefix(name, "access-control-") {
			lines = append(lines, name+": "+string(f.Value))
		}
	}
	slices.Sort(lines)
	return lines
}

func TestAnswers(t *testing.T) {
	const expose = "access-control-expose-headers: x-request-id, request-id, x-smg-error-code, retry-after"
	list := []string{"https://a.example", "https://B.example:443", "http://c.example:8080"}
	tests := []struct {
		name    string
		origins []string
		sent    []string
		relayed []string
		want    []string
	}{
		{"no origins configured", nil, []string{"Origin: https://a.example"}, []string{"Access-Control-Allow-Origin: *"},
			[]string{"access-control-allow-origin: *"}},
		{"allowed", list, []string{"Origin: https://a.example"}, nil,
			[]string{"access-control-allow-origin: https://a.example", expose, "vary: Origin"}},
		{"allowed, configured as nobody sends it", list, []string{"Origin: https://b.example"}, nil,
			[]string{"access-control-allow-origin: https://b.example", expose, "vary: Origin"}},
		{"allowed, with a port", list, []string{"Origin: http://c.example:8080"}, nil,
			[]string{"access-control-allow-origin: http://c.example:8080", expose, "vary: Origin"}},
		{"not allowed", list, []string{"Origin: https://evil.example"}, nil, []string{"vary: Origin"}},
		{"not allowed: another port", list, []string{"Origin: http://c.example"}, nil, []string{"vary: Origin"}},
		{"not allowed: another scheme", list, []string{"Origin: http://a.example"}, nil, []string{"vary: Origin"}},
		{"not allowed: a longer name", list, []string{"Origin: https://a.example.evil.example"}, nil, []string{"vary: Origin"}},
		{"not allowed: a sandboxed page", list, []string{"Origin: null"}, nil, []string{"vary: Origin"}},
		{"not a browser", list, nil, nil, []string{"vary: Origin"}},
		{"anybody", []string{"*"}, []string{"Origin: https://evil.example"}, nil, []string{"access-control-allow-origin: *", expose}},
		{"a worker does not decide", list, []string{"Origin: https://evil.example"},
			[]string{"access-control-allow-origin: *", "Access-Control-Allow-Credentials: true", "Vary: Accept-Encoding"},
			[]string{"vary: Accept-Encoding", "vary: Origin"}},
		{"a worker that says the same", list, []string{"Origin: https://a.example"}, []string{"Access-Control-Allow-Origin: *", "Vary: origin"},
			[]string{"access-control-allow-origin: https://a.example", expose, "vary: origin"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, passed, err := answer(t, tt.origins, "POST", tt.sent, tt.relayed)
			if err != nil || !passed || w.status != 200 {
				t.Fatalf("status %d, passed %v, %v", w.status, passed, err)
			}
			if got := corsFields(&w.header); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestErrorsAreReadableToo(t *testing.T) {
	h := Gate(Config{Origins: []string{"https://a.example"}})(infer.HandlerFunc(func(context.Context, *infer.Request, *infer.Reply) error {
		return &infer.Error{Status: 401}
	}))
	wire := &fakeWire{}
	r, w := &infer.Request{Method: "POST"}, infer.NewReply(wire)
	r.Header.AddString("Origin", "https://a.example")
	if err := h.Serve(t.Context(), r, w); err == nil {
		t.Fatal("the error was lost")
	}
	if err := w.Send(401, "application/json", nil); err != nil { // as the server does
		t.Fatal(err)
	}
	if got := string(wire.header.Get("Access-Control-Allow-Origin")); got != "https://a.example" {
		t.Errorf("the page cannot read the error: Access-Control-Allow-Origin is %q", got)
	}
}

// steady returns requests of a page whose origin is allowed.
func steady() (do func() error, wire *fakeWire) {
	h := Gate(Config{Origins: []string{"https://a.example"}})(infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Commit(200)
		if !w.Splices() {
			return errors.New("chunks cannot pass")
		}
		return w.Splice(nil, 0)
	}))
	wire = &fakeWire{}
	r, w := &infer.Request{Method: "POST"}, &infer.Reply{}
	add(&r.Header, []string{"Host: gateway", "Accept: */*", "Content-Type: application/json", "Origin: https://a.example", "Sec-Fetch-Mode: cors"})
	ctx := context.Background()
	return func() error {
		wire.header.Reset()
		w.Reset(wire)
		return h.Serve(ctx, r, w)
	}, wire
}

func TestAllocations(t *testing.T) {
	do, _ := steady()
	if n := testing.AllocsPerRun(1000, func() {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 && !raced {
		t.Errorf("the gate allocates %v times, want not at all", n)
	}
}

// TestTheReplyIsAsItWas holds that nothing of the gate is left in a Reply whose
// answer has ended, and all of it where something is still to be sent.
func TestTheReplyIsAsItWas(t *testing.T) {
	do, wire := steady()
	for range 3 {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if got := string(wire.header.Get("Access-Control-Allow-Origin")); got != "https://a.example" {
			t.Errorf("Access-Control-Allow-Origin is %q", got)
		}
	}
	for _, result := range []error{nil, errors.New("x")} {
		h := Gate(Config{Origins: []string{"*"}})(infer.HandlerFunc(func(context.Context, *infer.Request, *infer.Reply) error { return result }))
		wire := &fakeWire{}
		w := infer.NewReply(wire)
		_ = h.Serve(t.Context(), &infer.Request{Method: "POST"}, w)
		w.Commit(204)
		if got := string(wire.header.Get("Access-Control-Allow-Origin")); got != "*" {
			t.Errorf("after %v an answer is sent without Access-Control-Allow-Origin: %q", result, got)
		}
	}
}

func BenchmarkGate(b *testing.B) {
	do, _ := steady()
	b.ReportAllocs()
	for b.Loop() {
		if err := do(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPreflight(t *testing.T) {
	list := []string{"https://a.example"}
	allowed := func(origin, headers string) []string {
		return []string{
			"access-control-allow-headers: " + headers,
			"access-control-allow-methods: GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD",
			"access-control-allow-origin: " + origin,
			"access-control-max-age: 600",
			"vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
		}
	}
	ask := func(origin string, headers ...string) []string {
		sent := []string{"Origin: " + origin, "Access-Control-Request-Method: POST"}
		for _, h := range headers {
			sent = append(sent, "Access-Control-Request-Headers: "+h)
		}
		return sent
	}
	tests := []struct {
		name    string
		origins []string
		sent    []string
		want    []string
	}{
		{"no headers asked", list, ask("https://a.example"), allowed("https://a.example", headers)},
		{"those asked", list, ask("https://a.example", "authorization, x-stainless-os"), allowed("https://a.example", "authorization, x-stainless-os")},
		{"not header names", list, ask("https://a.example", "authorization, a b"), allowed("https://a.example", headers)},
		{"an empty name", list, ask("https://a.example", "authorization,,x"), allowed("https://a.example", headers)},
		{"a new line", list, ask("https://a.example", "x\r\nset-cookie: y"), allowed("https://a.example", headers)},
		{"more than anybody needs", list, ask("https://a.example", strings.Repeat("x,", 4<<10)+"x"), allowed("https://a.example", headers)},
		{"anybody", []string{"*"}, ask("https://evil.example"), allowed("*", headers)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, passed, err := answer(t, tt.origins, "OPTIONS", tt.sent, nil)
			if err != nil || passed || w.status != http.StatusNoContent {
				t.Fatalf("status %d, passed on %v, %v; want 204", w.status, passed, err)
			}
			if got := corsFields(&w.header); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestPreflightOfAStranger(t *testing.T) {
	w, passed, err := answer(t, []string{"https://a.example"}, "OPTIONS", []string{"Origin: https://evil.example", "Access-Control-Request-Method: POST"}, nil)
	var e *infer.Error
	if !errors.As(err, &e) || e.Status != 403 || e.Code != "origin_not_allowed" || passed {
		t.Errorf("got %v, passed on %v; want 403 origin_not_allowed", err, passed)
	}
	if got := corsFields(&w.header); len(got) != 1 || !strings.HasPrefix(got[0], "vary: Origin") {
		t.Errorf("got %q, want only Vary", got)
	}
}

func TestOptionsThatAreNoPreflight(t *testing.T) {
	for name, tt := range map[string]struct {
		origins []string
		method  string
		sent    []string
	}{
		"no origins configured": {nil, "OPTIONS", []string{"Origin: https://a.example", "Access-Control-Request-Method: POST"}},
		"no method asked":       {[]string{"*"}, "OPTIONS", []string{"Origin: https://a.example"}},
		"not a browser":         {[]string{"*"}, "OPTIONS", []string{"Access-Control-Request-Method: POST"}},
		"another method":        {[]string{"*"}, "GET", []string{"Origin: https://a.example", "Access-Control-Request-Method: POST"}},
	} {
		if _, passed, err := answer(t, tt.origins, tt.method, tt.sent, nil); !passed || err != nil {
			t.Errorf("%s: passed on %v, %v", name, passed, err)
		}
	}
}

func TestValidate(t *testing.T) {
	f := func(origin string, ok bool) {
		t.Helper()
		if err := (Config{Origins: []string{origin}}).Validate(); (err == nil) != ok {
			t.Errorf("%q: got %v, want it to be good: %v", origin, err, ok)
		}
	}
	f("*", true)
	f("https://example.com", true)
	f("HTTPS://Example.com:8443", true)
	f("http://localhost:3000", true)
	f("http://[::1]:3000", true)
	f("example.com", false)
	f("https://example.com/", false)
	f("https://example.com/page", false)
	f("https://me@example.com", false)
	f("https://*.example.com", false)
	f("https://example.com#x", false)
	f("https://example.com?", false)
	f("null", false)
	f("", false)
}

// FuzzAllowHeaders holds that nothing but a list of names is echoed.
func FuzzAllowHeaders(f *testing.F) {
	f.Add("authorization, content-type")
	f.Add("a\r\nb: c")
	f.Fuzz(func(t *testing.T, asked string) {
		got := allowHeaders([]byte(asked))
		if len(got) > maxHeaders || got == "" || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f }) {
			t.Errorf("asked for %q, answered %q", asked, got)
		}
	})
}
