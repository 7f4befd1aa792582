package httpwasm

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
)

// A Host is what a guest has around it.
type Host interface {
	Config() []byte // what the operator has written for it
	Logs(level int32) bool
	Log(level int32, msg []byte)
	Print(b []byte) // to its standard streams

	// Works is called when n bytes of work, such as to copy them, are done for the
	// guest. It may panic to end the call.
	Works(n int)
}

// A Request is what a guest sees of one. Its memory is the caller's, and is good
// during handle_request.
type Request struct {
	Method, Path, Query string
	Proto               string         // "HTTP/1.1"
	Client              netip.AddrPort // the zero one if it has no address
	Header              *infer.Header
	Body                []byte
	Answer              *infer.Header // what the answer's has so far
	MaxBody             int           // bytes of the largest body that the guest may write
}

// A Response is what a guest sees of an answer. Its memory is the caller's, and
// is good during handle_response.
type Response struct {
	Status int
	Header *infer.Header
	Body   []byte

	MaxBody int // bytes of the largest body that the guest may write
}

// An Op is what becomes of a header's fields of one name.
type Op uint8

// What may become of them.
const (
	Set    Op = iota // they are replaced by one
	Add              // there is one more
	Remove           // they are gone
)

// An Edit is a change of a header.
type Edit struct {
	Op          Op
	Name, Value string
}

// Apply makes the change.
func (e *Edit) Apply(h *infer.Header) {
	switch e.Op {
	case Set:
		h.Set(e.Name, e.Value)
	case Add:
		h.AddString(e.Name, e.Value)
	case Remove:
		h.Del(e.Name)
	}
}

// A Changes is what a guest wants changed. Its memory is its own, and good until
// it is used for another call.
type Changes struct {
	Method  string // "" for none
	URI     string // "" for none
	Request []Edit // of its header, to be made in order
	Answer  []Edit // of the answer's

	Body, AnswerBody       []byte
	HasBody, HasAnswerBody bool
	Status                 int // of the answer, 0 for none

	mem         []byte
	method, uri []byte // that of Method and URI: they may be set as often as a guest likes
}

// Reset empties c and keeps its memory.
func (c *Changes) Reset() {
	*c = Changes{Request: c.Request[:0], Answer: c.Answer[:0], Body: idle(c.Body), AnswerBody: idle(c.AnswerBody), mem: idle(c.mem),
		method: c.method[:0], uri: c.uri[:0]}
}

// idle is b's memory for the next request, unless it is a lot.
func idle(b []byte) []byte {
	if cap(b) > maxIdle {
		return nil
	}
	return b[:0]
}

// maxIdle is how much memory for one thing is kept for the next request.
const maxIdle = 1 << 20

// Any reports whether a request is changed by c, or its answer to come.
func (c *Changes) Any() bool {
	return c.Method != "" || c.URI != "" || c.HasBody || c.HasAnswerBody || len(c.Request) > 0 || len(c.Answer) > 0
}

// Bounds of what a guest may ask for in one request.
const (
	maxEdits  = 1 << 10
	maxHeader = 256 << 10 // bytes of the names and values that it sets
	maxMethod = 64
	maxURI    = 16 << 10
)

// MaxName bounds the name of a header that a guest changes: setting it compares it
// with all that are there.
const MaxName = 256

// keep copies b. What was copied before stays where it is.
func (c *Changes) keep(b []byte) string {
	if cap(c.mem)-len(c.mem) < len(b) {
		c.mem = make([]byte, 0, max(512, 2*cap(c.mem), len(b)))
	}
	n := len(c.mem)
	c.mem = append(c.mem, b...)
	return text(c.mem[n:])
}

// text is b as a string that shares its memory.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// A phase is where in its request a guest is.
type phase uint8

const (
	outside   phase = iota // it starts, or waits
	requests               // in handle_request
	answers                // in handle_response, with an answer that can be changed
	afterward              // in handle_response, when all has been sent
)

// An Exchange is one request as the guest of one instance sees it. One goroutine
// uses it at a time.
type Exchange struct {
	Host Host

	// Started is what the guest asked for when it started, for all requests.
	Started Features

	now   Features // asked for by now
	at    phase
	in    Request
	resp  Response
	out   *Changes
	given int // bytes of maxHeader that are used
	most  int // bytes of the largest body that it may write

	header [2]view // by kind: the request's, the answer's
	uri    []byte  // the request's, made when it is asked for
	read   [2]int  // bytes of the bodies that were read, by kind
	room   []byte  // for one thing at a time

	kept struct { // for handle_response
		header infer.Header
		mem    []byte
	}
}

