package hook

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
	"sluice/internal/wasm"
)

// read reads a body that was left with the client, if there are modules for its
// path and tenant that want it, or that want to know its model.
func (v *visit) read(r *infer.Request, modules []*module) error {
	most := int64(-1)
	for _, m := range modules {
		switch {
		case !m.WantsSome(r.Path, r.Tenant):
		case m.at[wasm.OnRequest]:
			most = max(most, m.most)
		case len(m.Models) > 0:
			most = math.MaxInt64 // it is looked into here, not there
		}
	}
	if most < 0 {
		return nil
	}
	err := r.ReadLeft(most)
	if most < math.MaxInt64 && errors.Is(err, infer.TooLarge) {
		return tooLarge(http.StatusBadRequest, fmt.Sprintf("The body is longer than the modules take that are to see it: %d bytes.", most))
	}
	if err != nil {
		return err
	}
	return v.g.Look(r)
}

func tooLarge(status int, msg string) error {
	return &infer.Error{Status: status, Code: "wasm_body_too_large", Msg: msg}
}

// request calls the modules for r. It reports that one of them has answered it.
func (v *visit) request(r *infer.Request) (done bool, err error) {
	for i := 0; i < len(v.calls); i++ { // those behind one may become others by what it does
		c := &v.calls[i]
		if !c.wants(wasm.OnRequest) {
			continue
		}
		m := c.of
		if int64(len(r.Body)) > m.most {
			return false, tooLarge(http.StatusBadRequest, fmt.Sprintf("The body has %d bytes; the module %q takes at most %d.", len(r.Body), m.Name, m.most))
		}
		v.req = wasm.Request{
			Method: r.Method, Path: r.Path, Query: r.Query, Header: &r.Header, Body: r.Body, ID: r.ID,
			NowMillis: uint64(r.Received.UnixMilli()), Proto: r.Proto, Client: netip.AddrPortFrom(r.Remote, r.Port), Answer: v.client.Header(),
		}
		c.Model = r.Model
		model, path := r.Model, r.Path
		begin := time.Now()
		err := m.Module.OnRequest(v.ctx, &c.Call, &v.req, &v.action)
		if err == nil {
			err = v.check(m, wasm.OnRequest)
		}
		if err == nil && v.action.Kind == wasm.Modify {
			err = v.change(r)
		}
		v.note(c, wasm.OnRequest, begin, int(v.action.Kind), err)
		switch {
		case err != nil && m.FailClosed:
			return false, closed(m, wasm.OnRequest, err)
		case err != nil:
			c.Release() // it is as if the module were not there
		case v.action.Kind == wasm.Reject:
			return true, v.answer()
		case r.Model != model || r.Path != path:
			v.regather(i, r)
		}
	}
	for i := range v.calls {
		v.calls[i].Model = r.Model
	}
	return false, nil
}

// change changes r as the action says. A change after which r is no request that
// a worker could be asked is not made.
func (v *visit) change(r *infer.Request) error {
	a := &v.action
	if err := v.checkCall(r); err != nil {
		return err
	}
	if a.HasBody && r.Endpoint == infer.Realtime {
		return badAction("a body, and a WebSocket begins without one")
	}
	old := struct {
		method, path, query string
		endpoint            infer.Endpoint
		body                []byte
	}{r.Method, r.Path, r.Query, r.Endpoint, r.Body}
	look := v.redirect(r)
	if a.HasBody {
		r.SetBytes(slices.Clone(a.Body))
		look = true
	}
	if look {
		if err := v.look(r); err != nil {
			r.Method, r.Path, r.Query, r.Endpoint = old.method, old.path, old.query, old.endpoint
			r.SetBytes(old.body)
			if again := v.look(r); again != nil {
				return again
			}
			return badAction("a request that is none: %v", err)
		}
	}
	v.apply(&r.Header)
	v.early(v.client.Header())
	return nil
}

// look finds what routing needs in a body that was put in the place of another.
func (v *visit) look(r *infer.Request) error {
	r.DropText()
	return v.g.Look(r)
}

// closed is the error of a request that a module should have let in or kept out,
// or whose answer it should have seen, and could not.
func closed(m *module, h wasm.Hook, err error) error {
	what := "request"
	if h != wasm.OnRequest {
		what = "answer"
	}
	return &infer.Error{Status: http.StatusServiceUnavailable, Code: "wasm_module_failed", Err: err,
		Msg: fmt.Sprintf("The module %q could not look at the %s.", m.Name, what)}
}

// check holds that what m wants can be done.
func (v *visit) check(m *module, h wasm.Hook) error {
	a := &v.action
	switch a.Kind {
	case wasm.Reject:
		if !isStatus(a.Status) {
			a.Status = http.StatusBadRequest // the contract's
		}
		return nil
	case wasm.Continue:
		return nil
	}
	if h == wasm.OnResponse && a.Status != 0 && !isStatus(a.Status) {
		return badAction("the status %d; want 200 to 599", max(a.Status, 0))
	}
	if int64(len(a.Body)) > m.most {
		return badAction("a body of %d bytes; at most %d are allowed", len(a.Body), m.most)
	}
	for _, n := range a.Remove {
		if _, ok := h1.AppendField(v.room[:0], n, ""); !ok {
			return badAction("a header %.64q to be removed", n)
		}
	}
	for _, fs := range [...][]wasm.Field{a.Set, a.Add} {
		for _, f := range fs {
			var ok bool
			if v.room, ok = h1.AppendField(v.room[:0], f.Name, f.Value); !ok {
				return badAction("a header %.64q with the value %.64q", f.Name, f.Value)
			}
		}
	}
	return nil
}

// isStatus reports whether an answer may have the status.
func isStatus(s int) bool { return s >= 200 && s <= 599 }

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
