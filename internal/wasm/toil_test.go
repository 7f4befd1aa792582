package wasm

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// alone loads a module on an Engine that does not run: nobody but the module's own
// calls looks how long they take.
func alone(t testing.TB, binary []byte, change func(*Settings)) *Module {
	t.Helper()
	e, err := NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	set := DefaultSettings()
	if change != nil {
		change(&set)
	}
	m, err := e.Load(t.Context(), binary, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// file reads a module.
func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// toilers are modules that let the host work (toil.wat), by their kind.
func toilers(t testing.TB, change func(*Settings)) map[string]*Module {
	return map[string]*Module{
		"component": alone(t, file(t, "testdata/toil.wasm"), change),
		"http-wasm": alone(t, file(t, "httpwasm/testdata/toil.wasm"), change),
	}
}

// TestWorkOfTheHostIsCounted holds that a guest ends in time that does little and
// has the host do much.
func TestWorkOfTheHostIsCounted(t *testing.T) {
	all := toilers(t, func(s *Settings) { s.Time = 200 * time.Microsecond })
	for kind, letters := range map[string]string{"component": "stagc", "http-wasm": "nvwWpr"} {
		for _, letter := range letters {
			t.Run(fmt.Sprintf("%s/%c", kind, letter), func(t *testing.T) {
				c := &Call{Store: NewStore()}
				defer c.Release()
				r := asked(string(letter))
				if letter == 't' {
					c.State = make([]byte, MaxState)
				}
				if err := all[kind].OnRequest(t.Context(), c, r, new(Action)); kindOf(err) != "timeout" {
					t.Errorf("got %v, want a timeout", err)
				}
			})
		}
	}
}

// TestLongBodiesAreCounted holds that a call ends in time whose time goes by while
// a body is copied for the guest, or from it.
func TestLongBodiesAreCounted(t *testing.T) {
	all := toilers(t, func(s *Settings) { s.Time = 200 * time.Microsecond })
	r := asked("B")
	err := all["component"].OnRequest(t.Context(), new(Call), r, new(Action))
	if kindOf(err) != "timeout" {
		t.Errorf("it answers with 40 MiB: %v, want a timeout", err)
	}
	r = asked("-")
	r.Body = make([]byte, 50<<20)
	if err = all["component"].OnRequest(t.Context(), new(Call), r, new(Action)); kindOf(err) != "timeout" {
		t.Errorf("it is given 50 MiB: %v, want a timeout", err)
	}
}

// TestWhatIsTooLargeIsNotCopied holds that sizes are looked at first.
func TestWhatIsTooLargeIsNotCopied(t *testing.T) {
	all := toilers(t, func(s *Settings) { s.Time = time.Minute })
	for _, tt := range []struct {
		kind, letter string
		want         string
	}{
		{"component", "B", "answer: its action has a body of 41943040 bytes; at most 10485760 are allowed"},
		{"component", "H", "answer: its action has more than 1048576 bytes of names and values"},
		{"http-wasm", "W", "trap: it writes a body of more than 10485760 bytes"},
		{"http-wasm", "H", "trap: it gives more than 262144 bytes for headers"},
		{"http-wasm", "U", "trap: it sets the URI to "},
		{"http-wasm", "M", "trap: it sets the method to "},
	} {
		t.Run(tt.kind+"/"+tt.letter, func(t *testing.T) {
			var a Action
			c := &Call{MaxBody: 10 << 20}
			err := all[tt.kind].OnRequest(t.Context(), c, asked(tt.letter), &a)
			if !strings.HasPrefix(fmt.Sprint(err), tt.want) || len(fmt.Sprint(err)) > 1000 {
				t.Errorf("got %.1000v\nwant %s", err, tt.want)
			}
			if n := cap(a.mem) + cap(a.changes.Body); n > 4<<20 {
				t.Errorf("%d bytes were copied", n)
			}
		})
	}
}

// TestWhatNobodyReadsIsNotLookedAt holds that lines under the log's level cost
// nothing: these are no text, which nobody sees, and are not counted either.
func TestWhatNobodyReadsIsNotLookedAt(t *testing.T) {
	m := toilers(t, func(s *Settings) { s.Time = time.Minute })["component"]
	var said strings.Builder
	c := &Call{Log: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelInfo}))}
	if err := m.OnRequest(t.Context(), c, asked("d"), new(Action)); err != nil || said.Len() > 0 || c.Out.Lost > 0 {
		t.Errorf("%v, %q, %d bytes lost", err, said.String(), c.Out.Lost)
	}
}

// TestKeysAreNotCut holds that keys that differ behind what is kept of them are not
// taken for one.
func TestKeysAreNotCut(t *testing.T) {
	m := toilers(t, func(s *Settings) { s.Time = time.Minute })["component"]
	c := &Call{Store: NewStore()}
	if err := m.OnRequest(t.Context(), c, asked("K"), new(Action)); err != nil {
		t.Errorf("a key of 256 bytes: %v", err)
	}
	if err := m.OnRequest(t.Context(), c, asked("k"), new(Action)); fmt.Sprint(err) != "trap: a key of 257 bytes; at most 256 are allowed" {
		t.Errorf("a key of 257 bytes: %v", err)
	}
}

func TestNumbersStayAtTheirEnds(t *testing.T) {
	s := NewStore()
	for _, tt := range []struct{ by, want int64 }{
		{math.MaxInt64, math.MaxInt64},
		{1, math.MaxInt64},
		{math.MaxInt64, math.MaxInt64},
		{-1, math.MaxInt64 - 1},
		{math.MinInt64, -2},
		{math.MinInt64, math.MinInt64},
		{-1, math.MinInt64},
		{1, math.MinInt64 + 1},
	} {
		if got := s.Add("k", tt.by, 0); got != tt.want {
			t.Errorf("with %d more it is %d, want %d", tt.by, got, tt.want)
		}
	}
}