// A view is a header with the changes that the guest has made to it.
type view struct {
	from *infer.Header // nil for none
	own  infer.Header  // in its place, once it is changed
	is   bool          // it is changed
}

func (v *view) reset(from *infer.Header) {
	v.from, v.is = from, false
	v.own.Reset()
}

func (v *view) get() *infer.Header {
	if v.is {
		return &v.own
	}
	return v.from
}

// len is how many fields there are.
func (v *view) len() int {
	if h := v.get(); h != nil {
		return len(h.Fields())
	}
	return 0
}

// change makes e, to a copy.
func (v *view) change(e *Edit) {
	if !v.is {
		v.is = true
		if v.from != nil {
			for _, f := range v.from.Fields() {
				v.own.Add(f.Name, f.Value)
			}
		}
	}
	e.Apply(&v.own)
}

// Begin readies x for handle_request about r. What the guest changes goes to out.
func (x *Exchange) Begin(r *Request, out *Changes) {
	out.Reset()
	x.at, x.in, x.out, x.resp = requests, *r, out, Response{}
	x.now, x.given, x.most, x.read, x.uri = x.Started, 0, r.MaxBody, [2]int{}, x.uri[:0]
	x.header[0].reset(r.Header)
	x.header[1].reset(r.Answer)
}

// Wait ends handle_request of a request that goes on. What the guest may still
// want to see of it is copied: its memory does not last as long as the answer.
func (x *Exchange) Wait() {
	k := &x.kept
	k.header.Reset()
	if h := x.header[0].get(); h != nil {
		for _, f := range h.Fields() {
			k.header.AddCopy(f.Name, f.Value)
		}
	}
	if x.out.Method != "" {
		x.in.Method = x.out.Method
	}
	x.uri = x.target() // which may be the guest's own
	k.mem = append(k.mem[:0], x.in.Method...)
	x.in.Method = text(k.mem)
	x.in.Path, x.in.Query, x.in.Header, x.in.Body, x.in.Answer = "", "", nil, nil, nil
	x.at, x.out = outside, nil
	x.header[0].reset(&k.header)
	x.header[1].reset(nil)
}

// Buffers reports whether the guest wants the answer before it is sent.
func (x *Exchange) Buffers() bool { return x.now&BufferResponse != 0 }

// Answered readies x for handle_response about an answer that the guest may
// change.
func (x *Exchange) Answered(r *Response, out *Changes) {
	out.Reset()
	x.at, x.resp, x.out = answers, *r, out
	x.given, x.most, x.read = 0, r.MaxBody, [2]int{}
	x.header[1].reset(r.Header)
}

// Sent readies x for handle_response about an answer that has been sent, or that
// there is not. r has no body.
func (x *Exchange) Sent(r *Response) {
	x.at, x.resp, x.out = afterward, *r, nil
	x.header[1].reset(r.Header)
}

// End forgets the request.
func (x *Exchange) End() {
	x.at, x.in, x.resp, x.out = outside, Request{}, Response{}, nil
	x.header[0].reset(nil)
	x.header[1].reset(nil)
	x.uri = x.uri[:0]
}

// target is the request's URI.
func (x *Exchange) target() []byte {
	if x.out != nil && x.out.URI != "" {
		x.uri = append(x.uri[:0], x.out.URI...)
	} else if len(x.uri) == 0 {
		x.uri = append(x.uri, x.in.Path...)
		if x.in.Query != "" {
			x.uri = append(append(x.uri, '?'), x.in.Query...)
		}
	}
	return x.uri
}

var errNoRequest = errors.New("there is no request yet")

// inRequest holds that there is a request.
func (x *Exchange) inRequest() error {
	if x.at == outside {
		return errNoRequest
	}
	return nil
}

// beforeNext holds that the request has not gone on.
func (x *Exchange) beforeNext(what string) error {
	switch x.at {
	case outside:
		return errNoRequest
	case requests:
		return nil
	}
	return fmt.Errorf("it sets the %s after the request has gone on", what)
}

// answerable holds that the answer may be changed.
func (x *Exchange) answerable(what string) error {
	switch x.at {
	case outside:
		return errNoRequest
	case afterward:
		return fmt.Errorf("it sets the answer's %s, which has been sent: it has not enabled buffer_response, or there was an error", what)
	}
	return nil
}

// A kind is which header or body a call is about.
type kind uint64

const (
	ofRequest kind = iota
	ofAnswer
	requestTrailers
	answerTrailers
	kinds
)

