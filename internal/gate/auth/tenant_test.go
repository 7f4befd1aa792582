package auth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"sluice/internal/infer"
	"sluice/internal/kit/secret"
)

// crowd is a gateway of n tenants, of each one key, and some more.
func crowd(n int, more ...string) Config {
	cfg := DefaultConfig()
	for i := range n {
		cfg.TenantKeys = append(cfg.TenantKeys, secret.New(fmt.Sprintf("tenant-%d:%s", i, crowdKey(i))))
	}
	for _, k := range more {
		cfg.TenantKeys = append(cfg.TenantKeys, secret.New(k))
	}
	return cfg
}

func crowdKey(i int) string {
	return fmt.Sprintf("sk-%05d-abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopq", i)
}

// keyed is crowd with the gateway's own key.
func keyed(key string, tenants ...string) Config {
	cfg := crowd(0, tenants...)
	cfg.APIKey = secret.New(key)
	return cfg
}

// TestTenantKeys holds what which key opens, and whose a request is then.
func TestTenantKeys(t *testing.T) {
	both := keyed("shared", "acme:k-acme", "acme:k-acme-2", "beta:k:with:colons")
	tenants := crowd(0, "acme:k-acme")
	tests := []struct {
		name     string
		cfg      Config
		class    Class
		endpoint infer.Endpoint
		header   string
		want     string // the tenant; "401" if it is refused
	}{
		{"a tenant", both, Data, infer.Chat, "Authorization: Bearer k-acme", "acme"},
		{"its other key", both, Data, infer.Chat, "authorization: BEARER k-acme-2", "acme"},
		{"a key with colons", both, Data, infer.Chat, "Authorization: Bearer k:with:colons", "beta"},
		{"another tenant's name", both, Data, infer.Chat, "Authorization: Bearer beta:k-acme", "401"},
		{"the name and the key", both, Data, infer.Chat, "Authorization: Bearer acme:k-acme", "401"},
		{"the gateway's key", both, Data, infer.Chat, "Authorization: Bearer shared", ""},
		{"half a key", both, Data, infer.Chat, "Authorization: Bearer k-acm", "401"},
		{"the key and more", both, Data, infer.Chat, "Authorization: Bearer k-acme-", "401"},
		{"no key", both, Data, infer.Chat, "Accept: */*", "401"},
		{"Anthropic's field", both, Data, infer.Messages, "x-api-key: k-acme", "acme"},
		{"a browser's WebSocket", both, Data, infer.Realtime, "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.k-acme", "acme"},
		{"what is public", both, Public, infer.Local, "Authorization: Bearer k-acme", ""},
		{"the fleet, a tenant", both, Control, infer.Local, "Authorization: Bearer k-acme", "401"},
		{"the fleet, the gateway's key", both, Control, infer.Local, "Authorization: Bearer shared", ""},
		{"tenants only: a tenant", tenants, Data, infer.Chat, "Authorization: Bearer k-acme", "acme"},
		{"tenants only: no key", tenants, Data, infer.Chat, "Accept: */*", "401"},
		{"tenants only: another key", tenants, Data, infer.Chat, "Authorization: Bearer k", "401"},
		{"tenants only: an empty key", tenants, Data, infer.Chat, "Authorization: Bearer   ", "401"},
		{"tenants only: an empty x-api-key", tenants, Data, infer.Messages, "x-api-key:", "401"},
		{"tenants only: an empty subprotocol", tenants, Data, infer.Realtime, "Sec-WebSocket-Protocol: openai-insecure-api-key.", "401"},
		{"tenants only: the fleet, a tenant", tenants, Control, infer.Local, "Authorization: Bearer k-acme", "401"},
		{"tenants only: the fleet, from here", tenants, Control, infer.Local, "Accept: */*", "401"},
		{"tenants only: the fleet, an empty key", tenants, Control, infer.Local, "Authorization: Bearer   ", "401"},
		{"tenants only: what is public", tenants, Public, infer.Local, "Accept: */*", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &infer.Request{Endpoint: tt.endpoint, Remote: here, Header: fields("Host: 127.0.0.1", "X-SMG-Tenant-ID: other", tt.header)}
			e, _ := callWith(t, tt.cfg, tt.class, r)
			switch {
			case tt.want == "401" && (e == nil || e.Status != http.StatusUnauthorized || e.Code != "invalid_api_key" || r.Tenant != ""):
				t.Errorf("got %v, tenant %q; want 401 invalid_api_key", e, r.Tenant)
			case tt.want != "401" && (e != nil || r.Tenant != tt.want):
				t.Errorf("got %v, tenant %q; want %q", e, r.Tenant, tt.want)
			}
			if may := tt.want != "401"; tt.class == Control && MayControl(tt.cfg, r) != may {
				t.Errorf("MayControl does not say %t", may)
			}
		})
	}
}

