// Package auth is the gate that knows clients by their key.
//
// There are two kinds of calls beside the public ones: the data plane's, which
// are what the gateway is for, and the control plane's, which change it or show
// how the fleet looks from inside. With a key set, both want it. Without one,
// the data plane is open and the control plane answers programs on the
// gateway's own host, nobody else: not a proxy there that speaks for others,
// and not a web page that a browser there shows.
//
// Tenants may have keys of their own, which open the data plane only. A request
// that was let in knows its tenant; those without tenants pay nothing for it.
package auth

import (
	"bytes"
	"context"
	"net/http"
	"net/netip"
	"strings"

	"sluice/internal/infer"
	"sluice/internal/kit/intern"
	"sluice/internal/kit/secret"
)

// A Class says who may make a call.
type Class uint8

// Public calls are never checked.
const (
	Public Class = iota
	Data
	Control
)

// Gate returns the gate; class says what each request is. A request that is
// refused is refused unread: nobody has asked for its body.
//
// It sets the Request's Tenant: whose key was used; else, of requests of the
// data plane, what a header says that cfg trusts; else nothing.
func Gate(cfg Config, class func(*infer.Request) Class) infer.Gate {
	g := newGate(cfg)
	return func(next infer.Handler) infer.Handler {
		return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			c := class(r)
			if refused := g.check(c, r); refused != nil {
				if refused.Status == http.StatusUnauthorized {
					w.Header().Set("WWW-Authenticate", `Bearer realm="`+c.realm()+`"`)
				}
				return refused
			}
			return next.Serve(ctx, r, w)
		})
	}
}

// MayControl reports whether r's sender may make calls of the control plane.
func MayControl(cfg Config, r *infer.Request) bool {
	g := gate{key: cfg.APIKey, keyed: cfg.Keyed()} // a tenant's key does not count
	return g.check(Control, r) == nil
}

// gate is constant, but for the names that it keeps.
type gate struct {
	key     secret.String // opens every call; empty for none
	keyed   bool          // some key is wanted
	tenants *tenants      // nil for none
	header  string        // names the tenant; "" if none is trusted
	names   *intern.Table // that the header has had; nil if none is trusted
}

func newGate(cfg Config) *gate {
	g := &gate{key: cfg.APIKey, keyed: cfg.Keyed(), tenants: newTenants(cfg.TenantKeys)}
	if cfg.TrustTenant {
		g.header, g.names = cfg.TenantHeader, new(intern.Table)
	}
	return g
}

// check returns why r is refused as a call of class c, nil if it is not.
func (g *gate) check(c Class, r *infer.Request) *infer.Error {
	switch {
	case c == Public:
		return nil
	case g.keyed:
		if refused := g.checkKey(c, r); refused != nil {
			return refused
		}
	case c != Data:
		return checkLocal(r)
	}
	if g.header != "" && c == Data && r.Tenant == "" {
		return g.readTenant(r)
	}
	return nil
}

func (c Class) realm() string {
	if c == Data {
		return "data-plane"
	}
	return "control-plane"
}

// checkKey returns why r does not prove that its sender has a key for calls of
// class c, nil if it does.
func (g *gate) checkKey(c Class, r *infer.Request) *infer.Error {
	if c != Data && g.key.Empty() { // keys of tenants open nothing here, nor does the gateway's own host any more
		return unauthorized("This call needs the gateway's own key, and the gateway has only keys of tenants. Start it with --api-key.")
	}
	field, want := "Authorization", "Authorization: Bearer <key>"
	if r.Endpoint.Dialect() == infer.Anthropic {
		want = "Authorization: Bearer <key> or x-api-key: <key>"
		if !r.Header.Has(field) {
			field = "x-api-key"
		}
	}
	value, n := only(&r.Header, field)
	what := " header"
	if r.Endpoint == infer.Realtime {
		want = "Authorization: Bearer <key>, or in a browser the subprotocol " + protocolKey + "<key>"
		if n == 0 {
			if value, n = protocol(&r.Header); n > 0 {
				field, what = "", "key among the subprotocols"
			}
		}
	}
	switch {
	case n == 0:
		return unauthorized("No API key was sent. Send " + want + ".")
	case n > 1:
		// Two readers of one request could take different ones for it.
		return unauthorized("More than one " + field + what + " was sent. Send one: " + want + ".")
	}
	if field == "Authorization" {
		token, ok := bearer(value)
		if !ok {
			return unauthorized("The Authorization header is not a bearer token. Send " + want + ".")
		}
		value = token
	}
	if !g.opens(c, value, r) {
		return unauthorized("The API key is wrong. Send " + want + ".")
	}
	return nil
}