// mutable holds that a header may be changed.
func (x *Exchange) mutable(k kind) error {
	switch k {
	case ofRequest:
		return x.beforeNext("request's header")
	case ofAnswer:
		return x.answerable("header")
	case requestTrailers, answerTrailers:
		return errors.New("it sets a trailer, and the gateway has none: enable_features has said so")
	}
	return unknownKind(k)
}

func unknownKind(k kind) error { return fmt.Errorf("%d is no kind of header or body", uint64(k)) }

// edit notes a change of a header. White space around a value is no part of it
// (RFC 9110 §5.5).
func (x *Exchange) edit(k kind, op Op, name, value []byte) error {
	if len(name) > MaxName {
		return fmt.Errorf("it changes a header whose name has %d bytes; at most %d are allowed", len(name), MaxName)
	}
	value = bytes.Trim(value, " \t")
	n := len(name) + len(value)
	if n > maxHeader-x.given {
		return fmt.Errorf("it gives more than %d bytes for headers", maxHeader)
	}
	x.Host.Works(n + toFind(name)*x.header[k].len())
	var ok bool
	if x.room, ok = h1.AppendField(x.room[:0], name, value); !ok {
		return fmt.Errorf("it sets a header %.64q to %.64q, which HTTP does not have", name, value)
	}
	if h1.IsHopByHop(name) || h1.EqualFold(name, "content-length") {
		return nil
	}
	x.given += n
	to := &x.out.Request
	if k == ofAnswer {
		to = &x.out.Answer
	}
	if len(*to) >= maxEdits {
		return fmt.Errorf("it changes a header more than %d times", maxEdits)
	}
	*to = append(*to, Edit{Op: op, Name: x.out.keep(name), Value: x.out.keep(value)})
	x.header[k].change(&(*to)[len(*to)-1])
	return nil
}

// setMethod notes another method.
func (x *Exchange) setMethod(m []byte) error {
	ok := len(m) <= maxMethod
	if ok {
		x.room, ok = h1.AppendField(x.room[:0], m, "")
	}
	if !ok {
		return fmt.Errorf("it sets the method to %q, which HTTP does not have", m[:min(len(m), maxMethod)])
	}
	x.out.method = append(x.out.method[:0], m...)
	x.out.Method = text(x.out.method)
	return nil
}

// setURI notes another URI: a path, and perhaps a query.
func (x *Exchange) setURI(uri []byte) error {
	if len(uri) == 0 {
		uri = []byte("/")
	}
	x.Host.Works(min(len(uri), maxURI))
	bad := uri[0] != '/' || len(uri) > maxURI
	for _, c := range uri[:min(len(uri), maxURI)] {
		bad = bad || c <= ' ' || c >= 0x7f || c == '#'
	}
	if bad {
		return fmt.Errorf("it sets the URI to %q; want a path of at most %d bytes, and perhaps a query", uri[:min(len(uri), 64)], maxURI)
	}
	x.out.uri = append(x.out.uri[:0], uri...)
	x.out.URI = text(x.out.uri)
	return nil
}

// setStatus notes another status.
func (x *Exchange) setStatus(n uint32) error {
	if n < 200 || n > 599 {
		return fmt.Errorf("it sets the status to %d; want 200 to 599", n)
	}
	x.out.Status = int(n)
	return nil
}

// write notes a piece of a body. The first takes the place of what there was.
func (x *Exchange) write(k kind, b []byte) error {
	body, has := &x.out.Body, &x.out.HasBody
	if k != ofRequest {
		body, has = &x.out.AnswerBody, &x.out.HasAnswerBody
	}
	n := len(*body)
	if len(b) > x.most-n {
		return fmt.Errorf("it writes a body of more than %d bytes", x.most)
	}
	*has = true
	if need := n + len(b); need > cap(*body) {
		roomier := make([]byte, need, min(max(512, need, 2*cap(*body)), max(need, x.most)))
		x.move(roomier, *body)
		*body = roomier[:n]
	}
	x.move((*body)[n:n+len(b)], b)
	*body = (*body)[:n+len(b)]
	return nil
}

// status is the answer's, as far as there is one.
func (x *Exchange) status() int {
	switch {
	case x.out != nil && x.out.Status != 0:
		return x.out.Status
	case x.resp.Status != 0:
		return x.resp.Status
	}
	return 200
}

// body is what can be read of one.
func (x *Exchange) body(k kind) ([]byte, error) {
	switch k {
	case ofRequest:
		return x.in.Body, x.inRequest()
	case ofAnswer:
		if x.at == outside {
			return nil, errNoRequest
		}
		if !x.Buffers() {
			return nil, errors.New("it reads the answer's body and has not enabled buffer_response")
		}
		return x.resp.Body, nil
	}
	return nil, unknownKind(k)
}
