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
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/peek"
)

// Bounds of a file of sessions, which is held in memory.
const (
	maxSessionLine     = 8 << 20   // bytes
	maxSessionBytes    = 512 << 20 // of all lines, uncompressed
	maxSessions        = 1 << 16
	maxSessionMessages = 1 << 12 // in one session
)

// A script is recorded conversations, to be played with a server.
type script struct {
	tools    []byte // JSON; nil for none
	sessions []session
}

// A session is one conversation.
type session struct {
	messages [][]byte // JSON, as they are in the file
	turns    []turn   // never empty

	// mark is where text can be put that makes the session another one: in
	// messages[mark], from byte markAt on. It is the first user's message, so
	// what all sessions begin with stays the same.
	mark, markAt int
}

// A turn is one request of a session: its messages before an answer.
type turn struct {
	messages int  // from the first on
	output   int  // tokens that the recorded answer has, about
	tool     bool // the last message is a tool's result
}

// loadScript reads a file of sessions, which may be compressed with gzip.
func loadScript(path string) (*script, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening sessions: %w", err)
	}
	defer f.Close()
	br := bufio.NewReader(f)
	var r io.Reader = br
	if magic, _ := br.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("reading sessions %s: %w", path, err)
		}
		defer z.Close()
		r = z
	}
	s, err := parseScript(r)
	if err != nil {
		return nil, fmt.Errorf("reading sessions %s: %w", path, err)
	}
	return s, nil
}

// parseScript reads JSON lines: the first may have "tools", which all sessions
// have; each other one has "messages" as chat completions have them. Before
// each message of the assistant is a turn. Empty lines are passed over, unknown
// fields too.
func parseScript(r io.Reader) (*script, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxSessionLine)
	s := &script{}
	line, size := 0, 0
	for sc.Scan() {
		line++
		if size += len(sc.Bytes()); size > maxSessionBytes {
			return nil, fmt.Errorf("line %d: all sessions together may have %d bytes; cut the file", line, maxSessionBytes)
		}
		if len(bytes.TrimSpace(sc.Bytes())) == 0 {
			continue
		}
		if err := s.add(sc.Bytes()); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
	}
	switch err := sc.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d: longer than %d bytes", line+1, maxSessionLine)
	case err != nil:
		return nil, fmt.Errorf("line %d: %w", line+1, err)
	case len(s.sessions) == 0:
		return nil, errors.New("it has no sessions")
	}
	return s, nil
}

// add reads one line.
func (s *script) add(line []byte) error {
	var in struct {
		Tools    json.RawMessage   `json:"tools"`
		Messages []json.RawMessage `json:"messages"`
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return err
	}
	switch {
	case in.Messages == nil && in.Tools == nil:
		return errors.New("there are neither messages nor tools")
	case in.Messages == nil:
		if s.tools != nil || len(s.sessions) > 0 {
			return errors.New("tools stand in the first line, for all sessions")
		}
		if in.Tools[0] != '[' {
			return errors.New("tools must be an array")
		}
		s.tools = in.Tools
		return nil
	case in.Tools != nil:
		return errors.New("tools and messages in one line; tools stand in the first, alone, for all sessions")
	case len(s.sessions) == maxSessions:
		return fmt.Errorf("there may be %d sessions; cut the file", maxSessions)
	case len(in.Messages) > maxSessionMessages:
		return fmt.Errorf("a session may have %d messages, this one has %d", maxSessionMessages, len(in.Messages))
	}
	one, err := newSession(in.Messages)
	if err != nil {
		return err
	}
	s.sessions = append(s.sessions, one)
	return nil
}

var messageKeys = peek.NewKeys("role", "content")

