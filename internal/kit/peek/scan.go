package peek

import (
	"encoding/binary"
	"math/bits"
)

// A scanner checks JSON text. Its methods take the index of what they read and
// return the index behind it, or -1 after they have said with fail what is
// wrong.
type scanner struct {
	b []byte

	// What has failed, once a method has returned -1.
	off   int
	where string // completes "invalid character 'x' ..."
	deep  bool

	objects [maxDepth / 64]uint64 // a bit for each open level of value: it is an object
}

func (s *scanner) fail(off int, where string) int {
	s.off, s.where = off, where
	return -1
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func isDigit(c byte) bool { return c-'0' < 10 }

// space returns the index of the first byte from i on that is not white space.
// There must be one.
func (s *scanner) space(i int) int {
	if i < len(s.b) && s.b[i] > ' ' {
		return i
	}
	return s.spaceRest(i)
}

func (s *scanner) spaceRest(i int) int {
	for ; i < len(s.b); i++ {
		if !isSpace(s.b[i]) {
			return i
		}
	}
	return s.fail(len(s.b), "")
}

// value reads the value at i, which is not white space. depth says how many
// objects and arrays are open around it.
//
// It does not recurse: how deep a body goes is its sender's choice.
func (s *scanner) value(i, depth int) int {
	base := depth
	for {
		switch c := s.b[i]; c {
		case '"':
			i = s.str(i + 1)
		case '{', '[':
			if depth == maxDepth {
				s.deep = true
				return s.fail(i, "")
			}
			object := c == '{'
			if i = s.space(i + 1); i < 0 {
				return -1
			}
			if s.b[i] == c+2 { // its closing bracket
				i++
				break
			}
			s.open(depth, object)
			depth++
			if object {
				if i = s.key(i); i < 0 {
					return -1
				}
			}
			continue
		default:
			if isDigit(c) && depth > base && !s.inObject(depth) {
				i = s.number(s.ints(i))
			} else {
				i = s.scalar(i)
			}
		}
		if i < 0 || depth == base {
			return i
		}
		if i, depth = s.after(i, depth, base); i < 0 || depth == base {
			return i
		}
	}
}

// open notes what is open at a level.
func (s *scanner) open(level int, object bool) {
	bit := uint64(1) << (level & 63)
	if object {
		s.objects[level>>6] |= bit
	} else {
		s.objects[level>>6] &^= bit
	}
}

// inObject reports whether the innermost of depth open levels is an object.
func (s *scanner) inObject(depth int) bool {
	return s.objects[(depth-1)>>6]>>((depth-1)&63)&1 != 0
}

// after reads what stands behind a value at i that is inside depth objects and
// arrays, up to the next value, or to the end of what is open above base.
func (s *scanner) after(i, depth, base int) (next, level int) {
	for depth > base {
		if i = s.space(i); i < 0 {
			return -1, depth
		}
		object := s.inObject(depth)
		switch c := s.b[i]; {
		case c == ',':
			if i = s.space(i + 1); i >= 0 && object {
				i = s.key(i)
			}
			return i, depth
		case c == '}' && object, c == ']' && !object:
			depth--
			i++
		case object:
			return s.fail(i, "after a member of an object"), depth
		default:
			return s.fail(i, "after an element of an array"), depth
		}
	}
	return i, depth
}

// key reads a key, the colon and white space; it ends at the member's value.
func (s *scanner) key(i int) int {
	if i = s.keyEnd(i); i < 0 {
		return -1
	}
	return s.colon(i)
}

func (s *scanner) keyEnd(i int) int {
	if s.b[i] != '"' {
		return s.fail(i, "where a key should begin")
	}
	return s.str(i + 1)
}

func (s *scanner) colon(i int) int {
	if i = s.space(i); i < 0 {
		return -1
	}
	if s.b[i] != ':' {
		return s.fail(i, "after a key")
	}
	return s.space(i + 1)
}

// str reads a string whose first byte behind the quote is at i.
func (s *scanner) str(i int) int {
	if b := s.b; len(b)-i >= 16 {
		// Keys and most values that are no prose end here.
		w := b[i : i+16 : i+16]
		x, end := stops(binary.LittleEndian.Uint64(w)), i
		if x == 0 {
			x, end = stops(binary.LittleEndian.Uint64(w[8:])), i+8
		}
		if end += bits.TrailingZeros64(x) / 8; x != 0 && b[end] == '"' {
			return end + 1
		}
		i = skip(b, i)
	}
	return s.strRest(i)
}

// strRest is str, a few bytes at a time, from anywhere outside an escape. It
// says what is wrong where str has found that something is.
func (s *scanner) strRest(i int) int {
	for {
		i = stop(s.b, i)
		if i == len(s.b) {
			return s.fail(i, "")
		}
		switch s.b[i] {
		case '"':
			return i + 1
		case '\\':
			if i = s.escape(i + 1); i < 0 {
				return -1
			}
		default:
			return s.fail(i, "in a string")
		}
	}
}

const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// stops has its lowest bit set in the first of eight bytes at which plain text
// of a string ends: a quote, a backslash or a control character; it is 0 if
// there is none. Higher bits may lie.
//
// Flipping bit 1 takes the quote to 0x20 and leaves the controls under it, so
// one comparison finds both.
func stops(x uint64) uint64 {
	quoteOrControl := (x ^ 0x02*ones) - 0x21*ones
	backslash := (x ^ 0x5c*ones) - ones
	return (quoteOrControl | backslash) &^ x & highs
}

// backslashes is stops for backslashes alone.
func backslashes(x uint64) uint64 {
	x ^= 0x5c * ones
	return (x - ones) &^ x & highs
}

// stop returns the index of the first byte from i on that is a quote, a
// backslash or a control character; len(b) if there is none.
func stop(b []byte, i int) int {
	for len(b)-i >= 16 {
		w := b[i : i+16 : i+16]
		first, second := stops(binary.LittleEndian.Uint64(w)), stops(binary.LittleEndian.Uint64(w[8:]))
		if first != 0 {
			return i + bits.TrailingZeros64(first)/8
		}
		if second != 0 {
			return i + 8 + bits.TrailingZeros64(second)/8
		}
		i += 16
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < ' ' || c == '"' || c == '\\' {
			break
		}
	}
	return i
}

// escape reads what follows a backslash.
func (s *scanner) escape(i int) int {
	if i == len(s.b) {
		return s.fail(i, "")
	}
	switch s.b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		for j := i + 1; j < i+5; j++ {
			if j >= len(s.b) || unhex(s.b[j]) < 0 {
				return s.fail(j, "in a \\u escape")
			}
		}
		return i + 5
	}
	return s.fail(i, "in an escape")
}

