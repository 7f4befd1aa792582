// Package routing measures policies on the real data path: recorded sessions of
// agents go through the built gateway to simulated engines with a prefix cache.
//
// The tests that always run are short, and hold what chance and a busy machine
// cannot change: hits, and that nothing is lost. With SLUICE_ROUTING=1 the
// policies are compared under load, for minutes (make routing).
package routing

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"sluice/internal/bench"
	"sluice/test/program"
)

func TestMain(m *testing.M) {
	code := m.Run()
	program.Clean()
	os.Exit(code)
}

const sessions = "../../internal/bench/testdata/tau_airline.jsonl.gz"

const workers = 8

// A world is engines, a gateway before them, and the load.
type world struct {
	policy string
	speed  float64 // how much faster than real time engines and users are
	kv     int     // words that an engine's cache holds
	rate   float64 // sessions begun a second, in the engines' time
	lasts  time.Duration
	warmup time.Duration
	bench  []string // further flags
}

// A served is a world that runs.
type served struct {
	gateway *program.Gateway
	engines *program.Engines
}

// engine is what serves a model of 70 billion parameters on a few strong GPUs,
// about. A token of a simulated engine is a word, two of a real one's here.
var engine = []string{
	"--model", "m", "--prefill-rate", "7500", "--prefill-chunk", "2048", "--double-context", "30000",
	"--decode-rate", "83", "--decode-slowdown", "0.0033", "--context-time", "30ns", "--max-running", "256",
	"--context-length", "16384", "--events-per-write", "64",
}

// start runs the engines and the gateway of w.
func (w world) start(t testing.TB) *served {
	t.Helper()
	flags := append([]string{"--speed", fmt.Sprint(w.speed), "--kv-tokens", fmt.Sprint(w.kv)}, engine...)
	g, e := program.Fleet(t, workers, flags, []string{"--policy", w.policy, "--expose-worker", "--disable-access-log"})
	return &served{g, e}
}

// play runs w to its end.
func (w world) play(t testing.TB) *bench.Result {
	t.Helper()
	s := w.start(t)
	out, errs, code := program.RunWithin(t, w.warmup+w.lasts, s.args(w)...)
	if code != 0 {
		t.Fatalf("bench ended with %d:\n%s", code, errs)
	}
	return result(t, w.policy, out)
}

// args are those of the bench that is w's load.
func (s *served) args(w world) []string {
	args := []string{
		"bench", "--url", s.gateway.URL, "--model", "m", "--json", "--seed", "1", "--sessions", sessions,
		"--rate", fmt.Sprint(w.rate * w.speed), "--gap-scale", fmt.Sprint(1 / w.speed),
		"--duration", w.lasts.String(), "--warmup", w.warmup.String(),
	}
	return append(args, w.bench...)
}

// result reads what a bench wrote. Whatever the policy, nothing may be lost.
func result(t testing.TB, what, out string) *bench.Result {
	t.Helper()
	var r bench.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%s: %v\n%s", what, err, out)
	}
	if r.Requests.Failed > 0 || r.Requests.Shed > 0 || r.Requests.OK == 0 {
		t.Errorf("%s: %+v %+v", what, r.Requests, r.Errors)
	}
	return &r
}

// busiest is the part of the answers that came from the worker that gave most.
func busiest(r *bench.Result) float64 {
	var most, all int64
	for _, n := range r.Workers {
		most, all = max(most, n), all+n
	}
	return float64(most) / float64(max(all, 1))
}

// TestSessionsStayWithTheirWorker holds that an agent's next turn goes to where
// its last was computed, without a header that says so.
func TestSessionsStayWithTheirWorker(t *testing.T) {
	hit := map[string]float64{}
	for _, policy := range []string{"round_robin", "cache_aware", "cost"} {
		r := world{policy: policy, speed: 20, kv: 60_000, rate: 1, lasts: 6 * time.Second, warmup: 2 * time.Second}.play(t)
		hit[policy] = r.HitRatio
		t.Logf("%s: %.3f of %d requests' prompts cached, the busiest worker gave %.2f of the answers", policy, r.HitRatio, r.Requests.OK, busiest(r))
	}
	if hit["cost"] < hit["cache_aware"]-0.03 {
		t.Errorf("cost takes %.3f of the prompts from caches, cache_aware %.3f: want no less than 3 points below", hit["cost"], hit["cache_aware"])
	}
	// What round_robin hits is what all sessions have in common.
	if best := 1 - hit["round_robin"]; hit["cost"] < 1-best/2 {
		t.Errorf("cost takes %.3f of the prompts from caches, round_robin %.3f: the sessions do not stay", hit["cost"], hit["round_robin"])
	}
}

