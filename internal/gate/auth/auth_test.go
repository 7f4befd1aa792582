package auth

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"sluice/internal/infer"
	"sluice/internal/kit/secret"
)

// fakeWire is a client of whom only the header matters.
type fakeWire struct{ header infer.Header }

func (w *fakeWire) Header() *infer.Header       { return &w.header }
func (w *fakeWire) WriteHeader(int)             {}
func (w *fakeWire) Write(b []byte) (int, error) { return len(b), nil }
func (w *fakeWire) Flush() error                { return nil }

// unread is a body that must not be asked for.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("a body was read")
	return 0, io.EOF
}

// call sends r through the gate of a gateway with a key. It returns the
// refusal, nil if r passed, and the reply's header.
func call(t *testing.T, key string, c Class, r *infer.Request) (*infer.Error, *infer.Header) {
	t.Helper()
	return callWith(t, Config{APIKey: secret.New(key)}, c, r)
}

// callWith is call with other settings.
func callWith(t *testing.T, cfg Config, c Class, r *infer.Request) (*infer.Error, *infer.Header) {
	t.Helper()
	r.SetBody(infer.NewBody(unread{t}, 1000))
	passed := false
	h := Gate(cfg, func(*infer.Request) Class { return c })(
		infer.HandlerFunc(func(context.Context, *infer.Request, *infer.Reply) error {
			passed = true
			return nil
		}))
	wire := &fakeWire{}
	err := h.Serve(t.Context(), r, infer.NewReply(wire))
	if passed != (err == nil) {
		t.Fatalf("passed: %v, but the error is %v", passed, err)
	}
	if err == nil {
		return nil, &wire.header
	}
	var e *infer.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *infer.Error", err)
	}
	for _, k := range append(cfg.TenantKeys, cfg.APIKey) {
		_, key, tenants := strings.Cut(k.Reveal(), ":")
		if !tenants {
			key = k.Reveal()
		}
		if key != "" && (strings.Contains(e.Error(), key) || wire.header.Has("x-api-key")) {
			t.Errorf("the refusal shows the key: %v", e)
		}
	}
	return e, &wire.header
}

// fields makes a header of "Name: value" lines.
func fields(lines ...string) (h infer.Header) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		h.AddString(name, strings.TrimSpace(value))
	}
	return h
}

var (
	here  = netip.MustParseAddr("127.0.0.1")
	there = netip.MustParseAddr("192.0.2.7")
)

