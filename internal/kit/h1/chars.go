package h1

// What a byte may be part of.
const (
	inToken  = 1 << iota // RFC 9110 §5.6.2
	inTarget             // visible ASCII but '#', which begins a fragment
	inValue              // RFC 9110 §5.5: visible, space, tab, and bytes above ASCII
	inHost               // unreserved, RFC 3986 §2.3: what names of hosts are made of
)

var chars = charTable()

func charTable() (t [256]uint8) {
	for c := range t {
		if c == '\t' || c >= ' ' && c != 0x7f {
			t[c] |= inValue
		}
		if c > ' ' && c < 0x7f && c != '#' {
			t[c] |= inTarget
		}
		if alphanumeric(byte(c)) {
			t[c] |= inToken | inHost
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] |= inToken
	}
	for _, c := range []byte("-._~") {
		t[c] |= inHost
	}
	return t
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// notHex is what hexDigits says of a byte that is no digit.
const notHex = 0xff

// hexDigits holds the value of each hexadecimal digit.
var hexDigits = hexTable()

func hexTable() (t [256]uint8) {
	for c := range t {
		switch {
		case c >= '0' && c <= '9':
			t[c] = uint8(c - '0')
		case c >= 'a' && c <= 'f':
			t[c] = uint8(c - 'a' + 10)
		case c >= 'A' && c <= 'F':
			t[c] = uint8(c - 'A' + 10)
		default:
			t[c] = notHex
		}
	}
	return t
}

// text is what names and values come as.
type text interface{ ~string | ~[]byte }

// all reports whether each byte of s is in class. It is true of an empty s.
func all[T text](s T, class uint8) bool {
	for i := 0; i < len(s); i++ {
		if chars[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

// isToken reports whether s is a token: RFC 9110 §5.6.2.
func isToken[T text](s T) bool { return len(s) > 0 && all(s, inToken) }

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// oddBytes is not zero if a byte of x is below 0x20 or is 0x7f.
func oddBytes(x uint64) uint64 {
	del := x ^ 0x7f*ones
	return ((x-0x20*ones)&^x | (del-ones)&^del) & highs
}

// isValue reports whether v has no control character but tabs. Eight bytes at
// a time, because values are most of a head.
func isValue[T text](v T) bool {
	if len(v) < 8 {
		return all(v, inValue)
	}
	odd := oddBytes(eight(v, len(v)-8))
	for i := 0; i+8 < len(v); i += 8 {
		odd |= oddBytes(eight(v, i))
	}
	return odd == 0 || all(v, inValue) // a tab is odd and allowed
}

// eight returns the eight bytes of s from i on as a number.
func eight[T text](s T, i int) uint64 {
	s = s[i : i+8]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// trim returns v without the spaces and tabs around it.
func trim(v []byte) []byte {
	for len(v) > 0 && isSpace(v[0]) {
		v = v[1:]
	}
	for len(v) > 0 && isSpace(v[len(v)-1]) {
		v = v[:len(v)-1]
	}
	return v
}

// EqualFold reports whether a is lower without regard to ASCII case. lower has
// no capital letters.
func EqualFold(a []byte, lower string) bool {
	if len(a) != len(lower) {
		return false
	}
	for i := 0; i < len(lower); i++ {
		c := a[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// A List walks a comma-separated list, RFC 9110 §5.6.1, without the empty
// elements. It does not know quoted strings.
type List struct{ rest []byte }

// Elements returns the list that value holds.
func Elements(value []byte) List { return List{value} }

// Next returns the next element, or nil at the end.
func (l *List) Next() []byte {
	for len(l.rest) > 0 {
		i := 0
		for i < len(l.rest) && l.rest[i] != ',' {
			i++
		}
		e := trim(l.rest[:i])
		l.rest = l.rest[min(i+1, len(l.rest)):]
		if len(e) > 0 {
			return e
		}
	}
	return nil
}

// HasToken reports whether the list in value holds lower, in any case.
func HasToken(value []byte, lower string) bool {
	l := Elements(value)
	for e := l.Next(); e != nil; e = l.Next() {
		if EqualFold(e, lower) {
			return true
		}
	}
	return false
}
