package sdk

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
)

var textChecks = []check{
	{"completions/unary", completionUnary},
	{"completions/stream", completionStream},
	{"completions/several prompts", completionBatch},
	{"embeddings/floats", embeddingFloats},
	{"embeddings/base64", embeddingBase64},
}

// continuing is a completion of one prompt.
func continuing(prompt string) openai.CompletionNewParams {
	return openai.CompletionNewParams{Model: model, Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String(prompt)}}
}

func completed(t *testing.T, f *fleet, p openai.CompletionNewParams) *openai.Completion {
	t.Helper()
	c, err := f.openai.Completions.New(within(t), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Choices) == 0 {
		t.Fatalf("no choices in %s", c.RawJSON())
	}
	return c
}

func completionUnary(t *testing.T, f *fleet) {
	p := continuing("once upon a time")
	p.MaxTokens = openai.Int(7)
	c := completed(t, f, p)
	if ch := c.Choices[0]; ch.Text == "" || ch.FinishReason != "length" || c.Model != model {
		t.Errorf("got %s", c.RawJSON())
	}
	if u := c.Usage; u.CompletionTokens != 7 || u.PromptTokens != 4 || u.TotalTokens != 11 {
		t.Errorf("the usage is %s", u.RawJSON())
	}
}

func completionStream(t *testing.T, f *fleet) {
	p := continuing("there was a program")
	want := completed(t, f, p)
	p.StreamOptions.IncludeUsage = openai.Bool(true)
	s := f.openai.Completions.NewStreaming(within(t), p)
	var text strings.Builder
	var usage openai.CompletionUsage
	var finish openai.CompletionChoiceFinishReason
	for s.Next() {
		c := s.Current()
		for _, ch := range c.Choices {
			text.WriteString(ch.Text)
			if ch.FinishReason != "" {
				finish = ch.FinishReason
			}
		}
		if c.Usage.TotalTokens > 0 {
			usage = c.Usage
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if text.String() != want.Choices[0].Text || finish != want.Choices[0].FinishReason {
		t.Errorf("streamed %q, %s; whole %q, %s", text.String(), finish, want.Choices[0].Text, want.Choices[0].FinishReason)
	}
	if usage.CompletionTokens != want.Usage.CompletionTokens || usage.PromptTokens != want.Usage.PromptTokens {
		t.Errorf("streamed usage %s, whole %s", usage.RawJSON(), want.Usage.RawJSON())
	}
}

func completionBatch(t *testing.T, f *fleet) {
	p := continuing("")
	p.Prompt = openai.CompletionNewParamsPromptUnion{OfArrayOfStrings: []string{"one", "two", "three"}}
	c := completed(t, f, p)
	if len(c.Choices) != 3 {
		t.Fatalf("three prompts, %d choices", len(c.Choices))
	}
	for i, ch := range c.Choices {
		if ch.Index != int64(i) || ch.Text == "" {
			t.Errorf("choice %d is %s", i, ch.RawJSON())
		}
	}
	p.Prompt = openai.CompletionNewParamsPromptUnion{OfArrayOfTokens: []int64{1, 2, 3, 4, 5}}
	if c := completed(t, f, p); c.Usage.PromptTokens != 5 {
		t.Errorf("five token ids are %d tokens", c.Usage.PromptTokens)
	}
}

// embedding wants vectors of several texts.
func embedding(texts ...string) openai.EmbeddingNewParams {
	return openai.EmbeddingNewParams{Model: model, Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: texts}}
}

func embedded(t *testing.T, f *fleet, p openai.EmbeddingNewParams, n int) []openai.Embedding {
	t.Helper()
	r, err := f.openai.Embeddings.New(within(t), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Data) != n || r.Model != model || r.Usage.PromptTokens == 0 {
		t.Fatalf("%d texts: got %d vectors: %.300s", n, len(r.Data), r.RawJSON())
	}
	for i, e := range r.Data {
		if e.Index != int64(i) {
			t.Errorf("vector %d says it is %d", i, e.Index)
		}
	}
	return r.Data
}

func embeddingFloats(t *testing.T, f *fleet) {
	p := embedding("a cat", "a dog")
	for _, dims := range []int{0, 3, 257} {
		if dims > 0 {
			p.Dimensions = openai.Int(int64(dims))
		}
		for _, e := range embedded(t, f, p, 2) {
			if dims > 0 && len(e.Embedding) != dims || len(e.Embedding) == 0 {
				t.Errorf("dimensions %d: got %d", dims, len(e.Embedding))
			}
			var sum float64
			for _, x := range e.Embedding {
				sum += x * x
			}
			if math.Abs(sum-1) > 1e-3 {
				t.Errorf("dimensions %d: the vector's length is %v, want 1", dims, math.Sqrt(sum))
			}
		}
	}
}

func embeddingBase64(t *testing.T, f *fleet) {
	p := embedding("a cat")
	p.Dimensions = openai.Int(16)
	want := embedded(t, f, p, 1)[0].Embedding
	p.EncodingFormat = openai.EmbeddingNewParamsEncodingFormatBase64
	var s string
	if err := json.Unmarshal([]byte(embedded(t, f, p, 1)[0].JSON.Embedding.Raw()), &s); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(raw) != 4*len(want) {
		t.Fatalf("%d bytes, %v; want %d floats of 4", len(raw), err, len(want))
	}
	for i, w := range want {
		if got := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])); got != float32(w) {
			t.Errorf("component %d is %v in base64 and %v in JSON", i, got, w)
		}
	}
}
