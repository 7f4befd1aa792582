package bench

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/bubble"
)

// Answers as engines give them, two tokens each: 9 tokens in, 4 of them cached.
var transcripts = map[string]struct{ stream, whole string }{
	"chat": {
		"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n" +
			"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n" +
			": keep-alive\n\n" +
			"data: {\"choices\":[{\"delta\":{\"content\":\"b\"},\"finish_reason\":null}]}\n\n" +
			"data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n" +
			"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n" +
			"data: [DONE]\n\n",
		`{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}`,
	},
	"completions": {
		"data:{\"choices\":[{\"text\":\"a\"}]}\r\n\r\ndata:{\"choices\":[{\"text\":\"b\"}],\r\ndata:\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\r\n\r\ndata:[DONE]\r\n\r\n",
		`{"choices":[{"text":"ab"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}`,
	},
	"responses": {
		"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n" +
			"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n" +
			"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"b\"}\n\n" +
			"event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"text\":\"ab\"}\n\n" +
			"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"error\":null,\"usage\":{\"input_tokens\":9,\"output_tokens\":2,\"input_tokens_details\":{\"cached_tokens\":4}}}}\n\n",
		`{"error":null,"output":[],"usage":{"input_tokens":9,"output_tokens":2,"input_tokens_details":{"cached_tokens":4}}}`,
	},
	"messages": {
		"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":4,\"output_tokens\":1}}}\n\n" +
			"event: ping\ndata: {\"type\":\"ping\"}\n\n" +
			"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n" +
			"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"b\"}}\n\n" +
			"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2}}\n\n" +
			"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
		`{"type":"message","content":[{"type":"text","text":"ab"}],"usage":{"input_tokens":5,"cache_read_input_tokens":4,"output_tokens":2}}`,
	},
	"generate": {
		"data: {\"text\":\"a\",\"meta_info\":{\"prompt_tokens\":9,\"completion_tokens\":1,\"cached_tokens\":4}}\n\n" +
			"data: {\"text\":\"ab\",\"meta_info\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"cached_tokens\":4}}\n\n" +
			"data: [DONE]\n\n",
		`{"text":"ab","meta_info":{"prompt_tokens":9,"completion_tokens":2,"cached_tokens":4}}`,
	},
	"embeddings": {"", `{"data":[{"embedding":[0.25,-1e-3]}],"usage":{"prompt_tokens":9}}`},
}

func TestEveryDialect(t *testing.T) {
	for _, e := range endpoints {
		for _, streamed := range []bool{false, true} {
			tr := transcripts[e.Label()]
			if streamed && tr.stream == "" {
				continue
			}
			t.Run(e.Label()+map[bool]string{true: " stream"}[streamed], func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					w := serve(t, func(w http.ResponseWriter, r *http.Request) {
						b, _ := io.ReadAll(r.Body)
						if r.URL.Path != e.Path() || r.Method != http.MethodPost || !json.Valid(b) || r.ContentLength != int64(len(b)) {
							t.Errorf("%s %s %s", r.Method, r.URL, b)
						}
						if !streamed {
							answerJSON(w, tr.whole)
							return
						}
						w.Header().Set("Content-Type", "Text/Event-Stream")
						for part := range strings.SplitAfterSeq(tr.stream, "\n\n") {
							time.Sleep(time.Millisecond)
							_, _ = io.WriteString(w, part)
							w.(http.Flusher).Flush()
						}
					})
					r := mustRun(t, t.Context(), config(func(c *Config) { c.Endpoint, c.Stream, c.Requests = e.Label(), streamed, 5 }), w)
					if r.Requests.OK != 5 {
						t.Fatalf("%+v %+v", r.Requests, r.Errors)
					}
					want := Tokens{Input: 45, Cached: 20, Output: 10, WithUsage: 5}
					if e == infer.Embeddings {
						want = Tokens{Input: 45, WithUsage: 5}
					}
					if r.Tokens != want {
						t.Errorf("tokens %+v, want %+v", r.Tokens, want)
					}
					if streamed && (r.TTFT.Count != 5 || r.Gap.Count != 5) || !streamed && r.TTFT.Count != 0 {
						t.Errorf("%d first tokens, %d gaps", r.TTFT.Count, r.Gap.Count)
					}
				})
			})
		}
	}
}

// Without usage, events with output are counted.
func TestTokensWithoutUsage(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for range 3 {
				event(w, `{"choices":[{"delta":{"content":"x"}}]}`)
			}
			event(w, "[DONE]")
		})
		r := mustRun(t, t.Context(), config(func(c *Config) { c.Stream, c.Requests = true, 2 }), w)
		if want := (Tokens{Output: 6, NoUsageFor: 2}); r.Tokens != want {
			t.Errorf("tokens %+v, want %+v", r.Tokens, want)
		}
	})
}
