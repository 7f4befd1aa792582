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
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/linelog"
)

const (
	headerID     = "x-request-id"
	headerClaude = "request-id" // where Anthropic's SDKs look for the id
	headerWorker = "x-smg-routed-worker-id"
	headerCode   = "x-smg-error-code"
)

// Options is what the gate works with.
type Options struct {
	Log     *slog.Logger     // for what went wrong in the gateway itself
	Lines   *linelog.Log     // for a line a request; nil for none
	Metrics *Metrics         // nil counts nothing
	Now     func() time.Time // nil is the system's clock

	// Refuse answers a request with the error of its handler. It returns nil
	// if the client has the whole answer, else what the front end is to be
	// told. If it is nil itself, errors are returned for others to answer.
	Refuse func(r *infer.Request, w *infer.Reply, err error) error
}

// Gate returns the gate. It sets the Request's ID, and its Received if nobody
// has.
//
// An error that comes here is answered, logged and counted. What is returned is
// nil if the client has a whole answer. It panics with http.ErrAbortHandler if
// a handler has, or if one panicked when its answer had begun.
func Gate(cfg Config, opt Options) infer.Gate {
	g := &gate{cfg: cfg, Options: opt}
	if g.Metrics == nil {
		g.Metrics = &Metrics{}
	}
	g.Lines.OnDrop(func(lines int) { g.Metrics.Dropped.Add(float64(lines)) })
	return func(next infer.Handler) infer.Handler {
		return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			return g.serve(ctx, r, w, next)
		})
	}
}

// gate is constant, but for the metrics.
type gate struct {
	cfg Config
	Options
}

func (g *gate) serve(ctx context.Context, r *infer.Request, w *infer.Reply, next infer.Handler) (err error) {
	if r.Received.IsZero() {
		r.Received = g.now()
	}
	r.ID = requestID(r, g.cfg.IDHeaders)
	wire := wires.Get().(*wire)
	wire.id, wire.reply, wire.showWorker, wire.claude = r.ID, w, g.cfg.ShowWorker, r.Endpoint.Dialect() == infer.Anthropic
	wire.bare = r.Method == http.MethodHead
	w.Wrap(func(inner infer.Wire) infer.Wire {
		wire.Wire = inner
		wire.splicer, _ = inner.(infer.Splicer)
		return wire
	})
	w.Header().Set(headerID, r.ID)
	cm := g.Metrics.bind(r.Method, r.Route)
	cm.requests.Inc()
	g.Metrics.Active.Inc()
	defer g.end(ctx, r, w, wire, cm, &err)
	return next.Serve(ctx, r, w)
}

func (g *gate) now() time.Time {
	if g.Now == nil {
		return time.Now()
	}
	return g.Now()
}

// since is how long ago t was. The system's clock for durations costs half of
// what asking for the time does.
func (g *gate) since(t time.Time) time.Duration {
	if g.Now == nil {
		return time.Since(t)
	}
	return g.Now().Sub(t)
}

// end is deferred: it sees a panic, answers what went wrong, and says how the
// request ended. err is what the handler returned, and then what the gate does.
func (g *gate) end(ctx context.Context, r *infer.Request, w *infer.Reply, wire *wire, cm *callMetrics, err *error) {
	p := recover()
	abort := p == http.ErrAbortHandler
	if abort {
		*err = errAborted
	} else if p != nil {
		*err = g.panicked(ctx, p, r)
		abort = w.Committed()
	}
	failure := *err
	res := outcome(ctx, w, wire, failure)
	answered := failure == nil
	switch {
	case failure == nil:
		w.Commit(http.StatusOK) // of an empty answer
	case !abort && g.Refuse != nil:
		res, *err = g.refuse(r, w, wire, res, failure)
		answered = true // or given up
	}
	g.Metrics.Active.Dec()
	took := g.since(r.Received)
	cm.duration.Observe(took.Seconds())
	g.Metrics.response(cm, r.Route, res).Inc()
	g.write(r, w, wire, line{result: res, took: took, err: failure})
	if abort {
		panic(http.ErrAbortHandler) // what was sent must not look whole
	}
	if answered {
		wire.free()
	}
}

