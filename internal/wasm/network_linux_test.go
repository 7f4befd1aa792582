package wasm

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/internal/wasm/core"
)

// TestWhoRunsForLongLetsTheNetworkIn holds that a goroutine that waits for a
// socket goes on although another one never stops. With one processor the
// scheduler would look at the network only every 10 ms.
func TestWhoRunsForLongLetsTheNetworkIn(t *testing.T) {
	if _, err := network(); err != nil {
		t.Skipf("no doorbell: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()

	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var got atomic.Int32
	var reading sync.WaitGroup
	reading.Go(func() {
		b := make([]byte, 1)
		for {
			if _, err := far.Read(b); err != nil {
				return
			}
			got.Add(1)
		}
	})
	w := watch{slices: fewSlices}
	for i := range int32(20) {
		if _, err := near.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		n := 0
		for ; got.Load() <= i && n < 200; n++ { // that is much less than 10 ms
			w.rest()
		}
		if n == 200 {
			t.Fatal("what came over the network was not looked at for 200 slices")
		}
	}
	near.Close()
	reading.Wait()
}

// TestManyWaitForTheNetworkAtOnce holds that each goes on.
func TestManyWaitForTheNetworkAtOnce(t *testing.T) {
	if _, err := network(); err != nil {
		t.Skipf("no doorbell: %v", err)
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			w := watch{slices: fewSlices}
			for range 200 {
				w.rest()
			}
		})
	}
	all.Wait()
}

// TestACallHasAllOfASlice holds that short calls do not even look at the clock,
// however many there were before.
func TestACallHasAllOfASlice(t *testing.T) {
	in := pokers(t, 1)[0]
	for range 100 {
		in.watched(t, func() { _ = in.tell("spin", 3000) })
		if in.looks > 0 {
			t.Fatal("it looks at the clock in the middle of a call that needs a third of a slice")
		}
	}
	if in.watched(t, func() { _ = in.tell("spin", 100_000) }); in.looks < 9 {
		t.Errorf("it looks at the clock %d times in a call that needs ten slices", in.looks)
	}
}

// TestWhoRunsForLongCedesTheProcessor holds that other processes get a turn beside
// guests that run for long.
func TestWhoRunsForLongCedesTheProcessor(t *testing.T) {
	before := cede
	t.Cleanup(func() { cede = before })
	ceded := 0
	cede = func() { ceded++; before() }
	set := DefaultSettings()
	set.Time = 500 * time.Millisecond
	m := loadFile(t, "testdata/every.wasm", set)
	r := request(0)
	r.Query = "request=spin"
	begin := time.Now()
	if err := m.OnRequest(t.Context(), &Call{Store: NewStore()}, r, new(Action)); err == nil {
		t.Error("it ends by itself")
	}
	if most := int(time.Since(begin) / cedeEvery); ceded < 1 || ceded > most {
		t.Errorf("the processor is ceded %d times in %d ms", ceded, most)
	}
}

// TestWhoseTurnIsOver: the processor is ceded by calls that have run for long, and
// not all the time.
func TestWhoseTurnIsOver(t *testing.T) {
	var turn turn
	begin := time.Unix(1_000_000_000, 0)
	for _, tt := range []struct {
		at, ran time.Duration
		want    bool
	}{
		{0, 0, false},
		{0, longCall - 1, false},
		{0, longCall, true},
		{0, longCall, false}, // another's
		{cedeEvery - 1, time.Second, false},
		{cedeEvery, longCall - 1, false},
		{cedeEvery, time.Second, true},
		{cedeEvery + 1, time.Second, false},
		{time.Hour, time.Hour, true},
		{-time.Hour, time.Second, true}, // the clock was set
	} {
		if got := turn.over(begin.Add(tt.at), tt.ran); got != tt.want {
			t.Errorf("at %s, of a call that has run for %s: %v, want %v", tt.at, tt.ran, got, tt.want)
		}
	}
}

