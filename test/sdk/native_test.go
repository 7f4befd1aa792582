package sdk

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// nativeChecks are calls that no official SDK has.
var nativeChecks = []check{
	{"generate/unary", generateUnary},
	{"generate/stream", generateStream},
	{"rerank", rerank},
	{"classify", classify},
}

// generated is an answer of SGLang's own API.
type generated struct {
	Text      string  `json:"text"`
	OutputIDs []int64 `json:"output_ids"`
	Meta      struct {
		ID               string `json:"id"`
		PromptTokens     int    `json:"prompt_tokens"`
		CompletionTokens int    `json:"completion_tokens"`
		FinishReason     *struct {
			Type string `json:"type"`
		} `json:"finish_reason"`
	} `json:"meta_info"`
}

// ok posts body and reads the answer into v.
func ok(t *testing.T, url, body string, v any) {
	t.Helper()
	res, answer := post(t, url, body)
	if res.StatusCode != 200 {
		t.Fatalf("%s: %d %s", body, res.StatusCode, answer)
	}
	if err := json.Unmarshal([]byte(answer), v); err != nil {
		t.Fatalf("%s: %v in %s", body, err, answer)
	}
}

func generateUnary(t *testing.T, f *fleet) {
	var one generated
	ok(t, f.gateway.URL+"/generate", `{"model":"m","text":"a b c","rid":"my-rid","sampling_params":{"max_new_tokens":6}}`, &one)
	if m := one.Meta; one.Text == "" || len(one.OutputIDs) != 6 || m.ID != "my-rid" || m.PromptTokens != 3 || m.CompletionTokens != 6 || m.FinishReason == nil || m.FinishReason.Type != "length" {
		t.Errorf("got %+v", one)
	}
	var list []generated
	ok(t, f.gateway.URL+"/generate", `{"model":"m","text":["a b c","d"],"sampling_params":{"max_new_tokens":6}}`, &list)
	if len(list) != 2 || list[0].Text != one.Text {
		t.Errorf("two texts: got %+v", list)
	}
	// Which of the fleet's models is meant cannot be guessed.
	res, answer := post(t, f.gateway.URL+"/generate", `{"text":"a b c"}`)
	if res.StatusCode != 400 || !strings.Contains(answer, `"missing_model"`) {
		t.Errorf("no model of two: got %d %s", res.StatusCode, answer)
	}
}

func generateStream(t *testing.T, f *fleet) {
	var whole generated
	ok(t, f.gateway.URL+"/generate", `{"model":"m","text":"a stream"}`, &whole)
	res, answer := post(t, f.gateway.URL+"/generate", `{"model":"m","text":"a stream","stream":true}`)
	if ct := res.Header.Get("Content-Type"); res.StatusCode != 200 || !strings.HasPrefix(ct, "text/event-stream") {
		t.Fatalf("got %d %s", res.StatusCode, ct)
	}
	events := strings.Split(strings.TrimSuffix(answer, "\n\n"), "\n\n")
	if n := len(events); n < 3 || events[n-1] != "data: [DONE]" {
		t.Fatalf("got the events %q", events)
	}
	before := ""
	for _, e := range events[:len(events)-1] {
		var g generated
		if err := json.Unmarshal([]byte(strings.TrimPrefix(e, "data: ")), &g); err != nil {
			t.Fatalf("%v in %s", err, e)
		}
		if !strings.HasPrefix(g.Text, before) {
			t.Errorf("%q after %q: the text does not grow", g.Text, before)
		}
		before = g.Text
	}
	if before != whole.Text {
		t.Errorf("streamed %q, whole %q", before, whole.Text)
	}
}

// ranked is an answer to a rerank, as the reference and vLLM have it.
type ranked struct {
	Model   string `json:"model"`
	Object  string `json:"object"`
	Results []struct {
		Index    int             `json:"index"`
		Score    *float64        `json:"score"`           // SGLang
		Rel      *float64        `json:"relevance_score"` // vLLM, llama.cpp
		Document json.RawMessage `json:"document"`
	} `json:"results"`
}

func rerank(t *testing.T, f *fleet) {
	const ask = `"query":"a small cat","documents":["a large dog","a small cat","one cat"]}`
	for _, path := range []string{"/v1/rerank", "/rerank"} {
		var all ranked
		ok(t, f.gateway.URL+path, `{"model":"m",`+ask, &all)
		var order []int
		for i, r := range all.Results {
			order = append(order, r.Index)
			score := r.Rel
			if f.make == "sglang" {
				score = r.Score
			}
			if score == nil {
				t.Fatalf("%s: result %d has no score: %+v", path, i, r)
			}
		}
		slices.Sort(order)
		if all.Model != "m" || !slices.Equal(order, []int{0, 1, 2}) || all.Results[0].Index != 1 {
			t.Errorf("%s: got %+v, want three results, the second document first", path, all)
		}
		var top ranked
		ok(t, f.gateway.URL+path, `{"model":"m","top_k":2,"return_documents":false,`+ask, &top)
		if len(top.Results) != 2 || top.Results[0].Index != 1 {
			t.Errorf("%s: top_k 2: got %+v", path, top)
		}
		for _, r := range top.Results {
			if d := string(r.Document); d != "" && d != "null" {
				t.Errorf("%s: return_documents false: got the document %s", path, d)
			}
		}
		if d := string(all.Results[0].Document); f.make == "sglang" && (d != `"a small cat"` || all.Object != "rerank") {
			t.Errorf("%s: got %s with the document %s", path, all.Object, d)
		}
	}
}

func classify(t *testing.T, f *fleet) {
	var c struct {
		Model string `json:"model"`
		Data  []struct {
			Index int       `json:"index"`
			Label string    `json:"label"`
			Probs []float64 `json:"probs"`
		} `json:"data"`
	}
	ok(t, f.gateway.URL+"/v1/classify", `{"model":"m","input":["good","bad"]}`, &c)
	if c.Model != "m" || len(c.Data) != 2 {
		t.Fatalf("got %+v", c)
	}
	for i, d := range c.Data {
		if d.Index != i || d.Label == "" || len(d.Probs) == 0 {
			t.Errorf("text %d: got %+v", i, d)
		}
	}
}
