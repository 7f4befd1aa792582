// Package server is the gateway's front: it listens, knows the routes, turns
// what HTTP brings into an infer.Request, and an error into an answer in the
// client's dialect.
package server

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"sluice/internal/infer"
)

// A Route is one call of the API.
type Route struct {
	Method   string
	Pattern  string // a path; its last segment may be {id}, which stands for one segment
	Endpoint infer.Endpoint
	Handler  infer.Handler
}

// A Mux finds the Route of a request. It is not written to after NewMux.
type Mux struct {
	paths   map[string]*path // whole paths
	params  map[string]*path // by what stands before {id}
	gates   []infer.Gate
	unknown infer.Handler
}

// path is what one pattern answers.
type path struct {
	pattern  string
	endpoint infer.Endpoint
	methods  map[string]infer.Handler
	refused  infer.Handler // for all other methods
}

// NewMux returns a Mux of routes, each behind gates, the first outermost. What
// no route answers passes the gates too, so that it is logged and counted.
func NewMux(routes []Route, gates ...infer.Gate) *Mux {
	m := &Mux{paths: make(map[string]*path), params: make(map[string]*path), gates: gates}
	m.unknown = m.Behind(infer.HandlerFunc(unknownURL))
	for _, r := range routes {
		in, key := m.paths, r.Pattern
		if before, isParam := strings.CutSuffix(r.Pattern, "{id}"); isParam {
			in, key = m.params, before
		}
		p := in[key]
		if p == nil {
			p = &path{pattern: r.Pattern, methods: make(map[string]infer.Handler)}
			in[key] = p
		}
		if p.methods[r.Method] != nil {
			panic("BUG: two routes for " + r.Method + " " + r.Pattern)
		}
		p.methods[r.Method] = m.Behind(r.Handler)
		if r.Endpoint != infer.Local {
			p.endpoint = r.Endpoint
		}
	}
	for _, ps := range []map[string]*path{m.paths, m.params} {
		for _, p := range ps {
			p.refused = m.Behind(methodNotAllowed(p.allow()))
		}
	}
	return m
}

// Behind returns h behind m's gates, for requests that h answers whatever they
// ask.
func (m *Mux) Behind(h infer.Handler) infer.Handler { return infer.Chain(h, m.gates...) }

// Serve implements infer.Handler. It sets r's Route, Endpoint and Param.
func (m *Mux) Serve(ctx context.Context, r *infer.Request, w *infer.Reply) error {
	p := m.paths[r.Path]
	if p == nil {
		p = m.param(r)
	}
	if p == nil {
		return m.unknown.Serve(ctx, r, w)
	}
	r.Route, r.Endpoint = p.pattern, p.endpoint
	h := p.methods[r.Method]
	if h == nil && r.Method == http.MethodHead {
		h = p.methods[http.MethodGet]
	}
	if h == nil {
		h = p.refused
	}
	return h.Serve(ctx, r, w)
}

// param finds the pattern with {id} that r's path is of.
func (m *Mux) param(r *infer.Request) *path {
	// A model's name may hold slashes; it is all that follows the pattern.
	for i := 1; i < len(r.Path); i++ {
		if r.Path[i-1] != '/' {
			continue
		}
		p := m.params[r.Path[:i]]
		if p == nil {
			continue
		}
		id, err := url.PathUnescape(r.Path[i:])
		if err != nil || id == "" {
			return nil
		}
		r.Param = id
		return p
	}
	return nil
}

// allow lists p's methods as an Allow field has them.
func (p *path) allow() string {
	var ms []string
	for m := range p.methods {
		ms = append(ms, m)
		if m == http.MethodGet {
			ms = append(ms, http.MethodHead)
		}
	}
	slices.Sort(ms)
	return strings.Join(slices.Compact(ms), ", ")
}

func unknownURL(_ context.Context, r *infer.Request, _ *infer.Reply) error {
	return &infer.Error{Status: http.StatusNotFound, Code: "unknown_url", Msg: invalidURL(r)}
}

func methodNotAllowed(allow string) infer.Handler {
	return infer.HandlerFunc(func(_ context.Context, r *infer.Request, _ *infer.Reply) error {
		return &infer.Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Allow: allow, Msg: invalidURL(r)}
	})
}

func invalidURL(r *infer.Request) string {
	path := r.Path
	if len(path) > 256 {
		path = strings.ToValidUTF8(path[:256], "") + "…"
	}
	return fmt.Sprintf("Invalid URL (%s %s)", r.Method, path)
}
