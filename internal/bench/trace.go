package bench

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"
)

// Bounds of a trace, which is held in memory while it is sent.
const (
	maxTraceLine = 8 << 20 // bytes
	maxTraceRows = 1 << 20
	maxTraceIDs  = 1 << 24 // in all rows together: 128 MiB
)

// A row is one request of a trace.
type row struct {
	At     time.Duration // after the first row
	Input  int           // tokens
	Output int           // tokens
	Blocks []int64       // ids of the prompt's blocks; equal ids are equal text
}

// loadTrace reads a trace file, which may be compressed with gzip.
func loadTrace(path string) ([]row, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening trace: %w", err)
	}
	defer f.Close()
	br := bufio.NewReader(f)
	var r io.Reader = br
	if magic, _ := br.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("reading trace %s: %w", path, err)
		}
		defer z.Close()
		r = z
	}
	rows, err := parseTrace(r)
	if err != nil {
		return nil, fmt.Errorf("reading trace %s: %w", path, err)
	}
	return rows, nil
}

// parseTrace reads a trace in Mooncake's form: a JSON object a line with
// timestamp (ms), input_length, output_length and hash_ids. Rows must be in the
// order of their timestamps. Empty lines are passed over, unknown fields too.
func parseTrace(r io.Reader) ([]row, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxTraceLine)
	var (
		rows    []row
		ids     int
		first   float64
		lastRow float64
		line    int
	)
	for sc.Scan() {
		line++
		if len(bytes.TrimSpace(sc.Bytes())) == 0 {
			continue
		}
		var in struct {
			Timestamp *float64 `json:"timestamp"`
			Input     *int64   `json:"input_length"`
			Output    *int64   `json:"output_length"`
			Blocks    []int64  `json:"hash_ids"`
		}
		if err := json.Unmarshal(sc.Bytes(), &in); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		switch {
		case in.Timestamp == nil || in.Input == nil || in.Output == nil:
			return nil, fmt.Errorf("line %d: timestamp, input_length or output_length is missing", line)
		case *in.Timestamp < 0 || *in.Timestamp > maxTraceTime:
			return nil, fmt.Errorf("line %d: timestamp %v is not between 0 and %v ms", line, *in.Timestamp, float64(maxTraceTime))
		case *in.Input < 1 || *in.Input > maxTokens:
			return nil, fmt.Errorf("line %d: input_length %d is not between 1 and %d", line, *in.Input, maxTokens)
		case *in.Output < 0 || *in.Output > maxTokens:
			return nil, fmt.Errorf("line %d: output_length %d is not between 0 and %d", line, *in.Output, maxTokens)
		case len(rows) > 0 && *in.Timestamp < lastRow:
			return nil, fmt.Errorf("line %d: timestamp %v is before the line above's %v; sort the trace", line, *in.Timestamp, lastRow)
		case len(rows) == maxTraceRows:
			return nil, fmt.Errorf("line %d: a trace may have %d rows; cut it", line, maxTraceRows)
		}
		if ids += len(in.Blocks); ids > maxTraceIDs {
			return nil, fmt.Errorf("line %d: a trace may have %d hash_ids in all; cut it", line, maxTraceIDs)
		}
		if len(rows) == 0 {
			first = *in.Timestamp
		}
		lastRow = *in.Timestamp
		at := time.Duration(math.Round((lastRow - first) * float64(time.Millisecond)))
		rows = append(rows, row{At: at, Input: int(*in.Input), Output: int(*in.Output), Blocks: in.Blocks})
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return nil, fmt.Errorf("line %d: longer than %d bytes", line+1, maxTraceLine)
		}
		return nil, fmt.Errorf("line %d: %w", line+1, err)
	}
	if len(rows) == 0 {
		return nil, errors.New("it has no rows")
	}
	return rows, nil
}

// maxTraceTime is the latest timestamp in ms: over a year.
const maxTraceTime = 1 << 35
