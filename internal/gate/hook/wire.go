package hook

import (
	"bytes"
	"net/http"
	"strconv"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
	"sluice/internal/kit/sse"
	"sluice/internal/wasm"
)

// A wire keeps an answer until the modules have seen it. One that streams passes
// as it comes: it cannot be kept.
type wire struct {
	v      *visit
	next   infer.Wire
	head   bool // the client asked for the header only
	mode   mode
	status int
	body   []byte
	long   bool // the body is longer than any module takes
	stream bool // it comes in pieces that matter

	whole, chunks bool   // modules want answers that are whole; and events of streams
	part          []byte // of an event that is not whole yet
	ended         bool   // a module has ended the stream
}

type mode uint8

const (
	undecided mode = iota
	keeps          // until it is whole
	passes         // as it comes
	splits         // into events, which modules see
)

// longest is how much of a body's memory is kept for the next.
const longest = 1 << 20

func (w *wire) begin(v *visit, head, whole, chunks bool) {
	w.v, w.head, w.whole, w.chunks = v, head, whole, chunks
}

func (w *wire) reset() {
	body := w.body[:0]
	if cap(body) > longest {
		body = nil
	}
	part := w.part[:0]
	if cap(part) > longest {
		part = nil
	}
	*w = wire{body: body, part: part}
}

// Header implements infer.Wire.
func (w *wire) Header() *infer.Header { return w.next.Header() }

// WriteHeader implements infer.Wire.
func (w *wire) WriteHeader(status int) {
	w.stream = streams(w.next.Header())
	switch {
	case len(w.v.begin) > 0, w.stream && w.whole && w.v.buffers():
		w.mode, w.status = keeps, status
		w.body = append(w.body, w.v.begin...)
	case w.stream && w.chunks:
		w.mode = splits
		w.next.Header().Del("Content-Length")
		w.next.WriteHeader(status)
	case w.stream || !w.whole:
		w.mode = passes
		w.next.WriteHeader(status)
	default:
		w.mode, w.status = keeps, status
	}
}

// streams reports whether an answer comes in pieces that matter.
func streams(h *infer.Header) bool {
	t, _, _ := bytes.Cut(h.Get("Content-Type"), []byte(";"))
	t = bytes.TrimSpace(t)
	return h1.EqualFold(t, "text/event-stream") || h1.EqualFold(t, "application/x-ndjson")
}

// Write implements infer.Wire.
func (w *wire) Write(b []byte) (int, error) {
	switch w.mode {
	case passes:
		return w.next.Write(b)
	case splits:
		return len(b), w.split(b)
	}
	most := 0
	for _, m := range w.v.set.By[wasm.OnResponse] {
		most = max(most, int(maxBody(m)))
	}
	if len(w.body)+len(b) > most {
		w.long = true // the rest need not be kept
	} else if !w.long {
		w.body = append(w.body, b...)
	}
	return len(b), nil
}

// Flush implements infer.Wire.
func (w *wire) Flush() error {
	if w.mode == passes || w.mode == splits {
		return w.next.Flush()
	}
	return nil
}

// maxEvent bounds an event that modules see; a longer one passes unseen.
const maxEvent = 1 << 20

// split shows the modules the events that are whole with b.
func (w *wire) split(b []byte) error {
	p := b
	if len(w.part) > 0 {
		w.part = append(w.part, b...)
		p = w.part
	}
	for !w.ended {
		event, rest, ok := sse.Cut(p)
		if !ok {
			break
		}
		p = rest
		if err := w.event(event); err != nil {
			return err
		}
	}
	if w.ended {
		p = nil
	}
	if len(p) > maxEvent {
		_, err := w.next.Write(p)
		p = nil
		if err != nil {
			return err
		}
	}
	w.part = append(w.part[:0], p...)
	return nil
}

