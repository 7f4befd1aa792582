package mock

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// content is a message's text: a string, or a list of parts of which the text
// counts and the rest is as its bytes are.
type content struct {
	text   string
	result bool // it holds a tool's result
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *content) UnmarshalJSON(b []byte) error {
	*c = content{}
	switch b[0] {
	case 'n':
		return nil
	case '"':
		return json.Unmarshal(b, &c.text)
	case '[':
		var parts []part
		if err := json.Unmarshal(b, &parts); err != nil {
			return err
		}
		var sb strings.Builder
		for i, p := range parts {
			if i > 0 {
				sb.WriteByte('\n')
			}
			c.result = c.result || p.result
			sb.WriteString(p.text)
		}
		c.text = sb.String()
		return nil
	}
	return fmt.Errorf("content must be a string or a list of parts")
}

// part is one part of a content.
type part struct {
	text   string
	result bool
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *part) UnmarshalJSON(b []byte) error {
	var v struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("a content part must be an object: %w", err)
	}
	*p = part{result: v.Type == "tool_result", text: string(b)}
	if v.Text != nil {
		p.text = *v.Text
	}
	return nil
}

// message is one of a conversation.
type message struct {
	Role      string          `json:"role"`
	Content   content         `json:"content"`
	ToolCalls json.RawMessage `json:"tool_calls"`
}

// conversation adds the prompt that ms make to a: each message is its role
// and its words, and the role of the answer follows. It returns the last
// message's text if that is the user's and no tool's result.
func (a *ask) conversation(tools json.RawMessage, system string, ms []message) (last string) {
	var ts []token
	if len(tools) > 0 && string(tools) != "null" {
		ts = appendTokens(ts, string(tools))
	}
	if system != "" {
		ts = appendTokens(append(ts, wordToken("system")), system)
	}
	for i := range ms {
		m := &ms[i]
		ts = appendTokens(append(ts, wordToken(m.Role)), m.Content.text)
		if len(m.ToolCalls) > 0 && string(m.ToolCalls) != "null" {
			ts = appendTokens(ts, string(m.ToolCalls))
		}
	}
	a.prompts = [][]token{append(ts, wordToken("assistant"))}
	if n := len(ms) - 1; n >= 0 && ms[n].Role == "user" && !ms[n].Content.result {
		return ms[n].Content.text
	}
	return ""
}

// lastUser returns the text of the user's last message.
func lastUser(ms []message) string {
	for i := len(ms) - 1; i >= 0; i-- {
		if ms[i].Role == "user" && !ms[i].Content.result {
			return ms[i].Content.text
		}
	}
	return ""
}

const (
	toolMark  = "[tool]"
	thinkMark = "[think]"
)

type chatBody struct {
	sampling
	Messages   []message       `json:"messages"`
	MaxNew     *int            `json:"max_completion_tokens"`
	Tools      json.RawMessage `json:"tools"`
	ToolChoice json.RawMessage `json:"tool_choice"`
	Effort     string          `json:"reasoning_effort"`
	Template   struct {
		Enable   bool `json:"enable_thinking"`
		Thinking bool `json:"thinking"`
	} `json:"chat_template_kwargs"`
}

func readChat(_ *Engine, body []byte) (*ask, *refusal) {
	var b chatBody
	if f := decode(body, &b); f != nil {
		return nil, f
	}
	a := &ask{}
	if f := b.fill(a); f != nil {
		return a, f
	}
	if f := a.setLimit("max_completion_tokens", b.MaxNew); f != nil {
		return a, f
	}
	if len(b.Messages) == 0 {
		return a, refuse("messages", "messages is required and must not be empty.")
	}
	for i, m := range b.Messages {
		if m.Role == "" {
			return a, refuse("messages", "messages[%d] has no role.", i)
		}
	}
	last := a.conversation(b.Tools, "", b.Messages)
	a.think = b.Template.Enable || b.Template.Thinking || b.Effort != "" && b.Effort != "none" || strings.Contains(lastUser(b.Messages), thinkMark)
	tools, f := openAITools(b.Tools)
	if f != nil {
		return a, f
	}
	choice, name, f := openAIChoice(b.ToolChoice)
	if f != nil {
		return a, f
	}
	a.tool, f = pickTool(tools, choice, name, strings.Contains(last, toolMark))
	return a, f
}

