package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/test/program"
)

// soak says that the long runs are wanted: SLUICE_SOAK=1.
var soak = os.Getenv("SLUICE_SOAK") == "1"

// crowd is a client for many requests at once.
func crowd(n int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, DisableCompression: true}, Timeout: 2 * time.Minute}
}

// tally counts what clients saw, by kind, and keeps an example of each.
type tally struct {
	mu       sync.Mutex
	count    map[string]int    // guarded by mu
	examples map[string]string // guarded by mu
}

func newTally() *tally { return &tally{count: map[string]int{}, examples: map[string]string{}} }

func (y *tally) add(kind, example string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.count[kind]++; y.count[kind] == 1 {
		y.examples[kind] = example[:min(len(example), 1500)]
	}
}

func (y *tally) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(y.count)) {
		fmt.Fprintf(&b, "\n  %-60s %d", k, y.count[k])
	}
	return b.String()
}

// ended says what a client of a stream or of a whole answer got: one of
// "complete", "error event CODE", "status CODE"; anything else is a fault of
// the gateway and begins with "!".
func ended(path string, stream bool, a answer, err error) string {
	switch {
	case err != nil:
		return "! no answer: " + shape(err)
	case a.cut != nil:
		return "! cut: " + shape(a.cut)
	case a.status != 200:
		var e struct {
			Error struct{ Message, Code, Type string }
		}
		if json.Unmarshal([]byte(a.body), &e) != nil || e.Error.Message == "" && !strings.Contains(a.body, `"message"`) {
			return fmt.Sprintf("! status %d without an error", a.status)
		}
		return fmt.Sprintf("status %d %s", a.status, a.header.Get("X-Smg-Error-Code"))
	case !stream:
		if !json.Valid([]byte(a.body)) {
			return "! an answer that is not JSON"
		}
		return "complete"
	}
	es, err := readEvents(a.body)
	if err != nil {
		return "! a stream that is none: " + shape(err)
	}
	end, err := endOf(es)
	switch {
	case err != nil:
		return "! a stream that ends badly: " + shape(err)
	case end == "done":
		return "complete"
	case end == "open":
		return "! a stream without an end"
	}
	return end[:5] + " event" + end[5:]
}

// shape is an error's text without what differs from one to the next.
func shape(err error) string {
	var u interface{ Unwrap() error }
	for errors.As(err, &u) && u.Unwrap() != nil {
		err = u.Unwrap()
	}
	s := err.Error()
	return s[:min(len(s), 40)]
}

