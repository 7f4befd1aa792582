package policy

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/blocks"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/peek"
)

// textRequest returns a request with that text.
func textRequest(text []byte) *infer.Request {
	return &infer.Request{
		Endpoint: infer.Chat, Model: "m", Received: time.Unix(2_000_000_000, 0), Body: text,
		Extract: func(dst, body []byte) []byte { return append(dst, body...) },
	}
}

func randomText(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(r.IntN(26))
	}
	return b
}

// serveCost sends r where p wants it, has it answered, and returns where that was.
func serveCost(p *costPicker, r *infer.Request, c *Choice) *fleet.Worker {
	c.Reset()
	w := p.Pick(r, c)
	p.Sent(r, w, c)
	p.Began(w, c, r.Received)
	p.Ended(w, c, &infer.Served{Tokens: infer.Tokens{Input: c.Prompt, Output: 100}}, nil, r.Received)
	return w
}

func TestCostConfig(t *testing.T) {
	if err := DefaultCostConfig().Validate(); err != nil {
		t.Error(err)
	}
	bad := CostConfig{Duplicate: math.NaN(), Popular: 0, Memory: 0, KVTokens: -1, KVFull: 1.5, MaxWaiting: -1}
	err := bad.Validate()
	for _, want := range []string{"cost-duplicate-price NaN", "cost-popular-hits 0", "cost-index-memory-mib 0", "cost-kv-tokens -1", "cost-kv-full 1.5", "cost-max-waiting-requests -1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want it to say %q", err, want)
		}
	}
}

// TestCostTakesBodiesUnread holds that large bodies may stay with their clients,
// and are weighed by their length.
func TestCostTakesBodiesUnread(t *testing.T) {
	p := mustNew(t, "cost")
	if NeedsText(p) {
		t.Error("cost asks for text: large bodies are held")
	}
	pick := p.Bind(workers(t, 3))
	for _, tt := range []struct {
		length, want int64
	}{{8 << 20, 2 << 20}, {0, 1}, {-1, startPrompt}} {
		r := &infer.Request{Model: "m"}
		r.SetBody(infer.NewBody(strings.NewReader(""), tt.length))
		r.LeaveBody(1 << 30)
		var c Choice
		if w := pick.Pick(r, &c); w == nil || c.Prompt != tt.want || c.Uncached != tt.want || len(c.Keys) != 0 {
			t.Errorf("a body of %d bytes: %+v, want a prompt of %d tokens", tt.length, c, tt.want)
		}
	}
}

// TestCostAllocatesNothing holds it of whole requests, in an index that is full.
func TestCostAllocatesNothing(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	s := DefaultSettings()
	s.Cost.KVTokens = 20_000
	p := newCost(s).Bind(workers(t, 8)).(*costPicker)
	r := rand.New(rand.NewPCG(1, 1))
	text := randomText(r, 16<<10)
	q, c := textRequest(text), new(Choice)
	next := func() {
		copy(text[8<<10:], text[8<<10+600:]) // half is as it was, the rest is new
		copy(text[8<<10:], fmt.Appendf(nil, "%d", r.Uint64()))
		q.DropText()
		serveCost(p, q, c)
	}
	for range 2000 {
		next()
	}
	if n := testing.AllocsPerRun(1000, func() {
		copy(text[9<<10:], text[:64])
		text[9<<10+int(r.Uint32()%4096)]++
		q.DropText()
		serveCost(p, q, c)
	}); n != 0 {
		t.Errorf("a request makes %v allocations, want 0", n)
	}
}

// TestCostInALargeFleet holds that a decision looks at a bounded number of workers
// and still finds the one that has the most.
func TestCostInALargeFleet(t *testing.T) {
	p := newCost(DefaultSettings()).Bind(workers(t, 3000)).(*costPicker)
	r := rand.New(rand.NewPCG(1, 1))
	system := randomText(r, 8<<10)
	for _, w := range p.ws { // all have the system prompt
		q, c := textRequest(system), new(Choice)
		p.Pick(q, c)
		p.Sent(q, w, c)
	}
	text := append(bytes.Clone(system), randomText(r, 4<<10)...)
	last := serveCost(p, textRequest(text), new(Choice))
	for range 20 {
		text = append(text, randomText(r, 700)...)
		c := new(Choice)
		if w := serveCost(p, textRequest(text), c); w != last {
			t.Fatalf("it moved to %s from %s: %+v", w.Base(), last.Base(), c)
		}
		if c.Considered > scoreHolders+scoreOthers || c.Considered < scoreOthers {
			t.Errorf("%d workers were considered", c.Considered)
		}
	}
	// New ones are spread.
	used := make(map[*fleet.Worker]bool)
	for range 300 {
		q, c := textRequest(append(bytes.Clone(system), randomText(r, 4<<10)...)), new(Choice)
		w := p.Pick(q, c)
		used[w] = true
		if c.Hit != 16 {
			t.Fatalf("%d blocks are there, want the 16 of the system prompt", c.Hit)
		}
	}
	if len(used) < 150 {
		t.Errorf("300 new sessions are on %d workers", len(used))
	}
}