func TestKey(t *testing.T) {
	const key = "k-0123456789"
	tests := []struct {
		name     string
		endpoint infer.Endpoint
		header   []string
		pass     bool
		says     string // in the refusal's message
	}{
		{"the key", infer.Chat, []string{"Authorization: Bearer " + key}, true, ""},
		{"scheme in small letters", infer.Chat, []string{"authorization: bearer " + key}, true, ""},
		{"scheme in capitals, more spaces", infer.Chat, []string{"AUTHORIZATION: BEARER   " + key}, true, ""},
		{"nothing", infer.Chat, nil, false, "Send Authorization: Bearer <key>."},
		{"another key", infer.Chat, []string{"Authorization: Bearer k-9876543210"}, false, "wrong"},
		{"half a key", infer.Chat, []string{"Authorization: Bearer k-01234"}, false, "wrong"},
		{"the key and more", infer.Chat, []string{"Authorization: Bearer " + key + "x"}, false, "wrong"},
		{"key in capitals", infer.Chat, []string{"Authorization: Bearer " + strings.ToUpper(key)}, false, "wrong"},
		{"scheme alone", infer.Chat, []string{"Authorization: Bearer"}, false, "not a bearer token"},
		{"scheme and a space", infer.Chat, []string{"Authorization: Bearer "}, false, "not a bearer token"},
		{"no scheme", infer.Chat, []string{"Authorization: " + key}, false, "not a bearer token"},
		{"scheme run into the key", infer.Chat, []string{"Authorization: Bearer" + key}, false, "not a bearer token"},
		{"another scheme", infer.Chat, []string{"Authorization: Basic " + key}, false, "not a bearer token"},
		{"empty", infer.Chat, []string{"Authorization:"}, false, "not a bearer token"},
		{"twice, right first", infer.Chat, []string{"Authorization: Bearer " + key, "Authorization: Bearer x"}, false, "More than one"},
		{"twice, right last", infer.Chat, []string{"Authorization: Bearer x", "authorization: Bearer " + key}, false, "More than one"},
		{"twice the same", infer.Chat, []string{"Authorization: Bearer " + key, "Authorization: Bearer " + key}, false, "More than one"},
		{"x-api-key is not OpenAI's", infer.Chat, []string{"x-api-key: " + key}, false, "Send Authorization: Bearer <key>."},
		{"Anthropic, bearer", infer.Messages, []string{"Authorization: Bearer " + key}, true, ""},
		{"Anthropic, x-api-key", infer.Messages, []string{"X-Api-Key: " + key}, true, ""},
		{"Anthropic, counting", infer.CountTokens, []string{"x-api-key: " + key}, true, ""},
		{"Anthropic, wrong x-api-key", infer.Messages, []string{"x-api-key: k"}, false, "wrong"},
		{"Anthropic, two x-api-keys", infer.Messages, []string{"x-api-key: " + key, "x-api-key: " + key}, false, "More than one"},
		{"Anthropic, Authorization comes first", infer.Messages, []string{"x-api-key: " + key, "Authorization: Bearer x"}, false, "wrong"},
		{"a browser's WebSocket", infer.Realtime, []string{"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key." + key + ", openai-beta.realtime-v1"}, true, ""},
		{"a browser's, fields of their own", infer.Realtime, []string{"Sec-WebSocket-Protocol: realtime", "Sec-WebSocket-Protocol: openai-insecure-api-key." + key}, true, ""},
		{"a browser's, another key", infer.Realtime, []string{"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.k-9876543210"}, false, "wrong"},
		{"a browser's, no key in it", infer.Realtime, []string{"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key."}, false, "wrong"},
		{"a browser's, twice", infer.Realtime, []string{"Sec-WebSocket-Protocol: openai-insecure-api-key." + key + ",openai-insecure-api-key." + key}, false, "More than one"},
		{"a browser's, none", infer.Realtime, []string{"Sec-WebSocket-Protocol: realtime"}, false, "subprotocol openai-insecure-api-key.<key>"},
		{"a WebSocket, Authorization comes first", infer.Realtime, []string{"Authorization: Bearer x", "Sec-WebSocket-Protocol: openai-insecure-api-key." + key}, false, "wrong"},
		{"a WebSocket with Authorization", infer.Realtime, []string{"Authorization: Bearer " + key}, true, ""},
		{"subprotocols are for WebSockets", infer.Chat, []string{"Sec-WebSocket-Protocol: openai-insecure-api-key." + key}, false, "No API key"},
		{"Anthropic, nothing", infer.Messages, nil, false, "or x-api-key: <key>."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, c := range []Class{Data, Control} {
				r := &infer.Request{Endpoint: tt.endpoint, Remote: here, Header: fields(tt.header...)}
				e, h := call(t, key, c, r)
				switch {
				case tt.pass != (e == nil):
					t.Errorf("class %d: got %v, want to pass: %v", c, e, tt.pass)
				case e != nil && (e.Status != http.StatusUnauthorized || e.Code != "invalid_api_key" || !strings.Contains(e.Msg, tt.says)):
					t.Errorf("class %d: got %d %v, want 401 invalid_api_key and %q", c, e.Status, e, tt.says)
				}
				want := ""
				if !tt.pass {
					want = map[Class]string{Data: `Bearer realm="data-plane"`, Control: `Bearer realm="control-plane"`}[c]
				}
				if got := string(h.Get("WWW-Authenticate")); got != want {
					t.Errorf("class %d: WWW-Authenticate %q, want %q", c, got, want)
				}
			}
		})
	}
}

