// Package hook lets operators' WebAssembly modules look at requests and
// answers, change them, or refuse them.
//
// It is the only place that turns a request into what a guest sees and a
// guest's action into what happens.
package hook

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/infer"
	"sluice/internal/wasm"
)

// Options is what a Gate needs.
type Options struct {
	Modules *wasm.Registry

	// Look finds anew what routing needs in a request that was changed, and
	// returns why no worker could answer it. LookHeader is the same for one of
	// which only the header was; nil is that any header will do.
	Look, LookHeader func(*infer.Request) error

	// Endpoint finds which call of the API a method and a path are; a module
	// that changes them may turn a request into no other. Nil is that every call
	// stays what it is.
	Endpoint func(method, path string) (infer.Endpoint, bool)

	// Own is what a model is called by those that serve it, if a name is another
	// one of it: modules for either are for its requests. Nil is that models have
	// one name.
	Own func(model string) string

	// Timeout is how long a request may take in all, its modules included; 0 for
	// as long as they like.
	Timeout time.Duration

	Log     *slog.Logger
	Metrics *Metrics

	// Saw is told of each call once it is over; nil for nobody.
	Saw func(m *wasm.Attached, h wasm.Hook, action string, took time.Duration, err error)
}

// Gate returns the gate that calls the modules. It stands after authentication,
// and where bodies have been read. A request that no module is for pays for one
// look at a list. A request's Fault is for next to refuse, if the modules leave
// it.
func Gate(o Options) infer.Gate {
	pass, _ := New(o)
	return pass
}

// New returns the Gate, and what says whether a module is for a request as it is
// now.
func New(o Options) (pass infer.Gate, asked func(*infer.Request) bool) {
	g := &gate{Options: o}
	o.Modules.Watch(g.renew)
	o.Metrics.watch(o.Modules)
	return func(next infer.Handler) infer.Handler {
		return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			if !g.asked(r) {
				return next.Serve(ctx, r, w)
			}
			return g.serve(ctx, next, r, w)
		})
	}, g.asked
}

// asked reports whether any module is for r.
func (g *gate) asked(r *infer.Request) bool {
	for _, m := range *g.modules.Load() {
		if g.isFor(m, r) {
			return true
		}
	}
	return false
}

type gate struct {
	Options
	modules atomic.Pointer[[]*module] // that are enabled, in order; replaced as a whole
}

// A module is one in its place, with all that a call of it needs.
type module struct {
	*wasm.Attached
	at    [wasm.NumHooks]bool // it is called at
	most  int64               // bytes of the largest body that it is given
	count [wasm.NumHooks]counters
	quiet *quiet
}

// isFor reports whether m is for r as it is now. A request that names no model,
// or whose body was left with the client, may be for each: leaving the name out
// leads past no module.
func (g *gate) isFor(m *module, r *infer.Request) bool {
	switch {
	case m.Wants(r.Path, r.Model, r.Tenant):
		return true
	case len(m.Models) == 0 || !m.WantsSome(r.Path, r.Tenant):
		return false
	case r.Model == "":
		return true
	case g.Own == nil:
		return false
	}
	own := g.Own(r.Model)
	return own != r.Model && m.Wants(r.Path, own, r.Tenant)
}

// renew takes over the modules that there are now. The Registry calls it, one
// call at a time.
func (g *gate) renew(set *wasm.Set) {
	var before []*module
	if p := g.modules.Load(); p != nil {
		before = *p
	}
	var now []*module
	for _, a := range set.All {
		if a.Disabled {
			continue
		}
		m := &module{Attached: a, most: a.MaxBody, quiet: new(quiet)}
		if m.most <= 0 {
			m.most = wasm.DefaultMaxBody
		}
		for h := range wasm.NumHooks {
			if m.at[h] = a.Attaches(h); m.at[h] {
				m.count[h] = g.Metrics.bind(a.Name, h)
			}
		}
		for _, old := range before {
			if old.ID == a.ID {
				m.quiet = old.quiet
			}
		}
		now = append(now, m)
	}
	g.modules.Store(&now)
	g.Metrics.forget(before, set)
}

