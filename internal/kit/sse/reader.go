package sse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// DefaultLimit bounds an event's size where a Reader is not told another.
const DefaultLimit = 1 << 20

// ErrTooLong says that an event, or a comment, is over a Reader's Limit.
var ErrTooLong = errors.New("event too long")

// An Event is what a server sent at once.
type Event struct {
	Name []byte // its type; empty for "message"
	Data []byte // its lines, joined with '\n'
	ID   []byte // the last id that the stream has told, here or before
}

// A Reader takes events out of a stream. One goroutine at a time may use it.
type Reader struct {
	// Limit bounds the lines of an event together, in bytes. It may be set
	// before the first Next.
	Limit int

	src   io.Reader
	err   error // from src, or the end of reading; final
	begun bool
	cr    bool // the last line has ended with CR: an LF would belong to it

	buf     []byte // buf[r:w] is read and not yet used
	r, w    int
	scanned int // bytes from r on that end no line

	name, data, id []byte
}

// NewReader returns a Reader of r's events. It reads ahead.
func NewReader(r io.Reader) *Reader { return &Reader{Limit: DefaultLimit, src: r} }

// Next returns the next event with data; what it points to is good until the
// next call. Comments, retry and unknown fields are passed over.
//
// Errors: io.EOF if the stream has ended between events, io.ErrUnexpectedEOF if
// it has ended within one, ErrTooLong, and what reading failed with. An error
// is final: further calls return it again.
func (rd *Reader) Next() (Event, error) {
	rd.name, rd.data = rd.name[:0], rd.data[:0]
	var size int // of the event's lines so far
	var hasData bool
	for {
		line, err := rd.line(rd.Limit - size)
		if err == io.EOF && size > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			rd.err, rd.r, rd.w, rd.scanned = err, 0, 0, 0
			return Event{}, err
		}
		if len(line) == 0 {
			if hasData {
				return Event{Name: rd.name, Data: rd.data, ID: rd.id}, nil
			}
			rd.name, size = rd.name[:0], 0
			continue
		}
		f, value := fieldOf(line)
		if f == comment {
			continue
		}
		size += len(line)
		switch f {
		case data:
			if hasData {
				rd.data = append(rd.data, '\n')
			}
			rd.data, hasData = append(rd.data, value...), true
		case event:
			rd.name = append(rd.name[:0], value...)
		case id:
			if bytes.IndexByte(value, 0) < 0 {
				rd.id = append(rd.id[:0], value...)
			}
		}
	}
}

// line returns the next line without its end, of at most limit bytes. It is
// good until the next call.
func (rd *Reader) line(limit int) ([]byte, error) {
	if !rd.begun {
		rd.begin()
	}
	for {
		if rd.cr && rd.r < rd.w {
			rd.cr = false
			if rd.buf[rd.r] == '\n' {
				rd.r++
			}
		}
		rest := rd.buf[rd.r:rd.w]
		if i := lineEnd(rest[rd.scanned:]); i >= 0 {
			i += rd.scanned
			rd.scanned = 0
			rd.cr = rest[i] == '\r'
			rd.r += i + 1
			if i > limit {
				return nil, ErrTooLong
			}
			return rest[:i], nil
		}
		rd.scanned = len(rest)
		if rd.scanned > limit {
			return nil, ErrTooLong
		}
		if err := rd.fill(); err != nil {
			if err == io.EOF && rd.r < rd.w {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// begin passes over a byte order mark. Errors are left for the next fill to
// tell.
func (rd *Reader) begin() {
	rd.begun = true
	for rd.w < len(byteOrderMark) && bytes.HasPrefix(byteOrderMark, rd.buf[:rd.w]) {
		if rd.fill() != nil {
			break
		}
	}
	if bytes.HasPrefix(rd.buf[:rd.w], byteOrderMark) {
		rd.r = len(byteOrderMark)
	}
}

// fill reads more from src. It returns an error only without new bytes.
func (rd *Reader) fill() error {
	if rd.err != nil {
		return rd.err
	}
	if rd.r > 0 {
		rd.w, rd.r = copy(rd.buf, rd.buf[rd.r:rd.w]), 0
	}
	if rd.w == len(rd.buf) {
		rd.buf = append(rd.buf, make([]byte, max(4<<10, len(rd.buf)))...)
	}
	for range 100 {
		n, err := rd.src.Read(rd.buf[rd.w:])
		rd.w += n
		if err != nil {
			if err != io.EOF {
				err = fmt.Errorf("reading events: %w", err)
			}
			rd.err = err
		}
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	rd.err = fmt.Errorf("reading events: %w", io.ErrNoProgress)
	return rd.err
}
