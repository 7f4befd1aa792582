package sock

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

// listener is a Watcher.
type listener chan bool

func (l listener) HungUp(full bool) {
	select {
	case l <- full:
	default:
	}
}

func (l listener) next(t *testing.T) (full bool) {
	t.Helper()
	select {
	case full = <-l:
	case <-time.After(patience):
		t.Fatalf("no hang-up was told within %v", patience)
	}
	return full
}

func TestHangUpsAreTold(t *testing.T) {
	tests := []struct {
		name string
		do   func(far net.Conn)
		full bool // of a plain socket
	}{
		{"half", func(far net.Conn) {
			if u, ok := far.(interface{ NetConn() net.Conn }); ok {
				far = u.NetConn()
			}
			far.(interface{ CloseWrite() error }).CloseWrite()
		}, false},
		{"reset", func(far net.Conn) {
			if tc, ok := far.(*net.TCPConn); ok {
				tc.SetLinger(0)
			}
			far.Close()
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
				told := make(listener, 8)
				c := w.Add(near, told)
				defer c.Close()
				if c.HungUp() {
					t.Error("hung up before")
				}
				tt.do(far)
				if full := told.next(t); tt.full && !full {
					if !told.next(t) {
						t.Error("not told that both ways are closed")
					}
				} else if full && !tt.full && c.rc != nil {
					t.Error("told that both ways are closed")
				}
				if !c.HungUp() {
					t.Error("the Conn does not know")
				}
			})
		})
	}
}

// TestHangUpsAreSeen is what a system without a way to be told has.
func TestHangUpsAreSeen(t *testing.T) {
	w := watching(t)
	var p peeks
	p.begin()
	done := make(chan struct{})
	go func() {
		p.run(w)
		close(done)
	}()
	for _, reset := range []bool{false, true} {
		near, far := pair(t, "tcp")
		told := make(listener, 8)
		c := &Conn{nc: near, watch: w, watcher: told}
		p.add(c)
		write(t, far, "unread")
		<-time.After(3 * peekEvery)
		select {
		case <-told:
			t.Error("bytes were taken for a hang-up")
		default:
		}
		near.Read(make([]byte, 16))
		if reset {
			far.(*net.TCPConn).SetLinger(0)
		}
		far.Close()
		told.next(t)
		p.mu.Lock()
		if len(p.conns) > 0 {
			t.Error("it is still looked at")
		}
		p.mu.Unlock()
		near.Close()
	}
	p.close()
	<-done
}

func TestInterrupt(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		for _, what := range []string{"during", "before"} {
			begun := make(chan struct{})
			r := &reader{begin: func() (bool, error) { close(begun); return true, nil }}
			go func() {
				<-begun
				c.Interrupt()
			}()
			if err := soon(t, what, func() error { return c.Receive(r) }); !errors.Is(err, ErrInterrupted) {
				t.Errorf("%s a wait: %v", what, err)
			}
			if !c.Interrupted() {
				t.Error("it does not know")
			}
			select {
			case <-begun:
			default:
				close(begun)
			}
		}
	})
}

func TestInterruptEndsAWrite(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		time.AfterFunc(50*time.Millisecond, c.Interrupt)
		err := soon(t, "write", func() error { return c.Write(make([]byte, 64<<20), 0) })
		if !errors.Is(err, ErrInterrupted) {
			t.Errorf("got %v", err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		c := w.Add(near, nil)
		defer c.Close()
		const d = 150 * time.Millisecond

		// One that is taken back does nothing.
		if err := c.Expire(d); err != nil {
			t.Fatal(err)
		}
		if err := c.Expire(0); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(d+4*Tick, func() { far.Write([]byte("x")) })
		if err := soon(t, "no deadline", func() error { return c.Receive(&reader{want: 1}) }); err != nil {
			t.Fatal(err)
		}

		// One that passes is never early, and at most two ticks late.
		watch := bubble.Begin(t)
		if err := c.Expire(d); err != nil {
			t.Fatal(err)
		}
		err := soon(t, "deadline", func() error { return c.Receive(&reader{}) })
		took, awake := watch.End()
		if !errors.Is(err, ErrExpired) {
			t.Fatalf("got %v", err)
		}
		if took < d || awake > d+2*Tick+time.Second {
			t.Errorf("after %v, want %v and no more than two ticks", took, d)
		}

		// What is over is over.
		if err := c.Expire(time.Hour); !errors.Is(err, ErrExpired) {
			t.Errorf("set again: %v", err)
		}
		if err := soon(t, "again", func() error { return c.Receive(&reader{}) }); !errors.Is(err, ErrExpired) {
			t.Errorf("waited again: %v", err)
		}
	})
}

