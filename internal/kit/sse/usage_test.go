package sse

import (
	"strings"
	"testing"
)

func TestUsageOfAnswers(t *testing.T) {
	f := func(body string, want Usage, ok bool) {
		t.Helper()
		if got, gotOK := UsageOf([]byte(body)); got != want || gotOK != ok {
			t.Errorf("%.200s:\n got %+v, %v\nwant %+v, %v", body, got, gotOK, want, ok)
		}
	}
	long := strings.Repeat("0.123,", 15<<10)
	f(`{"id":"x","usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":null}}`, Usage{Input: 3, Output: 4}, true)
	f(`{"usage" : { "prompt_tokens" : 3 , "prompt_tokens_details" : { "audio_tokens":9, "cached_tokens" : 2 } , "completion_tokens" : 4 } }`, Usage{3, 2, 4}, true)
	f(`{"usage":{"input_tokens":3,"cache_creation_input_tokens":7,"cache_read_input_tokens":2,"output_tokens":4}}`, Usage{3, 2, 4}, true)
	f(`{"usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":2},"output_tokens":4,"output_tokens_details":{"reasoning_tokens":1,"cached_tokens":8}},"metadata":{}}`, Usage{3, 2, 4}, true)
	f(`{"text":"a","meta_info":{"finish_reason":{"type":"stop","prompt_tokens":8},"prompt_tokens":3,"completion_tokens":4,"cached_tokens":2,"e2e_latency":0.1}}`, Usage{3, 2, 4}, true)
	f(`[{"meta_info":{"prompt_tokens":3}},{"meta_info":{"prompt_tokens":5}}]`, Usage{Input: 5}, true)
	f(`{"data":[`+long+`0],"usage":{"prompt_tokens":3,"total_tokens":3}}`, Usage{Input: 3}, true)
	f(`{"usage":{"prompt_tokens":3},"tail":"`+long[:20000]+`"}`, Usage{Input: 3}, true)
	f(`{"usage":{"prompt_tokens":3},"meta_info":{"prompt_tokens":4}}`, Usage{Input: 4}, true)
	f(`{"meta_info":{"prompt_tokens":4},"usage":{"prompt_tokens":3}}`, Usage{Input: 3}, true)
	f(`{"usage":{"prompt_tokens":3},"other":{"usage":{"seconds":1}}}`, Usage{Input: 3}, true)
	f(`{"usage":{"prompt_tokens":0,"completion_tokens":0}}`, Usage{}, true)
	// None, or nothing that can be believed.
	f(``, Usage{}, false)
	f(`{"usage":null}`, Usage{}, false)
	f(`{"usage":{}}`, Usage{}, false)
	f(`{"usage":{"prompt_tokens":3},"tail":"`+long+`"}`, Usage{}, false)
	f(`{"usage":{"prompt_tokens":3`, Usage{}, false)
	f(`{"usage":["prompt_tokens",3]}`, Usage{}, false)
	f(`{"usage":{"prompt_tokens":-3,"completion_tokens":1.5,"cached_tokens":1e3}}`, Usage{}, false)
	f(`{"usage":{"prompt_tokens":"3","completion_tokens":99999999999999999999}}`, Usage{}, false)
	f(`{"content":"\"usage\":{\"prompt_tokens\":3}"}`, Usage{}, false)
	f(`{"usage":{"prompt_tokens":3},"a":{"usage":{"prompt_tokens":4`, Usage{Input: 3}, true)
	f(`{"xusage":{"prompt_tokens":3},"usages":{"prompt_tokens":3}}`, Usage{}, false)
	f(strings.Repeat(`"usage":{`, 10000), Usage{}, false)
}

// FuzzUsageOf holds that counts are never below zero and that no answer breaks
// the search.
func FuzzUsageOf(f *testing.F) {
	for _, s := range streams {
		f.Add([]byte(s))
	}
	f.Add([]byte(`{"usage":{"a\"`))
	f.Add([]byte(`"usage":{"prompt_tokens":`))
	f.Fuzz(func(t *testing.T, body []byte) {
		u, ok := UsageOf(body)
		if u.Input < 0 || u.Cached < 0 || u.Output < 0 || !ok && u != (Usage{}) {
			t.Fatalf("%q: %+v, %v", body, u, ok)
		}
	})
}

func BenchmarkUsageOf(b *testing.B) {
	for name, body := range map[string]string{
		"chat-1KiB":      `{"id":"x","choices":[{"message":{"content":"` + strings.Repeat("The quick brown fox. ", 40) + `"}}],"usage":{"prompt_tokens":31,"total_tokens":48,"completion_tokens":17}}`,
		"without-100KiB": `{"data":[` + strings.Repeat("0.0123,", 15000) + `0]}`,
	} {
		b.Run(name, func(b *testing.B) {
			p := []byte(body)
			b.ReportAllocs()
			for b.Loop() {
				UsageOf(p)
			}
		})
	}
}
