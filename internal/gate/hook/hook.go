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
	Log     *slog.Logger
	Metrics *Metrics
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
	out         wasm.Output
	wire        wire
	room        []byte
}

var visits = sync.Pool{New: func() any { return new(visit) }}

func (o *Options) serve(ctx context.Context, set *wasm.Set, next infer.Handler, r *infer.Request, w *infer.Reply) error {
	v := visits.Get().(*visit)
	defer v.end()
	v.o, v.ctx, v.set, v.path, v.model = o, ctx, set, r.Path, r.Model
	if wanted(set.By[wasm.OnRequest], r) {
		done, err := v.request(r, w)
		if done || err != nil {
			return err
		}
	}
	if !wanted(set.By[wasm.OnResponse], r) {
		return next.Serve(ctx, r, w)
	}
	v.wire.begin(v, r.Method == http.MethodHead)
	w.Wrap(v.wrap)
	if err := next.Serve(ctx, r, w); err != nil {
		return err
	}
	return v.wire.finish()
}

func (v *visit) wrap(next infer.Wire) infer.Wire {
	v.wire.next = next
	return &v.wire
}

// end makes v ready for another request.
func (v *visit) end() {
	v.o, v.ctx, v.set = nil, nil, nil
	v.req, v.resp = wasm.Request{}, wasm.Response{}
	v.wire.reset()
	visits.Put(v)
}

// wanted reports whether any of ms is for r.
func wanted(ms []*wasm.Attached, r *infer.Request) bool {
	for _, m := range ms {
		if m.Wants(r.Path, r.Model) {
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
		if !m.Wants(r.Path, r.Model) {
			continue
		}
		if most := maxBody(m); int64(len(r.Body)) > most {
			return false, &infer.Error{Status: http.StatusBadRequest, Code: "wasm_body_too_large",
				Msg: fmt.Sprintf("The body has %d bytes; the module %q takes at most %d.", len(r.Body), m.Name, most)}
		}
		v.req = wasm.Request{
			Method: r.Method, Path: r.Path, Query: r.Query, Header: &r.Header, Body: r.Body, ID: r.ID,
			NowMillis: uint64(r.Received.UnixMilli()),
		}
		begin := time.Now()
		err := m.Module.OnRequest(v.ctx, &v.req, &v.action, &v.out)
		if err == nil {
			err = v.check(wasm.OnRequest)
		}
		v.note(m, wasm.OnRequest, begin, err)
		switch {
		case err != nil && m.FailClosed:
			return false, closed(m, err)
		case err != nil || v.action.Kind == wasm.Continue:
			continue
		case v.action.Kind == wasm.Reject:
			return true, reject(w, v.action.Status)
		}
		v.apply(&r.Header)
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
func (v *visit) note(m *wasm.Attached, h wasm.Hook, begin time.Time, err error) {
	now := time.Now()
	m.Counts.Count(now, now.Sub(begin), err)
	v.o.Metrics.called(m, h, now.Sub(begin), v.action.Kind, err)
	if err != nil {
		v.o.Log.Warn("a module failed", "module", m.Name, "hook", h.String(), "request", v.req.ID, "fail_closed", m.FailClosed, "err", err)
	}
	if len(v.out.Text) > 0 {
		v.o.Log.Info("a module says", "module", m.Name, "hook", h.String(), "text", string(v.out.Text), "lost", v.out.Lost)
	}
}

// closed is the error of a request that a module should have let in or kept out,
// and could not.
func closed(m *wasm.Attached, err error) error {
	return &infer.Error{Status: http.StatusServiceUnavailable, Code: "wasm_module_failed", Err: err,
		Msg: fmt.Sprintf("The module %q could not look at the request.", m.Name)}
}

// reject answers with a status and nothing else. One that is no status becomes
// 400, as the contract has it.
func reject(w *infer.Reply, status int) error {
	w.Header().Set("Content-Length", "0")
	w.Commit(status)
	return nil
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
}

// framing reports whether a field is about the message or the connection.
func framing(name string) bool {
	b := []byte(name)
	return h1.IsHopByHop(b) || h1.EqualFold(b, "content-length")
}
