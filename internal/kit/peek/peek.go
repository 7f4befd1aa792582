// Package peek finds a few top-level values in a JSON object without decoding
// the rest.
//
// A body is checked from end to end, and of the wanted values only the places
// are kept: the bytes stay where they are and go on to a worker as they came.
// Whoever needs the text of a value asks for it by its raw bytes.
//
// The check is the full syntax of RFC 8259 with one exception: whether strings
// are valid UTF-8 is left to the engine that decodes them.
package peek

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

// A Kind says what a value is.
type Kind uint8

// Absent is the zero Kind: there is no such key. The name Object is taken by
// the function.
const (
	Absent Kind = iota
	Null
	Bool
	Number
	String
	Array
	ObjectKind
)

// String returns JSON's word for k.
func (k Kind) String() string {
	return [...]string{"absent", "null", "boolean", "number", "string", "array", "object"}[k]
}

// A Value is where a value stands in a body: body[Start:End] is its raw text,
// with the quotes of a string and without the space around it.
type Value struct {
	Kind       Kind
	Start, End int
}

const (
	maxKeys  = 32
	maxDepth = 512 // of objects and arrays in each other, the root's included
	lengths  = 24  // names this long or longer share a place in Keys.byLen
)

// Keys is an immutable set of wanted top-level keys.
type Keys struct {
	names []string
	byLen [lengths + 1]uint32 // the names of a length, a bit each
	any   uint32              // all names
}

// NewKeys returns the set of names. There may be at most 32, all different; it
// panics otherwise, since sets are written down in code.
func NewKeys(names ...string) *Keys {
	if len(names) > maxKeys {
		panic(fmt.Sprintf("BUG: %d keys wanted, at most %d can be", len(names), maxKeys))
	}
	k := &Keys{names: append([]string(nil), names...)}
	for i, name := range k.names {
		if k.find([]byte(name)) >= 0 {
			panic("BUG: key " + strconv.Quote(name) + " is wanted twice")
		}
		k.byLen[min(len(name), lengths)] |= 1 << i
		k.any |= 1 << i
	}
	return k
}

// find returns the index of the name that raw, the inside of a JSON string,
// spells; -1 if none.
func (k *Keys) find(raw []byte) int {
	if bytes.IndexByte(raw, '\\') >= 0 {
		for set := k.any; set != 0; set &= set - 1 {
			if i := bits.TrailingZeros32(set); spells(raw, k.names[i]) {
				return i
			}
		}
		return -1
	}
	for set := k.byLen[min(len(raw), lengths)]; set != 0; set &= set - 1 {
		if i := bits.TrailingZeros32(set); string(raw) == k.names[i] {
			return i
		}
	}
	return -1
}

// ErrNotObject is what every NotObjectError is.
var ErrNotObject = errors.New("not a JSON object")

// A NotObjectError says that the body is one JSON value but no object.
type NotObjectError struct{ Kind Kind }

func (e *NotObjectError) Error() string {
	return "the root is of type " + e.Kind.String() + ", want object"
}

// Is makes errors.Is(err, ErrNotObject) true.
func (e *NotObjectError) Is(target error) bool { return target == ErrNotObject }

// A SyntaxError says where a body stops being JSON. Msg quotes at most one
// character of the body.
type SyntaxError struct {
	Offset int // in bytes, from 0
	Msg    string
}

func (e *SyntaxError) Error() string { return e.Msg + " at offset " + strconv.Itoa(e.Offset) }

// A DuplicateError says that a wanted key stands twice in the object: readers
// that take the first and readers that take the last would disagree.
type DuplicateError struct{ Key string }

func (e *DuplicateError) Error() string { return "duplicate key " + strconv.Quote(e.Key) }