// scalar reads a number, true, false or null.
func (s *scanner) scalar(i int) int {
	switch c := s.b[i]; {
	case c == '-' || isDigit(c):
		return s.number(i)
	case c == 't':
		return s.word(i, "true")
	case c == 'f':
		return s.word(i, "false")
	case c == 'n':
		return s.word(i, "null")
	}
	return s.fail(i, "where a value should begin")
}

func (s *scanner) word(i int, word string) int {
	for j := range len(word) {
		if i+j == len(s.b) || s.b[i+j] != word[j] {
			return s.fail(i+j, "in the word "+word)
		}
	}
	return i + len(word)
}

// ints skips elements of an array, from the one at i on, that are whole numbers
// and have one of their kind behind them. It returns where the last begins,
// which is not read, and may be at i. Prompts of token ids are made of many;
// how long the next is cannot be guessed, so it costs no branch here.
func (s *scanner) ints(i int) int {
	for b := s.b; len(b)-i >= 16; {
		w := b[i : i+16 : i+16]
		x := binary.LittleEndian.Uint64(w) ^ '0'*ones
		// The high bit is set in the first byte that is no digit.
		n := bits.TrailingZeros64((x+(0x80-10)*ones|x)&highs) / 8
		if n == 8 || n > 1 && x&0xff == 0 {
			break
		}
		next := n + 1
		if w[next] == ' ' {
			next++
		}
		if w[n] != ',' || !isDigit(w[next]) {
			break
		}
		i += next
	}
	return i
}

func (s *scanner) number(i int) int {
	b := s.b
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = s.digits(i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = s.digits(i + 1); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return s.digits(i)
	}
	return i
}

// digits reads one digit or more.
func (s *scanner) digits(i int) int {
	start := i
	for i < len(s.b) && isDigit(s.b[i]) {
		i++
	}
	if i == start {
		return s.fail(i, "in a number")
	}
	return i
}
