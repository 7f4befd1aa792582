package mock

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strconv"
)

// quiet is a voice that has no stream.
type quiet struct{ *answer }

func (quiet) start(*events)           {}
func (quiet) piece(*events, int, int) {}
func (quiet) endChoice(*events, int)  {}
func (quiet) finish(*events)          {}

// caller is what bodies that want no words have in common.
type caller struct {
	Model    string          `json:"model"`
	User     string          `json:"user"`
	Metadata json.RawMessage `json:"metadata"`
	RID      oneOrMore       `json:"rid"`
}

// ask begins an ask that only reads.
func (c *caller) ask() *ask {
	a := &ask{model: c.Model, n: 1, limit: readOnly, fault: bodyFault(c.User, c.Metadata)}
	if len(c.RID) > 0 {
		a.rid = c.RID[0]
	}
	return a
}

type embeddingBody struct {
	caller
	Input      inputs `json:"input"`
	Format     string `json:"encoding_format"`
	Dimensions *int   `json:"dimensions"`
}

func readEmbeddings(e *Engine, body []byte) (*ask, *refusal) {
	var b embeddingBody
	if f := decode(body, &b); f != nil {
		return nil, f
	}
	a := b.ask()
	a.dims = e.cfg.EmbeddingSize
	if b.Dimensions != nil {
		a.dims = *b.Dimensions
	}
	if a.dims < 1 || a.dims > maxDimensions {
		return a, refuse("dimensions", "dimensions must be between 1 and %d, got %d.", maxDimensions, a.dims)
	}
	switch b.Format {
	case "base64":
		a.base64 = true
	case "", "float":
	default:
		return a, refuse("encoding_format", "encoding_format %q is neither float nor base64.", b.Format)
	}
	return a, b.Input.fill(a, "input")
}

// vector returns a unit vector that depends on which words there are, so that
// texts that share words lie close together.
func vector(ts []token, dims int) []float64 {
	v := make([]float64, dims)
	for _, t := range ts {
		d := dice(t)
		for i := range v {
			v[i] += d.unit() - 0.5
		}
	}
	var sum float64
	for _, x := range v {
		sum += x * x
	}
	norm := math.Sqrt(sum)
	for i := range v {
		v[i] /= norm
	}
	return v
}

// cosine compares unit vectors.
func cosine(a, b []float64) float64 {
	var sum float64
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

type embeddingVoice struct{ quiet }

func newEmbeddingVoice(a *answer) voice { return embeddingVoice{quiet{a}} }

func (v embeddingVoice) whole(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, v.id("embd-")...)
	b = append(b, `","object":"list","created":`...)
	b = strconv.AppendInt(b, v.created.Unix(), 10)
	b = append(b, `,"model":`...)
	b = appendString(b, v.model)
	b = append(b, `,"data":[`...)
	for i, ts := range v.prompts {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"object":"embedding","index":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, `,"embedding":`...)
		b = appendVector(b, vector(ts, v.dims), v.base64)
		b = append(b, '}')
	}
	b = append(b, `],"usage":`...)
	b = v.appendUsage(b, v.full())
	return append(b, '}')
}

// appendVector appends v as JSON numbers, or as base64 of 32-bit floats, least
// significant byte first.
func appendVector(b []byte, v []float64, encoded bool) []byte {
	if encoded {
		raw := make([]byte, 0, 4*len(v))
		for _, x := range v {
			u := math.Float32bits(float32(x))
			raw = append(raw, byte(u), byte(u>>8), byte(u>>16), byte(u>>24))
		}
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, raw)
		return append(b, '"')
	}
	b = append(b, '[')
	for i, x := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, x, 'g', -1, 32)
	}
	return append(b, ']')
}

type classifyBody struct {
	caller
	Input inputs `json:"input"`
}

func readClassify(_ *Engine, body []byte) (*ask, *refusal) {
	var b classifyBody
	if f := decode(body, &b); f != nil {
		return nil, f
	}
	a := b.ask()
	return a, b.Input.fill(a, "input")
}

type classVoice struct{ quiet }

func newClassVoice(a *answer) voice { return classVoice{quiet{a}} }

// classes is how many a text may belong to.
const classes = 2

