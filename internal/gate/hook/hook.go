// Package hook lets operators' WebAssembly modules look at requests and
// answers, change them, or refuse them.
//
// It is the only place that turns a request into what a guest sees and a
// guest's action into what happens.
package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
	"sluice/internal/wasm"
)

// Options is what a Gate needs.
type Options struct {
	Modules *wasm.Registry
	Look    func(*infer.Request) error // finds anew what routing needs in a body that was changed

	// Endpoint finds which call of the API a method and a path are; a module
	// that changes them may turn a request into no other. Nil is that every call
	// stays what it is.
	Endpoint func(method, path string) (infer.Endpoint, bool)
	Log      *slog.Logger
	Metrics  *Metrics

	// Saw is told of each call once it is over; nil for nobody.
	Saw func(m *wasm.Attached, h wasm.Hook, action string, took time.Duration, err error)
}

// DefaultMaxBody is the largest body that a module is given unless it says
// otherwise: the contract's.
const DefaultMaxBody = 10 << 20

// Gate returns the gate that calls the modules. It stands after authentication,
// and where bodies have been read. A request that no module is for pays for one
// look at a list.
func Gate(o Options) infer.Gate {
	return func(next infer.Handler) infer.Handler {
		return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
			set := o.Modules.Set()
			if len(set.All) == 0 {
				return next.Serve(ctx, r, w)
			}
			return o.serve(ctx, set, next, r, w)
		})
	}
}

// A visit is one request's way past the modules. It is used again.
type visit struct {
	o   *Options
	ctx context.Context
	set *wasm.Set

	path, model string
	req         wasm.Request
	resp        wasm.Response
	action      wasm.Action
	chunk       wasm.ChunkAction
	calls       []moduleCall // by module of the set
	begin       []byte       // what the answer's body is to begin with
	wire        wire
	room        []byte
}

// A moduleCall is what one module knows of the request.
type moduleCall struct {
	wasm.Call
	of *wasm.Attached
}

var visits = sync.Pool{New: func() any { return new(visit) }}

func (o *Options) serve(ctx context.Context, set *wasm.Set, next infer.Handler, r *infer.Request, w *infer.Reply) error {
	v := visits.Get().(*visit)
	defer v.end(w)
	v.o, v.ctx, v.set, v.path, v.model = o, ctx, set, r.Path, r.Model
	v.req.ID = r.ID
	err := v.pass(next, r, w)
	if err != nil && !w.Committed() && v.wanted(wasm.OnError) {
		v.failed(err)
	}
	if v.wanted(wasm.OnEnd) {
		v.ended(r, w, err)
	}
	return err
}

// pass serves the request between the modules.
func (v *visit) pass(next infer.Handler, r *infer.Request, w *infer.Reply) error {
	if v.wanted(wasm.OnRequest) {
		done, err := v.request(r, w)
		if done || err != nil {
			return err
		}
	}
	whole, pieces := v.wanted(wasm.OnResponse), v.wanted(wasm.OnChunk)
	if !whole && !pieces && len(v.begin) == 0 {
		return next.Serve(v.ctx, r, w)
	}
	v.wire.begin(v, r.Method == http.MethodHead, whole, pieces)
	w.Wrap(v.wrap)
	if err := next.Serve(v.ctx, r, w); err != nil {
		v.wire.abort()
		return err
	}
	return v.wire.finish()
}

// call returns what m knows of the request.
func (v *visit) call(m *wasm.Attached) *wasm.Call {
	for i := range v.calls {
		if v.calls[i].of == m {
			return &v.calls[i].Call
		}
	}
	if len(v.calls) < cap(v.calls) {
		v.calls = v.calls[:len(v.calls)+1]
	} else {
		v.calls = append(v.calls, moduleCall{})
	}
	c := &v.calls[len(v.calls)-1]
	c.of, c.Model, c.State, c.Store = m, v.model, c.State[:0], m.Store
	c.Log, c.Name = v.o.Log, m.Name
	return &c.Call
}