// Object checks that b is exactly one JSON object, with or without white space
// around it, and sets got[i] to where the value of want's i-th name stands. got
// is reset first and must have a place for each name. Keys are compared as
// they read after unescaping; duplicates of keys that are not wanted are fine.
//
// Errors: *SyntaxError (also for a byte order mark, and for objects and arrays
// nested deeper than 512), *NotObjectError, *DuplicateError, in this order: a
// body that is not JSON has no duplicate keys. After an error got is reset.
// Without one, Object does not allocate.
func Object(b []byte, want *Keys, got []Value) error {
	clear(got)
	s := scanner{b: b}
	kind, dup, ok := s.root(want, got, nil, nil)
	switch {
	case !ok:
		clear(got)
		return s.err()
	case kind != ObjectKind:
		return &NotObjectError{Kind: kind}
	case dup >= 0:
		clear(got)
		return &DuplicateError{Key: want.names[dup]}
	}
	return nil
}

// root reads the whole text. If s is t's, t has the text of members, and parts
// where; a part of t itself would be taken to live as long as the text. It
// returns the kind of the one value, and the index of a wanted key that stands
// twice, or -1.
func (s *scanner) root(want *Keys, got []Value, t *text, parts []Part) (kind Kind, dup int, ok bool) {
	dup = -1
	i := s.space(0)
	if i < 0 {
		return 0, dup, false
	}
	kind = kindOf(s.b[i])
	if kind == ObjectKind {
		i, dup = s.members(i, want, got, t, parts)
	} else {
		i = s.value(i, 0)
	}
	if i < 0 {
		return kind, dup, false
	}
	for ; i < len(s.b); i++ {
		if !isSpace(s.b[i]) {
			s.fail(i, "after the root value")
			return kind, dup, false
		}
	}
	return kind, dup, true
}

// members reads the root object, which opens at i, and returns where it ends
// and what stands twice.
func (s *scanner) members(i int, want *Keys, got []Value, t *text, parts []Part) (end, dup int) {
	dup = -1
	if i = s.space(i + 1); i < 0 {
		return -1, dup
	}
	if s.b[i] == '}' {
		return i + 1, dup
	}
	for {
		start := i + 1 // of the key, inside its quotes
		colon := s.keyEnd(i)
		if colon < 0 {
			return -1, dup
		}
		k := want.find(s.b[start : colon-1])
		if i = s.colon(colon); i < 0 {
			return -1, dup
		}
		start = i
		if t.wants(k) {
			i, parts[k] = t.rootMember(i)
		} else {
			i = s.value(i, 1)
		}
		if i < 0 {
			return -1, dup
		}
		if k >= 0 {
			if got[k].Kind != Absent && dup < 0 {
				dup = k
			}
			got[k] = Value{Kind: kindOf(s.b[start]), Start: start, End: i}
		}
		if i = s.space(i); i < 0 {
			return -1, dup
		}
		switch s.b[i] {
		case '}':
			return i + 1, dup
		case ',':
			if i = s.space(i + 1); i < 0 {
				return -1, dup
			}
		default:
			return s.fail(i, "after a member of an object"), dup
		}
	}
}

// kindOf says what a value is that begins with c and has been checked.
func kindOf(c byte) Kind {
	switch c {
	case '{':
		return ObjectKind
	case '[':
		return Array
	case '"':
		return String
	case 't', 'f':
		return Bool
	case 'n':
		return Null
	}
	return Number
}

// err is what has failed, as an error. It is called after a failure only.
func (s *scanner) err() error {
	e := &SyntaxError{Offset: s.off}
	switch {
	case s.deep:
		e.Msg = fmt.Sprintf("objects and arrays nested deeper than %d", maxDepth)
	case s.off >= len(s.b):
		e.Msg = "unexpected end of input"
	case s.off == 0 && bytes.HasPrefix(s.b, []byte("\xEF\xBB\xBF")):
		e.Msg = "unexpected byte order mark"
	default:
		e.Msg = "invalid character " + quoteRune(s.b[s.off:]) + " " + s.where
	}
	return e
}

func quoteRune(b []byte) string {
	r, n := utf8.DecodeRune(b)
	if r == utf8.RuneError && n == 1 {
		return fmt.Sprintf(`'\x%02x'`, b[0])
	}
	return strconv.QuoteRune(r)
}