// TestStreamsSurviveRestarts has many clients read streams while engines are
// killed and come back. While one engine is up, a request that got no byte yet
// must not fail; each client gets a whole stream or one error event; no engine
// sees a request twice; nothing is left over.
func TestStreamsSurviveRestarts(t *testing.T) {
	clients, lasts, rate := 200, 8*time.Second, "40"
	if soak {
		clients, lasts, rate = 1000, time.Minute, "20" // clients and engines share the machine
	}
	g, e := program.Fleet(t, 4,
		[]string{"--model", "m", "--speed", "1", "--decode-rate", rate, "--decode-slowdown", "0", "--context-time", "0s", "--max-running", "2000", "--output-tokens", "40", "--events-per-write", "1"},
		[]string{"--enable-pprof", "--upstream-pool-idle-timeout-secs", "1", "--log-level", "info"})
	was := settled(t, g) // before any request

	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, l := range g.Lines() {
			if !strings.Contains(l, "msg=request") {
				t.Log(l)
			}
		}
		_, m := program.Get(t, g.MetricsURL)
		for l := range strings.SplitSeq(m, "\n") {
			if strings.HasPrefix(l, "smg_worker_cb") || strings.HasPrefix(l, "smg_worker_health") {
				t.Log(l)
			}
		}
	})
	c, saw := crowd(clients), newTally()
	ctx, stop := context.WithTimeout(t.Context(), lasts)
	defer stop()
	var wg sync.WaitGroup
	var asked atomic.Int64
	for n := range clients {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("s-%d-%d", n, i)
				w := ways[1+2*(i%3)]
				b := strings.NewReplacer(`"max_tokens":8`, `"max_tokens":40`, `"max_new_tokens":8`, `"max_new_tokens":40`, "story", "story "+id).Replace(body(w.path, true, ""))
				// The request may outlive ctx: all are to be answered.
				a, err := try(context.WithoutCancel(ctx), c, "POST", g.URL+w.path, b, "X-Request-Id", id)
				asked.Add(1)
				saw.add(ended(w.path, true, a, err), id+": "+a.body)
			}
		})
	}
	kills := 0
	for i := 0; ctx.Err() == nil; i++ { // one engine in turn: at least two of four take requests at any moment
		select {
		case <-ctx.Done():
		case <-time.After(1200 * time.Millisecond):
			ask(t, "POST", e.URLs[i%4]+"/mock/kill?seconds=0.6", "")
			kills++
		}
	}
	wg.Wait()
	c.CloseIdleConnections()
	t.Logf("%d streams of %d clients at once in %s, %d kills:%s", asked.Load(), clients, lasts, kills, saw)
	for kind, n := range saw.count {
		if kind != "complete" && !strings.HasPrefix(kind, "error event") {
			t.Errorf("%d streams: %s; for example %s", n, kind, saw.examples[kind])
		}
	}
	if saw.count["complete"] == 0 || kills < 2 {
		t.Error("the test did not test anything")
	}
	wantOnce(t, e.URLs)
	wantServedOnce(t, e.URLs)
	program.Eventually(t, "all engines are back", func() bool {
		_, s := program.Get(t, g.URL+"/readiness")
		return strings.Contains(s, `"healthy_workers":4`)
	})
	was.wantAgain(t, g)
	g.Signal(t, syscall.SIGTERM)
	if code := g.Wait(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// wantServedOnce fails if two engines served the same request in full.
func wantServedOnce(t testing.TB, engines []string) {
	t.Helper()
	served := map[string]int{}
	for _, e := range engines {
		for id, times := range state(t, e).IDs.All {
			served[id] += times.Served
		}
	}
	for id, n := range served {
		if n > 1 {
			t.Errorf("request %s was served %d times", id, n)
		}
	}
}

// TestMixedFaults has clients of every kind ask engines of which each meets a
// fault in a tenth of its requests. Every client must get exactly one
// well-formed answer or error.
func TestMixedFaults(t *testing.T) {
	requests := 5_000
	if soak {
		requests = 100_000
	}
	const clients = 64
	faults := []string{"status=500", "status=503", "status=429;retry-after=1", "status=400", "refuse", "reset=before", "reset=headers", "reset=2", "earlyclose", "cut=0", "cut=3", "garbage=1", "delay=20ms", "slow=20us"}
	flags := []string{"--model", "m", "--fault-rate", "0.1"}
	for _, f := range faults {
		flags = append(flags, "--fault", f)
	}
	g, e := program.Fleet(t, 4, flags, []string{"--enable-pprof", "--upstream-pool-idle-timeout-secs", "1", "--retry-initial-backoff-ms", "5", "--log-level", "info"})
	was := settled(t, g)
	mix := append(slices.Clone(ways), way{"/v1/embeddings", false}, way{"/v1/completions", true}, way{"/v1/completions", false}, way{"/v1/responses", false}, way{"/v1/responses", true})
	c, saw := crowd(clients), newTally()
	var next atomic.Int64
	var wg sync.WaitGroup
	begun := time.Now()
	for range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= requests {
					return
				}
				w := mix[rand.IntN(len(mix))]
				id := fmt.Sprintf("f-%d", i)
				b := strings.Replace(body(w.path, w.stream, ""), "story", "story "+id, 1)
				a, err := try(t.Context(), c, "POST", g.URL+w.path, b, "X-Request-Id", id)
				kind := ended(w.path, w.stream, a, err)
				if err == nil && a.header.Get("X-Request-Id") != id {
					kind = "! another request's answer"
				}
				saw.add(kind, fmt.Sprintf("%s %s: %s", id, w, a.body))
			}
		})
	}
	wg.Wait()
	took := time.Since(begun)
	c.CloseIdleConnections()
	total := 0
	for kind, n := range saw.count {
		total += n
		if kind[0] == '!' {
			t.Errorf("%d requests: %s; for example %s", n, kind[2:], saw.examples[kind])
		}
	}
	if total != requests {
		t.Errorf("%d answers for %d requests", total, requests)
	}
	faulted, engineAsked := 0, 0
	for _, u := range e.URLs {
		n := state(t, u).Counts
		faulted, engineAsked = faulted+n.Faulted, engineAsked+n.Requests
	}
	t.Logf("%d requests in %s; the engines were asked %d times and met %d faults that showed:%s", requests, took.Round(time.Millisecond), engineAsked, faulted, saw)
	if faulted < requests/20 {
		t.Errorf("only %d faults in %d requests", faulted, requests)
	}
	if bad := total - saw.count["complete"]; bad > requests/8 {
		t.Errorf("%d of %d clients got an error; most faults come before the first byte and can be retried", bad, requests)
	}
	wantOnce(t, e.URLs)
	wantServedOnce(t, e.URLs)
	was.wantAgain(t, g)
}

// A connection that is kept must give each of its requests that request's own
// answer, whatever happened to the one before.
func TestAnswersStayApartOnOneConnection(t *testing.T) {
	t.Parallel()
	g, _ := program.Fleet(t, 2, []string{"--model", "m", "--fault", "reset=headers", "--fault", "cut=2", "--fault", "status=500", "--fault-rate", "0.3"},
		[]string{"--retry-initial-backoff-ms", "1", "--disable-circuit-breaker"})
	c := crowd(1)
	defer c.CloseIdleConnections()
	for i := range 200 {
		id := fmt.Sprintf("one-%d", i)
		w := ways[i%len(ways)]
		req, err := http.NewRequest("POST", g.URL+w.path, bytes.NewReader([]byte(body(w.path, w.stream, ""))))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Request-Id", id)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if got := res.Header.Get("X-Request-Id"); got != id || err != nil {
			t.Fatalf("request %s got the answer of %s, %v: %s", id, got, err, b)
		}
	}
}
