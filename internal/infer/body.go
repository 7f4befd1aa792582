package infer

import (
	"bytes"
	"errors"
	"io"
	"net/http"
)

// ReadBody fills Body from the client, at most limit bytes. A body that
// announces more is refused unread.
func (r *Request) ReadBody(limit int64) error {
	if r.src == nil {
		return nil
	}
	if r.length > limit {
		return tooLarge
	}
	var buf bytes.Buffer
	if r.length > 0 {
		// bytes.Buffer wants room for one more read to see the end.
		buf.Grow(int(min(r.length, 1<<20)) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(r.src, limit+1))
	var own *Error
	switch {
	case errors.As(err, &own):
		return own
	case err != nil:
		return &Error{Status: http.StatusBadRequest, Code: "request_body_unreadable", Msg: "The request body ended early or could not be read.", Err: err}
	case n > limit:
		return tooLarge
	}
	r.Body, r.src = buf.Bytes(), nil
	return nil
}

var tooLarge = &Error{Status: http.StatusRequestEntityTooLarge, Code: "request_body_too_large", Msg: "Request body exceeded the payload limit (max_payload_size)"}
