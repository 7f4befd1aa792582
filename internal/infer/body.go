package infer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// A Body is a request's that is still with the client. Each front end has its
// own, and owns the memory that it reads into.
type Body interface {
	// ReadShort reads the body whole if it is no longer than most bytes. If it
	// is, or announces to be, whole is false, and what was read of it comes
	// first in the ReadShort or the Pass that follows. It fails with an *Error
	// if the body is, or announces to be, longer than limit bytes or cannot be
	// had. The bytes are good until Release, or until the Reply has ended.
	ReadShort(most, limit int64) (b []byte, whole bool, err error)

	// Length is how many bytes the body announces, -1 if it does not.
	Length() int64

	// Pass writes the body to w, piece by piece, instead of reading it whole:
	// the next is read when w has taken the one before, so that the client
	// sends no faster than that. Errors are those of w as they are, and those of
	// ReadShort. It may be called once, by another goroutine than the handler's,
	// which must not use the Reply until Pass has returned.
	Pass(w io.Writer, limit int64) error

	// Stop ends a Pass soon, or the one to come, with an error that means
	// nothing. It may be called while it runs, and when it has ended.
	Stop()

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
	b, whole, err := r.src.ReadShort(limit, limit)
	switch {
	case err != nil:
		return err
	case !whole:
		return TooLarge
	}
	r.Body, r.Size, r.read = b, int64(len(b)), true
	return nil
}

// ReadFixed is ReadBody with a limit that no setting changes, which its error says;
// it is whole MiB.
func (r *Request) ReadFixed(limit int64) error {
	err := r.ReadBody(limit)
	if errors.Is(err, TooLarge) {
		return &Error{Status: TooLarge.Status, Code: TooLarge.Code, Err: err,
			Msg: fmt.Sprintf("The request body is longer than the %d MiB that this call takes, which no setting changes.", limit>>20)}
	}
	return err
}

// ReadShortBody is ReadBody for a body of at most most bytes. It reports whether
// there is a longer one, of which nothing is in Body yet: ReadBody or LeaveBody
// has to follow.
func (r *Request) ReadShortBody(most, limit int64) (longer bool, err error) {
	if r.src == nil || r.read {
		return false, nil
	}
	b, whole, err := r.src.ReadShort(most, limit)
	if err != nil || !whole {
		return err == nil, err
	}
	r.Body, r.Size, r.read = b, int64(len(b)), true
	return false, nil
}

// LeaveBody leaves a body of at most limit bytes with the client until PassBody.
// Body stays empty.
func (r *Request) LeaveBody(limit int64) { r.left, r.limit = true, limit }

// Left reports whether the body was left with the client: nobody has looked into
// it, and it can be sent to one worker only.
func (r *Request) Left() bool { return r.left }

// LeftLimit is how many bytes a body may have that was left with the client.
func (r *Request) LeftLimit() int64 { return r.limit }

// Gone reports whether the body was left with the client and is not to be had
// any more, because an attempt has begun to take it.
func (r *Request) Gone() bool { return r.gone }

// ReadLeft reads a body that was left with the client after all, at most limit
// bytes and no more than LeaveBody allows. Nobody may have begun to take it.
func (r *Request) ReadLeft(limit int64) error {
	r.left = false
	return r.ReadBody(min(limit, r.limit))
}

// SetBytes makes b the body, in the place of the one that the client sent.
func (r *Request) SetBytes(b []byte) { r.Body, r.read = b, true }

// BodyLength is how many bytes the body has that will be sent to a worker, -1 if
// nobody knows.
func (r *Request) BodyLength() int64 {
	if r.left {
		return r.src.Length()
	}
	return int64(len(r.Body))
}

// PassBody writes the body that was left with the client to w, once, as
// Body.Pass does.
func (r *Request) PassBody(w io.Writer) error {
	r.gone = true
	return r.src.Pass(&counter{w, r}, r.limit)
}

