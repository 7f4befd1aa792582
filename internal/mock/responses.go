package mock

import (
	"encoding/json"
	"strconv"
	"strings"
)

type responsesBody struct {
	sampling
	Input        json.RawMessage `json:"input"`
	Instructions string          `json:"instructions"`
	MaxOutput    *int            `json:"max_output_tokens"`
	Tools        json.RawMessage `json:"tools"`
	ToolChoice   json.RawMessage `json:"tool_choice"`
	Previous     string          `json:"previous_response_id"`
	Reasoning    *struct {
		Effort string `json:"effort"`
	} `json:"reasoning"`
}

// item is one of a list that is the input.
type item struct {
	Type      string  `json:"type"`
	Role      string  `json:"role"`
	Content   content `json:"content"`
	Output    content `json:"output"` // of a function
	Name      string  `json:"name"`
	Arguments string  `json:"arguments"`
}

func readResponses(_ *Engine, body []byte) (*ask, *refusal) {
	var b responsesBody
	if f := decode(body, &b); f != nil {
		return nil, f
	}
	a := &ask{}
	if f := b.fill(a); f != nil {
		return a, f
	}
	if a.n != 1 {
		return a, refuse("n", "a response has one answer, got n = %d.", a.n)
	}
	if f := a.setLimit("max_output_tokens", b.MaxOutput); f != nil {
		return a, f
	}
	if b.Previous != "" {
		return a, &refusal{status: 404, param: "previous_response_id", msg: "Response with id '" + b.Previous + "' not found."}
	}
	ms, f := b.messages()
	if f != nil {
		return a, f
	}
	last := a.conversation(b.Tools, b.Instructions, ms)
	a.think = b.Reasoning != nil && b.Reasoning.Effort != "none" || strings.Contains(lastUser(ms), thinkMark)
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

// messages reads the input as a conversation.
func (b *responsesBody) messages() ([]message, *refusal) {
	if len(b.Input) == 0 || string(b.Input) == "null" {
		return nil, refuse("input", "input is required.")
	}
	if b.Input[0] == '"' {
		m := message{Role: "user"}
		if err := json.Unmarshal(b.Input, &m.Content); err != nil {
			return nil, refuse("input", "input cannot be read: %v", err)
		}
		return []message{m}, nil
	}
	var items []item
	if err := json.Unmarshal(b.Input, &items); err != nil {
		return nil, refuse("input", "input must be text or a list of items: %v", err)
	}
	if len(items) == 0 {
		return nil, refuse("input", "input must not be empty.")
	}
	ms := make([]message, len(items))
	for i, it := range items {
		switch it.Type {
		case "function_call":
			ms[i] = message{Role: "assistant", Content: content{text: it.Name + " " + it.Arguments}}
		case "function_call_output":
			ms[i] = message{Role: "tool", Content: it.Output}
		case "reasoning":
			ms[i] = message{Role: "assistant", Content: it.Content}
		case "", "message":
			if it.Role == "" {
				return nil, refuse("input", "input[%d] has no role.", i)
			}
			ms[i] = message{Role: it.Role, Content: it.Content}
		default:
			return nil, refuse("input", "input[%d] has the unknown type %q.", i, it.Type)
		}
	}
	return ms, nil
}

// responsesVoice speaks OpenAI's responses. An answer is a list of items:
// reasoning, then a message or a function call.
type responsesVoice struct {
	*answer
	seq  int // of the next event
	item int // the one that is open, -1 for none yet
}

func newResponsesVoice(a *answer) voice { return &responsesVoice{answer: a, item: -1} }

// appendResponse appends the response; items is its output so far, over that
// it is complete.
func (v *responsesVoice) appendResponse(b []byte, items func([]byte) []byte, over bool) []byte {
	p := &v.plans[0]
	status, why := "in_progress", "null"
	switch {
	case over && p.cut:
		status, why = "incomplete", `{"reason":"max_output_tokens"}`
	case over:
		status = "completed"
	}
	b = append(b, `{"id":"`...)
	b = append(b, v.id("resp_")...)
	b = append(b, `","object":"response","created_at":`...)
	b = strconv.AppendInt(b, v.created.Unix(), 10)
	b = append(b, `,"status":"`...)
	b = append(b, status...)
	b = append(b, `","error":null,"incomplete_details":`...)
	b = append(b, why...)
	b = append(b, `,"instructions":null,"metadata":{},"model":`...)
	b = appendString(b, v.model)
	b = append(b, `,"output":[`...)
	if items != nil {
		b = items(b)
	}
	b = append(b, `],"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"auto","tools":[],"top_p":1.0,"usage":`...)
	if !over {
		return append(b, `null}`...)
	}
	u := v.full()
	b = append(b, `{"input_tokens":`...)
	b = strconv.AppendInt(b, int64(u.prompt), 10)
	b = append(b, `,"input_tokens_details":{"cached_tokens":`...)
	b = strconv.AppendInt(b, int64(u.cached), 10)
	b = append(b, `},"output_tokens":`...)
	b = strconv.AppendInt(b, int64(u.output), 10)
	b = append(b, `,"output_tokens_details":{"reasoning_tokens":`...)
	b = strconv.AppendInt(b, int64(u.thought), 10)
	b = append(b, `},"total_tokens":`...)
	b = strconv.AppendInt(b, int64(u.total()), 10)
	return append(b, `}}`...)
}

// appendReasoning, appendMessage and appendCall append one item; over says
// that it is complete.
func (v *responsesVoice) appendReasoning(b []byte, over bool) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, v.id("rs_")...)
	b = append(b, `","type":"reasoning","summary":[],"status":"`...)
	b = append(b, statusWord(over)...)
	b = append(b, `","content":[`...)
	if over {
		b = append(b, `{"type":"reasoning_text","text":`...)
		b = appendString(b, v.plans[0].reasoning())
		b = append(b, '}')
	}
	return append(b, `]}`...)
}

