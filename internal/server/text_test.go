package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"sluice/internal/infer"
	"sluice/internal/kit/peek"
)

// textOf returns the routing text of a body, and what refuses it: the same whether
// the text is made with the first look or when it is asked for.
func textOf(t testing.TB, e infer.Endpoint, body []byte) (string, error) {
	r, early := infer.Request{Endpoint: e, Body: body}, infer.Request{Endpoint: e, Body: body}
	defer r.Reset()
	defer early.Reset()
	err, errEarly := look(&r, false), look(&early, true)
	if fmt.Sprint(err) != fmt.Sprint(errEarly) {
		t.Fatalf("%s %s: %v; with the text, %v", e.Label(), body, err, errEarly)
	}
	if err != nil {
		return "", err
	}
	if !bytes.Equal(r.Text(), early.Text()) || r.TextAt != early.TextAt || r.Model != early.Model || r.Stream != early.Stream {
		t.Fatalf("%s %s: the text is %q of %+v, made at once %q of %+v", e.Label(), body, r.Text(), r.TextAt, early.Text(), early.TextAt)
	}
	return string(r.Text()), nil
}

func TestRoutingTextOfEveryEndpoint(t *testing.T) {
	f := func(e infer.Endpoint, body, want string) {
		t.Helper()
		switch got, err := textOf(t, e, []byte(body)); {
		case err != nil:
			t.Errorf("%s %s: %v", e.Label(), body, err)
		case got != want:
			t.Errorf("%s %s:\n got %q\nwant %q", e.Label(), body, got, want)
		}
	}
	f(infer.Chat, `{"model":"m","messages":[{"role":"user","content":"Q"}]}`, "user\nQ")
	f(infer.Chat, `{"messages":[{"role":"user","content":"Q"}],"model":"m","user":"no","tools":[{"function": {}}]}`, `[{"function": {}}]`+"\nuser\nQ")
	f(infer.Chat, `{"messages":[{"role":"user","content":"Q"}],"model":"m","documents":[{"text":"D"}],"tools":[ ],"input":"no"}`, "D\nuser\nQ")
	f(infer.Completions, `{"model":"m","prompt":"P","suffix":"no"}`, "P")
	f(infer.Completions, `{"model":"m","prompt":["P","Q"]}`, "P\nQ")
	f(infer.Completions, `{"model":"m","prompt":[1, 2]}`, "1,2")
	f(infer.Completions, `{"model":"m","prompt":[[1,2],[3]]}`, "1,2\n3")
	f(infer.Completions, `{"model":"m"}`, "")
	f(infer.Completions, `{"model":"m","prompt":null,"tools":[1]}`, "")
	f(infer.Generate, `{"text":"T"}`, "T")
	f(infer.Generate, `{"input_ids":[1,22,333],"sampling_params":{"text":"no"}}`, "1,22,333")
	f(infer.Messages, `{"messages":[{"role":"user","content":"Q"}],"system":"S","model":"m"}`, "S\nuser\nQ")
	f(infer.Messages, `{"tools":[{"name":"f"}],"messages":[{"role":"user","content":[{"type":"text","text":"Q"},{"type":"image","source":{"data":"no"}}]}],"model":"m","system":[{"type":"text","text":"S"},{"type":"text","text":"T"}]}`, `[{"name":"f"}]`+"\nS\nT\nuser\nQ\n")
	f(infer.CountTokens, `{"messages":[{"role":"user","content":"Q"}],"system":"S","model":"m"}`, "S\nuser\nQ")
	f(infer.Responses, `{"model":"m","input":"Q","instructions":"I"}`, "I\nQ")
	f(infer.Responses, `{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"Q"},{"type":"input_image","image_url":"no"}]}]}`, "user\nQ\n")
	f(infer.Embeddings, `{"model":"m","input":["a","b"]}`, "a\nb")
	f(infer.Embeddings, `{"model":"m","messages":[{"role":"user","content":"Q"}]}`, "user\nQ")
	f(infer.Classify, `{"model":"m","input":"a"}`, "a")
	f(infer.Rerank, `{"model":"m","documents":["no"],"query":"Q"}`, "Q")
	f(infer.Realtime, `{"model":"m","messages":["no"],"input":"no"}`, "")
	f(infer.Messages, `{"messages":[{"content":null}],"system":"S","model":"m"}`, "S")
	f(infer.Messages, `{"system":"","messages":[{"content":"Q"}],"model":"m","tools":[1]}`, "[1]\nQ")
	f(infer.Messages, `{"messages":[{"content":"Q"}],"tools":[1],"model":"m","system":"S"}`, "[1]\nS\nQ")
	f(infer.Generate, `{"prompt":"third","input_ids":[1],"text":"first"}`, "first\n1")
	f(infer.Generate, `{"text":"first","prompt":"third","input_ids":[1]}`, "first\n1")
	f(infer.Generate, `{"input_ids":[1],"prompt":"third","text":3}`, "1\nthird")
	f(infer.Classify, `{"model":"m","text":"third","messages":[],"input":""}`, "")
	f(infer.Completions, `{"model":"m","tools":[1],"prompt":""}`, "[1]")
}