func TestPublicIsNeverChecked(t *testing.T) {
	for _, key := range []string{"", "k"} {
		if e, _ := call(t, key, Public, &infer.Request{Remote: there}); e != nil {
			t.Errorf("with key %q: %v", key, e)
		}
	}
}

func TestWithoutAKey(t *testing.T) {
	const far, browser = "control_plane_loopback_only", "control_plane_browser_refused"
	tests := []struct {
		name   string
		class  Class
		remote string
		header []string
		want   string // the refusal's code, "" to pass
	}{
		{"data from anywhere", Data, "192.0.2.7", nil, ""},
		{"data from a page", Data, "192.0.2.7", []string{"Origin: https://evil.example"}, ""},
		{"control from here", Control, "127.0.0.1", []string{"Host: 127.0.0.1:30000"}, ""},
		{"control from here, by name", Control, "127.0.0.1", []string{"Host: LocalHost:30000"}, ""},
		{"control from here, IPv6", Control, "::1", []string{"Host: [::1]:30000"}, ""},
		{"control from here, IPv6 without a port", Control, "::1", []string{"Host: [::1]"}, ""},
		{"control from here, without a port", Control, "127.8.8.8", []string{"Host: localhost"}, ""},
		{"control from here through a mapped address", Control, "::ffff:127.0.0.1", []string{"Host: 127.0.0.1"}, ""},
		{"control from elsewhere", Control, "192.0.2.7", []string{"Host: 127.0.0.1"}, far},
		{"control from a mapped elsewhere", Control, "::ffff:192.0.2.7", []string{"Host: 127.0.0.1"}, far},
		{"control from a private network", Control, "10.0.0.1", []string{"Host: 127.0.0.1"}, far},
		{"control from nowhere known", Control, "", []string{"Host: 127.0.0.1"}, far},
		{"control through a Unix socket", Control, "unix", []string{"Host: localhost"}, ""},
		{"control through a proxy and a Unix socket", Control, "unix", []string{"Host: localhost", "X-Forwarded-For: 192.0.2.7"}, far},
		{"control through a proxy that keeps the Host", Control, "unix", []string{"Host: gateway.example"}, browser},
		{"control through a proxy here", Control, "127.0.0.1", []string{"Host: 127.0.0.1", "X-Forwarded-For: 192.0.2.7"}, far},
		{"control through a proxy here, RFC 7239", Control, "127.0.0.1", []string{"Host: 127.0.0.1", "Forwarded: for=192.0.2.7"}, far},
		{"control from a page", Control, "127.0.0.1", []string{"Host: 127.0.0.1", "Origin: https://evil.example"}, browser},
		{"control from a local page", Control, "127.0.0.1", []string{"Host: 127.0.0.1", "Origin: http://localhost:8080"}, browser},
		{"control from a page without origin", Control, "127.0.0.1", []string{"Host: 127.0.0.1", "Origin: null"}, browser},
		{"control from an image in a page", Control, "127.0.0.1", []string{"Host: 127.0.0.1", "Sec-Fetch-Site: cross-site"}, browser},
		{"control typed into a browser", Control, "127.0.0.1", []string{"Host: 127.0.0.1", "Sec-Fetch-Site: none"}, ""},
		{"control by a rebound name", Control, "127.0.0.1", []string{"Host: evil.example:30000"}, browser},
		{"control by a rebound name that looks local", Control, "127.0.0.1", []string{"Host: localhost.evil.example"}, browser},
		{"control by a rebound name that looks like an address", Control, "127.0.0.1", []string{"Host: 127.0.0.1.evil.example"}, browser},
		{"control without a Host", Control, "127.0.0.1", nil, browser},
		{"control with two Hosts", Control, "127.0.0.1", []string{"Host: 127.0.0.1", "Host: evil.example"}, browser},
		{"a class that nobody knows", Control + 1, "192.0.2.7", []string{"Host: 127.0.0.1"}, far},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &infer.Request{Header: fields(tt.header...)}
			r.Unix = tt.remote == "unix"
			if tt.remote != "" && !r.Unix {
				r.Remote = netip.MustParseAddr(tt.remote)
			}
			e, _ := call(t, "", tt.class, r)
			switch {
			case tt.want == "" && e != nil:
				t.Errorf("refused: %v", e)
			case tt.want != "" && e == nil:
				t.Errorf("passed, want %s", tt.want)
			case e != nil && (e.Status != http.StatusForbidden || e.Code != tt.want || !strings.Contains(e.Msg, "--api-key")):
				t.Errorf("got %d %v, want 403 %s and how to configure it", e.Status, e, tt.want)
			}
		})
	}
}

