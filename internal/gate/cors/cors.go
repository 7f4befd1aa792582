// Package cors is the gate that lets web pages of other origins call.
//
// Browsers ask before they call (a preflight) and read an answer only if it
// allows their page's origin. Both are said here, ahead of authentication: a
// preflight carries no key. With no origin configured nothing is said, and
// browsers refuse all pages.
package cors

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"

	"sluice/internal/infer"
)

const (
	methods = "GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD"
	headers = "Authorization, Content-Type, x-api-key, anthropic-version, anthropic-beta, x-request-id, traceparent"
	exposed = "x-request-id, request-id, x-smg-error-code, retry-after"
	maxAge  = "600" // seconds for which a browser need not ask again

	maxHeaders = 4 << 10 // bytes of the list of headers that a preflight asks for
)

// Gate returns the gate.
func Gate(cfg Config) infer.Gate {
	if len(cfg.Origins) == 0 {
		return func(next infer.Handler) infer.Handler { return next }
	}
	g := newGate(cfg)
	return func(next infer.Handler) infer.Handler {
		return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			return g.serve(ctx, r, w, next)
		})
	}
}

// Allows returns a function that says whether pages of an origin may call. It
// is for what browsers do not ask about.
func Allows(cfg Config) func(origin []byte) bool {
	g := newGate(cfg)
	return func(origin []byte) bool { return g.allow(origin) != "" }
}

func newGate(cfg Config) *gate {
	g := &gate{origins: make(map[string]string, len(cfg.Origins))}
	for _, o := range cfg.Origins {
		g.any = g.any || o == "*"
		g.origins[normal(o)] = normal(o)
	}
	return g
}

// gate is constant.
type gate struct {
	any     bool
	origins map[string]string // each to itself, as browsers write them
}

// normal returns a configured origin as browsers write it: in lower case, and
// without the scheme's own port.
func normal(origin string) string {
	o := strings.ToLower(origin)
	if rest, ok := strings.CutSuffix(o, ":443"); ok && strings.HasPrefix(o, "https://") {
		return rest
	}
	if rest, ok := strings.CutSuffix(o, ":80"); ok && strings.HasPrefix(o, "http://") {
		return rest
	}
	return o
}

// allow returns what Access-Control-Allow-Origin says to origin, "" if nothing.
func (g *gate) allow(origin []byte) string {
	if g.any {
		return "*"
	}
	return g.origins[string(origin)]
}

func (g *gate) serve(ctx context.Context, r *infer.Request, w *infer.Reply, next infer.Handler) error {
	origin := r.Header.Get("Origin")
	allow := g.allow(origin)
	if r.Method == http.MethodOptions && origin != nil && r.Header.Has("Access-Control-Request-Method") {
		return g.preflight(r, w, allow)
	}
	c := wires.Get().(*wire)
	c.allow, c.vary = allow, !g.any
	w.Wrap(func(inner infer.Wire) infer.Wire {
		c.Wire = inner
		c.splicer, _ = inner.(infer.Splicer)
		return c
	})
	err := next.Serve(ctx, r, w)
	if err == nil && w.Committed() { // else something is still to be sent through it
		c.free(w)
	}
	return err
}

// preflight answers a browser that asks whether its page may call.
func (g *gate) preflight(r *infer.Request, w *infer.Reply, allow string) error {
	h := w.Header()
	h.Set("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
	if allow == "" {
		return &infer.Error{Status: http.StatusForbidden, Code: "origin_not_allowed", Msg: "Pages of this origin may not call the gateway. Its operator allows origins with --cors-allowed-origins."}
	}
	h.Set("Access-Control-Allow-Origin", allow)
	h.Set("Access-Control-Allow-Methods", methods)
	h.Set("Access-Control-Allow-Headers", allowHeaders(r.Header.Get("Access-Control-Request-Headers")))
	h.Set("Access-Control-Max-Age", maxAge)
	w.Commit(http.StatusNoContent)
	return nil
}

// allowHeaders returns the list of headers that a page may send: those it asks
// for, if that is a list of header names, else those that clients are known
// to need.
func allowHeaders(asked []byte) string {
	if len(asked) == 0 || len(asked) > maxHeaders {
		return headers
	}
	for name := range strings.SplitSeq(string(asked), ",") {
		if !isToken(strings.Trim(name, " \t")) {
			return headers
		}
	}
	return string(asked)
}

// isToken reports whether s is a token as RFC 9110 §5.6.2 has it.
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// wire adds what a browser wants to know just before the header is sent, so
// that it stands in errors too and in place of what a worker says: its answer
// is not about the gateway's origins.
type wire struct {
	infer.Wire
	splicer infer.Splicer // Wire as one, nil if it is none
	allow   string        // for Access-Control-Allow-Origin; "" to say nothing
	vary    bool          // the answer depends on the origin
}

var wires = sync.Pool{New: func() any { return new(wire) }}

// free gives w back, past which reply writes from then on.
func (w *wire) free(reply *infer.Reply) {
	inner := w.Wire
	reply.Wrap(func(infer.Wire) infer.Wire { return inner })
	*w = wire{}
	wires.Put(w)
}

// Splices implements infer.Splicer.
func (w *wire) Splices() bool { return w.splicer != nil && w.splicer.Splices() }

// Splice implements infer.Splicer.
func (w *wire) Splice(framed []byte, n int) error { return w.splicer.Splice(framed, n) }

// Tunnels implements infer.Tunneler.
func (w *wire) Tunnels() bool {
	t, ok := w.Wire.(infer.Tunneler)
	return ok && t.Tunnels()
}

// Tunnel implements infer.Tunneler. What Access-Control fields say is not for
// WebSockets.
func (w *wire) Tunnel() (nc net.Conn, early []byte, err error) {
	return w.Wire.(infer.Tunneler).Tunnel()
}

// WriteHeader implements infer.Wire.
func (w *wire) WriteHeader(status int) {
	h := w.Header()
	for _, name := range [...]string{
		"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Allow-Methods",
		"Access-Control-Allow-Headers", "Access-Control-Expose-Headers", "Access-Control-Max-Age",
	} {
		h.Del(name)
	}
	if w.vary && !h.HasToken("Vary", "Origin") && !h.HasToken("Vary", "*") {
		h.AddString("Vary", "Origin") // caches must not give one origin's answer to another
	}
	if w.allow != "" {
		h.Set("Access-Control-Allow-Origin", w.allow)
		h.Set("Access-Control-Expose-Headers", exposed)
	}
	w.Wire.WriteHeader(status)
}
