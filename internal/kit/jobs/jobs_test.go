package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/kit/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs q until the test ends.
func run(t *testing.T, q *Queue) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func submit(t *testing.T, q *Queue, key string, f func(context.Context) error) {
	t.Helper()
	if err := q.Submit(key, "test", f); err != nil {
		t.Fatalf("Submit(%s): %v", key, err)
	}
}

func sleeping(d time.Duration, err error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func state(q *Queue, key string) State {
	s, _ := q.Status(key)
	return s.State
}

func TestOneAtATimeForEachKey(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		q := New(100, 10)
		run(t, q)
		var busy [3]atomic.Int32
		var mu sync.Mutex
		order := make(map[int]string) // guarded by mu
		for i := range 30 {
			k := i % 3
			submit(t, q, fmt.Sprint(k), func(context.Context) error {
				if busy[k].Add(1) > 1 {
					t.Error("two jobs of one key run at once")
				}
				time.Sleep(time.Second)
				busy[k].Add(-1)
				mu.Lock()
				defer mu.Unlock()
				order[k] += fmt.Sprint(i/3, " ")
				return nil
			})
		}
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		for k := range 3 {
			if got, want := order[k], "0 1 2 3 4 5 6 7 8 9 "; got != want {
				t.Errorf("key %d: order %s, want %s: three keys take 10 s side by side", k, got, want)
			}
		}
		if _, ok := q.Status("0"); ok {
			t.Error("a status is left of what succeeded")
		}
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		q := New(100, 4)
		run(t, q)
		var busy, most atomic.Int32
		for i := range 20 {
			submit(t, q, fmt.Sprint(i), func(context.Context) error {
				most.Store(max(most.Load(), busy.Add(1)))
				defer busy.Add(-1)
				time.Sleep(time.Second)
				return nil
			})
		}
		time.Sleep(5*time.Second + time.Millisecond)
		synctest.Wait()
		if most.Load() != 4 || busy.Load() != 0 {
			t.Errorf("at most %d at once, %d left after 5 s; want 4, 0", most.Load(), busy.Load())
		}
	})
}

func TestStatus(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		q := New(2, 1)
		submit(t, q, "a", sleeping(time.Second, errors.New("no luck")))
		submit(t, q, "b", sleeping(time.Second, nil))
		if err := q.Submit("c", "test", nil); err != ErrFull {
			t.Errorf("a third in a queue of two: %v, want ErrFull", err)
		}
		f := func(when string, a, b State) {
			t.Helper()
			synctest.Wait()
			if ga, gb := state(q, "a"), state(q, "b"); ga != a || gb != b {
				t.Errorf("%s: a %q, b %q; want %q, %q", when, ga, gb, a, b)
			}
		}
		f("before Run", Pending, Pending)
		stop := run(t, q)
		f("at first", Processing, Pending)
		time.Sleep(time.Second)
		f("then", Failed, Processing)
		if s, _ := q.Status("a"); s.Msg != "no luck" || s.Kind != "test" || s.Key != "a" {
			t.Errorf("status %+v, want why a failed", s)
		}
		submit(t, q, "a", sleeping(time.Second, nil))
		f("again", Pending, Processing)
		time.Sleep(2 * time.Second)
		f("in the end", "", "")
		stop()
		if err := q.Submit("a", "test", nil); err != ErrStopped {
			t.Errorf("after the end: %v, want ErrStopped", err)
		}
	})
}

func TestCancel(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		q := New(10, 1)
		run(t, q)
		var ran []string
		job := func(name string, d time.Duration, err error) func(context.Context) error {
			return func(ctx context.Context) error {
				ran = append(ran, name) // one job at a time
				return sleeping(d, err)(ctx)
			}
		}
		submit(t, q, "a", job("a1", time.Hour, nil))
		submit(t, q, "a", job("a2", time.Hour, nil))
		submit(t, q, "b", job("b1", time.Hour, nil))
		synctest.Wait()
		q.Cancel("b") // waits
		q.Cancel("a") // runs
		submit(t, q, "a", job("a3", time.Second, errors.New("bad")))
		submit(t, q, "b", job("b2", time.Second, nil))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got, want := strings.Join(ran, " "), "a1 a3 b2"; got != want && got != "a1 b2 a3" {
			t.Errorf("ran %s, want %s", got, want)
		}
		if got := state(q, "a"); got != Failed {
			t.Errorf("a is %q, want failed", got)
		}
		q.Cancel("a")
		if got := state(q, "a"); got != "" {
			t.Errorf("a is %q after Cancel, want nothing", got)
		}
		q.Cancel("nobody")
	})
}

func TestTheEndCancelsAll(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		q := New(10, 2)
		stop := run(t, q)
		var ended atomic.Int32
		for i := range 5 {
			submit(t, q, fmt.Sprint(i), func(ctx context.Context) error {
				defer ended.Add(1)
				<-ctx.Done()
				return ctx.Err()
			})
		}
		synctest.Wait()
		stop()
		if ended.Load() != 2 {
			t.Errorf("%d jobs ended before Run did, want the 2 that ran", ended.Load())
		}
	})
}

func TestFailuresAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		q := New(10000, 1)
		run(t, q)
		for i := range maxFailed + 10 {
			submit(t, q, fmt.Sprint(i), func(context.Context) error { return errors.New("bad") })
		}
		synctest.Wait()
		q.mu.Lock()
		n, m := len(q.failed), q.order.Len()
		q.mu.Unlock()
		if n != maxFailed || m != maxFailed || state(q, "9") != "" || state(q, "10") != Failed {
			t.Errorf("%d and %d failures kept; want %d, the oldest dropped", n, m, maxFailed)
		}
	})
}
