package app

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/metric"
)

// TestVetoesCanBeSeen holds that metrics tell which workers are passed over, and
// why, and nothing of those that are gone.
func TestVetoesCanBeSeen(t *testing.T) {
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	set, m := metric.NewRegistry(nil), new(workerMetrics)
	metric.Fill(set, m)
	reg := fleet.New(fleet.DefaultConfig(), health, breaker.DefaultConfig(), fleet.Options{Events: m.events(func(*fleet.Worker) {})})
	m.watch(reg)
	id, err := reg.Add(fleet.Spec{URL: "http://w", Models: []fleet.ModelCard{{ID: "m"}}})
	if err != nil {
		t.Fatal(err)
	}
	w := reg.Snapshot().Ready[0]
	want := func(when, lines string) {
		t.Helper()
		got := httptest.NewRecorder()
		set.Handler().ServeHTTP(got, httptest.NewRequest("GET", "/metrics", nil))
		has := ""
		for line := range strings.Lines(got.Body.String()) {
			if strings.HasPrefix(line, "sluice_worker_veto") {
				has += line
			}
		}
		if has != lines {
			t.Errorf("%s:\n%swant\n%s", when, has, lines)
		}
	}
	report := func(waiting int, at time.Duration) {
		if !w.Report(&fleet.Load{At: time.Now().Add(at), Running: 1, Waiting: waiting}) {
			t.Fatal("the report is not believed")
		}
	}
	want("at first", "")
	report(100, 0)
	const (
		overloaded = `sluice_worker_vetoed{reason="overloaded",worker="http://w"} 1` + "\n"
		wedged     = `sluice_worker_vetoed{reason="wedged",worker="http://w"} 1` + "\n"
		times      = `sluice_worker_vetoes_total{reason="overloaded",worker="http://w"} `
		wedgedOnce = `sluice_worker_vetoes_total{reason="wedged",worker="http://w"} 1` + "\n"
	)
	want("when it has too much to do", overloaded+times+"1\n")
	report(0, 0)
	want("when it has not", times+"1\n")
	lease, _ := w.Acquire(time.Now())
	report(50, 0)
	report(50, time.Minute)
	want("when it does nothing about it", overloaded+wedged+times+"2\n"+wedgedOnce)
	lease.Release(time.Now(), breaker.Success)
	want("when a request has ended well", overloaded+times+"2\n"+wedgedOnce)
	if err := reg.Remove(id); err != nil {
		t.Fatal(err)
	}
	want("when it is gone", "")
}

// TestEngineGaugesGo holds that what an engine said is shown for as long as it is
// believed, and what came of asking it is counted.
func TestEngineGaugesGo(t *testing.T) {
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }))
	defer engine.Close()
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	set, m := metric.NewRegistry(nil), new(workerMetrics)
	metric.Fill(set, m)
	cfg := fleet.DefaultConfig()
	reg := fleet.New(cfg, health, breaker.DefaultConfig(), fleet.Options{Events: m.events(func(*fleet.Worker) {})})
	m.watch(reg)
	if _, err := reg.Add(fleet.Spec{URL: engine.URL, Models: []fleet.ModelCard{{ID: "m"}}}); err != nil {
		t.Fatal(err)
	}
	w := reg.Snapshot().Ready[0]
	shown := func(prefix string) int {
		got := httptest.NewRecorder()
		set.Handler().ServeHTTP(got, httptest.NewRequest("GET", "/metrics", nil))
		return strings.Count(got.Body.String(), "\n"+prefix)
	}
	w.Report(&fleet.Load{At: time.Now(), Running: 3})
	if n := shown("smg_engine_"); n != 5 {
		t.Errorf("%d gauges of a report that is new, want 5", n)
	}
	if _, err := reg.PollLoad(t.Context(), w); err == nil {
		t.Error("a page is taken for a report")
	}
	if n := shown(`sluice_worker_load_reports_total{result="unreadable",worker="` + engine.URL + `"} 1`); n != 1 {
		t.Errorf("%d counters of a report that cannot be read, want 1", n)
	}
	w.Report(&fleet.Load{At: time.Now().Add(-cfg.Stale - time.Second), Running: 3})
	if n := shown("smg_engine_"); n != 0 {
		t.Errorf("%d gauges of a report that is too old, want none", n)
	}
}