// openAITools reads tools as chat has them, {"type","function":{…}}, or flat as
// responses has them.
func openAITools(raw json.RawMessage) ([]tool, *refusal) {
	if len(raw) == 0 {
		return nil, nil
	}
	type function struct {
		Name       string          `json:"name"`
		Parameters json.RawMessage `json:"parameters"`
	}
	var list []struct {
		Type string `json:"type"`
		function
		Function *function `json:"function"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, refuse("tools", "tools must be a list of tools: %v", err)
	}
	var ts []tool
	for i, t := range list {
		if t.Type != "function" {
			continue // an engine runs no tools of its own
		}
		f := t.function
		if t.Function != nil {
			f = *t.Function
		}
		if f.Name == "" {
			return nil, refuse("tools", "tools[%d] has no function name.", i)
		}
		ts = append(ts, tool{f.Name, f.Parameters})
	}
	return ts, nil
}

// openAIChoice reads tool_choice: a word, or the name of a function.
func openAIChoice(raw json.RawMessage) (choice, name string, f *refusal) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", "", nil
	}
	if raw[0] == '"' {
		if err := json.Unmarshal(raw, &choice); err != nil {
			return "", "", refuse("tool_choice", "tool_choice cannot be read: %v", err)
		}
		if choice != "auto" && choice != "none" && choice != "required" {
			return "", "", refuse("tool_choice", "tool_choice %q is none of auto, none and required.", choice)
		}
		return choice, "", nil
	}
	var v struct {
		Name     string `json:"name"`
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", "", refuse("tool_choice", "tool_choice must be a word or name a function: %v", err)
	}
	if v.Name == "" {
		v.Name = v.Function.Name
	}
	if v.Name == "" {
		return "", "", refuse("tool_choice", "tool_choice names no function.")
	}
	return "", v.Name, nil
}

// chatVoice speaks OpenAI's chat completions.
type chatVoice struct {
	*answer
	head string // of every chunk, up to its choices
	told []int  // tokens told of each choice
}

func newChatVoice(a *answer) voice {
	return &chatVoice{answer: a, told: make([]int, len(a.plans))}
}

// opening begins a body of the given type, up to the value of "choices".
func (a *answer) opening(prefix, object string) string {
	b := make([]byte, 0, 128+len(a.model))
	b = append(b, `{"id":"`...)
	b = append(b, a.id(prefix)...)
	b = append(b, `","object":"`...)
	b = append(b, object...)
	b = append(b, `","created":`...)
	b = strconv.AppendInt(b, a.created.Unix(), 10)
	b = append(b, `,"model":`...)
	b = appendString(b, a.model)
	b = append(b, `,"choices":`...)
	return string(b)
}

func (v *chatVoice) start(ev *events) {
	v.head = `data: ` + v.opening("chatcmpl-", "chat.completion.chunk")
	first := `""`
	if v.engine == LlamaCPP {
		first = "null"
	}
	for c := range v.plans {
		v.begin(ev, c)
		ev.b = append(ev.b, `{"role":"assistant","content":`...)
		ev.b = append(ev.b, first...)
		ev.b = append(ev.b, '}')
		v.end(ev, "")
	}
}

// begin begins a chunk, up to the value of "delta".
func (v *chatVoice) begin(ev *events, choice int) {
	ev.b = append(ev.b, v.head...)
	ev.b = append(ev.b, `[{"index":`...)
	ev.b = strconv.AppendInt(ev.b, int64(choice), 10)
	ev.b = append(ev.b, `,"delta":`...)
}

// end ends a chunk after the value of "delta".
func (v *chatVoice) end(ev *events, finish string) {
	if finish == "" {
		ev.b = append(ev.b, `,"logprobs":null,"finish_reason":null}]`...)
	} else {
		ev.b = append(ev.b, `,"logprobs":null,"finish_reason":"`...)
		ev.b = append(ev.b, finish...)
		ev.b = append(ev.b, `"}]`...)
	}
	if v.usageEach {
		ev.b = append(ev.b, `,"usage":`...)
		ev.b = v.appendUsage(ev.b, v.usageOf(func(c int) int { return v.told[c] }))
	}
	ev.b = append(ev.b, "}\n\n"...)
	ev.mark()
}

func (v *chatVoice) piece(ev *events, c, i int) {
	p := &v.plans[c]
	v.told[c] = i + 1
	v.begin(ev, c)
	switch at := i - p.think; {
	case at < 0:
		ev.b = append(ev.b, `{"reasoning_content":`...)
		ev.b = appendString(ev.b, p.pieces[i])
	case p.tool == nil:
		ev.b = append(ev.b, `{"content":`...)
		ev.b = appendString(ev.b, p.pieces[i])
	case at == 0:
		ev.b = append(ev.b, `{"tool_calls":[{"index":0,"id":"`...)
		ev.b = append(ev.b, p.callID...)
		ev.b = append(ev.b, `","type":"function","function":{"name":`...)
		ev.b = appendString(ev.b, p.tool.name)
		ev.b = append(ev.b, `,"arguments":""}}]`...)
	default:
		ev.b = append(ev.b, `{"tool_calls":[{"index":0,"function":{"arguments":`...)
		ev.b = appendString(ev.b, p.pieces[i])
		ev.b = append(ev.b, `}}]`...)
	}
	ev.b = append(ev.b, '}')
	finish := ""
	if v.engine == VLLM && i == len(p.pieces)-1 {
		finish = p.finish()
	}
	v.end(ev, finish)
}

// endChoice implements voice. vLLM has said why with the last token, if there
// was one.
func (v *chatVoice) endChoice(ev *events, c int) {
	if p := &v.plans[c]; v.engine != VLLM || len(p.pieces) == 0 {
		v.begin(ev, c)
		ev.b = append(ev.b, `{}`...)
		v.end(ev, p.finish())
	}
}

func (v *chatVoice) finish(ev *events) {
	if v.usage {
		ev.b = append(ev.b, v.head...)
		ev.b = append(ev.b, `[],"usage":`...)
		ev.b = v.appendUsage(ev.b, v.full())
		ev.b = append(ev.b, "}\n\n"...)
		ev.mark()
	}
	ev.add(doneEvent)
}

const doneEvent = "data: [DONE]\n\n"

// appendUsage appends u as OpenAI has it.
func (a *answer) appendUsage(b []byte, u usage) []byte {
	b = append(b, `{"prompt_tokens":`...)
	b = strconv.AppendInt(b, int64(u.prompt), 10)
	b = append(b, `,"completion_tokens":`...)
	b = strconv.AppendInt(b, int64(u.output), 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendInt(b, int64(u.total()), 10)
	b = append(b, `,"prompt_tokens_details":{"cached_tokens":`...)
	b = strconv.AppendInt(b, int64(u.cached), 10)
	b = append(b, '}')
	if a.think {
		b = append(b, `,"completion_tokens_details":{"reasoning_tokens":`...)
		b = strconv.AppendInt(b, int64(u.thought), 10)
		b = append(b, '}')
	}
	return append(b, '}')
}

func (v *chatVoice) whole(b []byte) []byte {
	b = append(b, v.opening("chatcmpl-", "chat.completion")...)
	b = append(b, '[')
	for c := range v.plans {
		p := &v.plans[c]
		if c > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"index":`...)
		b = strconv.AppendInt(b, int64(c), 10)
		b = append(b, `,"message":{"role":"assistant","content":`...)
		if p.tool == nil {
			b = appendText(b, p)
		} else {
			b = append(b, "null"...)
		}
		if p.think > 0 {
			b = append(b, `,"reasoning_content":`...)
			b = appendString(b, p.reasoning())
		}
		if p.tool != nil {
			b = append(b, `,"tool_calls":[{"id":"`...)
			b = append(b, p.callID...)
			b = append(b, `","type":"function","function":{"name":`...)
			b = appendString(b, p.tool.name)
			b = append(b, `,"arguments":`...)
			b = appendString(b, p.arguments())
			b = append(b, `}}]`...)
		}
		b = append(b, `},"logprobs":null,"finish_reason":"`...)
		b = append(b, p.finish()...)
		b = append(b, `"}`...)
	}
	b = append(b, `],"usage":`...)
	b = v.appendUsage(b, v.full())
	return append(b, '}')
}

// appendText appends p's text as a JSON string. Words need no escaping.
func appendText(b []byte, p *plan) []byte {
	b = append(b, '"')
	for _, w := range p.pieces[p.think:] {
		b = append(b, w...)
	}
	return append(b, '"')
}
