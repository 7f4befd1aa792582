package mock

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// versions is what each engine says it is: those whose answers we looked at.
var versions = map[string]string{SGLang: "0.5.23", VLLM: "0.32.0", LlamaCPP: "b6000"}

// An information is an answer about the engine.
type information struct {
	methods []string
	engines []string // that have it, nil for all
	answer  func(*Engine, http.ResponseWriter, *http.Request)
}

var (
	get       = []string{http.MethodGet}
	post      = []string{http.MethodPost}
	getOrPost = []string{http.MethodGet, http.MethodPost}

	onSGLang = []string{SGLang}
	onVLLM   = []string{VLLM}
	onLlama  = []string{LlamaCPP}
	onServer = []string{SGLang, VLLM}
)

// informations differ between engines as they do in life: gateways tell
// engines apart by what they do not have.
var informations = map[string]information{
	"/v1/models":          {get, nil, (*Engine).listModels},
	"/health":             {get, nil, (*Engine).sayHealth},
	"/health_generate":    {get, onSGLang, (*Engine).sayHealth},
	"/ping":               {getOrPost, onServer, (*Engine).sayHealth},
	"/version":            {get, onVLLM, (*Engine).sayVersion},
	"/get_model_info":     {get, onSGLang, (*Engine).modelInfo},
	"/model_info":         {get, onSGLang, (*Engine).modelInfo},
	"/get_server_info":    {get, onSGLang, (*Engine).serverInfo},
	"/server_info":        {get, onSGLang, (*Engine).serverInfo},
	"/v1/loads":           {get, onSGLang, (*Engine).loads},
	"/get_load":           {get, onSGLang, (*Engine).getLoad},
	"/props":              {get, onLlama, (*Engine).props},
	"/metrics":            {get, nil, (*Engine).metrics},
	"/flush_cache":        {getOrPost, onSGLang, (*Engine).flushCache},
	"/reset_prefix_cache": {post, onVLLM, (*Engine).flushCache},
	"/abort_request":      {post, onSGLang, (*Engine).abort},
	"/start_profile":      {getOrPost, onServer, (*Engine).startProfile},
	"/stop_profile":       {getOrPost, onServer, (*Engine).stopProfile},
}

// inform answers what is not inference.
func (e *Engine) inform(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if name, ok := strings.CutPrefix(path, "/v1/models/"); ok && name != "" {
		if r.Method != http.MethodGet {
			e.wrongMethod(w, get...)
			return
		}
		e.oneModel(w, name)
		return
	}
	in, ok := informations[path]
	switch {
	case !ok || in.engines != nil && !slices.Contains(in.engines, e.cfg.Engine):
		e.notFound(w)
	case !slices.Contains(in.methods, r.Method) && !(r.Method == http.MethodHead && in.methods[0] == http.MethodGet):
		e.wrongMethod(w, in.methods...)
	default:
		in.answer(e, w, r)
	}
}

// sendJSON answers with v.
func sendJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: an answer that is not JSON: " + err.Error())
	}
	send(w, status, typeJSON, string(b))
}

func send(w http.ResponseWriter, status int, contentType []string, body string) {
	w.Header()["Content-Type"] = contentType
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) // a client that left misses nothing
}

type object = map[string]any

// refuse answers with the engine's, or Anthropic's, shape of an error.
func (e *Engine) refuse(w http.ResponseWriter, anthropic bool, f *refusal) {
	// A body that was not read is not waited for.
	if f.status == http.StatusRequestEntityTooLarge {
		w.Header().Set("Connection", "close")
	}
	var param, code any
	if f.param != "" {
		param = f.param
	}
	switch {
	case anthropic:
		sendJSON(w, f.status, object{"type": "error", "error": object{"type": anthropicType(f.status), "message": f.msg}})
	case e.cfg.Engine == SGLang:
		sendJSON(w, f.status, object{"object": "error", "message": f.msg, "type": errorType(f.status), "param": param, "code": f.status})
	case e.cfg.Engine == VLLM:
		sendJSON(w, f.status, object{"error": object{"message": f.msg, "type": errorType(f.status), "param": param, "code": f.status}})
	default:
		code = f.status
		kind := "invalid_request_error"
		if f.code == "context_length_exceeded" {
			kind = "exceed_context_size_error"
		} else if f.status >= 500 {
			kind = "server_error"
		}
		sendJSON(w, f.status, object{"error": object{"code": code, "message": f.msg, "type": kind}})
	}
}