func TestTextsAreCutBetweenLetters(t *testing.T) {
	for _, tt := range []struct {
		text string
		most int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"aé", 2, "a"}, {"aé", 3, "aé"}, {"a€b", 3, "a"}, {"a€b", 4, "a€"}, {"😀😀", 7, "😀"},
	} {
		if got := string(head([]byte(tt.text), tt.most)); got != tt.want {
			t.Errorf("%q in %d bytes is %q, want %q", tt.text, tt.most, got, tt.want)
		}
	}
}

// slow is an http-wasm module that counts to 5 million when it starts, which takes
// some milliseconds.
var slow = least("\x03\x40" + "\x41\x00\x41\x00\x28\x02\x00\x41\x01\x6a\x36\x02\x00" +
	"\x41\x00\x28\x02\x00\x41\xc0\x96\xb1\x02\x49\x0d\x00" + "\x0b")

// TestAnInstanceOfACallStartsInItsTime holds that who calls a module that is
// started for each call waits no longer than the call may take.
func TestAnInstanceOfACallStartsInItsTime(t *testing.T) {
	for _, tt := range []struct {
		is   Isolation
		want string
	}{
		{Fresh, "timeout: it did not start within 1ms, which is what its start and the call may take together"},
		{Snapshot, "<nil>"}, // it is one more for all
	} {
		m := alone(t, slow, func(s *Settings) { s.Time, s.Isolation = time.Millisecond, tt.is })
		in := m.take() // that was made at registration
		if in == nil {
			t.Fatal("none stands ready")
		}
		c := new(Call)
		err := m.OnRequest(t.Context(), c, asked("-"), new(Action))
		c.Release()
		if fmt.Sprint(err) != tt.want {
			t.Errorf("%s: got %v\nwant %s", tt.is, err, tt.want)
		}
		m.put(in)
	}
}

// TestTheStartIsOfTheCall holds that the time of a start is gone for the call that
// it was for, and only for that.
func TestTheStartIsOfTheCall(t *testing.T) {
	m := alone(t, least(""), func(s *Settings) { s.Isolation = Fresh })
	for _, ready := range []bool{true, false, true} {
		m.engine.now.Add(10)
		begun := time.Now()
		c := new(Call)
		in, err := m.enter(t.Context(), c, OnRequest)
		if err != nil {
			t.Fatal(err)
		}
		if counts := !in.began.IsZero() && !in.began.Before(begun); counts == ready {
			t.Errorf("the start counts: %v, want %v", counts, !ready)
		}
		if err := m.leave(in, nil); err != nil {
			t.Fatal(err)
		}
		if ready { // refill, which nobody does here
			continue
		}
		m.room()
		if in, err = m.instance(nil); err != nil {
			t.Fatal(err)
		}
		m.put(in)
	}
}

// TestACallHasNoMoreTimeThanItsRequest holds that a call ends when its Limit is
// over, be it that the guest works or that it waits for its turn, and that the
// next one has again all that the Module gives.
func TestACallHasNoMoreTimeThanItsRequest(t *testing.T) {
	spin := func() *Request {
		r := asked("-")
		r.Query = "request=spin"
		return r
	}
	for _, is := range []Isolation{Snapshot, Fresh, Shared} {
		m := alone(t, file(t, "testdata/every.wasm"), func(s *Settings) { s.Time, s.Isolation, s.Instances = time.Hour, is, 1 })
		for _, ready := range []bool{true, false} { // else it is started for the call
			if !ready && is != Fresh {
				continue
			}
			c := &Call{Limit: 20 * time.Millisecond, Store: NewStore()}
			if err := m.OnRequest(t.Context(), c, spin(), new(Action)); kindOf(err) != "timeout" {
				t.Errorf("%s, ready %t: got %v, want a timeout", is, ready, err)
			}
		}
		c := &Call{Store: NewStore()}
		in, err := m.enter(t.Context(), c, OnRequest)
		if err != nil {
			t.Fatal(err)
		}
		if got := time.Duration(in.limit.Load()); got != time.Hour {
			t.Errorf("%s: the next call may take %v, want an hour", is, got)
		}
		late := &Call{Limit: 20 * time.Millisecond, Store: NewStore()}
		if err := m.OnRequest(t.Context(), late, spin(), new(Action)); kindOf(err) != "busy" {
			t.Errorf("%s: with no instance free: got %v, want busy", is, err)
		}
		if err := m.leave(in, nil); err != nil {
			t.Fatal(err)
		}
	}
	slow := alone(t, file(t, "testdata/every.wasm"), nil)
	for range slow.set.Instances {
		if in := slow.take(); in == nil {
			break // the next is started for the call
		}
	}
	c := &Call{Limit: time.Minute, Store: NewStore()}
	if err := slow.OnRequest(t.Context(), c, asked("-"), new(Action)); err != nil || c.Limit >= time.Minute || c.Limit <= 0 {
		t.Errorf("a call that an instance was started for: %v; it could take %v", err, c.Limit)
	}
	answer := loadHTTP(t, file(t, "httpwasm/testdata/guest.wasm"), func(s *Settings) { s.Time = time.Hour })
	c = new(Call)
	if err := answer.OnRequest(t.Context(), c, asked("J"), new(Action)); err != nil {
		t.Fatal(err)
	}
	c.Limit = 20 * time.Millisecond
	if err := answer.OnEnd(t.Context(), c, &Summary{Status: 200}); kindOf(err) != "timeout" {
		t.Errorf("handle_response: got %v, want a timeout", err)
	}
}