// failed tells the modules that the request gets an error.
func (v *visit) failed(err error) {
	e := infer.AsError(err)
	f := wasm.Failure{Status: e.Status, Code: e.Code, Message: e.Msg}
	for _, m := range v.set.By[wasm.OnError] {
		if v.wants(m, wasm.OnError) {
			begin := time.Now()
			v.note(m, wasm.OnError, begin, "continue", m.Module.OnError(v.ctx, v.call(m), &f))
		}
	}
}

// ended tells the modules that all has been sent.
func (v *visit) ended(r *infer.Request, w *infer.Reply, err error) {
	s := wasm.Summary{
		Status: w.Status(), Duration: time.Since(r.Received), Input: w.Served.Tokens.Input, Output: w.Served.Tokens.Output,
		Header: w.Header(), Failed: err != nil,
	}
	if err != nil && !w.Committed() {
		s.Status = infer.AsError(err).Status
	}
	ctx := context.WithoutCancel(v.ctx) // the client may have left
	for _, m := range v.set.By[wasm.OnEnd] {
		if v.wants(m, wasm.OnEnd) {
			begin := time.Now()
			v.note(m, wasm.OnEnd, begin, "continue", m.Module.OnEnd(ctx, v.call(m), &s))
		}
	}
}

func (v *visit) wrap(next infer.Wire) infer.Wire {
	v.wire.next = next
	return &v.wire
}

// end makes v ready for another request.
func (v *visit) end(w *infer.Reply) {
	if own := v.wire.next; own != nil {
		w.Wrap(func(infer.Wire) infer.Wire { return own }) // the Reply outlives v
	}
	v.begin = v.begin[:0]
	if cap(v.begin) > longest {
		v.begin = nil
	}
	v.o, v.ctx, v.set = nil, nil, nil
	for i := range v.calls {
		c := &v.calls[i]
		c.Release()
		if cap(c.State) > maxIdleState {
			c.State = nil
		}
		*c = moduleCall{Call: wasm.Call{State: c.State[:0], Out: wasm.Output{Text: c.Out.Text[:0]}}}
	}
	v.calls = v.calls[:0]
	v.req, v.resp = wasm.Request{}, wasm.Response{}
	v.wire.reset()
	visits.Put(v)
}

// maxIdleState is how much of a module's memory of a request is kept for the
// next.
const maxIdleState = 4 << 10

// wanted reports whether any module with hook h is for the request.
func (v *visit) wanted(h wasm.Hook) bool {
	for _, m := range v.set.By[h] {
		if v.wants(m, h) {
			return true
		}
	}
	return false
}

// request calls the modules for r. It reports that one of them has answered it.
func (v *visit) request(r *infer.Request, w *infer.Reply) (done bool, err error) {
	if err := v.whole(r); err != nil {
		return false, err
	}
	changed := false
	for _, m := range v.set.By[wasm.OnRequest] {
		if !v.wants(m, wasm.OnRequest) {
			continue
		}
		if most := maxBody(m); int64(len(r.Body)) > most {
			return false, &infer.Error{Status: http.StatusBadRequest, Code: "wasm_body_too_large",
				Msg: fmt.Sprintf("The body has %d bytes; the module %q takes at most %d.", len(r.Body), m.Name, most)}
		}
		v.req = wasm.Request{
			Method: r.Method, Path: r.Path, Query: r.Query, Header: &r.Header, Body: r.Body, ID: r.ID,
			NowMillis: uint64(r.Received.UnixMilli()), Proto: r.Proto, Client: netip.AddrPortFrom(r.Remote, r.Port), Answer: w.Header(),
		}
		begin := time.Now()
		err := m.Module.OnRequest(v.ctx, v.call(m), &v.req, &v.action)
		if err == nil {
			err = v.check(wasm.OnRequest)
		}
		if err == nil {
			err = v.checkCall(r)
		}
		v.note(m, wasm.OnRequest, begin, v.action.Kind.String(), err)
		switch {
		case err != nil && m.FailClosed:
			return false, closed(m, err)
		case err != nil:
			v.call(m).Release() // it is as if the module were not there
			continue
		case v.action.Kind == wasm.Continue:
			continue
		case v.action.Kind == wasm.Reject:
			return true, v.answer(w)
		}
		v.apply(&r.Header)
		v.early(w.Header())
		changed = v.redirect(r) || changed
		if v.action.HasBody {
			r.SetBytes(append([]byte(nil), v.action.Body...))
			changed = true
		}
	}
	if changed {
		return false, v.o.Look(r)
	}
	return false, nil
}