// A visit is one request's way past the modules, until all has been told to them.
// It is used again.
type visit struct {
	g        *gate
	ctx      context.Context
	client   *infer.Reply // the way back
	inner    infer.Reply  // what stands before it while an answer is looked at
	id       string       // of the request
	received time.Time
	until    time.Time // when its time is up; zero for never

	err     error // what came of the request
	failure wasm.Failure
	failed  bool         // failure is to be told
	summary wasm.Summary // its status is 0 if the client's Reply will know
	after   after

	req    wasm.Request
	resp   wasm.Response
	action wasm.Action
	chunk  wasm.ChunkAction
	all    []*module // that there were when the request came
	calls  []call    // of those that are for the request, in order
	begin  []byte    // what the answer's body is to begin with
	wire   wire
	room   []byte
	fields []infer.Field // of a header that is being changed, as they were
}

// A call is what one module knows of the request.
type call struct {
	wasm.Call
	of    *module
	place int  // among all
	deaf  bool // an event has waited for it for as long as a call may take, and it is shown no further one
}

// wants reports whether the module is to be called at a hook now.
func (c *call) wants(h wasm.Hook) bool {
	return c.of.at[h] && (!c.of.Module.Whole() || c.of.Module.Wants(h, &c.Call))
}

var visits = sync.Pool{New: func() any { return new(visit) }}

func (g *gate) serve(ctx context.Context, next infer.Handler, r *infer.Request, w *infer.Reply) error {
	v := visits.Get().(*visit)
	v.g, v.ctx, v.client, v.id, v.received = g, ctx, w, r.ID, r.Received
	if g.Timeout > 0 && !v.received.IsZero() {
		v.until = v.received.Add(g.Timeout)
	}
	v.err = errPanic // unless pass returns
	defer v.over()
	v.err = v.pass(next, r)
	return v.err
}

// errPanic is what came of a request whose handler has panicked; whoever stands
// before the gate answers it.
var errPanic = errors.New("the handler of the request has panicked")

// over notes how the request has ended, be it well, with an error, or in the
// middle of its answer. The modules are told once the client has all of the
// answer: it does not wait for what they do then.
func (v *visit) over() {
	v.sum()
	v.req, v.resp = wasm.Request{}, wasm.Response{}
	if v.failed = v.failed && v.wanted(wasm.OnError); !v.failed && !v.wanted(wasm.OnEnd) {
		v.end()
		return
	}
	if !v.client.After(v) { // nobody will say when that is
		v.Finish()
	}
}

// sum notes what the modules will be told, while it is known what the client has
// been sent and what it will be.
func (v *visit) sum() {
	v.failed, v.summary = false, wasm.Summary{}
	if v.err == nil {
		return
	}
	if e := v.said(v.err); e != nil {
		v.summary.Status, v.summary.Header = e.Answer.Status, &e.Answer.Header
		return
	}
	e := v.reason(v.err)
	v.failure = wasm.Failure{Status: e.Status, Code: e.Code, Message: e.Msg}
	if e.Answer != nil {
		v.failure.Status = e.Answer.Status
	}
	v.failed, v.summary.Failed = true, true
	if !v.client.Committed() {
		v.summary.Status = v.failure.Status
	}
}

// Finish implements infer.Finisher: it tells the modules of the error, if there
// was one, and of the end.
func (v *visit) Finish() {
	defer v.end()
	w, s := v.client, &v.summary
	s.Duration, s.Input, s.Output = time.Since(v.received), w.Served.Tokens.Input, w.Served.Tokens.Output
	if s.Status == 0 {
		s.Status = w.Status()
	}
	if s.Header == nil || s.Header.Len() == 0 || w.Committed() {
		s.Header = w.Header()
	}
	v.after = after{v.ctx}
	ctx := &v.after
	if v.failed {
		for i := range v.calls {
			if c := &v.calls[i]; c.wants(wasm.OnError) {
				begin := time.Now()
				c.Limit = 0 // nobody waits for it
				v.note(c, wasm.OnError, begin, 0, c.of.Module.OnError(ctx, &c.Call, &v.failure))
			}
		}
	}
	for i := range v.calls {
		if c := &v.calls[i]; c.wants(wasm.OnEnd) {
			begin := time.Now()
			c.Limit = 0
			v.note(c, wasm.OnEnd, begin, 0, c.of.Module.OnEnd(ctx, &c.Call, s))
		}
	}
}

