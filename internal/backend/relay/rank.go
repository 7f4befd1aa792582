package relay

import (
	"bytes"
	"strconv"

	"sluice/internal/fleet"
	"sluice/internal/kit/peek"
)

// rankKey is what SGLang calls the data-parallel rank that is to serve a request.
// Since 0.5.10 it looks at a header first, as vLLM does, but not for /generate.
const rankKey = "data_parallel_rank"

var rankKeys = peek.NewKeys(rankKey)

// rankBody returns the body that w gets: a new one that names w's rank if w is
// one of several of an SGLang engine. A body that was left with its client, or is
// no JSON, stays as it is; the header says it too. What the client named counts
// for nothing.
func rankBody(body []byte, w *fleet.Worker) []byte {
	rank, ok := w.Rank()
	if !ok || w.Info().Runtime != "sglang" {
		return body
	}
	var got [1]peek.Value
	if peek.Object(body, rankKeys, got[:]) != nil {
		return body
	}
	out := make([]byte, 0, len(body)+len(rankKey)+8)
	if v := got[0]; v.Kind != peek.Absent {
		out = strconv.AppendInt(append(out, body[:v.Start]...), int64(rank), 10)
		return append(out, body[v.End:]...)
	}
	at := bytes.IndexByte(body, '{') + 1
	out = append(append(out, body[:at]...), `"`+rankKey+`":`...)
	out = strconv.AppendInt(out, int64(rank), 10)
	if bytes.TrimLeft(body[at:], " \t\r\n")[0] != '}' {
		out = append(out, ',')
	}
	return append(out, body[at:]...)
}