// whole reads a body that was left with the client.
func (v *visit) whole(r *infer.Request) error {
	if !r.Left() {
		return nil
	}
	most := int64(0)
	for _, m := range v.set.By[wasm.OnRequest] {
		if m.Wants(r.Path, r.Model) {
			most = max(most, maxBody(m))
		}
	}
	if err := r.ReadLeft(most); err != nil {
		return err
	}
	return v.o.Look(r)
}

func maxBody(m *wasm.Attached) int64 {
	if m.MaxBody > 0 {
		return m.MaxBody
	}
	return DefaultMaxBody
}

// note counts a call, and logs what came of it if that is worth a line.
func (v *visit) note(m *wasm.Attached, h wasm.Hook, begin time.Time, action string, err error) {
	now := time.Now()
	m.Counts.Count(now, now.Sub(begin), err)
	if v.o.Saw != nil {
		v.o.Saw(m, h, action, now.Sub(begin), err)
	}
	v.o.Metrics.called(m, h, now.Sub(begin), action, err)
	if err != nil {
		v.o.Log.Warn("a module failed", "module", m.Name, "hook", h.String(), "request", v.req.ID, "fail_closed", m.FailClosed, "err", err)
	}
	if out := &v.call(m).Out; len(out.Text) > 0 {
		v.o.Log.Info("a module writes", "module", m.Name, "hook", h.String(), "text", string(out.Text), "lost", out.Lost)
	}
}

// closed is the error of a request that a module should have let in or kept out,
// and could not.
func closed(m *wasm.Attached, err error) error {
	return &infer.Error{Status: http.StatusServiceUnavailable, Code: "wasm_module_failed", Err: err,
		Msg: fmt.Sprintf("The module %q could not look at the request.", m.Name)}
}

// check holds that the action can be done.
func (v *visit) check(h wasm.Hook) error {
	a := &v.action
	switch a.Kind {
	case wasm.Reject:
		if a.Status < 200 || a.Status > 599 {
			a.Status = http.StatusBadRequest
		}
		return nil
	case wasm.Continue:
		return nil
	}
	if h == wasm.OnResponse && a.Status != 0 && (a.Status < 200 || a.Status > 599) {
		return badAction("the status %d", a.Status)
	}
	for _, fs := range [][]wasm.Field{a.Set, a.Add} {
		for _, f := range fs {
			var ok bool
			if v.room, ok = h1.AppendField(v.room[:0], f.Name, f.Value); !ok {
				return badAction("a header %.64q with the value %.64q", f.Name, f.Value)
			}
		}
	}
	return nil
}

func badAction(format string, args ...any) error {
	return &wasm.CallError{Kind: "answer", Err: errors.New("its action has " + fmt.Sprintf(format, args...))}
}

// apply changes h as the action says. Fields that say where a message ends, or
// are for one connection, are not a module's to change: they follow from the
// body.
func (v *visit) apply(h *infer.Header) {
	a := &v.action
	for _, n := range a.Remove {
		if !framing(n) {
			h.Del(n)
		}
	}
	for _, f := range a.Set {
		if !framing(f.Name) {
			h.Set(f.Name, f.Value)
		}
	}
	for _, f := range a.Add {
		if !framing(f.Name) {
			h.AddString(f.Name, f.Value)
		}
	}
	for i := range a.Edits {
		a.Edits[i].Apply(h)
	}
}

// framing reports whether a field is about the message or the connection.
func framing(name string) bool {
	b := []byte(name)
	return h1.IsHopByHop(b) || h1.EqualFold(b, "content-length")
}