func anthropicType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusServiceUnavailable, 529:
		return "overloaded_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}

func errorType(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "BadRequestError"
	case http.StatusUnauthorized:
		return "AuthenticationError"
	case http.StatusNotFound:
		return "NotFoundError"
	case http.StatusTooManyRequests:
		return "RateLimitError"
	case http.StatusServiceUnavailable:
		return "ServiceUnavailableError"
	}
	if status >= 500 {
		return "InternalServerError"
	}
	return strings.ReplaceAll(http.StatusText(status), " ", "") + "Error"
}

func (e *Engine) unauthorized(w http.ResponseWriter) {
	if e.cfg.Engine == LlamaCPP {
		sendJSON(w, http.StatusUnauthorized, object{"error": object{"code": 401, "message": "Invalid API Key", "type": "authentication_error"}})
		return
	}
	sendJSON(w, http.StatusUnauthorized, object{"error": "Unauthorized"})
}

func (e *Engine) notFound(w http.ResponseWriter) {
	if e.cfg.Engine == LlamaCPP {
		sendJSON(w, http.StatusNotFound, object{"error": object{"code": 404, "message": "File Not Found", "type": "not_found_error"}})
		return
	}
	sendJSON(w, http.StatusNotFound, object{"detail": "Not Found"})
}

func (e *Engine) wrongMethod(w http.ResponseWriter, allow ...string) {
	w.Header().Set("Allow", strings.Join(allow, ", "))
	sendJSON(w, http.StatusMethodNotAllowed, object{"detail": "Method Not Allowed"})
}

func (e *Engine) loading(w http.ResponseWriter) {
	if e.cfg.Engine == LlamaCPP {
		sendJSON(w, http.StatusServiceUnavailable, object{"error": object{"code": 503, "message": "Loading model", "type": "unavailable_error"}})
		return
	}
	send(w, http.StatusServiceUnavailable, typePlain, "")
}

func (e *Engine) model(id string) object {
	m := object{"id": id, "object": "model", "created": e.made.Unix(), "owned_by": e.cfg.Engine, "root": id, "parent": nil, "max_model_len": e.cfg.ContextLength}
	if e.cfg.Engine == LlamaCPP {
		m = object{"id": id, "object": "model", "created": e.made.Unix(), "owned_by": LlamaCPP, "meta": object{"n_ctx_train": e.cfg.ContextLength, "n_vocab": 1 << 17}}
	}
	return m
}

func (e *Engine) listModels(w http.ResponseWriter, _ *http.Request) {
	var list []object
	for _, m := range *e.models.Load() {
		list = append(list, e.model(m))
	}
	sendJSON(w, http.StatusOK, object{"object": "list", "data": list})
}

func (e *Engine) oneModel(w http.ResponseWriter, id string) {
	if !slices.Contains(*e.models.Load(), id) {
		e.refuse(w, false, &refusal{status: http.StatusNotFound, param: "model", msg: "The model `" + id + "` does not exist."})
		return
	}
	sendJSON(w, http.StatusOK, e.model(id))
}

// A healthAnswer replaces good health.
type healthAnswer struct {
	Status int       `json:"status"`
	Flap   string    `json:"flap,omitempty"` // how long it is well, then unwell, and so on
	Since  time.Time `json:"since"`

	flap time.Duration
}

// now is the status at t.
func (h *healthAnswer) now(t time.Time) int {
	if h == nil || h.flap > 0 && t.Sub(h.Since)/h.flap%2 == 0 {
		return http.StatusOK
	}
	return h.Status
}