// TestManyTenants holds that each of very many keys is its tenant's.
func TestManyTenants(t *testing.T) {
	const n = 20_000
	g := newGate(crowd(n))
	for i := range n {
		r := &infer.Request{Endpoint: infer.Chat, Header: fields("Authorization: Bearer " + crowdKey(i))}
		if e := g.check(Data, r); e != nil || r.Tenant != fmt.Sprint("tenant-", i) {
			t.Fatalf("key %d: %v, tenant %q", i, e, r.Tenant)
		}
	}
	r := &infer.Request{Endpoint: infer.Chat, Header: fields("Authorization: Bearer " + crowdKey(n))}
	if e := g.check(Data, r); e == nil || r.Tenant != "" {
		t.Errorf("a key of nobody's opens: %v, tenant %q", e, r.Tenant)
	}
}

// TestKeysWithOneHash holds that a key with the hash of another opens nothing,
// and that both are found if both are there.
func TestKeysWithOneHash(t *testing.T) {
	g := newTenants(crowd(0, "acme:k-acme", "beta:k-beta").TenantKeys)
	var all []tenant
	for _, l := range g.byKey {
		all = append(all, l...)
	}
	for h := range g.byKey {
		g.byKey[h] = all
	}
	for key, want := range map[string]string{"k-acme": "acme", "k-beta": "beta"} {
		if name, ok := g.of([]byte(key)); !ok || name != want {
			t.Errorf("%s is of %q, %t; want %s", key, name, ok, want)
		}
	}
	for h := range g.byKey {
		g.byKey[h] = []tenant{{"acme", secret.New("k-acme")}}
	}
	if name, ok := g.of([]byte("k-beta")); ok {
		t.Errorf("a key with the hash of another opens, as %q", name)
	}
}

// TestTrustedHeader holds when a header says whose a request is.
func TestTrustedHeader(t *testing.T) {
	trust := func(cfg Config, name string) Config {
		cfg.TrustTenant, cfg.TenantHeader = true, name
		return cfg
	}
	const name = "x-smg-tenant-id"
	open, both := trust(Config{}, name), trust(keyed("shared", "acme:k-acme"), name)
	renamed := trust(Config{}, "x-team")
	long := strings.Repeat("n", maxTenant)
	tests := []struct {
		name   string
		cfg    Config
		class  Class
		header []string
		want   string // the tenant; "400" or "401" if it is refused
	}{
		{"nobody trusts it", keyed("", "acme:k-acme"), Data, []string{"Authorization: Bearer k-acme", "X-SMG-Tenant-ID: beta"}, "acme"},
		{"nobody trusts it, without keys", DefaultConfig(), Data, []string{"X-SMG-Tenant-ID: beta", "X-SMG-Tenant-ID: a b"}, ""},
		{"without keys", open, Data, []string{"X-SMG-Tenant-ID: beta"}, "beta"},
		{"without the header", open, Data, nil, ""},
		{"empty", open, Data, []string{"X-SMG-Tenant-ID:"}, ""},
		{"another name", renamed, Data, []string{"X-SMG-Tenant-ID: beta", "X-Team: gamma"}, "gamma"},
		{"with the gateway's key", both, Data, []string{"Authorization: Bearer shared", "X-SMG-Tenant-ID: beta"}, "beta"},
		{"a tenant says to be another", both, Data, []string{"Authorization: Bearer k-acme", "X-SMG-Tenant-ID: beta"}, "acme"},
		{"a tenant says nonsense", both, Data, []string{"Authorization: Bearer k-acme", "X-SMG-Tenant-ID: a b", "X-SMG-Tenant-ID: c"}, "acme"},
		{"with a wrong key", both, Data, []string{"Authorization: Bearer k", "X-SMG-Tenant-ID: acme"}, "401"},
		{"without a key where one is needed", both, Data, []string{"X-SMG-Tenant-ID: acme"}, "401"},
		{"twice", open, Data, []string{"X-SMG-Tenant-ID: beta", "x-smg-tenant-id: beta"}, "400"},
		{"twice, empty first", open, Data, []string{"X-SMG-Tenant-ID:", "X-SMG-Tenant-ID: beta"}, "400"},
		{"a list", open, Data, []string{"X-SMG-Tenant-ID: beta,acme"}, "400"},
		{"with a space in it", open, Data, []string{"X-SMG-Tenant-ID: a b"}, "400"},
		{"not ASCII", open, Data, []string{"X-SMG-Tenant-ID: ünal"}, "400"},
		{"as long as it may be", open, Data, []string{"X-SMG-Tenant-ID: " + long}, long},
		{"longer", open, Data, []string{"X-SMG-Tenant-ID: " + long + "n"}, "400"},
		{"what is public", open, Public, []string{"X-SMG-Tenant-ID: a b"}, ""},
		{"the fleet", both, Control, []string{"Authorization: Bearer shared", "X-SMG-Tenant-ID: a b"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &infer.Request{Endpoint: infer.Chat, Remote: there, Header: fields(tt.header...)}
			e, _ := callWith(t, tt.cfg, tt.class, r)
			got := r.Tenant
			if e != nil {
				got = fmt.Sprint(e.Status)
				if want := map[int]string{400: "invalid_tenant", 401: "invalid_api_key"}[e.Status]; e.Code != want || r.Tenant != "" {
					t.Errorf("refused with %s, and of tenant %q; want %s", e.Code, r.Tenant, want)
				}
			}
			if got != tt.want {
				t.Errorf("got %q, %v; want %q", got, e, tt.want)
			}
		})
	}
}

