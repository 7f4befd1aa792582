package bench

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func (f facts) String() string {
	var b strings.Builder
	for _, s := range []struct {
		is   bool
		name string
	}{{f.text, "text "}, {f.fault, "fault "}, {f.last, "last "}} {
		if s.is {
			b.WriteString(s.name)
		}
	}
	if u := f.usage; u.seen {
		fmt.Fprintf(&b, "in %d hit %d out %d", u.prompt(), u.hits(), u.output)
	}
	return strings.TrimSpace(b.String())
}

func TestFacts(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		var got facts
		shape := answerShape
		if strings.HasPrefix(in, "generate ") {
			in, shape = in[len("generate "):], generateShape
		}
		if !got.read([]byte(in), shape) {
			t.Errorf("%s is refused", in)
		}
		if got.String() != want {
			t.Errorf("%s:\ngot  %s\nwant %s", in, got, want)
		}
	}
	// chat and completions
	f(`{"choices":[{"delta":{"role":"assistant","content":""}}]}`, "")
	f(`{"choices":[{"delta":{"content":null}}]}`, "")
	f(`{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}`, "text")
	f(` { "choices" : [ { "delta" : { "content" : "\u0000\"usage\":{}" } } ] } `, "text")
	f(`{"choices":[{"delta":{"reasoning_content":"a"}}]}`, "text")
	f(`{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}]}`, "text")
	f(`{"choices":[{"text":"a"}]}`, "text")
	f(`{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":8}}}`, "in 9 hit 8 out 4")
	f(`{"choices":[{"delta":{"content":"a"}}],"usage":null,"error":null}`, "text")
	f(`{"error":{"message":"x"}}`, "fault")
	f(`{"error":"x"}`, "fault")
	f(`{"error":1}`, "fault")
	f(`{"error":{}}`, "fault")
	f(`{"tools":[{"error":{"type":"object"}}]}`, "")
	// responses
	f(`{"type":"response.output_text.delta","delta":"a"}`, "text")
	f(`{"type":"response.output_text.done","text":"a b c"}`, "")
	f(`{"type":"response.created","response":{"error":null,"usage":null,"tools":[{"parameters":{"properties":{"error":{"type":"string"}}}}]}}`, "")
	f(`{"type":"response.completed","response":{"error":null,"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":3},"output_tokens":4}}}`, "last in 9 hit 3 out 4")
	f(`{"type":"response.failed","response":{"error":{"code":"x"}}}`, "fault last")
	// messages
	f(`{"type":"message_start","message":{"usage":{"input_tokens":9,"cache_read_input_tokens":90,"cache_creation_input_tokens":1,"output_tokens":1}}}`, "in 100 hit 90 out 1")
	f(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}`, "text")
	f(`{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{"}}`, "text")
	f(`{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}`, "in 0 hit 0 out 5")
	f(`{"type":"message_stop"}`, "last")
	f(`{"type":"error","error":{"type":"overloaded_error"}}`, "fault")
	// generate
	f(`generate {"text":"a b","meta_info":{"prompt_tokens":7,"completion_tokens":2,"cached_tokens":1}}`, "text in 7 hit 1 out 2")
	// what a hostile server says
	f(`{"usage":{"completion_tokens":99999999999999999999999999}}`, fmt.Sprint("in 0 hit 0 out ", maxCount))
	f(`{"usage":{"completion_tokens":-5,"prompt_tokens":1e300}}`, "in 0 hit 0 out 0")
	f(`{"usage":{"completion_tokens":"5"}}`, "")
	f(`{"choices":{"delta":{"content":"a"}}}`, "text")
	f(`{"error":[]}`, "")
	f(`"text"`, "")
	f(`[[[]]]`, "")
}

// Servers repeat running totals; the largest is the last.
func TestUsageGrows(t *testing.T) {
	var f facts
	for _, s := range []string{`{"usage":{"completion_tokens":1}}`, `{"usage":{"completion_tokens":3}}`, `{"usage":{"completion_tokens":0}}`} {
		f.read([]byte(s), answerShape)
	}
	if f.usage.output != 3 {
		t.Errorf("output = %d, want 3", f.usage.output)
	}
}

const chunk = `{"id":"chatcmpl-V7finSwhpVYsYbpzVB9zF8ON","object":"chat.completion.chunk","created":1763705100,"model":"m1","choices":[{"index":0,"delta":{"content":"token "},"logprobs":null,"finish_reason":null}]}`

func TestFactsDoNotAllocate(t *testing.T) {
	var f facts
	in := []byte(chunk)
	if n := testing.AllocsPerRun(100, func() { f = facts{}; f.read(in, answerShape) }); n != 0 {
		t.Errorf("%v allocations an event, want 0", n)
	}
	if !f.text {
		t.Error("the event's text was not seen")
	}
}

func BenchmarkFacts(b *testing.B) {
	in := []byte(chunk)
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for range b.N {
		var f facts
		f.read(in, answerShape)
	}
}

// FuzzFacts holds that what is taken for JSON is what encoding/json takes for it,
// and that nothing that a server writes is too much.
func FuzzFacts(f *testing.F) {
	for _, s := range []string{chunk, unary, `{"a":[1,-0.5e+3,true,false,null,"\u00e9\\"]}`, `[01]`, `{"a":1,}`, `"`, `-`, `1.`, `tru`, "[\"\t\"]", strings.Repeat("[", 200)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, shape := range []*node{answerShape, generateShape} {
			var got facts
			ok := got.read(in, shape)
			if want := json.Valid(in); ok != want && (!want || !deep(in)) {
				t.Fatalf("read %v, encoding/json %v", ok, want)
			}
			if u := got.usage; u.input < 0 || u.input > maxCount || u.output < 0 || u.output > maxCount {
				t.Fatalf("usage %+v", u)
			}
		}
	})
}

func deep(in []byte) bool {
	depth, most := 0, 0
	for _, c := range in {
		switch c {
		case '[', '{':
			depth++
			most = max(most, depth)
		case ']', '}':
			depth--
		}
	}
	return most >= maxDepth
}