// TestALateTickIsNotTheOtherEndsFault holds that a short deadline is not early
// when the last tick was too long ago, as on a machine with too much to do.
func TestALateTickIsNotTheOtherEndsFault(t *testing.T) {
	w, err := NewWatch() // does not Run: it has not ticked for ten seconds
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.start = w.start.Add(-10 * time.Second)
	near, far := net.Pipe()
	defer far.Close()
	c := w.Add(near, nil)
	defer c.Close()
	if err := c.Expire(time.Second); err != nil {
		t.Fatal(err)
	}
	w.sweep()
	if c.deadline.Load() == expired {
		t.Error("it passed at once")
	}
	w.start = w.start.Add(-time.Second)
	for range leniency {
		w.sweep()
	}
	if c.deadline.Load() != expired {
		t.Error("it did not pass")
	}
}

// TestStandingStillIsForgiven holds that whoever was in time, while the process
// stood still, is not taken for late; and that who is late then is so at last,
// also where the process does nothing but stand still.
func TestStandingStillIsForgiven(t *testing.T) {
	for _, always := range []bool{false, true} {
		w, err := NewWatch() // does not Run
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		conn := func() *Conn {
			near, far := net.Pipe()
			t.Cleanup(func() { near.Close(); far.Close() })
			c := w.Add(near, nil)
			if err := c.Expire(time.Second); err != nil {
				t.Fatal(err)
			}
			return c
		}
		w.sweep()
		prompt, slow := conn(), conn()
		for i := range leniency {
			if i == 0 || always {
				w.start = w.start.Add(-10 * time.Second)
			}
			w.sweep()
		}
		if err := prompt.Expire(0); err != nil {
			t.Errorf("always %v: who was in time: %v", always, err)
		}
		if always {
			w.start = w.start.Add(-10 * time.Second)
		}
		w.sweep()
		if err := slow.Expire(0); !errors.Is(err, ErrExpired) {
			t.Errorf("always %v: who was late: %v", always, err)
		}
	}
}

// slow makes a connection hold little, so that a write waits for its reader;
// but several of loopback's packets, or its end would be a matter of probes.
func slow(near, far net.Conn) {
	for _, nc := range []net.Conn{near, far} {
		if u, ok := nc.(interface{ NetConn() net.Conn }); ok {
			nc = u.NetConn()
		}
		if b, ok := nc.(interface {
			SetReadBuffer(int) error
			SetWriteBuffer(int) error
		}); ok {
			b.SetReadBuffer(256 << 10)
			b.SetWriteBuffer(256 << 10)
		}
	}
}

func TestReaderThatIsSlowIsWaitedFor(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		slow(near, far)
		c := w.Add(near, nil)
		defer c.Close()
		const stall, pieces = 600 * time.Millisecond, 20
		read := make(chan struct{})
		go func() {
			defer close(read)
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			p := make([]byte, 256<<10)
			for range pieces {
				<-tick.C
				if _, err := io.ReadFull(far, p); err != nil {
					return
				}
			}
		}()
		begin := time.Now()
		if err := soon(t, "write", func() error { return c.Write(make([]byte, pieces*256<<10), stall) }); err != nil {
			t.Fatalf("after %v: %v", time.Since(begin), err)
		}
		if took := time.Since(begin); took < stall+2*Tick {
			t.Errorf("took only %v: nothing was tested", took)
		}
		<-read
		if at := c.deadline.Load(); at != noDeadline {
			t.Errorf("a deadline is left: %v", at)
		}
	})
}

func TestReaderThatReadsNothingIsGivenUp(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		slow(near, far)
		c := w.Add(near, nil)
		defer c.Close()
		const stall = 200 * time.Millisecond
		watch := bubble.Begin(t)
		err := soon(t, "write", func() error { return c.Write(make([]byte, 8<<20), stall) })
		if !errors.Is(err, ErrExpired) {
			t.Errorf("got %v", err)
		}
		if took, awake := watch.End(); took < stall || awake > stall+2*Tick+time.Second {
			t.Errorf("after %v", took)
		}
	})
}

