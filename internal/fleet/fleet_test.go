package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/kit/breaker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An engine is a worker made of answers. It is a RoundTripper so that it can
// live in a test's own time.
type engine struct {
	mu      sync.Mutex
	mode    string            // "up", "sick" (503), "refused", "hang"; guarded by mu
	answers map[string]string // by path, others are 404; "hang" never comes; guarded by mu
	checked []time.Time       // health checks; guarded by mu
	paths   []string          // everything asked; guarded by mu
	auth    string            // of the last question; guarded by mu
}

func (e *engine) set(mode string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mode = mode
}

func (e *engine) serve(models ...string) {
	var data []string
	for _, m := range models {
		data = append(data, fmt.Sprintf(`{"id":%q,"object":"model","owned_by":"vllm","max_model_len":4096}`, m))
	}
	e.answer("/v1/models", `{"object":"list","data":[`+strings.Join(data, ",")+`]}`)
}

func (e *engine) answer(path, body string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.answers == nil {
		e.answers = make(map[string]string)
	}
	e.answers[path] = body
}

// checks returns when the health checks came, after the first n.
func (e *engine) checks(n int) []time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.checked[min(n, len(e.checked)):])
}

var errRefused = errors.New("connection refused")

func (e *engine) RoundTrip(req *http.Request) (*http.Response, error) {
	e.mu.Lock()
	mode, path := e.mode, req.URL.Path
	body, ok := e.answers[path]
	e.paths = append(e.paths, path)
	e.auth = req.Header.Get("Authorization")
	if path == "/health" {
		e.checked = append(e.checked, time.Now())
		body, ok = "ok", true
	}
	e.mu.Unlock()
	status := http.StatusOK
	switch {
	case mode == "hang" || body == "hang":
		<-req.Context().Done()
		return nil, req.Context().Err()
	case mode == "refused":
		return nil, errRefused
	case mode == "sick" && path == "/health":
		status = http.StatusServiceUnavailable
	case body == "500":
		status = http.StatusInternalServerError
	case !ok:
		status = http.StatusNotFound
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

// engines finds an engine by its host.
type engines struct{ m sync.Map }

// at returns the engine at host, one that is up and serves model m if there
// was none.
func (es *engines) at(host string) *engine {
	e, ok := es.m.Load(host)
	if !ok {
		fresh := &engine{mode: "up"}
		fresh.serve("m")
		e, _ = es.m.LoadOrStore(host, fresh)
	}
	return e.(*engine)
}

func (es *engines) RoundTrip(req *http.Request) (*http.Response, error) {
	return es.at(req.URL.Host).RoundTrip(req)
}

// A rig is a running Registry over engines, in a test's own time.
type rig struct {
	*Registry
	t    *testing.T
	cfg  Config
	hc   HealthConfig
	br   breaker.Config
	opt  Options
	es   *engines
	seen []string // status changes: "a pending>ready"
}

// newRig returns a rig that is not running yet.
func newRig(t *testing.T) *rig {
	r := &rig{t: t, cfg: DefaultConfig(), hc: DefaultHealthConfig(), br: breaker.DefaultConfig(), es: new(engines)}
	r.opt.Transport = r.es
	r.opt.Events.OnStatus = func(w *Worker, from, to Status) { // called with the Registry's lock held
		r.seen = append(r.seen, fmt.Sprintf("%s %s>%s", w.url.Host, from, to))
	}
	return r
}

// start runs the Registry until the test ends.
func (r *rig) start() {
	r.Registry = New(r.cfg, r.hc, r.br, r.opt)
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
}

// add registers the engine at host.
func (r *rig) add(host string, spec Spec) *Worker {
	r.t.Helper()
	spec.URL = "http://" + host
	id, err := r.Add(spec)
	if err != nil {
		r.t.Fatal(err)
	}
	w, ok := r.Get(id)
	if !ok {
		r.t.Fatalf("worker %s is not there after Add", id)
	}
	return w
}

// after lets d go by and everything settle.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// want holds that w has a status, and is selectable if and only if that is Ready.
func (r *rig) want(when string, w *Worker, st Status) {
	r.t.Helper()
	if got := w.Status(); got != st {
		r.t.Errorf("%s: status %v, want %v", when, got, st)
	}
	if got, want := slices.Contains(r.Snapshot().Ready, w), st == Ready; got != want {
		r.t.Errorf("%s: selectable %v, want %v", when, got, want)
	}
}

func TestANewWorkerIsReadySoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{})
		r.want("at once", w, Pending)
		after(150 * time.Millisecond)
		r.want("after two checks", w, Ready)
		if got := strings.Join(w.Info().ModelIDs, " "); got != "m" {
			t.Errorf("models %q, want m", got)
		}
		if _, busy := r.Job(w.ID()); busy {
			t.Error("a job is left over")
		}
	})
}

func TestAWorkerThatIsNotUpYetIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.es.at("a").set("refused")
		w := r.add("a", Spec{})
		after(30 * time.Second)
		want := []float64{1, 1.5, 2.25, 3.375, 5.0625, 7.59}
		at := r.es.at("a").checks(0)
		for i, s := range want {
			if gap := at[i+1].Sub(at[i]).Seconds(); gap < 0.89*s || gap > 1.11*s {
				t.Errorf("pause %d is %.2f s, want %.2f ± 10 %%", i, gap, s)
			}
		}
		job, ok := r.Job(w.ID())
		if !ok || job.State != "processing" || !strings.Contains(job.Msg, "refused") {
			t.Errorf("Job() = %+v, %v; want one that says what is waited for", job, ok)
		}
		r.es.at("a").set("up")
		after(12 * time.Second)
		r.want("when it is up", w, Ready)
	})
}

