package peek

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

var routing = NewKeys("model", "stream", "messages")

// pick returns what Object finds of the routing keys, as raw text.
func pick(body string) (string, error) {
	var got [3]Value
	if err := Object([]byte(body), routing, got[:]); err != nil {
		return "", err
	}
	var s []string
	for i, v := range got {
		if v.Kind != Absent {
			s = append(s, fmt.Sprintf("%s:%s=%s", routing.names[i], v.Kind, body[v.Start:v.End]))
		}
	}
	return strings.Join(s, " "), nil
}

func TestWantedValuesAreFound(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		if got, err := pick(body); err != nil || got != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", body, got, err, want)
		}
	}
	f(`{}`, ``)
	f(" \t\r\n{ \t\r\n} \t\r\n", ``)
	f(`{"model":"m"}`, `model:string="m"`)
	f(`{"messages" : [ {"model":"no"} , [] ] , "model" : "m" , "stream" : true }`,
		`model:string="m" stream:boolean=true messages:array=[ {"model":"no"} , [] ]`)
	f(`{"model":null,"stream":-1.5e+3,"messages":{"model":{}}}`, `model:null=null stream:number=-1.5e+3 messages:object={"model":{}}`)
	f(`{"x":"model","model":"a\"}b"}`, `model:string="a\"}b"`)
	// Keys are what they read as.
	f(`{"mod\u0065l":1}`, `model:number=1`)
	f(`{"\u006d\u006F\u0064\u0065\u006c":1}`, `model:number=1`)
	f(`{"mod\u0045l":1,"Model":2,"mode":3,"models":4,"":5,"mo\ndel":6}`, ``)
	// Others' duplicates are theirs.
	f(`{"a":1,"a":2,"x":{"model":1,"model":2}}`, ``)
	// Long keys share a place with others of their kind.
	f(`{"`+strings.Repeat("model", 20)+`":1,"stream":false}`, `stream:boolean=false`)
}