// TestSlicesThatTakeLongAreCut: a guest that waits for memory at each instruction
// has short slices, in its next calls too, and longer ones again once they do not
// take long for a while.
func TestSlicesThatTakeLongAreCut(t *testing.T) {
	in := pokers(t, 1)[0]
	ended := func(after time.Duration) int32 {
		in.looks++
		in.adapt(in.looked + after)
		in.looked += after
		if got := int32(in.stops[0].slice.Get()); got != in.slice {
			t.Errorf("the guest's slice is %d, want %d", got, in.slice)
		}
		return in.slice
	}
	call := func(tick int64, first int32) {
		t.Helper()
		in.begin(tick)
		if in.slice != first || int32(in.stops[0].fuel.Get()) != first {
			t.Errorf("a call at %d begins with slices of %d, want %d", tick, in.slice, first)
		}
		in.looks, in.looked, in.slow, in.slows = 1, 0, 0, 0 // the first is not measured
	}

	call(5, firstSlice)
	for range 5 {
		ended(time.Second)
		ended(0)
	}
	in.end()

	call(10, firstSlice) // for the system had interrupted it
	for _, tt := range []struct {
		took time.Duration
		want int32
	}{
		{time.Microsecond, core.Slice},
		{longSlice, core.Slice},
		{4 * longSlice, core.Slice / 4},
		{longSlice, core.Slice / 4}, // as long as it may be
		{time.Second, leastSlice},
		{time.Microsecond, leastSlice}, // not at once
		{longerEvery, leastSlice},      // it was that slice itself that took long
	} {
		if got := ended(tt.took); got != tt.want {
			t.Errorf("after a slice of %s the next are of %d, want %d", tt.took, got, tt.want)
		}
	}
	for range 10 * int(longerEvery/(100*time.Microsecond)) {
		ended(100 * time.Microsecond)
	}
	if in.slice != core.Slice {
		t.Errorf("after ten times %s of short slices they are of %d, want %d", longerEvery, in.slice, core.Slice)
	}
	in.end()

	until := in.code.wary.Load()
	call(until-1, waryFirst)
	if got := ended(longSlice / 2); got != 2*waryFirst {
		t.Errorf("slices are of %d after one of %d that took %s, want %d", got, waryFirst, longSlice/2, 2*waryFirst)
	}
	in.end()
	call(until, firstSlice)
	in.end()
}

// TestMemoryThatAGuestGrowsByIsPaidFor holds that a guest looks at the clock more
// often while it may be the first to write to its memory, and not when it got none.
func TestMemoryThatAGuestGrowsByIsPaidFor(t *testing.T) {
	for _, tt := range []struct {
		name        string
		grow        []uint64 // by so many pages
		spin        uint64
		least, most int // times that it looks
	}{
		{"nothing", nil, 2000, 0, 0},
		{"by nothing", []uint64{0, 0, 0}, 2000, 0, 0},
		{"by what there is not", []uint64{1 << 16, 1<<31 - 1, 1 << 31, 1<<32 - 1, 5000}, 2000, 0, 0},
		{"by a page", []uint64{1}, 2000, 0, 1},
		{"by pages, one after another", []uint64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 2000, 3, 4},
		{"by many", []uint64{100}, 2000, 25, 28},
		{"by many, and writes to some", []uint64{100}, 640, 10, 11},
		{"by many, and goes on for long", []uint64{100}, 1600 + 50_000, 29, 31},
	} {
		in := pokers(t, 1)[0]
		for range 2 { // the next call has paid for nothing yet
			in.watched(t, func() {
				for _, n := range tt.grow {
					_ = in.tell("grow", n)
				}
				_ = in.tell("spin", tt.spin)
			})
			if got := in.looks; got < tt.least || got > tt.most {
				t.Errorf("%s: it looks %d times, want %d to %d", tt.name, got, tt.least, tt.most)
			}
		}
	}
}

// BenchmarkRest is what giving way costs when nobody else is there: in the first
// slices of a call, and in later ones.
func BenchmarkRest(b *testing.B) {
	for name, slices := range map[string]int{"first": 0, "later": fewSlices} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var w watch
			for b.Loop() {
				w.slices = slices
				w.rest()
			}
		})
	}
}

// BenchmarkManySlices is a call that uses up a hundred of them.
func BenchmarkManySlices(b *testing.B) {
	in := pokers(b, 1)[0]
	b.ReportAllocs()
	for b.Loop() {
		in.watched(b, func() { _ = in.tell("spin", 1_000_000) })
	}
}
