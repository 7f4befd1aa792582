package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/peek"
	"sluice/internal/kit/sse"
)

// bufs holds the buffers that answers pass through: 32 KiB, as io.Copy has.
// Streams come a token at a time, so larger ones would only cost memory.
var bufs = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// maxHeld bounds a whole answer that is read before it is begun, so that
// another worker can be asked when it breaks off. Longer ones are passed on as
// they come.
const maxHeld = 1 << 20

// stream passes events on, those that are whole at each read, and watches them
// go by. The beginning of an event waits for its end: nobody can use it before,
// and if its worker dies nobody is left with half an event.
func stream(ctx context.Context, r *infer.Request, w *infer.Reply, res *http.Response) error {
	buf := bufs.Get().(*[32 << 10]byte)
	defer bufs.Put(buf)
	endsByClosing := unproven(res)
	// A length that the worker does not keep to would leave no room for the
	// event that says so.
	res.Header.Del("Content-Length")
	res.ContentLength = -1
	var seen sse.Watcher
	defer func() { w.Served.Tokens, w.Served.Events = tokens(&seen), seen.ContentEvents() }()
	held := 0     // bytes at the front of buf that wait
	torn := false // a part of an event was sent, for it is longer than buf
	for {
		n, err := res.Body.Read(buf[held:])
		seen.Feed(buf[held : held+n])
		held += n
		if err == io.EOF && endsByClosing && !seen.Done() {
			err = io.ErrUnexpectedEOF
		}
		whole := held
		switch {
		case seen.AtBoundary():
			torn = false
		case err == io.EOF: // what it sent is its to answer for
		default:
			whole = wholeEvents(buf[:held])
			if whole == 0 && (held == len(buf) || torn && err != nil) {
				whole, torn = held, true
			}
			torn = torn && whole == 0 || whole == held
		}
		if whole > 0 {
			begin(r, w, res)
			if err := pass(w, buf[:whole]); err != nil {
				return gone(err)
			}
			held = copy(buf[:], buf[whole:held])
		}
		switch {
		case err == io.EOF:
			begin(r, w, res) // an empty stream is an answer too
			return nil
		case err != nil && seen.Done() && seen.AtBoundary():
			return nil // all was said; how the connection ended does not matter
		case err != nil:
			if torn && !seen.AtBoundary() {
				_ = pass(w, []byte("\n\n")) // an error event follows; it must stand alone
			}
			return brokeOff(ctx, err)
		}
	}
}

// wholeEvents returns how long the whole events are that b begins with. It
// looks for the last empty line, after LF or CRLF.
func wholeEvents(b []byte) int {
	for i := len(b); ; {
		i = bytes.LastIndexByte(b[:i], '\n')
		switch {
		case i < 1:
			return 0
		case b[i-1] == '\n', i > 1 && b[i-1] == '\r' && b[i-2] == '\n':
			return i + 1
		}
	}
}

// unproven reports whether only the connection's end marks the answer's end, as
// in HTTP/1.0. A worker that died looks the same, so its last word must have
// been heard.
func unproven(res *http.Response) bool {
	return res.ContentLength < 0 && len(res.TransferEncoding) == 0 && res.ProtoMajor == 1
}

// whole passes on an answer that makes sense only in one piece.
func whole(ctx context.Context, r *infer.Request, w *infer.Reply, res *http.Response) error {
	if res.ContentLength > maxHeld || res.ContentLength < 0 && !isJSON(res.Header) {
		return through(ctx, r, w, res, nil)
	}
	body, err := held(res, maxHeld)
	if err == nil && unproven(res) && len(body) <= maxHeld && isTorn(body) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return brokeOff(ctx, err)
	}
	if len(body) > maxHeld {
		return through(ctx, r, w, res, body)
	}
	if u, ok := sse.UsageOf(body); ok && res.StatusCode == http.StatusOK {
		w.Served.Tokens = infer.Tokens(u)
	}
	res.ContentLength = int64(len(body))
	begin(r, w, res)
	return send(w, body)
}

// isTorn reports whether body is not JSON from end to end.
func isTorn(body []byte) bool {
	var syntax *peek.SyntaxError
	return errors.As(peek.Object(body, noKeys, nil), &syntax)
}

var noKeys = peek.NewKeys()

// held reads an answer up to one byte over limit. What the worker announces is
// not believed beyond maxHeld.
func held(res *http.Response, limit int64) ([]byte, error) {
	var b bytes.Buffer
	if res.ContentLength > 0 {
		b.Grow(int(min(res.ContentLength, maxHeld)) + bytes.MinRead)
	}
	_, err := b.ReadFrom(io.LimitReader(res.Body, limit+1))
	return b.Bytes(), err
}

// through passes on head and then the rest of an answer as it comes.
func through(ctx context.Context, r *infer.Request, w *infer.Reply, res *http.Response, head []byte) error {
	buf := bufs.Get().(*[32 << 10]byte)
	defer bufs.Put(buf)
	if len(head) > 0 {
		begin(r, w, res)
		if err := pass(w, head); err != nil {
			return gone(err)
		}
	}
	for {
		n, err := res.Body.Read(buf[:])
		if n > 0 || err == io.EOF {
			begin(r, w, res)
			if err := pass(w, buf[:n]); err != nil {
				return gone(err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return brokeOff(ctx, err)
		}
	}
}

// begin commits the answer's status and header, once.
func begin(r *infer.Request, w *infer.Reply, res *http.Response) {
	if w.Committed() {
		return
	}
	clientHeader(w.Header(), res.Header)
	if res.ContentLength >= 0 && res.StatusCode != http.StatusNoContent && !w.Header().Has("Content-Length") {
		w.Header().Set("Content-Length", strconv.FormatInt(res.ContentLength, 10))
	}
	w.Served.FirstByte = time.Since(r.Received)
	w.Commit(res.StatusCode)
}

// send writes a whole body.
func send(w *infer.Reply, body []byte) error {
	if _, err := w.Write(body); err != nil {
		return gone(err)
	}
	return nil
}

// pass sends a piece at once: a token that waits in a buffer is a token the
// reader does not see.
func pass(w *infer.Reply, p []byte) error {
	if len(p) > 0 {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return w.Flush()
}

// gone is the error of a client that does not take its answer.
func gone(err error) error {
	return &infer.Error{Status: infer.StatusClientGone, Code: "client_closed_request", Msg: "The client left before the answer was complete.", Err: err}
}

// brokeOff is the error of an answer that ended before its end. Whether another
// worker can be asked depends on what the client has seen, which the router
// knows.
func brokeOff(ctx context.Context, err error) error {
	if e := infer.Ended(ctx, err); e != nil {
		return e
	}
	return &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_body_error", Msg: "The worker's answer broke off.", Retry: true, Err: err}
}

func tokens(seen *sse.Watcher) infer.Tokens {
	u, _ := seen.Usage()
	return infer.Tokens(u)
}