// refuse answers with err. It returns what became of the request, which was
// about to end as res says, and what the front end is told.
func (g *gate) refuse(r *infer.Request, w *infer.Reply, wire *wire, res result, err error) (result, error) {
	begun, failed := w.Committed(), wire.failed
	err = g.Refuse(r, w, err)
	switch {
	case res == clientGone:
	case wire.failed && !failed:
		res = clientGone
	case !begun && w.Committed():
		res.status = w.Status()
	}
	return res, err
}

// errAborted is what a handler says that wants the connection cut.
var errAborted = &infer.Error{Status: http.StatusInternalServerError, Code: "connection_aborted", Msg: "The gateway ended the connection."}

// panicked logs a panic and returns what the client is told of it.
func (g *gate) panicked(ctx context.Context, p any, r *infer.Request) error {
	g.Log.ErrorContext(ctx, "handler panicked", "id", r.ID, "method", cut(r.Method), "path", cut(r.Path),
		"panic", cut(fmt.Sprint(p)), "stack", string(debug.Stack()))
	return &infer.Error{Status: http.StatusInternalServerError, Code: "internal_error", Msg: "The gateway failed.", Err: errPanic}
}

var errPanic = errors.New("handler panicked")

// clientGone is how a request ends whose client does not wait for the answer.
var clientGone = result{infer.StatusClientGone, "client_closed_request"}

// outcome says how a request ended.
func outcome(ctx context.Context, w *infer.Reply, wire *wire, err error) result {
	switch {
	case err != nil && (wire.failed || errors.Is(context.Cause(ctx), context.Canceled)):
		return clientGone
	case err != nil && w.Status() == http.StatusSwitchingProtocols:
		return result{w.Status(), infer.AsError(err).Code} // a tunnel is no stream: its end is said by who ended it
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
	splicer    infer.Splicer // Wire as one, nil if it is none
	id         string
	reply      *infer.Reply
	showWorker bool
	claude     bool // the client speaks Anthropic's API
	bare       bool // the answer has no body, whatever is written

	sent   int64 // bytes of the body
	failed bool  // the client did not take what was sent
}

var wires = sync.Pool{New: func() any { return new(wire) }}

// free gives w back, whose Reply writes past it from then on.
func (w *wire) free() {
	inner := w.Wire
	w.reply.Wrap(func(infer.Wire) infer.Wire { return inner })
	*w = wire{}
	wires.Put(w)
}

// WriteHeader implements infer.Wire.
func (w *wire) WriteHeader(status int) {
	w.say()
	w.bare = w.bare || status == http.StatusNoContent || status == http.StatusNotModified
	w.Wire.WriteHeader(status)
}

// Tunnels implements infer.Tunneler.
func (w *wire) Tunnels() bool {
	t, ok := w.Wire.(infer.Tunneler)
	return ok && t.Tunnels()
}

// Tunnel implements infer.Tunneler.
func (w *wire) Tunnel() (nc net.Conn, early []byte, err error) {
	w.say()
	nc, early, err = w.Wire.(infer.Tunneler).Tunnel()
	w.failed = w.failed || err != nil
	return nc, early, err
}

// say sets the headers that are this gate's.
func (w *wire) say() {
	h := w.Header()
	h.Set(headerID, w.id)
	if w.claude {
		h.Set(headerClaude, w.id)
	}
	if worker := w.reply.Served.Worker; w.showWorker && worker != "" {
		h.Set(headerWorker, worker)
	} else if h.Has(headerWorker) {
		h.Del(headerWorker)
	}
}

// Write implements infer.Wire.
func (w *wire) Write(b []byte) (int, error) {
	n, err := w.Wire.Write(b)
	if !w.bare {
		w.sent += int64(n)
	}
	w.failed = w.failed || err != nil
	return n, err
}

// Flush implements infer.Wire.
func (w *wire) Flush() error {
	err := w.Wire.Flush()
	w.failed = w.failed || err != nil
	return err
}

// Splices implements infer.Splicer.
func (w *wire) Splices() bool { return w.splicer != nil && w.splicer.Splices() }

// Splice implements infer.Splicer.
func (w *wire) Splice(framed []byte, n int) error {
	if err := w.splicer.Splice(framed, n); err != nil {
		w.failed = true
		return err
	}
	w.sent += int64(n)
	return nil
}