// opens reports whether a key opens calls of class c. If it is a tenant's, r is
// that tenant's from now on.
func (g *gate) opens(c Class, key []byte, r *infer.Request) bool {
	if own := g.key; !own.Empty() && own.Equal(key) { // who sends an empty one has none
		return true
	}
	if g.tenants == nil || c != Data {
		return false
	}
	tenant, ok := g.tenants.of(key)
	if ok {
		r.Tenant = tenant
	}
	return ok
}

// protocolKey begins the subprotocol that is a key: browsers cannot send an
// Authorization header with a WebSocket.
const protocolKey = "openai-insecure-api-key."

// protocol returns the first key among the subprotocols that a client offers,
// and how many there are.
func protocol(h *infer.Header) (key []byte, n int) {
	for list := range h.Values("Sec-WebSocket-Protocol") {
		for p := range bytes.SplitSeq(list, []byte(",")) {
			if k, ok := bytes.CutPrefix(bytes.TrimSpace(p), []byte(protocolKey)); ok {
				if n++; n == 1 {
					key = k
				}
			}
		}
	}
	return key, n
}

func unauthorized(msg string) *infer.Error {
	return &infer.Error{Status: http.StatusUnauthorized, Code: "invalid_api_key", Msg: msg}
}

// only returns the value of the first field called name, and how many there
// are.
func only(h *infer.Header, name string) (value []byte, n int) {
	for v := range h.Values(name) {
		if n++; n == 1 {
			value = v
		}
	}
	return value, n
}

// bearer returns the token of credentials as RFC 6750 §2.1 has them. The
// scheme is compared without case (RFC 9110 §11.1).
func bearer(v []byte) (token []byte, ok bool) {
	const scheme = "bearer"
	if len(v) <= len(scheme) || v[len(scheme)] != ' ' || !bytes.EqualFold(v[:len(scheme)], []byte(scheme)) {
		return nil, false
	}
	return bytes.Trim(v[len(scheme):], " "), true
}

// checkLocal returns why r is not from a program on the gateway's own host,
// nil if it is.
func checkLocal(r *infer.Request) *infer.Error {
	if !r.Unix && !r.Remote.Unmap().IsLoopback() {
		return forbidden("control_plane_loopback_only", "Without an API key this call is answered on the gateway's own host only. Start the gateway with --api-key to call it from elsewhere.")
	}
	for _, name := range [...]string{"Forwarded", "X-Forwarded-For", "X-Real-IP"} {
		if r.Header.Has(name) {
			return forbidden("control_plane_loopback_only", "Without an API key this call is not answered through a proxy, and "+name+" says that there is one. Start the gateway with --api-key.")
		}
	}
	// A page has its browser's address. It shows itself by its Origin, by
	// Sec-Fetch-Site, or, if its name was pointed at this host (DNS
	// rebinding), by its Host.
	if r.Header.Has("Origin") {
		return forbidden("control_plane_browser_refused", "Without an API key this call is not answered to web pages, and an Origin header was sent. Start the gateway with --api-key.")
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != nil && string(site) != "none" && string(site) != "same-origin" {
		return forbidden("control_plane_browser_refused", "Without an API key this call is not answered to web pages, and Sec-Fetch-Site says that one made it. Start the gateway with --api-key.")
	}
	if host, n := only(&r.Header, "Host"); n != 1 || !isAddress(string(host)) {
		return forbidden("control_plane_browser_refused", "Without an API key this call is answered if the Host is an IP address or localhost, so that no web page can borrow the gateway's address. Start the gateway with --api-key to use other names.")
	}
	return nil
}

func forbidden(code, msg string) *infer.Error {
	return &infer.Error{Status: http.StatusForbidden, Code: code, Msg: msg}
}

// isAddress reports whether a Host field holds an IP address or localhost, with
// or without a port.
func isAddress(host string) bool {
	if _, err := netip.ParseAddrPort(host); err == nil {
		return true
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		return ok && err == nil && addr.Is6()
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	name, port, _ := strings.Cut(host, ":")
	return strings.EqualFold(name, "localhost") && strings.Trim(port, "0123456789") == ""
}
