package sse

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

const (
	chunk     = `data: {"id":"chatcmpl-8f14e45fceea167a","object":"chat.completion.chunk","created":1730000000,"model":"llama-3.1-8b","choices":[{"index":0,"delta":{"content":" fox"},"finish_reason":null}]}` + "\n\n"
	lastChunk = `data: {"id":"x","choices":[],"usage":{"prompt_tokens":31,"total_tokens":48,"completion_tokens":17,"prompt_tokens_details":{"cached_tokens":16}}}` + "\n\n"
	openAI    = chunk + chunk + lastChunk + "data: [DONE]\n\n"
	anthropic = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":8,\"output_tokens\":1}}}\n\n" +
		"event: ping\ndata: {\"type\":\"ping\"}\n\n" +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n" +
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	responses = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"a\"}\n\n" +
		"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":5,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":3,\"output_tokens_details\":{\"reasoning_tokens\":2}},\"user\":null},\"sequence_number\":2}\n\n"
	generate = `data: {"text":" a","output_ids":[1],"meta_info":{"id":"r","finish_reason":null,"prompt_tokens":6,"completion_tokens":1,"cached_tokens":5}}` + "\n\n" +
		`data: {"text":" a b","output_ids":[1,2],"meta_info":{"id":"r","finish_reason":{"type":"length","length":2},"prompt_tokens":6,"completion_tokens":2,"cached_tokens":5}}` + "\n\ndata: [DONE]\n\n"
)

// A state is all that a Watcher says.
type state struct {
	boundary, done  bool
	events, content int64
	usage           Usage
	hasUsage        bool
}

func stateOf(w *Watcher) state {
	s := state{boundary: w.AtBoundary(), done: w.Done(), events: w.Events(), content: w.ContentEvents()}
	s.usage, s.hasUsage = w.Usage()
	return s
}

// watch feeds stream in pieces of n bytes, the pieces in memory that is
// overwritten at once.
func watch(stream string, n int) state {
	var w Watcher
	buf := make([]byte, n)
	for len(stream) > 0 {
		k := copy(buf, stream)
		w.Feed(buf[:k])
		for i := range buf {
			buf[i] = '!'
		}
		stream = stream[k:]
	}
	return stateOf(&w)
}

