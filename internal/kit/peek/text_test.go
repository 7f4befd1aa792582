package peek

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestStringValue(t *testing.T) {
	f := func(raw, want string, ok bool) {
		t.Helper()
		if got, gotOK := StringValue([]byte(raw)); got != want || gotOK != ok {
			t.Errorf("StringValue(%s) = %q, %v, want %q, %v", raw, got, gotOK, want, ok)
		}
	}
	f(`""`, "", true)
	f(`"plain"`, "plain", true)
	f(`"a\"\\\/\b\f\n\r\tz"`, "a\"\\/\b\f\n\r\tz", true)
	f(`"\u00e9\u20AC"`, "é€", true)
	f(`"\ud83d\udc0e"`, "🐎", true)
	f(`"\ud83d"`, "\uFFFD", true)
	f(`"\ud83dx\udc0e"`, "\uFFFDx\uFFFD", true)
	f(`"\ud83d\ud83d\udc0e"`, "\uFFFD🐎", true)
	f(`"\ud83d\u0041"`, "\uFFFDA", true)
	f(`"\ud83d\n"`, "\uFFFD\n", true)
	f("\"\xff\"", "\xff", true)
	for _, raw := range []string{``, `"`, `x`, `"a`, `"a"b`, `"a" `, ` "a"`, `null`, `"\x"`, `"\u12"`, "\"\n\"", `"\"`, `"a"b"`, `'a'`} {
		f(raw, "", false)
	}
}

func TestSmallQuestions(t *testing.T) {
	for raw, want := range map[string]bool{"true": true, "false": false, `"true"`: false, "1": false, "": false, "null": false} {
		if got := IsTrue([]byte(raw)); got != want {
			t.Errorf("IsTrue(%s) = %v", raw, got)
		}
	}
	for raw, want := range map[string]bool{"[]": true, "[ \n\t\r]": true, "[1]": false, "[[]]": false, "{}": false, "": false, "[": false, "]": false} {
		if got := ArrayEmpty([]byte(raw)); got != want {
			t.Errorf("ArrayEmpty(%s) = %v", raw, got)
		}
	}
}

func TestSpliceKeepsAllOtherBytes(t *testing.T) {
	body := []byte(`{ "a":1.0,"model" : "alias", "a":2 }`)
	var got [3]Value
	if err := Object(body, routing, got[:]); err != nil {
		t.Fatal(err)
	}
	f := func(value, want string) {
		t.Helper()
		if out := string(Splice(body, got[0].Start, got[0].End, value)); out != `{ "a":1.0,"model" : `+want+`, "a":2 }` {
			t.Errorf("with %q: %s", value, out)
		}
	}
	f("meta/llama", `"meta/llama"`)
	f("", `""`)
	f("a\"\\\n\x00é🐎", `"a\"\\\u000a\u0000é🐎"`)
	f("a\xff\xfe", "\"a\uFFFD\uFFFD\"")
	if want := `{ "a":1.0,"model" : "alias", "a":2 }`; string(body) != want {
		t.Errorf("the old body became %s", body)
	}
}

