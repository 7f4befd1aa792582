package core

import (
	"fmt"
	"unicode/utf8"
)

// A Reader takes a binary apart. The first thing that is wrong ends it: from
// then on every method returns zero, More false, and Err what it was. So a loop
// that asks More, or that a Count bounds, ends.
type Reader struct {
	b   []byte
	pos int
	off int // of b in the file
	err error
}

// NewReader returns a Reader over b, whose first byte is at offset off of the
// file that errors speak of.
func NewReader(b []byte, off int) *Reader { return &Reader{b: b, off: off} }

// An Error says what is wrong with a binary, and where.
type Error struct {
	Offset int // in the file
	Msg    string
}

func (e *Error) Error() string { return fmt.Sprintf("%s at offset %#x", e.Msg, e.Offset) }

// Fail makes the Reader fail, unless it has failed before.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = &Error{Offset: r.Offset(), Msg: fmt.Sprintf(format, args...)}
	}
	r.pos = len(r.b)
}

// Err returns what is wrong, nil if nothing was found.
func (r *Reader) Err() error { return r.err }

// FailWith makes err what is wrong: that of a Reader over a part.
func (r *Reader) FailWith(err error) {
	if err != nil && r.err == nil {
		r.err = err
		r.pos = len(r.b)
	}
}

// More reports whether there are bytes left.
func (r *Reader) More() bool { return r.err == nil && r.pos < len(r.b) }

// Left is how many bytes are left.
func (r *Reader) Left() int { return len(r.b) - r.pos }

// Offset is where the next byte is in the file.
func (r *Reader) Offset() int { return r.off + r.pos }

// Pos is where the next byte is in what the Reader is over.
func (r *Reader) Pos() int { return r.pos }

// Byte takes a byte.
func (r *Reader) Byte() byte {
	if r.pos >= len(r.b) {
		r.Fail("the binary ends too early")
		return 0
	}
	c := r.b[r.pos]
	r.pos++
	return c
}

// Peek is the next byte, 0 if there is none.
func (r *Reader) Peek() byte {
	if r.pos >= len(r.b) {
		return 0
	}
	return r.b[r.pos]
}

// Bytes takes n bytes, which share the Reader's memory.
func (r *Reader) Bytes(n int) []byte {
	if n < 0 || n > r.Left() {
		r.Fail("%d bytes are wanted and %d are left", n, r.Left())
		return nil
	}
	b := r.b[r.pos : r.pos+n : r.pos+n]
	r.pos += n
	return b
}

// U32 takes an unsigned LEB128 of at most 32 bits.
func (r *Reader) U32() uint32 { return uint32(r.unsigned(32)) }

func (r *Reader) unsigned(bits uint) uint64 {
	var v uint64
	for shift := uint(0); ; shift += 7 {
		c := r.Byte()
		if r.err != nil {
			return 0
		}
		v |= uint64(c&0x7f) << shift
		if left := bits - shift; left < 7 && c>>left != 0 {
			r.Fail("an integer of more than %d bits", bits)
			return 0
		}
		if c < 0x80 {
			return v
		}
	}
}

// integer passes over a LEB128 of at most most bytes, signed or not.
func (r *Reader) integer(most int) {
	for range most {
		if r.Byte() < 0x80 {
			return
		}
	}
	r.Fail("an integer of more than %d bytes", most)
}

// i32 takes a signed LEB128 of at most 5 bytes, of which it looks at 32 bits.
func (r *Reader) i32() int32 {
	var v int64
	for shift := 0; shift < 35; shift += 7 {
		c := r.Byte()
		v |= int64(c&0x7f) << shift
		if c < 0x80 {
			if c&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return int32(v)
		}
	}
	r.Fail("an integer of more than 5 bytes")
	return 0
}

// Count takes the length of a list whose elements have least bytes or more, and
// fails if the list cannot be in what is left.
func (r *Reader) Count(least int) int {
	n := int(r.U32())
	if n > r.Left()/max(least, 1) {
		r.Fail("a list of %d elements in %d bytes", n, r.Left())
		return 0
	}
	return n
}

// Name takes a string.
func (r *Reader) Name() string {
	b := r.Bytes(int(r.U32()))
	if !utf8.Valid(b) {
		r.Fail("a name is not UTF-8")
		return ""
	}
	return string(b)
}

// Part takes the n bytes of a section.
func (r *Reader) Part() *Reader {
	n := int(r.U32())
	at := r.Offset()
	return NewReader(r.Bytes(n), at)
}
