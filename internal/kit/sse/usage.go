package sse

import "bytes"

// Usage is what an answer says that it took, in tokens and as the worker counts:
// OpenAI's and SGLang's Input includes what was Cached, Anthropic's does not.
type Usage struct{ Input, Cached, Output int64 }

// maxTail bounds how much of an answer UsageOf looks at.
const maxTail = 64 << 10

// UsageOf returns the counts in the last object called usage, or meta_info as
// SGLang's /generate has it, in a whole JSON answer. It looks at the answer's
// last 64 KiB and reports false if there are none.
func UsageOf(body []byte) (u Usage, ok bool) {
	c := endCounts(body[max(0, len(body)-nearEnd):])
	if c.has == 0 {
		c = tailCounts(body, maxTail)
	}
	c.update(&u)
	return u, c.has != 0
}

// nearEnd is how far from an answer's end usage mostly begins, at most.
const nearEnd = 192

// endCounts is lastCounts, backwards: for a short b that usage stands in.
func endCounts(b []byte) counts {
	const usage, meta = `"usage`, `"meta_info`
	for i := len(b) - 1; i >= len(usage); i-- {
		if b[i] != '"' {
			continue
		}
		if string(b[i-len(usage):i]) != usage && (i < len(meta) || string(b[i-len(meta):i]) != meta) {
			continue
		}
		if c, behind := countsAt(b, i+1); behind >= 0 && c.has != 0 {
			return c
		}
	}
	return counts{}
}

// countsAt reads the object behind a name that ends at i, and returns where that
// ends; -1 if there is none, or not all of it.
func countsAt(b []byte, i int) (c counts, end int) {
	i = space(b, i)
	if i == len(b) || b[i] != ':' {
		return c, -1
	}
	if i = space(b, i+1); i == len(b) || b[i] != '{' {
		return c, -1
	}
	return readCounts(b, i)
}

// tailCounts is lastCounts of b's last limit bytes. It looks at the last few
// first, where usage stands mostly.
func tailCounts(b []byte, limit int) counts {
	for n := 384; ; n *= 8 {
		n = min(n, limit)
		if c := lastCounts(b[max(0, len(b)-n):]); c.has != 0 || n == limit || n >= len(b) {
			return c
		}
	}
}

// counts are those of one object.
type counts struct {
	Usage
	has uint8 // a bit for each that the object tells
}

const (
	hasInput = 1 << iota
	hasCached
	hasOutput
)

// update sets what c tells in u.
func (c *counts) update(u *Usage) {
	if c.has&hasInput != 0 {
		u.Input = c.Input
	}
	if c.has&hasCached != 0 {
		u.Cached = c.Cached
	}
	if c.has&hasOutput != 0 {
		u.Output = c.Output
	}
}

// The ends of the names that are looked for begin with their rarest letters,
// which most events do not have. The names of all counts end with tokens.
var (
	tokensEnd = []byte(`kens"`)
	usageEnd  = []byte(`ge"`)
	metaEnd   = []byte(`fo"`)
)

// lastCounts returns the counts in the last object of b that is called usage or
// meta_info and tells any. A name in a string's text is not mistaken for one:
// its quotes are escaped.
func lastCounts(b []byte) counts {
	if !bytes.Contains(b, tokensEnd) {
		return counts{}
	}
	usage, at := lastObject(b, `"usa`, usageEnd)
	meta, metaAt := lastObject(b, `"meta_in`, metaEnd)
	if metaAt > at {
		return meta
	}
	return usage
}

// lastObject looks for objects whose quoted name is name and end.
func lastObject(b []byte, name string, end []byte) (last counts, at int) {
	at = -1
	for from := 0; ; {
		i := bytes.Index(b[from:], end)
		if i < 0 {
			return last, at
		}
		i += from
		from = i + len(end)
		if i < len(name) || string(b[i-len(name):i]) != name {
			continue
		}
		open := space(b, from)
		if open == len(b) || b[open] != ':' {
			continue
		}
		if open = space(b, open+1); open == len(b) || b[open] != '{' {
			continue
		}
		c, behind := readCounts(b, open)
		if behind < 0 {
			return last, at
		}
		if c.has != 0 {
			last, at = c, open
		}
		from = behind
	}
}

// readCounts reads the object that opens at i, and returns where it ends; -1 if
// it does not.
func readCounts(b []byte, i int) (c counts, end int) {
	depth, details := 0, false
	for i < len(b) {
		switch b[i] {
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
			if depth == 0 {
				return c, i
			}
			details = details && depth > 1
		case '"':
			start := i
			if i = stringEnd(b, i); i < 0 {
				return c, -1
			}
			if depth > 2 || depth == 2 && !details {
				continue
			}
			value := space(b, i)
			if value == len(b) || b[value] != ':' {
				continue
			}
			value = space(b, value+1)
			switch name := b[start+1 : i-1]; {
			case depth == 2 && string(name) != "cached_tokens":
			case depth == 1 && isDetails(name):
				details = value < len(b) && b[value] == '{'
			default:
				c.take(name, b[value:])
			}
			i = value
		default:
			i++
		}
	}
	return c, -1
}

func isDetails(name []byte) bool {
	return string(name) == "prompt_tokens_details" || string(name) == "input_tokens_details"
}

// take reads the count that text begins with, if name is that of one.
func (c *counts) take(name, text []byte) {
	var to *int64
	var bit uint8
	switch string(name) {
	case "prompt_tokens", "input_tokens":
		to, bit = &c.Input, hasInput
	case "cached_tokens", "cache_read_input_tokens":
		to, bit = &c.Cached, hasCached
	case "completion_tokens", "output_tokens":
		to, bit = &c.Output, hasOutput
	default:
		return
	}
	var n int64
	i := 0
	for ; i < len(text) && i < 18 && isDigit(text[i]); i++ {
		n = n*10 + int64(text[i]-'0')
	}
	if i == 0 || i == len(text) || text[i] != ',' && text[i] != '}' && !isSpace(text[i]) {
		return // null, or no count
	}
	*to = n
	c.has |= bit
}

// stringEnd returns the index behind the JSON string at i, -1 if there is none
// or it does not end.
func stringEnd(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return -1
}

// space returns the index of the first byte from i on that is not white space,
// len(b) if there is none.
func space(b []byte, i int) int {
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	return i
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func isDigit(c byte) bool { return c-'0' < 10 }