// event shows the modules an event, each what the one before has made of it, and
// sends what is left.
func (w *wire) event(e []byte) error {
	if len(bytes.TrimSpace(e)) == 0 {
		_, err := w.next.Write(e)
		return err
	}
	v := w.v
	for _, m := range v.set.By[wasm.OnChunk] {
		if !v.wants(m, wasm.OnChunk) {
			continue
		}
		begin := time.Now()
		err := m.Module.OnChunk(v.ctx, v.call(m), e, &v.chunk)
		v.note(m, wasm.OnChunk, begin, v.chunk.Kind.String(), err)
		switch {
		case err != nil && m.FailClosed:
			w.ended = true
			return closed(m, err)
		case err != nil:
			continue
		}
		switch v.chunk.Kind {
		case wasm.Drop:
			return nil
		case wasm.Finish:
			w.ended = true
			fallthrough
		case wasm.Replace:
			w.body = append(w.body[:0], v.chunk.Data...) // the next module's answer takes that memory
			e = w.body
		}
		if w.ended || len(e) == 0 {
			break
		}
	}
	if len(e) == 0 {
		return nil
	}
	_, err := w.next.Write(e)
	return err
}

// abort sends what there is of an event, because the answer broke off.
func (w *wire) abort() {
	if w.mode == splits && len(w.part) > 0 && !w.ended {
		_, _ = w.next.Write(w.part)
		w.part = w.part[:0]
	}
}

// finish calls the modules for an answer that was kept, and sends what has
// become of it.
func (w *wire) finish() error {
	switch w.mode {
	case splits:
		if len(w.part) > 0 && !w.ended { // a stream that ends without an empty line
			return w.event(w.part)
		}
		return nil
	case undecided, passes:
		return nil
	}
	h := w.next.Header()
	body, err := w.modules(h)
	if err != nil {
		return w.fail(err)
	}
	if w.stream && w.chunks { // what the others have made of it goes to those that want its events
		w.mode = splits
		h.Del("Content-Length")
		w.next.WriteHeader(w.status)
		if err := w.split(bytes.Clone(body)); err != nil {
			return err
		}
		return w.finish()
	}
	if w.head || w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		w.next.WriteHeader(w.status)
		return w.next.Flush()
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.next.WriteHeader(w.status)
	if _, err := w.next.Write(body); err != nil {
		return err
	}
	return w.next.Flush()
}

// modules calls the modules and returns the body.
func (w *wire) modules(h *infer.Header) ([]byte, error) {
	v, body := w.v, w.body
	if w.long {
		return nil, &infer.Error{Status: http.StatusInternalServerError, Code: "wasm_body_too_large", Msg: "The answer is longer than the modules take."}
	}
	for _, m := range v.set.By[wasm.OnResponse] {
		if !v.wants(m, wasm.OnResponse) || w.stream && !m.Module.Whole() {
			continue
		}
		if int64(len(body)) > maxBody(m) {
			return nil, &infer.Error{Status: http.StatusInternalServerError, Code: "wasm_body_too_large",
				Msg: "The answer is longer than the module " + strconv.Quote(m.Name) + " takes."}
		}
		v.resp = wasm.Response{Status: w.status, Header: h, Body: body}
		begin := time.Now()
		err := m.Module.OnResponse(v.ctx, v.call(m), &v.resp, &v.action)
		if err == nil {
			err = v.check(wasm.OnResponse)
		}
		v.note(m, wasm.OnResponse, begin, v.action.Kind.String(), err)
		a := &v.action
		switch {
		case err != nil && m.FailClosed:
			return nil, closed(m, err)
		case err != nil || a.Kind == wasm.Continue:
			continue
		case a.Kind == wasm.Reject:
			w.status = a.Status // the contract: the header and the body stay
			return body, nil
		}
		if a.Status != 0 {
			w.status = a.Status
		}
		v.apply(h)
		if a.HasBody {
			body = append([]byte(nil), a.Body...)
		}
	}
	return body, nil
}

// fail answers an error instead of what was kept. The Reply is committed by
// then, so nobody else can.
func (w *wire) fail(err error) error {
	e := infer.AsError(err)
	h := w.next.Header()
	h.Reset()
	h.Set("Content-Type", "application/json")
	h.Set("X-SMG-Error-Code", e.Code)
	body := `{"error":{"type":"server_error","code":` + strconv.Quote(e.Code) + `,"message":` + strconv.Quote(e.Msg) + `,"param":null}}`
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.next.WriteHeader(e.Status)
	if _, werr := w.next.Write([]byte(body)); werr != nil {
		return werr
	}
	return w.next.Flush()
}
