package mock

import (
	"fmt"
	"strings"
)

// A plan is an answer before it is given: one piece for each token.
type plan struct {
	pieces []string
	think  int    // of pieces, how many are reasoning, from the first on
	tool   *tool  // the call that the rest is: its name, then its arguments; nil for text
	callID string // of the call
	cut    bool   // the limit ended it
	stop   string // the stop string that ended it, "" for none
}

// text is the answer without its reasoning.
func (p *plan) text() string {
	if p.tool != nil {
		return ""
	}
	return strings.Join(p.pieces[p.think:], "")
}

func (p *plan) reasoning() string { return strings.Join(p.pieces[:p.think], "") }

// arguments is the JSON of the tool call.
func (p *plan) arguments() string { return strings.Join(p.pieces[p.think+1:], "") }

// finish is why it ended, in OpenAI's words.
func (p *plan) finish() string {
	switch {
	case p.tool != nil:
		return "tool_calls"
	case p.cut:
		return "length"
	}
	return "stop"
}

// thoughts is how many tokens reasoning takes where the limit allows it.
const thoughts = 8

// sentence is how many words one has.
const sentence = 12

// plan makes the answer that begins with seed.
func (a *ask) plan(seed uint64, want length) plan {
	d := dice(seed)
	p := plan{cut: want.cut}
	if want.tokens == 0 {
		return p
	}
	if a.think {
		p.think = thoughts
		if want.cut {
			p.think = min(thoughts, (want.tokens+1)/2)
			want.tokens -= p.think
		}
	}
	if a.tool != nil {
		p.pieces = appendWords(nil, &d, p.think)
		p.tool, p.cut = a.tool, false
		p.callID = fmt.Sprintf("call_%016x%08x", d.next(), uint32(d.next()))
		p.pieces = append(p.pieces, a.tool.name)
		p.pieces = append(p.pieces, split(a.tool.arguments(&d), argumentBytes)...)
		return p
	}
	p.pieces = make([]string, 0, p.think+want.tokens)
	p.pieces = appendWords(p.pieces, &d, p.think)
	p.pieces = appendWords(p.pieces, &d, want.tokens)
	if len(a.stop) > 0 {
		p.stopAt(a.stop)
	}
	return p
}

// appendWords appends n words that make sentences.
func appendWords(dst []string, d *dice, n int) []string {
	for i := range n {
		w := d.below(len(vocabulary))
		switch {
		case i == 0:
			dst = append(dst, vocabulary[w])
		case i%sentence == sentence-1 || i == n-1:
			dst = append(dst, ended[w])
		default:
			dst = append(dst, spaced[w])
		}
	}
	return dst
}

// stopAt ends p before the first of the stop strings.
func (p *plan) stopAt(stops []string) {
	text := p.text()
	at := -1
	for _, s := range stops {
		if i := strings.Index(text, s); i >= 0 && (at < 0 || i < at) {
			at, p.stop = i, s
		}
	}
	if at < 0 {
		return
	}
	p.cut = false
	for i := p.think; i < len(p.pieces); i++ {
		if len(p.pieces[i]) <= at {
			at -= len(p.pieces[i])
			continue
		}
		p.pieces[i] = p.pieces[i][:at]
		if at > 0 {
			i++
		}
		p.pieces = p.pieces[:i]
		return
	}
}

// argumentBytes is how much of a call's arguments one token is.
const argumentBytes = 8

// split cuts s, which is ASCII, into pieces of n bytes.
func split(s string, n int) []string {
	var ps []string
	for len(s) > n {
		ps, s = append(ps, s[:n]), s[n:]
	}
	return append(ps, s)
}
