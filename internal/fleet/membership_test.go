package fleet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
)

func TestReadmission(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		var readmitted atomic.Int32
		r.opt.Events.OnReadmit = func(*Worker) { readmitted.Add(1) }
		r.br.Failures = 2
		r.start()
		w := r.add("a", Spec{})
		after(time.Second)
		r.es.at("a").set("refused")
		for range 2 {
			l, ok := w.Acquire(time.Now())
			if !ok {
				t.Fatal("refused before the breaker opened")
			}
			l.Release(time.Now(), breaker.Failure)
			w.Suspect()
		}
		after(time.Second)
		r.want("when it died", w, NotReady)
		r.es.at("a").set("up")
		after(5 * time.Second) // the breaker's rest would be 60 s
		r.want("when it is back", w, Ready)
		if got := w.Breaker().State(); got != breaker.Closed || readmitted.Load() != 1 {
			t.Errorf("breaker %v, %d readmissions; want closed, 1", got, readmitted.Load())
		}
	})
}

// A worker that was away too shortly to be called so, and lost all its streams
// at once, must not wait for its breaker's rest to end.
func TestReadmissionAfterAStumble(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.br.Failures = 2
		r.start()
		w := r.add("a", Spec{})
		after(10 * time.Second)
		r.es.at("a").set("refused")
		for range 2 {
			l, ok := w.Acquire(time.Now())
			if !ok {
				t.Fatal("refused before the breaker opened")
			}
			l.Release(time.Now(), breaker.Failure)
			w.Suspect()
		}
		after(100 * time.Millisecond) // one check fails; three would be needed
		r.es.at("a").set("up")
		after(time.Second)
		r.want("when it is back", w, Ready)
		if got := w.Breaker().State(); got != breaker.Closed {
			t.Errorf("breaker %v, want closed", got)
		}
	})
}

func TestBreakerRest(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.br = breaker.Config{Failures: 1, Successes: 1, Rest: 10 * time.Second}
		r.start()
		w := r.add("a", Spec{})
		after(time.Second)
		in := func(when string, want bool) {
			t.Helper()
			if got := slices.Contains(r.Snapshot().Ready, w); got != want || w.Available(time.Now()) != want {
				t.Errorf("%s: selectable %v, available %v; want %v", when, got, w.Available(time.Now()), want)
			}
		}
		fail := func() {
			t.Helper()
			l, ok := w.Acquire(time.Now())
			if !ok {
				t.Fatal("no place")
			}
			l.Release(time.Now(), breaker.Failure)
			after(5 * time.Millisecond)
		}
		in("before", true)
		fail()
		in("when the breaker opened", false)
		after(9 * time.Second)
		in("during the rest", false)
		after(time.Second)
		in("after the rest", true)
		fail()
		in("when the trial failed", false)
		after(10 * time.Second)
		in("after the second rest", true)
		l, ok := w.Acquire(time.Now())
		if !ok {
			t.Fatal("no place for a trial")
		}
		l.Release(time.Now(), breaker.Success)
		after(time.Second)
		in("when the trial passed", true)
		if got := w.Breaker().State(); got != breaker.Closed {
			t.Errorf("breaker %v, want closed", got)
		}
	})
}

// A failure that began before the breaker opened must not end a trial.
func TestLateFailuresDoNotCount(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.br = breaker.Config{Failures: 1, Successes: 2, Rest: time.Second}
		r.start()
		w := r.add("a", Spec{})
		after(500 * time.Millisecond)
		old, _ := w.Acquire(time.Now())
		bad, _ := w.Acquire(time.Now())
		bad.Release(time.Now(), breaker.Failure)
		after(time.Second)
		trial, ok := w.Acquire(time.Now())
		if !ok {
			t.Fatal("no trial after the rest")
		}
		old.Release(time.Now(), breaker.Failure)
		if got := w.Breaker().State(); got != breaker.HalfOpen {
			t.Errorf("breaker %v after a late failure, want half-open", got)
		}
		trial.Release(time.Now(), breaker.Success)
		if n := w.InFlight(); n != 0 {
			t.Errorf("%d in flight, want 0", n)
		}
		if ok, bad, none := w.Outcomes(); ok != 1 || bad != 2 || none != 0 {
			t.Errorf("outcomes %d %d %d, want 1 2 0", ok, bad, none)
		}
	})
}

