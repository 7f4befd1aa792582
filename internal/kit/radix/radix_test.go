package radix

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// put notes text for w, as those do who look first.
func put(t *Tree, w *Tenant, text string, now time.Time) {
	b := []byte(text)
	t.Insert(w, b, now, t.Match(b))
}

// find returns how much of text is known, and who holds it.
func find(t *Tree, text string, all ...*Tenant) (int, []*Tenant) {
	h := t.Match([]byte(text))
	var ws []*Tenant
	for _, w := range all {
		if h.Holds(w) {
			ws = append(ws, w)
		}
	}
	return h.Matched, ws
}

// audit compares the counters with what stands in the tree, and holds what must
// be true of it when nobody writes.
func audit(t testing.TB, tr *Tree) {
	t.Helper()
	var size, count int64
	sizes := make(map[uint32]int64)
	leaves := make(map[uint32]map[*node]bool)
	memory := tr.root.kids.Load().bytes()
	stack := []*node{&tr.root}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		k := n.kids.Load()
		holds := make(map[uint32]int) // children, by tenant
		for i := range k.len() {
			c := k.nodes[i].Load()
			stack = append(stack, c)
			e := c.edge.Load()
			switch {
			case c.parent.Load() != n:
				t.Fatalf("%q has another parent than where it hangs", e.text)
			case c.dead:
				t.Fatalf("%q is dead and in the tree", e.text)
			case e.at != n.edge.Load().end():
				t.Fatalf("%q stands at %d, its parent ends at %d", e.text, e.at, n.edge.Load().end())
			case len(e.text) == 0 || e.text[0] != k.keys[i]:
				t.Fatalf("%q is found by %q", e.text, k.keys[i])
			case bytes.Count(k.keys, k.keys[i:i+1]) != 1:
				t.Fatalf("two children begin with %q", k.keys[i])
			}
			h := c.held.Load()
			if h.n.Load() == 0 {
				t.Fatalf("nobody holds %q", e.text)
			}
			count++
			memory += class(nodeBytes) + class(edgeBytes) + class(int64(len(e.text))) + h.bytes() + c.kids.Load().bytes()
			for j := range int(h.n.Load()) {
				en := entry(h.list[j].Load())
				holds[en.id()]++
				sizes[en.id()] += int64(len(e.text))
				size += int64(len(e.text))
				if en.kids() == 0 {
					if leaves[en.id()] == nil {
						leaves[en.id()] = make(map[*node]bool)
					}
					leaves[en.id()][c] = true
				}
			}
		}
		if n == &tr.root {
			continue
		}
		h := n.held.Load()
		for j := range int(h.n.Load()) {
			en := entry(h.list[j].Load())
			if en.kids() != holds[en.id()] {
				t.Fatalf("tenant %d holds %d children of %q, its entry says %d", en.id(), holds[en.id()], n.edge.Load().text, en.kids())
			}
			delete(holds, en.id())
		}
		if len(holds) > 0 {
			t.Fatalf("%v hold children of %q, but not itself", holds, n.edge.Load().text)
		}
	}
	for i := range *tr.all.Load() {
		w := (*tr.all.Load())[i].Load()
		if w == nil {
			continue
		}
		if got := w.Size(); got != sizes[w.id] {
			t.Fatalf("tenant %d's size is %d, its edges are %d", w.id, got, sizes[w.id])
		}
		delete(sizes, w.id)
		for p := w.queue.head; p != nil; p = p.next {
			memory += pieceBytes(len(p.list))
			from := 0
			if p == w.queue.head {
				from = w.queue.first
			}
			for _, q := range p.list[from:p.n] {
				delete(leaves[w.id], q.node)
			}
		}
		if n := len(leaves[w.id]); n > 0 {
			t.Fatalf("%d leaves of tenant %d can never be removed", n, w.id)
		}
	}
	if len(sizes) > 0 {
		t.Fatalf("tenants that are gone hold %v", sizes)
	}
	if got := tr.Size(); got != size {
		t.Fatalf("the size is %d, the edges are %d", got, size)
	}
	if got := tr.Nodes(); got != count {
		t.Fatalf("%d nodes are counted, there are %d", got, count)
	}
	if got := tr.Bytes(); got != memory {
		t.Fatalf("%d bytes are counted, there are %d", got, memory)
	}
	if tr.Bytes() > tr.Budget() {
		t.Fatalf("%d bytes, the budget is %d", tr.Bytes(), tr.Budget())
	}
}

