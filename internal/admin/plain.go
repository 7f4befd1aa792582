package admin

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// plain says what is wrong with JSON in words of JSON, and not of Go: which field,
// what it is, and what is wanted.
func plain(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("it is empty")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it ends before it is whole")
	}
	t, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	var field []string
	for name := range strings.SplitSeq(t.Field, ".") {
		if name != "" && name != "moduleOptions" && name != "Spec" { // which clients do not see
			field = append(field, name)
		}
	}
	name := "it"
	if len(field) > 0 {
		name = strings.Join(field, ".")
	}
	return fmt.Errorf("%s is %s; want %s", name, found(t.Value), wanted(t.Type))
}

// found is what encoding/json says that a value is.
func found(value string) string {
	kind, number, _ := strings.Cut(value, " ")
	switch {
	case number != "":
		return number
	case kind == "array":
		return "a list"
	case kind == "object":
		return "an object"
	case kind == "bool":
		return "true or false"
	}
	return "a " + kind
}

// wanted is what JSON has for a type.
func wanted(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<t.Bits()-1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return "a string"
	}
	if t == reflect.TypeFor[attachPoint]() {
		return `an object such as {"Middleware":"OnRequest"}`
	}
	return "an object"
}
