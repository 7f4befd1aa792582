package h1

import "math"

// A ChunkScanner follows a chunked body, RFC 9112 §7.1, without changing it:
// it finds the data in it and its end, and refuses what readers could
// understand differently, so that the bytes may be passed on as they came.
// Reset makes one ready.
//
// It is stricter than the grammar in two ways, because who passes bytes on
// cannot repair them: no whitespace follows a chunk's size, and trailers have
// no field of those that RFC 9110 §6.5.1 keeps out of them.
type ChunkScanner struct {
	left    uint64 // of the size line read so far, or of the data to come
	state   chunkState
	digits  uint8 // of the size
	nameLen uint8 // of the trailer field's name; at most len(name)
	name    [20]byte

	ext     int32 // bytes of this chunk's extensions
	trailer int32 // bytes of the trailer fields
	excess  int32 // bytes by which all extensions exceed the data before them
	lim     chunkLimits
	err     *Error
}

// chunkLimits are the Limits of chunks. A stream holds them for minutes, so they
// are short.
type chunkLimits struct{ extension, extensions, trailer int32 }

func chunkLimitsOf(lim Limits) chunkLimits {
	const most = math.MaxInt32 - 1 // what is counted goes one further
	return chunkLimits{int32(min(lim.Extension, most)), int32(min(lim.Extensions, most)), int32(min(lim.Trailer, most))}
}

type chunkState uint8

const (
	chunkSize     chunkState = iota
	chunkExt                 // before an extension's name
	chunkName                // in it
	chunkNameEnd             // in the whitespace after it
	chunkEqual               // before an extension's value
	chunkValue               // in it
	chunkQuoted              // in a quoted value
	chunkEscape              // after a backslash in it
	chunkValueEnd            // after a quoted value, or in the whitespace after one
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	trailerStart
	trailerName
	trailerValue
	trailerLF
	trailerEndLF
	chunkDone
	chunkBad
)

// Reset makes s ready for a body.
func (s *ChunkScanner) Reset(lim Limits) { *s = ChunkScanner{lim: chunkLimitsOf(lim)} }

// Done reports whether the body has ended.
func (s *ChunkScanner) Done() bool { return s.state == chunkDone }

// Scan follows the body through p. n bytes of p are the body's; done tells
// that it ends with them, and what is behind them is the next message's.
// After an error, the n bytes before it are well-formed, and nothing more can
// be.
func (s *ChunkScanner) Scan(p []byte) (n int, done bool, err error) {
	for n < len(p) && s.state != chunkDone {
		k, _, e := s.next(p[n:], len(p))
		n += k
		if e != nil {
			return n, false, e
		}
	}
	return n, s.state == chunkDone, nil
}

// Next is Scan up to the end of the first piece of data in p, and the framing
// behind it. data is a part of p, and empty if p[:n] holds none. Call it again
// with p[n:] until that is empty or Done.
func (s *ChunkScanner) Next(p []byte) (n int, data []byte, err error) {
	n, data, e := s.next(p, len(p))
	if e != nil {
		return n, data, e
	}
	return n, data, nil
}

// next is Next that takes at most room bytes of data.
func (s *ChunkScanner) next(p []byte, room int) (i int, data []byte, err *Error) {
	for i < len(p) {
		switch s.state {
		case chunkData:
			if data != nil || room == 0 {
				return i, data, nil
			}
			k := int(min(s.left, uint64(min(len(p)-i, room))))
			data = p[i : i+k : i+k]
			i += k
			if s.left -= uint64(k); s.left > 0 {
				return i, data, nil
			}
			s.state = chunkDataCR
		case chunkDataCR:
			if p[i] != '\r' {
				return i, data, s.fail(errChunkEnd)
			}
			i++
			s.state = chunkDataLF
		case chunkDataLF:
			if p[i] != '\n' {
				return i, data, s.fail(errChunkEnd)
			}
			i++
			s.state = chunkSize
		case chunkSize:
			k, e := s.size(p[i:])
			if i += k; e != nil {
				return i, data, s.fail(e)
			}
		case chunkSizeLF:
			if p[i] != '\n' {
				return i, data, s.fail(errChunkLine)
			}
			i++
			s.begin()
		case chunkDone:
			return i, data, nil
		case chunkBad:
			return i, data, s.err
		case trailerStart, trailerName, trailerValue, trailerLF, trailerEndLF:
			if e := s.trailerByte(p[i]); e != nil {
				return i, data, s.fail(e)
			}
			i++
		default:
			if e := s.extByte(p[i]); e != nil {
				return i, data, s.fail(e)
			}
			i++
		}
	}
	return i, data, nil
}

func (s *ChunkScanner) fail(e *Error) *Error {
	s.state, s.err = chunkBad, e
	return e
}

// size reads digits of a size, and the byte behind them.
func (s *ChunkScanner) size(p []byte) (i int, err *Error) {
	left, digits := s.left, s.digits
	for ; i < len(p); i++ {
		d := hexDigits[p[i]]
		if d == notHex {
			break
		}
		if digits == 16 {
			return i, errChunkLarge
		}
		left = left<<4 | uint64(d)
		digits++
	}
	s.left, s.digits = left, digits
	if i == len(p) {
		return i, nil
	}
	switch c := p[i]; {
	case digits == 0:
		return i, errChunkSize
	case left > maxLength:
		return i, errChunkLarge
	case c == '\r':
		s.state = chunkSizeLF
	case c == ';':
		s.state, s.ext = chunkExt, 0
		return i + 1, s.countExt()
	case c == '\n':
		return i, errChunkLine
	default:
		return i, errChunkSize
	}
	return i + 1, nil
}

