// Package h1 is HTTP/1.1 on the wire, RFC 9112: heads are read, bodies are
// followed to their end, and what is sent is built from checked parts.
//
// It holds neither sockets nor goroutines: functions and small state machines
// over the caller's bytes, which give the same result however the input was
// cut. Nothing that is ambiguous is repaired. What two readers could
// understand differently is refused, with the section that it offends, because
// a gateway that guesses lets one client's bytes become another's request.
package h1

import "strconv"

// MaxFields is the most fields that a head may have, whatever Limits say.
const MaxFields = 256

// maxLength bounds Content-Length and chunk sizes, so that sums of them do not
// overflow.
const maxLength = 1 << 62

// Limits bound what one message may make its reader hold or look at. There is
// no "unlimited": zero refuses.
type Limits struct {
	RequestLine int // bytes of a request line with its CRLF
	Head        int // bytes of a whole head with its empty line
	Fields      int // fields of a head; never more than MaxFields
	Extension   int // bytes of one chunk's extensions
	Extensions  int // bytes by which all extensions of a body may exceed its data
	Trailer     int // bytes of all trailer fields
}

// DefaultLimits serves every client known: RFC 9112 §3 asks for request lines
// of at least 8000 bytes.
func DefaultLimits() Limits {
	return Limits{
		RequestLine: 8 << 10,
		Head:        32 << 10,
		Fields:      100,
		Extension:   4 << 10,
		Extensions:  16 << 10,
		Trailer:     4 << 10,
	}
}

// An Error says why a message was refused. The connection that it came on
// cannot be used again: where the next message begins is unknown.
//
// Body and ChunkScanner do not know whose body they follow, so the Status of
// their errors is a request's; for an answer's body it means 502.
type Error struct {
	Status  int    // what a client is told: 400, 413, 414, 417, 431, 501, 505; of an answer's head 502
	Reason  string // constant, without any byte of the message: fit for a log line or a label
	Section string // what was offended, such as "9112 §6.3"
}

func (e *Error) Error() string {
	return strconv.Itoa(e.Status) + ": " + e.Reason + " (RFC " + e.Section + ")"
}

// What one message of a kind can be refused for. They are made once, so that a
// flood of bad requests costs no memory.
var (
	errEmptyLines  = &Error{400, "more than one empty line before the request", "9112 §2.2"}
	errBareLF      = &Error{400, "line feed without carriage return", "9112 §2.2"}
	errBareCR      = &Error{400, "carriage return without line feed", "9112 §2.2"}
	errStart       = &Error{400, "request does not begin with a method", "9112 §3.1"}
	errRequestLine = &Error{400, "request line is not method, target and version with one space between", "9112 §3"}
	errTarget      = &Error{400, "request target has none of the forms that its method allows", "9112 §3.2"}
	errTargetByte  = &Error{400, "request target has a byte that none may have", "9112 §3.2"}
	errTargetHost  = &Error{400, "request target names no valid host", "9110 §4.2.1"}
	errTargetUser  = &Error{400, "request target has user information", "9110 §4.2.4"}
	errConnect     = &Error{501, "tunnels are not offered", "9110 §9.3.6"}
	errVersion     = &Error{400, "version is not HTTP/digit.digit", "9112 §2.3"}
	errMajor       = &Error{505, "version is not HTTP/1", "9110 §15.6.6"}
	errLineLong    = &Error{414, "request line is too long", "9112 §3"}
	errHeadLong    = &Error{431, "head is too long", "9110 §5.4"}
	errFieldsMany  = &Error{431, "head has too many fields", "9110 §5.4"}

	errFold         = &Error{400, "field line begins with whitespace", "9112 §5.2"}
	errFirstSpace   = &Error{400, "whitespace between start line and first field", "9112 §2.2"}
	errColonSpace   = &Error{400, "whitespace before a field's colon", "9112 §5.1"}
	errFieldName    = &Error{400, "field name is not a token", "9110 §5.1"}
	errFieldValue   = &Error{400, "field value has a control character", "9110 §5.5"}
	errHostTwice    = &Error{400, "more than one Host", "9112 §3.2"}
	errHostMissing  = &Error{400, "no Host", "9112 §3.2"}
	errHost         = &Error{400, "Host is not a host with an optional port", "9112 §3.2"}
	errLengthTwice  = &Error{400, "more than one Content-Length", "9112 §6.3"}
	errLength       = &Error{400, "Content-Length is not a number", "9110 §8.6"}
	errLengthLarge  = &Error{413, "Content-Length is larger than any body", "9110 §8.6"}
	errLengthCoding = &Error{400, "both Content-Length and Transfer-Encoding", "9112 §6.1"}
	errCodingTwice  = &Error{400, "more than one Transfer-Encoding", "9112 §6.1"}
	errCoding       = &Error{400, "Transfer-Encoding does not end with one chunked", "9112 §6.3"}
	errCodingOther  = &Error{501, "Transfer-Encoding other than chunked", "9112 §6.1"}
	errCodingOld    = &Error{400, "Transfer-Encoding in HTTP/1.0", "9112 §6.1"}
	errConnection   = &Error{400, "Connection is not a list of tokens", "9110 §7.6.1"}
	errOptionsMany  = &Error{431, "Connection has too many options", "9110 §5.4"}
	errExpect       = &Error{417, "expectation other than 100-continue", "9110 §10.1.1"}
	errTrailerList  = &Error{400, "Trailer is not a list of fields that trailers may have", "9110 §6.6.2"}

	errStatusLine  = &Error{502, "status line is not version, three digits and reason", "9112 §4"}
	errStatus      = &Error{502, "status is not between 100 and 599", "9110 §15"}
	errBodyless    = &Error{502, "body announced by a status that has none", "9112 §6.1"}
	errBodylessLen = &Error{502, "length announced by a status that has no body", "9110 §8.6"}

	errChunkSize   = &Error{400, "chunk size is not hexadecimal digits", "9112 §7.1"}
	errChunkLarge  = &Error{400, "chunk size is larger than any chunk", "9112 §7.1"}
	errChunkEnd    = &Error{400, "chunk data does not end with CRLF", "9112 §7.1"}
	errChunkLine   = &Error{400, "chunk line does not end with CRLF", "9112 §7.1"}
	errExt         = &Error{400, "chunk extension is not name and value", "9112 §7.1.1"}
	errExtLong     = &Error{400, "chunk extensions are too long", "9112 §7.1.1"}
	errTrailer     = &Error{400, "field that a trailer must not have", "9110 §6.5.1"}
	errTrailerLong = &Error{431, "trailer is too long", "9110 §5.4"}
	errCut         = &Error{400, "connection ended inside the message", "9112 §8"}
)

// Framing is how a message's body is delimited.
type Framing uint8

// The framings, RFC 9112 §6.3.
const (
	FramingNone    Framing = iota // no body
	FramingLength                 // as many bytes as Content-Length says
	FramingChunked                // chunks, the last is empty
	FramingClose                  // all until the connection closes; answers only
)

func (f Framing) String() string {
	switch f {
	case FramingNone:
		return "none"
	case FramingLength:
		return "length"
	case FramingChunked:
		return "chunked"
	case FramingClose:
		return "close"
	}
	return "Framing(" + strconv.Itoa(int(f)) + ")"
}