func TestKeysOutsideTheBasicPlane(t *testing.T) {
	keys := NewKeys("a", "🐎x", "é", `"\`, strings.Repeat("long", 10))
	body := []byte(`{"\u00E9":1,"\ud83d\udc0ex":2,"\"\\":3,"\u0061":4,"` + strings.Repeat(`l\u006fng`, 10) + `":5}`)
	var got [5]Value
	if err := Object(body, keys, got[:]); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"4", "2", "1", "3", "5"} {
		if s := string(body[got[i].Start:got[i].End]); s != want {
			t.Errorf("%q = %q, want %s", keys.names[i], s, want)
		}
	}
}

func TestDuplicateRoutingKeysAreRefused(t *testing.T) {
	for _, body := range []string{
		`{"model":"a","model":"a"}`,
		`{"model":"a","x":1,"mod\u0065l":"b"}`,
		`{"model":null,"model":"b"}`,
		`{"stream":true,"model":1,"model":2,"stream":false}`,
	} {
		_, err := pick(body)
		var dup *DuplicateError
		if !errors.As(err, &dup) || dup.Key != "model" {
			t.Errorf("%s: %v, want a duplicate model", body, err)
		}
	}
	if _, err := pick(`{"model":1,"model":2,`); !errors.As(err, new(*SyntaxError)) {
		t.Errorf("a body that is not JSON: %v, want a syntax error before a duplicate", err)
	}
}

func TestOtherRootsAreRefused(t *testing.T) {
	for body, want := range map[string]Kind{`[]`: Array, ` [{"model":"m"}] `: Array, `"{}"`: String, `1`: Number, `-0`: Number, `null`: Null, "true\n": Bool} {
		_, err := pick(body)
		var not *NotObjectError
		if !errors.As(err, &not) || not.Kind != want || !errors.Is(err, ErrNotObject) {
			t.Errorf("%s: %v, want not an object but %s", body, err, want)
		}
	}
}

func TestSyntaxErrorsSayWhere(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		if _, err := pick(body); err == nil || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", body, err, want)
		}
	}
	f(``, `unexpected end of input at offset 0`)
	f("  ", `unexpected end of input at offset 2`)
	f(`{"model":`, `unexpected end of input at offset 9`)
	f(`{`, `unexpected end of input at offset 1`)
	f(`{"a`, `unexpected end of input at offset 3`)
	f(`{"a\`, `unexpected end of input at offset 4`)
	f(`{"a\u00`, `unexpected end of input at offset 7`)
	f(`{"a"`, `unexpected end of input at offset 4`)
	f(`{"a":1`, `unexpected end of input at offset 6`)
	f(`{"a":1,`, `unexpected end of input at offset 7`)
	f(`{"a":tru`, `unexpected end of input at offset 8`)
	f(`{"a":-`, `unexpected end of input at offset 6`)
	f(`{"a":[1`, `unexpected end of input at offset 7`)
	f(`[`, `unexpected end of input at offset 1`)
	f(`{} x`, `invalid character 'x' after the root value at offset 3`)
	f(`{}{}`, `invalid character '{' after the root value at offset 2`)
	f(`}`, `invalid character '}' where a value should begin at offset 0`)
	f(`{a:1}`, `invalid character 'a' where a key should begin at offset 1`)
	f(`{'a':1}`, `invalid character '\'' where a key should begin at offset 1`)
	f(`{,}`, `invalid character ',' where a key should begin at offset 1`)
	f(`{"a":1,}`, `invalid character '}' where a key should begin at offset 7`)
	f(`{"x":{"a":1,}}`, `invalid character '}' where a key should begin at offset 12`)
	f(`{"a" 1}`, `invalid character '1' after a key at offset 5`)
	f(`{"a":}`, `invalid character '}' where a value should begin at offset 5`)
	f(`{"a":1 "b":2}`, `invalid character '"' after a member of an object at offset 7`)
	f(`{"a":1]`, `invalid character ']' after a member of an object at offset 6`)
	f(`{"x":{"a":1]}`, `invalid character ']' after a member of an object at offset 11`)
	f(`{"a":[1}`, `invalid character '}' after an element of an array at offset 7`)
	f(`{"a":[1 2]}`, `invalid character '2' after an element of an array at offset 8`)
	f(`{"a":[1,]}`, `invalid character ']' where a value should begin at offset 8`)
	f(`{"a":[,]}`, `invalid character ',' where a value should begin at offset 6`)
	for _, n := range []string{"01", "-01", "00"} {
		f(`{"a":`+n+`}`, fmt.Sprintf(`invalid character '%c' after a member of an object at offset %d`, n[len(n)-1], 4+len(n)))
	}
	f(`{"a":+1}`, `invalid character '+' where a value should begin at offset 5`)
	f(`{"a":.5}`, `invalid character '.' where a value should begin at offset 5`)
	f(`{"a":1.}`, `invalid character '}' in a number at offset 7`)
	f(`{"a":1e}`, `invalid character '}' in a number at offset 7`)
	f(`{"a":1e+}`, `invalid character '}' in a number at offset 8`)
	f(`{"a":-x}`, `invalid character 'x' in a number at offset 6`)
	f(`{"a":0x1}`, `invalid character 'x' after a member of an object at offset 6`)
	f(`{"a":NaN}`, `invalid character 'N' where a value should begin at offset 5`)
	f(`{"a":True}`, `invalid character 'T' where a value should begin at offset 5`)
	f(`{"a":trux}`, `invalid character 'x' in the word true at offset 8`)
	f(`{"a":nulll}`, `invalid character 'l' after a member of an object at offset 9`)
	f("{\"a\":\"\n\"}", `invalid character '\n' in a string at offset 6`)
	f("{\"a\":\"0123456789abcdef\x00\"}", `invalid character '\x00' in a string at offset 22`)
	f("{\"a\":\"\x1f\"}", `invalid character '\x1f' in a string at offset 6`)
	f(`{"a":"\x"}`, `invalid character 'x' in an escape at offset 7`)
	f(`{"a":"\u12G4"}`, `invalid character 'G' in a \u escape at offset 10`)
	f(`{"a":é}`, `invalid character 'é' where a value should begin at offset 5`)
	f("{\"a\":\xff\xfe}", `invalid character '\xff' where a value should begin at offset 5`)
	f("{\v}", `invalid character '\v' where a key should begin at offset 1`)
	f("{\u00a0}", `invalid character '\u00a0' where a key should begin at offset 1`)
	f("\uFEFF{}", `unexpected byte order mark at offset 0`)
	f("{} \uFEFF", `invalid character '\ufeff' after the root value at offset 3`)
	f("// x\n{}", `invalid character '/' where a value should begin at offset 0`)
}

func TestNestingIsLimited(t *testing.T) {
	deep := func(n int) string { return `{"a":` + strings.Repeat(`[`, n-1) + strings.Repeat(`]`, n-1) + `}` }
	if _, err := pick(deep(512)); err != nil {
		t.Errorf("512 levels: %v", err)
	}
	if _, err := pick(deep(513)); err == nil || err.Error() != "objects and arrays nested deeper than 512 at offset 516" {
		t.Errorf("513 levels: %v", err)
	}
	mixed := strings.Repeat(`{"a":[`, 256) + strings.Repeat(`]}`, 256)
	if _, err := pick(mixed); err != nil {
		t.Errorf("512 levels of both kinds: %v", err)
	}
	if _, err := pick(strings.Repeat(`[`, 1<<20)); err == nil {
		t.Error("a mebibyte of brackets passed")
	}
}

func TestNothingIsLeftAfterAnError(t *testing.T) {
	for _, body := range []string{`{"model":1,`, `{"model":1,"model":1}`, `[]`} {
		got := []Value{{Kind: Bool}, {}, {Kind: Null}}
		if Object([]byte(body), routing, got) == nil {
			t.Fatalf("%s passed", body)
		}
		for i := range got {
			if got[i] != (Value{}) {
				t.Errorf("%s: got[%d] = %v, want nothing", body, i, got[i])
			}
		}
	}
}

func TestWantedKeysAreChecked(t *testing.T) {
	f := func(names ...string) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("NewKeys of %d names passed", len(names))
			}
		}()
		NewKeys(names...)
	}
	f("a", "b", "a")
	f(strings.Split(strings.Repeat("x", 33), "")...)
}

// FuzzObject holds that encoding/json agrees on what is JSON, and on where the
// wanted values are.
func FuzzObject(f *testing.F) {
	for _, s := range []string{
		`{"model":"m","stream":true,"messages":[{"role":"user","content":"hi\n"}]}`, `{"mod\u0065l":1}`, `[]`, `"\ud800"`, `-0.0e-0`, ` {} `,
		`{"a":[1,2.5,{"b":null}],"model":{"c":[]}}`, "{\"a\":\"\x7f\xff\"}", `{"model":1,"model":2}`, `{"a":0123}`, `{"a":"\u123"}`, "\uFEFF{}",
		`{"a":"0123456789abcdef0123456789\"abcdef\\"}`, strings.Repeat(`[`, 600) + strings.Repeat(`]`, 600), `{"":{"":{}}}`, `{"a":tru`, `{"a":1e5}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got [3]Value
		err := Object(b, routing, got[:])
		var syntax *SyntaxError
		isSyntax := errors.As(err, &syntax)
		if isSyntax {
			if syntax.Offset < 0 || syntax.Offset > len(b) || len(err.Error()) > 100 {
				t.Fatalf("%q: odd error %v", b, err)
			}
			if strings.HasPrefix(syntax.Msg, "objects and arrays nested") {
				return
			}
		}
		if json.Valid(b) == isSyntax {
			t.Fatalf("%q: %v, but json.Valid says %v", b, err, json.Valid(b))
		}
		if err == nil && utf8.Valid(b) {
			sameValues(t, b, got[:])
		}
	})
}

func sameValues(t *testing.T, b []byte, got []Value) {
	t.Helper()
	var want map[string]json.RawMessage
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	for i, v := range got {
		raw, ok := want[routing.names[i]]
		if ok != (v.Kind != Absent) || !bytes.Equal(raw, b[v.Start:v.End]) {
			t.Fatalf("%q: %s is %q, want %q", b, routing.names[i], b[v.Start:v.End], raw)
		}
		if ok && v.Kind != kindOf(raw[0]) {
			t.Fatalf("%q: %s is of kind %v", b, routing.names[i], v.Kind)
		}
	}
}
