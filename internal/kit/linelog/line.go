package linelog

import (
	"log/slog"
	"net/netip"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Line is one line in the making. It belongs to who began it, until End.
// Keys are written as they are: letters, digits and underscores.
type Line struct {
	log    *Log    // constant, as are the next two
	stripe *stripe // where it will wait
	json   bool

	buf []byte

	second int64          // which began is text
	place  *time.Location // where it was told
	begun  []byte         // date and time of that second, as it was told last
	zone   []byte
}

// maxKept is the capacity up to which a Line's memory is used again.
const maxKept = 4 << 10

// Begin returns a new line. Whether its level is Enabled is for the caller to
// ask. Each Begin must be followed by one End.
func (l *Log) Begin(t time.Time, level slog.Level, msg string) *Line {
	e := l.idle.Get().(*Line)
	if e.json {
		e.buf = append(e.buf[:0], `{"time":"`...)
		e.buf = t.AppendFormat(e.buf, time.RFC3339Nano)
		e.buf = append(e.buf, `","level":"`...)
		e.buf = append(e.buf, level.String()...)
		e.buf = append(e.buf, '"')
	} else {
		e.buf = append(e.buf[:0], "time="...)
		e.millis(t)
		e.buf = append(e.buf, " level="...)
		e.buf = append(e.buf, level.String()...)
	}
	e.Str(slog.MessageKey, msg)
	return e
}

// millis is RFC 3339 with three digits of a second, always. All but these
// digits is the same for a second.
func (e *Line) millis(t time.Time) {
	if s := t.Unix(); s != e.second || t.Location() != e.place || len(e.begun) == 0 {
		const digits = len("2006-01-02T15:04:05")
		text := t.AppendFormat(e.begun[:0], time.RFC3339)
		e.begun, e.zone = text[:digits], append(e.zone[:0], text[digits:]...)
		e.second, e.place = s, t.Location()
	}
	ms := t.Nanosecond() / int(time.Millisecond)
	e.buf = append(e.buf, e.begun...)
	e.buf = append(e.buf, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
	e.buf = append(e.buf, e.zone...)
}

// End leaves the line to be written. e must not be used after it.
func (e *Line) End() {
	e.log.add(e.stripe, e.text())
	e.free()
}

// text ends the line and returns it.
func (e *Line) text() []byte {
	if e.json {
		e.buf = append(e.buf, '}')
	}
	e.buf = append(e.buf, '\n')
	return e.buf
}

func (e *Line) free() {
	if cap(e.buf) > maxKept {
		e.buf = make([]byte, 0, 1<<10)
	}
	e.log.idle.Put(e)
}

func (e *Line) key(key string) {
	if e.json {
		e.buf = append(e.buf, `,"`...)
		e.buf = append(e.buf, key...)
		e.buf = append(e.buf, `":`...)
		return
	}
	e.buf = append(e.buf, ' ')
	e.buf = append(e.buf, key...)
	e.buf = append(e.buf, '=')
}

// Str adds a string.
func (e *Line) Str(key, v string) {
	e.key(key)
	switch {
	case e.json:
		e.buf = append(e.buf, '"')
		e.buf = appendEscaped(e.buf, v)
		e.buf = append(e.buf, '"')
	case needsQuotes(v):
		e.buf = strconv.AppendQuote(e.buf, v)
	default:
		e.buf = append(e.buf, v...)
	}
}

// Int adds an integer.
func (e *Line) Int(key string, v int64) {
	e.key(key)
	e.buf = strconv.AppendInt(e.buf, v, 10)
}

// Bool adds true or false.
func (e *Line) Bool(key string, v bool) {
	e.key(key)
	e.buf = strconv.AppendBool(e.buf, v)
}

// Millis adds d as a number of milliseconds, to the microsecond.
func (e *Line) Millis(key string, d time.Duration) {
	e.key(key)
	us := d.Microseconds()
	if us < 0 || us >= 1e9 {
		e.buf = appendFloat(e.buf, float64(us)/1000, e.json)
		return
	}
	// So few digits are what the shortest float that is meant would have.
	e.buf = strconv.AppendInt(e.buf, us/1000, 10)
	if us %= 1000; us != 0 {
		e.buf = append(e.buf, '.', byte('0'+us/100), byte('0'+us/10%10), byte('0'+us%10))
		for e.buf[len(e.buf)-1] == '0' {
			e.buf = e.buf[:len(e.buf)-1]
		}
	}
}

// appendFloat is for numbers without an exponent in JSON: durations have none.
func appendFloat(b []byte, f float64, json bool) []byte {
	if json {
		return strconv.AppendFloat(b, f, 'f', -1, 64)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

// Addr adds an address as a string.
func (e *Line) Addr(key string, a netip.Addr) {
	if !a.IsValid() || a.Zone() != "" {
		e.Str(key, a.String())
		return
	}
	e.key(key)
	if !e.json {
		e.buf = a.AppendTo(e.buf)
		return
	}
	e.buf = append(e.buf, '"')
	e.buf = a.AppendTo(e.buf)
	e.buf = append(e.buf, '"')
}

// AppendString appends v as a JSON string, as a Line has it.
func AppendString(b []byte, v string) []byte {
	return append(appendEscaped(append(b, '"'), v), '"')
}

// appendEscaped is the inside of a JSON string.
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	start := 0
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, `\n`...)
			case '\r':
				b = append(b, `\r`...)
			case '\t':
				b = append(b, `\t`...)
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(append(b, s[start:i]...), `\ufffd`...)
			start = i + n
		case r == '\u2028' || r == '\u2029':
			b = append(append(b, s[start:i]...), '\\', 'u', '2', '0', '2', hex[r&15])
			start = i + n
		}
		i += n
	}
	return append(b, s[start:]...)
}

// needsQuotes reports whether s would not be read as one value in a text line.
func needsQuotes(s string) bool {
	i := 0
	for ; i+8 <= len(s); i += 8 {
		if odd(eight(s[i:])) {
			return oddText(s[i:])
		}
	}
	if i == len(s) {
		return s == ""
	}
	if len(s) >= 8 {
		i = len(s) - 8
		return odd(eight(s[i:])) && oddText(s[i:])
	}
	return oddText(s)
}

// eight returns the eight bytes that s begins with as a number.
func eight(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// odd reports whether a byte of x is a control character, a space, a quote, an
// equals sign, or no ASCII; or one of few others beside such a byte.
func odd(x uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, equals := x^'"'*ones, x^'='*ones
	return (x|(x-('!'*ones))|(quote-ones)&^quote|(equals-ones)&^equals)&highs != 0
}

// oddText is needsQuotes, character by character.
func oddText(s string) bool {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c <= ' ' || c == '"' || c == '=' {
				return true
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return true
		}
		i += n
	}
	return false
}
