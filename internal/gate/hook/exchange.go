package hook

import (
	"net/http"
	"strconv"
	"strings"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// wants reports whether m is to be called at a hook in this request.
func (v *visit) wants(m *wasm.Attached, h wasm.Hook) bool {
	return m.Wants(v.path, v.model) && (!m.Module.Whole() || m.Module.Wants(h, v.call(m)))
}

// answer answers the request as a module has it: with a status, and of one that
// writes answers with a header and a body.
func (v *visit) answer(w *infer.Reply) error {
	a, h := &v.action, w.Header()
	for i := range a.Answer {
		a.Answer[i].Apply(h)
	}
	if a.Status == http.StatusNoContent || a.Status == http.StatusNotModified {
		w.Commit(a.Status)
		return nil
	}
	h.Set("Content-Length", strconv.Itoa(len(a.Body)))
	w.Commit(a.Status)
	if len(a.Body) == 0 {
		return nil
	}
	_, err := w.Write(a.Body)
	return err
}

// early makes the changes of the answer's header that a module has made before
// there is an answer. What a body is belongs to whoever writes it.
func (v *visit) early(h *infer.Header) {
	for i := range v.action.Answer {
		e := &v.action.Answer[i]
		if !strings.EqualFold(e.Name, "content-type") && !strings.EqualFold(e.Name, "content-encoding") {
			e.Apply(h)
		}
	}
	v.begin = append(v.begin, v.action.Begin...)
}

// called is the method and the path that the action makes of a request's, and
// its query.
func (v *visit) called(r *infer.Request) (method, path, query string) {
	method, path, query = r.Method, r.Path, r.Query
	if v.action.Method != "" {
		method = v.action.Method
	}
	if v.action.URI != "" {
		path, query, _ = strings.Cut(v.action.URI, "?")
	}
	return method, path, query
}

// checkCall holds that a call that the action makes of r's is one that workers
// have.
func (v *visit) checkCall(r *infer.Request) error {
	if v.action.Kind != wasm.Modify || v.o.Endpoint == nil {
		return nil
	}
	method, path, _ := v.called(r)
	if method == r.Method && path == r.Path {
		return nil
	}
	if _, ok := v.o.Endpoint(method, path); !ok {
		return badAction("the call %.16s %.100q, which no worker is asked", method, path)
	}
	return nil
}

// redirect makes r the call that the action has, and reports whether it is of
// another kind now, so that it has to be looked at anew.
func (v *visit) redirect(r *infer.Request) bool {
	if v.action.Method == "" && v.action.URI == "" {
		return false
	}
	method, path, query := v.called(r)
	r.Method, r.Path, r.Query = strings.Clone(method), strings.Clone(path), strings.Clone(query)
	if v.o.Endpoint == nil {
		return false
	}
	e, ok := v.o.Endpoint(r.Method, r.Path)
	changed := ok && e != r.Endpoint
	if changed {
		r.Endpoint = e
	}
	return changed
}

// buffers reports whether a module wants to have the answer as a whole, although
// it streams.
func (v *visit) buffers() bool {
	for _, m := range v.set.By[wasm.OnResponse] {
		if m.Module.Whole() && v.wants(m, wasm.OnResponse) {
			return true
		}
	}
	return false
}