func TestDrain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{})
		after(time.Second)
		l, _ := w.Acquire(time.Now())
		if err := r.Remove(w.ID()); err != nil {
			t.Fatal(err)
		}
		after(10 * time.Millisecond)
		r.want("when it was removed", w, Draining)
		if job, ok := r.Job(w.ID()); !ok || job.Kind != "RemoveWorker" {
			t.Errorf("Job() = %+v, %v; want RemoveWorker", job, ok)
		}
		after(4 * time.Second)
		if _, ok := r.Get(w.ID()); !ok {
			t.Error("it is gone before its drain time")
		}
		after(2 * time.Second)
		if _, ok := r.Get(w.ID()); ok || len(r.Snapshot().All) != 0 {
			t.Error("it is there after its drain time")
		}
		l.Release(time.Now(), breaker.Success) // a stream that outlives it
		if w.InFlight() != 0 || w.Served() != 1 {
			t.Errorf("in flight %d, served %d; want 0, 1", w.InFlight(), w.Served())
		}
	})
}

func TestAURLCanBeAddedWhileItDrains(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		old := r.add("a", Spec{})
		after(time.Second)
		_, err := r.Add(Spec{URL: "http://A:80/"})
		var exists *ExistsError
		if !errors.As(err, &exists) || exists.ID != old.ID() {
			t.Fatalf("Add() of the same worker: %v, want an ExistsError of %s", err, old.ID())
		}
		if err := r.Remove(old.ID()); err != nil {
			t.Fatal(err)
		}
		w := r.add("a", Spec{})
		after(10 * time.Second)
		r.want("the new one", w, Ready)
		if all := r.Snapshot().All; len(all) != 1 || all[0] != w || old.ID() == w.ID() {
			t.Errorf("%d workers, want the new one alone", len(all))
		}
	})
}

func TestAWorkerThatReturnsMayServeSomethingElse(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{})
		named := r.add("b", Spec{Models: []ModelCard{{ID: "mine", Aliases: []string{"also"}}}})
		after(time.Second)
		for _, host := range []string{"a", "b"} {
			r.es.at(host).set("refused")
		}
		w.Suspect()
		named.Suspect()
		after(time.Second)
		r.es.at("a").serve("n", "o")
		for _, host := range []string{"a", "b"} {
			r.es.at(host).set("up")
		}
		var stale atomic.Bool
		r.Watch(func(s *Snapshot) {
			if slices.Contains(s.Ready, w) && slices.Contains(w.Info().ModelIDs, "m") {
				stale.Store(true)
			}
		})
		after(5 * time.Second)
		r.want("back", w, Ready)
		if got := strings.Join(w.Info().ModelIDs, " "); got != "n o" || stale.Load() {
			t.Errorf("serves %q, chosen for its old model: %v; want n o, false", got, stale.Load())
		}
		if got := strings.Join(named.Info().ModelIDs, " "); got != "also mine" {
			t.Errorf("the one that was told what it serves: %q, want also mine", got)
		}
	})
}

func TestWithoutHealthChecks(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.hc.Disabled = true
		r.start()
		r.es.at("a").set("refused")
		w := r.add("a", Spec{})
		after(5 * time.Millisecond)
		r.want("at once", w, Ready)
		if w.Joined() {
			t.Error("joined before it told what it serves")
		}
		after(20 * time.Second)
		if job, ok := r.Job(w.ID()); !ok || job.State != "failed" {
			t.Errorf("Job() = %+v, %v; want a failure", job, ok)
		}
		r.es.at("a").set("up")
		after(12 * time.Second)
		if got := strings.Join(w.Info().ModelIDs, " "); got != "m" {
			t.Errorf("models %q, want m", got)
		}
		w.Suspect()
		after(time.Minute)
		if n := len(r.es.at("a").checks(0)); n != 0 {
			t.Errorf("%d health checks, want none", n)
		}
	})
}

