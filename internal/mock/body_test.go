package mock

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
)

// FuzzBodies holds that every endpoint answers any body with JSON or a stream
// if it understands it, and with a refusal if not, and that no request is left
// behind.
func FuzzBodies(f *testing.F) {
	paths := make([]string, 0, len(inferences))
	for p := range inferences {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for i := range paths {
		for _, body := range []string{
			hello, `{"prompt":["a",[1,2]],"stop":"x"}`, `{"input":[{"type":"function_call_output","output":[{"text":null}]}],"stream":true}`,
			`{"max_tokens":3,"messages":[{"role":"user","content":[{"type":"tool_result","content":[{}]}]}],"tools":[{"name":"t","input_schema":{"type":["null","object"],"properties":{"a":{"anyOf":[{}]}}}}],"tool_choice":{"type":"any"}}`,
			`{"text":"é","sampling_params":{"n":2},"stream":true}`, `{"query":"q","documents":["d"],"top_n":9}`, `{"input":[]}`, `{"messages":null}`, `[]`, ``, `{"prompt":[[]]}`,
			`{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"é":{"enum":["😀"]}}}}}],"tool_choice":"required","stream":true}`,
		} {
			f.Add(uint8(i), body)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		cfg := instant()
		cfg.ContextLength, cfg.KVTokens = 512, 4096
		cfg.Engine = []string{SGLang, VLLM, LlamaCPP}[int(which)%3]
		e := newTestFleet(t, cfg).Engine(0)
		path := paths[int(which)%len(paths)]
		if a, _ := inferences[path].read(e, []byte(body)); a != nil && a.fault != "" {
			return // faults are for other tests
		}
		w := ask1(t, e.Handler(), http.MethodPost, path, body)
		switch ct := w.Header().Get("Content-Type"); {
		case ct == typeSSE[0] && w.Code == http.StatusOK:
			for _, ev := range parseEvents(t, w.Body) {
				if ev.data != "[DONE]" && !json.Valid([]byte(ev.data)) {
					t.Errorf("%s %q: event %q", path, body, ev.data)
				}
			}
		case ct != typeJSON[0] || !json.Valid(w.Body.Bytes()):
			t.Errorf("%s %q: status %d, %s: %q", path, body, w.Code, ct, w.Body)
		case w.Code != http.StatusOK && w.Code != http.StatusBadRequest && w.Code != http.StatusNotFound:
			t.Errorf("%s %q: status %d", path, body, w.Code)
		}
		s := e.Seen()
		if s.Requests != 1 || s.Served+s.Invalid != 1 || e.sched.Load().cache.reserved != 0 {
			t.Errorf("%s %q: %+v", path, body, s)
		}
	})
}
