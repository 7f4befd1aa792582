package infer

import (
	"fmt"
	"net"
	"net/http"
	"time"
)

// A Wire carries a Reply to the client. A front end has one for each protocol
// it speaks; a gate that reads or changes what is sent puts one around another.
type Wire interface {
	Header() *Header
	WriteHeader(status int)
	Write([]byte) (int, error)
	Flush() error
}

// A Splicer is a Wire whose client reads chunks, RFC 9112 §7.1, so that a body
// that is chunked already can pass as it is.
type Splicer interface {
	// Splices reports whether Splice may be called. Before WriteHeader it
	// says what will be if the answer has no Content-Length. After a Splice
	// others may follow.
	Splices() bool

	// Splice sends framed, which is whole chunks with n bytes of data in
	// them, none of them the last chunk.
	Splice(framed []byte, n int) error
}

// A Holder is a Wire that may send events only when they are whole.
type Holder interface {
	// Holds reports whether of an event that has begun nothing was sent. It will
	// not be, if the answer breaks off.
	Holds() bool
}

// A Tunneler is a Wire whose connection can be given away, RFC 9110 §7.8. It is
// the Handler's then, which returns when it is of no more use: a Request lasts
// as long as its tunnel.
type Tunneler interface {
	// Tunnels reports whether Tunnel may be called: the client has asked for
	// another protocol, in a way in which it can be had.
	Tunnels() bool

	// Tunnel sends 101 and the Header, in which Upgrade names the protocol. It
	// returns the client's connection, which the caller closes, and what has
	// been read of it already.
	Tunnel() (nc net.Conn, early []byte, err error)
}

// A Reply is the way back to the client. It remembers whether anything has
// been sent, because that is the moment after which no attempt can be repeated.
type Reply struct {
	wire      Wire
	status    int
	committed bool
	promised  bool             // End will be called
	onCommit  func(status int) // nil for nothing to be told
	after     Finisher         // nil for nobody who waits for End

	// Served says what became of the request; the router writes it, logs and
	// metrics read it.
	Served Served
}

// Served is the story of one request as the router saw it.
type Served struct {
	Worker    string        // URL of the last worker asked, "" if none was
	Tries     int           // attempts made
	FirstByte time.Duration // from Received to the first byte of the body, 0 if there was none
	AtOnce    bool          // with the first byte, all of the answer had come
	Events    int64         // pieces of a stream that carried something
	Tokens    Tokens

	// Module names the operator's module that answered in a worker's place, or
	// because of which the request or its answer was refused; "" if none did.
	Module string

	// Bytes through a tunnel: from the client, and to it.
	TunnelIn, TunnelOut int64
}

// Tokens is what the worker counted; zero where it did not say.
type Tokens struct {
	Input, Cached, Output int64
}

// NewReply returns a Reply over wire.
func NewReply(wire Wire) *Reply { return &Reply{wire: wire} }

// Reset makes w a new Reply over wire.
func (w *Reply) Reset(wire Wire) { *w = Reply{wire: wire} }

// Wrap puts a Wire around the one w has. It must be called before Commit.
func (w *Reply) Wrap(f func(Wire) Wire) { w.wire = f(w.wire) }

// Header returns the header that Commit sends.
func (w *Reply) Header() *Header { return w.wire.Header() }

// OnCommit makes Commit call f once the status and the header are sent; nil for
// no such call. A further f takes the place of the one before.
func (w *Reply) OnCommit(f func(status int)) { w.onCommit = f }

// A Finisher has something to do when an answer has ended.
type Finisher interface{ Finish() }

// Promise says that End will be called. A front end does so before it serves.
func (w *Reply) Promise() { w.promised = true }

// After makes End call f.Finish, for what the client is not to wait for: of the
// Request, nothing may be used then but its strings. It reports false, and does
// nothing, if nobody has promised to call End. There is one f at most.
func (w *Reply) After(f Finisher) bool {
	if w.after != nil {
		panic("BUG: two are to be finished after one answer")
	}
	if w.promised {
		w.after = f
	}
	return w.promised
}

// Awaited reports whether End has something to do.
func (w *Reply) Awaited() bool { return w.after != nil }

// End says that the client has been sent all that it will be. Later calls do
// nothing.
func (w *Reply) End() {
	if f := w.after; f != nil {
		w.after = nil
		f.Finish()
	}
}

// Commit sends the status and the header. Later calls do nothing.
func (w *Reply) Commit(status int) {
	if w.committed {
		return
	}
	w.committed, w.status = true, status
	w.wire.WriteHeader(status)
	if w.onCommit != nil {
		w.onCommit(status)
	}
}

// Committed reports whether the client has been sent anything.
func (w *Reply) Committed() bool { return w.committed }

// Status is what was committed, 0 before that.
func (w *Reply) Status() int { return w.status }

// Write sends b, with status 200 if nothing was committed before.
func (w *Reply) Write(b []byte) (int, error) {
	w.Commit(http.StatusOK)
	n, err := w.wire.Write(b)
	if err != nil {
		return n, fmt.Errorf("writing to client: %w", err)
	}
	return n, nil
}

// Splices reports whether Splice may be called once w is committed, without a
// Content-Length.
func (w *Reply) Splices() bool {
	s, ok := w.wire.(Splicer)
	return ok && s.Splices()
}

// Splice is Write for n bytes of data that have chunks around them: framed is
// sent as it is.
func (w *Reply) Splice(framed []byte, n int) error {
	if err := w.wire.(Splicer).Splice(framed, n); err != nil {
		return fmt.Errorf("writing to client: %w", err)
	}
	return nil
}

// Holds reports whether the client has been sent nothing of an event whose
// beginning alone was written.
func (w *Reply) Holds() bool {
	h, ok := w.wire.(Holder)
	return ok && h.Holds()
}

// Tunnels reports whether Tunnel may be called.
func (w *Reply) Tunnels() bool {
	t, ok := w.wire.(Tunneler)
	return ok && !w.committed && t.Tunnels()
}

// Tunnel commits 101 and takes over the client's connection, of which early has
// been read already. If it fails, the client has gone.
func (w *Reply) Tunnel() (nc net.Conn, early []byte, err error) {
	w.committed, w.status = true, http.StatusSwitchingProtocols
	if nc, early, err = w.wire.(Tunneler).Tunnel(); err != nil {
		return nil, nil, fmt.Errorf("writing to client: %w", err)
	}
	if w.onCommit != nil {
		w.onCommit(w.status)
	}
	return nc, early, nil
}

// Flush sends what is buffered.
func (w *Reply) Flush() error { return w.wire.Flush() }

// Send answers with a whole body of the given type.
func (w *Reply) Send(status int, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Commit(status)
	_, err := w.Write(body)
	return err
}
