package relay

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/sse"
)

// bufs holds the buffers that answers pass through: 32 KiB, as io.Copy has.
// Streams come a token at a time, so larger ones would only cost memory.
var bufs = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// maxHeld bounds a whole answer that is read before it is begun, so that
// another worker can be asked when it breaks off. Longer ones are passed on as
// they come.
const maxHeld = 1 << 20

// stream passes events on, a piece for each read, and watches them go by.
func stream(ctx context.Context, r *infer.Request, w *infer.Reply, res *http.Response) error {
	buf := bufs.Get().(*[32 << 10]byte)
	defer bufs.Put(buf)
	// A length that the worker does not keep to would leave no room for the
	// event that says so.
	res.Header.Del("Content-Length")
	res.ContentLength = -1
	var seen sse.Watcher
	defer func() { w.Served.Tokens, w.Served.Events = tokens(&seen), seen.ContentEvents() }()
	for {
		n, err := res.Body.Read(buf[:])
		if n > 0 {
			if !w.Committed() {
				begin(r, w, res)
			}
			seen.Feed(buf[:n])
			if err := pass(w, buf[:n]); err != nil {
				return gone(err)
			}
		}
		if err == io.EOF && unproven(res) && !seen.Done() {
			err = io.ErrUnexpectedEOF
		}
		switch {
		case err == io.EOF && w.Committed():
			return nil
		case err == io.EOF:
			begin(r, w, res) // an empty stream is an answer too
			return nil
		case err != nil && seen.Done() && seen.AtBoundary():
			return nil // all was said; how the connection ended does not matter
		case err != nil:
			if w.Committed() && !seen.AtBoundary() {
				_ = pass(w, []byte("\n\n")) // an error event follows; it must stand alone
			}
			return brokeOff(ctx, err)
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
	body, err := held(res)
	if err != nil {
		return brokeOff(ctx, err)
	}
	if len(body) > maxHeld {
		return through(ctx, r, w, res, body)
	}
	if u, ok := sse.UsageOf(body); ok && res.StatusCode == http.StatusOK {
		w.Served.Tokens = infer.Tokens(u)
	}
	begin(r, w, res)
	return send(w, body)
}

// held reads an answer up to one byte over maxHeld.
func held(res *http.Response) ([]byte, error) {
	var b bytes.Buffer
	if res.ContentLength > 0 {
		b.Grow(int(res.ContentLength) + bytes.MinRead)
	}
	_, err := b.ReadFrom(io.LimitReader(res.Body, maxHeld+1))
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
	if res.ContentLength >= 0 && !w.Header().Has("Content-Length") {
		w.Header().Set("Content-Length", strconv.FormatInt(res.ContentLength, 10))
	}
	w.Served.FirstByte = time.Since(r.Received)
	w.Commit(res.StatusCode)
}

// send writes a whole body, with its length if the worker did not say it.
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
	if e := ended(ctx, err); e != nil {
		return e
	}
	return &infer.Error{Status: http.StatusBadGateway, Code: "call_upstream_body_error", Msg: "The worker's answer broke off.", Retry: true, Err: err}
}

func tokens(seen *sse.Watcher) infer.Tokens {
	u, _ := seen.Usage()
	return infer.Tokens(u)
}
