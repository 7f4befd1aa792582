package admin

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A laxity is what a call passes over in a body.
type laxity uint8

const (
	unknownFields laxity = 1 << iota // that nothing has, as in SMG
	nulls                            // which are as if they were not there
)

// strictly reads a JSON object into v, a pointer to a struct. encoding/json takes
// the last of two fields of one name, a name in any case, and U+FFFD for what is
// no text, without a word: who has sent that has other settings than they think.
// All of this is refused, and the error says where it is; so are unknown fields
// and nulls, unless pass has them. A null is let in where a type reads it itself.
func strictly(b []byte, v any, pass laxity) error {
	if !utf8.Valid(b) {
		return errors.New("it is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	var whole json.RawMessage
	if err := dec.Decode(&whole); err != nil {
		return plain(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON")
	}
	if string(whole) == "null" {
		return errors.New("it is null; want an object")
	}
	r := reader{b: whole, pass: pass, types: make(map[reflect.Type]map[string]reflect.Type)}
	if f := r.value(reflect.TypeOf(v).Elem()); f != nil {
		return f
	}
	if err := json.Unmarshal(whole, v); err != nil {
		return plain(err)
	}
	return nil
}

// A fault is what is wrong in JSON, and where.
type fault struct {
	before string   // what is said of the place
	after  string   // and what is said behind it
	in     []string // the place, innermost first: .name or [n]
}

// within adds to f what it is in.
func (f *fault) within(step string) *fault {
	f.in = append(f.in, step)
	return f
}

// Error has at most the outermost 16 parts of the place.
func (f *fault) Error() string {
	var place strings.Builder
	for i, step := range slices.Backward(f.in) {
		if len(f.in)-i > 16 {
			place.WriteString("…")
			break
		}
		place.WriteString(step)
	}
	at := strings.TrimPrefix(place.String(), ".")
	switch {
	case f.before == "" && at == "":
		at = "it"
	case f.before != "" && at != "":
		at = " in " + at
	}
	return f.before + at + f.after
}

// A reader goes through JSON that is known to be well-formed.
type reader struct {
	b     []byte
	i     int
	pass  laxity
	types map[reflect.Type]map[string]reflect.Type // of structs
}

// next skips white space and returns what begins behind it.
func (r *reader) next() byte {
	for {
		switch c := r.b[r.i]; c {
		case ' ', '\t', '\r', '\n':
			r.i++
		default:
			return c
		}
	}
}

// value reads a value that is for a t, nil for anything.
func (r *reader) value(t reflect.Type) *fault {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	own := t != nil && reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
	switch c := r.next(); {
	case c == '{':
		if own {
			t = nil
		}
		return r.object(t)
	case c == '[':
		var of reflect.Type
		if t != nil && !own && t.Kind() == reflect.Slice {
			of = t.Elem()
		}
		return r.array(of)
	case c == '"':
		if _, ok := r.text(); !ok {
			return &fault{after: halved}
		}
	case c == 'n' && r.pass&nulls == 0 && t != nil && !own && t.Kind() != reflect.Interface:
		return &fault{after: " is null; want " + wanted(t) + ", or leave it out"}
	default: // a number, or a word
		for r.i < len(r.b) && !strings.ContainsRune(",]} \t\r\n", rune(r.b[r.i])) {
			r.i++
		}
	}
	return nil
}

// halved is what is wrong with text that is none.
const halved = ` has one half of a surrogate pair, \ud800 to \udfff, without the other, which is no text`

// object reads an object that is for a t, nil for anything.
func (r *reader) object(t reflect.Type) *fault {
	var known map[string]reflect.Type
	var all reflect.Type // of each value
	if t != nil && t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		known = r.fields(t)
	} else if t != nil && t.Kind() == reflect.Map {
		all = t.Elem()
	}
	seen := make(map[string]bool)
	r.i++
	for r.next() != '}' {
		if r.b[r.i] == ',' {
			r.i++
			r.next()
		}
		raw, ok := r.text()
		if !ok {
			return &fault{before: "a name", after: halved}
		}
		var key string
		if err := json.Unmarshal(raw, &key); err != nil {
			panic("BUG: " + err.Error())
		}
		if seen[key] {
			return (&fault{after: " is there twice"}).within(step(key))
		}
		seen[key] = true
		of := all
		if known != nil {
			if of, ok = known[key]; !ok {
				if f := r.stray(key, known); f != nil {
					return f
				}
			}
		}
		r.next()
		r.i++ // the colon
		if f := r.value(of); f != nil {
			return f.within(step(key))
		}
	}
	r.i++
	return nil
}

// stray refuses a field that is not among those that are known. One that differs
// from these in case only is meant to be one.
func (r *reader) stray(key string, known map[string]reflect.Type) *fault {
	f := &fault{before: fmt.Sprintf("unknown field %.64q", key)}
	for name := range known {
		if strings.EqualFold(name, key) {
			f.after = fmt.Sprintf("; want %q", name)
			return f
		}
	}
	if r.pass&unknownFields != 0 {
		return nil
	}
	return f
}

func (r *reader) array(of reflect.Type) *fault {
	r.i++
	for n := 0; r.next() != ']'; n++ {
		if r.b[r.i] == ',' {
			r.i++
		}
		if f := r.value(of); f != nil {
			return f.within("[" + strconv.Itoa(n) + "]")
		}
	}
	r.i++
	return nil
}

// text reads a string, of which it returns the raw form. It reports false if that
// is no text.
func (r *reader) text() (raw []byte, ok bool) {
	begin, high := r.i, false // whether the first half of a pair is just before
	for r.i++; r.b[r.i] != '"'; {
		half := rune(-1)
		switch {
		case r.b[r.i] != '\\':
			r.i++
		case r.b[r.i+1] != 'u':
			r.i += 2
		default:
			n, err := strconv.ParseUint(string(r.b[r.i+2:r.i+6]), 16, 16)
			if c := rune(n); err == nil && utf16.IsSurrogate(c) {
				half = c
			}
			r.i += 6
		}
		switch low := half >= 0xdc00; {
		case high != low:
			return nil, false
		default:
			high = half >= 0 && !low
		}
	}
	r.i++
	return r.b[begin:r.i], !high
}

// fields are the fields of a struct by their names in JSON.
func (r *reader) fields(t reflect.Type) map[string]reflect.Type {
	if known, ok := r.types[t]; ok {
		return known
	}
	known := make(map[string]reflect.Type)
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || f.Anonymous && name == "" { // whose own fields follow
			continue
		}
		if name == "" {
			name = f.Name
		}
		known[name] = f.Type
	}
	r.types[t] = known
	return known
}

// step is a field's name in a place.
func step(key string) string {
	if key != "" && len(key) <= 64 && !strings.ContainsFunc(key, func(c rune) bool {
		return c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	}) {
		return "." + key
	}
	return fmt.Sprintf("[%.64q]", key)
}