func TestRoutingText(t *testing.T) {
	f := func(raw, want string) {
		t.Helper()
		if got := string(AppendText([]byte("> "), []byte(raw))); got != "> "+want {
			t.Errorf("%s:\n got %q\nwant %q", raw, got, "> "+want)
		}
	}
	f(`"You are \u0061 pilot.\n"`, "You are a pilot.\n")
	f(` "x" `, "x")
	f(`["one","two"]`, "one\ntwo")
	f(`[]`, "")
	f(`{}`, "")
	// Token ids, and batches of them.
	f(`[1, 22 ,333]`, "1,22,333")
	f(`[[1,2],[3]]`, "1,2\n3")
	f(`[1,"a",2,-3]`, "1\na\n2,-3")
	// Chats: text, parts of text, and parts that have none.
	f(`[{"role":"system","content":"S"},{"role":"user","content":"Q"}]`, "system\nS\nuser\nQ")
	f(`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u","text":"no"}},{"type":"input_text","text":"b"}]}]`, "user\na\n\nb")
	f(`[{"role":"user","parts":[{"text":"gemini"}]}]`, "user\ngemini")
	f(`[{"role":"user","content":[{"type":"tool_result","tool_use_id":"no","content":[{"type":"text","text":"deep"}]}]}]`, "user\ndeep")
	// A turn with a tool, as OpenAI's, Anthropic's and the responses API have it.
	f(`[{"role":"assistant","content":null,"tool_calls":[{"id":"no","type":"function","function":{"name":"get","arguments":"{\"a\": 1}"}}]},{"role":"tool","tool_call_id":"no","content":"1"}]`,
		"assistant\nget\n{\"a\": 1}\ntool\n1")
	f(`[{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"no"},{"type":"text","text":"so"},{"type":"tool_use","id":"no","name":"get","input":{ "a": [1] }}]}]`,
		"assistant\nhm\nso\nget\n{ \"a\": [1] }")
	f(`[{"type":"reasoning","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"no"},{"type":"function_call","name":"get","arguments":"{}","call_id":"no"},{"type":"function_call_output","call_id":"no","output":"1"}]`,
		"hm\nget\n{}\n1")
	f(`{"role":"assistant","content":"c","reasoning_content":"r"}`, "assistant\nr\nc")
	// The order of members is the sender's; that of their text is not.
	f(`[{"content":"Q","role":"user"},{"content":"A","refusal":"no","r\u006fle":"assistant"}]`, "user\nQ\nassistant\nA")
	f(`{"text":"t","content":"c","role":"a\"b"}`, "a\"b\nc\nt")
	f(`{"output":"o","arguments":"a","text":"t","name":"n","content":"c","role":"r"}`, "r\nn\nc\nt\na\no")
	f(`{"role":"one","content":"c","role":"two"}`, "one\nc")
	f(`{"role":{"content":"no"},"content":"c","name":["no"]}`, "c")
	// Members without text are as if they were not there.
	f(`{"role":"assistant","content":"","tool_calls":null,"output":[]}`, "assistant")
	f(`{"content":null,"content":"c"}`, "c")
	for _, raw := range []string{`1`, `true`, `null`, ``, ` `} {
		f(raw, "")
	}
	// What is too deep has no text, and what follows has.
	f(`[`+strings.Repeat(`[`, 16)+`"no"`+strings.Repeat(`]`, 16)+`,"yes"]`, "\nyes")
	// What is not JSON ends the text.
	f(`["a","b`, "a\nb")
	f(`[1,2`, "1,2")
	f(`{"content":"a"`, "a")
	f(`["a" "b"]`, "a")
}

// TestSamePromptHasSameText holds for bodies that an engine makes the same
// prompt of: clients repeat a turn in another shape than that in which they
// first sent or got it.
func TestSamePromptHasSameText(t *testing.T) {
	f := func(raws ...string) {
		t.Helper()
		want := AppendText(nil, []byte(raws[0]))
		for _, raw := range raws[1:] {
			if got := AppendText(nil, []byte(raw)); string(got) != string(want) {
				t.Errorf("%s has the text %q\n%s has %q", raws[0], want, raw, got)
			}
		}
	}
	f(`[{"role":"user","content":"a\nb"}]`,
		`[{"role":"user","content":[{"type":"text","text":"a\nb"}]}]`,
		`[{"content":[{"text":"a","type":"text"},{"cache_control":{"type":"ephemeral"},"type":"text","text":"b"}],"role":"user"}]`)
	f(`[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]`,
		`[{"content":null,"refusal":null,"role":"assistant","tool_calls":[{"id":"1","function":{"arguments":"{}","name":"f"},"type":"function"}]}]`,
		`[{"tool_calls":[{"function":{"arguments":"{}","name":"f"}}],"content":"","role":"assistant"}]`)
}

