package relay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/peek"
)

// maxRanked bounds a list of results: it holds the documents that were sent.
const maxRanked = 64 << 20

var rerankKeys = peek.NewKeys("top_k", "return_documents", "rid")

// rerank passes on an answer to /v1/rerank. SGLang answers with a bare array
// of results; clients of the reference get it wrapped, cut at top_k, and
// without documents if they asked for none. An answer that is an object
// already, as vLLM's, passes as it is. The results' own bytes are kept.
func (c *call) rerank(body []byte) error {
	if t := bytes.TrimLeft(body, " \t\r\n"); len(t) > 0 && t[0] == '[' {
		var err error
		if body, err = wrap(c.r, body); err != nil {
			return unwrappable(err)
		}
	}
	c.length = int64(len(body))
	return c.send(body)
}

// unwrappable is the error of an answer that is no list of results.
func unwrappable(err error) error {
	return &infer.Error{Status: http.StatusBadGateway, Code: "rerank_response_build_failed", Msg: "The worker's answer is not a list of results.", Retry: true, Err: err}
}

func wrap(r *infer.Request, body []byte) ([]byte, error) {
	var results []json.RawMessage
	if err := json.Unmarshal(body, &results); err != nil {
		return nil, fmt.Errorf("reading results: %w", err)
	}
	var got [3]peek.Value
	if err := peek.Object(r.Body, rerankKeys, got[:]); err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	raw := func(i int) []byte { return r.Body[got[i].Start:got[i].End] }
	if k := 0; got[0].Kind == peek.Number && json.Unmarshal(raw(0), &k) == nil && k >= 0 {
		results = results[:min(k, len(results))]
	}
	if string(raw(1)) == "false" {
		for i, one := range results {
			results[i] = withoutDocument(one)
		}
	}
	id := []byte("null")
	if got[2].Kind == peek.String {
		id = raw(2)
	}
	model, err := json.Marshal(r.Model)
	if err != nil {
		return nil, err
	}
	list := append([]byte{'['}, bytes.Join(asBytes(results), []byte(","))...)
	list = append(list, ']')
	return fmt.Appendf(nil, `{"results":%s,"model":%s,"usage":null,"object":"rerank","id":%s,"created":%d}`, list, model, id, time.Now().Unix()), nil
}

// asBytes is results for bytes.Join; encoding them again would change their
// bytes.
func asBytes(results []json.RawMessage) [][]byte {
	bs := make([][]byte, len(results))
	for i, one := range results {
		bs[i] = one
	}
	return bs
}

var documentKey = peek.NewKeys("document")

// withoutDocument nulls a result's document and keeps its other bytes.
func withoutDocument(one json.RawMessage) json.RawMessage {
	var got [1]peek.Value
	if err := peek.Object(one, documentKey, got[:]); err != nil || got[0].Kind == peek.Absent {
		return one
	}
	out := append(json.RawMessage{}, one[:got[0].Start]...)
	out = append(out, "null"...)
	return append(out, one[got[0].End:]...)
}