func TestIsAddress(t *testing.T) {
	f := func(host string, want bool) {
		t.Helper()
		if got := isAddress(host); got != want {
			t.Errorf("isAddress(%q) = %v, want %v", host, got, want)
		}
	}
	f("192.0.2.7", true)
	f("192.0.2.7:80", true)
	f("[2001:db8::1]:80", true)
	f("[2001:db8::1]", true)
	f("localhost:", true)
	f("", false)
	f(":80", false)
	f("[]", false)
	f("[127.0.0.1]", false)
	f("localhost:80@evil.example", false)
	f("0x7f.1", false)
	f("gateway.internal:80", false)
}

func FuzzBearer(f *testing.F) {
	f.Add("Bearer k")
	f.Add("bearer  k ")
	f.Add("Bearer")
	f.Fuzz(func(t *testing.T, v string) {
		token, ok := bearer([]byte(v))
		if ok && !strings.Contains(v, string(token)) {
			t.Errorf("bearer(%q) = %q", v, token)
		}
		_ = isAddress(v)
	})
}

// aKey is as long as real ones.
const aKey = "sk-0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghij"

// steady returns requests that pass the gate.
func steady(cfg Config, endpoint infer.Endpoint, lines ...string) func() error {
	h := Gate(cfg, func(*infer.Request) Class { return Data })(
		infer.HandlerFunc(func(context.Context, *infer.Request, *infer.Reply) error { return nil }))
	r := &infer.Request{Endpoint: endpoint, Header: fields(append([]string{"Host: x", "Accept: */*", "Content-Type: application/json", "User-Agent: curl/8"}, lines...)...)}
	w := infer.NewReply(&fakeWire{})
	return func() error {
		r.Tenant = ""
		return h.Serve(context.Background(), r, w)
	}
}

// A passage is a way to pass the gate.
type passage struct {
	name string
	do   func() error
}

func steadies() []passage {
	shared := Config{APIKey: secret.New(aKey)}
	many := crowd(50_000)
	many.APIKey = secret.New(strings.ToUpper(aKey)) // as long, and compared first
	trusting := Config{APIKey: secret.New(aKey), TrustTenant: true, TenantHeader: "x-smg-tenant-id"}
	const bearer = "Authorization: Bearer "
	last := crowdKey(49_999)
	return []passage{
		{"openai", steady(shared, infer.Chat, bearer+aKey)},
		{"anthropic", steady(shared, infer.Messages, "x-api-key: "+aKey)},
		{"tenant", steady(crowd(0, "acme:"+aKey), infer.Chat, bearer+aKey)},
		{"tenant-of-50000", steady(many, infer.Chat, bearer+last)},
		{"trusted-header", steady(trusting, infer.Chat, bearer+aKey, "X-SMG-Tenant-ID: acme")},
		{"trusted-header-not-there", steady(trusting, infer.Chat, bearer+aKey)},
	}
}

func TestAllocations(t *testing.T) {
	for _, s := range steadies() {
		if n := testing.AllocsPerRun(100, func() {
			if err := s.do(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: the gate allocates %v times, want not at all", s.name, n)
		}
	}
}

func BenchmarkGate(b *testing.B) {
	for _, s := range steadies() {
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := s.do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestValidate(t *testing.T) {
	for key, good := range map[string]bool{"": true, "k-1": true, "two words": true, " k": false, "k\n": false, "k\x00k": false} {
		err := Config{APIKey: secret.New(key)}.Validate()
		if (err == nil) != good {
			t.Errorf("%q: got %v, want it to be good: %v", key, err, good)
		}
	}
}