// TestEarlierDeadlineHoldsForWrites holds that patience with a reader does not
// lengthen what the whole may take.
func TestEarlierDeadlineHoldsForWrites(t *testing.T) {
	each(t, func(t *testing.T, w *Watch, near, far net.Conn) {
		slow(near, far)
		c := w.Add(near, nil)
		defer c.Close()
		if err := c.Expire(100 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		err := soon(t, "write", func() error { return c.Write(make([]byte, 8<<20), time.Hour) })
		if !errors.Is(err, ErrExpired) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWaits(t *testing.T) {
	w := watching(t)
	near, far := pair(t, "tcp")
	c := w.Add(near, nil)
	defer c.Close()

	var waits Waits
	if !waits.On(c) {
		t.Fatal("over before it began")
	}
	waits.Off()
	waits.End()
	if c.Interrupted() {
		t.Fatal("a Conn was interrupted after Off")
	}
	if waits.On(c) {
		t.Error("nobody said that it is over")
	}
	waits.Off()
	waits = Waits{}
	called := false
	if !waits.OnCall(func() { called = true }) {
		t.Error("over before it began")
	}
	waits.Off()
	if !waits.On(c) || called {
		t.Error("a call was cancelled that nobody waits for")
	}
	time.AfterFunc(20*time.Millisecond, waits.End)
	if err := soon(t, "wait", func() error { return c.Receive(&reader{}) }); !errors.Is(err, ErrInterrupted) {
		t.Errorf("got %v", err)
	}
	far.Close()
}

// TestWaitsNeverHitAfterOff lets End and Off race: whoever was not interrupted
// before Off returned is not afterwards.
func TestWaitsNeverHitAfterOff(t *testing.T) {
	w := watching(t)
	near, _ := pair(t, "tcp")
	for range 2000 {
		c := &Conn{nc: near, watch: w}
		var waits Waits
		waits.On(c)
		ended := make(chan struct{})
		go func() {
			waits.End()
			close(ended)
		}()
		waits.Off()
		was := c.Interrupted()
		<-ended
		if c.Interrupted() != was {
			t.Fatal("interrupted after Off")
		}
	}
	near.Close()
}

func TestAnotherConnInTheSamePlaceIsNotMeant(t *testing.T) {
	w := watching(t)
	near, _ := pair(t, "tcp")
	first := w.Add(near, nil)
	was := first.slot
	first.Close()
	first.Close() // once more is allowed, and frees nothing twice
	near, _ = pair(t, "tcp")
	second := w.Add(near, nil)
	defer second.Close()
	near, _ = pair(t, "tcp")
	third := w.Add(near, nil)
	defer third.Close()
	if second.slot.index != was.index || third.slot.index == was.index {
		t.Fatalf("places %d, %d after %d: nothing was tested", second.slot.index, third.slot.index, was.index)
	}
	if w.at(was) != nil {
		t.Error("what is told of a closed Conn is told its successor")
	}
	if w.at(second.slot) != second {
		t.Error("the successor is not found")
	}
	first.Close()
	if w.at(second.slot) != second {
		t.Error("closing a Conn again takes its successor's place")
	}
}

// TestChurn holds that hang-ups of closed connections do not reach those that
// have their descriptors by then.
func TestChurn(t *testing.T) {
	w := watching(t)
	var wrong atomic.Int32
	for range 300 {
		near, far := pair(t, "tcp")
		c := w.Add(near, nil)
		go far.Close()
		c.Close()
		near, far = pair(t, "tcp")
		c = w.Add(near, told(func() { wrong.Add(1) }))
		go far.Write([]byte("x"))
		if err := soon(t, "byte", func() error { return c.Receive(&reader{want: 1}) }); err != nil {
			t.Fatal(err)
		}
		c.Close()
		far.Close()
	}
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d hang-ups of others were told", n)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.slots) != len(w.free) || len(w.slots) > 4 {
		t.Errorf("%d places, %d of them free", len(w.slots), len(w.free))
	}
}

type told func()

func (f told) HungUp(bool) { f() }

func TestTicks(t *testing.T) {
	w := watching(t)
	ticks := make(chan time.Duration, 100)
	w.OnTick(func() {
		select {
		case ticks <- w.Now():
		default:
		}
	})
	last := time.Duration(0)
	for range 3 {
		select {
		case now := <-ticks:
			if now <= last {
				t.Errorf("it is %v after %v", now, last)
			}
			last = now
		case <-time.After(patience):
			t.Fatal("no tick")
		}
	}
}
