package sdk

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/shared"
)

var chatChecks = []check{
	{"chat/unary", chatUnary},
	{"chat/stream", chatStream},
	{"chat/limit", chatLimit},
	{"chat/choices", chatChoices},
	{"chat/tool choice", chatToolChoice},
	{"chat/streamed tool call", chatStreamedTool},
	{"chat/tool result", chatToolResult},
	{"chat/reasoning", chatReasoning},
}

// asking is a chat of one question.
func asking(question string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)}}
}

// streamed asks for a stream with usage and puts it together. each, if not
// nil, sees every chunk.
func streamed(t *testing.T, f *fleet, p openai.ChatCompletionNewParams, each func(*openai.ChatCompletionAccumulator, openai.ChatCompletionChunk)) *openai.ChatCompletionAccumulator {
	t.Helper()
	p.StreamOptions.IncludeUsage = openai.Bool(true)
	s := f.openai.Chat.Completions.NewStreaming(within(t), p)
	acc := &openai.ChatCompletionAccumulator{}
	for s.Next() {
		if !acc.AddChunk(s.Current()) {
			t.Fatalf("the chunk does not fit those before it: %s", s.Current().RawJSON())
		}
		if each != nil {
			each(acc, s.Current())
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if len(acc.Choices) == 0 {
		t.Fatal("the stream has no choices")
	}
	return acc
}

// answered asks and returns the answer, which has a choice.
func answered(t *testing.T, f *fleet, p openai.ChatCompletionNewParams) *openai.ChatCompletion {
	t.Helper()
	c, err := f.openai.Chat.Completions.New(within(t), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Choices) == 0 {
		t.Fatalf("no choices in %s", c.RawJSON())
	}
	return c
}

func chatUnary(t *testing.T, f *fleet) {
	c := answered(t, f, asking("what is unary"))
	m := c.Choices[0].Message
	if m.Role != "assistant" || m.Content == "" || c.Choices[0].FinishReason != "stop" || c.Model != model || c.ID == "" {
		t.Errorf("got %s", c.RawJSON())
	}
	if u := c.Usage; u.PromptTokens == 0 || u.CompletionTokens == 0 || u.TotalTokens != u.PromptTokens+u.CompletionTokens {
		t.Errorf("the usage does not add up: %s", u.RawJSON())
	}
	if again := answered(t, f, asking("what is unary")); again.Choices[0].Message.Content != m.Content {
		t.Errorf("the same question has two answers: %q and %q", again.Choices[0].Message.Content, m.Content)
	}
}

func chatStream(t *testing.T, f *fleet) {
	whole := answered(t, f, asking("what is a stream"))
	pieces := 0
	acc := streamed(t, f, asking("what is a stream"), func(_ *openai.ChatCompletionAccumulator, c openai.ChatCompletionChunk) {
		if c.ID == "" || c.Model != model || c.Object != "chat.completion.chunk" {
			t.Errorf("got the chunk %s", c.RawJSON())
		}
		if len(c.Choices) > 0 && c.Choices[0].Delta.Content != "" {
			pieces++
		}
	})
	if got, want := acc.Choices[0].Message.Content, whole.Choices[0].Message.Content; got != want {
		t.Errorf("streamed %q, whole %q", got, want)
	}
	if got := acc.Choices[0]; got.FinishReason != "stop" || got.Message.Role != "assistant" {
		t.Errorf("the stream ended as %q by %q", got.FinishReason, got.Message.Role)
	}
	if int64(pieces) != whole.Usage.CompletionTokens {
		t.Errorf("%d pieces of %d tokens", pieces, whole.Usage.CompletionTokens)
	}
	if got, want := acc.Usage, whole.Usage; got.PromptTokens != want.PromptTokens || got.CompletionTokens != want.CompletionTokens || got.TotalTokens != want.TotalTokens {
		t.Errorf("streamed usage %+v, whole %+v", got, want)
	}
}

func chatLimit(t *testing.T, f *fleet) {
	p := asking("how long")
	p.MaxCompletionTokens = openai.Int(5)
	if c := answered(t, f, p); c.Choices[0].FinishReason != "length" || c.Usage.CompletionTokens != 5 {
		t.Errorf("max_completion_tokens 5: got %s", c.RawJSON())
	}
	p = asking("how long")
	p.MaxTokens = openai.Int(3)
	if acc := streamed(t, f, p, nil); acc.Choices[0].FinishReason != "length" || acc.Usage.CompletionTokens != 3 {
		t.Errorf("max_tokens 3: ended by %q after %d tokens", acc.Choices[0].FinishReason, acc.Usage.CompletionTokens)
	}
}

func chatChoices(t *testing.T, f *fleet) {
	p := asking("give me three")
	p.N = openai.Int(3)
	c := answered(t, f, p)
	acc := streamed(t, f, p, nil)
	if len(c.Choices) != 3 || len(acc.Choices) != 3 {
		t.Fatalf("n = 3: %d choices, %d streamed", len(c.Choices), len(acc.Choices))
	}
	for i := range c.Choices {
		if got, want := acc.Choices[i].Message.Content, c.Choices[i].Message.Content; got != want || want == "" {
			t.Errorf("choice %d: streamed %q, whole %q", i, got, want)
		}
	}
}

// weather are the parameters of the tool that checks offer.
var weather = map[string]any{
	"type": "object",
	"properties": map[string]any{
		"city": map[string]any{"type": "string"},
		"days": map[string]any{"type": "integer"},
		"unit": map[string]any{"type": "string", "enum": []string{"°C", "°F"}},
	},
	"required": []string{"city", "days", "unit"},
}

// wantWeather holds arguments to weather.
func wantWeather(t *testing.T, arguments string) {
	t.Helper()
	var a struct {
		City string `json:"city"`
		Days *int   `json:"days"`
		Unit string `json:"unit"`
	}
	if err := json.Unmarshal([]byte(arguments), &a); err != nil {
		t.Fatalf("the arguments %q: %v", arguments, err)
	}
	if a.City == "" || a.Days == nil || a.Unit != "°C" && a.Unit != "°F" {
		t.Errorf("the arguments %s do not fit the schema", arguments)
	}
}

// offering is asking with two tools at hand.
func offering(question string) openai.ChatCompletionNewParams {
	p := asking(question)
	for _, name := range []string{"look_up", "get_weather"} {
		p.Tools = append(p.Tools, openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
			Name: name, Description: openai.String("Says what it knows."), Parameters: weather,
		}))
	}
	return p
}

