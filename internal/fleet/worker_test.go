package fleet

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
	"sluice/internal/kit/secret"
)

// still returns a worker of a Registry that does not run.
func still(tb testing.TB) *Worker {
	r := New(DefaultConfig(), HealthConfig{Failures: 3, Successes: 2, Timeout: time.Second, Interval: time.Minute, Path: "/health", Disabled: true}, breaker.DefaultConfig(), Options{})
	id, err := r.Add(Spec{URL: "http://w:1", APIKey: secret.New("k")})
	if err != nil {
		tb.Fatal(err)
	}
	w, _ := r.Get(id)
	return w
}

func TestRequestsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	now := time.Now()
	for name, f := range map[string]func(*Worker){
		"success": func(w *Worker) {
			l, _ := w.Acquire(now)
			l.Release(now, breaker.Success)
		},
		"failure": func(w *Worker) {
			l, ok := w.Acquire(now)
			if ok {
				l.Release(now, breaker.Failure)
			}
		},
		"suspect":       func(w *Worker) { w.Suspect(); w.suspect.Store(false) },
		"available":     func(w *Worker) { w.Available(now) },
		"authorization": func(w *Worker) { _ = w.Authorization() },
	} {
		w := still(t)
		if n := testing.AllocsPerRun(100, func() { f(w) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("workers/%d", n), func(b *testing.B) {
			ws := make([]*Worker, n)
			for i := range ws {
				ws[i] = still(b)
			}
			now := time.Now()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					l, _ := ws[i%n].Acquire(now)
					l.Release(now, breaker.Success)
				}
			})
		})
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{4, 64, 4096} {
		b.Run(fmt.Sprintf("workers/%d", n), func(b *testing.B) {
			hc := DefaultHealthConfig()
			hc.Disabled = true
			r := New(DefaultConfig(), hc, breaker.DefaultConfig(), Options{})
			for i := range n {
				if _, err := r.Add(Spec{URL: fmt.Sprintf("http://w%d", i)}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				r.mu.Lock()
				r.changed = true
				r.publishLocked(time.Now())
				r.mu.Unlock()
			}
		})
	}
}

func TestAddBeforeRun(t *testing.T) {
	w := still(t)
	s := w.reg.Snapshot()
	if len(s.Ready) != 1 || len(s.All) != 1 || s.Epoch != 1 {
		t.Errorf("snapshot %+v, want one worker at once", s)
	}
	if err := w.reg.Remove(w.ID()); err != nil {
		t.Fatal(err)
	}
	if s := w.reg.Snapshot(); len(s.All) != 0 {
		t.Errorf("%d workers after Remove, want none", len(s.All))
	}
	if err := w.reg.Remove(w.ID()); err != ErrUnknown {
		t.Errorf("Remove() again: %v, want ErrUnknown", err)
	}
}

func TestKeysDoNotShow(t *testing.T) {
	w := still(t)
	if got := w.Authorization(); got != "Bearer k" {
		t.Errorf("Authorization() = %q, want Bearer k", got)
	}
	spec := Spec{APIKey: secret.New("hunter2")}
	info := newInfo(spec, "", nil)
	bad := Spec{URL: "http://u:hunter2@h", APIKey: secret.New("hunter2\n")}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v", spec, spec, spec), fmt.Sprintf("%v %+v %#v", info, info, *info), bad.Validate().Error()} {
		if strings.Contains(s, "hunter2") {
			t.Errorf("a key shows in %s", s)
		}
	}
}

func TestReplaceAndUpdate(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{Labels: map[string]string{"x": "1", "y": "2"}})
		after(time.Second)
		key := secret.New("k2")
		patch := Patch{Priority: ptr(7), Labels: map[string]string{"x": "", "z": "3"}, APIKey: &key}
		if err := r.Update(w.ID(), patch); err != nil {
			t.Fatal(err)
		}
		after(10 * time.Millisecond)
		i := w.Info()
		if i.Priority != 7 || i.Labels["x"] != "" || i.Labels["y"] != "2" || i.Labels["z"] != "3" || w.Authorization() != "Bearer k2" {
			t.Errorf("after Update: %+v", i)
		}
		if got := r.es.at("a").auth; got != "Bearer k2" {
			t.Errorf("checked with %q, want the new key", got)
		}
		r.es.at("a").serve("other")
		if err := r.Replace(w.ID(), Spec{URL: "http://a", Cost: ptr(2.5)}); err != nil {
			t.Fatal(err)
		}
		r.want("while it is asked anew", w, Ready)
		after(10 * time.Millisecond)
		r.want("then", w, Ready)
		i = w.Info()
		if i.Cost != 2.5 || i.Priority != 50 || i.Labels["y"] != "" || strings.Join(i.ModelIDs, " ") != "other" {
			t.Errorf("after Replace: %+v", i)
		}
		if err := r.Replace(w.ID(), Spec{URL: "http://b"}); err == nil || !strings.Contains(err.Error(), "'url'") {
			t.Errorf("Replace() with another URL: %v, want a refusal", err)
		}
		if err := r.Update("none", Patch{}); err != ErrUnknown {
			t.Errorf("Update() of nobody: %v, want ErrUnknown", err)
		}
		if err := r.Update(w.ID(), Patch{Health: &HealthSpec{TimeoutSecs: ptr(0)}}); err == nil {
			t.Error("Update() took a timeout of 0")
		}
	})
}

func TestTooManyRegistrations(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.JobCapacity = 2
		r.start()
		r.es.at("a").set("refused")
		a := r.add("a", Spec{})
		r.es.at("b").set("refused")
		r.add("b", Spec{})
		if _, err := r.Add(Spec{URL: "http://c"}); err == nil || err.Error() != "the job queue is full" {
			t.Errorf("a third: %v, want jobs.ErrFull", err)
		}
		r.es.at("a").set("up")
		after(3 * time.Second)
		r.want("the first", a, Ready)
		r.add("c", Spec{})
	})
}

func TestTheGatewayItselfIsNoWorker(t *testing.T) {
	r := New(DefaultConfig(), DefaultHealthConfig(), breaker.DefaultConfig(), Options{Self: func(u *url.URL) bool { return u.Host == "me:30000" }})
	if _, err := r.Add(Spec{URL: "http://me:30000/"}); err == nil || !strings.Contains(err.Error(), "gateway's own") {
		t.Errorf("Add() of itself: %v, want a refusal", err)
	}
}