func TestStreamsAreFollowed(t *testing.T) {
	big := strings.Repeat(`x\"usage\":{\"prompt_tokens\":9}`, 1000)
	tests := []struct {
		name   string
		stream string
		want   state
	}{
		{"nothing yet", "", state{boundary: true}},
		{"OpenAI", openAI, state{true, true, 4, 3, Usage{31, 16, 17}, true}},
		{"OpenAI, without its end", chunk + chunk, state{true, false, 2, 2, Usage{}, false}},
		{"OpenAI, broken in an event", chunk + chunk[:50], state{false, false, 1, 1, Usage{}, false}},
		{"OpenAI, broken before the empty line", chunk[:len(chunk)-1], state{}},
		{"Anthropic", anthropic, state{true, true, 4, 4, Usage{25, 8, 15}, true}},
		{"Anthropic without names", strings.ReplaceAll(anthropic, "event:", ":"), state{true, true, 4, 4, Usage{25, 8, 15}, true}},
		{"Responses", responses, state{true, true, 2, 2, Usage{5, 4, 3}, true}},
		{"Responses without names", strings.ReplaceAll(responses, "event:", ":"), state{true, true, 2, 2, Usage{5, 4, 3}, true}},
		{"SGLang generate", generate, state{true, true, 3, 2, Usage{6, 5, 2}, true}},
		{"the end's event is not whole", "data: [DONE]\n", state{}},
		{"no space behind the colon", "data:[DONE]\n\n", state{true, true, 1, 0, Usage{}, false}},
		{"CRLF", strings.ReplaceAll(openAI, "\n", "\r\n"), state{true, true, 4, 3, Usage{31, 16, 17}, true}},
		{"CR", strings.ReplaceAll(anthropic, "\n", "\r"), state{true, true, 4, 4, Usage{25, 8, 15}, true}},
		{"CR LF LF", "data: 1\r\n\n", state{true, false, 1, 1, Usage{}, false}},
		{"LF CR", "data: 1\n\r", state{true, false, 1, 1, Usage{}, false}},
		{"one CRLF is one line's end", "data: 1\r\n", state{}},
		{"comments are no events", ": ping\n\n: ping\n", state{boundary: true}},
		{"a comment that is not whole", ": pin", state{}},
		{"an event with a comment", "data: 1\n: ping\n", state{}},
		{"no data, no event", "event: x\nid: 1\n\n", state{boundary: true}},
		{"a field without data is not whole", "retry: 1\n", state{}},
		{"data without a colon", "data\n\n", state{true, false, 1, 1, Usage{}, false}},
		{"other names", "dataset: [DONE]\n\n data: [DONE]\n\n", state{boundary: true}},
		{"data of several lines", "data: {\"usage\":\ndata: {\"prompt_tokens\"\ndata: :7}}\n\n", state{true, false, 1, 1, Usage{Input: 7}, true}},
		{"[DONE] in two lines is text", "data: [DO\ndata: NE]\n\n", state{true, false, 1, 1, Usage{}, false}},
		{"byte order mark", "\xEF\xBB\xBFdata: [DONE]\n\n", state{true, true, 1, 0, Usage{}, false}},
		{"byte order mark alone", "\xEF\xBB\xBF", state{boundary: true}},
		{"half a byte order mark", "\xEF\xBBdata: [DONE]\n\n", state{boundary: true}},
		{"the last name counts", "event: message_stop\nevent: ping\ndata: {}\n\n", state{true, false, 1, 1, Usage{}, false}},
		{"a name for one event only", "event: message_stop\n\nevent: ping\ndata: {}\n\n", state{true, true, 1, 1, Usage{}, false}},
		{"a name that only begins so", "event: response.completed.or.something.much.longer\ndata: {}\n\n", state{true, false, 1, 1, Usage{}, false}},
		{"failed", "data: {\"type\":\"response.failed\"}\n\n", state{true, true, 1, 1, Usage{}, false}},
		{"incomplete, the type last", "data: {\"response\":{\"a\":[]},\"sequence_number\":1 , \"type\" : \"response.incomplete\" }\n\n", state{true, true, 1, 1, Usage{}, false}},
		{"the type behind a number", "data: { \"sequence_number\" : 12, \"type\": \"response.completed\", \"response\":{}}\n\n", state{true, true, 1, 1, Usage{}, false}},
		{"a type deeper in", "data: {\"input\":{\"type\":\"message_stop\"}}\n\n", state{true, false, 1, 1, Usage{}, false}},
		{"a type in a text", "data: {\"text\":\"{\\\"type\\\":\\\"message_stop\\\"}\"}\n\n", state{true, false, 1, 1, Usage{}, false}},
		{"usage null", "data: {\"usage\":null,\"meta_info\":{}}\n\n", state{true, false, 1, 1, Usage{}, false}},
		{"usage in a text", "data: {\"text\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":1}\"}\n\n", state{true, false, 1, 1, Usage{}, false}},
		{"a long event", "data: {\"text\":\"" + big + "\",\"usage\":{\"completion_tokens\":3}}\n\n", state{true, false, 1, 1, Usage{Output: 3}, true}},
		{"a long last event", "data: {\"type\":\"response.completed\",\"text\":\"" + big + "\",\"usage\":{\"output_tokens\":3}}\n\n", state{true, true, 1, 1, Usage{Output: 3}, true}},
		{"a long last event, the type last", "data: {\"text\":\"" + big + "\",\"type\":\"response.completed\"}\n\n", state{true, true, 1, 1, Usage{}, false}},
		{"usage too far from the end", "data: {\"usage\":{\"completion_tokens\":3},\"text\":\"" + big + "\"}\n\n", state{true, false, 1, 1, Usage{}, false}},
		{"short after long", "data: {\"type\":\"x\",\"text\":\"" + big + "\"}\n\ndata: {\"type\":\"message_stop\"}\n\n", state{true, true, 2, 2, Usage{}, false}},
	}
	for _, c := range tests {
		for _, n := range []int{1 << 20, 1, 2, 3, 7, 50, 1000, 8192, 10000} {
			if got := watch(c.stream, n); got != c.want {
				t.Errorf("%s, in pieces of %d:\n got %+v\nwant %+v", c.name, n, got, c.want)
			}
		}
	}
}

func TestKeptDataIsBounded(t *testing.T) {
	var w Watcher
	w.Feed([]byte(strings.Repeat(chunk, 100)))
	if w.kept != nil {
		t.Errorf("%d bytes taken for events that were whole", cap(w.kept))
	}
	w.Feed([]byte("data: "))
	for range 1000 {
		w.Feed(make([]byte, 1000))
	}
	w.Feed(make([]byte, 1<<20))
	if n := cap(w.kept); n > window {
		t.Errorf("%d bytes kept, want at most %d", n, window)
	}
}