func TestOddTexts(t *testing.T) {
	part := `{"type":"text","text":"word"}`
	body := `{"model":"m","messages":[{"role":"user","content":[` + strings.Repeat(part+",", 9999) + part + `]}]}`
	if got, err := textOf(t, infer.Chat, []byte(body)); err != nil || got != "user"+strings.Repeat("\nword", 10000) {
		t.Errorf("of 10,000 parts: %d bytes, %v", len(got), err)
	}
	if got, err := textOf(t, infer.Completions, []byte("{\"model\":\"m\",\"prompt\":\"a\xff\xc3b\\ud800\\n\"}")); err != nil || got != "a\xff\xc3b\uFFFD\n" {
		t.Errorf("of bytes that are not UTF-8: %q, %v", got, err)
	}
	ids := strings.Repeat("123456,", 100_000) + "7"
	if got, err := textOf(t, infer.Generate, []byte(`{"input_ids":[`+ids+`]}`)); err != nil || got != ids {
		t.Errorf("of many ids: %d bytes, want %d; %v", len(got), len(ids), err)
	}
}

// TestAliasLeavesTheText holds that a body whose model was spelled anew has the
// text it had.
func TestAliasLeavesTheText(t *testing.T) {
	for _, body := range []string{
		`{"model":"alias","tools":[{"name":"f"}],"messages":[{"role":"user","content":"Q"}]}`,
		`{"messages":[{"role":"user","content":"Q"}],"tools":[{"name":"f"}],"model":"alias"}`,
		`{"messages":[{"role":"user","content":"Q"}],"model":"alias","tools":[{"name":"f"}]}`,
	} {
		for _, model := range []string{"m", "a-much-longer-name", "alias"} {
			r := infer.Request{Endpoint: infer.Chat, Body: []byte(body)}
			if err := look(&r, len(model) == 1); err != nil {
				t.Fatal(err)
			}
			r.Respell(peek.Splice(r.Body, r.ModelAt, r.ModelEnd, model))
			if got, want := string(r.Text()), `[{"name":"f"}]`+"\nuser\nQ"; got != want {
				t.Errorf("%s as %s: %q, want %q", body, model, got, want)
			}
			r.Reset()
		}
	}
}

// TestAnotherBodyHasAnotherText holds that nothing is left of what was found in
// a body that a module has replaced.
func TestAnotherBodyHasAnotherText(t *testing.T) {
	long := `{"model":"m","tools":[{"name":"f"}],"documents":[{"text":"D"}],"messages":[{"role":"user","content":"Q"}],"stream":true}`
	for body, want := range map[string]string{
		`{"model":"n","messages":[{"content":"R"}]}`:  "R",
		`{"model":"n","messages":[{}],"documents":3}`: "",
	} {
		r := infer.Request{Endpoint: infer.Chat, Body: []byte(long)}
		r.Header.AddString("Content-Type", "application/json")
		if err := look(&r, true); err != nil {
			t.Fatal(err)
		}
		r.SetBytes([]byte(body))
		if err := Look(&r); err != nil {
			t.Fatal(err)
		}
		if got := string(r.Text()); got != want || r.Model != "n" || r.Stream {
			t.Errorf("%s: text %q, model %q, stream %v; want %q", body, got, r.Model, r.Stream, want)
		}
		r.Reset()
	}
}