// A script is a list of times and of what happens then.
func TestStatus(t *testing.T) {
	type step struct {
		after time.Duration
		mode  string // of the engine from then on
		want  Status // before that
	}
	tests := []struct {
		name  string
		tune  func(*rig)
		steps []step
		seen  string
	}{
		{"two bad checks are forgiven", nil, []step{
			{time.Second, "sick", Ready}, {140 * time.Second, "up", Ready}, {100 * time.Second, "", Ready},
		}, "pending>ready"},
		{"three bad checks in a row", nil, []step{
			{time.Second, "sick", Ready}, {200 * time.Second, "up", NotReady}, {11 * time.Second, "", Ready},
		}, "pending>ready ready>not_ready not_ready>ready"},
		{"nine more", func(r *rig) { r.hc.Interval = time.Second }, []step{
			{time.Second, "refused", Ready}, {8 * time.Second, "", NotReady}, {9 * time.Second, "refused", Failed}, {time.Hour, "up", Failed}, {2 * time.Second, "", Ready},
		}, "pending>ready ready>not_ready not_ready>failed failed>ready"},
		{"never came up", func(r *rig) { r.cfg.StartupTimeout = 20 * time.Second; r.es.at("a").set("refused") }, []step{
			{18 * time.Second, "", Pending}, {12 * time.Second, "up", Failed}, {30 * time.Second, "", Ready},
		}, "pending>failed failed>ready"},
		{"came up thirty checks late", func(r *rig) { r.cfg.StartupInterval = time.Second; r.es.at("a").set("refused") }, []step{
			{25 * time.Second, "", Pending}, {9 * time.Second, "up", Failed},
		}, "pending>failed"},
		{"hangs", nil, []step{
			{time.Second, "hang", Ready}, {250 * time.Second, "up", NotReady},
		}, "pending>ready ready>not_ready"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				if tt.tune != nil {
					tt.tune(r)
				}
				r.start()
				w := r.add("a", Spec{})
				for i, s := range tt.steps {
					after(s.after)
					r.want(fmt.Sprintf("step %d", i), w, s.want)
					if s.mode != "" {
						r.es.at("a").set(s.mode)
					}
				}
				if got := strings.ReplaceAll(strings.Join(r.seen, " "), "a ", ""); got != tt.seen {
					t.Errorf("went %s, want %s", got, tt.seen)
				}
			})
		})
	}
}

func TestRemoveUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.RemoveUnhealthy, r.hc.Interval = true, time.Second
		r.start()
		w := r.add("a", Spec{})
		after(time.Second)
		r.es.at("a").set("sick")
		after(time.Minute)
		if _, ok := r.Get(w.ID()); ok || len(r.Snapshot().All) != 0 {
			t.Error("a failed worker is still there")
		}
	})
}

// What the request path saw shows in the status within a second.
func TestSuspicion(t *testing.T) {
	for _, tt := range []struct {
		name      string
		mode      string
		threshold int
		within    time.Duration
		want      Status
	}{
		{"refused", "refused", 3, 800 * time.Millisecond, NotReady},
		{"refused, one failure is enough", "refused", 1, 150 * time.Millisecond, NotReady},
		{"refused, ten are needed", "refused", 10, 800 * time.Millisecond, NotReady},
		{"answers 503", "sick", 3, 800 * time.Millisecond, NotReady},
		{"hangs: as long as the check may take", "hang", 3, 15200 * time.Millisecond, NotReady},
		{"hangs, not yet", "hang", 3, 14 * time.Second, Ready},
		{"it was nothing", "up", 3, 10 * time.Second, Ready},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.hc.Failures = tt.threshold
				r.start()
				w := r.add("a", Spec{})
				after(10 * time.Second)
				r.es.at("a").set(tt.mode)
				w.Suspect()
				after(tt.within)
				r.want("then", w, tt.want)
			})
		})
	}
}

// A worker whose checks pass while its requests fail is asked often, but not
// as often as requests fail.
func TestSuspicionIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{})
		after(time.Second)
		before := len(r.es.at("a").checks(0))
		for range 10000 {
			w.Suspect()
			time.Sleep(100 * time.Microsecond)
		}
		after(0)
		if n := len(r.es.at("a").checks(before)); n < 5 || n > 11 {
			t.Errorf("%d checks in a second of failures, want about 10", n)
		}
		before = len(r.es.at("a").checks(0))
		after(30 * time.Second)
		if n := len(r.es.at("a").checks(before)); n > 2 {
			t.Errorf("%d checks in 30 s after the suspicion, want none or one", n)
		}
	})
}

// A suspect is asked even if all routine checks hang.
func TestSuspectsDoNotWaitBehindHungWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{})
		after(10 * time.Second)
		for i := range 1000 {
			host := fmt.Sprintf("hung-%d", i)
			r.es.at(host).set("hang")
			r.add(host, Spec{})
		}
		after(time.Second)
		r.es.at("a").set("refused")
		w.Suspect()
		after(800 * time.Millisecond)
		r.want("among hung ones", w, NotReady)
	})
}

func TestReadmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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

func TestBreakerRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
		after(11 * time.Second)
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
		for i := range 2 * n { // one breaker opens every 100 µs, and closes a second later
			w := ws[i%n]
			if l, ok := w.Acquire(time.Now()); ok {
				l.Release(time.Now(), []breaker.Outcome{breaker.Failure, breaker.Success}[i/n])
			}
			w.Suspect()
			time.Sleep(250 * time.Microsecond)
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
