package h1

import "bytes"

// RequestHead is a request without its body. The zero value is ready.
type RequestHead struct {
	Message
	Method    []byte // a token; case matters
	Target    []byte // as it was sent
	Path      []byte // of the target, not decoded: "/" at least, or "*"
	Query     []byte // of the target without its "?"; nil if it has none
	Authority []byte // which host is asked: the target's, or else Host's; empty if neither says
	Host      []byte // the value of Host; nil if there is none
	Expect100 bool   // the client waits for 100 before it sends its body

	methodEnd int
	target    target
}

// Framing returns how the request's body is delimited.
func (h *RequestHead) Framing() Framing {
	switch {
	case h.Chunked:
		return FramingChunked
	case h.ContentLength > 0:
		return FramingLength
	}
	return FramingNone // RFC 9112 §6.3: a request without either has no body
}

// Reset forgets a head, also one of which only a part was seen, and every
// pointer into its bytes.
func (h *RequestHead) Reset() {
	h.reset()
	*h = RequestHead{Message: h.Message}
}

// IsTarget reports whether all bytes of s may stand in a request target, RFC 9112
// §3.2: what is none in HTTP/1.1 has no meaning in HTTP/2 either.
func IsTarget(s string) bool {
	for i := range len(s) {
		if chars[s[i]]&inTarget == 0 {
			return false
		}
	}
	return s != ""
}

// AppendTarget appends the target in the form that a server is sent: path and
// query, without the authority.
func (h *RequestHead) AppendTarget(dst []byte) []byte {
	dst = append(dst, h.Path...)
	if h.Query != nil {
		dst = append(dst, '?')
		dst = append(dst, h.Query...)
	}
	return dst
}

// ParseRequest reads the head of a request from the beginning of b, RFC 9112
// §3 and §5, and returns how many bytes it takes. 0 and no error ask for more:
// call again with the same bytes and more behind them, at any address. What
// was read is not read again, so a client that sends single bytes costs no more
// than one that does not. Errors are of type *Error, and come as soon as the
// line that causes them is complete, or too long.
//
// h is good after n > 0, until b changes; then or after an error it is ready
// for another head.
func ParseRequest(b []byte, h *RequestHead, lim Limits) (n int, err error) {
	n, e := h.parse(b, &lim)
	if e != nil {
		h.stage = stageNew
		return 0, e
	}
	return n, nil
}

func (h *RequestHead) parse(b []byte, lim *Limits) (int, *Error) {
	if h.stage == stageNew {
		h.begin(false)
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
	h.Method, h.Target = b[h.from:h.methodEnd:h.methodEnd], b[h.methodEnd+1:h.target.end:h.target.end]
	h.Path, h.Query, h.Authority = h.target.cut(b)
	h.Host = nil
	switch {
	case h.host >= 0:
		h.Host = h.Fields[h.host].Value
	case h.Minor > 0:
		return 0, errHostMissing
	}
	if h.Authority == nil {
		h.Authority = h.Host
	}
	// RFC 9110 §10.1.1: not in 1.0, and without a body there is no wait.
	h.Expect100 = h.sawExpect && h.Minor > 0 && h.Framing() != FramingNone
	h.stage = stageNew
	return end, nil
}

// readStart reads the request line, and leaves stageStart when it has.
func (h *RequestHead) readStart(b []byte, lim *Limits) *Error {
	if h.from == 0 && len(b) > 0 && b[0] == '\r' { // RFC 9112 §2.2: one empty line is forgiven
		if len(b) == 1 {
			return nil
		}
		if b[1] != '\n' {
			return errBareCR
		}
		h.from, h.line, h.at = 2, 2, 2
	}
	if len(b) == h.from {
		return nil
	}
	if c := b[h.from]; chars[c]&inToken == 0 {
		switch c {
		case '\n':
			return errBareLF
		case '\r':
			return errEmptyLines
		}
		return errStart
	}
	longest := min(lim.RequestLine, lim.Head)
	i := bytes.IndexByte(b[h.at:], '\n')
	if i < 0 {
		h.at = len(b)
		if len(b)-h.from >= longest {
			return errLineLong
		}
		return nil
	}
	lf := h.at + i
	switch {
	case lf-h.from >= longest:
		return errLineLong
	case b[lf-1] != '\r':
		return errBareLF
	}
	h.line, h.at, h.stage = lf+1, lf+1, stageFields
	return h.readLine(b, lf-1)
}

// readLine reads the request line, which ends before end.
func (h *RequestHead) readLine(b []byte, end int) *Error {
	i := h.from
	for i < end && chars[b[i]]&inToken != 0 {
		i++
	}
	if b[i] != ' ' {
		return badLine(b[h.from:end])
	}
	h.methodEnd = i
	first := i + 1
	for i = first; i < end && chars[b[i]]&inTarget != 0; i++ {
	}
	switch {
	case b[i] == ' ' && i > first:
	case b[i] == '#' || b[i] >= 0x7f || b[i] < ' ' && b[i] != '\t' && b[i] != '\r':
		return errTargetByte
	default:
		return badLine(b[h.from:end])
	}
	minor, err := parseVersion(b[i+1 : end])
	if err != nil {
		return err
	}
	h.Minor = minor
	method := b[h.from:h.methodEnd]
	if string(method) == "CONNECT" {
		return errConnect
	}
	h.target, err = parseTarget(b, first, i, string(method) == "OPTIONS")
	return err
}

// badLine says what is wrong with a request line whose parts are not where
// they should be.
func badLine(line []byte) *Error {
	if bytes.IndexByte(line, '\r') >= 0 {
		return errBareCR
	}
	return errRequestLine
}

// parseVersion reads "HTTP/1.x" and returns x, which is 1 for all that is
// higher: RFC 9110 §2.5 lets such a message be read as 1.1.
func parseVersion(v []byte) (int, *Error) {
	if len(v) != len("HTTP/1.1") || string(v[:5]) != "HTTP/" || v[6] != '.' ||
		v[5] < '0' || v[5] > '9' || v[7] < '0' || v[7] > '9' {
		if bytes.IndexByte(v, '\r') >= 0 {
			return 0, errBareCR
		}
		return 0, errVersion
	}
	if v[5] != '1' {
		return 0, errMajor
	}
	return min(int(v[7]-'0'), 1), nil
}