// TestTenantOutlivesTheHeader holds that a tenant's name is not the connection's
// memory, which the next request is read into.
func TestTenantOutlivesTheHeader(t *testing.T) {
	cfg := DefaultConfig()
	cfg.TrustTenant = true
	g := newGate(cfg)
	for _, name := range []string{"acme", "beta"} {
		value := []byte(name)
		r := &infer.Request{Endpoint: infer.Chat}
		r.Header.Add([]byte("X-Smg-Tenant-Id"), value)
		if e := g.check(Data, r); e != nil {
			t.Fatal(e)
		}
		clear(value)
		if r.Tenant != name {
			t.Errorf("the tenant is %q, want %q", r.Tenant, name)
		}
	}
}

func TestValidateTenants(t *testing.T) {
	const hidden = "hunter2"
	tests := []struct {
		name string
		cfg  Config
		want string // "" if nothing is wrong
	}{
		{"two tenants, three keys", keyed("shared", "a:1", "a:2", "b:3"), ""},
		{"a key with a colon at its end", crowd(0, "a:1:"), ""},
		{"no colon", crowd(0, "a:1", hidden), "tenant-api-key: number 2 is not tenant:key"},
		{"nothing", crowd(0, ""), "number 1 is not tenant:key"},
		{"no tenant", crowd(0, ":"+hidden), "number 1 has no tenant before its colon"},
		{"a tenant of spaces", crowd(0, " :"+hidden), "has no tenant before its colon"},
		{"a tenant with a comma", crowd(0, "a,b:"+hidden), "without a comma"},
		{"a tenant that is too long", crowd(0, strings.Repeat("n", 129)+":"+hidden), "1 to 128 visible ASCII"},
		{"no key", crowd(0, "a:"), "number 1 has no key behind its colon"},
		{"a key with a space before it", crowd(0, "a: "+hidden), "which no client can send"},
		{"a key with a line feed", crowd(0, "a:"+hidden+"\n"), "which no client can send"},
		{"two tenants with one key", crowd(0, "a:"+hidden, "c:3", "b:"+hidden), "number 3 has the same key as number 1"},
		{"a tenant twice with one key", crowd(0, "a:"+hidden, "a:"+hidden), "number 2 has the same key as number 1"},
		{"the gateway's key", keyed(hidden, "a:"+hidden), "number 1 is the same key as api-key"},
		{"no header name", Config{TrustTenant: true}, `tenant-header-name: "" is not a header name`},
		{"a header name with a space", Config{TenantHeader: "x tenant"}, "is not a header name"},
		{"a header that holds keys", Config{TenantHeader: "Authorization"}, "holds secrets"},
	}
	for _, tt := range tests {
		err := tt.cfg.Validate()
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		case err != nil && strings.Contains(err.Error(), hidden):
			t.Errorf("%s: the fault shows the key: %v", tt.name, err)
		}
	}
}

// FuzzTenant holds that whatever a trusted header says, what comes of it can be
// logged, and is what was said.
func FuzzTenant(f *testing.F) {
	f.Add("acme")
	f.Add("a b")
	f.Add("a,b")
	f.Add("\x7f")
	cfg := DefaultConfig()
	cfg.TrustTenant = true
	g := newGate(cfg)
	f.Fuzz(func(t *testing.T, v string) {
		r := &infer.Request{Endpoint: infer.Chat}
		r.Header.AddString("X-SMG-Tenant-ID", v)
		e := g.check(Data, r)
		switch {
		case e != nil && (r.Tenant != "" || e.Status != http.StatusBadRequest):
			t.Errorf("%q is refused with %d, and of tenant %q", v, e.Status, r.Tenant)
		case e == nil && (r.Tenant != v || len(v) > maxTenant || strings.ContainsFunc(v, func(c rune) bool { return c <= ' ' || c > '~' || c == ',' })):
			t.Errorf("%q passes as tenant %q", v, r.Tenant)
		}
	})
}
