package hook

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
	"sluice/internal/wasm"
)

// read reads a body that was left with the client, if there are modules for its
// path and tenant that want it, or that want to know its model. most is the
// longest that one of them takes, math.MaxInt64 if they take all that the gateway
// does.
func (v *visit) read(r *infer.Request, modules []*module) (most int64, err error) {
	most = -1
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
		return most, nil
	}
	if most > r.LeftLimit() {
		most = math.MaxInt64 // it is the gateway's limit that holds
	}
	if err := r.ReadLeft(most); err != nil {
		return most, err
	}
	r.Fault = v.g.Look(r)
	return most, nil
}

// unread is the error of a body that was not read because of err. If that is more
// than most bytes, it is the fault of all modules that were to see it.
func (v *visit) unread(most int64, err error) error {
	if most == math.MaxInt64 || !errors.Is(err, infer.TooLarge) {
		return err
	}
	for i := range v.calls {
		if c := &v.calls[i]; c.wants(wasm.OnRequest) {
			v.oversized(c, wasm.OnRequest)
		}
	}
	return tooLarge(http.StatusBadRequest, fmt.Sprintf("The body is longer than the modules take that are to see it: %d bytes.", most))
}

// oversized notes that a module cannot be called at h, because of its limit, and
// that the request or the answer is refused for it.
func (v *visit) oversized(c *call, h wasm.Hook) {
	v.blame(c.of)
	v.note(c, h, time.Now(), 0, &wasm.CallError{Kind: "size", Err: fmt.Errorf("a body of more than %d bytes cannot be shown to it", c.of.most)})
}

// blame says for the log that m has answered the request, or that it is refused
// because of it.
func (v *visit) blame(m *module) { v.client.Served.Module, v.inner.Served.Module = m.Name, m.Name }

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
			v.oversized(c, wasm.OnRequest)
			return false, tooLarge(http.StatusBadRequest, fmt.Sprintf("The body has %d bytes; the module %q takes at most %d.", len(r.Body), m.Name, m.most))
		}
		v.req = wasm.Request{
			Method: r.Method, Path: r.Path, Query: r.Query, Header: &r.Header, Body: r.Body, ID: r.ID,
			NowMillis: uint64(r.Received.UnixMilli()), Proto: r.Proto, Client: netip.AddrPortFrom(r.Remote, r.Port), Answer: v.client.Header(),
		}
		c.Model = r.Model
		model, path := r.Model, r.Path
		begin := time.Now()
		if !v.within(c, begin) {
			return false, errLate
		}
		err := m.Module.OnRequest(v.ctx, &c.Call, &v.req, &v.action)
		if err == nil {
			err = v.check(m, wasm.OnRequest)
		}
		if err == nil && v.action.Kind == wasm.Modify {
			err = v.change(r)
		}
		v.note(c, wasm.OnRequest, begin, int(v.action.Kind), err)
		switch {
		case v.late(c, err):
			return false, errLate
		case err != nil && m.FailClosed:
			return false, v.closed(m, wasm.OnRequest, err)
		case err != nil:
			c.Release() // it is as if the module were not there
		case v.action.Kind == wasm.Reject:
			v.blame(m)
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

// change changes r as the action says. A change that makes of a request that a
// worker could be asked one that none could is not made. One of a request with a
// Fault is, and it has that which the new one has.
func (v *visit) change(r *infer.Request) error {
	a := &v.action
	if err := v.checkCall(r); err != nil {
		return err
	}
	if a.HasBody && r.Endpoint == infer.Realtime {
		if len(a.Body) > 0 {
			return badAction("a body, and a WebSocket begins without one")
		}
		a.HasBody = false // there is none
	}
	old := struct {
		method, path, query string
		endpoint            infer.Endpoint
		body                []byte
		fault               error
	}{r.Method, r.Path, r.Query, r.Endpoint, r.Body, r.Fault}
	v.fields = append(v.fields[:0], r.Header.Fields()...)
	defer clear(v.fields)
	anew := v.redirect(r)
	if a.HasBody {
		r.SetBytes(slices.Clone(a.Body))
		anew = true
	}
	v.apply(&r.Header)
	if a.HasBody {
		follow(&r.Header, len(a.Body))
	}
	if r.Fault = v.look(r, anew || old.fault != nil); r.Fault != nil && old.fault == nil {
		bad := badAction("a request that is none: %s", infer.AsError(r.Fault).Msg)
		r.Method, r.Path, r.Query, r.Endpoint, r.Fault = old.method, old.path, old.query, old.endpoint, nil
		r.Header.Cut(0)
		for _, f := range v.fields {
			r.Header.Add(f.Name, f.Value)
		}
		if anew {
			r.SetBytes(old.body)
			r.Fault = v.look(r, true)
		}
		return bad
	}
	v.early(v.client.Header())
	return nil
}

// look returns why no worker could answer r, whose header was changed. anew says
// that it has another body or is another call, or had a Fault; then what routing
// needs is found too.
func (v *visit) look(r *infer.Request, anew bool) error {
	switch {
	case anew:
		r.DropText()
		return v.g.Look(r)
	case v.g.LookHeader != nil:
		return v.g.LookHeader(r)
	}
	return nil
}

// closed is the error of a request that a module should have let in or kept out,
// or whose answer it should have seen, and could not.
func (v *visit) closed(m *module, h wasm.Hook, err error) error {
	v.blame(m)
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
		if len(n) > wasm.MaxFieldName {
			return badAction("a header's name of %d bytes; at most %d are allowed", len(n), wasm.MaxFieldName)
		}
		if _, ok := h1.AppendField(v.room[:0], n, ""); !ok {
			return badAction("a header %.64q to be removed", n)
		}
	}
	for _, fs := range [...][]wasm.Field{a.Set, a.Add} {
		for i := range fs {
			f, ok := &fs[i], false
			if len(f.Name) > wasm.MaxFieldName {
				return badAction("a header's name of %d bytes; at most %d are allowed", len(f.Name), wasm.MaxFieldName)
			}
			f.Value = strings.Trim(f.Value, " \t") // white space around it is no part of it, RFC 9110 §5.5
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
		if e := &a.Edits[i]; !opensSocket(e.Name) { // the others were left out when it made them
			e.Apply(h)
		}
	}
}

// follow makes the Content-Length that a header has, if it has one, that of a body
// of n bytes: modules behind the one that has made the body see it.
func follow(h *infer.Header, n int) {
	if h.Has("Content-Length") {
		setLength(h, n)
	}
}

func setLength(h *infer.Header, n int) {
	var digits [20]byte
	h.Set("Content-Length", string(strconv.AppendInt(digits[:0], int64(n), 10))) // the string stays on the stack: Set copies it
}

// framing reports whether a field is about the message or the connection.
func framing(name string) bool {
	b := []byte(name)
	return h1.IsHopByHop(b) || h1.EqualFold(b, "content-length") || opensSocket(name)
}

// opensSocket reports whether a field is of the handshake in which a client and a
// worker open a WebSocket, RFC 6455 §4: a worker that gets another key than the
// client has sent gives an answer that the client must refuse. The subprotocol is
// not such a field: browsers send keys in it.
func opensSocket(name string) bool {
	const prefix = "sec-websocket-"
	if len(name) <= len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
		return false
	}
	return !strings.EqualFold(name[len(prefix):], "protocol")
}