func TestOneWorkerWithItsOwnHealthSettings(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{Health: &HealthSpec{CheckIntervalSecs: ptr(1), FailureThreshold: ptr(1), SuccessThreshold: ptr(1)}})
		after(10 * time.Millisecond)
		r.want("after one check", w, Ready)
		r.es.at("a").set("sick")
		after(1200 * time.Millisecond)
		r.want("after one failure", w, NotReady)
		if err := r.Update(w.ID(), Patch{Health: &HealthSpec{Disable: ptr(true)}}); err != nil {
			t.Fatal(err)
		}
		after(10 * time.Millisecond)
		r.want("with checks disabled", w, Ready)
	})
}

func ptr[T any](v T) *T { return &v }

// However many workers flap, the Snapshot changes at most once in 5 ms.
func TestFlappingFleet(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const n = 4096
		r := newRig(t)
		r.br = breaker.Config{Failures: 1, Successes: 1, Rest: time.Second}
		r.opt.Events.OnStatus = nil
		r.start()
		ws := make([]*Worker, n)
		for i := range ws {
			ws[i] = r.add(fmt.Sprintf("w%d", i), Spec{Models: []ModelCard{{ID: "m"}}})
			if i%900 == 899 {
				after(3 * time.Second) // so that the job queue takes them
			}
		}
		after(10 * time.Second)
		if got := len(r.Snapshot().Ready); got != n {
			t.Fatalf("%d ready, want %d", got, n)
		}
		var published, last atomic.Int64
		var tooSoon atomic.Int64
		r.Watch(func(*Snapshot) {
			now := time.Now().UnixNano()
			if was := last.Swap(now); was != 0 && now-was < int64(publishEvery) && published.Load() > 1 {
				tooSoon.Add(1)
			}
			published.Add(1)
		})
		published.Store(0)
		for i, w := range slices.Concat(ws, ws) { // four breakers open in a millisecond, and close a second later
			if l, ok := w.Acquire(time.Now()); ok {
				l.Release(time.Now(), []breaker.Outcome{breaker.Failure, breaker.Success}[i/n])
			}
			if i%4 == 3 {
				w.Suspect()
				time.Sleep(time.Millisecond)
			}
		}
		after(3 * time.Second)
		if p := published.Load(); p < 100 || p > int64(6*time.Second/publishEvery) || tooSoon.Load() > 0 {
			t.Errorf("%d publications, %d of them too soon; want some hundred, 5 ms apart", p, tooSoon.Load())
		}
		if got := len(r.Snapshot().Ready); got != n {
			t.Errorf("%d ready in the end, want %d", got, n)
		}
	})
}

func TestAWorkerThatIsNoLongerToldWhatItServesIsAsked(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.es.at("a").answer("/v1/models", "<html>")
		r.start()
		w := r.add("a", Spec{Labels: map[string]string{"model_id": "mine"}})
		after(time.Second)
		r.want("told", w, Ready)
		r.es.at("a").serve("its own")
		if err := r.Update(w.ID(), Patch{Labels: map[string]string{"model_id": ""}}); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		if got := strings.Join(w.Info().ModelIDs, " "); got != "its own" {
			t.Errorf("serves %q, want its own", got)
		}
	})
}

// A worker that is replaced and does not tell at once what it serves is asked
// again soon, also if its health check takes longer than its refusal.
func TestReplaceAsksAgainSoon(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{})
		after(time.Second)
		e := r.es.at("a")
		e.mu.Lock()
		e.slow = 100 * time.Millisecond
		e.mu.Unlock()
		e.answer("/v1/models", "500")
		if err := r.Replace(w.ID(), Spec{URL: "http://a"}); err != nil {
			t.Fatal(err)
		}
		after(500 * time.Millisecond)
		e.serve("other")
		after(2 * time.Second)
		if got := strings.Join(w.Info().ModelIDs, " "); got != "other" {
			t.Errorf("models %q, want other", got)
		}
	})
}

// That a worker does not tell what it serves delays no check of a suspect.
func TestASuspectDoesNotWaitToTellWhatItServes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.hc.Failures = 2
		r.start()
		w := r.add("a", Spec{})
		after(time.Second)
		r.es.at("a").answer("/v1/models", "hang")
		if err := r.Replace(w.ID(), Spec{URL: "http://a"}); err != nil {
			t.Fatal(err)
		}
		after(r.hc.Timeout - 100*time.Millisecond)
		r.es.at("a").set("refused")
		w.Suspect()
		after(800 * time.Millisecond) // between its two checks the question about its models times out
		r.want("within a second", w, NotReady)
	})
}
