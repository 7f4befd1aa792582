package mock

import (
	"encoding/json"
	"strconv"
	"strings"
)

type messagesBody struct {
	Model      string          `json:"model"`
	Stream     bool            `json:"stream"`
	MaxTokens  *int            `json:"max_tokens"`
	IgnoreEOS  bool            `json:"ignore_eos"`
	System     content         `json:"system"`
	Messages   []message       `json:"messages"`
	Stop       []string        `json:"stop_sequences"`
	Tools      json.RawMessage `json:"tools"`
	ToolChoice *struct {
		Type string `json:"type"`
		Name string `json:"name"`
	} `json:"tool_choice"`
	Thinking struct {
		Type string `json:"type"`
	} `json:"thinking"`
	Temperature *float64        `json:"temperature"`
	Metadata    json.RawMessage `json:"metadata"`
	User        string          `json:"user"`
}

func readMessages(_ *Engine, body []byte) (*ask, *refusal) {
	a, b, f := readConversation(body)
	if f != nil {
		return a, f
	}
	if b.MaxTokens == nil {
		return a, refuse("max_tokens", "max_tokens: Field required")
	}
	if f := a.setLimit("max_tokens", b.MaxTokens); f != nil {
		return a, f
	}
	if b.Temperature != nil && (*b.Temperature < 0 || *b.Temperature > 1) {
		return a, refuse("temperature", "temperature: must be between 0 and 1")
	}
	a.soft = !b.IgnoreEOS
	return a, a.setStop("stop_sequences", b.Stop)
}

func readCountTokens(_ *Engine, body []byte) (*ask, *refusal) {
	a, _, f := readConversation(body)
	if a != nil {
		a.limit, a.stream, a.count = readOnly, false, true
	}
	return a, f
}

// readConversation reads what messages and count_tokens have in common.
func readConversation(body []byte) (*ask, *messagesBody, *refusal) {
	b := &messagesBody{}
	if f := decode(body, b); f != nil {
		return nil, b, f
	}
	a := &ask{model: b.Model, stream: b.Stream, n: 1, fault: bodyFault(b.User, b.Metadata)}
	if len(b.Messages) == 0 {
		return a, b, refuse("messages", "messages: at least one message is required")
	}
	for i, m := range b.Messages {
		if m.Role != "user" && m.Role != "assistant" {
			return a, b, refuse("messages", "messages.%d.role: must be user or assistant, got %q", i, m.Role)
		}
	}
	last := a.conversation(b.Tools, b.System.text, b.Messages)
	a.think = b.Thinking.Type == "enabled" || b.Thinking.Type == "adaptive"
	tools, f := anthropicTools(b.Tools)
	if f != nil {
		return a, b, f
	}
	choice, name := "", ""
	if c := b.ToolChoice; c != nil {
		switch c.Type {
		case "tool":
			name = c.Name
		case "any":
			choice = "required"
		case "auto", "none":
			choice = c.Type
		default:
			return a, b, refuse("tool_choice", "tool_choice.type: %q is none of auto, any, tool and none", c.Type)
		}
	}
	a.tool, f = pickTool(tools, choice, name, strings.Contains(last, toolMark))
	return a, b, f
}

func anthropicTools(raw json.RawMessage) ([]tool, *refusal) {
	if len(raw) == 0 {
		return nil, nil
	}
	var list []struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"input_schema"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, refuse("tools", "tools: must be a list of tools: %v", err)
	}
	ts := make([]tool, len(list))
	for i, t := range list {
		if t.Name == "" {
			return nil, refuse("tools", "tools.%d.name: Field required", i)
		}
		ts[i] = tool{t.Name, t.Schema}
	}
	return ts, nil
}

// messagesVoice speaks Anthropic's messages. An answer is a list of blocks:
// thinking, then text or the use of a tool.
type messagesVoice struct {
	*answer
	block int // the one that is open, -1 for none yet
}

func newMessagesVoice(a *answer) voice { return &messagesVoice{answer: a, block: -1} }

// stopReason is why p ended, in Anthropic's words.
func stopReason(p *plan) string {
	switch {
	case p.tool != nil:
		return "tool_use"
	case p.stop != "":
		return "stop_sequence"
	case p.cut:
		return "max_tokens"
	}
	return "end_turn"
}

// appendMessage appends a message up to the end of its content.
func (v *messagesVoice) appendMessage(b []byte, content func([]byte) []byte) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, v.id("msg_")...)
	b = append(b, `","type":"message","role":"assistant","model":`...)
	b = appendString(b, v.model)
	b = append(b, `,"content":[`...)
	b = content(b)
	return append(b, ']')
}

// appendStop appends the stop reason and sequence of p, null for both if p is nil.
func appendStop(b []byte, p *plan) []byte {
	b = append(b, `"stop_reason":`...)
	if p == nil {
		return append(b, `null,"stop_sequence":null`...)
	}
	b = appendString(b, stopReason(p))
	b = append(b, `,"stop_sequence":`...)
	if p.stop == "" {
		return append(b, "null"...)
	}
	return appendString(b, p.stop)
}

// appendMessageUsage appends usage as Anthropic has it: what was cached is not
// input.
func (v *messagesVoice) appendMessageUsage(b []byte, output int) []byte {
	u := v.full()
	b = append(b, `"usage":{"input_tokens":`...)
	b = strconv.AppendInt(b, int64(u.prompt-u.cached), 10)
	b = append(b, `,"cache_creation_input_tokens":0,"cache_read_input_tokens":`...)
	b = strconv.AppendInt(b, int64(u.cached), 10)
	b = append(b, `,"output_tokens":`...)
	b = strconv.AppendInt(b, int64(output), 10)
	return append(b, '}')
}