// TestMembersInTheWrongOrder holds that nobody can make the gateway move text
// around for long.
func TestMembersInTheWrongOrder(t *testing.T) {
	inner := `"` + strings.Repeat("x", 1<<20) + `"`
	for range 7 { // two levels each
		inner = `[{"output":` + inner + `,"arguments":"a","tool_calls":["c"],"text":"t","content":"c","thinking":"t","name":"n","role":"r"}]`
	}
	s := text{scanner: scanner{b: []byte(inner)}, moves: movesFree + movesPer*len(inner)}
	if end := s.any(0, 0); end != len(inner) || s.moves != 0 {
		t.Errorf("read %d of %d, %d moves left", end, len(inner), s.moves)
	}
	if len(s.dst) < 1<<20 || len(s.dst) > len(inner) {
		t.Errorf("%d bytes of text of %d", len(s.dst), len(inner))
	}
}

// FuzzAppendText holds that routing text is what plainText makes of the same
// value, that it is never longer than what it was made of, and that it does not
// depend on what it is appended to.
func FuzzAppendText(f *testing.F) {
	for _, s := range []string{
		`"a\ud83d\udc0e"`, `[1,2,"a",3]`, `[[],[],{}]`, `[{"content":"Q","role":"user"}]`, `{"parts":[{"text":"a"},{"text":"b"}],"role":"\u0061"}`,
		`{"role":"","role":"","content":""}`, strings.Repeat(`[`, 40), `["",""]`, `[-1e5, 1]`, `[10, 2000 ,3,-4]`,
		`{"output":"o","arguments":{ "a" : "\u0061" },"text":"t","name":"n","content":["c",{"text":""}],"role":"r"}`,
		`[{"role":"assistant","tool_calls":[{"function":{"arguments":"{}","name":"f"}}],"reasoning_content":"r"}]`,
		`{"input":null,"input":"x","input":[1]}`, `{"output":[[]],"input":[],"content":"c"}`, strings.Repeat(`[`, 17) + `"a"` + strings.Repeat(`]`, 17),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := AppendText(nil, raw)
		if len(got) > len(raw) {
			t.Fatalf("%q made the longer text %q", raw, got)
		}
		if s, ok := StringValue(raw); ok && s != string(got) {
			t.Fatalf("%q made %q, want %q", raw, got, s)
		}
		if again := AppendText([]byte("kept"), raw); string(again) != "kept"+string(got) {
			t.Fatalf("%q made %q alone and %q after other text", raw, got, again)
		}
		// encoding/json knows no text that is not UTF-8, and orders members
		// however much that costs.
		if json.Valid(raw) && utf8.Valid(raw) && len(raw) <= 256 {
			if want := plainText(raw, 0); string(got) != want {
				t.Fatalf("%s made\n%q, want\n%q", raw, got, want)
			}
		}
	})
}

// FuzzObjectText holds that ObjectText finds and refuses what Object does, and has
// the text that AppendText has.
func FuzzObjectText(f *testing.F) {
	for _, kind := range kinds {
		f.Add(kind.make(700))
	}
	for _, s := range []string{
		`{"model":"m","stream":["a",1,{"text":"t","role":"\u0061"}],"messages":[{"content":"Q\n"}]}`, `{"model":"","stream":"","messages":"x"}`, `{"messages":"a","messages":"b"}`,
		`{"messages":[1,]}`, `{"messages":["a" "b"]}`, `{"messages":{"content":"\x"}}`, `{"messages":[{"content":"a"`, `{"model":` + strings.Repeat(`[`, 511) + strings.Repeat(`]`, 511) + `}`,
		`{"stream":` + strings.Repeat(`[`, 512) + strings.Repeat(`]`, 512) + `}`, `{"model":{"tool_calls":` + strings.Repeat(`[`, 510) + strings.Repeat(`]`, 510) + `}}`, `[{"messages":"a"}]`, `{"model":"a"} x`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var want, got [3]Value
		var parts [3]Part
		wantErr := Object(b, routing, want[:])
		text, err := ObjectText(b, routing, got[:], 1|1<<1|1<<2, []byte("> "), parts[:])
		if fmt.Sprintf("%T %[1]v", err) != fmt.Sprintf("%T %[1]v", wantErr) || got != want {
			t.Fatalf("%q: %v, %v, want %v, %v", b, got, err, want, wantErr)
		}
		var pieces []string
		for i, v := range want {
			w := AppendText(nil, b[v.Start:v.End])
			if string(text[parts[i].Start:parts[i].End]) != string(w) && len(b) < movesFree {
				t.Fatalf("%q: of value %d the text is %q, want %q", b, i, text[parts[i].Start:parts[i].End], w)
			}
		}
		inOrder := slices.Clone(parts[:])
		slices.SortFunc(inOrder, func(a, b Part) int { return a.Start - b.Start })
		for _, p := range inOrder {
			if p.End > p.Start {
				pieces = append(pieces, string(text[p.Start:p.End]))
			}
		}
		if all := "> " + strings.Join(pieces, "\n"); string(text) != all {
			t.Fatalf("%q: all is %q, of parts %q", b, text, all)
		}
	})
}

