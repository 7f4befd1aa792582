package peek

import (
	"encoding/json"
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
	f(`["one","two"]`, "one\ntwo\n")
	f(`[]`, "")
	f(`{}`, "")
	// Token ids, and batches of them.
	f(`[1, 22 ,333]`, "1,22,333")
	f(`[[1,2],[3]]`, "1,2\n3\n")
	f(`[1,"a",2]`, "1\na\n2")
	// Chats: text, parts of text, and parts that have none.
	f(`[{"role":"system","content":"S"},{"role":"user","content":"Q"}]`, "system\nS\nuser\nQ\n")
	f(`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u","text":"no"}},{"type":"input_text","text":"b"}]}]`, "user\na\n\nb\n\n")
	f(`[{"role":"user","parts":[{"text":"gemini"}]}]`, "user\ngemini\n\n")
	f(`[{"role":"assistant","content":null,"tool_calls":[{"function":{"arguments":"no"}}]}]`, "assistant\n\n")
	f(`[{"role":"user","content":[{"type":"tool_result","content":[{"type":"text","text":"deep"}]}]}]`, "user\ndeep\n\n\n")
	// The order of members is the sender's; the role still comes first.
	f(`[{"content":"Q","role":"user"},{"content":"A","name":"n","r\u006fle":"assistant"}]`, "user\nQ\nassistant\nA\n")
	f(`{"text":"t","content":"c","role":"a\"b"}`, "a\"b\ntc")
	f(`{"role":"one","content":"c","role":"two"}`, "one\nc")
	f(`{"role":{"content":"no"},"content":"c"}`, "c")
	// Rerank documents.
	f(`[{"text":"d1","id":1},"d2"]`, "d1\nd2\n")
	for _, raw := range []string{`1`, `true`, `null`, ``, ` `} {
		f(raw, "")
	}
	// What is too deep has no text, and what follows has.
	f(`[`+strings.Repeat(`[`, 16)+`"no"`+strings.Repeat(`]`, 16)+`,"yes"]`, strings.Repeat("\n", 16)+"yes\n")
	// What is not JSON ends the text.
	f(`["a","b`, "a\nb")
	f(`[1,2`, "1,2")
	f(`{"content":"a"`, "a")
	f(`["a" "b"]`, "a\n")
}

// FuzzAppendText holds that routing text never panics and is never longer than
// what it was made of, and that a string's is the string.
func FuzzAppendText(f *testing.F) {
	for _, s := range []string{
		`"a\ud83d\udc0e"`, `[1,2,"a",3]`, `[[],[],{}]`, `[{"content":"Q","role":"user"}]`, `{"parts":[{"text":"a"},{"text":"b"}],"role":"\u0061"}`,
		`{"role":"","role":"","content":""}`, strings.Repeat(`[`, 40), `["",""]`, `[-1e5]`,
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
	})
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