// StopBody ends PassBody, as Body.Stop does.
func (r *Request) StopBody() { r.src.Stop() }

// A counter notes how much of a Request's body has passed.
type counter struct {
	w io.Writer
	r *Request
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.r.Size += int64(n)
	return n, err
}

// Release gives back the memory of Body and Header, which are empty from then
// on: no attempt can follow. Who is going to wait for long after the Reply was
// committed calls it, because a stream lives for minutes and its request is
// needed for its first milliseconds.
func (r *Request) Release() {
	r.DropText()
	r.Body, r.Header = nil, Header{}
	if r.src != nil {
		r.src.Release()
		r.src = nil
	}
}

// A Clocked is a reader of a client's bytes that holds it to a time.
type Clocked interface {
	io.Reader

	// Pause stops the clock until the next Read.
	Pause()

	// Stop ends the Read that waits for the client, and those to come. It may
	// be called while one runs.
	Stop()
}

// NewBody returns a Body that reads from src, which is Clocked if its Reads may
// wait. length is -1 if it is unknown.
func NewBody(src io.Reader, length int64) Body { return &reader{src: src, length: length} }

type reader struct {
	src    io.Reader
	length int64
	begun  bytes.Buffer // what was read
}

func (b *reader) Release() { b.begun = bytes.Buffer{} }

func (b *reader) Length() int64 { return b.length }

func (b *reader) ReadShort(most, limit int64) ([]byte, bool, error) {
	if b.length > limit {
		return nil, false, TooLarge
	}
	if b.length > most {
		return nil, false, nil
	}
	if b.length > 0 && b.begun.Len() == 0 {
		// bytes.Buffer wants room for one more read to see the end. What is
		// announced is believed up to there: it need not come.
		b.begun.Grow(int(min(b.length, 64<<10)) + bytes.MinRead)
	}
	_, err := b.begun.ReadFrom(io.LimitReader(b.src, most+1-int64(b.begun.Len())))
	switch {
	case err != nil:
		return nil, false, unread(err)
	case int64(b.begun.Len()) > most:
		return nil, false, nil
	}
	return b.begun.Bytes(), true, nil
}

// unread names what kept a body from being read.
func unread(err error) error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	return Unreadable(err)
}

func (b *reader) Pass(w io.Writer, limit int64) error {
	give := func(p []byte) error {
		if c, ok := b.src.(Clocked); ok {
			c.Pause()
		}
		_, err := w.Write(p)
		return err
	}
	n := int64(b.begun.Len())
	if n > 0 {
		if err := give(b.begun.Bytes()); err != nil {
			return err
		}
		b.begun = bytes.Buffer{}
	}
	piece := pieces.Get().(*[passSize]byte)
	defer pieces.Put(piece)
	for {
		k, err := b.src.Read(piece[:])
		n += int64(k)
		switch {
		case n > limit:
			return TooLarge
		case b.length >= 0 && n > b.length:
			return Unreadable(errors.New("it is longer than it was said to be"))
		}
		if k > 0 {
			if err := give(piece[:k]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && n < b.length:
			return Unreadable(io.ErrUnexpectedEOF)
		case err == io.EOF:
			return nil
		case err != nil:
			return unread(err)
		}
	}
}

// passSize is how much of a body is in hand while it passes.
const passSize = 64 << 10

var pieces = sync.Pool{New: func() any { return new([passSize]byte) }}

func (b *reader) Stop() {
	if c, ok := b.src.(Clocked); ok {
		c.Stop()
	}
}

// TooLarge is the error of a body that is longer than its limit.
var TooLarge = &Error{Status: http.StatusRequestEntityTooLarge, Code: "request_body_too_large", Msg: "Request body exceeded the payload limit (max_payload_size)"}

// Unreadable is the error of a body that ended early or breaks the protocol.
func Unreadable(err error) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "request_body_unreadable", Msg: "The request body ended early or could not be read.", Err: err}
}
