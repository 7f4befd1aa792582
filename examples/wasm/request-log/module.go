// One line of JSON for each request in the gateway's log: what was asked for, what
// came of it, how many tokens it took. Nothing of what is said is in it.
//
// The line is written by hand. encoding/json remembers what it has learned of a
// type, and a module forgets that after each call: it would take a millisecond.
package main

import (
	"strconv"
	"strings"
)

// onRequest is called when the request has come, before a worker is chosen. What
// is known so far waits in the state for the rest.
func onRequest(r Request) Action {
	agent, _, _ := strings.Cut(r.Headers.Get("user-agent"), " ")
	line := text([]byte(`{"id":`), r.ID)
	line = text(append(line, `,"path":`...), r.Path)
	line = text(append(line, `,"model":`...), Model())
	line = text(append(line, `,"agent":`...), agent)
	line = number(append(line, `,"bytes":`...), uint64(len(r.Body)))
	if !SetState(line) {
		Log(Warn, "a request whose line is too long: "+r.ID)
	}
	return Continue()
}

// onError is called when the request fails, before its answer or in the middle of it.
func onError(f Failure) {
	Count("errors", 1)
	SetState(text(append(State(), `,"error":`...), f.Code))
}

// onEnd is called when all has been sent.
func onEnd(s Summary) {
	line := State()
	if len(line) == 0 {
		return
	}
	line = number(append(line, `,"status":`...), uint64(s.Status))
	line = number(append(line, `,"ms":`...), s.DurationMillis)
	line = number(append(line, `,"input_tokens":`...), s.InputTokens)
	line = number(append(line, `,"output_tokens":`...), s.OutputTokens)
	Log(Info, string(append(line, '}')))
}

func number(b []byte, n uint64) []byte { return strconv.AppendUint(b, n, 10) }

// text appends a JSON string.
func text(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
