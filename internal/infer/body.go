package infer

import (
	"bytes"
	"errors"
	"io"
	"net/http"
)

// A Body is a request's that is still with the client. Each front end has its
// own, and owns the memory that it reads into.
type Body interface {
	// ReadAll reads the whole body, or fails with an *Error if that is longer
	// than limit bytes or cannot be had. A body that announces more is refused
	// unread. The bytes are good until Release, or until the Reply has ended.
	ReadAll(limit int64) ([]byte, error)

	// Release tells that the bytes are not needed any longer, nor the
	// Request's Header.
	Release()
}

// SetBody says where the body is still to be read from; nil for no body.
func (r *Request) SetBody(b Body) { r.src = b }

// ReadBody fills Body from the client, at most limit bytes.
func (r *Request) ReadBody(limit int64) error {
	if r.src == nil || r.read {
		return nil
	}
	b, err := r.src.ReadAll(limit)
	if err != nil {
		return err
	}
	r.Body, r.Size, r.read = b, int64(len(b)), true
	return nil
}

// Release gives back the memory of Body and Header, which are empty from then
// on: no attempt can follow. Who is going to wait for long after the Reply was
// committed calls it, because a stream lives for minutes and its request is
// needed for its first milliseconds.
func (r *Request) Release() {
	r.Body, r.text, r.Header = nil, nil, Header{}
	if r.src != nil {
		r.src.Release()
		r.src = nil
	}
}

// NewBody returns a Body that reads from src. length is -1 if it is unknown.
func NewBody(src io.Reader, length int64) Body { return &reader{src, length} }

type reader struct {
	src    io.Reader
	length int64
}

func (b *reader) Release() {}

func (b *reader) ReadAll(limit int64) ([]byte, error) {
	if b.length > limit {
		return nil, TooLarge
	}
	var buf bytes.Buffer
	if b.length > 0 {
		// bytes.Buffer wants room for one more read to see the end.
		buf.Grow(int(min(b.length, 1<<20)) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(b.src, limit+1))
	var own *Error
	switch {
	case errors.As(err, &own):
		return nil, own
	case err != nil:
		return nil, Unreadable(err)
	case n > limit:
		return nil, TooLarge
	}
	return buf.Bytes(), nil
}

// TooLarge is the error of a body that is longer than its limit.
var TooLarge = &Error{Status: http.StatusRequestEntityTooLarge, Code: "request_body_too_large", Msg: "Request body exceeded the payload limit (max_payload_size)"}

// Unreadable is the error of a body that ended early or breaks the protocol.
func Unreadable(err error) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "request_body_unreadable", Msg: "The request body ended early or could not be read.", Err: err}
}
