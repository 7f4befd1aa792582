package h1

import "bytes"

// ResponseHead is an answer without its body. The zero value is ready.
type ResponseHead struct {
	Message
	Status  int
	Reason  []byte  // may be empty
	Framing Framing // how the body is delimited, given the request's method
	Interim bool    // an informational answer: another head follows. 101 is final

	// What Keep-Alive says of how long the connection will be kept; -1 if
	// nothing. A connection that is used after that is used in vain.
	IdleSeconds int // "timeout"
	Requests    int // "max": how many more it will serve

	reason, reasonEnd int
}

// Reset forgets a head, also one of which only a part was seen, and every
// pointer into its bytes.
func (h *ResponseHead) Reset() {
	h.reset()
	*h = ResponseHead{Message: h.Message}
}

// ParseResponse reads the head of an answer to a request with the method from
// the beginning of b, RFC 9112 §4 and §5. It is used as ParseRequest is. The
// Status of its errors is 502, which is what the gateway's client is told.
func ParseResponse(b []byte, h *ResponseHead, method []byte, lim Limits) (n int, err error) {
	n, e := h.parse(b, method, &lim)
	if e != nil {
		h.stage = stageNew
		return 0, &Error{Status: 502, Reason: e.Reason, Section: e.Section}
	}
	return n, nil
}

func (h *ResponseHead) parse(b, method []byte, lim *Limits) (int, *Error) {
	if h.stage == stageNew {
		h.begin(true)
	}
	if h.stage == stageStart {
		if err := h.readStart(b, lim); err != nil || h.stage == stageStart {
			return 0, err
		}
	}
	end, err := h.readFields(b, lim)
	if end == 0 || err != nil {
		return 0, err
	}
	if err := h.settle(b); err != nil {
		return 0, err
	}
	h.Reason = b[h.reason:h.reasonEnd:h.reasonEnd]
	h.Interim = h.Status < 200 && h.Status != 101
	h.IdleSeconds, h.Requests = -1, -1
	if h.keepAlive >= 0 {
		h.IdleSeconds, h.Requests = keepAliveParams(h.Fields[h.keepAlive].Value)
	}
	if err := h.frame(method); err != nil {
		return 0, err
	}
	h.stage = stageNew
	return end, nil
}

// frame decides how the body is delimited: RFC 9112 §6.3.
func (h *ResponseHead) frame(method []byte) *Error {
	switch {
	case h.Status < 200 || h.Status == 204:
		// What announces a body here may send one, which would be taken for
		// the next answer. A length of 0 is common and harmless.
		switch {
		case h.Chunked:
			return errBodyless
		case h.ContentLength > 0:
			return errBodylessLen
		}
		h.Framing = FramingNone
	case h.Status == 304, string(method) == "HEAD", string(method) == "CONNECT" && h.Status < 300:
		h.Framing = FramingNone
	case h.Chunked:
		h.Framing = FramingChunked
	case h.ContentLength > 0:
		h.Framing = FramingLength
	case h.ContentLength == 0:
		h.Framing = FramingNone
	default:
		h.Framing, h.KeepAlive = FramingClose, false
	}
	return nil
}

// readStart reads the status line, and leaves stageStart when it has.
func (h *ResponseHead) readStart(b []byte, lim *Limits) *Error {
	const prefix = "HTTP/"
	if n := min(len(b), len(prefix)); string(b[:n]) != prefix[:n] {
		return errStatusLine // early: whatever it is, it need not have lines
	}
	i := bytes.IndexByte(b[h.at:], '\n')
	if i < 0 {
		h.at = len(b)
		if len(b) >= lim.Head {
			return errHeadLong
		}
		return nil
	}
	lf := h.at + i
	switch {
	case lf >= lim.Head:
		return errHeadLong
	case b[lf-1] != '\r':
		return errBareLF
	}
	h.line, h.at, h.stage = lf+1, lf+1, stageFields
	return h.readLine(b[:lf-1])
}

// readLine reads a status line. Some servers leave out the space before an
// absent reason, which cannot be misread.
func (h *ResponseHead) readLine(line []byte) *Error {
	const version, status = len("HTTP/1.1"), len("HTTP/1.1 200")
	if len(line) < status || line[version] != ' ' || len(line) > status && line[status] != ' ' {
		return badStatusLine(line)
	}
	var err *Error
	if h.Minor, err = parseVersion(line[:version]); err != nil {
		return err
	}
	h.Status = 0
	for _, c := range line[version+1 : status] {
		if c < '0' || c > '9' {
			return badStatusLine(line)
		}
		h.Status = h.Status*10 + int(c-'0')
	}
	if h.Status < 100 || h.Status > 599 {
		return errStatus
	}
	h.reason, h.reasonEnd = min(status+1, len(line)), len(line)
	if !isValue(line[h.reason:]) {
		return badStatusLine(line)
	}
	return nil
}

func badStatusLine(line []byte) *Error {
	if bytes.IndexByte(line, '\r') >= 0 {
		return errBareCR
	}
	return errStatusLine
}

// keepAliveParams reads "timeout=5, max=100". What cannot be read is as if it
// were not said: these are hints.
func keepAliveParams(value []byte) (timeout, requests int) {
	timeout, requests = -1, -1
	l := Elements(value)
	for e := l.Next(); e != nil; e = l.Next() {
		name, number, ok := bytes.Cut(e, []byte("="))
		if !ok {
			continue
		}
		n, err := parseLength(trim(number))
		if err != nil {
			continue
		}
		switch name = trim(name); {
		case EqualFold(name, "timeout"):
			timeout = int(min(n, 1<<30))
		case EqualFold(name, "max"):
			requests = int(min(n, 1<<30))
		}
	}
	return timeout, requests
}