// begin begins the chunk whose size line was read.
func (s *ChunkScanner) begin() {
	s.digits = 0
	if s.left == 0 {
		s.state = trailerStart
		return
	}
	s.state = chunkData
	if s.excess > 0 {
		s.excess -= int32(min(s.left, uint64(s.excess)))
	}
}

// countExt counts one byte of extensions.
func (s *ChunkScanner) countExt() *Error {
	s.ext++
	s.excess++
	if s.ext > s.lim.extension || s.excess > s.lim.extensions {
		return errExtLong
	}
	return nil
}

// extByte takes one byte of a chunk's extensions: RFC 9112 §7.1.1. They are
// ignored, but their grammar is held to: a reader that ends a line elsewhere
// than we do would find other chunks.
func (s *ChunkScanner) extByte(c byte) *Error {
	token, space := chars[c]&inToken != 0, c == ' ' || c == '\t'
	end := c == ';' || c == '\r' // of an extension
	next := s.state
	switch s.state {
	case chunkExt:
		switch {
		case token:
			next = chunkName
		case !space:
			return errExt
		}
	case chunkName, chunkNameEnd:
		switch {
		case token && s.state == chunkName:
		case c == '=':
			next = chunkEqual
		case space:
			next = chunkNameEnd
		case !end:
			return badExt(c)
		}
	case chunkEqual:
		switch {
		case token:
			next = chunkValue
		case c == '"':
			next = chunkQuoted
		case !space:
			return badExt(c)
		}
		end = false
	case chunkValue, chunkValueEnd:
		switch {
		case token && s.state == chunkValue:
		case space:
			next = chunkValueEnd
		case !end:
			return badExt(c)
		}
	case chunkQuoted, chunkEscape:
		end = false
		switch {
		case chars[c]&inValue == 0:
			return badExt(c)
		case s.state == chunkEscape:
			next = chunkQuoted
		case c == '\\':
			next = chunkEscape
		case c == '"':
			next = chunkValueEnd
		}
	}
	switch {
	case end && c == '\r':
		s.state = chunkSizeLF
		return nil
	case end:
		next = chunkExt
	}
	s.state = next
	return s.countExt()
}

func badExt(c byte) *Error {
	if c == '\n' || c == '\r' {
		return errChunkLine
	}
	return errExt
}

// trailerByte takes one byte of the trailer section: RFC 9112 §7.1.2. Only as
// much of it is kept as a name that is not allowed has.
func (s *ChunkScanner) trailerByte(c byte) *Error {
	switch s.state {
	case trailerStart:
		switch {
		case c == '\r':
			s.state = trailerEndLF
			return nil
		case c == '\n':
			return errBareLF
		case c == ' ' || c == '\t':
			return errFold
		}
		s.state, s.nameLen = trailerName, 0
		return s.trailerNameByte(c)
	case trailerName:
		return s.trailerNameByte(c)
	case trailerValue:
		switch {
		case c == '\r':
			s.state = trailerLF
		case c == '\n':
			return errBareLF
		case chars[c]&inValue == 0:
			return errFieldValue
		}
	case trailerLF:
		if c != '\n' {
			return errBareCR
		}
		s.state = trailerStart
	case trailerEndLF:
		if c != '\n' {
			return errBareCR
		}
		s.state = chunkDone
		return nil
	}
	return s.countTrailer()
}

func (s *ChunkScanner) trailerNameByte(c byte) *Error {
	switch {
	case chars[c]&inToken != 0:
		if int(s.nameLen) < len(s.name) {
			s.name[s.nameLen] = c
			s.nameLen++
		}
	case c == ':' && s.nameLen > 0:
		if forbiddenTrailer(s.name[:s.nameLen]) {
			return errTrailer
		}
		s.state = trailerValue
	case (c == ' ' || c == '\t') && s.nameLen > 0:
		return errColonSpace
	default:
		return errFieldName
	}
	return s.countTrailer()
}

func (s *ChunkScanner) countTrailer() *Error {
	if s.trailer++; s.trailer > s.lim.trailer {
		return errTrailerLong
	}
	return nil
}

// forbiddenTrailer reports whether a trailer must not have the field: RFC 9110
// §6.5.1 names framing, routing, request modifiers, authentication, and what
// tells how to read the content. Every name here is shorter than
// ChunkScanner.name is long.
func forbiddenTrailer(name []byte) bool {
	if known(name) != kindOther {
		return true
	}
	for _, f := range forbiddenTrailers {
		if EqualFold(name, f) {
			return true
		}
	}
	return false
}

var forbiddenTrailers = [...]string{
	"authorization", "www-authenticate", "authentication-info", "cookie", "set-cookie",
	"content-encoding", "content-type", "content-range", "content-location",
	"cache-control", "max-forwards", "pragma", "range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since",
	"age", "date", "expires", "location", "retry-after", "vary",
	"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-api-key", "api-key",
}