func chatToolChoice(t *testing.T, f *fleet) {
	word := func(s string) openai.ChatCompletionToolChoiceOptionUnionParam {
		return openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openai.String(s)}
	}
	tests := []struct {
		name     string
		question string
		choice   openai.ChatCompletionToolChoiceOptionUnionParam
		want     string // the tool, "" for words
	}{
		{"a tool by name", "hi", openai.ToolChoiceOptionFunctionToolChoice(openai.ChatCompletionNamedToolChoiceFunctionParam{Name: "get_weather"}), "get_weather"},
		{"some tool", "hi", word("required"), "look_up"},
		{"as the model likes, and it does", "hi [tool]", word("auto"), "look_up"},
		{"as the model likes, and it does not", "hi", word("auto"), ""},
		{"no tool", "hi [tool]", word("none"), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := offering(test.question)
			p.ToolChoice = test.choice
			c := answered(t, f, p).Choices[0]
			if test.want == "" {
				if c.FinishReason != "stop" || c.Message.Content == "" || len(c.Message.ToolCalls) != 0 {
					t.Errorf("got %s, want words", c.RawJSON())
				}
				return
			}
			if c.FinishReason != "tool_calls" || len(c.Message.ToolCalls) != 1 {
				t.Fatalf("got %s, want one call", c.RawJSON())
			}
			call := c.Message.ToolCalls[0]
			if call.ID == "" || call.Type != "function" || call.Function.Name != test.want {
				t.Errorf("got the call %s, want one of %s", call.RawJSON(), test.want)
			}
			wantWeather(t, call.Function.Arguments)
		})
	}
	p := offering("hi")
	p.ToolChoice = openai.ToolChoiceOptionFunctionToolChoice(openai.ChatCompletionNamedToolChoiceFunctionParam{Name: "nobody"})
	if _, err := f.openai.Chat.Completions.New(within(t), p); openAIError(t, err).StatusCode != 400 {
		t.Errorf("a tool that is not there: %v, want 400", err)
	}
}