func (e *Engine) sayHealth(w http.ResponseWriter, _ *http.Request) {
	switch status := e.health.Load().now(time.Now()); {
	case status != http.StatusOK:
		send(w, status, typePlain, "")
	case e.cfg.Engine == LlamaCPP:
		sendJSON(w, status, object{"status": "ok"})
	default:
		send(w, status, typePlain, "")
	}
}

func (e *Engine) sayVersion(w http.ResponseWriter, _ *http.Request) {
	sendJSON(w, http.StatusOK, object{"version": versions[e.cfg.Engine]})
}

func (e *Engine) modelInfo(w http.ResponseWriter, _ *http.Request) {
	m := (*e.models.Load())[0]
	sendJSON(w, http.StatusOK, object{
		"model_path": m, "tokenizer_path": m, "is_generation": true, "preferred_sampling_params": nil,
		"weight_version": "default", "has_image_understanding": false, "has_audio_understanding": false, "model_type": "mock",
	})
}

func (e *Engine) serverInfo(w http.ResponseWriter, _ *http.Request) {
	m := (*e.models.Load())[0]
	sendJSON(w, http.StatusOK, object{
		"model_path": m, "tokenizer_path": m, "served_model_name": m, "tp_size": 1, "dp_size": 1, "pp_size": 1,
		"context_length": e.cfg.ContextLength, "max_total_num_tokens": e.cfg.KVTokens, "max_running_requests": e.cfg.MaxRunning,
		"max_queued_requests": e.cfg.QueueLimit, "page_size": e.cfg.BlockSize, "chunked_prefill_size": e.cfg.PrefillChunk,
		"disaggregation_mode": "null", "is_embedding": false, "status": "ready", "version": versions[e.cfg.Engine],
		"uptime_seconds": time.Since(e.made).Seconds(),
	})
}

func (e *Engine) loads(w http.ResponseWriter, _ *http.Request) {
	l := e.sched.Load().load()
	rank := object{
		"dp_rank": 0, "num_running_reqs": l.Running, "num_waiting_reqs": l.Waiting, "num_waiting_uncached_tokens": l.WaitingTokens,
		"num_total_reqs": l.Running + l.Waiting, "num_used_tokens": l.UsedTokens, "max_total_num_tokens": l.TotalTokens,
		"token_usage": l.usage(), "gen_throughput": l.Throughput, "cache_hit_rate": l.hitRate(),
		"utilization": float64(l.Running) / float64(e.cfg.MaxRunning), "max_running_requests": e.cfg.MaxRunning,
	}
	sendJSON(w, http.StatusOK, object{
		"timestamp": time.Now().UTC().Format(time.RFC3339Nano), "version": versions[e.cfg.Engine], "dp_rank_count": 1, "loads": []object{rank},
		"aggregate": object{
			"total_running_reqs": l.Running, "total_waiting_reqs": l.Waiting, "total_reqs": l.Running + l.Waiting,
			"avg_token_usage": l.usage(), "avg_throughput": l.Throughput, "avg_utilization": rank["utilization"],
		},
	})
}

func (e *Engine) getLoad(w http.ResponseWriter, _ *http.Request) {
	l := e.sched.Load().load()
	sendJSON(w, http.StatusOK, []object{{"dp_rank": 0, "num_reqs": l.Running + l.Waiting, "num_waiting_reqs": l.Waiting, "num_tokens": l.UsedTokens}})
}

func (e *Engine) props(w http.ResponseWriter, _ *http.Request) {
	sendJSON(w, http.StatusOK, object{
		"default_generation_settings": object{"n_ctx": e.cfg.ContextLength}, "total_slots": e.cfg.MaxRunning,
		"model_path": (*e.models.Load())[0], "model_alias": (*e.models.Load())[0], "build_info": versions[LlamaCPP],
	})
}

func (e *Engine) flushCache(w http.ResponseWriter, _ *http.Request) {
	e.sched.Load().flush()
	if e.cfg.Engine == SGLang {
		send(w, http.StatusOK, typePlain, "Cache flushed.\nPlease check backend logs for more details. (When there are running or waiting requests, the operation will not be performed.)\n")
		return
	}
	send(w, http.StatusOK, typePlain, "")
}