// plainText is what AppendText appends, by encoding/json.
func plainText(raw []byte, depth int) string {
	raw = bytes.TrimSpace(raw)
	switch c := raw[0]; {
	case c == '"':
		return unquoted(raw)
	case c == '[' && depth < 16:
		var elements []json.RawMessage
		if err := json.Unmarshal(raw, &elements); err != nil {
			panic(err)
		}
		text, number := "", false
		for i, e := range elements {
			before := number
			number = e[0] == '-' || e[0] >= '0' && e[0] <= '9'
			switch {
			case i > 0 && number && before:
				text += ","
			case i > 0:
				text += "\n"
			}
			if number {
				text += string(e)
			} else {
				text += plainText(e, depth+1)
			}
		}
		return text
	case c == '{' && depth < 16:
		dec := json.NewDecoder(bytes.NewReader(raw))
		texts := map[string]string{}
		_, _ = dec.Token() // the bracket
		for dec.More() {
			key, _ := dec.Token()
			var v json.RawMessage
			if err := dec.Decode(&v); err != nil {
				panic(err)
			}
			if k := key.(string); texts[k] == "" {
				texts[k] = plainMember(k, v, depth+1)
			}
		}
		var inOrder []string
		for _, k := range strings.Fields("role name reasoning_content reasoning thinking summary content parts text input_text tool_calls function_call function arguments input output") {
			if texts[k] != "" {
				inOrder = append(inOrder, texts[k])
			}
		}
		return strings.Join(inOrder, "\n")
	}
	return ""
}

func plainMember(key string, v json.RawMessage, depth int) string {
	switch key {
	case "role", "name":
		if v[0] != '"' {
			return ""
		}
	case "arguments", "input":
		if v[0] == '{' || v[0] == '[' {
			return string(v)
		}
	}
	return plainText(v, depth)
}

func unquoted(raw []byte) string {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		panic(err)
	}
	return s
}

// FuzzStringValue holds that encoding/json agrees on what a string is and
// reads.
func FuzzStringValue(f *testing.F) {
	for _, s := range []string{`"plain"`, `"\ud83d\udc0e"`, `"\ud83d"`, `"\u00zz"`, `"\"`, "\"\n\"", `"0123456789abcdef\\"`, `"\ud83d\ud83d\udc0e"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !utf8.Valid(raw) {
			StringValue(raw)
			return
		}
		got, ok := StringValue(raw)
		var want string
		wantOK := len(raw) > 1 && raw[0] == '"' && raw[len(raw)-1] == '"' && json.Unmarshal(raw, &want) == nil
		if ok != wantOK || ok && got != want {
			t.Fatalf("StringValue(%s) = %q, %v, want %q, %v", raw, got, ok, want, wantOK)
		}
		if ok {
			quoted := Splice(nil, 0, 0, got)
			if back, ok := StringValue(quoted); !ok || back != got {
				t.Fatalf("%q was quoted as %s, which reads %q", got, quoted, back)
			}
			if k := NewKeys(got); k.find(raw[1:len(raw)-1]) != 0 && !strings.ContainsRune(got, utf8.RuneError) {
				t.Fatalf("%s does not spell %q", raw, got)
			}
		}
	})
}
