package peek

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// StringValue returns the text of a raw JSON string, quotes included. It
// reports false if raw is anything else. A surrogate without its other half
// becomes U+FFFD; bytes that are not UTF-8 stay as they are.
func StringValue(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	if i := stop(raw, 1); i == len(raw)-1 && raw[i] == '"' {
		return string(raw[1:i]), true
	}
	s := scanner{b: raw}
	if s.str(1) != len(raw) {
		return "", false
	}
	text, _ := s.appendStr(make([]byte, 0, len(raw)), 1)
	return string(text), true
}

// IsTrue reports whether raw is the literal true.
func IsTrue(raw []byte) bool { return string(raw) == "true" }

// ArrayEmpty reports whether raw is an array without elements.
func ArrayEmpty(raw []byte) bool {
	return len(raw) >= 2 && raw[0] == '[' && raw[len(raw)-1] == ']' && len(bytes.Trim(raw[1:len(raw)-1], " \t\r\n")) == 0
}

// Splice returns a new body: b with the value at b[start:end] replaced by value
// as a JSON string, and every other byte as it was. Bytes of value that are not
// UTF-8 become U+FFFD.
func Splice(b []byte, start, end int, value string) []byte {
	out := make([]byte, 0, len(b)-(end-start)+len(value)+16)
	out = append(out, b[:start]...)
	out = appendQuoted(out, value)
	return append(out, b[end:]...)
}

