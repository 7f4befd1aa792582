package bench

// This file reads from an answer, or from one event of a stream, the few things
// that are measured, in one pass and without decoding the rest.

// facts are what one JSON text says.
type facts struct {
	text  bool // there is output in it: content, reasoning, a tool call's arguments
	fault bool // it reports an error
	last  bool // it says that the stream ends with it
	usage usage
}

// usage counts tokens as the server does. Numbers only grow: servers repeat
// running totals.
type usage struct {
	seen          bool
	input, cached int64
	read, written int64 // from and to a cache; Anthropic counts them beside input, others within
	output        int64
}

// prompt is the prompt's length, cached tokens included, in either way of counting.
func (u *usage) prompt() int64 { return u.input + u.read + u.written }

// hits is how much of the prompt came from a cache.
func (u *usage) hits() int64 { return u.cached + u.read }

// An act is what a value at a known place means.
type act uint8

const (
	none    act = iota
	isText      // a string with something in it is output
	isFault     // anything but null is an error
	isType      // a string that may name an event's kind
	isInput
	isCached
	isCacheRead
	isCacheWrite
	isOutput
)

// A node is a place in an answer: what a value there means, and which members
// lead on. An array's elements stand at the array's own place.
type node struct {
	act  act
	name string
	kids []*node
}

func at(name string, a act, kids ...*node) *node { return &node{act: a, name: name, kids: kids} }

func (n *node) kid(key []byte) *node {
	if n == nil {
		return nil
	}
	for _, k := range n.kids {
		if string(key) == k.name {
			return k
		}
	}
	return nil
}

var usageNode = at("usage", none,
	at("prompt_tokens", isInput), at("input_tokens", isInput),
	at("completion_tokens", isOutput), at("output_tokens", isOutput),
	at("prompt_tokens_details", none, at("cached_tokens", isCached)),
	at("input_tokens_details", none, at("cached_tokens", isCached)),
	at("cache_read_input_tokens", isCacheRead), at("cache_creation_input_tokens", isCacheWrite),
)

// answerShape is every dialect's but SGLang's own: their places do not collide.
var answerShape = at("", none,
	at("type", isType),
	at("choices", none,
		at("text", isText), // completions
		at("delta", none, // chat
			at("content", isText), at("reasoning_content", isText), at("reasoning", isText), at("refusal", isText),
			at("tool_calls", none, at("function", none, at("name", isText), at("arguments", isText))),
		),
	),
	at("delta", isText, // responses: a string; messages: an object
		at("text", isText), at("thinking", isText), at("partial_json", isText),
	),
	usageNode,
	at("message", none, usageNode), // messages: message_start
	at("response", none, usageNode, at("error", isFault)), // responses: response.completed and others
	at("error", isFault),
)

// generateShape is that of SGLang's /generate.
var generateShape = at("", none,
	at("text", isText),
	at("meta_info", none, at("prompt_tokens", isInput), at("completion_tokens", isOutput), at("cached_tokens", isCached)),
	at("error", isFault),
)

// maxDepth bounds how deep values may stand in each other.
const maxDepth = 128

// read adds to f what b says. It reports false where b is not one JSON value, or
// is nested deeper than maxDepth; f may then have been added to.
func (f *facts) read(b []byte, shape *node) bool {
	s := scanner{b: b, f: f}
	s.space()
	return s.value(shape, maxDepth) && s.end()
}

type scanner struct {
	b []byte
	i int
	f *facts
}

func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\r' || s.b[s.i] == '\t') {
		s.i++
	}
}

func (s *scanner) end() bool {
	s.space()
	return s.i == len(s.b)
}

// take passes over c and the space before and behind it, if c is next.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.i >= len(s.b) || s.b[s.i] != c {
		return false
	}
	s.i++
	s.space()
	return true
}

// value reads the value that begins here, which stands at n; nil is a place
// that means nothing.
func (s *scanner) value(n *node, depth int) bool {
	if s.i >= len(s.b) || depth == 0 {
		return false
	}
	switch c := s.b[s.i]; c {
	case '{':
		if n != nil && n.act == isFault {
			s.f.fault = true
		}
		return s.object(n, depth)
	case '[':
		return s.array(n, depth)
	case '"':
		text, ok := s.str()
		if ok && n != nil && n.act != none {
			s.f.string(n.act, text)
		}
		return ok
	case 't':
		return s.word("true", n)
	case 'f':
		return s.word("false", n)
	case 'n':
		return s.word("null", nil)
	default:
		return s.number(n)
	}
}

func (s *scanner) object(n *node, depth int) bool {
	s.take('{')
	if s.take('}') {
		return true
	}
	for {
		if s.i >= len(s.b) || s.b[s.i] != '"' {
			return false
		}
		key, ok := s.str()
		if !ok || !s.take(':') || !s.value(n.kid(key), depth-1) {
			return false
		}
		if s.take(',') {
			continue
		}
		return s.take('}')
	}
}

func (s *scanner) array(n *node, depth int) bool {
	s.take('[')
	if s.take(']') {
		return true
	}
	for {
		if !s.value(n, depth-1) {
			return false
		}
		if s.take(',') {
			continue
		}
		return s.take(']')
	}
}

// str reads a string and returns what stands between its quotes, escapes as
// they are.
func (s *scanner) str() ([]byte, bool) {
	s.i++
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return s.b[start : s.i-1], true
		case c == '\\':
			if !s.escape() {
				return nil, false
			}
		case c < ' ':
			return nil, false
		default:
			s.i++
		}
	}
	return nil, false
}

func (s *scanner) escape() bool {
	s.i++
	if s.i >= len(s.b) {
		return false
	}
	c := s.b[s.i]
	s.i++
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			if s.i >= len(s.b) || !hex(s.b[s.i]) {
				return false
			}
			s.i++
		}
		return true
	}
	return false
}

func hex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func (s *scanner) word(w string, n *node) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	if n != nil && n.act == isFault {
		s.f.fault = true
	}
	return true
}

// maxCount bounds a token count that a server may report.
const maxCount = 1 << 40

// number reads a number. Only whole ones count.
func (s *scanner) number(n *node) bool {
	negative := s.b[s.i] == '-'
	if negative {
		s.i++
	}
	start := s.i
	v := int64(0)
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		v = min(v*10+int64(s.b[s.i]-'0'), maxCount)
		s.i++
	}
	if s.i == start || s.b[start] == '0' && s.i > start+1 {
		return false
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if !s.digits() {
			return false
		}
	}
	if s.i < len(s.b) && (s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		if !s.digits() {
			return false
		}
		v = 0
	}
	if n != nil && n.act != none && !negative {
		s.f.number(n.act, v)
	}
	return true
}

func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > start
}

func (f *facts) string(a act, text []byte) {
	switch a {
	case isText:
		f.text = f.text || len(text) > 0
	case isFault:
		f.fault = true
	case isType:
		switch string(text) {
		case "response.completed", "response.incomplete", "message_stop":
			f.last = true
		case "response.failed":
			f.last, f.fault = true, true
		case "error":
			f.fault = true
		}
	}
}

func (f *facts) number(a act, v int64) {
	u := &f.usage
	var at *int64
	switch a {
	case isInput:
		at = &u.input
	case isCached:
		at = &u.cached
	case isCacheRead:
		at = &u.read
	case isCacheWrite:
		at = &u.written
	case isOutput:
		at = &u.output
	case isFault:
		f.fault = true
		return
	default:
		return
	}
	u.seen = true
	*at = max(*at, v)
}
