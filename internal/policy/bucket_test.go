package policy

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

func TestCellsTileAllLengths(t *testing.T) {
	for i := range cells {
		from, to := cellStart(i), cellStart(i+1)
		if from >= to || cell(from) != i || cell(to-1) != i {
			t.Fatalf("cell %d is %d to %d, which are in %d and %d", i, from, to, cell(from), cell(to-1))
		}
		if i >= 64 && float64(to-from) > float64(from)/31 {
			t.Fatalf("cell %d is %d to %d, too wide to tell lengths apart", i, from, to)
		}
	}
	if cell(math.MaxInt64) != cells-1 {
		t.Error("the longest text is in no cell")
	}
}

// lengths asks pick for prompts and returns how much text each worker got, from
// what lengths.
func lengths(pick Picker, at time.Time, n int, draw func() int) map[*fleet.Worker]struct{ text, shortest, longest int } {
	long := strings.Repeat("x", 1<<20)
	got := make(map[*fleet.Worker]struct{ text, shortest, longest int })
	r, c := texted(long), new(Choice)
	r.Received = at
	size := 0
	r.Extract = func(dst, body []byte) []byte { return append(dst, body[:size]...) }
	for range n {
		size = draw()
		c.Reset()
		w := pick.Pick(r, c)
		pick.(Learner).Sent(r, w, c)
		r.DropText()
		g := got[w]
		if g.text == 0 {
			g.shortest = size
		}
		g.text, g.shortest, g.longest = g.text+size, min(g.shortest, size), max(g.longest, size)
		got[w] = g
	}
	return got
}

// TestBucketSharesText holds that after an interval each worker has lengths of its
// own, and gets about as much text as any other. Bounds are made by the lengths
// that came, so they need no imbalance to correct them.
func TestBucketSharesText(t *testing.T) {
	for _, n := range []int{1, 2, 5, 16} {
		ws := workers(t, n)
		pick := with(t, "bucket", func(s *Settings) { s.CacheAware.Abs = math.MaxInt }).Bind(ws)
		rng := rand.New(rand.NewPCG(1, 2))
		draw := func() int { return int(math.Exp(rng.Float64()*6) * 100) } // 100 to 40,000
		at := time.Unix(1e9, 0)
		lengths(pick, at, 5000, draw)
		got := lengths(pick, at.Add(7*time.Second), 5000, draw)
		total := 0
		for _, g := range got {
			total += g.text
		}
		for i, w := range ws {
			g := got[w]
			if fair := total / n; g.text < fair/2 || g.text > fair*3/2 {
				t.Errorf("of %d workers %d got %d bytes, want about %d", n, i, g.text, fair)
			}
			if i > 0 && got[ws[i-1]].longest > g.shortest {
				t.Errorf("of %d workers %d got %d bytes, and the one before it %d", n, i, g.shortest, got[ws[i-1]].longest)
			}
		}
	}
}

// TestBucketKeepsItsBounds holds that workers who come or go share the lengths that
// were learned, in order.
func TestBucketKeepsItsBounds(t *testing.T) {
	ws := workers(t, 12)
	p := with(t, "bucket", func(*Settings) {})
	at := time.Unix(1e9, 0)
	rng := rand.New(rand.NewPCG(1, 2))
	draw := func() int { return 1000 + rng.IntN(9000) }
	pick := p.Bind(ws[:4])
	lengths(pick, at, 1000, draw)
	lengths(pick, at.Add(7*time.Second), 1, draw)
	for _, n := range []int{12, 3, 1, 4} {
		b := p.Bind(ws[:n]).(*bucketPicker)
		was := int64(0)
		for i := range b.bounds {
			if is := b.bounds[i].Load(); is <= was || is > 20_000 {
				t.Errorf("with %d workers the bounds have %d after %d", n, is, was)
			} else {
				was = is
			}
		}
	}
}

// TestBucketForgets holds that text counts as a worker's load for one interval.
func TestBucketForgets(t *testing.T) {
	ws := workers(t, 2)
	pick := with(t, "bucket", func(*Settings) {}).Bind(ws).(*bucketPicker)
	at := time.Unix(1e9, 0)
	load := func(d time.Duration) float64 {
		pick.Pick(&infer.Request{Received: at.Add(d)}, new(Choice)) // ends the interval
		_, low, high, _ := pick.spread(at.Add(d).UnixNano(), 0)
		return low + high
	}
	lengths(pick, at, 10, func() int { return 1000 })
	for _, c := range []struct {
		after time.Duration
		want  float64
	}{{0, 10_000}, {4 * time.Second, 10_000}, {5 * time.Second, 10_000}, {7500 * time.Millisecond, 5000}, {10 * time.Second, 0}} {
		if got := load(c.after); math.Abs(got-c.want) > 10 {
			t.Errorf("after %v the load is %v, want %v", c.after, got, c.want)
		}
	}
}

func TestConfigsThatContradict(t *testing.T) {
	f := func(err error, want string) {
		t.Helper()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f(DefaultRoutingKeyConfig().Validate(), "")
	f(DefaultPrefixHashConfig().Validate(), "")
	f(DefaultBucketConfig().Validate(), "")
	f(RoutingKeyConfig{Headers: []string{"x-user", "two words"}, MaxKeys: 1}.Validate(), `"two words"`)
	f(RoutingKeyConfig{Idle: -time.Second, MaxKeys: 1}.Validate(), "max-idle-secs")
	f(RoutingKeyConfig{}.Validate(), "sticky-max-keys")
	f(PrefixHashConfig{Tokens: 1, Factor: math.NaN()}.Validate(), "load-factor")
	f(PrefixHashConfig{Tokens: 1, Factor: 0.9}.Validate(), "load-factor")
	f(PrefixHashConfig{Factor: 1}.Validate(), "token-count")
	f(PrefixHashConfig{Tokens: 1, Factor: 1, Margin: -1}.Validate(), "abs-threshold")
	f(BucketConfig{}.Validate(), "bucket-adjust-interval-secs")
}