func (v classVoice) whole(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, v.id("classify-")...)
	b = append(b, `","object":"list","created":`...)
	b = strconv.AppendInt(b, v.created.Unix(), 10)
	b = append(b, `,"model":`...)
	b = appendString(b, v.model)
	b = append(b, `,"data":[`...)
	for i, ts := range v.prompts {
		if i > 0 {
			b = append(b, ',')
		}
		d := dice(seedOf(ts, classes))
		first := d.unit()
		label := "LABEL_0"
		if first < 0.5 {
			label = "LABEL_1"
		}
		b = append(b, `{"index":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, `,"label":"`...)
		b = append(b, label...)
		b = append(b, `","probs":[`...)
		b = strconv.AppendFloat(b, first, 'f', 6, 64)
		b = append(b, ',')
		b = strconv.AppendFloat(b, 1-first, 'f', 6, 64)
		b = append(b, `],"num_classes":`...)
		b = strconv.AppendInt(b, classes, 10)
		b = append(b, '}')
	}
	b = append(b, `],"usage":`...)
	b = v.appendUsage(b, v.full())
	return append(b, '}')
}

type rerankBody struct {
	caller
	Query     string    `json:"query"`
	Documents oneOrMore `json:"documents"`
	Top       *int      `json:"top_n"`
	TopK      *int      `json:"top_k"`
	Return    *bool     `json:"return_documents"`
}

func readRerank(_ *Engine, body []byte) (*ask, *refusal) {
	var b rerankBody
	if f := decode(body, &b); f != nil {
		return nil, f
	}
	a := b.ask()
	if b.Query == "" {
		return a, refuse("query", "query is required and must not be empty.")
	}
	if len(b.Documents) == 0 || len(b.Documents) > maxPrompts {
		return a, refuse("documents", "documents must have between 1 and %d entries, got %d.", maxPrompts, len(b.Documents))
	}
	if b.Top == nil {
		b.Top = b.TopK
	}
	if b.Top != nil {
		if *b.Top < 1 {
			return a, refuse("top_n", "top_n must be at least 1, got %d.", *b.Top)
		}
		a.top = *b.Top
	}
	a.query, a.texts, a.documents = b.Query, b.Documents, b.Return == nil || *b.Return
	for _, d := range b.Documents {
		a.prompts = append(a.prompts, appendTokens(appendTokens(nil, b.Query), d))
	}
	return a, nil
}

// A rank is a document and how well it fits the query, 0 to 1.
type rank struct {
	document int
	score    float64
}

// ranks returns the documents, the best first.
func (a *ask) ranks() []rank {
	q := vector(appendTokens([]token{0}, a.query), rankDimensions)
	rs := make([]rank, len(a.texts))
	for i, d := range a.texts {
		rs[i] = rank{i, (1 + cosine(q, vector(appendTokens([]token{0}, d), rankDimensions))) / 2}
	}
	slices.SortStableFunc(rs, func(x, y rank) int {
		switch {
		case x.score > y.score:
			return -1
		case x.score < y.score:
			return 1
		}
		return 0
	})
	if a.top > 0 && a.top < len(rs) {
		rs = rs[:a.top]
	}
	return rs
}

// rankDimensions are enough to tell texts apart.
const rankDimensions = 64

type rerankVoice struct{ quiet }

func newRerankVoice(a *answer) voice { return rerankVoice{quiet{a}} }

func (v rerankVoice) whole(b []byte) []byte {
	if v.engine == SGLang {
		return v.wholeSGLang(b)
	}
	b = append(b, `{"id":"`...)
	b = append(b, v.id("rerank-")...)
	b = append(b, `","object":"list","model":`...)
	b = appendString(b, v.model)
	b = append(b, `,"usage":`...)
	b = v.appendUsage(b, v.full())
	b = append(b, `,"results":[`...)
	for i, r := range v.ranks() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"index":`...)
		b = strconv.AppendInt(b, int64(r.document), 10)
		if v.documents && v.engine == VLLM {
			b = append(b, `,"document":{"text":`...)
			b = appendString(b, v.texts[r.document])
			b = append(b, '}')
		}
		b = append(b, `,"relevance_score":`...)
		b = strconv.AppendFloat(b, r.score, 'f', 6, 64)
		b = append(b, '}')
	}
	return append(b, `]}`...)
}

func (v rerankVoice) wholeSGLang(b []byte) []byte {
	b = append(b, '[')
	for i, r := range v.ranks() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"score":`...)
		b = strconv.AppendFloat(b, r.score, 'f', 6, 64)
		if v.documents {
			b = append(b, `,"document":`...)
			b = appendString(b, v.texts[r.document])
		}
		b = append(b, `,"index":`...)
		b = strconv.AppendInt(b, int64(r.document), 10)
		b = append(b, `,"meta_info":{"id":"`...)
		b = append(b, v.id("")...)
		b = append(b, `","prompt_tokens":`...)
		b = strconv.AppendInt(b, int64(v.job.seqs[r.document].prompt), 10)
		b = append(b, `}}`...)
	}
	return append(b, ']')
}
