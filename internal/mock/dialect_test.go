package mock

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
)

const weather = `{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer","minimum":1},"unit":{"enum":["c","f"]},"tags":{"type":"array","items":{"type":"string"}},"näme":{"type":"boolean"}},"required":["city"]}`

func handler(t testing.TB, engine string) http.Handler {
	cfg := instant()
	cfg.Engine, cfg.Models = engine, []string{"m"}
	return newTestFleet(t, cfg).Engine(0).Handler()
}

// checkArguments holds that args is what the weather schema asks for.
func checkArguments(t *testing.T, args string) {
	t.Helper()
	var v struct {
		City *string  `json:"city"`
		Days *int     `json:"days"`
		Unit string   `json:"unit"`
		Tags []string `json:"tags"`
		Name *bool    `json:"näme"`
	}
	if err := json.Unmarshal([]byte(args), &v); err != nil {
		t.Fatalf("arguments %q: %v", args, err)
	}
	if v.City == nil || v.Days == nil || v.Name == nil || (v.Unit != "c" && v.Unit != "f") || len(v.Tags) != 1 {
		t.Errorf("arguments %s do not fit the schema", args)
	}
}

func TestChatToolCall(t *testing.T) {
	h := handler(t, SGLang)
	tools := `"tools":[{"type":"function","function":{"name":"other","parameters":{}}},{"type":"function","function":{"name":"weather","parameters":` + weather + `}}]`
	f := func(name, messages, choice, want string) {
		t.Helper()
		body := fmt.Sprintf(`{"messages":%s,%s%s}`, messages, tools, choice)
		v := ok(t, h, "/v1/chat/completions", body)
		got := fmt.Sprint(at(t, v, "choices", 0, "finish_reason"))
		if got == "tool_calls" {
			got = fmt.Sprint(at(t, v, "choices", 0, "message", "tool_calls", 0, "function", "name"))
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	user := `[{"role":"user","content":"hi"}]`
	f("a named function", user, `,"tool_choice":{"type":"function","function":{"name":"weather"}}`, "weather")
	f("any, when one is required", user, `,"tool_choice":"required"`, "other")
	f("none without a reason", user, ``, "stop")
	f("the message asks", `[{"role":"user","content":"[tool] please"}]`, ``, "other")
	f("the message asks, the choice forbids", `[{"role":"user","content":"[tool]"}]`, `,"tool_choice":"none"`, "stop")
	f("a result ends the loop", `[{"role":"user","content":"[tool]"},{"role":"tool","content":"42"}]`, ``, "stop")

	body := fmt.Sprintf(`{"stream":true,"max_tokens":2,"messages":%s,%s,"tool_choice":{"type":"function","function":{"name":"weather"}}}`, user, tools)
	var args, name, id strings.Builder
	pieces := 0
	for _, e := range stream(t, h, "/v1/chat/completions", body) {
		if e.data == "[DONE]" {
			continue
		}
		c := at(t, object1(t, []byte(e.data)), "choices", 0)
		calls, _ := at(t, c, "delta", "tool_calls").([]any)
		if len(calls) == 0 {
			continue
		}
		pieces++
		if s, ok := at(t, calls, 0, "id").(string); ok {
			id.WriteString(s)
		}
		fn := at(t, calls, 0, "function").(map[string]any)
		if s, ok := fn["name"].(string); ok {
			name.WriteString(s)
		}
		args.WriteString(fn["arguments"].(string))
	}
	if name.String() != "weather" || !strings.HasPrefix(id.String(), "call_") || pieces < 4 {
		t.Errorf("a call of %q with id %q in %d pieces", name.String(), id.String(), pieces)
	}
	checkArguments(t, args.String())
}

func TestReasoning(t *testing.T) {
	h := handler(t, SGLang)
	for name, extra := range map[string]string{
		"template": `"chat_template_kwargs":{"enable_thinking":true},"messages":[{"role":"user","content":"x"}]`,
		"effort":   `"reasoning_effort":"low","messages":[{"role":"user","content":"x"}]`,
		"mark":     `"messages":[{"role":"user","content":[{"type":"text","text":"[think] x"}]}]`,
	} {
		v := ok(t, h, "/v1/chat/completions", `{`+extra+`}`)
		if r, _ := at(t, v, "choices", 0, "message", "reasoning_content").(string); len(strings.Fields(r)) != thoughts {
			t.Errorf("%s: reasoning %q", name, r)
		}
		if got := at(t, v, "usage", "completion_tokens_details", "reasoning_tokens"); got != float64(thoughts) {
			t.Errorf("%s: %v reasoning tokens", name, got)
		}
		order := ""
		for _, e := range stream(t, h, "/v1/chat/completions", `{"stream":true,"max_tokens":5,`+extra+`}`) {
			switch {
			case strings.Contains(e.data, `"reasoning_content":`):
				order += "r"
			case strings.Contains(e.data, `"content":"`):
				order += "c"
			}
		}
		if order != "crrrcc" { // the first is the role's
			t.Errorf("%s: deltas %s, want crrrcc", name, order)
		}
	}
}

func TestMessages(t *testing.T) {
	h := handler(t, VLLM)
	base := `"model":"m","max_tokens":100,"messages":[{"role":"user","content":[{"type":"text","text":"hi there"}]}]`
	v := ok(t, h, "/v1/messages", `{`+base+`}`)
	if at(t, v, "type") != "message" || at(t, v, "stop_reason") != "end_turn" || at(t, v, "usage", "output_tokens") != 32.0 {
		t.Errorf("answer %v", v)
	}
	text := at(t, v, "content", 0, "text")

	f := func(name, body, kinds, stop string) (deltas string) {
		t.Helper()
		var seq []string
		var all strings.Builder
		for _, e := range stream(t, h, "/v1/messages", `{"stream":true,`+body+`}`) {
			v := object1(t, []byte(e.data))
			if v["type"] != e.name {
				t.Errorf("%s: event %q has type %v", name, e.name, v["type"])
			}
			switch e.name {
			case "content_block_start":
				seq = append(seq, fmt.Sprint(at(t, v, "index"), at(t, v, "content_block", "type")))
			case "content_block_delta":
				d := at(t, v, "delta").(map[string]any)
				for _, k := range []string{"text", "thinking", "partial_json"} {
					if s, ok := d[k].(string); ok {
						all.WriteString(s)
					}
				}
			case "message_delta":
				seq = append(seq, fmt.Sprint(at(t, v, "delta", "stop_reason")))
			case "message_start", "message_stop":
				seq = append(seq, e.name)
			}
		}
		if got, want := strings.Join(seq, " "), "message_start "+kinds+" "+stop+" message_stop"; got != want {
			t.Errorf("%s: events %s, want %s", name, got, want)
		}
		return all.String()
	}
	if got := f("text", base, "0text", "end_turn"); got != text {
		t.Errorf("streamed %q, whole %q", got, text)
	}
	f("a limit", strings.Replace(base, "100", "3", 1), "0text", "max_tokens")
	f("thinking", base+`,"thinking":{"type":"enabled","budget_tokens":1024}`, "0thinking 1text", "end_turn")
	tools := base + `,"tools":[{"name":"weather","input_schema":` + weather + `}]`
	checkArguments(t, f("a tool", tools+`,"tool_choice":{"type":"tool","name":"weather"}`, "0tool_use", "tool_use"))
	v = ok(t, h, "/v1/messages", `{`+tools+`,"tool_choice":{"type":"any"}}`)
	if input, err := json.Marshal(at(t, v, "content", 0, "input")); err != nil {
		t.Error(err)
	} else {
		checkArguments(t, string(input))
	}
	n := at(t, ok(t, h, "/v1/messages/count_tokens", `{`+base+`}`), "input_tokens")
	if n != 4.0 { // two roles, two words
		t.Errorf("count_tokens says %v, want 4", n)
	}
	ok(t, h, "/v1/messages", `{`+strings.Replace(base, "hi there", strings.Repeat("w ", 100), 1)+`}`)
	v = ok(t, h, "/v1/messages", `{`+strings.Replace(base, "hi there", strings.Repeat("w ", 100), 1)+`}`)
	if in, cached := at(t, v, "usage", "input_tokens"), at(t, v, "usage", "cache_read_input_tokens"); in != 6.0 || cached != 96.0 {
		t.Errorf("second time %v input and %v cached tokens, want 6 and 96", in, cached)
	}
}

func TestResponses(t *testing.T) {
	h := handler(t, SGLang)
	v := ok(t, h, "/v1/responses", `{"model":"m","instructions":"be kind","input":"hello you"}`)
	text := at(t, v, "output", 0, "content", 0, "text")
	if at(t, v, "status") != "completed" || at(t, v, "usage", "input_tokens") != 7.0 {
		t.Errorf("answer %v", v)
	}
	f := func(name, body, want string) (deltas string) {
		t.Helper()
		var seq []string
		var all strings.Builder
		for i, e := range stream(t, h, "/v1/responses", `{"stream":true,`+body+`}`) {
			v := object1(t, []byte(e.data))
			if v["type"] != e.name || v["sequence_number"] != float64(i) {
				t.Errorf("%s: event %d %q is %s", name, i, e.name, e.data)
			}
			short := strings.TrimPrefix(e.name, "response.")
			if strings.HasSuffix(short, "delta") && !strings.HasPrefix(short, "reasoning") {
				all.WriteString(v["delta"].(string))
			}
			if len(seq) == 0 || seq[len(seq)-1] != short {
				seq = append(seq, short)
			}
		}
		if got := strings.Join(seq, " "); got != want {
			t.Errorf("%s: events\n%s, want\n%s", name, got, want)
		}
		return all.String()
	}
	message := "output_item.added content_part.added output_text.delta output_text.done content_part.done output_item.done"
	got := f("text", `"model":"m","instructions":"be kind","input":[{"role":"user","content":[{"type":"input_text","text":"hello you"}]}]`, "created in_progress "+message+" completed")
	if got != text {
		t.Errorf("streamed %q, whole %q", got, text)
	}
	f("a limit", `"input":"x","max_output_tokens":2`, "created in_progress "+message+" incomplete")
	f("reasoning", `"input":"x","reasoning":{"effort":"low"}`, "created in_progress output_item.added reasoning_text.delta reasoning_text.done output_item.done "+message+" completed")
	f("nothing to say", `"input":"x","stop":["a","e","i","o","u","y"],"max_output_tokens":40`, "created in_progress "+message+" completed")
	call := f("a function", `"input":"x","tool_choice":{"type":"function","name":"weather"},"tools":[{"type":"function","name":"weather","parameters":`+weather+`}]`,
		"created in_progress output_item.added function_call_arguments.delta function_call_arguments.done output_item.done completed")
	checkArguments(t, call)
}

func TestCompletions(t *testing.T) {
	h := handler(t, SGLang)
	v := ok(t, h, "/v1/completions", `{"prompt":["one two","one two three"],"n":2,"max_tokens":3}`)
	choices := at(t, v, "choices").([]any)
	if len(choices) != 4 {
		t.Fatalf("%d choices, want 4", len(choices))
	}
	texts := map[any]bool{}
	for i, c := range choices {
		if at(t, c, "index") != float64(i) || at(t, c, "finish_reason") != "length" {
			t.Errorf("choice %d is %v", i, c)
		}
		texts[at(t, c, "text")] = true
	}
	if len(texts) != 4 || at(t, v, "usage", "prompt_tokens") != 5.0 || at(t, v, "usage", "completion_tokens") != 12.0 {
		t.Errorf("%d different texts, usage %v", len(texts), at(t, v, "usage"))
	}
	got := map[any]string{}
	for _, e := range stream(t, h, "/v1/completions", `{"prompt":[[1,2],[3]],"stream":true,"max_tokens":4}`) {
		if e.data != "[DONE]" {
			c := at(t, object1(t, []byte(e.data)), "choices", 0)
			got[at(t, c, "index")] += at(t, c, "text").(string)
		}
	}
	if len(got) != 2 || len(strings.Fields(got[0.0])) != 4 || len(strings.Fields(got[1.0])) != 4 {
		t.Errorf("streamed %v", got)
	}
}

func TestStop(t *testing.T) {
	h := handler(t, SGLang)
	v := ok(t, h, "/v1/completions", `{"prompt":"p","max_tokens":20}`)
	words := strings.Fields(at(t, v, "choices", 0, "text").(string))
	v = ok(t, h, "/v1/completions", fmt.Sprintf(`{"prompt":"p","max_tokens":20,"stop":["nothing of the sort",%q]}`, words[3]))
	text := at(t, v, "choices", 0, "text").(string)
	if strings.TrimSpace(text) != strings.Join(words[:3], " ") || at(t, v, "choices", 0, "finish_reason") != "stop" {
		t.Errorf("text %q, finish %v", text, at(t, v, "choices", 0, "finish_reason"))
	}
}

func TestGenerate(t *testing.T) {
	h := handler(t, SGLang)
	v := ok(t, h, "/generate", `{"text":"one two","rid":"r1","sampling_params":{"max_new_tokens":5}}`)
	text := at(t, v, "text").(string)
	if at(t, v, "meta_info", "id") != "r1" || at(t, v, "meta_info", "finish_reason", "length") != 5.0 || len(at(t, v, "output_ids").([]any)) != 5 {
		t.Errorf("answer %v", v)
	}
	evs := stream(t, h, "/generate", `{"text":"one two","stream":true,"sampling_params":{"max_new_tokens":5}}`)
	before := ""
	for _, e := range evs[:len(evs)-1] {
		so := at(t, object1(t, []byte(e.data)), "text").(string)
		if !strings.HasPrefix(so, before) || so == before {
			t.Errorf("%q does not go on from %q", so, before)
		}
		before = so
	}
	if before != text || len(evs) != 6 {
		t.Errorf("streamed %q in %d events, whole %q", before, len(evs), text)
	}
	w := ask1(t, h, http.MethodPost, "/generate", `{"text":["a","b c"],"sampling_params":{"max_new_tokens":2}}`)
	var list []struct {
		Text string `json:"text"`
		Meta struct {
			Prompt int `json:"prompt_tokens"`
		} `json:"meta_info"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list) != 2 || list[1].Meta.Prompt != 2 {
		t.Errorf("batch %s: %v", w.Body, err)
	}
}

func TestEmbeddings(t *testing.T) {
	h := handler(t, SGLang)
	v := ok(t, h, "/v1/embeddings", `{"input":["big red house","big red barn","quite another thing"],"dimensions":64}`)
	vec := func(i int) []float64 {
		l := at(t, v, "data", i, "embedding").([]any)
		fs := make([]float64, len(l))
		for k := range l {
			fs[k] = l[k].(float64)
		}
		return fs
	}
	if len(vec(0)) != 64 || math.Abs(cosine(vec(0), vec(0))-1) > 1e-5 {
		t.Errorf("%d dimensions, length² %v", len(vec(0)), cosine(vec(0), vec(0)))
	}
	if near, far := cosine(vec(0), vec(1)), cosine(vec(0), vec(2)); near <= far {
		t.Errorf("texts that share words are %v apart, others %v", near, far)
	}
	b := ok(t, h, "/v1/embeddings", `{"input":"big red house","dimensions":64,"encoding_format":"base64"}`)
	raw, err := base64.StdEncoding.DecodeString(at(t, b, "data", 0, "embedding").(string))
	if err != nil || len(raw) != 256 {
		t.Fatalf("%d bytes: %v", len(raw), err)
	}
	first := math.Float32frombits(uint32(raw[0]) | uint32(raw[1])<<8 | uint32(raw[2])<<16 | uint32(raw[3])<<24)
	if math.Abs(float64(first)-vec(0)[0]) > 1e-6 {
		t.Errorf("base64 says %v, numbers say %v", first, vec(0)[0])
	}
}

func TestClassifyAndRerank(t *testing.T) {
	v := ok(t, handler(t, SGLang), "/v1/classify", `{"input":["a","b"]}`)
	if len(at(t, v, "data").([]any)) != 2 || at(t, v, "data", 0, "num_classes") != 2.0 {
		t.Errorf("classify %v", v)
	}
	body := `{"query":"red house","documents":["green tree","the red house"],"top_n":1}`
	for _, path := range []string{"/v1/rerank", "/rerank"} {
		w := ask1(t, handler(t, SGLang), http.MethodPost, path, body)
		var list []map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list) != 1 || list[0]["index"] != 1.0 || list[0]["document"] != "the red house" {
			t.Errorf("%s: %s (%v)", path, w.Body, err)
		}
	}
	v = ok(t, handler(t, VLLM), "/v1/rerank", body)
	if at(t, v, "results", 0, "index") != 1.0 || at(t, v, "results", 0, "document", "text") != "the red house" {
		t.Errorf("vLLM's rerank %v", v)
	}
}

func TestSamePromptSameWords(t *testing.T) {
	cfg := instant()
	cfg.Count = 2
	f := newTestFleet(t, cfg)
	text := func(i int, body string) any {
		return at(t, ok(t, f.Engine(i).Handler(), "/v1/chat/completions", body), "choices", 0, "message", "content")
	}
	a := text(0, hello)
	if b := text(1, hello); a != b {
		t.Errorf("engines differ: %q, %q", a, b)
	}
	if b := text(0, `{"seed":7,`+hello[1:]); a == b {
		t.Error("another seed gave the same words")
	}
	if b := text(0, strings.Replace(hello, "hello", "goodbye", 1)); a == b {
		t.Error("another prompt gave the same words")
	}
}

func TestRefusals(t *testing.T) {
	cfg := instant()
	cfg.ContextLength, cfg.MaxBody = 50, 4096
	long := strings.Repeat("w ", 60)
	tests := []struct {
		name, path, body string
		status           int
	}{
		{"not JSON", "/v1/chat/completions", `{bad`, 400},
		{"not an object", "/v1/chat/completions", `null`, 400},
		{"no messages", "/v1/chat/completions", `{"model":"mock"}`, 400},
		{"a message without role", "/v1/chat/completions", `{"messages":[{"content":"x"}]}`, 400},
		{"max_tokens 0", "/v1/chat/completions", `{"max_tokens":0,"messages":[{"role":"user","content":"x"}]}`, 400},
		{"max_tokens beyond the context", "/v1/chat/completions", `{"max_tokens":60,"messages":[{"role":"user","content":"x"}]}`, 400},
		{"a prompt beyond the context", "/v1/completions", `{"prompt":"` + long + `"}`, 400},
		{"temperature", "/v1/chat/completions", `{"temperature":-1,"messages":[{"role":"user","content":"x"}]}`, 400},
		{"n", "/v1/chat/completions", `{"n":1000,"messages":[{"role":"user","content":"x"}]}`, 400},
		{"a tool that is not there", "/v1/chat/completions", `{"tool_choice":{"type":"function","function":{"name":"x"}},"messages":[{"role":"user","content":"x"}]}`, 400},
		{"no prompt", "/v1/completions", `{}`, 400},
		{"no input", "/v1/embeddings", `{"input":[]}`, 400},
		{"dimensions", "/v1/embeddings", `{"input":"x","dimensions":-3}`, 400},
		{"no query", "/v1/rerank", `{"documents":["x"]}`, 400},
		{"no max_tokens", "/v1/messages", `{"messages":[{"role":"user","content":"x"}]}`, 400},
		{"text and ids", "/generate", `{"text":"x","input_ids":[1]}`, 400},
		{"an unknown response", "/v1/responses", `{"input":"x","previous_response_id":"resp_1"}`, 404},
		{"a body over the limit", "/v1/chat/completions", `{"messages":"` + strings.Repeat("w", 5000), 413},
		{"an unknown fault", "/v1/completions", `{"prompt":"x","user":"mock:explode"}`, 400},
	}
	for _, engine := range []string{SGLang, VLLM, LlamaCPP} {
		cfg.Engine = engine
		e := newTestFleet(t, cfg).Engine(0)
		for _, tt := range tests {
			w := ask1(t, e.Handler(), http.MethodPost, tt.path, tt.body)
			v := object1(t, w.Body.Bytes())
			msg := v["message"]
			if engine != SGLang || strings.HasPrefix(tt.path, "/v1/messages") {
				msg = at(t, v, "error", "message")
			}
			if s, _ := msg.(string); w.Code != tt.status || s == "" {
				t.Errorf("%s, %s: status %d, want %d: %s", engine, tt.name, w.Code, tt.status, w.Body)
			}
		}
		if got := e.Seen(); got.Invalid != int64(len(tests)) || got.Requests != got.Invalid {
			t.Errorf("%s: %+v", engine, got)
		}
		w := ask1(t, e.Handler(), http.MethodPost, "/v1/chat/completions", `{"model":"nope","messages":[{"role":"user","content":"x"}]}`)
		if want := map[bool]int{true: 404, false: 200}[engine == VLLM]; w.Code != want {
			t.Errorf("%s: an unknown model gets %d, want %d", engine, w.Code, want)
		}
	}
}

func TestAPIKey(t *testing.T) {
	cfg := instant()
	if err := cfg.APIKey.UnmarshalText([]byte("k1")); err != nil {
		t.Fatal(err)
	}
	h := newTestFleet(t, cfg).Engine(0).Handler()
	f := func(path string, want int, header ...string) {
		t.Helper()
		if w := ask1(t, h, http.MethodGet, path, "", header...); w.Code != want {
			t.Errorf("%s with %v: %d, want %d", path, header, w.Code, want)
		}
	}
	f("/v1/models", 401)
	f("/v1/models", 401, "Authorization", "Bearer k2")
	f("/v1/models", 200, "Authorization", "bearer k1")
	f("/v1/models", 200, "X-Api-Key", "k1")
	f("/health", 200)
	f("/mock/state", 401)
}

func TestInformation(t *testing.T) {
	tests := []struct {
		path                   string
		sglang, vllm, llamacpp int
	}{
		{"/health", 200, 200, 200}, {"/v1/models", 200, 200, 200}, {"/v1/models/m", 200, 200, 200}, {"/v1/models/x", 404, 404, 404},
		{"/metrics", 200, 200, 200}, {"/version", 404, 200, 404}, {"/get_model_info", 200, 404, 404}, {"/model_info", 200, 404, 404},
		{"/get_server_info", 200, 404, 404}, {"/server_info", 200, 404, 404}, {"/v1/loads", 200, 404, 404}, {"/get_load", 200, 404, 404},
		{"/props", 404, 404, 200}, {"/health_generate", 200, 404, 404}, {"/ping", 200, 200, 404}, {"/nope", 404, 404, 404},
		{"/v1/chat/completions", 405, 405, 405}, {"/abort_request", 405, 404, 404}, {"/mock/state", 200, 200, 200},
	}
	for _, tt := range tests {
		for engine, want := range map[string]int{SGLang: tt.sglang, VLLM: tt.vllm, LlamaCPP: tt.llamacpp} {
			w := ask1(t, handler(t, engine), http.MethodGet, tt.path, "")
			if w.Code != want {
				t.Errorf("%s %s: %d, want %d", engine, tt.path, w.Code, want)
			}
			if want == 405 && w.Header().Get("Allow") != "POST" {
				t.Errorf("%s %s: Allow %q", engine, tt.path, w.Header().Get("Allow"))
			}
		}
	}
	if got := ask1(t, handler(t, LlamaCPP), http.MethodGet, "/health", "").Header().Get("Keep-Alive"); got != "timeout=5, max=100" {
		t.Errorf("llama.cpp's Keep-Alive is %q", got)
	}
	for engine, name := range map[string]string{SGLang: "sglang:token_usage", VLLM: "vllm:prefix_cache_hits_total"} {
		h := handler(t, engine)
		ok(t, h, "/v1/chat/completions", hello)
		if body := ask1(t, h, http.MethodGet, "/metrics", "").Body.String(); !strings.Contains(body, "\n"+name+`{model_name="m"} `) {
			t.Errorf("%s: no %s in\n%s", engine, name, body)
		}
	}
}
