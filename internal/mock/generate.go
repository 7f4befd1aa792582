package mock

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
)

type generateBody struct {
	Model    string          `json:"model"`
	Text     inputs          `json:"text"`
	IDs      inputs          `json:"input_ids"`
	Sampling json.RawMessage `json:"sampling_params"`
	Stream   bool            `json:"stream"`
	RID      oneOrMore       `json:"rid"`
	User     string          `json:"user"`
	Metadata json.RawMessage `json:"metadata"`
}

type generateSampling struct {
	MaxNew      *int      `json:"max_new_tokens"`
	Stop        oneOrMore `json:"stop"`
	N           *int      `json:"n"`
	Seed        *int64    `json:"sampling_seed"`
	Temperature *float64  `json:"temperature"`
	TopP        *float64  `json:"top_p"`
}

func readGenerate(_ *Engine, body []byte) (*ask, *refusal) {
	var b generateBody
	if f := decode(body, &b); f != nil {
		return nil, f
	}
	a := &ask{fault: bodyFault(b.User, b.Metadata)}
	if raw := bytes.TrimSpace(b.Sampling); len(raw) > 0 && raw[0] == '[' {
		return a, refuse("sampling_params", "sampling_params must be one object for all texts.")
	}
	var p generateSampling
	if len(b.Sampling) > 0 {
		if err := json.Unmarshal(b.Sampling, &p); err != nil {
			return a, refuse("sampling_params", "sampling_params cannot be read: %v", err)
		}
	}
	s := sampling{
		Model: b.Model, Stream: b.Stream, N: p.N, Stop: p.Stop, Seed: p.Seed, Temperature: p.Temperature, TopP: p.TopP,
		User: b.User, Metadata: b.Metadata,
	}
	if len(b.RID) > 0 {
		s.RID = b.RID[0]
	}
	if f := s.fill(a); f != nil {
		return a, f
	}
	if f := a.setLimit("max_new_tokens", p.MaxNew); f != nil {
		return a, f
	}
	if b.Text.given == b.IDs.given {
		return a, refuse("text", "Either text or input_ids should be provided.")
	}
	if b.IDs.given {
		return a, b.IDs.fill(a, "input_ids")
	}
	return a, b.Text.fill(a, "text")
}

// generateVoice speaks SGLang's own API, whose events hold the whole text so
// far.
type generateVoice struct {
	*answer
	texts  [][]byte // of each choice, so far
	single bool
}

func newGenerateVoice(a *answer) voice {
	return &generateVoice{answer: a, texts: make([][]byte, len(a.plans)), single: !a.batch && a.n == 1}
}

func (v *generateVoice) start(*events) {}

func (v *generateVoice) piece(ev *events, c, i int) {
	p := &v.plans[c]
	v.texts[c] = append(v.texts[c], p.pieces[i]...)
	ev.b = append(ev.b, `data: `...)
	ev.b = v.appendItem(ev.b, c, i+1, i == len(p.pieces)-1)
	ev.b = append(ev.b, "\n\n"...)
	ev.mark()
}

func (v *generateVoice) endChoice(ev *events, c int) {
	if len(v.plans[c].pieces) == 0 {
		ev.b = append(ev.b, `data: `...)
		ev.b = v.appendItem(ev.b, c, 0, true)
		ev.b = append(ev.b, "\n\n"...)
		ev.mark()
	}
}

func (v *generateVoice) finish(ev *events) { ev.add(doneEvent) }

// appendItem appends the first made tokens of choice c.
func (v *generateVoice) appendItem(b []byte, c, made int, over bool) []byte {
	p, s := &v.plans[c], v.job.seqs[c/v.n]
	b = append(b, `{"text":`...)
	b = appendString(b, string(v.texts[c]))
	b = append(b, `,"output_ids":[`...)
	for i, w := range p.pieces[:made] {
		if i > 0 {
			b = append(b, ',')
		}
		// A vocabulary of 2^17 tokens, as models have.
		b = strconv.AppendUint(b, uint64(wordToken(w))>>47, 10)
	}
	b = append(b, `],"meta_info":{"id":`...)
	id := v.rid
	if id == "" {
		id = v.id("")
	}
	if !v.single {
		id += "_" + strconv.Itoa(c)
	}
	b = appendString(b, id)
	b = append(b, `,"finish_reason":`...)
	switch {
	case !over:
		b = append(b, "null"...)
	case p.cut:
		b = append(b, `{"type":"length","length":`...)
		b = strconv.AppendInt(b, int64(made), 10)
		b = append(b, '}')
	case p.stop != "":
		b = append(b, `{"type":"stop","matched":`...)
		b = appendString(b, p.stop)
		b = append(b, '}')
	default:
		b = append(b, `{"type":"stop","matched":2}`...) // the token that ends a text
	}
	b = append(b, `,"prompt_tokens":`...)
	b = strconv.AppendInt(b, int64(s.prompt), 10)
	b = append(b, `,"weight_version":"default","completion_tokens":`...)
	b = strconv.AppendInt(b, int64(made), 10)
	b = append(b, `,"cached_tokens":`...)
	b = strconv.AppendInt(b, int64(s.cached), 10)
	if over {
		b = append(b, `,"e2e_latency":`...)
		b = strconv.AppendFloat(b, time.Since(v.created).Seconds(), 'f', 6, 64)
	}
	b = append(b, '}')
	if !v.single {
		b = append(b, `,"index":`...)
		b = strconv.AppendInt(b, int64(c), 10)
	}
	return append(b, '}')
}

func (v *generateVoice) whole(b []byte) []byte {
	if !v.single {
		b = append(b, '[')
	}
	for c := range v.plans {
		if c > 0 {
			b = append(b, ',')
		}
		v.texts[c] = []byte(v.plans[c].text())
		b = v.appendItem(b, c, len(v.plans[c].pieces), true)
	}
	if !v.single {
		b = append(b, ']')
	}
	return b
}