// TestCostLearns holds what is learned of usage, and that nonsense is not.
func TestCostLearns(t *testing.T) {
	var l learned
	l.begin()
	c := &Choice{bytes: 3000}
	for _, u := range []infer.Tokens{{Input: math.MaxInt64, Output: math.MaxInt64}, {Input: -5, Output: -5}, {Input: 1}, {Input: 1 << 40}} {
		l.hear(c, &infer.Served{Tokens: u}, nil)
	}
	if l.bytesPerToken() != startRatio || l.answerTokens() > startOut || l.answerTokens() < startOut/2 {
		t.Errorf("nonsense was learned: %v bytes a token, %v tokens an answer", l.bytesPerToken(), l.answerTokens())
	}
	resized := 0
	for range 2000 {
		if l.hear(c, &infer.Served{Tokens: infer.Tokens{Input: 1000, Output: 50}}, nil) {
			resized++
		}
	}
	if r := l.bytesPerToken(); math.Abs(r-3) > 0.1 {
		t.Errorf("%v bytes a token, want 3", r)
	}
	if o := l.answerTokens(); math.Abs(o-50) > 5 {
		t.Errorf("%v tokens an answer, want 50", o)
	}
	if resized == 0 || resized > 4 {
		t.Errorf("the capacities were to follow %d times, want a few", resized)
	}
	l.hear(c, &infer.Served{Events: 1000}, errors.New("broke")) // not a whole answer
	for range 2000 {
		l.hear(c, &infer.Served{Events: 80}, nil) // no usage: a piece is a token
	}
	if o := l.answerTokens(); math.Abs(o-80) > 8 {
		t.Errorf("%v tokens an answer, want 80", o)
	}
}

// TestCostRemembersWhatIsThere plays workers that come, go, are away and restart
// while requests are under way on tables that are not the newest, and holds that
// nothing is remembered of who has gone, and that a table chooses its own.
func TestCostRemembersWhatIsThere(t *testing.T) { rapid.Check(t, costAmongChanges) }

func costAmongChanges(t *rapid.T) {
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	reg := fleet.New(fleet.DefaultConfig(), health, breaker.DefaultConfig(), fleet.Options{})
	s := DefaultSettings()
	s.Rand = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)).Uint32
	policy := newCost(s)
	var ws, gone []*fleet.Worker
	var tables []*costPicker
	made := 0
	pickers := rapid.IntRange(0, 1<<20)
	t.Repeat(map[string]func(*rapid.T){
		"add": func(t *rapid.T) {
			made++
			if _, err := reg.Add(fleet.Spec{URL: fmt.Sprintf("http://w%d:80", made), Models: []fleet.ModelCard{{ID: "m"}}}); err != nil {
				t.Fatal(err)
			}
			ws = reg.Snapshot().Ready
		},
		"remove": func(t *rapid.T) {
			if len(ws) > 1 {
				w := ws[pickers.Draw(t, "which")%len(ws)]
				if err := reg.Remove(w.ID()); err != nil {
					t.Fatal(err)
				}
				ws, gone = reg.Snapshot().Ready, append(gone, w)
			}
		},
		"restart": func(t *rapid.T) {
			if len(ws) > 0 {
				ws[pickers.Draw(t, "which")%len(ws)].Forgot()
			}
		},
		"bind": func(t *rapid.T) {
			if len(ws) > 0 {
				bound := ws[:1+pickers.Draw(t, "some")%len(ws)]
				tables = append(tables[max(0, len(tables)-3):], policy.Bind(bound).(*costPicker))
			}
		},
		"send": func(t *rapid.T) {
			if len(tables) == 0 {
				return
			}
			p := tables[pickers.Draw(t, "table")%len(tables)]
			q, c := textRequest(bytes.Repeat([]byte{byte(pickers.Draw(t, "text") % 3)}, 512*(pickers.Draw(t, "blocks")%8))), new(Choice)
			w := p.Pick(q, c)
			if p.memberOf(w) == nil {
				t.Fatalf("it chose %s, which is not in the table", w.Base())
			}
			if c.Hit > c.Blocks || c.Uncached > c.Prompt || c.Uncached < 1 || c.Price < 0 {
				t.Fatalf("%+v", c)
			}
			p.Sent(q, w, c)
			if pickers.Draw(t, "fails")%3 > 0 {
				p.Began(w, c, q.Received)
			}
			p.Ended(w, c, &infer.Served{}, nil, q.Received)
		},
		"": func(t *rapid.T) {
			if len(tables) == 0 {
				return
			}
			bound := tables[len(tables)-1]
			for _, w := range bound.ws {
				if m := bound.memberOf(w); m.epoch.Load() != w.Epoch() && bound.holds(bound.find(int32(w.Slot()))) {
					t.Fatalf("%s has restarted and is thought to have what it had", w.Base())
				}
			}
		},
	})
	if len(ws) == 0 {
		return
	}
	policy.Bind(ws)
	there := make(map[int]bool)
	for _, w := range ws {
		there[w.Slot()] = true
	}
	for _, w := range gone {
		if n := policy.index.Held(w.Slot()); n > 0 && !there[w.Slot()] {
			t.Fatalf("%d blocks of a worker that has left are remembered", n)
		}
	}
}

