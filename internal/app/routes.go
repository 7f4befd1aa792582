package app

import (
	"net/http"
	"net/http/pprof"
	"slices"

	"sluice/internal/admin"
	"sluice/internal/gate/access"
	"sluice/internal/gate/auth"
	"sluice/internal/gate/cors"
	"sluice/internal/gate/span"
	"sluice/internal/infer"
	"sluice/internal/kit/metric"
	"sluice/internal/route"
	"sluice/internal/server"
)

// classes says who may make which call; what is not here is for clients that
// have the key.
var classes = map[string]auth.Class{
	"":                 auth.Public, // no such path
	"/health":          auth.Public,
	"/liveness":        auth.Public,
	"/readiness":       auth.Public,
	"/health_generate": auth.Public,
	"/v1/models":       auth.Public,
	"/v1/models/{id}":  auth.Public,
	"/get_model_info":  auth.Public,
	"/get_server_info": auth.Control, // an engine's whole command line, addresses included
	"/engine_metrics":  auth.Control, // shows workers' addresses
	"/get_loads":       auth.Control,
	"/flush_cache":     auth.Control,
	"/routes/recent":   auth.Control,
	"/workers":         auth.Control,
	"/workers/{id}":    auth.Control,
	"/wasm":            auth.Control, // what is registered there sees every request
	"/wasm/{id}":       auth.Control,
}

// muxes are every call of the API behind its gates, and those that the health
// port answers.
func (a *App) muxes(router *route.Router, adm *admin.Admin) (api, health *server.Mux) {
	am := new(access.Metrics)
	metric.Fill(a.metrics, am)
	modules, asked := a.hook()
	work := infer.Chain(router,
		server.Body(a.cfg.Server.MaxBody, a.cfg.Server.StreamAbove, router.Blind, router.TakesText, asked),
		modules, // they may change the body here, and repair it
		// From here on a request has a model, or all models are one.
		server.Sound,
	)
	routes := []server.Route{
		{Method: "POST", Pattern: "/v1/chat/completions", Endpoint: infer.Chat, Handler: work},
		{Method: "POST", Pattern: "/v1/completions", Endpoint: infer.Completions, Handler: work},
		{Method: "POST", Pattern: "/v1/responses", Endpoint: infer.Responses, Handler: work},
		{Method: "POST", Pattern: "/v1/messages", Endpoint: infer.Messages, Handler: work},
		{Method: "POST", Pattern: "/v1/messages/count_tokens", Endpoint: infer.CountTokens, Handler: work},
		{Method: "POST", Pattern: "/v1/embeddings", Endpoint: infer.Embeddings, Handler: work},
		{Method: "POST", Pattern: "/v1/classify", Endpoint: infer.Classify, Handler: work},
		{Method: "POST", Pattern: "/v1/rerank", Endpoint: infer.Rerank, Handler: work},
		{Method: "POST", Pattern: "/rerank", Endpoint: infer.Rerank, Handler: work},
		{Method: "POST", Pattern: "/generate", Endpoint: infer.Generate, Handler: work},
		{Method: "GET", Pattern: "/v1/realtime", Endpoint: infer.Realtime, Handler: infer.Chain(router, server.WebSocket(a.pages()), modules)},
	}
	for _, c := range adm.Calls() {
		h := c.Handler
		if c.Body {
			h = infer.Chain(h, server.JSON(adm.MaxBody()))
		}
		routes = append(routes, server.Route{Method: c.Method, Pattern: c.Pattern, Handler: h})
	}
	gates := a.gates(am)
	probes := slices.DeleteFunc(slices.Clone(routes), func(r server.Route) bool { return !healthPaths[r.Pattern] })
	return server.NewMux(routes, gates...), server.NewMux(probes, gates...)
}

// pages says of which origins web pages may open a WebSocket. Where a key is
// needed they may be of any; cookies or addresses, which pages borrow, open
// nothing then.
func (a *App) pages() func(origin []byte) bool {
	if a.cfg.Auth.Keyed() {
		return nil
	}
	return cors.Allows(a.cfg.CORS)
}

// healthPaths are what the health port answers.
var healthPaths = map[string]bool{"/liveness": true, "/readiness": true, "/health": true}

// gates are what every call passes, the first outermost.
func (a *App) gates(am *access.Metrics) []infer.Gate {
	gates := []infer.Gate{access.Gate(a.cfg.Access, access.Options{ // outermost: it sees whatever happens
		Log: a.log, Lines: a.lines, Metrics: am, Refuse: server.Refuse,
	})}
	if a.tracer != nil {
		gates = append(gates, span.Gate(a.tracer)) // a refused request has a span too
	}
	return append(gates,
		cors.Gate(a.cfg.CORS), // before authentication: a preflight carries no key
		auth.Gate(a.cfg.Auth, func(r *infer.Request) auth.Class { // before the body: a stranger's is not read
			c, ok := classes[r.Route]
			if !ok {
				return auth.Data
			}
			return c
		}),
	)
}

// observe answers /metrics, and /debug/pprof/ if profiles is set. The command
// line is not among the profiles, because keys stand in it.
func observe(m *metric.Registry, profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	if profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}
