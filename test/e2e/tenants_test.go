package e2e

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"sluice/test/program"
)

// polite is a worker that answers everything.
func polite(t *testing.T) *rogue {
	t.Helper()
	return newRogue(t, func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", "{}") })
}

// TestTenants holds whose request is whose, that a module which is for one tenant
// is called for it only, and that a tenant's key opens inference and no more.
func TestTenants(t *testing.T) {
	t.Parallel()
	w := polite(t)
	g := inFrontOf(t, 1, []string{w.URL}, "--api-key", "shared-key", "--tenant-api-key", "acme:acme-key", "--tenant-api-key", "acme:acme-key-2", "--tenant-api-key", "beta:beta-key",
		"--enable-wasm", "--wasm-module", "guard="+everything(t)+";fail_closed=true;tenants=acme,gamma*")
	tests := []struct {
		name   string
		key    string
		id     string
		status int // 403 from the module
		line   string
	}{
		{"a tenant with a module", "acme-key", "req-1", 403, "tenant=acme"},
		{"its other key", "acme-key-2", "req-2", 403, "tenant=acme"},
		{"a tenant without", "beta-key", "req-3", 200, "tenant=beta"},
		{"nobody's", "shared-key", "req-4", 200, ""},
		{"a stranger's", "gamma-key", "req-5", 401, ""},
	}
	for _, tt := range tests {
		a := post(t, g.URL, chatPath+"?request=reject", body(chatPath, false, ""), "Authorization", "Bearer "+tt.key, "X-SMG-Tenant-ID", "acme", "X-Request-Id", tt.id)
		if a.status != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.name, a.status, a.body, tt.status)
		}
		wantLine(t, g, "id="+tt.id, tt.line)
		for _, l := range g.Lines() {
			if tt.line == "" && strings.Contains(l, "id="+tt.id) && strings.Contains(l, "tenant=") {
				t.Errorf("%s: the log names a tenant: %s", tt.name, l)
			}
		}
	}
	wantMetric(t, g, `sluice_wasm_calls_total{action="reject",hook="OnRequest",module="guard"}`, 2)
	if r, _ := w.last(t); r.Header.Get("X-Smg-Tenant-Id") != "" || r.Header.Get("Authorization") != "Bearer shared-key" {
		t.Errorf("the worker got %v", r.Header)
	}
	for _, path := range []string{"/workers", "/wasm", "/get_server_info"} {
		if a := ask(t, "GET", g.URL+path, "", "Authorization", "Bearer acme-key"); a.refused(t) != "401 invalid_api_key" {
			t.Errorf("%s with a tenant's key: %d %s", path, a.status, a.body)
		}
		if a := ask(t, "GET", g.URL+path, "", "Authorization", "Bearer shared-key"); a.status == 401 {
			t.Errorf("%s with the gateway's key: %d %s", path, a.status, a.body)
		}
	}
	_, metrics := program.Get(t, g.MetricsURL)
	if log := g.Log(); strings.Contains(log, "acme-key") || strings.Contains(metrics, "acme") {
		t.Errorf("a key is in the log, or a tenant in the metrics:\n%s\n%s", log, metrics)
	}
}

// TestTenantsAlone is a gateway without a key of its own: nobody controls it, not
// even from its own host, and pages have to send a key too.
func TestTenantsAlone(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "m")
	g := inFrontOf(t, 1, []string{k.URL}, "--tenant-api-key", "acme:acme-key")
	for _, key := range []string{"", "Bearer acme-key", "Bearer ", "Bearer    "} {
		for _, call := range [][2]string{{"GET", "/workers"}, {"POST", "/workers"}, {"POST", "/flush_cache"}, {"GET", "/get_loads"}} {
			if a := ask(t, call[0], g.URL+call[1], "", "Authorization", key); a.refused(t) != "401 invalid_api_key" || a.header.Get("WWW-Authenticate") != `Bearer realm="control-plane"` {
				t.Errorf("%s %s with %q: %d %s", call[0], call[1], key, a.status, a.body)
			}
		}
	}
	for _, key := range []string{"", "Bearer ", "Bearer    ", "Bearer acme", "Bearer acme:acme-key"} {
		if a := post(t, g.URL, chatPath, body(chatPath, false, ""), "Authorization", key); a.refused(t) != "401 invalid_api_key" {
			t.Errorf("a chat with %q: %d %s", key, a.status, a.body)
		}
	}
	page := header("Origin", "https://example.com")
	if _, res, err := websocket.Dial(t.Context(), g.URL+realtimePath+"?model=m", page); err == nil || res == nil || res.StatusCode != 401 {
		t.Errorf("a page without a key: %v %v, want 401", res, err)
	}
	page.Subprotocols = []string{"realtime", "openai-insecure-api-key.acme-key"}
	if got := tell(t, dial(t, g, "?model=m", page), "hello"); got != "hello" {
		t.Errorf("a page with a tenant's key said hello, got %q", got)
	}
	for _, l := range g.Lines() {
		if strings.Contains(l, "level=WARN") && strings.Contains(l, "--api-key") {
			t.Errorf("it is warned of an open gateway: %s", l)
		}
	}
}

