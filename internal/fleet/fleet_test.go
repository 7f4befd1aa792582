package fleet

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An engine is a worker made of answers. It is a RoundTripper so that it can
// live in a test's own time.
type engine struct {
	mu      sync.Mutex
	mode    string            // "up", "sick" (503), "refused", "reset", "hang"; guarded by mu
	answers map[string]string // by path, others are 404; "hang" never comes, "500" and "404" are statuses; guarded by mu
	checked []time.Time       // health checks; guarded by mu
	paths   []string          // everything asked; guarded by mu
	auth    string            // of the last question; guarded by mu
	slow    time.Duration     // that a health check takes; guarded by mu
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

var (
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	errReset   = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
)

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
	slow := e.slow
	e.mu.Unlock()
	if path == "/health" {
		select {
		case <-time.After(slow):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	status := http.StatusOK
	switch {
	case mode == "hang" || body == "hang":
		<-req.Context().Done()
		return nil, req.Context().Err()
	case mode == "refused":
		return nil, errRefused
	case mode == "reset":
		return nil, errReset
	case mode == "sick" && path == "/health":
		status = http.StatusServiceUnavailable
	case body == "500":
		status = http.StatusInternalServerError
	case !ok || body == "404":
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
		after(20 * time.Second)
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
			{time.Second, "sick", Ready}, {200 * time.Second, "up", NotReady}, {12 * time.Second, "", Ready},
		}, "pending>ready ready>not_ready not_ready>ready"},
		{"nine more", func(r *rig) { r.hc.Interval = time.Second }, []step{
			{time.Second, "refused", Ready}, {8 * time.Second, "", NotReady}, {9 * time.Second, "refused", Failed}, {time.Hour, "up", Failed}, {2 * time.Second, "", Ready},
		}, "pending>ready ready>not_ready not_ready>failed failed>ready"},
		{"never came up", func(r *rig) { r.cfg.StartupTimeout = 18 * time.Second; r.es.at("a").set("refused") }, []step{
			{12 * time.Second, "", Pending}, {18 * time.Second, "up", Failed}, {30 * time.Second, "", Ready},
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
			bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
			bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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

// Workers that hang take no place from those that come, or come back.
func TestOthersDoNotWaitBehindHungWorkers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		back := r.add("back", Spec{})
		r.es.at("back").set("refused")
		for i := range 900 {
			host := fmt.Sprintf("hung-%d", i)
			r.es.at(host).set("hang")
			r.add(host, Spec{})
		}
		after(2 * time.Minute) // each has been found out to hang
		r.es.at("back").set("up")
		fresh := r.add("fresh", Spec{})
		after(time.Second)
		r.want("that is new", fresh, Ready)
		after(40 * time.Second) // the longest pause of a worker that starts
		r.want("that is back", back, Ready)
	})
}
