// Package access is the outermost gate: it sees whatever happens to a request.
//
// It gives the request its id, counts it, writes its line to the log, and
// turns a panic into an answer, or into a connection that is cut where an
// answer had begun.
package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"sluice/internal/infer"
)

const (
	headerID     = "x-request-id"
	headerClaude = "request-id" // where Anthropic's SDKs look for the id
	headerWorker = "x-smg-routed-worker-id"
	headerCode   = "x-smg-error-code"
)

// Gate returns the gate. It sets the Request's ID, and its Received if nobody
// has. A nil m counts nothing; a nil now is time.Now.
//
// An error that passes it is logged and counted here, with the status that it
// will be answered with.
func Gate(cfg Config, log *slog.Logger, m *Metrics, now func() time.Time) infer.Gate {
	if m == nil {
		m = &Metrics{}
	}
	if now == nil {
		now = time.Now
	}
	g := &gate{cfg: cfg, log: log, metrics: m, now: now}
	return func(next infer.Handler) infer.Handler {
		return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			return g.serve(ctx, r, w, next)
		})
	}
}

// gate is constant, but for the metrics.
type gate struct {
	cfg     Config
	log     *slog.Logger
	metrics *Metrics
	now     func() time.Time
}

func (g *gate) serve(ctx context.Context, r *infer.Request, w *infer.Reply, next infer.Handler) (err error) {
	if r.Received.IsZero() {
		r.Received = g.now()
	}
	r.ID = requestID(r, g.cfg.IDHeaders)
	wire := &wire{id: r.ID, reply: w, showWorker: g.cfg.ShowWorker, claude: r.Endpoint.Dialect() == infer.Anthropic}
	w.Wrap(func(inner infer.Wire) infer.Wire {
		wire.Wire = inner
		return wire
	})
	w.Header().Set(headerID, r.ID)
	cm := g.metrics.bind(r.Method, r.Route)
	cm.requests.Inc()
	g.metrics.Active.Inc()

	defer func() {
		p := recover()
		abort := p == http.ErrAbortHandler
		if abort {
			err = errAborted
		} else if p != nil {
			err = g.panicked(ctx, p, r)
			abort = w.Committed()
		}
		g.metrics.Active.Dec()
		took := g.now().Sub(r.Received)
		cm.duration.Observe(took.Seconds())
		res := outcome(ctx, w, wire, err)
		g.metrics.response(cm, r.Route, res).Inc()
		g.write(ctx, r, w, wire, line{result: res, took: took, err: err})
		if abort {
			panic(http.ErrAbortHandler) // what was sent must not look whole
		}
	}()
	return next.Serve(ctx, r, w)
}

// errAborted is what a handler says that wants the connection cut.
var errAborted = &infer.Error{Status: http.StatusInternalServerError, Code: "connection_aborted", Msg: "The gateway ended the connection."}

// panicked logs a panic and returns what the client is told of it.
func (g *gate) panicked(ctx context.Context, p any, r *infer.Request) error {
	g.log.ErrorContext(ctx, "handler panicked", "id", r.ID, "method", cut(r.Method), "path", cut(r.Path),
		"panic", cut(fmt.Sprint(p)), "stack", string(debug.Stack()))
	return &infer.Error{Status: http.StatusInternalServerError, Code: "internal_error", Msg: "The gateway failed.", Err: errPanic}
}

var errPanic = errors.New("handler panicked")

// outcome says how a request ended.
func outcome(ctx context.Context, w *infer.Reply, wire *wire, err error) result {
	switch {
	case err != nil && (wire.failed || errors.Is(context.Cause(ctx), context.Canceled)):
		return result{infer.StatusClientGone, "client_closed_request"}
	case err != nil && w.Committed():
		return result{w.Status(), "stream_error"}
	case err != nil:
		e := infer.AsError(err)
		if e.Answer != nil {
			return result{e.Answer.Status, e.Code}
		}
		return result{e.Status, e.Code}
	case !w.Committed(): // an empty answer
		return result{http.StatusOK, ""}
	case w.Status() >= 400:
		return result{w.Status(), codeOf(w.Header())}
	}
	return result{w.Status(), ""}
}

// codeOf returns the error code that an answer names, "" if it is not one. The
// header may be a worker's.
func codeOf(h *infer.Header) string {
	v := h.Get(headerCode)
	if len(v) > 64 {
		return ""
	}
	for _, c := range v {
		if c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return ""
		}
	}
	return string(v)
}

// wire counts what is sent, and has the last word on the headers that are this
// gate's: a worker's header of the same name would be relayed otherwise.
type wire struct {
	infer.Wire
	id         string
	reply      *infer.Reply
	showWorker bool
	claude     bool // the client speaks Anthropic's API

	sent   int64 // bytes of the body
	failed bool  // the client did not take what was sent
}

// WriteHeader implements infer.Wire.
func (w *wire) WriteHeader(status int) {
	h := w.Header()
	h.Set(headerID, w.id)
	if w.claude {
		h.Set(headerClaude, w.id)
	}
	if worker := w.reply.Served.Worker; w.showWorker && worker != "" {
		h.Set(headerWorker, worker)
	} else {
		h.Del(headerWorker)
	}
	w.Wire.WriteHeader(status)
}

// Write implements infer.Wire.
func (w *wire) Write(b []byte) (int, error) {
	n, err := w.Wire.Write(b)
	w.sent += int64(n)
	w.failed = w.failed || err != nil
	return n, err
}

// Flush implements infer.Wire.
func (w *wire) Flush() error {
	err := w.Wire.Flush()
	w.failed = w.failed || err != nil
	return err
}