// recorded returns conversations of agents: their tools, and the messages of
// each.
func recorded(t testing.TB) (tools json.RawMessage, sessions [][]json.RawMessage) {
	t.Helper()
	f, err := os.Open("../bench/testdata/tau_airline.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for sc := bufio.NewReader(z); ; {
		line, err := sc.ReadBytes('\n')
		if err != nil {
			return tools, sessions
		}
		var in struct {
			Tools    json.RawMessage   `json:"tools"`
			Messages []json.RawMessage `json:"messages"`
		}
		if err := json.Unmarshal(line, &in); err != nil {
			t.Fatal(err)
		}
		if in.Tools != nil {
			tools = in.Tools
			continue
		}
		sessions = append(sessions, in.Messages)
	}
}

// asResponses is a chat's message as the responses API has it.
func asResponses(t testing.TB, raw json.RawMessage) []string {
	t.Helper()
	var m struct {
		Role    string `json:"role"`
		Content any    `json:"content"`
		Calls   []struct {
			ID       string `json:"id"`
			Function struct {
				Name      string `json:"name"`
				Arguments string `json:"arguments"`
			} `json:"function"`
		} `json:"tool_calls"`
		ID string `json:"tool_call_id"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	write := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	type object = map[string]any
	var items []string
	switch {
	case m.Role == "tool":
		items = append(items, write(object{"type": "function_call_output", "call_id": m.ID, "output": m.Content}))
	case m.Content != nil:
		items = append(items, write(object{"type": "message", "role": m.Role, "content": []object{{"type": "input_text", "text": m.Content}}}))
	}
	for _, c := range m.Calls {
		items = append(items, write(object{"type": "function_call", "call_id": c.ID, "name": c.Function.Name, "arguments": c.Function.Arguments}))
	}
	return items
}

// TestNextTurnBeginsWithTheLast holds that a conversation's text begins with
// that of each of its earlier turns, byte for byte: so prefix policies find the
// worker that has computed them.
func TestNextTurnBeginsWithTheLast(t *testing.T) {
	tools, sessions := recorded(t)
	if len(sessions) < 50 {
		t.Fatalf("%d sessions", len(sessions))
	}
	turns := 0
	for s, messages := range sessions {
		before := map[infer.Endpoint]string{}
		var chat, items []string
		for _, m := range messages {
			chat, items = append(chat, string(m)), append(items, asResponses(t, m)...)
			for e, body := range map[infer.Endpoint]string{
				infer.Chat:      fmt.Sprintf(`{"model":"m","messages":[%s],"tools":%s}`, strings.Join(chat, ", "), tools),
				infer.Messages:  fmt.Sprintf(`{"model":"m","messages":[%s],"system":"S","tools":%s}`, strings.Join(chat, ","), tools),
				infer.Responses: fmt.Sprintf(`{"model":"m","input":[%s],"tools":%s}`, strings.Join(items, ","), tools),
			} {
				text, err := textOf(t, e, []byte(body))
				if err != nil {
					t.Fatalf("session %d: %v", s, err)
				}
				if b := before[e]; !strings.HasPrefix(text, b) || len(text) <= len(b) {
					t.Fatalf("session %d, message %d, %s: the text does not begin with that of the turn before:\n%.2000q\n%.2000q", s, len(chat), e.Label(), text[len(tools):], b[min(len(b), len(tools)):])
				}
				before[e] = text
				turns++
			}
		}
	}
	t.Logf("%d turns", turns)
}

// FuzzRoutingText holds, for every endpoint, that encoding/json finds the same
// prompt in a body, that it is no longer than that, and that it does not depend on
// what the request was before. What is made of each value is FuzzAppendText's.
func FuzzRoutingText(f *testing.F) {
	for _, s := range []string{
		`{"model":"m","messages":[{"role":"user","content":"Q"}],"tools":[1, 2]}`,
		`{"input":"a","text":"b","query":"c","prompt":[1,2],"input_ids":[[3]],"instructions":"d","system":"e","documents":["f"],"model":"m","messages":[{}]}`,
		`{"tools":{},"messages":null,"prompt":3,"model":"m","text":true}`,
		`{"tools":[ ],"mess\u0061ges":[{"content":"x"}],"model":"m"}`,
	} {
		f.Add([]byte(s))
	}
	order := map[infer.Endpoint]string{
		infer.Chat: "documents messages", infer.Completions: "prompt", infer.Responses: "instructions input",
		infer.Messages: "system messages", infer.CountTokens: "system messages", infer.Embeddings: "input messages",
		infer.Classify: "input messages text", infer.Rerank: "query", infer.Generate: "text input_ids prompt",
	}
	full := []byte(`{"model":"m","tools":[{"name":"f"}],"documents":["d"],"messages":[{"role":"user","content":"Q"}],"input":"i","text":"t","query":"q","prompt":"p","input_ids":[1],"instructions":"n","system":"s"}`)
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, e := range infer.Endpoints() {
			got, err := textOf(t, e, body)
			if err != nil {
				continue
			}
			values := map[string][]byte{}
			dec := json.NewDecoder(bytes.NewReader(body))
			_, _ = dec.Token() // the bracket
			for dec.More() {
				key, _ := dec.Token()
				var v json.RawMessage
				if err := dec.Decode(&v); err != nil {
					t.Fatalf("%s: %v", body, err)
				}
				values[key.(string)] = v
			}
			var texts []string
			n := 0
			for key := range strings.FieldsSeq(order[e]) {
				v := values[key]
				if v == nil || strings.IndexByte(`"[{`, v[0]) < 0 || n == 2 {
					continue
				}
				n++
				if text := peek.AppendText(nil, v); len(text) > 0 {
					texts = append(texts, string(text))
				}
			}
			var list []json.RawMessage
			if tools := values["tools"]; n > 0 && tools != nil && json.Unmarshal(tools, &list) == nil && len(list) > 0 {
				texts = append([]string{string(tools)}, texts...)
			}
			if want := strings.Join(texts, "\n"); got != want {
				t.Fatalf("%s %s:\n got %q\nwant %q", e.Label(), body, got, want)
			}
			if len(got) > len(body)+1 {
				t.Fatalf("%s %s: the text is longer: %q", e.Label(), body, got)
			}
			// A request that had another body before, and whose model is then
			// spelled in another way, has the same text.
			r := infer.Request{Endpoint: e, Body: full}
			r.Header.AddString("Content-Type", "application/json")
			if err := look(&r, true); err != nil {
				t.Fatal(err)
			}
			r.SetBytes(body)
			if err := Look(&r); err != nil {
				t.Fatal(err)
			}
			if r.ModelEnd > 0 {
				r.Respell(peek.Splice(r.Body, r.ModelAt, r.ModelEnd, "a model's own, longer name"))
			}
			if again := string(r.Text()); e != infer.Realtime && again != got {
				t.Fatalf("%s %s: %q at first, and %q where it takes another's place", e.Label(), body, got, again)
			}
			r.Reset()
		}
	})
}