// FuzzCost holds that no text and no model's name disturbs it.
func FuzzCost(f *testing.F) {
	f.Add([]byte("\xff\xfe"), "m")
	f.Add(bytes.Repeat([]byte("x"), 3<<20), strings.Repeat("m", 1<<16))
	f.Fuzz(func(t *testing.T, text []byte, model string) {
		// What another text left behind could make another worker cheaper.
		p := newCost(DefaultSettings()).Bind(workers(t, 3)).(*costPicker)
		r := textRequest(text)
		r.Model = model
		c := new(Choice)
		serveCost(p, r, c)
		if c.Blocks != min(len(text)/blocks.Size, longestPrompt) || len(c.Keys) != c.Blocks {
			t.Errorf("%d blocks of %d bytes", c.Blocks, len(text))
		}
		w := serveCost(p, r, c)
		if c.Hit != c.Blocks || w == nil {
			t.Errorf("%d blocks of %d are there the second time", c.Hit, c.Blocks)
		}
	})
}

// BenchmarkCost is a whole decision in a fleet of 64 workers that have a million
// blocks: choosing, and noting what was sent and what became of it. A fifth of the
// prompt is new. The text is there, or is extracted from a body.
func BenchmarkCost(b *testing.B) {
	ws := workers(b, 64)
	for _, kib := range []int{1, 16, 512} {
		s := DefaultSettings()
		s.Cost.KVTokens = 2_000_000 // 15,625 blocks, and a quarter more
		p := newCost(s).Bind(ws).(*costPicker)
		text := randomText(rand.New(rand.NewPCG(1, 1)), kib<<10)
		// One text under many names is as many prompts, and is in the cache as one
		// is that has just been read.
		names := make([]string, 1_000_000/(2*kib))
		q, c := textRequest(text), new(Choice)
		for turn := range 4 { // until what is new takes the place of what is old
			for i := range names {
				names[i] = fmt.Sprint("model ", i)
				text[len(text)*4/5] = byte('A' + turn)
				q.DropText()
				q.Model = names[i]
				serveCost(p, q, c)
			}
		}
		run := func(name string, extract, whole bool) {
			b.Run(fmt.Sprintf("%dKiB/%s", kib, name), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					r := rand.New(rand.NewPCG(rand.Uint64(), 1))
					q, c := textRequest(append(append([]byte{'"'}, text...), '"')), new(Choice)
					q.Extract = peek.AppendText
					for pb.Next() {
						if extract {
							q.DropText()
							q.Body[len(q.Body)*4/5] = byte('a' + r.IntN(26))
						} else {
							t := q.Text()
							t[len(t)*4/5] = byte('a' + r.IntN(26))
						}
						q.Model = names[r.IntN(len(names))]
						c.Reset()
						w := p.Pick(q, c)
						if whole {
							p.Sent(q, w, c)
							p.Began(w, c, q.Received)
							p.Ended(w, c, &infer.Served{}, nil, q.Received)
						}
					}
				})
			})
		}
		run("pick", false, false)
		run("all", false, true)
		run("all-extracted", true, true)
		b.Logf("%d blocks in %d bytes", p.index.Len(), p.index.Bytes())
	}
}
