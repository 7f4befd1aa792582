package wasm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
)

// poker is a core module that does to its memory what it is told. It has 20 pages
// with "abc" at 1,000 and "xyz" at 700,000, and the functions poke(at, byte),
// fill(at, n), copy(to, n), read(at), grow(pages) and spin(times).
var poker = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x0f\x03\x60\x02\x7f\x7f\x00\x60\x01\x7f\x01\x7f\x60\x01\x7f\x00" + // types: (i32, i32), (i32) -> i32, (i32)
	"\x03\x07\x06\x00\x00\x00\x01\x01\x02" +
	"\x05\x03\x01\x00\x14" + // its memory
	"\x06\x06\x01\x7f\x01\x41\x07\x0b" + // a mutable global
	"\x07\x34\x07\x06memory\x02\x00\x04poke\x00\x00\x04fill\x00\x01\x04copy\x00\x02\x04read\x00\x03\x04grow\x00\x04\x04spin\x00\x05" +
	"\x0a\x44\x06" +
	"\x09\x00\x20\x00\x20\x01\x3a\x00\x00\x0b" + // poke
	"\x0c\x00\x20\x00\x41\xff\x01\x20\x01\xfc\x0b\x00\x0b" + // fill
	"\x0d\x00\x20\x00\x41\xe8\x07\x20\x01\xfc\x0a\x00\x00\x0b" + // copy
	"\x07\x00\x20\x00\x2d\x00\x00\x0b" + // read
	"\x06\x00\x20\x00\x40\x00\x0b" + // grow
	"\x0e\x00\x03\x40\x20\x00\x41\x01\x6b\x22\x00\x0d\x00\x0b\x0b" + // spin
	"\x0b\x14\x02\x00\x41\xe8\x07\x0b\x03abc\x00\x41\xe0\xdc\x2a\x0b\x03xyz")

