package policy

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/blocks"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/peek"
)

// A tauSession is a recorded conversation of an agent with tools and a user.
type tauSession struct {
	Messages []json.RawMessage `json:"messages"`

	turns []int // how many messages each request has
	next  int   // of turns
	last  *fleet.Worker
	had   int // blocks of the last request
}

func tauSessions(t *testing.T) (tools []byte, ss []*tauSession) {
	t.Helper()
	f, err := os.Open("testdata/tau_airline.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if tools == nil {
			var head struct{ Tools json.RawMessage }
			if err := json.Unmarshal(lines.Bytes(), &head); err != nil {
				t.Fatal(err)
			}
			tools = head.Tools
			continue
		}
		s := new(tauSession)
		if err := json.Unmarshal(lines.Bytes(), s); err != nil {
			t.Fatal(err)
		}
		for i, raw := range s.Messages {
			var m struct{ Role string }
			if err := json.Unmarshal(raw, &m); err != nil {
				t.Fatal(err)
			}
			if m.Role == "assistant" {
				s.turns = append(s.turns, i)
			}
		}
		ss = append(ss, s)
	}
	if err := lines.Err(); err != nil || len(ss) == 0 {
		t.Fatalf("%d sessions: %v", len(ss), err)
	}
	return tools, ss
}

// request returns the session's next request, as the server reads it.
func (s *tauSession) request(tools []byte, now time.Time) *infer.Request {
	r := &infer.Request{Endpoint: infer.Chat, Model: "m", Received: now, Extract: peek.AppendText}
	r.Body = append(append(r.Body, `{"model":"m","tools":`...), tools...)
	r.TextAt[0] = infer.Span{Start: len(r.Body) - len(tools), End: len(r.Body)}
	r.Body = append(r.Body, `,"messages":[`...)
	start := len(r.Body) - 1
	for i, m := range s.Messages[:s.turns[s.next]] {
		if i > 0 {
			r.Body = append(r.Body, ',')
		}
		r.Body = append(r.Body, m...)
	}
	r.Body = append(r.Body, "]}"...)
	r.TextAt[1] = infer.Span{Start: start, End: len(r.Body) - 1}
	return r
}

// A tauCall is a request that is with a worker.
type tauCall struct {
	s       *tauSession
	w       *fleet.Worker
	c       Choice
	lease   fleet.Lease
	begins  time.Duration
	ends    time.Duration
	begun   bool
	in, out int64
}

// TestAgentsStayWithoutAHeader plays recorded sessions of agents, all with one
// system prompt and none with a session's name, on a fleet that is busy: the next
// turn goes where the last one was, unless that worker has so much more to compute
// that another is done sooner although it has to begin at the beginning.
func TestAgentsStayWithoutAHeader(t *testing.T) {
	tools, sessions := tauSessions(t)
	ws := workers(t, 6)
	dice := rand.New(rand.NewPCG(5, 5))
	settings := DefaultSettings()
	settings.Rand = dice.Uint32
	p := newCost(settings).Bind(ws).(*costPicker)
	epoch := time.Unix(2_000_000_000, 0)
	now := time.Duration(0)
	starts := make(map[*tauSession]time.Duration) // when each wants to go on
	for i, s := range sessions {
		starts[s] = time.Duration(i) * 100 * time.Millisecond
	}
	free := make(map[*fleet.Worker]time.Duration) // when it has computed all prompts
	var calls []*tauCall
	turns, stayed, moved, whole, hits := 0, 0, 0, 0, 0
	for len(starts)+len(calls) > 0 {
		now += 20 * time.Millisecond
		calls = advanceTau(t, p, calls, now, epoch, func(k *tauCall) {
			if k.s.next++; k.s.next < len(k.s.turns) {
				starts[k.s] = now + time.Duration(dice.ExpFloat64()*float64(time.Second))
			}
		})
		for _, s := range sessions {
			if at, ok := starts[s]; !ok || at > now {
				continue
			}
			delete(starts, s)
			r := s.request(tools, epoch.Add(now))
			k := &tauCall{s: s}
			k.w = p.Pick(r, &k.c)
			if s.last != nil {
				turns++
				switch c := &k.c; {
				case k.w == s.last:
					stayed++
					if c.Hit < c.Blocks/2 {
						t.Errorf("turn %d has %d of %d blocks where it was", s.next, c.Hit, c.Blocks)
					}
				case p.burden(s.last)-p.burden(k.w) >= float64(s.had-c.Hit)*blocks.Size/4:
					moved++
				default:
					t.Errorf("turn %d left a worker with %.0f to do for one with %.0f, which has %d of %d blocks", s.next, p.burden(s.last), p.burden(k.w), c.Hit, s.had)
				}
				whole, hits = whole+k.c.Blocks, hits+k.c.Hit
			}
			k.lease, _ = k.w.Acquire(epoch.Add(now))
			p.Sent(r, k.w, &k.c)
			k.lease.Charge(k.c.Uncached, k.c.Prompt)
			// 1,500 tokens a second, one prompt after another; then 40 a second.
			free[k.w] = max(free[k.w], now) + time.Duration(k.c.Uncached)*time.Second/1500
			k.in, k.out = k.c.Prompt, 20+dice.Int64N(120)
			k.begins = free[k.w]
			k.ends = k.begins + time.Duration(k.out)*time.Second/40
			s.last, s.had = k.w, k.c.Blocks
			r.DropText()
			calls = append(calls, k)
		}
	}
	t.Logf("%d turns: %d stayed, %d moved off a busy worker; %d of %d blocks were there", turns, stayed, moved, hits, whole)
	if stayed < turns*9/10 {
		t.Errorf("%d of %d turns stayed, want nine of ten", stayed, turns)
	}
	if hits < whole*85/100 {
		t.Errorf("%d of %d blocks were there, want most", hits, whole)
	}
	used := make(map[*fleet.Worker]bool)
	for _, s := range sessions {
		used[s.last] = true
	}
	if len(used) < len(ws)/2 {
		t.Errorf("%d workers of %d have the sessions: they are packed", len(used), len(ws))
	}
}

// burden is what w has to do, in tokens of prompts: to compute, and to be slowed
// down by.
func (p *costPicker) burden(w *fleet.Worker) float64 {
	return float64(w.Prefill()) + slowFactor*p.learned.answerTokens()*(slowPerRequest*float64(w.InFlight())+slowPerToken*float64(w.Context()))
}

// advanceTau lets answers begin and end, and returns the calls that go on.
func advanceTau(t *testing.T, l Learner, calls []*tauCall, now time.Duration, epoch time.Time, ended func(*tauCall)) (left []*tauCall) {
	t.Helper()
	for _, k := range calls {
		if !k.begun && k.begins <= now {
			k.begun = true
			k.lease.Began()
			l.Began(k.w, &k.c, epoch.Add(now))
		}
		if k.ends > now {
			left = append(left, k)
			continue
		}
		k.lease.Release(epoch.Add(now), breaker.Success)
		l.Ended(k.w, &k.c, &infer.Served{Tokens: infer.Tokens{Input: k.in, Output: k.out}}, nil, epoch.Add(now))
		ended(k)
	}
	return left
}