func chatStreamedTool(t *testing.T, f *fleet) {
	p := offering("how is the weather [tool]")
	whole := answered(t, f, p).Choices[0].Message.ToolCalls
	deltas := 0
	var finished []openai.FinishedChatCompletionToolCall
	acc := streamed(t, f, p, func(acc *openai.ChatCompletionAccumulator, c openai.ChatCompletionChunk) {
		if len(c.Choices) > 0 && len(c.Choices[0].Delta.ToolCalls) > 0 {
			deltas++
		}
		if call, ok := acc.JustFinishedToolCall(); ok {
			finished = append(finished, call)
		}
	})
	got := acc.Choices[0].Message.ToolCalls
	if len(whole) != 1 || len(got) != 1 || acc.Choices[0].FinishReason != "tool_calls" {
		t.Fatalf("%d calls, streamed %d, which ended by %q", len(whole), len(got), acc.Choices[0].FinishReason)
	}
	if got[0].Function.Name != whole[0].Function.Name || got[0].Function.Arguments != whole[0].Function.Arguments || got[0].ID != whole[0].ID {
		t.Errorf("streamed %s(%s) %s, whole %s", got[0].Function.Name, got[0].Function.Arguments, got[0].ID, whole[0].RawJSON())
	}
	wantWeather(t, got[0].Function.Arguments)
	if deltas < 3 {
		t.Errorf("the call came in %d pieces, want it as it was made", deltas)
	}
	// vLLM says that a call is over on the call's own last piece, where the SDK does not look.
	if f.make != "vllm" && (len(finished) != 1 || finished[0].Arguments != got[0].Function.Arguments) {
		t.Errorf("the SDK saw %d calls end: %+v", len(finished), finished)
	}
}

func chatToolResult(t *testing.T, f *fleet) {
	p := offering("how is the weather there [tool]")
	first := answered(t, f, p).Choices[0].Message
	if len(first.ToolCalls) != 1 {
		t.Fatalf("got %s, want a call", first.RawJSON())
	}
	p.Messages = append(p.Messages, first.ToParam(), openai.ToolMessage(`{"sky":"clear"}`, first.ToolCalls[0].ID))
	second := answered(t, f, p)
	if c := second.Choices[0]; c.FinishReason != "stop" || c.Message.Content == "" || len(c.Message.ToolCalls) != 0 {
		t.Errorf("after the tool's result: got %s, want words", c.RawJSON())
	}
	p.Messages = append(p.Messages, second.Choices[0].Message.ToParam(), openai.UserMessage("thank you"))
	if third := answered(t, f, p); third.Usage.PromptTokens <= second.Usage.PromptTokens {
		t.Errorf("a longer conversation has %d tokens, before %d", third.Usage.PromptTokens, second.Usage.PromptTokens)
	}
}

func chatReasoning(t *testing.T, f *fleet) {
	p := asking("why is that")
	p.ReasoningEffort = shared.ReasoningEffortHigh
	whole := answered(t, f, p)
	text := func(raw string) (s string) {
		if raw == "" || raw == "null" {
			return ""
		}
		if err := json.Unmarshal([]byte(raw), &s); err != nil {
			t.Fatalf("reasoning_content %s: %v", raw, err)
		}
		return s
	}
	want := text(whole.Choices[0].Message.JSON.ExtraFields["reasoning_content"].Raw())
	if want == "" || whole.Choices[0].Message.Content == "" || whole.Usage.CompletionTokensDetails.ReasoningTokens == 0 {
		t.Fatalf("got %s, want thoughts and words", whole.RawJSON())
	}
	var thought strings.Builder
	spoken := false
	acc := streamed(t, f, p, func(_ *openai.ChatCompletionAccumulator, c openai.ChatCompletionChunk) {
		if len(c.Choices) == 0 {
			return
		}
		d := c.Choices[0].Delta
		s := text(d.JSON.ExtraFields["reasoning_content"].Raw())
		if s != "" && spoken {
			t.Errorf("a thought after words: %s", c.RawJSON())
		}
		thought.WriteString(s)
		spoken = spoken || d.Content != ""
	})
	if thought.String() != want || acc.Choices[0].Message.Content != whole.Choices[0].Message.Content {
		t.Errorf("streamed the thought %q and %q, whole %q and %q", thought.String(), acc.Choices[0].Message.Content, want, whole.Choices[0].Message.Content)
	}
}
