// Package admin answers what is asked of the gateway itself and of its fleet:
// health, models, the workers' API, and questions that are passed on to
// workers.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/route"
	"sluice/internal/wasm"
)

// Options is what an Admin asks and changes.
type Options struct {
	Fleet     *fleet.Registry
	Models    func() []string                                              // the names that requests may use now, sorted
	Routed    func() *fleet.Snapshot                                       // the workers that requests are routed among; nil for the Fleet's
	Recent    func(n int, match func(*route.Receipt) bool) []route.Receipt // the last decisions that match, newest first
	Kept      int                                                          // how many decisions are remembered; 0 for none
	Own       func(name string) string                                     // what workers call the model that requests call so; nil for the same
	Modules   *wasm.Registry                                               // nil without --enable-wasm
	Transport http.RoundTripper
	Draining  func() bool // the gateway is stopping
	Version   string      // as GET /get_loads says it
}

// An Admin is the handlers of the operator's API.
type Admin struct {
	fleet    *fleet.Registry
	models   func() []string
	routed   func() *fleet.Snapshot
	recent   func(n int, match func(*route.Receipt) bool) []route.Receipt
	kept     int
	own      func(name string) string
	modules  *wasm.Registry // nil without --enable-wasm
	client   *http.Client
	draining func() bool
	version  string
}

// New returns an Admin. It starts nothing.
func New(o Options) *Admin {
	if o.Routed == nil {
		o.Routed = o.Fleet.Snapshot
	}
	if o.Own == nil {
		o.Own = func(name string) string { return name }
	}
	return &Admin{
		fleet: o.Fleet, models: o.Models, recent: o.Recent, kept: o.Kept, own: o.Own, routed: o.Routed, modules: o.Modules, draining: o.Draining, version: o.Version,
		client: &http.Client{Transport: o.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

// A Call is one call that an Admin answers.
type Call struct {
	Method  string
	Pattern string // a path; {id} stands for its last segment
	Body    bool   // the call has a JSON body
	Handler infer.Handler
}

// maxBody bounds a body of the operator's API.
const maxBody = 1 << 20

// MaxBody is the largest body that a Call with Body takes.
func (a *Admin) MaxBody() int64 { return maxBody }

// Calls returns everything that a answers.
func (a *Admin) Calls() []Call {
	f := func(h infer.HandlerFunc) infer.Handler { return h }
	return append(a.wasmCalls(), []Call{
		{"GET", "/health", false, f(alive)},
		{"GET", "/liveness", false, f(alive)},
		{"GET", "/readiness", false, f(a.readiness)},
		{"GET", "/v1/models", false, f(a.listModels)},
		{"GET", "/v1/models/{id}", false, f(a.getModel)},
		{"GET", "/health_generate", false, a.ask("/health_generate")},
		{"GET", "/get_model_info", false, a.ask("/get_model_info", "/model_info")},
		{"GET", "/get_server_info", false, a.ask("/get_server_info", "/server_info")},
		{"GET", "/engine_metrics", false, f(a.engineMetrics)},
		{"GET", "/get_loads", false, f(a.loads)},
		{"POST", "/flush_cache", false, f(a.flushCache)},
		{"GET", "/routes/recent", false, f(a.listReceipts)},
		{"GET", "/workers", false, f(a.listWorkers)},
		{"POST", "/workers", true, f(a.addWorker)},
		{"GET", "/workers/{id}", false, f(a.getWorker)},
		{"PUT", "/workers/{id}", true, f(a.replaceWorker)},
		{"PATCH", "/workers/{id}", true, f(a.updateWorker)},
		{"DELETE", "/workers/{id}", false, f(a.removeWorker)},
	}...)
}

// alive says that the process runs; what it can serve is readiness's to say.
func alive(_ context.Context, _ *infer.Request, w *infer.Reply) error {
	return w.Send(http.StatusOK, "text/plain; charset=utf-8", []byte("OK"))
}

func (a *Admin) readiness(_ context.Context, _ *infer.Request, w *infer.Reply) error {
	if a.draining() {
		return sendJSON(w, http.StatusServiceUnavailable, notReady{"not ready", "draining"})
	}
	now, healthy := time.Now(), 0
	snap := a.routed() // not the fleet's: a table may be a moment behind it
	for _, wk := range snap.Ready {
		if wk.Available(now) {
			healthy++
		}
	}
	if healthy == 0 {
		return sendJSON(w, http.StatusServiceUnavailable, notReady{"not ready", "insufficient healthy workers"})
	}
	return sendJSON(w, http.StatusOK, struct {
		Status  string `json:"status"`
		Healthy int    `json:"healthy_workers"`
		Total   int    `json:"total_workers"`
	}{"ready", healthy, len(snap.All)})
}

type notReady struct {
	Status string `json:"status"`
	Reason string `json:"reason"`
}

type modelEntry struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (a *Admin) listModels(_ context.Context, _ *infer.Request, w *infer.Reply) error {
	names := a.models()
	if len(names) == 0 {
		return &infer.Error{Status: http.StatusServiceUnavailable, Code: "no_models_available", Msg: "No models available.", RetryAfter: 2 * time.Second}
	}
	list := struct {
		Object string       `json:"object"`
		Data   []modelEntry `json:"data"`
	}{Object: "list"}
	for _, n := range names {
		list.Data = append(list.Data, modelEntry{n, "model", 0, "self_hosted"})
	}
	return sendJSON(w, http.StatusOK, list)
}

func (a *Admin) getModel(_ context.Context, r *infer.Request, w *infer.Reply) error {
	for _, n := range a.models() {
		if n == r.Param {
			return sendJSON(w, http.StatusOK, modelEntry{n, "model", 0, "self_hosted"})
		}
	}
	return &infer.Error{Status: http.StatusNotFound, Code: "model_not_found", Msg: fmt.Sprintf("No worker available for model '%.128s'", r.Param)}
}

// sendJSON answers with v.
func sendJSON(w *infer.Reply, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	return w.Send(status, "application/json", b)
}
