// Package span is the gate that makes a request part of a trace: of the
// client's, if it names one, or of a new one.
//
// The worker is told the gateway's span as its parent, because the gate
// replaces the trace headers of the request, and those are passed on.
package span

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/trace"
)

const (
	headerParent = "traceparent"
	headerState  = "tracestate"
	headerCode   = "x-smg-error-code"
)

// Gate returns the gate. It stands inside access, which gives a request its id,
// and outside whatever may refuse one.
//
// Calls for inference and those that change workers have spans; probes and
// metrics have none. A span holds what a request was and what became of it,
// and nothing of headers, queries and bodies but the model's name.
func Gate(t *trace.Tracer) infer.Gate {
	return func(next infer.Handler) infer.Handler {
		return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			if !traced(r) {
				return next.Serve(ctx, r, w)
			}
			return serve(ctx, t, r, w, next)
		})
	}
}

// traced reports whether r has a span. All that are traced have a route, so
// that there are only so many names.
func traced(r *infer.Request) bool {
	return r.Endpoint != infer.Local || r.Route == "/workers" || strings.HasPrefix(r.Route, "/workers/")
}

func serve(ctx context.Context, t *trace.Tracer, r *infer.Request, w *infer.Reply, next infer.Handler) (err error) {
	start := r.Received
	if start.IsZero() {
		start = time.Now()
	}
	method, name := known(r.Method)
	s := t.Start(parent(&r.Header), name+" "+r.Route, start)
	forward(&r.Header, s.Context())
	if !s.Recording() {
		return next.Serve(ctx, r, w)
	}
	panicked := true // unless next returns
	defer func() {
		o := outcome{http.StatusInternalServerError, "internal_error", "internal_error"}
		if !panicked {
			o = outcomeOf(ctx, w, err)
		} else if w.Committed() {
			o.status = w.Status()
		}
		describe(s, method, r, w, o)
		s.End(start.Add(time.Since(start)))
	}()
	err = next.Serve(ctx, r, w)
	panicked = false
	return err
}

// parent reads what the client says of its span. More than one traceparent is
// none: nobody knows which is true.
func parent(h *infer.Header) trace.Context {
	var parents int
	var p string
	for v := range h.Values(headerParent) {
		p = string(v)
		parents++
	}
	if parents != 1 {
		return trace.Context{}
	}
	var states []string
	for v := range h.Values(headerState) {
		states = append(states, string(v))
	}
	return trace.Parse(p, strings.Join(states, ","))
}

// forward replaces the client's trace headers by those of c.
func forward(h *infer.Header, c trace.Context) {
	h.Set(headerParent, c.Traceparent())
	if state := c.Tracestate(); state != "" {
		h.Set(headerState, state)
	} else {
		h.Del(headerState)
	}
}

// An outcome is how a request ended.
type outcome struct {
	status int
	code   string // what went wrong, "" if nothing did
	failed string // why, if it was not the client's doing
}

// outcomeOf says how a request ended whose handler returned err, in the words
// of the access log.
func outcomeOf(ctx context.Context, w *infer.Reply, err error) outcome {
	if err == nil {
		status := w.Status()
		if !w.Committed() { // an empty answer
			status = http.StatusOK
		}
		if status < 400 {
			return outcome{status: status}
		}
		return failure(status, codeOf(w.Header(), status))
	}
	e := infer.AsError(err)
	switch {
	case e.Status == infer.StatusClientGone || errors.Is(context.Cause(ctx), context.Canceled):
		return outcome{status: infer.StatusClientGone, code: "client_closed_request"}
	case w.Committed():
		return outcome{w.Status(), "stream_error", e.Code}
	case e.Answer != nil:
		return failure(e.Answer.Status, e.Code)
	}
	return failure(e.Status, e.Code)
}

// failure is an answer with an error status.
func failure(status int, code string) outcome {
	o := outcome{status: status, code: code}
	if status >= 500 {
		o.failed = code
	}
	return o
}

// codeOf returns the error code that an answer names, or its status. The header
// may be a worker's.
func codeOf(h *infer.Header, status int) string {
	v := h.Get(headerCode)
	for _, c := range v {
		if c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			v = nil
			break
		}
	}
	if len(v) == 0 || len(v) > 64 {
		return strconv.Itoa(status)
	}
	return string(v)
}

// describe writes what is known of a request at its end. The names are those of
// OpenTelemetry's semantic conventions 1.41 where it has one.
func describe(s *trace.Span, method string, r *infer.Request, w *infer.Reply, o outcome) {
	var room [24]trace.Attr
	attrs := append(room[:0],
		trace.String("http.request.method", method),
		trace.String("http.route", r.Route),
		trace.Int("http.response.status_code", int64(o.status)),
		trace.String("url.path", r.Path),
		trace.String("client.address", address(r.Remote)),
		trace.String("sluice.request_id", r.ID),
	)
	if r.Endpoint != infer.Local {
		attrs = inference(attrs, r, w)
	}
	if o.code != "" {
		attrs = append(attrs, trace.String("error.type", o.code))
	}
	s.Set(attrs...)
	if o.failed != "" {
		s.Fail(o.failed)
	}
}

// inference adds what only calls of workers have.
func inference(attrs []trace.Attr, r *infer.Request, w *infer.Reply) []trace.Attr {
	served := &w.Served
	attrs = append(attrs,
		trace.String("gen_ai.operation.name", operation(r.Endpoint)),
		trace.Bool("sluice.stream", r.Stream),
		trace.Int("sluice.tries", int64(served.Tries)),
	)
	if r.Model != "" {
		attrs = append(attrs, trace.String("gen_ai.request.model", r.Model))
	}
	if u, err := url.Parse(served.Worker); err == nil && u.Host != "" {
		attrs = append(attrs, trace.String("server.address", u.Hostname()))
		if port, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
			attrs = append(attrs, trace.Int("server.port", int64(port)))
		}
	}
	if n := served.Tokens.Input; n > 0 {
		attrs = append(attrs, trace.Int("gen_ai.usage.input_tokens", n))
	}
	if n := served.Tokens.Cached; n > 0 {
		attrs = append(attrs, trace.Int("gen_ai.usage.cache_read.input_tokens", n))
	}
	if n := served.Tokens.Output; n > 0 {
		attrs = append(attrs, trace.Int("gen_ai.usage.output_tokens", n))
	}
	if r.Stream && served.FirstByte > 0 {
		attrs = append(attrs, trace.Seconds("gen_ai.response.time_to_first_chunk", served.FirstByte))
	}
	return attrs
}

// operation is what the conventions call e, or its own name where they have
// none.
func operation(e infer.Endpoint) string {
	switch e {
	case infer.Chat, infer.Responses, infer.Messages:
		return "chat"
	case infer.Completions, infer.Generate:
		return "text_completion"
	}
	return e.Label()
}

// known returns a method as an attribute and in a span's name, where one that
// HTTP does not have is not repeated.
func known(method string) (attr, name string) {
	switch method {
	case "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "CONNECT", "TRACE":
		return method, method
	}
	return "_OTHER", "HTTP"
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().WithZone("").String()
}
