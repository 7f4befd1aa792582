package hook

import (
	"net/http"
	"strconv"
	"strings"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// answer answers the request as a module has it: with a status, and of one that
// writes answers with a header and a body.
func (v *visit) answer() error {
	w := v.client
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
		if !strings.EqualFold(e.Name, "content-type") && !strings.EqualFold(e.Name, "content-encoding") && !opensSocket(e.Name) {
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
	if v.action.Kind != wasm.Modify || v.g.Endpoint == nil {
		return nil
	}
	method, path, _ := v.called(r)
	if method == r.Method && path == r.Path {
		return nil
	}
	if _, ok := v.g.Endpoint(method, path); !ok {
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
	if v.g.Endpoint == nil {
		return false
	}
	e, ok := v.g.Endpoint(r.Method, r.Path)
	changed := ok && e != r.Endpoint
	if changed {
		r.Endpoint = e
	}
	return changed
}

// buffers reports whether a module wants to have the answer as a whole, although
// it streams.
func (v *visit) buffers() bool {
	for i := range v.calls {
		if c := &v.calls[i]; c.of.Module.Whole() && c.wants(wasm.OnResponse) {
			return true
		}
	}
	return false
}
