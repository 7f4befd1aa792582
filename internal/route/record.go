package route

import (
	"net/http"
	"strconv"
	"sync"

	"sluice/internal/infer"
	"sluice/internal/kit/linelog"
	"sluice/internal/kit/tracefile"
)

// blockTokens is what one of a Choice's Keys stands for in a trace: policies hash
// 512 bytes of text, and four make a token.
const blockTokens = 128

// record writes a line of a trace in Mooncake's format: when r came, how long it
// and its answer were, and hashes that tell what it has in common with others.
// Nothing of the prompt itself is in it. Where the worker did not count, the
// policy's estimate is written, or a token for four bytes.
func (rt *Router) record(t *trip, r *infer.Request, w *infer.Reply) {
	if w.Status() >= http.StatusBadRequest {
		return
	}
	l := &t.lead
	if t.team.Prefill != nil {
		l = t.prefill
	}
	input := w.Served.Tokens.Input
	if input <= 0 {
		input = l.choice.Prompt
	}
	if input <= 0 {
		input = max(r.Size/4, 1)
	}
	// What nobody can have asked or answered is cut: one such line would make
	// the whole trace unreadable.
	input, output := min(input, tracefile.MaxTokens), min(max(w.Served.Tokens.Output, 0), tracefile.MaxTokens)
	text := recordLines.Get().(*[]byte)
	b := append((*text)[:0], `{"timestamp":`...)
	b = strconv.AppendInt(b, r.Received.UnixMilli(), 10)
	b = strconv.AppendInt(append(b, `,"input_length":`...), input, 10)
	b = strconv.AppendInt(append(b, `,"output_length":`...), output, 10)
	b = append(b, `,"hash_ids":[`...)
	for i, k := range l.choice.Keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, k, 10)
	}
	b = strconv.AppendInt(append(b, `],"block_tokens":`...), blockTokens, 10)
	b = linelog.AppendString(append(b, `,"model":`...), cut(r.Model))
	b = linelog.AppendString(append(b, `,"policy":`...), l.policy)
	b = linelog.AppendString(append(b, `,"worker":`...), w.Served.Worker)
	b = strconv.AppendFloat(append(b, `,"ttft_s":`...), w.Served.FirstByte.Seconds(), 'f', 6, 64)
	b = append(b, "}\n"...)
	rt.recording.Put(b)
	if *text = b; cap(b) <= maxRecordLine {
		recordLines.Put(text)
	}
}

// recordLines holds *[]byte, none longer than maxRecordLine.
var recordLines = sync.Pool{New: func() any { return new([]byte) }}

const maxRecordLine = 64 << 10