func newSession(messages []json.RawMessage) (session, error) {
	s := session{mark: -1}
	tool := false
	for i, raw := range messages {
		var at [2]peek.Value
		if err := peek.Object(raw, messageKeys, at[:]); err != nil {
			return s, fmt.Errorf("messages[%d]: %w", i, err)
		}
		role, ok := peek.StringValue(raw[at[0].Start:at[0].End])
		if !ok {
			return s, fmt.Errorf("messages[%d] has no role", i)
		}
		if role == "assistant" && i > 0 {
			text := len(peek.AppendText(nil, raw)) - len(role)
			s.turns = append(s.turns, turn{messages: i, output: min(max(text/wordLen, 1), maxTokens), tool: tool})
		}
		if role == "user" && s.mark < 0 && at[1].Kind == peek.String {
			s.mark, s.markAt = i, at[1].Start+1
		}
		tool = role == "tool" || role == "function"
		s.messages = append(s.messages, raw)
	}
	if len(s.turns) == 0 {
		return s, errors.New("no message of the assistant follows another message, so there is no turn")
	}
	return s, nil
}

// body returns a new request body for turn k of s, with mark in it. It belongs
// to the request alone.
func (s *session) body(t *template, tools []byte, k int, mark string, output int) []byte {
	last := s.turns[k].messages
	size := len(t.open) + len(tools) + len(mark) + 96
	for _, m := range s.messages[:last] {
		size += len(m) + 1
	}
	b := append(make([]byte, 0, size), t.open...)
	for i, m := range s.messages[:last] {
		if i > 0 {
			b = append(b, ',')
		}
		if i == s.mark {
			b = append(b, m[:s.markAt]...)
			b = append(b, mark...)
			m = m[s.markAt:]
		}
		b = append(b, m...)
	}
	b = append(b, ']')
	if tools != nil {
		b = append(b, `,"tools":`...)
		b = append(b, tools...)
	}
	b = append(b, t.maxOpen...)
	b = strconv.AppendInt(b, int64(output), 10)
	return append(b, t.close...)
}

// A player plays sessions. It is constant.
type player struct {
	script   *script
	turns    int // of a session at most; 0 for all
	output   int // tokens to ask for; 0 for what was recorded
	seed     int64
	user     time.Duration // median of the gap before a turn that a user begins
	tool     time.Duration // and of one that a tool does
	scale    float64
	once     bool // each session is played once
	template template
}

func newPlayer(c Config, s *script) *player {
	return &player{
		script: s, turns: c.MaxTurns, output: c.OutputTokens, seed: c.Seed, user: c.UserGap, tool: c.ToolGap, scale: c.GapScale,
		once: c.Duration == 0 && c.Requests == 0, template: newTemplate(c, infer.Chat),
	}
}

// has reports whether there is a session i of the run.
func (p *player) has(i uint64) bool { return !p.once || i < uint64(len(p.script.sessions)) }

// A play is one session of the run.
type play struct {
	*player
	*session
	mark string
	rng  *rand.Rand
}

// play returns session i of the run. No two begin alike for longer than the
// recorded ones do, nor do those of runs with other seeds.
func (p *player) play(i uint64) play {
	rng := rand.New(rand.NewPCG(uint64(p.seed)^ofSession<<56, i))
	s := &p.script.sessions[i%uint64(len(p.script.sessions))]
	return play{player: p, session: s, rng: rng, mark: fmt.Sprintf("(call %08x) ", rng.Uint32())}
}

// length is how many turns it has.
func (p *play) length() int {
	if n := len(p.session.turns); p.player.turns == 0 || n < p.player.turns {
		return n
	}
	return p.player.turns
}

// gapSpread is the deviation of a gap's logarithm: one in six is 1.8 times the
// median or longer.
const gapSpread = 0.6

// gap draws the time between the end of turn k-1 and the beginning of turn k.
func (p *play) gap(k int) time.Duration {
	median := p.user
	if p.session.turns[k].tool {
		median = p.tool
	}
	d := float64(median) * p.scale * math.Exp(gapSpread*p.rng.NormFloat64())
	return time.Duration(min(d, float64(longest)))
}

func (p *play) next(k int) []byte {
	output := p.output
	if output == 0 {
		output = p.session.turns[k].output
	}
	return p.session.body(&p.template, p.script.tools, k, p.mark, output)
}
