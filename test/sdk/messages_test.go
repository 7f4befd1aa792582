package sdk

import (
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
)

var messagesChecks = []check{
	{"messages/unary", messageUnary},
	{"messages/stream", messageStream},
	{"messages/tool", messageTool},
	{"messages/tool choice", messageToolChoice},
	{"messages/thinking", messageThinking},
	{"messages/stop", messageStop},
	{"messages/count", messageCount},
}

// saying is a message after one of the user's.
func saying(text string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: model, MaxTokens: 1024,
		System:   []anthropic.TextBlockParam{{Text: "be brief"}},
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))},
	}
}

func replied(t *testing.T, f *fleet, p anthropic.MessageNewParams) *anthropic.Message {
	t.Helper()
	m, err := f.anthropic.Messages.New(within(t), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Content) == 0 {
		t.Fatalf("no content in %s", m.RawJSON())
	}
	return m
}

// accumulated streams a message, puts it together, and counts its deltas by
// their types.
func accumulated(t *testing.T, f *fleet, p anthropic.MessageNewParams) (anthropic.Message, map[string]int) {
	t.Helper()
	s := f.anthropic.Messages.NewStreaming(within(t), p)
	var m anthropic.Message
	deltas, last := map[string]int{}, ""
	for s.Next() {
		e := s.Current()
		if err := m.Accumulate(e); err != nil {
			t.Fatalf("%v: %s", err, e.RawJSON())
		}
		if last = e.Type; last == "content_block_delta" {
			deltas[e.Delta.Type]++
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if last != "message_stop" || len(m.Content) == 0 {
		t.Fatalf("the stream of %d blocks ended with %q", len(m.Content), last)
	}
	return m, deltas
}

func messageUnary(t *testing.T, f *fleet) {
	m := replied(t, f, saying("what is a message"))
	if m.Type != "message" || m.Role != "assistant" || m.Model != model || m.ID == "" || m.StopReason != anthropic.StopReasonEndTurn {
		t.Errorf("got %s", m.RawJSON())
	}
	if b := m.Content[0]; b.Type != "text" || b.AsText().Text == "" {
		t.Errorf("got the block %s", b.RawJSON())
	}
	if m.Usage.InputTokens+m.Usage.CacheReadInputTokens == 0 || m.Usage.OutputTokens == 0 {
		t.Errorf("the usage is %s", m.Usage.RawJSON())
	}
}

func messageStream(t *testing.T, f *fleet) {
	want := replied(t, f, saying("what is a block"))
	got, deltas := accumulated(t, f, saying("what is a block"))
	if got.Content[0].Text != want.Content[0].Text || got.StopReason != want.StopReason {
		t.Errorf("streamed %q, %s; whole %q, %s", got.Content[0].Text, got.StopReason, want.Content[0].Text, want.StopReason)
	}
	if got.Usage.OutputTokens != want.Usage.OutputTokens || int64(deltas["text_delta"]) != want.Usage.OutputTokens {
		t.Errorf("%d deltas and %d tokens streamed, %d whole", deltas["text_delta"], got.Usage.OutputTokens, want.Usage.OutputTokens)
	}
}

// lending is saying with a tool at hand.
func lending(text string) anthropic.MessageNewParams {
	p := saying(text)
	p.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{
		Name: "get_weather", Description: anthropic.String("Says how it is."),
		InputSchema: anthropic.ToolInputSchemaParam{Properties: weather["properties"], Required: []string{"city", "days", "unit"}},
	}}}
	return p
}