// pass serves the request between the modules.
func (v *visit) pass(next infer.Handler, r *infer.Request) error {
	for {
		modules := *v.g.modules.Load()
		if r.Left() {
			most, err := v.read(r, modules)
			if err != nil {
				v.gather(r) // those that look at errors and ends are told, of a request that has perhaps no model
				return v.unread(most, err)
			}
		}
		if v.gather(r); !r.Left() || !v.wanted(wasm.OnRequest) {
			break
		}
		v.leave(0) // one that wants the body has come just now
	}
	if v.wanted(wasm.OnRequest) {
		done, err := v.request(r)
		if done || err != nil {
			return err
		}
	}
	if r.Endpoint == infer.Realtime { // what is said in a WebSocket is no answer
		for i := range v.calls {
			v.calls[i].Release() // it may last for hours
		}
		return next.Serve(v.ctx, r, v.client)
	}
	whole, pieces := v.wanted(wasm.OnResponse), v.wanted(wasm.OnChunk)
	if !whole && !pieces && len(v.begin) == 0 {
		return next.Serve(v.ctx, r, v.client)
	}
	v.wire.start(v, r.Method == http.MethodHead, whole, pieces)
	v.inner.Reset(&v.wire)
	err := next.Serve(v.ctx, r, &v.inner)
	v.client.Served = v.inner.Served
	return v.wire.finish(err)
}

// gather lets those modules take part in r that are for it. They stay to its
// end, whatever replaces or removes them meanwhile: a stream lasts for minutes,
// and what was begun with a module is not to go on without.
func (v *visit) gather(r *infer.Request) {
	for {
		gone := false
		v.all = *v.g.modules.Load()
		for i, m := range v.all {
			if v.g.isFor(m, r) && !v.join(m, i, r.Model) {
				gone = true
				break
			}
		}
		if !gone {
			return
		}
		v.leave(0) // there is a newer list
	}
}

// regather lets those modules behind that of the i-th call take part that are
// for what it has made of r, and no others. None of them has been called yet.
func (v *visit) regather(i int, r *infer.Request) {
	v.leave(i + 1)
	for at := v.calls[i].place + 1; at < len(v.all); at++ {
		for m := v.all[at]; m != nil && v.g.isFor(m, r) && !v.join(m, at, r.Model); {
			m = v.g.find(m) // it has been replaced since the request came, or removed
		}
	}
}

// find returns what there is in m's place now, nil for nothing.
func (g *gate) find(m *module) *module {
	for _, now := range *g.modules.Load() {
		if now.ID == m.ID {
			return now
		}
	}
	return nil
}

// leave lets the modules go that took part, from the n-th on.
func (v *visit) leave(n int) {
	for i := n; i < len(v.calls); i++ {
		c := &v.calls[i]
		c.Leave()
		if cap(c.State) > maxIdleState {
			c.State = nil
		}
		*c = call{Call: wasm.Call{State: c.State[:0], Out: wasm.Output{Text: c.Out.Text[:0]}}}
	}
	v.calls = v.calls[:n]
}

// join lets m, which stands at a place among all, take part in a request for a
// model. It reports false if m has been replaced or removed.
func (v *visit) join(m *module, place int, model string) bool {
	if len(v.calls) < cap(v.calls) {
		v.calls = v.calls[:len(v.calls)+1]
	} else {
		v.calls = append(v.calls, call{})
	}
	c := &v.calls[len(v.calls)-1]
	c.of, c.place, c.Model, c.State, c.Store = m, place, model, c.State[:0], m.Store
	c.Log, c.Name, c.ID, c.MaxBody = v.g.Log, m.Name, v.id, m.most
	if !c.Join(m.Module) {
		v.leave(len(v.calls) - 1)
		return false
	}
	return true
}

// wanted reports whether any module is to be called at h.
func (v *visit) wanted(h wasm.Hook) bool {
	for i := range v.calls {
		if v.calls[i].wants(h) {
			return true
		}
	}
	return false
}

// errLate is the error of a request whose time was up before its modules had done
// with it.
var errLate = &infer.Error{Status: http.StatusGatewayTimeout, Code: "call_upstream_timeout", Msg: "The time of the request was up before its modules had done with it."}

