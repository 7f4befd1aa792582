package cli

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"sluice/internal/infer"
	"sluice/internal/kit/h1"
)

// A message is one of a file's: a request, an answer, or an error in place of an
// answer.
type message struct {
	line   int // of the file, where it begins
	kind   messageKind
	method string
	path   string
	query  string
	status int
	code   string // of an error
	text   string // likewise
	header infer.Header
	body   []byte
}

type messageKind byte

const (
	aRequest messageKind = iota
	anAnswer
	anError
)

// A turn is a request and what the worker makes of it; answer is nil if the file
// does not say.
type turn struct {
	request, answer *message
}

// readTurns reads a file of messages as they stand on the wire, with lines of ###
// between them. A request may be followed by its answer.
func readTurns(b []byte) ([]turn, error) {
	var turns []turn
	line := 1
	for _, part := range split(b) {
		m, err := readMessage(part, line)
		line += bytes.Count(part, []byte("\n")) + 1
		switch {
		case err != nil:
			return nil, err
		case m == nil:
		case m.kind == aRequest:
			turns = append(turns, turn{request: m})
		case len(turns) == 0:
			return nil, fmt.Errorf("line %d: an answer stands before any request", m.line)
		case turns[len(turns)-1].answer != nil:
			return nil, fmt.Errorf("line %d: the request of line %d has an answer already, at line %d", m.line, turns[len(turns)-1].request.line, turns[len(turns)-1].answer.line)
		default:
			turns[len(turns)-1].answer = m
		}
	}
	if len(turns) == 0 {
		return nil, errors.New("it has no request; want one as it stands on the wire, such as POST /v1/chat/completions HTTP/1.1, header lines, an empty line, the body")
	}
	return turns, nil
}

// split cuts b at lines that begin with ###.
func split(b []byte) (parts [][]byte) {
	begin := 0
	for at := 0; at < len(b); {
		end := at + bytes.IndexByte(b[at:], '\n') + 1
		if end == at {
			end = len(b)
		}
		if bytes.HasPrefix(b[at:], []byte("###")) {
			parts, begin = append(parts, b[begin:at]), end
		}
		at = end
	}
	return append(parts, b[begin:])
}

// readMessage reads one message; nil if there is none. Empty lines and lines that
// begin with # or // may stand before it.
func readMessage(b []byte, line int) (*message, error) {
	next := func() string {
		l, rest, _ := bytes.Cut(b, []byte("\n"))
		b = rest
		line++
		return strings.TrimSuffix(string(l), "\r")
	}
	first := ""
	for first == "" {
		if len(b) == 0 {
			return nil, nil
		}
		if first = strings.TrimSpace(next()); strings.HasPrefix(first, "#") || strings.HasPrefix(first, "//") {
			first = ""
		}
	}
	m := &message{line: line - 1}
	if err := m.begin(first); err != nil {
		return nil, fmt.Errorf("line %d: %w", m.line, err)
	}
	for len(b) > 0 {
		l := next()
		if l == "" {
			break
		}
		name, value, ok := strings.Cut(l, ":")
		value = strings.TrimSpace(value)
		if _, good := h1.AppendField(nil, name, value); !ok || !good {
			return nil, fmt.Errorf("line %d: %.80q is no header line; want Name: value, and an empty line before the body", line-1, l)
		}
		if !strings.EqualFold(name, "content-length") { // it follows from the body
			m.header.AddString(name, value)
		}
	}
	m.body = bytes.TrimRight(b, "\r\n")
	if m.streams() && len(m.body) > 0 {
		m.body = append(bytes.ReplaceAll(m.body, []byte("\r\n"), []byte("\n")), "\n\n"...)
	}
	return m, nil
}

// begin reads the first line.
func (m *message) begin(line string) error {
	f := strings.Fields(line)
	switch {
	case strings.HasPrefix(f[0], "HTTP/"):
		m.kind = anAnswer
		if len(f) > 1 {
			m.status, _ = strconv.Atoi(f[1])
		}
		if m.status < 200 || m.status > 599 {
			return fmt.Errorf("%.80q has no status between 200 and 599", line)
		}
	case f[0] == "ERROR":
		m.kind = anError
		if len(f) > 1 {
			m.status, _ = strconv.Atoi(f[1])
		}
		if len(f) < 3 || m.status < 400 || m.status > 599 {
			return fmt.Errorf("%.80q is no error; want ERROR 502 call_upstream_connection_failed and a sentence", line)
		}
		m.code, m.text = f[2], strings.Join(f[3:], " ")
	case len(f) < 2 || len(f) > 3 || len(f) == 3 && !strings.HasPrefix(f[2], "HTTP/"):
		return fmt.Errorf("%.80q begins no message; want POST /path HTTP/1.1, HTTP/1.1 200 OK, or ERROR 502 code text", line)
	default:
		m.method = f[0]
		target := f[1]
		if _, rest, ok := strings.Cut(target, "://"); ok { // as files of editors have it
			_, path, _ := strings.Cut(rest, "/")
			target = "/" + path
		}
		if m.path, m.query, _ = strings.Cut(target, "?"); !strings.HasPrefix(m.path, "/") {
			return fmt.Errorf("the path %.80q does not begin with /", m.path)
		}
	}
	return nil
}

// streams reports whether it is an answer that comes in events.
func (m *message) streams() bool {
	t, _, _ := bytes.Cut(m.header.Get("Content-Type"), []byte(";"))
	return m.kind == anAnswer && h1.EqualFold(bytes.TrimSpace(t), "text/event-stream")
}

// endpoint is the call that a path makes, Local for one that modules never see.
func endpoint(path string) infer.Endpoint {
	for _, e := range infer.Endpoints() {
		if e.Path() == path {
			return e
		}
	}
	return infer.Local
}

// called is which call of the API a method and a path are.
func called(method, path string) (infer.Endpoint, bool) {
	e := endpoint(path)
	return e, e != infer.Local && method == "POST"
}