func (v *responsesVoice) appendMessage(b []byte, over bool) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, v.id("msg_")...)
	b = append(b, `","type":"message","role":"assistant","status":"`...)
	b = append(b, statusWord(over)...)
	b = append(b, `","content":[`...)
	if over {
		b = appendOutputText(b, v.plans[0].text())
	}
	return append(b, `]}`...)
}

func (v *responsesVoice) appendCall(b []byte, over bool) []byte {
	p := &v.plans[0]
	b = append(b, `{"id":"`...)
	b = append(b, v.id("fc_")...)
	b = append(b, `","type":"function_call","status":"`...)
	b = append(b, statusWord(over)...)
	b = append(b, `","call_id":"`...)
	b = append(b, p.callID...)
	b = append(b, `","name":`...)
	b = appendString(b, p.tool.name)
	b = append(b, `,"arguments":`...)
	if over {
		b = appendString(b, p.arguments())
	} else {
		b = append(b, `""`...)
	}
	return append(b, '}')
}

func statusWord(over bool) string {
	if over {
		return "completed"
	}
	return "in_progress"
}

func appendOutputText(b []byte, text string) []byte {
	b = append(b, `{"type":"output_text","text":`...)
	b = appendString(b, text)
	return append(b, `,"annotations":[],"logprobs":[]}`...)
}

// appendItems appends the complete output.
func (v *responsesVoice) appendItems(b []byte) []byte {
	p := &v.plans[0]
	if p.think > 0 {
		b = v.appendReasoning(b, true)
		b = append(b, ',')
	}
	if p.tool != nil {
		return v.appendCall(b, true)
	}
	return v.appendMessage(b, true)
}

// event appends an event of the given name, with the fields that follow.
func (v *responsesVoice) event(ev *events, name string, fields func([]byte) []byte) {
	ev.b = append(ev.b, "event: "...)
	ev.b = append(ev.b, name...)
	ev.b = append(ev.b, "\ndata: {\"type\":\""...)
	ev.b = append(ev.b, name...)
	ev.b = append(ev.b, `","sequence_number":`...)
	ev.b = strconv.AppendInt(ev.b, int64(v.seq), 10)
	v.seq++
	ev.b = fields(ev.b)
	ev.b = append(ev.b, "}\n\n"...)
	ev.mark()
}

func (v *responsesVoice) start(ev *events) {
	for _, name := range []string{"response.created", "response.in_progress"} {
		v.event(ev, name, func(b []byte) []byte { return v.appendResponse(append(b, `,"response":`...), nil, false) })
	}
}

