package breaker

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// A script is a list of steps. "ok", "fail" and "meh" are a request that
// passes and how it ends; "go" is one that passes and stays out, "=ok" the end
// of one that is out; "deny" is one that must not pass; "+3s" lets time go by;
// "reset" resets.
func TestBreaker(t *testing.T) {
	usual := Config{Failures: 3, Successes: 2, Rest: 10 * time.Second, Window: time.Minute}
	tests := []struct {
		name   string
		cfg    Config
		script string
		want   State
	}{
		{"starts closed", usual, "", Closed},
		{"one failure is forgiven", usual, "fail ok", Closed},
		{"opens after three in a row", usual, "fail fail fail deny", Open},
		{"a success resets the count", usual, "fail fail ok fail fail", Closed},
		{"what says nothing does not", usual, "fail fail meh fail deny", Open},
		{"a failure long after the last begins anew", usual, "fail fail +61s fail fail", Closed},
		{"within the window it does not", usual, "fail +59s fail +59s fail deny", Open},
		{"no window, no bound", Config{Failures: 2, Successes: 1, Rest: time.Second}, "fail +9000s fail deny", Open},
		{"early is too early", usual, "fail fail fail +9s deny", Open},
		{"tries after the rest", usual, "fail fail fail +10s ok", HalfOpen},
		{"two successes close it", usual, "fail fail fail +10s ok ok", Closed},
		{"a failed trial rests again", usual, "fail fail fail +10s ok fail deny +9s deny +1s ok ok", Closed},
		{"two trials at once", usual, "fail fail fail +10s go go deny =ok go deny =ok", Closed},
		{"a trial that says nothing gives its place back", usual, "fail fail fail +10s go go =meh go deny", HalfOpen},
		{"a trial's end after another's failure changes nothing", usual, "fail fail fail +10s go go =fail =ok deny", Open},
		{"counts from zero when closed again", usual, "fail fail fail +10s ok ok fail fail", Closed},
		{"a late failure while open changes nothing", usual, "go fail fail fail +9s =fail +1s ok", HalfOpen},
		{"disabled, nothing opens it", Config{Failures: 1, Disabled: true}, "fail fail fail ok", Closed},
		{"reset closes", usual, "fail fail fail deny reset ok", Closed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(0, 0)
			b := New(tt.cfg)
			for _, step := range strings.Fields(tt.script) {
				run(t, b, &now, step)
			}
			if got := b.State(); got != tt.want {
				t.Errorf("State() = %v, want %v", got, tt.want)
			}
		})
	}
}

func run(t *testing.T, b *Breaker, now *time.Time, step string) {
	t.Helper()
	ends := map[string]Outcome{"ok": Success, "fail": Failure, "meh": Neutral}
	if d, ok := strings.CutPrefix(step, "+"); ok {
		dt, err := time.ParseDuration(d)
		if err != nil {
			t.Fatal(err)
		}
		*now = now.Add(dt)
		return
	}
	if how, ok := strings.CutPrefix(step, "="); ok {
		b.Done(*now, ends[how])
		return
	}
	if step == "reset" {
		b.Reset()
		return
	}
	usable := b.Usable(*now)
	allowed := b.Allow(*now)
	if want := step != "deny"; allowed != want {
		t.Fatalf("at %q: Allow() = %v, want %v", step, allowed, want)
	}
	if allowed && !usable {
		t.Errorf("at %q: Usable() said no, Allow() yes", step)
	}
	if o, ok := ends[step]; ok {
		was := b.State()
		s, changed := b.Done(*now, o)
		if s != b.State() || changed != (s != was) {
			t.Errorf("at %q: Done() = %v, %v; was %v, is %v", step, s, changed, was, b.State())
		}
	}
}

func TestNotify(t *testing.T) {
	var got []string
	b := New(Config{Failures: 1, Successes: 1, Rest: time.Second})
	b.Notify(func(from, to State) { got = append(got, fmt.Sprintf("%v>%v", from, to)) })
	now := time.Unix(0, 0)
	eras := map[uint64]bool{b.Era(): true}
	for _, step := range strings.Fields("fail +1s fail +1s ok fail reset reset") {
		run(t, b, &now, step)
		eras[b.Era()] = true
	}
	if got, want := strings.Join(got, " "), "closed>open open>half_open half_open>open open>half_open half_open>closed closed>open open>closed"; got != want {
		t.Errorf("heard %s\nwant  %s", got, want)
	}
	if len(eras) != 6 {
		t.Errorf("%d eras seen, want 6", len(eras))
	}
}

func TestCountsAndRest(t *testing.T) {
	now := time.Unix(0, 0)
	b := New(Config{Failures: 3, Successes: 2, Rest: time.Second})
	for _, step := range strings.Fields("fail fail") {
		run(t, b, &now, step)
	}
	if got := b.Failures(); got != 2 {
		t.Errorf("Failures() = %d, want 2", got)
	}
	if _, open := b.RestEnds(); open {
		t.Error("RestEnds() of a closed breaker")
	}
	run(t, b, &now, "fail")
	if end, open := b.RestEnds(); !open || !end.Equal(now.Add(time.Second)) {
		t.Errorf("RestEnds() = %v, %v; want a second from now", end, open)
	}
	if b.Usable(now) || !b.Usable(now.Add(time.Second)) || b.State() != Open {
		t.Error("Usable() must follow the rest, and change nothing")
	}
	now = now.Add(time.Second)
	run(t, b, &now, "ok")
	if b.Failures() != 0 || b.Successes() != 1 {
		t.Errorf("Failures() = %d, Successes() = %d; want 0, 1", b.Failures(), b.Successes())
	}
	b.Configure(Config{Failures: 1, Successes: 1, Disabled: true})
	if b.State() != Closed {
		t.Errorf("disabled while half-open: %v, want closed", b.State())
	}
}

// Many at once: trials stay bounded, and every place is given back.
func TestConcurrentTrials(t *testing.T) {
	b := New(Config{Failures: 1, Successes: 3, Rest: time.Millisecond})
	b.Done(time.Unix(0, 0), Failure)
	now := time.Unix(1, 0)
	var mu sync.Mutex
	out, most := 0, 0 // guarded by mu
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if !b.Allow(now) {
					continue
				}
				mu.Lock()
				out++
				most = max(most, out)
				out--
				b.Done(now, Neutral)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if b.State() != HalfOpen || most == 0 || most > 3 {
		t.Errorf("state %v, at most %d trials at once; want half-open, 1 to 3", b.State(), most)
	}
	for i := range 3 {
		if !b.Allow(now) {
			t.Errorf("place %d was not given back", i)
		}
	}
}

func TestHealthyBreakerDoesNotAllocate(t *testing.T) {
	b, now := New(DefaultConfig()), time.Unix(0, 0)
	if n := testing.AllocsPerRun(100, func() { b.Allow(now); b.Done(now, Success); b.Done(now, Failure); b.Done(now, Success) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkAllowDone(b *testing.B) {
	br, now := New(DefaultConfig()), time.Unix(0, 0)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			br.Allow(now)
			br.Done(now, Success)
		}
	})
}

func TestEveryWrongSettingIsToldByItself(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	err := Config{Rest: -1, Window: -1}.Validate()
	want := "cb-failure-threshold must be at least 1\ncb-success-threshold must be at least 1\n" +
		"cb-timeout-duration-secs must not be negative\ncb-window-duration-secs must not be negative"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