// within lets a call of c that begins now take no longer than the request may. It
// reports false if the request's time is up.
func (v *visit) within(c *call, begin time.Time) bool {
	if v.until.IsZero() {
		return true
	}
	c.Limit = v.until.Sub(begin)
	return c.Limit > 0
}

// late reports whether a call of c has failed because the request's time was up, or
// when it was: then it is not the module's failure that counts, and nothing goes on.
func (v *visit) late(c *call, err error) bool {
	if err == nil || v.until.IsZero() || v.ctx.Err() != nil {
		return false
	}
	kind := kinds[kindOf(err)]
	cut := (kind == "timeout" || kind == "busy") && c.Limit < c.of.Settings.Time // which may be a tick before
	if !cut && time.Now().Before(v.until) {
		return false
	}
	v.blame(c.of)
	return true
}

// reason is err as the modules are told it. One that nobody has named is of a
// client that has left, if it has.
func (v *visit) reason(err error) *infer.Error {
	if _, named := errors.AsType[*infer.Error](err); !named {
		if e := infer.Ended(v.ctx, err); e != nil {
			return e
		}
	}
	return infer.AsError(err)
}

// said is err if it is a worker's answer that goes to the client, whole and
// before anything else; nil if the gateway answers.
func (v *visit) said(err error) *infer.Error {
	if e, ok := errors.AsType[*infer.Error](err); ok && e.Answer != nil && e.Answer.Body != nil && !v.client.Committed() {
		return e
	}
	return nil
}

// after is the context of what is done when an answer has ended. It does not end
// with the request: the client may have left.
type after struct{ context.Context }

func (*after) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }
func (*after) Done() <-chan struct{}                   { return nil }
func (*after) Err() error                              { return nil }

// end makes v ready for another request.
func (v *visit) end() {
	if v.begin = v.begin[:0]; cap(v.begin) > longest {
		v.begin = nil
	}
	v.leave(0)
	v.all = nil
	v.action.Trim(longest)
	v.chunk.Trim(longest)
	v.req, v.resp = wasm.Request{}, wasm.Response{}
	v.wire.reset()
	v.inner = infer.Reply{}
	v.g, v.ctx, v.client, v.id, v.received, v.until = nil, nil, nil, "", time.Time{}, time.Time{}
	v.err, v.failure, v.failed, v.summary, v.after = nil, wasm.Failure{}, false, wasm.Summary{}, after{}
	visits.Put(v)
}

// maxIdleState is how much of a module's memory of a request is kept for the
// next.
const maxIdleState = 4 << 10

// note counts a call, and logs what came of it if that is worth a line. action is
// the place of what was answered among the hook's actions.
func (v *visit) note(c *call, h wasm.Hook, begin time.Time, action int, err error) {
	m, now := c.of, time.Now()
	took := now.Sub(begin)
	m.Counts.Count(now, took, err)
	m.count[h].called(took, action, err)
	if v.g.Saw != nil {
		v.g.Saw(m.Attached, h, actions[h][action], took, err)
	}
	if err != nil {
		kind := kindOf(err)
		if v.g.Modules.Find(m.ID) != nil { // else nobody would remove the series again
			v.g.Metrics.Errors.With(m.Name, h.String(), kinds[kind]).Inc()
		}
		if left, ok := m.quiet.may(h, kind, now); ok {
			v.g.Log.Warn("a module failed", "module", m.Name, "hook", h.String(), "request", v.id, "fail_closed", m.FailClosed, "err", err, "not_logged", left)
		}
	}
	if out := &c.Out; len(out.Text) > 0 || out.Lost > 0 {
		v.g.Log.Info("a module writes", "module", m.Name, "hook", h.String(), "request", v.id, "text", string(out.Text), "lost", out.Lost)
	}
}

// A quiet lets a module's failures of one kind, at one hook, be logged once a
// second: a thousand a second say no more than one.
type quiet [wasm.NumHooks][len(kinds)]struct {
	last atomic.Int64 // Unix seconds
	left atomic.Int64 // lines that were not written since
}

// may reports whether a line may be written at now, and how many were not.
func (q *quiet) may(h wasm.Hook, kind int, now time.Time) (left int64, ok bool) {
	k, s := &q[h][kind], now.Unix()
	if last := k.last.Load(); last == s || !k.last.CompareAndSwap(last, s) {
		k.left.Add(1)
		return 0, false
	}
	return k.left.Swap(0), true
}
