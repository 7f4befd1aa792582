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
// from the raw value of messages, prompt, input, text, system, instructions,
// query, documents or one like them. In document order:
//
//   - a string appends itself, unescaped;
//   - an array appends the text of its elements and a line feed behind each;
//     numbers in it, which are token ids, are appended as they are written,
//     with a comma between neighbours and no line feed;
//   - an object appends its first role, if that is a string, and a line feed,
//     wherever it stands among the members; then the text of each member that
//     is called content, text, input_text or parts.
//
// Everything else has no text, and what is nested deeper than 16 neither. What
// is appended is never longer than raw, and memory is taken only to grow dst.
// raw is expected to be well-formed; if it is not, AppendText stops there.
func AppendText(dst, raw []byte) []byte {
	t := text{scanner: scanner{b: raw}, dst: dst}
	if i := t.space(0); i >= 0 {
		t.any(i, 0)
	}
	return t.dst
}

// A text collects routing text. Its methods are a scanner's.
type text struct {
	scanner
	dst []byte
}

// textKeys are the members of an object that AppendText reads.
var textKeys = NewKeys("role", "content", "text", "input_text", "parts")

const roleKey = 0 // its index in textKeys

func (t *text) any(i, depth int) int {
	switch c := t.b[i]; {
	case c == '"':
		return t.str(i)
	case c == '[' && depth < maxTextDepth:
		return t.array(i, depth+1)
	case c == '{' && depth < maxTextDepth:
		return t.object(i, depth+1)
	}
	return t.value(i, depth)
}

// str appends the string whose opening quote is at i.
func (t *text) str(i int) int {
	t.dst, i = t.appendStr(t.dst, i+1)
	return i
}

func (t *text) array(i, depth int) int {
	if i = t.space(i + 1); i < 0 {
		return -1
	}
	if t.b[i] == ']' {
		return i + 1
	}
	for numbers := false; ; {
		if c := t.b[i]; c == '-' || isDigit(c) {
			if numbers {
				t.dst = append(t.dst, ',')
			}
			last := t.ints(i)
			t.dst = appendUnspaced(t.dst, t.b[i:last])
			i = last
			end := t.number(i)
			if end < 0 {
				return -1
			}
			t.dst, numbers = append(t.dst, t.b[i:end]...), true
			i = end
		} else {
			if numbers {
				t.dst = append(t.dst, '\n')
			}
			if i = t.any(i, depth); i < 0 {
				return -1
			}
			t.dst, numbers = append(t.dst, '\n'), false
		}
		end, more := t.next(i, ']')
		if !more {
			return end
		}
		i = end
	}
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
	start := len(t.dst)
	for hasRole := false; ; {
		end := t.keyEnd(i)
		if end < 0 {
			return -1
		}
		key := textKeys.find(t.b[i+1 : end-1])
		if i = t.colon(end); i < 0 {
			return -1
		}
		switch {
		case key == roleKey && !hasRole && t.b[i] == '"':
			hasRole = true
			i = t.role(i, start)
		case key > roleKey:
			i = t.any(i, depth)
		default:
			i = t.value(i, depth)
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

// role puts the string at i and a line feed before what is in dst from start
// on, so that the order of an object's members does not matter.
func (t *text) role(i, start int) int {
	mid := len(t.dst)
	if i = t.str(i); i < 0 {
		return -1
	}
	t.dst = append(t.dst, '\n')
	if start == mid {
		return i
	}
	end := len(t.dst)
	n := end - mid
	t.dst = append(t.dst, t.dst[mid:]...) // room to move in
	copy(t.dst[start+n:], t.dst[start:end])
	copy(t.dst[start:], t.dst[end:])
	t.dst = t.dst[:end]
	return i
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
	if skips() { // reading twice is worth it
		if end := s.str(i); end >= 0 {
			return appendUnescaped(dst, s.b[i:end-1]), end
		}
	}
	for {
		end := stop(s.b, i)
		dst = append(dst, s.b[i:end]...)
		if end < len(s.b) && s.b[end] == '"' {
			return dst, end + 1
		}
		if end == len(s.b) || s.b[end] < ' ' {
			return dst, s.fail(end, "in a string")
		}
		if s.escape(end+1) < 0 {
			return dst, -1
		}
		r, n := unescape(s.b[end:])
		dst = utf8.AppendRune(dst, r)
		i = end + n
	}
}

// simple has what an escape of two bytes stands for, by its second byte.
var simple = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// appendUnescaped appends the text of raw, the inside of a checked string.
func appendUnescaped(dst, raw []byte) []byte {
	n, i := len(dst), 0
	dst = slices.Grow(dst, len(raw))[:n+len(raw)] // no text is longer than its escapes
	for i < len(raw) {
		nd, ns := unescapeSimple(dst[n:], raw[i:])
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