// within appends the fields that place an event in item id; with part, in its
// only content part.
func (v *responsesVoice) within(b []byte, id string, part bool) []byte {
	b = append(b, `,"item_id":"`...)
	b = append(b, v.id(id)...)
	b = append(b, `","output_index":`...)
	b = strconv.AppendInt(b, int64(v.item), 10)
	if part {
		b = append(b, `,"content_index":0`...)
	}
	return b
}

func (v *responsesVoice) itemEvent(ev *events, name string, item func([]byte, bool) []byte, over bool) {
	v.event(ev, name, func(b []byte) []byte {
		b = append(b, `,"output_index":`...)
		b = strconv.AppendInt(b, int64(v.item), 10)
		b = append(b, `,"item":`...)
		return item(b, over)
	})
}

func (v *responsesVoice) partEvent(ev *events, name, text string) {
	v.event(ev, name, func(b []byte) []byte {
		b = v.within(b, "msg_", true)
		return appendOutputText(append(b, `,"part":`...), text)
	})
}

func (v *responsesVoice) textEvent(ev *events, name, id, field, text string, part bool) {
	v.event(ev, name, func(b []byte) []byte {
		b = v.within(b, id, part)
		b = append(b, `,"`...)
		b = append(b, field...)
		b = append(b, `":`...)
		b = appendString(b, text)
		if id == "msg_" {
			b = append(b, `,"logprobs":[]`...)
		}
		return b
	})
}

func (v *responsesVoice) piece(ev *events, c, i int) {
	p := &v.plans[c]
	at := i - p.think
	if i == 0 && at < 0 {
		v.item++
		v.itemEvent(ev, "response.output_item.added", v.appendReasoning, false)
	}
	if at == 0 {
		v.open(ev, p)
	}
	switch {
	case at < 0:
		v.textEvent(ev, "response.reasoning_text.delta", "rs_", "delta", p.pieces[i], true)
	case p.tool == nil:
		v.textEvent(ev, "response.output_text.delta", "msg_", "delta", p.pieces[i], true)
	case at > 0:
		v.textEvent(ev, "response.function_call_arguments.delta", "fc_", "delta", p.pieces[i], false)
	}
}

// open ends the reasoning, if there was any, and begins what follows it.
func (v *responsesVoice) open(ev *events, p *plan) {
	if p.think > 0 {
		v.closeReasoning(ev, p)
	}
	v.item++
	if p.tool != nil {
		v.itemEvent(ev, "response.output_item.added", v.appendCall, false)
		return
	}
	v.itemEvent(ev, "response.output_item.added", v.appendMessage, false)
	v.partEvent(ev, "response.content_part.added", "")
}

func (v *responsesVoice) closeReasoning(ev *events, p *plan) {
	v.textEvent(ev, "response.reasoning_text.done", "rs_", "text", p.reasoning(), true)
	v.itemEvent(ev, "response.output_item.done", v.appendReasoning, true)
}

func (v *responsesVoice) endChoice(ev *events, c int) {
	p := &v.plans[c]
	if len(p.pieces) <= p.think {
		v.open(ev, p) // there was nothing to say: an empty message
	}
	if p.tool != nil {
		v.event(ev, "response.function_call_arguments.done", func(b []byte) []byte {
			b = v.within(b, "fc_", false)
			b = append(b, `,"name":`...)
			b = appendString(b, p.tool.name)
			b = append(b, `,"arguments":`...)
			return appendString(b, p.arguments())
		})
		v.itemEvent(ev, "response.output_item.done", v.appendCall, true)
		return
	}
	v.textEvent(ev, "response.output_text.done", "msg_", "text", p.text(), true)
	v.partEvent(ev, "response.content_part.done", p.text())
	v.itemEvent(ev, "response.output_item.done", v.appendMessage, true)
}

func (v *responsesVoice) finish(ev *events) {
	name := "response.completed"
	if v.plans[0].cut {
		name = "response.incomplete"
	}
	v.event(ev, name, func(b []byte) []byte { return v.appendResponse(append(b, `,"response":`...), v.appendItems, true) })
}

func (v *responsesVoice) whole(b []byte) []byte { return v.appendResponse(b, v.appendItems, true) }
