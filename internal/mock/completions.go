package mock

import "strconv"

type completionBody struct {
	sampling
	Prompt inputs `json:"prompt"`
	Echo   bool   `json:"echo"`
}

func readCompletion(_ *Engine, body []byte) (*ask, *refusal) {
	var b completionBody
	if f := decode(body, &b); f != nil {
		return nil, f
	}
	a := &ask{}
	if f := b.fill(a); f != nil {
		return a, f
	}
	if b.Echo {
		return a, refuse("echo", "echo is not supported.")
	}
	return a, b.Prompt.fill(a, "prompt")
}

// completionVoice speaks OpenAI's text completions.
type completionVoice struct {
	*answer
	head string
	told []int
}

func newCompletionVoice(a *answer) voice {
	return &completionVoice{answer: a, told: make([]int, len(a.plans))}
}

func (v *completionVoice) start(*events) {
	v.head = `data: ` + v.opening("cmpl-", "text_completion")
}

func (v *completionVoice) chunk(ev *events, c int, text, finish string) {
	ev.b = append(ev.b, v.head...)
	ev.b = append(ev.b, '[')
	ev.b = appendChoice(ev.b, c, text, finish)
	ev.b = append(ev.b, ']')
	if v.usageEach {
		ev.b = append(ev.b, `,"usage":`...)
		ev.b = v.appendUsage(ev.b, v.usageOf(func(c int) int { return v.told[c] }))
	}
	ev.b = append(ev.b, "}\n\n"...)
	ev.mark()
}

func appendChoice(b []byte, c int, text, finish string) []byte {
	b = append(b, `{"index":`...)
	b = strconv.AppendInt(b, int64(c), 10)
	b = append(b, `,"text":`...)
	b = appendString(b, text)
	b = append(b, `,"logprobs":null,"finish_reason":`...)
	if finish == "" {
		return append(b, "null}"...)
	}
	b = appendString(b, finish)
	return append(b, '}')
}

func (v *completionVoice) piece(ev *events, c, i int) {
	p := &v.plans[c]
	v.told[c] = i + 1
	finish := ""
	if v.engine == VLLM && i == len(p.pieces)-1 {
		finish = p.finish()
	}
	v.chunk(ev, c, p.pieces[i], finish)
}

func (v *completionVoice) endChoice(ev *events, c int) {
	if p := &v.plans[c]; v.engine != VLLM || len(p.pieces) == 0 {
		v.chunk(ev, c, "", p.finish())
	}
}

func (v *completionVoice) finish(ev *events) {
	if v.usage {
		ev.b = append(ev.b, v.head...)
		ev.b = append(ev.b, `[],"usage":`...)
		ev.b = v.appendUsage(ev.b, v.full())
		ev.b = append(ev.b, "}\n\n"...)
		ev.mark()
	}
	ev.add(doneEvent)
}

func (v *completionVoice) whole(b []byte) []byte {
	b = append(b, v.opening("cmpl-", "text_completion")...)
	b = append(b, '[')
	for c := range v.plans {
		if c > 0 {
			b = append(b, ',')
		}
		b = appendChoice(b, c, v.plans[c].text(), v.plans[c].finish())
	}
	b = append(b, `],"usage":`...)
	b = v.appendUsage(b, v.full())
	return append(b, '}')
}
