// Package tracefile reads traces: when requests came, how long they were, and
// what their prompts had in common.
//
// A trace is JSON lines, compressed with gzip or not. Its prompts are no text
// but ids of blocks, which stand for the same text wherever they occur. There
// are two forms, told apart by their first line. In Mooncake's a line is a
// request with a time. In that of sessions a line is a conversation, whose turns
// follow each other's answers.
package tracefile

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
	"slices"
	"time"
)

// Bounds of a trace, which is held in memory.
const (
	MaxTokens      = 1 << 22 // of one prompt or answer
	maxBlockTokens = 1 << 16
	maxLine        = 8 << 20 // bytes
	maxLines       = 1 << 22 // empty ones too
	maxRows        = 1 << 20 // requests, or turns in all sessions together
	maxIDs         = 1 << 24 // in all rows together: 128 MiB
	maxTime        = 1 << 53 // ms: a recording's are since 1970
	maxSpan        = 1 << 35 // ms from the first row to the last: over a year
	maxGap         = 1 << 20 // s
)

// DefaultBlockTokens is what an id stands for where the trace does not say it:
// what it is in Mooncake's traces.
const DefaultBlockTokens = 512

// A Trace is what a file holds: Rows or Sessions, and not both.
type Trace struct {
	BlockTokens int  // tokens that an id stands for; the last of a prompt may stand for fewer
	Told        bool // the file says so

	Rows     []Row // by time
	Sessions []Session

	Damage Damage
}

// Damage is what could not be read of a recording, and was left out. A disk that
// was full, or a crash, leaves parts of lines.
type Damage struct {
	Lines int   // how many
	First int   // the number of the first, from 1; 0 for none
	Err   error // what is wrong with that
}

// String says what was left out, "" if nothing was.
func (d Damage) String() string {
	switch d.Lines {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("line %d cannot be read and is left out: %v", d.First, d.Err)
	}
	return fmt.Sprintf("%d lines cannot be read and are left out; the first is line %d: %v", d.Lines, d.First, d.Err)
}

// A Row is one request.
type Row struct {
	At     time.Duration // after the first row
	Input  int           // tokens, at least 1
	Output int           // tokens
	Blocks []int64       // ids of the prompt's blocks; equal ids are equal text
}

// A Session is a conversation.
type Session []Turn

// A Turn is one request of a Session.
type Turn struct {
	Input  int           // tokens, at least 1
	Output int           // tokens
	Gap    time.Duration // from the end of its answer to the next turn
	Blocks []int64       // as in Row
}

// Load reads a file, which may be compressed with gzip.
func Load(path string) (*Trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening trace: %w", err)
	}
	defer f.Close()
	t, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("reading trace %s: %w", path, err)
	}
	return t, nil
}

// Read reads a trace, which may be compressed with gzip. What is wrong with it
// is told with the line.
//
// A line of Mooncake's form has timestamp (ms), input_length, output_length and,
// if it is known, hash_ids; a recording also has block_tokens, the same in every
// line. Lines may come in any order. Of a recording, lines that are no JSON are
// left out and told as Damage, unless they are more than the others. A line of sessions has turns, each with in,
// out, gap (s) and blocks, and perhaps block_tok. Empty lines are passed over,
// fields with other names too.
func Read(r io.Reader) (*Trace, error) {
	br := bufio.NewReader(r)
	if magic, _ := br.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(br)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errCut
		}
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return parse(z)
	}
	return parse(br)
}

var errCut = errors.New("the file is cut off: what gzip has compressed goes on")

// parse reads the lines of a trace.
func parse(r io.Reader) (*Trace, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxLine)
	p := &parser{trace: &Trace{BlockTokens: DefaultBlockTokens}}
	line := 0
	for sc.Scan() {
		if line++; line > maxLines {
			return nil, fmt.Errorf("line %d: a trace may have %d lines; cut it", line, maxLines)
		}
		if len(bytes.TrimSpace(sc.Bytes())) == 0 {
			continue
		}
		if err := p.line(sc.Bytes()); err != nil && !p.damaged(line, err) {
			return nil, p.fault(line, err)
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("line %d: %w", max(1, line), errCut)
		}
		if errors.Is(err, bufio.ErrTooLong) {
			return nil, fmt.Errorf("line %d: longer than %d bytes", line+1, maxLine)
		}
		return nil, fmt.Errorf("line %d: %w", line+1, err)
	}
	return p.done()
}

// A parser puts a Trace together.
type parser struct {
	trace *Trace
	times []float64 // of the rows, in ms
	lines int       // that were not empty
	rows  int
	ids   int
}

// fewBad is how many more bad lines than good ones are looked past.
const fewBad = 100

// damaged reports whether a line, with which err is wrong, may be part of one
// that somebody began to write. Whether it is one is only known in the end: the
// first line may be such a part.
func (p *parser) damaged(line int, err error) bool {
	d := &p.trace.Damage
	if _, ok := errors.AsType[*json.SyntaxError](err); !ok || d.Lines >= p.lines+fewBad {
		return false
	}
	if d.Lines++; d.First == 0 {
		d.First, d.Err = line, err
	}
	return true
}

// fault says what is wrong with a file that cannot be read because of a line: in
// what is no recording, a line above it is as much to blame.
func (p *parser) fault(line int, err error) error {
	if d := &p.trace.Damage; d.Lines > 0 && (!p.trace.Told || d.Lines > p.lines) {
		line, err = d.First, d.Err
	}
	return fmt.Errorf("line %d: %w", line, err)
}

