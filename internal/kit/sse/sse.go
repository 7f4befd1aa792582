// Package sse watches server-sent events as their bytes pass, and reads them
// where a client wants them one by one.
//
// A Watcher stands beside a relay: it is shown every piece of a stream, leaves
// the pieces as they are, and knows where the stream stands, whether all was
// said, and what it cost. A Reader takes events out of an io.Reader. Both follow
// the event-stream grammar of the WHATWG HTML standard, §9.2: lines end with LF,
// CR or CRLF, also mixed, and one byte order mark may stand at the beginning.
//
// For both, an event has begun with its first field's first byte and is whole
// behind its empty line. Comments belong to no event.
package sse

import "bytes"

var byteOrderMark = []byte("\xEF\xBB\xBF")

// A field is what a line that is not empty is about.
type field uint8

const (
	comment field = iota
	other         // retry, and what nobody knows
	data
	event
	id
)

// fieldOf reads a line that is not empty. value is never nil.
func fieldOf(line []byte) (f field, value []byte) {
	if len(line) > len("data: ") && string(line[:len("data: ")]) == "data: " {
		return data, line[len("data: "):] // nearly always
	}
	name := line
	value = line[len(line):]
	// No name that counts is longer than five bytes.
	if i := bytes.IndexByte(line[:min(len(line), 6)], ':'); i >= 0 {
		name, value = line[:i], line[i+1:]
		if len(value) > 0 && value[0] == ' ' {
			value = value[1:]
		}
	}
	switch string(name) {
	case "":
		return comment, value
	case "data":
		return data, value
	case "event":
		return event, value
	case "id":
		return id, value
	}
	return other, value
}

// lineEnd returns the index of the first CR or LF, -1 if there is none. It
// looks in blocks, so that a stream without any LF is not searched to its end
// for each line.
func lineEnd(p []byte) int {
	const block = 1 << 10
	if len(p) > 0 && p[0] == '\n' {
		return 0
	}
	for at := 0; at < len(p); at += block {
		b := p[at:min(at+block, len(p))]
		lf := bytes.IndexByte(b, '\n')
		if lf >= 0 {
			b = b[:lf]
		}
		if cr := bytes.IndexByte(b, '\r'); cr >= 0 {
			return at + cr
		}
		if lf >= 0 {
			return at + lf
		}
	}
	return -1
}