func appendQuoted(dst []byte, text string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, r := range text { // U+FFFD for what is not UTF-8
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// maxTextDepth bounds how deep AppendText looks for text. The deepest that
// clients send is a text in a tool's result in a message, 6.
const maxTextDepth = 16

// AppendText appends routing text: what a prompt's beginnings are compared by,
// from the raw value of messages, prompt, input, system, instructions, query or
// one like them. It is canonical: what an engine makes the same prompt of has
// the same text, and a conversation's text begins with that of its earlier
// turns.
//
//   - A string is itself, unescaped.
//   - An array is the text of its elements, a line feed between them; between
//     numbers, which are token ids and are taken as they are written, stands a
//     comma. So text is the same whether it came as a string or as one part.
//   - An object is the text of its members, a line feed between those that have
//     any, in the order of chat templates whatever theirs is: role, name,
//     reasoning, content, calls of tools, their arguments and results. Arguments
//     that are objects are taken as they are written.
//
// Everything else has no text: numbers in objects, images, ids of calls, and
// what is nested deeper than 16. Of members with the same name the first that
// has text counts. What is appended is never longer than raw, and memory is
// taken only to grow dst. raw is expected to be well-formed; if it is not,
// AppendText stops there.
func AppendText(dst, raw []byte) []byte {
	t := text{scanner: scanner{b: raw}, dst: dst, moves: movesFree + movesPer*len(raw)}
	if i := t.space(0); i >= 0 {
		t.any(i, 0)
	}
	return t.dst
}

// A Part is where the text of one value is.
type Part struct{ Start, End int }

// ObjectText is Object, and appends the routing text of some values to dst, as
// AppendText does: of those in the set of bits texts, where bit i stands for want's
// i-th name. A line feed is put between two texts that are not empty. It sets
// parts[i] to where in what it returns the text is, and must have a place for each
// name; no text is an empty Part. Reading both at once costs little more than
// reading either.
//
// After an error there is no text.
func ObjectText(b []byte, want *Keys, got []Value, texts uint32, dst []byte, parts []Part) ([]byte, error) {
	clear(got)
	clear(parts)
	t := text{scanner: scanner{b: b}, dst: dst, begun: len(dst), texts: texts}
	if kind, dup, ok := t.root(want, got, &t, parts); ok && kind == ObjectKind && dup < 0 {
		return t.dst, nil
	}
	// Which error it is, and where, Object says better.
	clear(parts)
	return dst, Object(b, want, got)
}

// wants reports whether t is to have the text of the value of want's k-th name.
func (t *text) wants(k int) bool { return t != nil && k >= 0 && t.texts>>k&1 != 0 }

// rootMember reads the value at i, whose text is wanted.
func (t *text) rootMember(i int) (int, Part) {
	end := len(t.dst)
	if end > t.begun {
		t.dst = append(t.dst, '\n')
	}
	begin := len(t.dst)
	t.moves = movesFree + movesPer*(len(t.b)-i)
	if i = t.any(i, 0); len(t.dst) == begin {
		t.dst = t.dst[:end]
		return i, Part{}
	}
	return i, Part{begin, len(t.dst)}
}

// A text collects routing text. Its methods are a scanner's.
type text struct {
	scanner
	dst   []byte
	moves int // how many bytes may still be moved to put members in order

	// For ObjectText.
	begun int    // where in dst its text begins
	texts uint32 // of which values
}

// Members mostly come in order, or role comes last and moves before content.
// Who sends a body whose members are all the wrong way round, on every level,
// has them in that order beyond these bounds: bytes that are moved at most, and
// those for each byte of raw.
const (
	movesFree = 64 << 10
	movesPer  = 4
)

// textKeys are the members of an object that AppendText reads, in the order in
// which templates put them into a prompt.
var textKeys = NewKeys(
	"role", "name", "reasoning_content", "reasoning", "thinking", "summary",
	"content", "parts", "text", "input_text",
	"tool_calls", "function_call", "function", "arguments", "input", "output",
)

// Some indices in textKeys: the keys up to nameKey are strings or nothing,
// those from argumentsKey to inputKey are as they are written unless strings.
const (
	nameKey      = 1
	argumentsKey = 13
	inputKey     = 14
	numTextKeys  = 16
)

// any reads the value at i, that depth objects and arrays are around, without the
// root.
func (t *text) any(i, depth int) int {
	switch c := t.b[i]; {
	case c == '"':
		t.dst, i = t.appendStr(t.dst, i+1)
		return i
	case c == '[' && depth < maxTextDepth:
		return t.array(i, depth+1)
	case c == '{' && depth < maxTextDepth:
		return t.object(i, depth+1)
	}
	return t.value(i, depth+1)
}

func (t *text) array(i, depth int) int {
	if i = t.space(i + 1); i < 0 {
		return -1
	}
	if t.b[i] == ']' {
		return i + 1
	}
	for number := false; ; {
		if c := t.b[i]; c == '-' || isDigit(c) {
			i, number = t.numbers(i), true
		} else {
			i, number = t.any(i, depth), false
		}
		if i < 0 {
			return -1
		}
		end, more := t.next(i, ']')
		if !more {
			return end
		}
		i = end
		if c := t.b[i]; number && (c == '-' || isDigit(c)) {
			t.dst = append(t.dst, ',')
		} else {
			t.dst = append(t.dst, '\n')
		}
	}
}

// numbers appends the number at i, and those after it that are easily read.
func (t *text) numbers(i int) int {
	last := t.ints(i)
	t.dst = appendUnspaced(t.dst, t.b[i:last])
	end := t.number(last)
	if end >= 0 {
		t.dst = append(t.dst, t.b[last:end]...)
	}
	return end
}

// next reads what stands between two values: more is whether there was a comma
// and not the end.
func (t *text) next(i int, end byte) (after int, more bool) {
	if i = t.space(i); i < 0 {
		return -1, false
	}
	switch t.b[i] {
	case end:
		return i + 1, false
	case ',':
		i = t.space(i + 1)
		return i, i >= 0
	}
	return t.fail(i, ""), false
}

func (t *text) object(i, depth int) int {
	if i = t.space(i + 1); i < 0 {
		return -1
	}
	if t.b[i] == '}' {
		return i + 1
	}
	o := members{start: len(t.dst)}
	for {
		end := t.keyEnd(i)
		if end < 0 {
			return -1
		}
		key := textKeys.find(t.b[i+1 : end-1])
		if i = t.colon(end); i < 0 {
			return -1
		}
		if key < 0 || o.size[key] > 0 {
			i = t.value(i, depth+1)
		} else {
			i = t.member(&o, key, i, depth)
		}
		if i < 0 {
			return -1
		}
		end, more := t.next(i, '}')
		if !more {
			return end
		}
		i = end
	}
}

// members is where in dst the text of an object's members is.
type members struct {
	start int
	size  [numTextKeys]int // by key; the line feed between two counts for the second
}

// member appends the value of key, which is at i, and puts it in its place.
func (t *text) member(o *members, key, i, depth int) int {
	mid := len(t.dst)
	if mid > o.start {
		t.dst = append(t.dst, '\n')
	}
	begin := len(t.dst)
	c := t.b[i]
	switch {
	case c == '"':
		t.dst, i = t.appendStr(t.dst, i+1)
	case key <= nameKey || c != '{' && c != '[':
		i = t.value(i, depth+1)
	case key == argumentsKey || key == inputKey:
		end := t.value(i, depth+1)
		if end >= 0 {
			t.dst = append(t.dst, t.b[i:end]...)
		}
		i = end
	default:
		i = t.any(i, depth)
	}
	if len(t.dst) == begin {
		t.dst = t.dst[:mid]
		return i
	}
	t.place(o, key, mid)
	return i
}

// place moves the text that is in dst from mid on, a member's, to before what
// members have that come behind it.
func (t *text) place(o *members, key, mid int) {
	at := o.start
	for _, n := range o.size[:key] {
		at += n
	}
	n := len(t.dst) - mid
	if at == mid {
		o.size[key] = n
		return
	}
	cost := 2*n + mid - at
	if t.moves < cost {
		t.moves, o.size[key] = 0, n // it stays where it is, and so do all others
		return
	}
	t.moves -= cost
	end := len(t.dst)
	t.dst = append(t.dst, t.dst[mid:]...) // room to move in
	copy(t.dst[at+n:], t.dst[at:mid])
	if at > o.start {
		copy(t.dst[at:], t.dst[end:])
		o.size[key] = n
	} else {
		// The first needs no line feed before it, the second does.
		copy(t.dst[at:], t.dst[end+1:])
		t.dst[at+n-1] = '\n'
		o.size[key] = n - 1
		for k := key + 1; ; k++ {
			if o.size[k] > 0 {
				o.size[k]++
				break
			}
		}
	}
	t.dst = t.dst[:end]
}

// appendUnspaced appends list without its spaces.
func appendUnspaced(dst, list []byte) []byte {
	if bytes.IndexByte(list, ' ') < 0 {
		return append(dst, list...)
	}
	n := len(dst)
	dst = slices.Grow(dst, len(list))[:n+len(list)]
	for _, c := range list {
		dst[n] = c
		if c != ' ' {
			n++
		}
	}
	return dst[:n]
}

// appendStr appends the text of the string whose first byte behind the quote is
// at i. It returns the index behind the string, or -1 after having appended what
// stands before the error.
func (s *scanner) appendStr(dst []byte, i int) ([]byte, int) {
	if b := s.b; len(b)-i >= 16 {
		// As in str: roles and names, mostly, end here.
		w := b[i : i+16 : i+16]
		x, end := stops(binary.LittleEndian.Uint64(w)), i
		if x == 0 {
			x, end = stops(binary.LittleEndian.Uint64(w[8:])), i+8
		}
		if end += bits.TrailingZeros64(x) / 8; x != 0 && b[end] == '"' {
			return append(dst, b[i:end]...), end + 1
		}
	}
	if hasText() {
		return s.appendText(dst, i)
	}
	if skips() { // reading twice is worth it
		if end := s.str(i); end >= 0 {
			return appendUnescaped(dst, s.b[i:end-1]), end
		}
	}
	for {
		end := stop(s.b, i)
		dst = append(dst, s.b[i:end]...)
		if end == len(s.b) {
			return dst, s.fail(end, "")
		}
		if dst, i = s.appendStop(dst, end); i < 0 || s.b[end] == '"' {
			return dst, i
		}
	}
}

// appendStop reads what is at i, where plain text of a string ends. If that is an
// escape, it appends its text.
func (s *scanner) appendStop(dst []byte, i int) ([]byte, int) {
	switch c := s.b[i]; {
	case c == '"':
		return dst, i + 1
	case c != '\\':
		return dst, s.fail(i, "in a string")
	case s.escape(i+1) < 0:
		return dst, -1
	}
	r, n := unescape(s.b[i:])
	return utf8.AppendRune(dst, r), i + n
}

const (
	leastRoom = 512     // in which text is written by vectors
	mostRoom  = 1 << 19 // at a time: see skipStep
)

// appendText is appendStr with one look at each byte.
func (s *scanner) appendText(dst []byte, i int) ([]byte, int) {
	for {
		// How long the string is shows when it has been read. Where there may be
		// no room for it there soon is for as much again.
		left := len(s.b) - i
		if free := cap(dst) - len(dst); free < min(left, leastRoom) {
			dst = slices.Grow(dst, min(left, max(leastRoom, len(dst))))
		}
		room := min(left, cap(dst)-len(dst), mostRoom)
		nd, ns := textAVX512(dst[len(dst):len(dst)+room], s.b[i:i+room])
		dst = dst[:len(dst)+nd]
		i += ns
		switch {
		case i == len(s.b):
			return dst, s.fail(i, "")
		case ns > 0 && (ns == room || ns == room-1 && s.b[i] == '\\'):
			continue // the string does
		}
		for more := true; more; more = i < len(s.b) && s.b[i] == '\\' {
			at := i
			if dst, i = s.appendStop(dst, at); i < 0 || s.b[at] == '"' {
				return dst, i
			}
		}
	}
}

// simple has what an escape of two bytes stands for, by its second byte.
var simple = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// appendUnescaped appends the text of raw, the inside of a checked string.
func appendUnescaped(dst, raw []byte) []byte {
	n, i := len(dst), 0
	dst = slices.Grow(dst, len(raw))[:n+len(raw)] // no text is longer than its escapes
	for i < len(raw) {
		nd, ns := copyPlain(dst[n:], raw[i:])
		n, i = n+nd, i+ns
		for i < len(raw) && raw[i] == '\\' {
			if c := simple[raw[i+1]]; c != 0 {
				dst[n] = c
				n, i = n+1, i+2
				continue
			}
			r, size := unescape(raw[i:])
			n += utf8.EncodeRune(dst[n:], r)
			i += size
		}
	}
	return dst[:n]
}

// copyPlain copies src to dst up to the first backslash. It may write more to
// dst, which must be as long as src. Text between escapes is mostly short, so it
// begins in small steps.
func copyPlain(dst, src []byte) (nd, ns int) {
	i := 0
	for i < 128 && len(src)-i >= 16 {
		w := src[i : i+16 : i+16]
		*(*[16]byte)(dst[i:]) = [16]byte(w)
		x, at := backslashes(binary.LittleEndian.Uint64(w)), i
		if x == 0 {
			x, at = backslashes(binary.LittleEndian.Uint64(w[8:])), i+8
		}
		if x != 0 {
			at += bits.TrailingZeros64(x) / 8
			return at, at
		}
		i += 16
	}
	end := len(src)
	if gap := bytes.IndexByte(src[i:], '\\'); gap >= 0 {
		end = i + gap
	}
	i += copy(dst[i:], src[i:end])
	return i, i
}

// unescape reads the escape, or the two of a surrogate pair, that b begins
// with. The first has been checked.
func unescape(b []byte) (r rune, n int) {
	switch c := b[1]; c {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r = unhex4(b[2:])
	default:
		return rune(c), 2
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
		if pair := utf16.DecodeRune(r, unhex4(b[8:])); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return utf8.RuneError, 6
}

// unhex4 reads four hex digits; it returns a negative number if they are not.
func unhex4(b []byte) rune {
	b = b[:4]
	return unhex(b[0])<<12 | unhex(b[1])<<8 | unhex(b[2])<<4 | unhex(b[3])
}

// unhex returns what the hex digit c stands for, -1 if it is none.
func unhex(c byte) rune { return rune(digits[c]) - 1 }

// digits has one more than what each hex digit stands for.
var digits = [256]uint8{
	'0': 1, '1': 2, '2': 3, '3': 4, '4': 5, '5': 6, '6': 7, '7': 8, '8': 9, '9': 10,
	'A': 11, 'B': 12, 'C': 13, 'D': 14, 'E': 15, 'F': 16,
	'a': 11, 'b': 12, 'c': 13, 'd': 14, 'e': 15, 'f': 16,
}

// spells reports whether raw, the inside of a checked JSON string, reads name.
func spells(raw []byte, name string) bool {
	for len(raw) > 0 {
		if raw[0] != '\\' {
			if name == "" || name[0] != raw[0] {
				return false
			}
			raw, name = raw[1:], name[1:]
			continue
		}
		r, n := unescape(raw)
		want, size := utf8.DecodeRuneInString(name)
		if size == 0 || want != r {
			return false
		}
		raw, name = raw[n:], name[size:]
	}
	return name == ""
}
