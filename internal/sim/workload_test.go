package sim

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/tracefile"
)

// trace reads a trace from its lines.
func trace(t testing.TB, lines ...string) *tracefile.Trace {
	t.Helper()
	tr, err := tracefile.Read(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func load(t testing.TB, tr *tracefile.Trace, change func(*Config)) *workload {
	t.Helper()
	c := DefaultConfig()
	change(&c)
	w, err := newWorkload(tr, &c, c.Speed)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// three requests: all share block 7, two share block 8.
var three = []string{
	`{"timestamp":1000,"input_length":1000,"output_length":5,"hash_ids":[7,8]}`,
	`{"timestamp":3000,"input_length":1536,"output_length":0,"hash_ids":[7,8,9]}`,
	`{"timestamp":9000,"input_length":1025,"output_length":5,"hash_ids":[7,1]}`,
}

func TestCopiesHavePromptsOfTheirOwn(t *testing.T) {
	w := load(t, trace(t, three...), func(c *Config) { c.Workers, c.Speed = 8, 2 })
	if len(w.requests) != 6 || len(w.starts) != 6 || w.block != 512 {
		t.Fatalf("%d requests of 2 copies, %d starts, blocks of %d", len(w.requests), len(w.starts), w.block)
	}
	seen := map[int32]int{}
	for i, q := range w.requests {
		if want := (q.input + 511) / 512; len(q.blocks) != want {
			t.Errorf("request %d of %d tokens has %d blocks", i, q.input, len(q.blocks))
		}
		if i > 0 && q.at < w.requests[i-1].at {
			t.Errorf("request %d comes before the one before it", i)
		}
		for _, b := range q.blocks {
			seen[b]++
		}
		if q.output < 1 {
			t.Errorf("request %d has an answer of %d tokens", i, q.output)
		}
	}
	// 7 and 8 are most requests', so all copies'. 9, 1 and the third block of the
	// last, which has no id, are each copy's own.
	counts := map[int]int{}
	for _, n := range seen {
		counts[n]++
	}
	if counts[6] != 1 || counts[4] != 1 || counts[1] != 6 || len(counts) != 3 {
		t.Errorf("blocks by how many requests have them: %v", counts)
	}
	if w.requests[0].at != 0 {
		t.Errorf("the first comes at %v", w.requests[0].at)
	}
	one := load(t, trace(t, three...), func(c *Config) { c.Copies, c.Speed = 1, 2 })
	if got := one.requests[2].at; got != 4*time.Second {
		t.Errorf("what came 8 s after the first comes at %v at twice the speed", got)
	}
}

func TestARecordingIsReplayedOnce(t *testing.T) {
	tr := trace(t, `{"timestamp":1763726400123,"input_length":850,"output_length":5,"hash_ids":[11,12,13,14],"block_tokens":128}`,
		`{"timestamp":1763726400523,"input_length":850,"output_length":5,"hash_ids":[11,12,13,15],"block_tokens":128}`)
	w := load(t, tr, func(c *Config) { c.Workers = 64 })
	if len(w.requests) != 2 {
		t.Errorf("%d requests, want 2", len(w.requests))
	}
	// 850 tokens in four blocks and about half of one more.
	if w.block != 189 {
		t.Errorf("a block has %d tokens, want 189", w.block)
	}
}

func TestOnlyTheFirstSecondsAreTaken(t *testing.T) {
	w := load(t, trace(t, three...), func(c *Config) { c.Copies, c.First = 1, 3*time.Second })
	if len(w.requests) != 2 {
		t.Errorf("%d requests, want 2", len(w.requests))
	}
}

func TestCoarseTimesAreSpread(t *testing.T) {
	var lines []string
	for i := range 30 {
		lines = append(lines, `{"timestamp":`+[]string{"0", "3000", "6000"}[i/10]+`,"input_length":9,"output_length":5}`)
	}
	w := load(t, trace(t, lines...), func(c *Config) { c.Copies = 1 })
	same := 0
	for i := range w.requests[1:] {
		if w.requests[i+1].at == w.requests[i].at {
			same++
		}
	}
	if same > 0 || w.last < 6*time.Second || w.last > 9*time.Second {
		t.Errorf("%d requests come with others; the last at %v", same, w.last)
	}
}

func TestACrowdSharesADocument(t *testing.T) {
	w := load(t, trace(t, three...), func(c *Config) { c.Copies, c.Crowd, c.CrowdTokens = 1, 4, 1024 })
	if len(w.requests) != 7 {
		t.Fatalf("%d requests, want 3 and 4 of the crowd", len(w.requests))
	}
	seen := map[int32]int{}
	for _, q := range w.requests {
		if q.input != 1324 {
			continue
		}
		if q.at < w.last/3-time.Millisecond || q.at > w.last*2/3+time.Millisecond {
			t.Errorf("one of the crowd comes at %v of %v", q.at, w.last)
		}
		for _, b := range q.blocks {
			seen[b]++
		}
	}
	shared := 0
	for _, n := range seen {
		if n == 4 {
			shared++
		}
	}
	if shared != 2 || len(seen) != 6 {
		t.Errorf("%d blocks, %d of them shared; want 6 and 2", len(seen), shared)
	}
}

func TestTurnsFollowEachOther(t *testing.T) {
	tr := trace(t, `{"session":"a","block_tok":64,"turns":[{"in":100,"out":22,"gap":4,"blocks":[0,1]},{"in":150,"out":3,"gap":9,"blocks":[0,2,3]}]}`,
		`{"session":"b","block_tok":64,"turns":[{"in":64,"out":1,"gap":4,"blocks":[0]}]}`, `{"turns":[{"in":64,"out":1,"blocks":[0]}],"block_tok":64}`)
	w := load(t, tr, func(c *Config) { c.Workers, c.Rate, c.Duration = 2, 1, time.Minute })
	if n := len(w.starts); n < 80 || n > 160 {
		t.Errorf("%d sessions begin in a minute at 2 a second", n)
	}
	private := map[int32]bool{}
	for _, i := range w.starts {
		q := &w.requests[i]
		if q.input == 100 {
			next := &w.requests[q.next]
			if q.gap < 2*time.Second || q.gap > 6*time.Second || next.session != q.session || next.next != -1 || next.gap != 0 {
				t.Fatalf("%+v, then %+v", q, next)
			}
			if private[q.blocks[1]] {
				t.Fatalf("block %d is of two sessions", q.blocks[1])
			}
			private[q.blocks[1]] = true
		}
		if q.blocks[0] != 0 {
			t.Fatalf("what all share is block %d", q.blocks[0])
		}
	}
}

func TestWhatDoesNotFitIsTold(t *testing.T) {
	f := func(want string, tr *tracefile.Trace, change func(*Config)) {
		t.Helper()
		c := DefaultConfig()
		change(&c)
		if _, err := newWorkload(tr, &c, c.Speed); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("--kv-tokens must be at least 2048", trace(t, three...), func(c *Config) { c.KVTokens = 2000 })
	f("take fewer copies", trace(t, `{"timestamp":0,"input_length":4194304,"output_length":5,"hash_ids":[],"block_tokens":1}`), func(c *Config) { c.Copies, c.KVTokens = 65536, 1<<31-1 })
	f("takes longer than", trace(t, three...), func(c *Config) { c.Speed = 1e-12 })
	f("no session begins", trace(t, `{"turns":[{"in":1,"out":1}]}`), func(c *Config) { c.Rate = 1e-9 })
}

// TestIDsThatComeAgain: in a trace as it should be no prompt has an id twice. In
// one that is not, the second is text of its own.
func TestIDsThatComeAgain(t *testing.T) {
	w := load(t, trace(t, `{"timestamp":0,"input_length":2048,"output_length":5,"hash_ids":[3,3,3,3]}`), func(c *Config) { c.Copies = 1 })
	seen := map[int32]bool{}
	for _, b := range w.requests[0].blocks {
		seen[b] = true
	}
	if len(seen) != 4 {
		t.Errorf("blocks %v", w.requests[0].blocks)
	}
}

func TestEqualBlocksAreEqualText(t *testing.T) {
	g := &gateway{w: &workload{block: 512}}
	read := func(input int, blocks ...int32) string {
		g.now = &request{input: input, blocks: blocks}
		return string(g.text(nil, nil))
	}
	one, two, three := read(1024, 1, 2), read(1300, 1, 2, 3), read(1024, 1, 3)
	if len(one) != 4096 || len(two) != 5200 || !strings.HasPrefix(two, one) || one[:2048] != three[:2048] || one[2048:2100] == three[2048:2100] {
		t.Errorf("%d %d %d bytes", len(one), len(two), len(three))
	}
	for n := range 40 {
		if got := string(appendBlock([]byte("x"), 9, n)); len(got) != n+1 || strings.Trim(got[1:], "abcdefghijklmnop") != "" || got[0] != 'x' {
			t.Errorf("%d bytes: %q", n, got)
		}
	}
	seen := map[string]bool{}
	for range 10_000 {
		b := rand.Uint32() >> 1
		s := string(appendBlock(nil, uint64(b), 16))
		if seen[s] {
			t.Fatal("two blocks begin alike")
		}
		seen[s] = true
	}
}