// reference reads a whole stream the way the standard tells it, and says
// whether it ends between events.
func reference(stream string) (events []string, boundary bool) {
	stream = strings.TrimPrefix(stream, "\xEF\xBB\xBF")
	stream = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(stream)
	lines := strings.Split(stream, "\n")
	var name, id string
	var text []string
	open := false
	for _, line := range lines[:len(lines)-1] {
		if line == "" {
			if text != nil {
				events = append(events, fmt.Sprintf("%q %q %q", name, strings.Join(text, "\n"), id))
			}
			name, text, open = "", nil, false
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		open = open || field != ""
		switch field {
		case "data":
			text = append(text, value)
		case "event":
			name = value
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		}
	}
	return events, !open && lines[len(lines)-1] == ""
}

var streams = []string{
	openAI, anthropic, responses, generate, strings.ReplaceAll(openAI, "\n", "\r\n"), strings.ReplaceAll(anthropic, "\n", "\r"),
	"\xEF\xBB\xBFdata: 1\n\n", "\xEF\xBBdata: 1\n\n", ": ping\n\ndata:  two\ndata\ndata:\nid: 7\n\nid: 1\x00\ndata: x\n\n", "data: a\r\r\n\ndata: b\n\r\n", "retry: 1\n",
	"event: message_stop\n\n", "data: {\"sequence_number\":1,\"type\":\"response.failed\"}\n\n", "data: {\"usage\":{\"usage\":{\"prompt_tokens\":1}}}\n\n",
	"data: {\"type\":\"message_stop\",\"text\":\"" + strings.Repeat("x", 9000) + "\",\"meta_info\":{\"cached_tokens\":1}}\n\n",
}

// FuzzWatcher holds that it does not matter where a stream breaks, and that
// what a Watcher counts is what the standard dispatches.
func FuzzWatcher(f *testing.F) {
	for i, s := range streams {
		f.Add([]byte(s), uint64(i))
	}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		var whole Watcher
		whole.Feed(stream)
		want := stateOf(&whole)
		events, boundary := reference(string(stream))
		if want.events != int64(len(events)) || want.boundary != boundary {
			t.Fatalf("%q: %+v, want %d events, boundary %v", stream, want, len(events), boundary)
		}
		rnd := rand.New(rand.NewPCG(seed, 1))
		var pieces, prefix Watcher
		for rest := stream; len(rest) > 0; {
			n := 1 + rnd.IntN(min(len(rest), 1+rnd.IntN(100)))
			pieces.Feed(append([]byte(nil), rest[:n]...))
			rest = rest[n:]
			if rnd.IntN(8) == 0 {
				prefix = Watcher{}
				prefix.Feed(stream[:len(stream)-len(rest)])
				if a, b := stateOf(&pieces), stateOf(&prefix); a != b {
					t.Fatalf("%q: in pieces %+v, whole %+v", stream[:len(stream)-len(rest)], a, b)
				}
			}
		}
		if got := stateOf(&pieces); got != want {
			t.Fatalf("%q: in pieces %+v, whole %+v", stream, got, want)
		}
	})
}

func BenchmarkWatcher(b *testing.B) {
	text := strings.Repeat("The quick brown fox takes its time. ", 200)
	for _, c := range []struct {
		name  string
		chunk string
		cut   int // where the second Feed begins; 0 for one Feed
	}{
		{"openai-200B", chunk, 0},
		{"openai-200B-usage-null", strings.Replace(chunk, `}]}`, `}],"usage":null}`, 1), 0},
		{"openai-200B-cut", chunk, 100},
		{"usage", lastChunk, 0},
		{"anthropic", "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" fox\"}}\n\n", 0},
		{"burst-of-50", strings.Repeat(chunk, 50), 0},
		{"generate-7KiB", `data: {"text":"` + text + `","meta_info":{"id":"r","prompt_tokens":6,"completion_tokens":1,"cached_tokens":5}}` + "\n\n", 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := []byte(c.chunk)
			var w Watcher
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				if c.cut > 0 {
					w.Feed(p[:c.cut])
				}
				w.Feed(p[c.cut:])
			}
			if !w.AtBoundary() {
				b.Fatal("not at a boundary")
			}
		})
	}
}