// TestFlashCrowd holds that a crowd that asks about one document, which is more
// than one worker can answer, does not follow it to one worker; and that it is not
// computed for each of them.
func TestFlashCrowd(t *testing.T) {
	w := world{policy: "cost", speed: 5, kv: 60_000, rate: 0.5, lasts: 6 * time.Second}
	s := w.start(t)
	others := program.Start(t, s.args(w)...)
	out, _, _ := program.RunWithin(t, w.lasts, "bench", "--url", s.gateway.URL, "--model", "m", "--json", "--seed", "1",
		"--rate", "100", "--duration", w.lasts.String(), "--prompt-tokens", "4000", "--shared-prefix-tokens", "3000", "--output-tokens", "50")
	r := result(t, "the crowd", out)
	others.Wait(t)
	quiet := result(t, "the others", others.Output())
	t.Logf("the crowd: %.3f cached, the busiest worker gave %.2f; the others: %.3f cached", r.HitRatio, busiest(r), quiet.HitRatio)
	if len(r.Workers) < workers/2 || busiest(r) > 0.5 {
		t.Errorf("the crowd went to %v", r.Workers)
	}
	if r.HitRatio < 0.6 { // of 0.75
		t.Errorf("%.3f of the crowd's prompts were cached: the document was computed again and again", r.HitRatio)
	}
}

// TestWorkerDies holds that a worker's end in the middle of the run loses no
// request, and that its sessions go on elsewhere.
func TestWorkerDies(t *testing.T) {
	w := world{policy: "cost", speed: 20, kv: 60_000, rate: 1, lasts: 6 * time.Second}
	s := w.start(t)
	load := program.Start(t, s.args(w)...)
	victim := 0
	program.Eventually(t, "an engine is busy", func() bool {
		victim = (victim + 1) % workers
		return s.answered(t, victim) > 50
	})
	res, err := http.Post(s.engines.URLs[victim]+"/mock/kill", "application/json", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	load.Wait(t)
	r := result(t, "with an engine that dies", load.Output())
	if r.Requests.OK < 100 || r.HitRatio < 0.8 {
		t.Errorf("%+v, %.3f cached", r.Requests, r.HitRatio)
	}
	t.Logf("%d answered, %.3f cached, by %v", r.Requests.OK, r.HitRatio, r.Workers)
}

// answered is how many requests an engine has answered.
func (s *served) answered(t testing.TB, engine int) int {
	t.Helper()
	_, body := program.Get(t, s.engines.URLs[engine]+"/mock/state")
	var state struct {
		Counts struct {
			Served int `json:"served"`
		} `json:"counts"`
	}
	if err := json.Unmarshal([]byte(body), &state); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return state.Counts.Served
}

// loads are those that policies are compared under. While there is room, each
// does what can be done: a request waits for the step that runs and for its own.
// What tells them apart is a fleet whose caches hold little more than the sessions
// that run.
var loads = []struct {
	name string
	world
	bar float64 // cost's p90, of cache_aware's
}{
	{"light", world{speed: 3, kv: 75_000, rate: 1.6, warmup: 25 * time.Second, lasts: 40 * time.Second}, 1.25},
	{"heavy", world{speed: 2, kv: 40_000, rate: 10.4, warmup: 35 * time.Second, lasts: 60 * time.Second}, 0.7},
}

// TestBar holds the bar that cost was built to: the time to the first token of
// one in ten requests is at most 0.7 of that with cache_aware, at the same load.
func TestBar(t *testing.T) {
	if os.Getenv("SLUICE_ROUTING") == "" {
		t.Skip("SLUICE_ROUTING is not set: this takes minutes and a machine that does nothing else")
	}
	policies := strings.Fields(os.Getenv("SLUICE_ROUTING_POLICIES"))
	if len(policies) == 0 {
		policies = []string{"round_robin", "least_load", "cache_aware", "cost"}
	}
	for _, load := range loads {
		p90 := map[string]float64{}
		for _, policy := range policies {
			w := load.world
			w.policy, w.bench = policy, []string{"--stream"}
			r := w.play(t)
			p90[policy] = r.TTFT.P90
			t.Logf("%s  %-12s %5d requests  hit %.3f  first token mean %6.1f p50 %6.1f p90 %7.1f p99 %7.1f ms  busiest %.2f", load.name, policy, r.Requests.OK,
				r.HitRatio, r.TTFT.Mean*w.speed, r.TTFT.P50*w.speed, r.TTFT.P90*w.speed, r.TTFT.P99*w.speed, busiest(r))
		}
		if part := p90["cost"] / p90["cache_aware"]; part > load.bar {
			t.Errorf("%s: cost's p90 is %.2f of cache_aware's, want at most %.2f", load.name, part, load.bar)
		}
	}
}
