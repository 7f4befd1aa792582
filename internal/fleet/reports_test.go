package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

// logged gives r a log and returns the lines in it that tell of loads or starts.
func (r *rig) logged() func() string {
	p := &pipe{free: make(chan struct{})}
	close(p.free)
	r.opt.Log = slog.New(p)
	return func() string {
		var l []string
		for _, line := range p.lines {
			for _, what := range []string{"load is unknown", "load is known again", "started anew"} {
				if strings.Contains(line, what) {
					l = append(l, what)
				}
			}
		}
		return strings.Join(l, ", ")
	}
}

// counted returns how asking w for its load has ended.
func counted(w *Worker) string {
	var l []string
	for result := range w.Reports {
		l = append(l, result)
	}
	return strings.Join(l, " ")
}

// TestReportsThatEnd: who makes no report that can be used any more is told of
// once, counted each time, and not gone by; who makes some again is told of too.
func TestReportsThatEnd(t *testing.T) {
	const fine = `{"loads":[{"num_running_reqs":3}]}`
	gone := func(e *engine) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.answers["/v1/loads"], e.answers["/get_load"] = "404", "404"
	}
	tests := []struct {
		name  string
		spoil func(e *engine)
		want  string // results that are counted
	}{
		{"nonsense", func(e *engine) { e.answer("/v1/loads", "<html>") }, "success unreadable"},
		{"what cannot be", func(e *engine) { e.answer("/v1/loads", `{"loads":[{"num_running_reqs":-1}]}`) }, "success unreadable"},
		{"errors", func(e *engine) { e.answer("/v1/loads", "500") }, "success failure"},
		{"no end", func(e *engine) { e.answer("/v1/loads", "hang") }, "success timeout"},
		{"nothing there", gone, "success absent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t)
				log := r.logged()
				r.start()
				e := r.es.at("a")
				e.answer("/v1/loads", fine)
				w := r.add("a", Spec{})
				after(11 * time.Second)
				if w.Believed(time.Now()) == nil {
					t.Fatal("there is no report at first")
				}
				tt.spoil(e)
				after(10 * time.Minute)
				if l := w.Believed(time.Now()); l != nil {
					t.Errorf("ten minutes later the report of %v is believed", l.At)
				}
				if got := log(); got != "load is unknown" {
					t.Errorf("log: %s; want one line", got)
				}
				if got := counted(w); got != tt.want {
					t.Errorf("counted: %s; want %s", got, tt.want)
				}
				e.answer("/v1/loads", fine)
				after(time.Minute)
				if w.Believed(time.Now()) == nil {
					t.Error("it reports again and is not believed")
				}
				if got := log(); got != "load is unknown, load is known again" {
					t.Errorf("log: %s; want a second line", got)
				}
			})
		})
	}
}

// TestOneReportThatFails is a hiccup: it is counted, and not in the log.
func TestOneReportThatFails(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		log := r.logged()
		r.start()
		e := r.es.at("a")
		e.answer("/v1/loads", `{"loads":[{"num_running_reqs":3}]}`)
		w := r.add("a", Spec{})
		after(11 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		e.answer("/v1/loads", "hang")
		if _, err := r.PollLoad(ctx, w); !errors.Is(err, context.Canceled) {
			t.Errorf("asked by somebody who has left: %v", err)
		}
		if got := counted(w); got != "success" {
			t.Errorf("counted: %s; want nothing of who has left", got)
		}
		e.answer("/v1/loads", "500")
		if _, err := r.PollLoad(t.Context(), w); err == nil {
			t.Error("an error is taken for a report")
		}
		e.answer("/v1/loads", `{"loads":[{"num_running_reqs":3}]}`)
		after(time.Minute)
		if got := log(); got != "" || counted(w) != "success failure" {
			t.Errorf("log: %s, counted %s; want no line, and it counted", got, counted(w))
		}
	})
}

