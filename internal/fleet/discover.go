package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds what a worker may answer to a question of ours.
const maxAnswer = 1 << 20

// newClient returns a client that follows no redirect: a worker must not send
// the gateway, and the worker's key, elsewhere.
func newClient(rt http.RoundTripper) *http.Client {
	if rt == nil {
		rt = &http.Transport{
			DialContext:         Dialer((&net.Dialer{Timeout: 10 * time.Second}).DialContext),
			TLSHandshakeTimeout: 10 * time.Second,
			// A connection for each check: that the worker still accepts some
			// is what is asked, and idle ones would cost two goroutines each.
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	return &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// errAbsent says that the worker does not know the path.
var errAbsent = errors.New("the worker has no such endpoint")

// get asks w for path. A status other than 2xx is an error, errAbsent if it
// says that there is nothing; an answer of more than limit bytes is one too.
func (r *Registry) get(ctx context.Context, w *Worker, path string, timeout time.Duration, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := w.Request(ctx, http.MethodGet, path)
	if err != nil {
		return nil, fmt.Errorf("asking worker %s for %s: %w", w.base, path, err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "sluice")
	if a := w.Authorization(); a != "" {
		req.Header.Set("Authorization", a)
	}
	res, err := r.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking worker: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusMethodNotAllowed, res.StatusCode == http.StatusNotImplemented:
		return nil, fmt.Errorf("asking worker %s for %s: status %d: %w", w.base, path, res.StatusCode, errAbsent)
	case res.StatusCode < 200 || res.StatusCode > 299:
		return nil, fmt.Errorf("asking worker %s for %s: status %d, want 200", w.base, path, res.StatusCode)
	case err != nil:
		return nil, fmt.Errorf("reading worker %s's answer to %s: %w", w.base, path, err)
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("reading worker %s's answer to %s: over %d bytes", w.base, path, limit)
	}
	return body, nil
}

// ask is a health check. Any 2xx answer passes; its body is of no interest.
func (r *Registry) ask(ctx context.Context, w *Worker, path string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := w.Request(ctx, http.MethodGet, path)
	if err != nil {
		return fmt.Errorf("checking worker %s: %w", w.base, err)
	}
	req.Header.Set("User-Agent", "sluice")
	if a := w.Authorization(); a != "" {
		req.Header.Set("Authorization", a)
	}
	res, err := r.client.Do(req)
	if err != nil {
		return fmt.Errorf("checking worker: %w", err)
	}
	// Read a little, so that a well-behaved connection ends well.
	_, _ = io.CopyN(io.Discard, res.Body, 4<<10)
	res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("checking worker %s at %s: status %d, want 2xx", w.base, path, res.StatusCode)
	}
	return nil
}

// found is what a worker said of itself, checked and bounded.
type found struct {
	models     []ModelCard
	runtime    string // "" if it did not show
	labels     map[string]string
	maxRunning int
	kvTokens   int
	context    int       // tokens, 0 if unknown
	ranks      int       // data-parallel ranks behind its URL, 0 if unknown
	start      string    // differs between two processes, "" if unknown
	began      time.Time // about when its process began, zero if unknown
}

// discover asks w what it serves and what it is. Endpoints that w does not
// have, and those beside /v1/models that answer nonsense, are passed over.
func (r *Registry) discover(ctx context.Context, w *Worker, timeout time.Duration) (*found, error) {
	f := &found{labels: make(map[string]string)}
	var hung error // of a question that was not answered in time; no other is asked
	ask := func(paths ...string) answer {
		for _, p := range paths {
			if hung != nil {
				return nil
			}
			b, err := r.get(ctx, w, p, timeout, maxAnswer)
			if err != nil {
				r.log.Debug("discovery question not answered", "worker", w.base, "path", p, "err", err)
				if errors.Is(err, context.DeadlineExceeded) {
					hung = err
				}
				continue
			}
			if a := readAnswer(b); a != nil {
				return a
			}
		}
		return nil
	}
	b, err := r.get(ctx, w, "/v1/models", timeout, maxAnswer)
	switch {
	case errors.Is(err, errAbsent):
	case err != nil:
		return nil, err
	default:
		if err := f.readModels(b); err != nil {
			return nil, fmt.Errorf("reading worker %s's answer to /v1/models: %w", w.base, err)
		}
	}
	if f.runtime == "" || f.runtime == "vllm" {
		if v := ask("/version").text("version"); v != "" {
			f.runtime = "vllm"
			f.label("version", v)
		}
	}
	if f.runtime == "" || f.runtime == "sglang" {
		f.readServer(ask("/server_info", "/get_server_info"))
		f.readModel(ask("/model_info", "/get_model_info"))
	}
	if f.runtime == "" || f.runtime == "llamacpp" {
		f.readProps(ask("/props"))
	}
	f.finish()
	if err := cmp.Or(ctx.Err(), hung); err != nil && len(f.models) == 0 {
		return nil, err
	}
	return f, nil
}

// rediscover returns old with the models that w lists now, unless its spec names
// them, and the start that it tells. It is an error if
// it lists none: it served some, and must not begin to take requests for any.
func (r *Registry) rediscover(ctx context.Context, w *Worker, old *found, named bool, timeout time.Duration) (*found, error) {
	f := *old
	if old.tellsStart() {
		if err := r.startOf(ctx, w, &f, timeout); err != nil {
			return nil, err
		}
	}
	if named {
		return &f, nil
	}
	b, err := r.get(ctx, w, "/v1/models", timeout, maxAnswer)
	if err != nil {
		return nil, err
	}
	f.models, f.labels = nil, maps.Clone(old.labels)
	err = f.readModels(b)
	if err == nil && len(f.models) == 0 {
		err = errors.New("it lists none")
	}
	if err != nil {
		return nil, fmt.Errorf("reading worker %s's answer to /v1/models: %w", w.base, err)
	}
	f.finish()
	return &f, nil
}

// readModels reads an answer to /v1/models.
func (f *found) readModels(b []byte) error {
	var list struct {
		Data []struct {
			ID          string   `json:"id"`
			OwnedBy     string   `json:"owned_by"`
			MaxModelLen float64  `json:"max_model_len"`
			Aliases     []string `json:"aliases"`
		} `json:"data"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("not a list of models: %w", err)
	}
	if len(list.Data) > maxModels {
		return fmt.Errorf("%d models; want at most %d", len(list.Data), maxModels)
	}
	for _, m := range list.Data {
		if !goodName(m.ID) {
			return fmt.Errorf("a model's name is %q; want 1 to %d bytes of UTF-8 without control characters", printable(m.ID), maxName)
		}
		if f.serves(m.ID) {
			continue
		}
		card := ModelCard{ID: m.ID, ContextLength: count(m.MaxModelLen)}
		for _, a := range m.Aliases {
			if goodName(a) && a != m.ID && len(card.Aliases) < maxModels {
				card.Aliases = append(card.Aliases, a)
			}
		}
		f.models = append(f.models, card)
		f.context = max(f.context, card.ContextLength)
		switch strings.ToLower(m.OwnedBy) {
		case "sglang", "vllm", "llamacpp":
			f.runtime = strings.ToLower(m.OwnedBy)
		}
	}
	return nil
}

// readServer reads SGLang's /server_info.
func (f *found) readServer(a answer) {
	if a == nil {
		return
	}
	for _, k := range []string{"served_model_name", "version", "tp_size", "dp_size", "max_running_requests", "model_path", "tokenizer_path"} {
		f.label(k, a.text(k))
	}
	if a.text("version") != "" || a.text("served_model_name") != "" {
		f.runtime = "sglang"
	}
	// SGLang draws its seed when it starts, unless it was given one.
	if seed := a.text("random_seed"); len(seed) <= maxValue {
		f.start = seed
	}
	if up := a.number("uptime_seconds"); up > 0 && up < maxSecs {
		f.began = time.Now().Add(-time.Duration(up * float64(time.Second)))
	}
	f.maxRunning = a.count("max_running_requests")
	f.kvTokens = a.count("max_total_num_tokens")
	f.ranks = a.count("dp_size")
	f.context = max(f.context, a.count("context_length"), a.count("max_model_len"))
	if states := a.list("internal_states"); len(states) > 0 {
		f.maxRunning = max(f.maxRunning, states[0].count("effective_max_running_requests_per_dp"))
		f.kvTokens = max(f.kvTokens, states[0].count("max_total_num_tokens"))
	}
}

// readModel reads SGLang's /model_info.
func (f *found) readModel(a answer) {
	if a == nil {
		return
	}
	for _, k := range []string{"model_path", "tokenizer_path", "is_generation", "preferred_sampling_params", "weight_version", "model_type"} {
		f.label(k, a.text(k))
	}
	if a.text("model_path") != "" {
		f.runtime = "sglang"
	}
}

// readProps reads llama.cpp's /props.
func (f *found) readProps(a answer) {
	if a == nil || a["default_generation_settings"] == nil {
		return
	}
	f.runtime = "llamacpp"
	f.label("version", a.text("build_info"))
	f.label("model_path", a.text("model_path"))
	f.maxRunning = a.count("total_slots")
	f.context = max(f.context, a.object("default_generation_settings").count("n_ctx"))
}

// label keeps a label if it can be shown.
func (f *found) label(k, v string) {
	if v != "" && len(v) <= maxValue && printable(v) == v {
		f.labels[k] = v
	}
}

// finish gives the models what was said of the worker as a whole. A worker
// that lists no model but names itself has one.
func (f *found) finish() {
	if f.context > 0 {
		f.labels["max_model_len"] = strconv.Itoa(f.context)
	}
	if f.maxRunning > 0 {
		f.labels["max_running_requests"] = strconv.Itoa(f.maxRunning)
	}
	served := f.labels["served_model_name"]
	if !goodName(served) {
		served = ""
	}
	if len(f.models) == 0 {
		for _, name := range []string{served, f.labels["model_path"]} {
			if goodName(name) {
				f.models = []ModelCard{{ID: name}}
				break
			}
		}
	}
	if len(f.models) > 0 && served != "" && !f.serves(served) {
		f.models[0].Aliases = append(f.models[0].Aliases, served)
	}
}

// modelType says what w's models can do as far as it showed.
func (f *found) modelType() []string {
	if f.labels["is_generation"] == "false" {
		return embedding
	}
	return generation
}

// serves reports whether name is a model or an alias.
func (f *found) serves(name string) bool {
	for _, m := range f.models {
		if m.ID == name {
			return true
		}
		for _, a := range m.Aliases {
			if a == name {
				return true
			}
		}
	}
	return false
}

// What a model can do, in the contract's words. Never written to.
var (
	generation = []string{"chat", "completions", "responses", "tools"}
	embedding  = []string{"embeddings"}
)

// An answer is a JSON object of which nothing is believed. Its methods return
// zero values for what is missing or of another type; a nil answer has nothing.
type answer map[string]json.RawMessage

// readAnswer returns nil if b is not an object.
func readAnswer(b []byte) answer {
	var a answer
	if json.Unmarshal(b, &a) != nil {
		return nil
	}
	return a
}

// text returns a string, number or boolean as text.
func (a answer) text(key string) string {
	raw := a[key]
	if len(raw) == 0 {
		return ""
	}
	switch c := raw[0]; {
	case c == '"':
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return ""
		}
		return s
	case c == '-' || c >= '0' && c <= '9' || c == 't' || c == 'f':
		return string(raw)
	}
	return ""
}

// count returns a number as a count.
func (a answer) count(key string) int { return count(a.number(key)) }

func (a answer) number(key string) float64 {
	var n float64
	if json.Unmarshal(a[key], &n) != nil {
		return 0
	}
	return n
}

func (a answer) object(key string) answer { return readAnswer(a[key]) }

func (a answer) list(key string) []answer {
	var l []answer
	if json.Unmarshal(a[key], &l) != nil {
		return nil
	}
	return l
}

// count returns n as a count: 0 if it is none, bounded so that sums of many
// stay numbers.
func count(n float64) int {
	if !(n > 0) {
		return 0
	}
	return int(min(n, 1<<40))
}
