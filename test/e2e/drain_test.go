package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/test/program"
)

// freePort returns a port that was free a moment ago.
func freePort(t testing.TB) string {
	t.Helper()
	u := closedPort(t)
	return u[strings.LastIndexByte(u, ':')+1:]
}

// begin starts a long stream and returns it when its first event is in.
func begin(t *testing.T, g *program.Gateway, tokens int) (*http.Response, *bufio.Reader) {
	t.Helper()
	b := strings.Replace(body(chatPath, true, ""), `"max_tokens":8`, fmt.Sprintf(`"max_tokens":%d`, tokens), 1)
	res, err := oneShot.Post(g.URL+chatPath, "application/json", strings.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	r := bufio.NewReader(res.Body)
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "data: {") {
		t.Fatalf("the stream begins with %q, %v", line, err)
	}
	return res, r
}

var slowEngine = []string{"--model", "m", "--speed", "1", "--decode-rate", "40"}

// TestDrain holds what SIGTERM promises: readiness turns false, nobody new is
// let in, those inside get their answer, the program ends with 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	health := freePort(t)
	g, _ := program.Fleet(t, 1, slowEngine, []string{"--health-check-port", health})
	probe := "http://127.0.0.1:" + health
	for path, want := range map[string]int{"/readiness": 200, "/liveness": 200, "/health": 200, "/workers": 404, "/v1/models": 404} {
		if a := ask(t, "GET", probe+path, ""); a.status != want {
			t.Errorf("the health port answers %s with %d, want %d", path, a.status, want)
		}
	}
	_, r := begin(t, g, 240) // 6 s: it must last until all of what follows was looked at
	g.Signal(t, syscall.SIGTERM)
	program.Eventually(t, "readiness says draining", func() bool {
		status, body := program.Get(t, probe+"/readiness")
		return status == 503 && strings.Contains(body, "draining")
	})
	if status, _ := program.Get(t, probe+"/liveness"); status != 200 {
		t.Errorf("liveness says %d while the gateway drains; it would be killed", status)
	}
	program.Eventually(t, "the listener is closed", func() bool {
		c, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	rest, err := io.ReadAll(r)
	if err != nil || !strings.HasSuffix(string(rest), "data: [DONE]\n\n") {
		t.Errorf("the stream that ran ended with %v: %.200s", err, rest)
	}
	watch := bubble.Begin(t)
	if code := g.Wait(t); code != 0 {
		t.Errorf("exit code %d, want 0:\n%s", code, g.Log())
	}
	if took, awake := watch.End(); awake > 3*time.Second {
		t.Errorf("the program ended %s after its last stream, %s of it awake", took, awake)
	}
}

// An idle gateway ends at once, also with SIGINT, and idle connections of
// clients do not hold it up.
func TestAnIdleGatewayEndsAtOnce(t *testing.T) {
	t.Parallel()
	for _, s := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		g, _ := program.Fleet(t, 1, []string{"--model", "m"}, nil)
		c, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			t.Fatal(err)
		}
		watch := bubble.Begin(t)
		g.Signal(t, s)
		if code := g.Wait(t); code != 0 {
			t.Errorf("%v: exit code %d, want 0", s, code)
		}
		if took, awake := watch.End(); awake > 3*time.Second {
			t.Errorf("%v: the end took %s, %s of it awake", s, took, awake)
		}
	}
}

// When the grace period ends, what still runs is cut, and the program says so.
func TestTheGracePeriodEnds(t *testing.T) {
	t.Parallel()
	g, _ := program.Fleet(t, 1, slowEngine, []string{"--shutdown-grace-period-secs", "1"})
	_, r := begin(t, g, 4000)
	watch := bubble.Begin(t)
	g.Signal(t, syscall.SIGTERM)
	rest, err := io.ReadAll(r)
	if s := string(rest); err == nil && !strings.Contains(s, `"stream_error"`) || strings.Contains(s, "[DONE]") {
		t.Errorf("the stream ended as if it were whole: %v, …%s", err, s[max(0, len(s)-200):])
	}
	code := g.Wait(t)
	if took, awake := watch.End(); took < 900*time.Millisecond || awake > 6*time.Second {
		t.Errorf("the end took %s, %s of it awake; want about 1s", took, awake)
	}
	if !strings.Contains(g.Log(), "requests were still running") {
		t.Errorf("the program does not say that requests were cut (exit code %d):\n%s", code, g.Log())
	}
}