func messageTool(t *testing.T, f *fleet) {
	p := lending("how is the weather [tool]")
	m := replied(t, f, p)
	use := m.Content[len(m.Content)-1]
	if m.StopReason != anthropic.StopReasonToolUse || use.Type != "tool_use" || use.Name != "get_weather" || use.ID == "" {
		t.Fatalf("got %s, want the use of a tool", m.RawJSON())
	}
	wantWeather(t, string(use.Input))

	streamed, deltas := accumulated(t, f, p)
	got := streamed.Content[len(streamed.Content)-1]
	if string(got.Input) != string(use.Input) || got.ID != use.ID || streamed.StopReason != anthropic.StopReasonToolUse {
		t.Errorf("streamed %s, %s; whole %s", got.RawJSON(), streamed.StopReason, use.RawJSON())
	}
	if deltas["input_json_delta"] < 3 {
		t.Errorf("the input came in %d pieces, want it as it was made", deltas["input_json_delta"])
	}

	p.Messages = append(p.Messages, streamed.ToParam(), anthropic.NewUserMessage(anthropic.NewToolResultBlock(got.ID, "clear", false)))
	if m := replied(t, f, p); m.StopReason != anthropic.StopReasonEndTurn || m.Content[0].Type != "text" {
		t.Errorf("after the tool's result: got %s, want words", m.RawJSON())
	}
}

func messageToolChoice(t *testing.T, f *fleet) {
	tests := []struct {
		name     string
		question string
		choice   anthropic.ToolChoiceUnionParam
		want     string // the block's type
	}{
		{"a tool by name", "hi", anthropic.ToolChoiceParamOfTool("get_weather"), "tool_use"},
		{"some tool", "hi", anthropic.ToolChoiceUnionParam{OfAny: &anthropic.ToolChoiceAnyParam{}}, "tool_use"},
		{"as the model likes", "hi", anthropic.ToolChoiceUnionParam{OfAuto: &anthropic.ToolChoiceAutoParam{}}, "text"},
		{"no tool", "hi [tool]", anthropic.ToolChoiceUnionParam{OfNone: &anthropic.ToolChoiceNoneParam{}}, "text"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := lending(test.question)
			p.ToolChoice = test.choice
			if m := replied(t, f, p); m.Content[0].Type != test.want {
				t.Errorf("got %s, want %s", m.RawJSON(), test.want)
			}
		})
	}
}

func messageThinking(t *testing.T, f *fleet) {
	p := saying("why is that")
	p.Thinking = anthropic.ThinkingConfigParamOfEnabled(1024)
	p.MaxTokens = 2048
	m := replied(t, f, p)
	if len(m.Content) != 2 || m.Content[0].Type != "thinking" || m.Content[0].Thinking == "" || m.Content[0].Signature == "" || m.Content[1].Type != "text" {
		t.Fatalf("got %s, want thoughts and words", m.RawJSON())
	}
	s, deltas := accumulated(t, f, p)
	if len(s.Content) != 2 || s.Content[0].Thinking != m.Content[0].Thinking || s.Content[0].Signature != m.Content[0].Signature || s.Content[1].Text != m.Content[1].Text {
		t.Errorf("streamed %s, whole %s", s.RawJSON(), m.RawJSON())
	}
	if deltas["thinking_delta"] < 2 || deltas["signature_delta"] != 1 {
		t.Errorf("got the deltas %v", deltas)
	}
}

func messageStop(t *testing.T, f *fleet) {
	p := saying("how long")
	p.MaxTokens = 4
	if m := replied(t, f, p); m.StopReason != anthropic.StopReasonMaxTokens || m.Usage.OutputTokens != 4 {
		t.Errorf("max_tokens 4: got %s", m.RawJSON())
	}
	p = saying("how long")
	p.StopSequences = []string{" "}
	m, _ := accumulated(t, f, p)
	if m.StopReason != anthropic.StopReasonStopSequence || m.StopSequence != " " {
		t.Errorf("a stop sequence: ended by %s, %q", m.StopReason, m.StopSequence)
	}
}

func messageCount(t *testing.T, f *fleet) {
	p := lending("count the words of this")
	n, err := f.anthropic.Messages.CountTokens(within(t), anthropic.MessageCountTokensParams{
		Model: p.Model, Messages: p.Messages,
		System: anthropic.MessageCountTokensParamsSystemUnion{OfTextBlockArray: p.System},
		Tools:  []anthropic.MessageCountTokensToolUnionParam{{OfTool: p.Tools[0].OfTool}},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := replied(t, f, p)
	if got := m.Usage.InputTokens + m.Usage.CacheReadInputTokens; n.InputTokens != got || got == 0 {
		t.Errorf("counted %d tokens, used %d", n.InputTokens, got)
	}
}