// TestTrustedTenants has a proxy in front that says whose a request is.
func TestTrustedTenants(t *testing.T) {
	t.Parallel()
	w := polite(t)
	module := everything(t)
	open := inFrontOf(t, 1, []string{w.URL}, "--trust-tenant-header", "--tenant-header-name", "X-Team", "--enable-wasm", "--wasm-module", "guard="+module+";tenants=acme")
	both := inFrontOf(t, 1, []string{w.URL}, "--api-key", "shared-key", "--tenant-api-key", "beta:beta-key", "--trust-tenant-header", "--enable-wasm", "--wasm-module", "guard="+module+";tenants=acme")
	tests := []struct {
		name   string
		g      *program.Gateway
		header []string
		want   string
	}{
		{"the tenant", open, []string{"X-Team", "acme"}, "403"},
		{"another", open, []string{"X-Team", "beta"}, "200"},
		{"nobody", open, nil, "200"},
		{"in the header of another gateway", open, []string{"X-SMG-Tenant-ID", "acme"}, "200"},
		{"nonsense", open, []string{"X-Team", "acme,beta"}, "400 invalid_tenant"},
		{"with the gateway's key", both, []string{"X-SMG-Tenant-ID", "acme", "Authorization", "Bearer shared-key"}, "403"},
		{"a tenant in another's name", both, []string{"X-SMG-Tenant-ID", "acme", "Authorization", "Bearer beta-key"}, "200"},
		{"without a key", both, []string{"X-SMG-Tenant-ID", "acme"}, "401 invalid_api_key"},
	}
	for _, tt := range tests {
		a := post(t, tt.g.URL, chatPath+"?request=reject", body(chatPath, false, ""), tt.header...)
		got := http.StatusText(a.status)
		switch a.status {
		case 200:
			got = "200"
			if r, _ := w.last(t); r.Header.Get("X-Team") != "" || r.Header.Get("X-Smg-Tenant-Id") != "" {
				t.Errorf("%s: the worker got %v", tt.name, r.Header)
			}
		case 403:
			got = "403"
		case 400, 401:
			got = a.refused(t)
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestTenantsThatCannotBe holds that a slip ends the start, and shows no key.
func TestTenantsThatCannotBe(t *testing.T) {
	t.Parallel()
	const key = "sk-secret-7"
	for _, tt := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--tenant-api-key", key}, "number 1 is not tenant:key"},
		{[]string{"--tenant-api-key", "acme:" + key, "--tenant-api-key", "beta:" + key}, "number 2 has the same key as number 1"},
		{[]string{"--tenant-api-key", "acme:" + key, "--api-key", key}, "number 1 is the same key as api-key"},
		{[]string{"--tenant-header-name", "a b"}, `"a b" is not a header name`},
	} {
		out, errs, code := program.Run(t, append([]string{"serve"}, tt.flags...)...)
		if said := out + errs; code != 2 || !strings.Contains(said, tt.want) || strings.Contains(said, key) {
			t.Errorf("%q: code %d, %s; want %q", tt.flags, code, said, tt.want)
		}
	}
	out, errs, code := program.Run(t, "config", "--tenant-api-key", "acme:"+key, "--tenant-api-key", "beta:"+key+"-2")
	if code != 0 || strings.Contains(out+errs, key) || !strings.Contains(out, "**** ****") {
		t.Errorf("sluice config: code %d, %s%s; want the keys masked", code, out, errs)
	}
}