// event appends an event of the given name, with the fields that follow its type.
func (v *messagesVoice) event(ev *events, name string, fields func([]byte) []byte) {
	ev.b = append(ev.b, "event: "...)
	ev.b = append(ev.b, name...)
	ev.b = append(ev.b, "\ndata: {\"type\":\""...)
	ev.b = append(ev.b, name...)
	ev.b = append(ev.b, '"')
	ev.b = fields(ev.b)
	ev.b = append(ev.b, "}\n\n"...)
	ev.mark()
}

func (v *messagesVoice) start(ev *events) {
	v.event(ev, "message_start", func(b []byte) []byte {
		b = append(b, `,"message":`...)
		b = v.appendMessage(b, func(b []byte) []byte { return b })
		b = append(b, ',')
		b = appendStop(b, nil)
		b = append(b, ',')
		b = v.appendMessageUsage(b, 0)
		return append(b, '}')
	})
}

func (v *messagesVoice) appendIndex(b []byte) []byte {
	b = append(b, `,"index":`...)
	return strconv.AppendInt(b, int64(v.block), 10)
}

func (v *messagesVoice) open(ev *events, block func([]byte) []byte) {
	v.close(ev)
	v.block++
	v.event(ev, "content_block_start", func(b []byte) []byte {
		b = v.appendIndex(b)
		b = append(b, `,"content_block":`...)
		return block(b)
	})
}

func (v *messagesVoice) close(ev *events) {
	if v.block >= 0 {
		v.event(ev, "content_block_stop", v.appendIndex)
	}
}

func (v *messagesVoice) delta(ev *events, kind, field, text string) {
	v.event(ev, "content_block_delta", func(b []byte) []byte {
		b = v.appendIndex(b)
		b = append(b, `,"delta":{"type":"`...)
		b = append(b, kind...)
		b = append(b, `","`...)
		b = append(b, field...)
		b = append(b, `":`...)
		b = appendString(b, text)
		return append(b, '}')
	})
}

func (v *messagesVoice) piece(ev *events, c, i int) {
	p := &v.plans[c]
	at := i - p.think
	if i == 0 && at < 0 {
		v.open(ev, func(b []byte) []byte { return append(b, `{"type":"thinking","thinking":"","signature":""}`...) })
	}
	if at == 0 {
		if p.think > 0 {
			v.delta(ev, "signature_delta", "signature", signature)
		}
		v.open(ev, func(b []byte) []byte {
			if p.tool == nil {
				return append(b, `{"type":"text","text":""}`...)
			}
			return appendToolUse(b, p, "{}")
		})
	}
	switch {
	case at < 0:
		v.delta(ev, "thinking_delta", "thinking", p.pieces[i])
	case p.tool == nil:
		v.delta(ev, "text_delta", "text", p.pieces[i])
	case at == 0:
		v.delta(ev, "input_json_delta", "partial_json", "")
	default:
		v.delta(ev, "input_json_delta", "partial_json", p.pieces[i])
	}
}

// signature stands for the seal that Anthropic puts on thinking.
const signature = "bW9jaw=="

func appendToolUse(b []byte, p *plan, input string) []byte {
	b = append(b, `{"type":"tool_use","id":"`...)
	b = append(b, "toolu_"...)
	b = append(b, strings.TrimPrefix(p.callID, "call_")...)
	b = append(b, `","name":`...)
	b = appendString(b, p.tool.name)
	b = append(b, `,"input":`...)
	b = append(b, input...)
	return append(b, '}')
}

func (v *messagesVoice) endChoice(ev *events, _ int) { v.close(ev) }

func (v *messagesVoice) finish(ev *events) {
	v.event(ev, "message_delta", func(b []byte) []byte {
		b = append(b, `,"delta":{`...)
		b = appendStop(b, &v.plans[0])
		b = append(b, `},`...)
		return v.appendMessageUsage(b, v.full().output)
	})
	v.event(ev, "message_stop", func(b []byte) []byte { return b })
}

func (v *messagesVoice) whole(b []byte) []byte {
	p := &v.plans[0]
	b = v.appendMessage(b, func(b []byte) []byte {
		if p.think > 0 {
			b = append(b, `{"type":"thinking","thinking":`...)
			b = appendString(b, p.reasoning())
			b = append(b, `,"signature":"`+signature+`"},`...)
		}
		if p.tool != nil {
			return appendToolUse(b, p, p.arguments())
		}
		b = append(b, `{"type":"text","text":`...)
		b = appendText(b, p)
		return append(b, '}')
	})
	b = append(b, ',')
	b = appendStop(b, p)
	b = append(b, ',')
	b = v.appendMessageUsage(b, v.full().output)
	return append(b, '}')
}

// countVoice says how many tokens a conversation has.
type countVoice struct{ *answer }

func newCountVoice(a *answer) voice { return countVoice{a} }

func (countVoice) start(*events)           {}
func (countVoice) piece(*events, int, int) {}
func (countVoice) endChoice(*events, int)  {}
func (countVoice) finish(*events)          {}

func (v countVoice) whole(b []byte) []byte {
	b = append(b, `{"input_tokens":`...)
	b = strconv.AppendInt(b, int64(v.job.seqs[0].prompt), 10)
	return append(b, '}')
}
