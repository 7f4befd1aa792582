package tracefile

import (
	"bytes"
	_ "embed"
	"fmt"
)

//go:embed testdata/mooncake.jsonl.gz
var sample []byte

// Sample returns the small trace that is built in: the first 400 requests of
// Mooncake's synthetic trace (github.com/kvcache-ai/Mooncake, Apache-2.0).
func Sample() (*Trace, error) {
	t, err := Read(bytes.NewReader(sample))
	if err != nil {
		return nil, fmt.Errorf("reading the built-in trace: %w", err)
	}
	return t, nil
}