// A line as it is written. Pointers tell what is missing from what is 0.
type line struct {
	Timestamp *float64 `json:"timestamp"`
	Input     *int64   `json:"input_length"`
	Output    *int64   `json:"output_length"`
	HashIDs   ids      `json:"hash_ids"`

	Turns *[]turn `json:"turns"`

	BlockTokens *int64 `json:"block_tokens"`
	BlockTok    *int64 `json:"block_tok"` // another name of it
}

type turn struct {
	Input  *int64  `json:"in"`
	Output *int64  `json:"out"`
	Gap    float64 `json:"gap"`
	Blocks ids     `json:"blocks"`
}

// line reads one line that is not empty.
func (p *parser) line(b []byte) error {
	var in line
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	if err := p.block(&in); err != nil {
		return err
	}
	p.lines++
	sessions := in.Turns != nil
	if p.lines > 1 && sessions != (p.trace.Sessions != nil) {
		return errors.New("the lines above are of another kind: requests with a timestamp, or sessions with turns")
	}
	if sessions {
		return p.session(*in.Turns)
	}
	return p.row(&in)
}

// block reads how many tokens an id stands for.
func (p *parser) block(in *line) error {
	n := in.BlockTokens
	if n == nil {
		n = in.BlockTok
	}
	t := p.trace
	switch {
	case n == nil && !t.Told:
		return nil
	case n == nil:
		return fmt.Errorf("block_tokens is missing; the lines above have %d", t.BlockTokens)
	case *n < 1 || *n > maxBlockTokens:
		return fmt.Errorf("block_tokens %d is not between 1 and %d", *n, maxBlockTokens)
	case p.lines > 0 && *n != int64(t.BlockTokens):
		return fmt.Errorf("block_tokens %d; the lines above have %d", *n, t.BlockTokens)
	}
	t.BlockTokens, t.Told = int(*n), true
	return nil
}

func (p *parser) row(in *line) error {
	switch {
	case in.Timestamp == nil || in.Input == nil || in.Output == nil:
		return errors.New("timestamp, input_length or output_length is missing")
	case *in.Timestamp < 0 || *in.Timestamp > maxTime:
		return fmt.Errorf("timestamp %v is not between 0 and %v ms", *in.Timestamp, float64(maxTime))
	}
	if err := p.count("input_length", *in.Input, "output_length", *in.Output, in.HashIDs); err != nil {
		return err
	}
	p.times = append(p.times, *in.Timestamp)
	p.trace.Rows = append(p.trace.Rows, Row{Input: int(*in.Input), Output: int(*in.Output), Blocks: in.HashIDs})
	return nil
}

func (p *parser) session(turns []turn) error {
	if len(turns) == 0 {
		return errors.New("a session has no turns")
	}
	s := make(Session, len(turns))
	for i, t := range turns {
		var err error
		switch {
		case t.Input == nil || t.Output == nil:
			err = errors.New("in or out is missing")
		case !(t.Gap >= 0 && t.Gap <= maxGap):
			err = fmt.Errorf("gap %v is not between 0 and %d s", t.Gap, maxGap)
		default:
			err = p.count("in", *t.Input, "out", *t.Output, t.Blocks)
		}
		if err != nil {
			return fmt.Errorf("turn %d: %w", i+1, err)
		}
		s[i] = Turn{Input: int(*t.Input), Output: int(*t.Output), Gap: time.Duration(t.Gap * float64(time.Second)), Blocks: t.Blocks}
	}
	p.trace.Sessions = append(p.trace.Sessions, s)
	return nil
}

// count holds a request to the bounds.
func (p *parser) count(in string, input int64, out string, output int64, ids ids) error {
	if p.rows++; p.rows > maxRows {
		return fmt.Errorf("a trace may have %d requests; cut it", maxRows)
	}
	if p.ids += len(ids); p.ids > maxIDs {
		return fmt.Errorf("a trace may have %d ids of blocks in all; cut it", maxIDs)
	}
	if input < 1 || input > MaxTokens {
		return fmt.Errorf("%s %d is not between 1 and %d", in, input, MaxTokens)
	}
	if output < 0 || output > MaxTokens {
		return fmt.Errorf("%s %d is not between 0 and %d", out, output, MaxTokens)
	}
	return nil
}

// done returns the Trace, its rows in the order of their times.
func (p *parser) done() (*Trace, error) {
	t := p.trace
	if d := &t.Damage; d.Lines > 0 {
		if recorded := t.Told && len(t.Rows) > 0; !recorded {
			return nil, p.fault(d.First, d.Err)
		}
		if d.Lines > p.lines {
			return nil, fmt.Errorf("line %d: %w (%d of %d lines cannot be read)", d.First, d.Err, d.Lines, d.Lines+p.lines)
		}
	}
	if p.rows == 0 {
		return nil, errors.New("it has no rows")
	}
	if len(t.Rows) == 0 {
		return t, nil
	}
	first := slices.Min(p.times)
	if span := slices.Max(p.times) - first; span > maxSpan {
		return nil, fmt.Errorf("from its first timestamp to its last it takes %v ms; want at most %d: cut it", span, int64(maxSpan))
	}
	for i, at := range p.times {
		t.Rows[i].At = time.Duration(math.Round((at - first) * float64(time.Millisecond)))
	}
	slices.SortStableFunc(t.Rows, func(a, b Row) int { return int(min(1, max(-1, a.At-b.At))) })
	return t, nil
}