// A second signal ends the program whatever runs.
func TestASecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	g, _ := program.Fleet(t, 1, slowEngine, nil)
	begin(t, g, 4000)
	g.Signal(t, syscall.SIGTERM)
	program.Eventually(t, "the listener is closed", func() bool {
		c, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	watch := bubble.Begin(t)
	g.Signal(t, syscall.SIGTERM)
	code := g.Wait(t)
	if took, awake := watch.End(); awake > 2*time.Second || code == 0 {
		t.Errorf("it ended after %s, %s of it awake, with code %d; want at once, and not 0", took, awake, code)
	}
}

// goroutines asks a gateway with --enable-pprof how many it has.
func goroutines(t testing.TB, g *program.Gateway) int {
	t.Helper()
	a := ask(t, "GET", strings.TrimSuffix(g.MetricsURL, "/metrics")+"/debug/pprof/goroutine?debug=1", "")
	_, rest, _ := strings.Cut(a.body, "total ")
	n, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]))
	if err != nil {
		t.Fatalf("%d %.200s: %v", a.status, a.body, err)
	}
	return n
}

// descriptors counts the files and sockets that a process has open.
func descriptors(t testing.TB, p *program.Process) int {
	t.Helper()
	es, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	if err != nil {
		t.Skip("no /proc here:", err)
	}
	return len(es)
}

// left remembers what an idle gateway holds, and waits for it to hold no more
// than that again.
type left struct{ goroutines, descriptors int }

func holds(t testing.TB, g *program.Gateway) left {
	t.Helper()
	return left{goroutines(t, g), descriptors(t, g.Process)}
}

// settled returns the least that g holds in a time in which its idle
// connections end, for they are kept a second in these tests. To ask holds
// something too, so what it holds is never twice the same.
func settled(t testing.TB, g *program.Gateway) left {
	t.Helper()
	least, begun := holds(t, g), time.Now()
	program.Eventually(t, "idle connections have ended", func() bool {
		now := holds(t, g)
		least.goroutines = min(least.goroutines, now.goroutines)
		least.descriptors = min(least.descriptors, now.descriptors)
		return time.Since(begun) > 1500*time.Millisecond
	})
	return least
}

func (was left) wantAgain(t testing.TB, g *program.Gateway) {
	t.Helper()
	begun := time.Now()
	var now left
	program.Eventually(t, fmt.Sprintf("%+v again", was), func() bool {
		now = holds(t, g)
		return now.goroutines <= was.goroutines && now.descriptors <= was.descriptors
	})
	t.Logf("before %+v, after %+v, which took %s", was, now, time.Since(begun).Round(time.Millisecond))
}

// TestNothingIsLeft holds that load of every kind leaves neither goroutine nor
// descriptor behind.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 2, []string{"--model", "m"}, []string{"--enable-pprof", "--upstream-pool-idle-timeout-secs", "1", "--disable-circuit-breaker"})
	was := settled(t, g) // before any request
	fault(t, e.URLs[0], "cut=2", `"rate":0.3`)
	fault(t, e.URLs[0], "reset=headers", `"rate":0.3`)
	done := make(chan struct{}, 8)
	for range 8 {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 60 {
				w := ways[i%len(ways)]
				_, _ = try(t.Context(), oneShot, "POST", g.URL+w.path, body(w.path, w.stream, ""))
			}
		}()
	}
	for range 8 {
		<-done
	}
	was.wantAgain(t, g)
}