func TestWhoHoldsWhat(t *testing.T) {
	tr := New(1 << 20)
	a, b, c := tr.Join(nil), tr.Join(nil), tr.Join(nil)
	f := func(text string, matched int, want ...*Tenant) {
		t.Helper()
		got, ws := find(tr, text, a, b, c)
		if got != matched || !slices.Equal(ws, want) {
			t.Errorf("of %q %d bytes are known to %v, want %d to %v", text, got, ids(ws), matched, ids(want))
		}
	}
	f("", 0)
	f("hello", 0)
	put(tr, a, "hello world", start)
	f("hello world", 11, a)
	f("hello", 5, a) // the node that is found in part decides
	f("hello there", 6, a)
	f("world", 0)
	put(tr, b, "hello there", start)
	f("hello", 5, a, b)
	f("hello w", 7, a)
	f("hello there, you", 11, b)
	put(tr, c, "hel", start)
	f("hel", 3, a, b, c)
	f("hell", 4, a, b)
	put(tr, b, "hello world", start)
	f("hello world!", 11, a, b)
	put(tr, c, "\xff\xfe\x00é", start)
	f("\xff\xfe\x00\xc3", 4, c)
	f("\xff\xfd", 1, c)
	put(tr, a, "", start)
	audit(t, tr)
	tr.Leave(a)
	f("hello world", 11, b)
	tr.Leave(b)
	f("hello world", 3, c)
	tr.Leave(c)
	f("hello world", 0)
	audit(t, tr)
	if tr.Bytes() != 0 || tr.Size() != 0 || tr.Nodes() != 0 {
		t.Errorf("nobody is left, but %d bytes, %d of text in %d nodes", tr.Bytes(), tr.Size(), tr.Nodes())
	}
	if d := tr.Join(nil); d.id > 3 {
		t.Errorf("the fourth tenant is number %d, although all others are free", d.id)
	}
}

func ids(ws []*Tenant) (l []int) {
	for _, w := range ws {
		l = append(l, int(w.id))
	}
	return l
}

// TestLikeAListOfTexts compares the tree, with room for everything, with the
// list of all texts that each tenant was given.
func TestLikeAListOfTexts(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		tr := New(64 << 20)
		m := &model{given: make(map[*Tenant][]string)}
		texts := rapid.StringOfN(rapid.SampledFrom([]rune("ab\u00e9")), 0, 24, -1)
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			m.step(r, tr, texts)
			m.compare(r, tr, texts.Draw(r, "question"))
		}
		audit(t, tr)
		for w := range m.given {
			tr.Leave(w)
		}
		if !tr.Tend(0, 1<<20) || tr.Bytes() != 0 || tr.Size() != 0 {
			r.Fatalf("all have left, but %d bytes and %d of text", tr.Bytes(), tr.Size())
		}
	})
}

// A model knows what a tree was told.
type model struct {
	ws    []*Tenant
	given map[*Tenant][]string
	gone  []*Tenant
}

func (m *model) step(r *rapid.T, tr *Tree, texts *rapid.Generator[string]) {
	switch k := rapid.IntRange(0, 9).Draw(r, "what"); {
	case k == 0 || len(m.ws) == 0:
		w := tr.Join(nil)
		m.ws, m.given[w] = append(m.ws, w), nil
	case k == 1:
		i := rapid.IntRange(0, len(m.ws)-1).Draw(r, "who")
		w := m.ws[i]
		tr.Leave(w)
		m.ws, m.gone = slices.Delete(m.ws, i, i+1), append(m.gone, w)
		delete(m.given, w)
	default:
		w := rapid.SampledFrom(m.ws).Draw(r, "who")
		text := texts.Draw(r, "text")
		put(tr, w, text, start)
		m.given[w] = append(m.given[w], text)
	}
}

// compare asks both what is known of text: as much, and at least those hold it
// who were given a text that begins so. Others may be named who hold the node's
// beginning only if the text ends inside.
func (m *model) compare(r *rapid.T, tr *Tree, text string) {
	h := tr.Match([]byte(text))
	longest := 0
	for _, l := range m.given {
		for _, s := range l {
			longest = max(longest, common([]byte(text), []byte(s)))
		}
	}
	if h.Matched != longest {
		r.Fatalf("of %q %d bytes match, want %d", text, h.Matched, longest)
	}
	if longest == 0 {
		return
	}
	anybody := false
	for w, l := range m.given {
		holds := false
		for _, s := range l {
			holds = holds || common([]byte(text), []byte(s)) == longest
		}
		if h.Holds(w) && !holds {
			r.Fatalf("tenant %d is named for %q and was never given it", w.id, text[:longest])
		}
		anybody = anybody || h.Holds(w)
	}
	if !anybody {
		r.Fatalf("%q is known, and to nobody", text[:longest])
	}
	for _, w := range m.gone {
		if h.Holds(w) {
			r.Fatalf("tenant %d has left and is named for %q", w.id, text)
		}
	}
}

