package h1

import (
	"bytes"
	"strconv"
	"sync/atomic"
	"time"
)

// What is appended here cannot be split into more messages or fields than were
// meant: what has a byte that could is refused, dst is returned as it was, and
// ok is false. The caller then has a bug, or somebody hostile at its other end.

// ContinueHead is the interim answer that Expect100 waits for.
const ContinueHead = "HTTP/1.1 100 Continue\r\n\r\n"

// ChunkedField announces a body of chunks.
const ChunkedField = "Transfer-Encoding: chunked\r\n"

// LastChunk ends a body of chunks that has no trailer.
const LastChunk = "0\r\n\r\n"

// EndHead ends a head.
const EndHead = "\r\n"

// AppendRequestLine appends a request line of HTTP/1.1. The target is a path
// with or without a query, or "*".
func AppendRequestLine[M, T text](dst []byte, method M, target T) (_ []byte, ok bool) {
	if !isToken(method) || len(target) == 0 || !all(target, inTarget) ||
		target[0] != '/' && (target[0] != '*' || len(target) > 1) {
		return dst, false
	}
	dst = append(dst, method...)
	dst = append(dst, ' ')
	dst = append(dst, target...)
	return append(dst, " HTTP/1.1\r\n"...), true
}

// AppendStatusLine appends a status line of HTTP/1.1. The reason may be empty.
func AppendStatusLine[R text](dst []byte, status int, reason R) (_ []byte, ok bool) {
	if status < 100 || status > 599 || !all(reason, inValue) {
		return dst, false
	}
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, byte('0'+status/100), byte('0'+status/10%10), byte('0'+status%10), ' ')
	dst = append(dst, reason...)
	return append(dst, "\r\n"...), true
}

// AppendField appends a field line. It refuses names that are no tokens, and
// values with a control character other than a tab or with whitespace around
// them.
func AppendField[N, V text](dst []byte, name N, value V) (_ []byte, ok bool) {
	if !isToken(name) || !fieldValue(value) {
		return dst, false
	}
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...), true
}

// fieldValue reports whether v reads back as it is written.
func fieldValue[V text](v V) bool {
	if len(v) == 0 {
		return true
	}
	return chars[v[0]]&inValue != 0 && !isSpace(v[0]) && !isSpace(v[len(v)-1]) && isValue(v)
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// AppendContentLength appends the field. It refuses negative lengths.
func AppendContentLength(dst []byte, n int64) (_ []byte, ok bool) {
	if n < 0 {
		return dst, false
	}
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...), true
}

// AppendChunkSize appends the line before n bytes of a chunk's data, which
// CRLF must follow. n must be positive: a chunk of nothing is LastChunk.
func AppendChunkSize(dst []byte, n int) []byte {
	if n <= 0 {
		panic("BUG: a chunk of no data ends the body")
	}
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, "\r\n"...)
}

// AppendChunk appends data as one chunk, or nothing if there is no data.
func AppendChunk(dst, data []byte) []byte {
	if len(data) == 0 {
		return dst
	}
	dst = AppendChunkSize(dst, len(data))
	dst = append(dst, data...)
	return append(dst, "\r\n"...)
}

// A DateField writes Date fields and formats each second once. Its zero value
// is ready, and it may be shared by goroutines.
type DateField struct{ last atomic.Pointer[dateLine] }

type dateLine struct {
	second int64
	line   []byte // constant
}

// Append appends the Date field for a second of Unix time: RFC 9110 §6.6.1.
func (d *DateField) Append(dst []byte, second int64) []byte {
	l := d.last.Load()
	if l == nil || l.second != second {
		line := time.Unix(second, 0).UTC().AppendFormat(nil, "Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n")
		l = &dateLine{second, bytes.Clone(line)}
		d.last.Store(l)
	}
	return append(dst, l.line...)
}