// pokers makes n instances of poker that are put back to one snapshot.
func pokers(t testing.TB, n int) []*instance {
	t.Helper()
	ctx := t.Context()
	m, err := core.Decode(poker, 0)
	if err != nil {
		t.Fatal(err)
	}
	limits := DefaultLimits()
	out, err := core.Rewrite(m, core.Options{Stack: limits.Stack})
	if err != nil {
		t.Fatal(err)
	}
	c := &code{plan: new(component.Plan), limits: limits, rt: newRuntime(ctx, limits, nil)}
	t.Cleanup(func() { c.close(ctx) })
	compiled, err := compileCore(ctx, c.rt, m, out)
	if err != nil {
		t.Fatal(err)
	}
	c.parts = []part{{compiled: compiled, rewrite: out, name: partName(0)}}
	var s *snapshot
	var all []*instance
	for range n {
		in, err := c.newInstance(&allocator{limit: 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if s == nil {
			if s, err = in.snapshot(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.close)
		}
		if err := in.adopt(s); err != nil {
			t.Fatal(err)
		}
		all = append(all, in)
	}
	return all
}

// tell calls a function of a poker.
func (in *instance) tell(f string, args ...uint64) error {
	var st [2]uint64
	copy(st[:], args)
	return in.mods[0].ExportedFunction(f).CallWithStack(in.ctx, st[:])
}

// mended says what in has that its snapshot has not, "" for nothing: in its
// memory, and where that would grow to.
func (in *instance) mended() string {
	m := in.memories[0]
	b, _ := in.grow[0].Read(0, in.grow[0].Size())
	switch {
	case len(b) != len(m.image.view):
		return fmt.Sprintf("it has %d bytes, want %d", len(b), len(m.image.view))
	case in.globals[0].Get() != in.snap.globals[0]:
		return "its global is another"
	case bytes.Equal(b, m.image.view) && zero(m.base[len(b):m.open]):
		return ""
	}
	for i, c := range m.base[:m.open] {
		want := byte(0)
		if i < len(b) {
			want = m.image.view[i]
		}
		if c != want {
			return fmt.Sprintf("at %#x is %d, want %d", i, c, want)
		}
	}
	panic("BUG: two ways to compare differ")
}

// watched runs f as a call of in, and puts in back. It reports whether nothing
// had to be looked for.
func (in *instance) watched(t testing.TB, f func()) (quiet bool) {
	t.Helper()
	in.begin(1)
	f()
	in.end()
	quiet = in.watch.calls > 0 && !in.watch.noisy
	if err := in.reset(); err != nil {
		t.Fatal(err)
	}
	return quiet
}

func needsWatch(t testing.TB) {
	t.Helper()
	if err := testFaults(); err != nil {
		t.Skipf("memory is not watched here: %v", err)
	}
}

// TestNothingStaysOfWhatAGuestWrites: guests that write where they have not
// written before, by all the ways there are, after calls in which they did not.
func TestNothingStaysOfWhatAGuestWrites(t *testing.T) {
	page := uint64(osPage)
	for _, tt := range []struct {
		name string
		f    func(in *instance)
	}{
		{"nothing", func(*instance) {}},
		{"a byte elsewhere", func(in *instance) { _ = in.tell("poke", 300*page, 1) }},
		{"a byte that it has read", func(in *instance) { _ = in.tell("read", 200*page); _ = in.tell("poke", 200*page, 1) }},
		{"beside what it has read", func(in *instance) { _ = in.tell("read", 200*page); _ = in.tell("poke", 201*page, 1) }},
		{"over its data", func(in *instance) { _ = in.tell("poke", 700_000, 0); _ = in.tell("poke", 1001, 0) }},
		{"across two pages", func(in *instance) { _ = in.tell("fill", 100*page-1, 2) }},
		{"all of it", func(in *instance) { _ = in.tell("fill", 0, 320*page) }},
		{"a copy", func(in *instance) { _ = in.tell("copy", 50*page, 9*page) }},
		{"every other page", func(in *instance) {
			for p := uint64(0); p < 320; p += 2 {
				_ = in.tell("poke", p*page+7, 9)
			}
		}},
		{"then a trap", func(in *instance) { _ = in.tell("poke", 77*page, 1); _ = in.tell("poke", 1<<31, 1); in.rearm() }},
		{"then it gives way", func(in *instance) { _ = in.tell("poke", 78*page, 1); _ = in.tell("spin", 100_000) }},
		{"when it has given way", func(in *instance) { _ = in.tell("spin", 100_000); _ = in.tell("poke", 79*page, 1) }},
		{"what it has grown by", func(in *instance) { _ = in.tell("grow", 2); _ = in.tell("fill", 320*page, 32*page) }},
		{"some of that", func(in *instance) { _ = in.tell("grow", 3); _ = in.tell("poke", 367*page, 5) }},
		{"a little, where it had grown by more", func(in *instance) { _ = in.tell("grow", 1); _ = in.tell("poke", 10*page, 5) }},
		{"more than is kept", func(in *instance) { _ = in.tell("grow", 100); _ = in.tell("fill", 319*page, 1500*page) }},
		{"what it is not told of", func(in *instance) { _ = in.tell("grow", 100) }},
		{"by the host's hand", func(in *instance) { in.grow[0].Write(uint32(40*page-3), []byte("hello")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := pokers(t, 1)[0]
			habit := func() { _ = in.tell("poke", 500, 1); _ = in.tell("poke", 2*page, 1) }
			for range 3 { // that it gets used to it, and again
				for range 3 {
					in.watched(t, habit)
				}
				in.watched(t, func() { habit(); tt.f(in) })
				if wrong := in.mended(); wrong != "" {
					t.Fatal(wrong)
				}
				in.watched(t, func() { _ = in.tell("grow", 8) }) // no fault, but more memory
				in.watched(t, func() { habit(); tt.f(in) })
				if wrong := in.mended(); wrong != "" {
					t.Fatalf("again: %s", wrong)
				}
			}
		})
	}
}

// TestAGuestWithHabitsIsNotLookedAt holds that the watch is of use.
func TestAGuestWithHabitsIsNotLookedAt(t *testing.T) {
	needsWatch(t)
	in := pokers(t, 1)[0]
	quiet, calls := 0, 0
	for ; quiet < 50 && calls < 5000; calls++ { // faults of Go's own memory, or when the machine has little, are counted too
		if in.watched(t, func() { _ = in.tell("poke", 500, uint64(calls)) }) {
			quiet++
		}
	}
	if quiet < 50 {
		t.Errorf("%d of %d calls are known to write where others did, want 50", quiet, calls)
	}
	if in.watched(t, func() { _ = in.tell("poke", 9*uint64(osPage), 1) }) {
		t.Error("a call that writes to another page is taken for one that does not")
	}
	if len(in.memories[0].own) != 2 {
		t.Errorf("%d pieces are its own, want 2", len(in.memories[0].own))
	}
}

// TestCallsThatAreNotWatchedAreLookedAt: who calls a guest without begin and end
// gets it put back all the same.
func TestCallsThatAreNotWatchedAreLookedAt(t *testing.T) {
	in := pokers(t, 1)[0]
	for p := range 20 {
		in.watched(t, func() { _ = in.tell("poke", 500, 1) })
		_ = in.tell("poke", uint64((20+p)*osPage), 1)
		if err := in.reset(); err != nil {
			t.Fatal(err)
		}
		if wrong := in.mended(); wrong != "" {
			t.Fatal(wrong)
		}
	}
}

// TestInstancesThatChangeThreadsAreMended: random writes, by guests that change
// from one goroutine to another and give way while they run.
func TestInstancesThatChangeThreadsAreMended(t *testing.T) {
	const instances, workers = 5, 4
	calls := 400
	if raceEnabled { // where comparing memory takes long
		calls = 50
	}
	ready := make(chan *instance, instances)
	for _, in := range pokers(t, instances) {
		ready <- in
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(6, uint64(w)))
			var garbage [][]byte
			for range calls {
				in := <-ready
				in.watched(t, func() {
					for range r.IntN(4) {
						size := uint64(in.grow[0].Size())
						switch r.IntN(8) {
						case 0:
							_ = in.tell("grow", r.Uint64N(12))
						case 1:
							_ = in.tell("fill", r.Uint64N(size), r.Uint64N(5*uint64(osPage)))
						case 2:
							_ = in.tell("spin", r.Uint64N(50_000)+1)
						case 3:
							runtime.Gosched()
						case 4:
							garbage = append(garbage[len(garbage)/2:], bytes.Repeat([]byte{1}, 20_000)) // faults that are not the guest's
						default:
							_ = in.tell("poke", r.Uint64N(size), 1)
						}
					}
					in.rearm()
				})
				if wrong := in.mended(); wrong != "" {
					t.Error(wrong)
				}
				ready <- in
			}
		})
	}
	wg.Wait()
}

// TestTheSystemCountsFaults tells whether memory is watched where this is run.
func TestTheSystemCountsFaults(t *testing.T) {
	needsWatch(t)
	in := pokers(t, 1)[0]
	if !in.watch.on || !in.memories[0].known {
		t.Errorf("watched: %v, known: %v; want both", in.watch.on, in.memories[0].known)
	}
}