// FuzzTree holds the tree to its books, within a budget that is much too small,
// whatever it is told.
func FuzzTree(f *testing.F) {
	f.Add([]byte("\x00hello\x01hello world\x02help"), uint16(4096))
	f.Add(bytes.Repeat([]byte("\x01a"), 300), uint16(2000))
	f.Add([]byte("\x03\xff\xfe\x00\xc3\x28\x13x"), uint16(0))
	f.Fuzz(func(t *testing.T, script []byte, budget uint16) {
		tr := New(8192 + int64(budget))
		ws := []*Tenant{tr.Join(nil), tr.Join(nil), tr.Join(nil)}
		now := start
		for len(script) > 0 {
			op := script[0]
			script = script[1:]
			w := ws[int(op)%len(ws)]
			now = now.Add(time.Duration(op) * 10 * time.Millisecond)
			if op >= 0xf0 {
				tr.Leave(w)
				ws[int(op)%len(ws)] = tr.Join(nil)
				continue
			}
			n := min(int(op), len(script))
			text := script[:n]
			script = script[n/2:] // texts overlap
			h := tr.Match(text)
			if h.Matched > len(text) {
				t.Fatalf("%d of %d bytes match", h.Matched, len(text))
			}
			tr.Insert(w, text, now, h)
			if tr.Bytes() > tr.Budget() {
				t.Fatalf("%d bytes of %d", tr.Bytes(), tr.Budget())
			}
			if n == 0 {
				script = script[min(1, len(script)):]
			}
		}
		audit(t, tr)
		for _, w := range ws {
			tr.Leave(w)
		}
		if !tr.Tend(0, 1<<20) || tr.Bytes() != 0 {
			t.Fatalf("%d bytes of nobody", tr.Bytes())
		}
	})
}

func TestTheOldestGoFirst(t *testing.T) {
	tr := New(1 << 20)
	a, b := tr.Join(nil), tr.Join(nil)
	text := func(i int) string { return fmt.Sprintf("%03d%s", i, bytes.Repeat([]byte("x"), 97)) }
	for i := range 100 {
		put(tr, []*Tenant{a, b}[i%2], text(i), start.Add(time.Duration(i)*time.Second))
	}
	put(tr, a, text(0), start.Add(200*time.Second)) // used again
	for !tr.Tend(5000, 7) {
	}
	if tr.Size() > 5000 {
		t.Fatalf("the size is %d, want at most 5000", tr.Size())
	}
	for i := range 100 {
		n, _ := find(tr, text(i), a, b)
		if want := i == 0 || i > 55; (n == 100) != want && i != 55 && i > 0 && (i < 45 || i > 58) {
			t.Errorf("text %d of 100, of which the last 50 fit: found %v, want %v", i, n == 100, want)
		}
	}
	if n, _ := find(tr, text(0), a); n != 100 {
		t.Error("the text that was used last is gone")
	}
	audit(t, tr)
}

func TestTheBudgetHolds(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, tt := range []struct {
		name string
		text func(i int) []byte
	}{
		{"short ones with nothing in common", func(int) []byte { return random(rng, 1+rng.IntN(40)) }},
		{"long ones", func(int) []byte { return random(rng, 1+rng.IntN(300<<10)) }},
		{"each one byte longer", func(i int) []byte { return bytes.Repeat([]byte("a"), i+1) }},
		{"each one byte shorter", func(i int) []byte { return bytes.Repeat([]byte("a"), 4000-i) }},
		{"larger than all memory there is", func(int) []byte { return random(rng, 3<<20) }},
		{"all first bytes", func(i int) []byte { return append([]byte{byte(i)}, random(rng, 64)...) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := New(1 << 20)
			ws := make([]*Tenant, 8)
			for i := range ws {
				ws[i] = tr.Join(nil)
			}
			now := start
			for i := range few(3000) {
				now = now.Add(time.Second)
				b := tt.text(i)
				tr.Insert(ws[rng.IntN(len(ws))], b, now, tr.Match(b))
				if tr.Bytes() > tr.Budget() {
					t.Fatalf("after %d texts %d bytes, the budget is %d", i+1, tr.Bytes(), tr.Budget())
				}
				if i%16 == 0 {
					if n, _ := find(tr, string(b)); n == 0 {
						t.Fatalf("of text %d nothing was kept", i)
					}
				}
				if i > few(300) && len(b) > 10<<10 {
					break
				}
			}
			audit(t, tr)
			for _, w := range ws {
				tr.Leave(w)
			}
			if !tr.Tend(0, 1<<20) || tr.Bytes() != 0 {
				t.Errorf("all have left, but %d bytes", tr.Bytes())
			}
		})
	}
}

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b[:n:n]
}