func (e *Engine) startProfile(w http.ResponseWriter, _ *http.Request) {
	send(w, http.StatusOK, typePlain, "Start profiling.\n")
}

func (e *Engine) stopProfile(w http.ResponseWriter, _ *http.Request) {
	send(w, http.StatusOK, typePlain, "Stop profiling. This will take some time.\n")
}

// metrics answers in Prometheus' text format, with each engine's own names.
func (e *Engine) metrics(w http.ResponseWriter, _ *http.Request) {
	l, seen := e.sched.Load().load(), e.Seen()
	var b strings.Builder
	label := fmt.Sprintf("{model_name=%q}", (*e.models.Load())[0])
	add := func(kind, name, help string, v float64) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n%s%s %g\n", name, help, name, kind, name, label, v)
	}
	switch e.cfg.Engine {
	case SGLang:
		add("gauge", "sglang:num_running_reqs", "The number of running requests.", float64(l.Running))
		add("gauge", "sglang:num_queue_reqs", "The number of requests in the waiting queue.", float64(l.Waiting))
		add("gauge", "sglang:num_used_tokens", "The number of used tokens.", float64(l.UsedTokens))
		add("gauge", "sglang:max_total_num_tokens", "The number of tokens that the KV cache holds.", float64(l.TotalTokens))
		add("gauge", "sglang:token_usage", "The token usage.", l.usage())
		add("gauge", "sglang:cache_hit_rate", "The prefix cache hit rate.", l.hitRate())
		add("gauge", "sglang:gen_throughput", "The generation throughput (token/s).", l.Throughput)
		add("counter", "sglang:prompt_tokens_total", "Number of prefill tokens processed.", float64(l.PromptTokens))
		add("counter", "sglang:cached_tokens_total", "Number of cached prompt tokens.", float64(l.CachedTokens))
		add("counter", "sglang:generation_tokens_total", "Number of generation tokens processed.", float64(l.OutputTokens))
		add("counter", "sglang:num_requests_total", "Number of requests processed.", float64(seen.Served))
		add("counter", "sglang:num_aborted_requests_total", "Number of requests aborted.", float64(seen.Cancelled))
	case VLLM:
		add("gauge", "vllm:num_requests_running", "Number of requests in model execution batches.", float64(l.Running))
		add("gauge", "vllm:num_requests_waiting", "Number of requests waiting to be processed.", float64(l.Waiting))
		add("gauge", "vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", l.usage())
		add("counter", "vllm:prefix_cache_queries_total", "Prefix cache queries, in tokens.", float64(l.PromptTokens))
		add("counter", "vllm:prefix_cache_hits_total", "Prefix cache hits, in tokens.", float64(l.CachedTokens))
		add("counter", "vllm:prompt_tokens_total", "Number of prefill tokens processed.", float64(l.PromptTokens))
		add("counter", "vllm:generation_tokens_total", "Number of generation tokens processed.", float64(l.OutputTokens))
		add("counter", "vllm:request_success_total", "Count of successfully processed requests.", float64(seen.Served))
	default:
		label = ""
		add("gauge", "llamacpp:requests_processing", "Number of requests processing.", float64(l.Running))
		add("gauge", "llamacpp:requests_deferred", "Number of requests deferred.", float64(l.Waiting))
		add("gauge", "llamacpp:kv_cache_usage_ratio", "KV-cache usage. 1 means 100 percent usage.", l.usage())
		add("gauge", "llamacpp:predicted_tokens_seconds", "Average generation throughput in tokens/s.", l.Throughput)
		add("counter", "llamacpp:prompt_tokens_total", "Number of prompt tokens processed.", float64(l.PromptTokens))
		add("counter", "llamacpp:tokens_predicted_total", "Number of generation tokens processed.", float64(l.OutputTokens))
	}
	send(w, http.StatusOK, typeMetrics, b.String())
}

var typeMetrics = []string{"text/plain; version=0.0.4; charset=utf-8"}