// TestARestartShowsInReports: engines that count what they have computed, or say
// when they began, show that they were started anew although nobody saw them away.
func TestARestartShowsInReports(t *testing.T) {
	vllm := func(rest string) string { return "vllm:kv_cache_usage_perc{model_name=\"m\"} 0.5\n" + rest }
	counts := func(prompt, generated float64) string {
		return vllm(fmt.Sprintf("vllm:prompt_tokens_total{engine=\"0\"} %g\nvllm:generation_tokens_total{engine=\"0\"} %g\n", prompt, generated))
	}
	start := func(at float64) string {
		return counts(5e6, 5e6) + fmt.Sprintf("# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %.2f\n", at)
	}
	tests := []struct {
		name    string
		reports []string
		want    uint64
	}{
		{"it goes on", []string{counts(100, 5), counts(100, 5), counts(200, 9)}, 0},
		{"it counts less", []string{counts(100, 5), counts(50, 5)}, 1},
		{"it counts nothing", []string{counts(100, 5), counts(0, 0), counts(10, 1)}, 1},
		{"twice", []string{counts(100, 5), counts(50, 5), counts(60, 5), counts(20, 5)}, 2},
		{"it does not count", []string{vllm(""), counts(100, 5), vllm(""), counts(100, 5)}, 0},
		{"nonsense between", []string{counts(100, 5), counts(-100, 5), counts(1e300, 5)}, 1},
		{"several at one URL", []string{counts(9e6, 5), counts(2e6, 5), counts(9e6, 5), counts(2e6, 5), counts(9e6, 5), counts(2e6, 5)}, 1},
		{"the same start", []string{start(1.7e9), start(1.7e9)}, 0},
		{"a later start", []string{start(1.7e9), start(1.7e9 + 90)}, 1},
		{"several starts at one URL", []string{start(1.7e9), start(1.7e9 + 90), start(1.7e9), start(1.7e9 + 90)}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t)
				log := r.logged()
				r.start()
				w := r.add("a", Spec{})
				after(time.Second)
				for _, report := range tt.reports {
					r.es.at("a").answer("/metrics", report)
					after(10 * time.Second)
				}
				if got := w.Epoch(); got != tt.want {
					t.Errorf("epoch %d, want %d", got, tt.want)
				}
				if got := strings.Count(log(), "started anew"); got != int(tt.want) {
					t.Errorf("the log tells of %d starts, want %d", got, tt.want)
				}
			})
		})
	}
}

// TestALateReportIsNoRestart: an answer that was on its way for longer counts less
// than one that came before it.
func TestALateReportIsNoRestart(t *testing.T) {
	w := still(t)
	at := time.Now()
	tell := func(asked, answered time.Duration, done float64) {
		w.report.Lock()
		defer w.report.Unlock()
		w.anewLocked(&Load{At: at.Add(answered), done: done, counts: true}, at.Add(asked))
	}
	tell(0, time.Second, 100)
	tell(3*time.Second, 4*time.Second, 300)
	tell(2*time.Second, 5*time.Second, 200)
	if got := w.Epoch(); got != 0 {
		t.Errorf("epoch %d, want 0", got)
	}
}

// TestARestartWithoutChecks: who is not checked is known to be another process when
// nobody listened to a question for its load.
func TestARestartWithoutChecks(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.hc.Disabled = true
		r.start()
		e := r.es.at("a")
		e.answer("/v1/loads", `{"loads":[{"num_running_reqs":3}]}`)
		w := r.add("a", Spec{})
		after(15 * time.Second)
		e.set("refused")
		after(10 * time.Second)
		e.set("up")
		after(time.Minute)
		if got := w.Epoch(); got != 1 {
			t.Errorf("epoch %d, want 1", got)
		}
	})
}

// TestARestartShowsInItsUptime: a process that has run for less than it had before
// is another one; that answers take seconds does not make it one.
func TestARestartShowsInItsUptime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		log := r.logged()
		r.start()
		e := r.es.at("a")
		e.answer("/v1/models", `{"data":[{"id":"m","owned_by":"sglang"}]}`)
		up := func(began time.Time) {
			e.answer("/server_info", fmt.Sprintf(`{"version":"0.5","random_seed":42,"uptime_seconds":%g}`, time.Since(began).Seconds()))
		}
		began := time.Now().Add(-time.Hour)
		up(began)
		w := r.add("a", Spec{})
		for range 60 {
			after(5 * time.Second)
			up(began) // so answers are up to 5 s old
		}
		if got := w.Epoch(); got != 0 {
			t.Fatalf("epoch %d of one that has run on, want 0", got)
		}
		began = time.Now()
		for range 60 {
			up(began)
			after(5 * time.Second)
		}
		if got := w.Epoch(); got != 1 || log() != "started anew" {
			t.Errorf("epoch %d, log %q; want 1, and one line", got, log())
		}
	})
}

// TestARestartOfANamedWorker: that a spec says what a worker serves does not keep
// anybody from asking which start it is.
func TestARestartOfANamedWorker(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		e := r.es.at("a")
		e.answer("/v1/models", `{"data":[{"id":"m","owned_by":"sglang"}]}`)
		e.answer("/server_info", `{"version":"0.5","random_seed":1}`)
		w := r.add("a", Spec{Models: []ModelCard{{ID: "mine"}}})
		after(2 * time.Minute)
		if got := w.Epoch(); got != 0 {
			t.Errorf("epoch %d before, want 0", got)
		}
		e.answer("/server_info", `{"version":"0.5","random_seed":2}`)
		after(2 * time.Minute)
		if got := w.Epoch(); got != 1 || w.Info().ModelIDs[0] != "mine" {
			t.Errorf("epoch %d, models %v; want 1 and its own", got, w.Info().ModelIDs)
		}
	})
}