// few returns n, or less of it where everything takes long.
func few(n int) int {
	if raced {
		return n / 10
	}
	return n
}

// TestBytesAreMeasured compares what the tree says that it takes with what the
// runtime says.
func TestBytesAreMeasured(t *testing.T) {
	if testing.Short() || raced {
		t.Skip("fills memory")
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, tt := range []struct {
		name    string
		tenants int
		text    func(i int) []byte
	}{
		{"conversations", 16, func(i int) []byte { return conversation(i%500, 1+i/500) }},
		{"short texts", 64, func(int) []byte { return random(rng, 1+rng.IntN(60)) }},
		{"one text, many tenants", 5000, func(i int) []byte { return conversation(0, i%30) }},
		{"long texts", 16, func(int) []byte { return random(rng, 1+rng.IntN(200<<10)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := New(16 << 20)
			ws := make([]*Tenant, tt.tenants)
			for i := range ws {
				ws[i] = tr.Join(nil)
			}
			before := heap()
			for i := range 20_000 {
				b := tt.text(i)
				tr.Insert(ws[rng.IntN(len(ws))], b, start.Add(time.Duration(i)*time.Second), tr.Match(b))
				if len(b) > 1000 && i > 2000 {
					break
				}
			}
			took := heap() - before
			t.Logf("%d bytes of memory, %d counted, %d of text, %d nodes", took, tr.Bytes(), tr.Size(), tr.Nodes())
			if got := tr.Bytes(); float64(took) > 1.1*float64(got)+100_000 || float64(took) < 0.85*float64(got)-100_000 {
				t.Errorf("it takes %d bytes and says %d", took, got)
			}
			runtime.KeepAlive(tr)
		})
	}
}

// conversation returns a prompt of so many turns that begins as all do.
func conversation(id, turns int) []byte {
	b := bytes.Repeat([]byte("You are a pilot. "), 30)
	for i := range turns {
		b = fmt.Appendf(b, "\nuser %d: what is %d? ", id, i*id)
		b = append(b, bytes.Repeat([]byte{byte('a' + i%26)}, 100)...)
	}
	return b
}

func TestDepthIsBounded(t *testing.T) {
	tr := New(64 << 20)
	a, b := tr.Join(nil), tr.Join(nil)
	long := bytes.Repeat([]byte("a"), 512<<10)
	for i := range few(6000) { // two who take turns make a node of each byte
		tr.Insert([]*Tenant{a, b}[i%2], long[:i+1], start, tr.Match(long[:i+1]))
	}
	tr.Insert(a, long, start, Hit{})
	h := tr.Match(long)
	if h.depth > maxDepth {
		t.Errorf("%d nodes deep", h.depth)
	}
	if h.Matched < min(maxDepth, few(6000)) {
		t.Errorf("only %d bytes are known", h.Matched)
	}
	for i := range few(3000) { // and below the other end
		tr.Insert([]*Tenant{a, b}[i%2], long[:few(6000)-i], start, Hit{})
	}
	audit(t, tr)
	tr.Leave(a)
	tr.Leave(b)
	if !tr.Tend(0, 1<<20) || tr.Bytes() != 0 {
		t.Errorf("all have left, but %d bytes", tr.Bytes())
	}
}

func TestAGrowingTextIsFewNodes(t *testing.T) {
	tr := New(64 << 20)
	a := tr.Join(nil)
	text := bytes.Repeat([]byte("abcdefgh"), 1<<10)
	for i := range text {
		tr.Insert(a, text[:i+1], start, tr.Match(text[:i+1]))
	}
	if n := tr.Nodes(); n > 10 {
		t.Errorf("8 KiB that grew byte by byte are %d nodes, want about 8", n)
	}
	if h := tr.Match(text); h.Matched != len(text) || !h.Holds(a) {
		t.Errorf("%d of %d bytes are known", h.Matched, len(text))
	}
	audit(t, tr)
}

func TestUpFindsWhoHoldsLess(t *testing.T) {
	tr := New(1 << 20)
	a, b := tr.Join(nil), tr.Join(nil)
	put(tr, b, "one two", start)
	put(tr, a, "one two three", start)
	h := tr.Match([]byte("one two three"))
	if !h.Holds(a) || h.Holds(b) || h.Len() != 1 {
		t.Error("only a holds all of it")
	}
	if w, _ := tr.Holder(h, 0); w != a {
		t.Errorf("tenant %v is named, want a", w)
	}
	if w, _ := tr.Holder(h, 1); w != nil {
		t.Errorf("tenant %v is named as well", w)
	}
	h = h.Up()
	if h.Matched != 7 || !h.Holds(b) || !h.Holds(a) {
		t.Errorf("above, %d bytes are known, want 7 to both", h.Matched)
	}
	if h = h.Up(); h.Matched != 0 || h.Len() != 0 || h.Holds(a) || h.Up() != (Hit{}) {
		t.Error("above the first is something")
	}
}

// TestManyAtOnce lets writers, readers, and tenants that come and go meet.
func TestManyAtOnce(t *testing.T) {
	tr := New(300 << 10)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			w := tr.Join(nil)
			now := start
			for i := range 600 {
				now = now.Add(time.Duration(rng.IntN(1000)) * time.Millisecond)
				b := conversation(rng.IntN(20), rng.IntN(12))
				b = b[:rng.IntN(len(b)+1)]
				h := tr.Match(b)
				for j := range h.Len() {
					tr.Holder(h, j)
				}
				if rng.IntN(10) == 0 {
					h = Hit{}
				}
				tr.Insert(w, b, now, h)
				h.Up()
				if tr.Bytes() > tr.Budget() {
					t.Errorf("%d bytes, the budget is %d", tr.Bytes(), tr.Budget())
				}
				if i%100 == 99 {
					tr.Leave(w)
					if h := tr.Match(b); h.Holds(w) {
						t.Error("who has left is named")
					}
					w = tr.Join(nil)
				}
				if i%17 == 0 {
					tr.Tend(100_000, 8)
				}
			}
			tr.Leave(w)
		})
	}
	wg.Wait()
	audit(t, tr)
	if !tr.Tend(0, 1<<20) || tr.Bytes() != 0 || tr.Size() != 0 {
		t.Errorf("all have left, but %d bytes, %d of text", tr.Bytes(), tr.Size())
	}
}