func BenchmarkRoutingText(b *testing.B) {
	tools, sessions := recorded(b)
	var longest []json.RawMessage
	for _, s := range sessions {
		if len(s) > len(longest) {
			longest = s
		}
	}
	messages, err := json.Marshal(longest)
	if err != nil {
		b.Fatal(err)
	}
	prose := strings.Repeat(`The quick brown fox jumps over the lazy dog, and then it rests for a while.\n`, 1<<19/77)
	for _, bench := range []struct {
		name string
		e    infer.Endpoint
		body string
	}{
		{"agent", infer.Chat, fmt.Sprintf(`{"model":"m","messages":%s,"tools":%s}`, messages, tools)},
		{"prose-512KiB", infer.Completions, `{"model":"m","prompt":"` + prose + `"}`},
		{"parts-10000", infer.Chat, `{"model":"m","messages":[{"role":"user","content":[` + strings.Repeat(`{"type":"text","text":"word"},`, 9999) + `{}]}]}`},
		{"ids-512KiB", infer.Generate, `{"input_ids":[` + strings.Repeat("12345,", 1<<19/6) + `7]}`},
	} {
		for _, early := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/at-once=%v", bench.name, early), func(b *testing.B) {
				body := []byte(bench.body)
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				var r infer.Request
				for b.Loop() {
					r.Endpoint, r.Body = bench.e, body
					if err := look(&r, early); err != nil {
						b.Fatal(err)
					}
					if len(r.Text()) == 0 {
						b.Fatal("no text")
					}
					r.Reset()
				}
			})
		}
	}
}