func TestTenThousandTenants(t *testing.T) {
	tr := New(8 << 20)
	ws := make([]*Tenant, few(10_000))
	for i := range ws {
		ws[i] = tr.Join(nil)
		tr.Insert(ws[i], conversation(0, 3), start, Hit{})
	}
	b := conversation(0, 3)
	if h := tr.Match(b); h.Matched != len(b) || h.Len() != len(ws) {
		t.Errorf("%d tenants hold %d bytes, want %d and %d", h.Len(), h.Matched, len(ws), len(b))
	}
	audit(t, tr)
	for _, w := range ws {
		tr.Leave(w)
	}
	if !tr.Tend(0, 1<<20) || tr.Bytes() != 0 {
		t.Errorf("all have left, but %d bytes", tr.Bytes())
	}
}

func TestWhatIsKnownCostsNoAllocation(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	tr := New(64 << 20)
	a := tr.Join(nil)
	b := conversation(1, 50)
	now := start
	tr.Insert(a, b, now, Hit{})
	if n := testing.AllocsPerRun(100, func() {
		now = now.Add(time.Second)
		tr.Insert(a, b, now, tr.Match(b))
		tr.Tend(1<<40, 8)
	}); n != 0 {
		t.Errorf("a text that is known allocates %v times", n)
	}
	i := 0
	if n := testing.AllocsPerRun(100, func() {
		i++
		b = fmt.Appendf(b[:len(b)-3], "%03d", i)
		tr.Insert(a, b, now, tr.Match(b))
	}); n > 12 {
		t.Errorf("a text with a new end allocates %v times", n)
	}
}

func TestCommon(t *testing.T) {
	a := random(rand.New(rand.NewPCG(5, 6)), 2000)
	for i := range 1200 {
		b := bytes.Clone(a[:1200])
		b[i] ^= 1
		if got := common(a, b); got != i {
			t.Fatalf("%d bytes are common, want %d", got, i)
		}
		if got := common(a[:i], a); got != i {
			t.Fatalf("%d bytes are common, want %d", got, i)
		}
	}
}

func TestClass(t *testing.T) {
	for _, n := range []int{1, 8, 9, 16, 17, 48, 100, 1000, 1025, 5000, 32767, 32768, 32769, 70000} {
		if got, want := class(int64(n)), int64(cap(append([]byte(nil), make([]byte, n)...))); got != want {
			t.Errorf("%d bytes take %d, want %d", n, got, want)
		}
	}
}
