package mock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// got is what a client saw of one answer.
type got struct {
	status int
	header http.Header
	body   string
	err    error // of the call or of reading the body
	took   time.Duration
}

// how names the end of an answer as a client sees it.
func (g got) how() string {
	var timeout interface{ Timeout() bool }
	switch {
	case g.err == nil:
		return "ok"
	case errors.Is(g.err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(g.err, context.DeadlineExceeded), errors.As(g.err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(g.err, io.ErrUnexpectedEOF):
		return "cut"
	case errors.Is(g.err, io.EOF):
		return "closed"
	case strings.Contains(g.err.Error(), "invalid byte in chunk length"):
		return "garbage"
	}
	return g.err.Error()
}

// exchange asks with a patience of d.
func exchange(t testing.TB, c *http.Client, url, body string, d time.Duration, header ...string) (g got) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.GetBody = nil // or the client would send it twice
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	begun := time.Now()
	defer func() { g.took = time.Since(begun) }()
	resp, err := c.Do(r)
	if err != nil {
		g.err = err
		return g
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return got{status: resp.StatusCode, header: resp.Header, body: string(b), err: err}
}

func TestFaults(t *testing.T) {
	f := serve(t, instant())
	url := f.URLs()[0] + "/v1/chat/completions"
	tests := []struct {
		spec   string
		stream bool
		status int    // 0 if there is no header
		how    string // see got.how
		events int    // whole events that arrive; -1 for not a stream
	}{
		{"status=503;retry-after=2", false, 503, "ok", -1},
		{"status=429", true, 429, "ok", -1},
		{"refuse", false, 0, "reset", -1},
		{"refuse", true, 0, "reset", -1},
		{"reset=before", true, 0, "reset", -1},
		{"reset=headers", true, 200, "reset", 0},
		{"reset=headers", false, 200, "reset", -1},
		{"reset=3", true, 200, "reset", 3},
		{"reset=1", false, 200, "reset", -1},
		{"earlyclose", false, 0, "closed", -1},
		{"cut=0", true, 200, "cut", 0},
		{"cut=3", true, 200, "cut", 3},
		{"cut=1", false, 200, "cut", -1},
		{"stall=2", true, 200, "timeout", 2},
		{"stall=2", false, 200, "timeout", -1},
		{"never", true, 0, "timeout", -1},
		{"garbage=2", true, 200, "garbage", 2},
		{"garbage=2", false, 200, "garbage", -1},
		{"badjson=2", true, 200, "ok", 36},
		{"badjson=2", false, 200, "ok", -1},
		{"short", true, 200, "cut", 35},
		{"short", false, 200, "cut", -1},
		{"contenttype=text/html", true, 200, "ok", 35},
		{"contenttype=text/html", false, 200, "ok", -1},
		{"delay=30ms", true, 200, "ok", 35},
		{"ttft=30ms", true, 200, "ok", 35},
		{"slow=20us", false, 200, "ok", -1},
	}
	t.Run("all", func(t *testing.T) {
		for _, tt := range tests {
			for _, place := range []string{"header", "user", "metadata"} {
				t.Run(fmt.Sprintf("%s/stream=%v/%s", tt.spec, tt.stream, place), func(t *testing.T) {
					t.Parallel()
					c := client(t) // each with connections of its own
					extra, header := "", []string(nil)
					switch place {
					case "header":
						header = []string{"X-Mock-Fault", tt.spec}
					case "user":
						extra = fmt.Sprintf(`"user":"mock:%s",`, tt.spec)
					case "metadata":
						extra = fmt.Sprintf(`"metadata":{"mock_fault":%q},`, tt.spec)
					}
					patience := 10 * time.Second
					if tt.how == "timeout" {
						patience = time.Second // in which what is to come has come
					}
					g := exchange(t, c, url, fmt.Sprintf(`{%s"stream":%v,%s`, extra, tt.stream, hello[1:]), patience, header...)
					if g.status != tt.status || g.how() != tt.how {
						t.Fatalf("status %d, ended %q; want %d, %q; body %s", g.status, g.how(), tt.status, tt.how, g.body)
					}
					if n := strings.Count(g.body, "\n\n"); tt.events >= 0 && tt.how != "reset" && n != tt.events {
						t.Errorf("%d events, want %d", n, tt.events)
					}
					checkSpec(t, tt.spec, g)
				})
			}
		}
	})
	defer func() { t.Logf("seen %+v", f.Seen()) }()
	eventually(t, "every fault is counted", func() bool {
		s := f.Seen()
		// The last three of the list give good answers.
		return s.Faulted == int64(3*(len(tests)-3)) && s.Served == 9 && s.Requests == int64(3*len(tests))
	})
}

// checkSpec holds what only some faults do.
func checkSpec(t *testing.T, spec string, g got) {
	t.Helper()
	switch {
	case strings.Contains(spec, "retry-after") && g.header.Get("Retry-After") != "2":
		t.Errorf("Retry-After %q", g.header.Get("Retry-After"))
	case strings.HasPrefix(spec, "contenttype") && g.header.Get("Content-Type") != "text/html":
		t.Errorf("Content-Type %q", g.header.Get("Content-Type"))
	case strings.HasPrefix(spec, "badjson") && !strings.Contains(g.body, "this is not JSON"):
		t.Errorf("body %s", g.body)
	case (spec == "delay=30ms" || spec == "ttft=30ms") && g.took < 30*time.Millisecond:
		t.Errorf("took %v, want 30ms at least", g.took)
	case spec == "slow=20us" && g.took < time.Duration(len(g.body))*20*time.Microsecond:
		t.Errorf("took %v for %d bytes, want 20µs for each", g.took, len(g.body))
	}
}

func TestFaultRules(t *testing.T) {
	e := newTestFleet(t, instant()).Engine(0)
	h := e.Handler()
	chat := func() int { return ask1(t, h, http.MethodPost, "/v1/chat/completions", hello).Code }
	add := func(body string, want int) {
		t.Helper()
		if w := ask1(t, h, http.MethodPost, "/mock/fault", body); w.Code != want {
			t.Errorf("%s: status %d, want %d: %s", body, w.Code, want, w.Body)
		}
	}
	add(`{"spec":"status=500","count":2}`, 200)
	if a, b, c := chat(), chat(), chat(); a != 500 || b != 500 || c != 200 {
		t.Errorf("count 2: %d %d %d", a, b, c)
	}
	add(`{"spec":"status=500","rate":0.3}`, 200)
	failed := 0
	for range 1000 {
		if chat() == 500 {
			failed++
		}
	}
	if math.Abs(float64(failed)-300) > 60 {
		t.Errorf("rate 0.3: %d of 1000 failed", failed)
	}
	if w := ask1(t, h, http.MethodDelete, "/mock/fault", ""); w.Code != 200 || chat() != 200 {
		t.Error("the rules are still there")
	}
	add(`{"spec":"status=500","endpoints":["/v1/completions"]}`, 200)
	if got := ask1(t, h, http.MethodPost, "/v1/completions", `{"prompt":"x"}`).Code; chat() != 200 || got != 500 {
		t.Errorf("one endpoint: chat or completions wrong, %d", got)
	}
	for _, bad := range []string{`{}`, `{"spec":"status=9"}`, `{"spec":"never","rate":2}`, `{"spec":"never","count":-1}`, `{"spec":"never","seconds":-1}`, `{"spec":"never","endpoints":["/x"]}`, `{`} {
		add(bad, 400)
	}
	for range maxRules - 1 {
		add(`{"spec":"never","rate":0}`, 200)
	}
	add(`{"spec":"never","rate":0}`, 409)
}

func TestFaultRuleEnds(t *testing.T) {
	fs, err := newFaults(DefaultConfig(), 0)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if err := fs.add(rule{Rate: 1, Until: now.Add(time.Second), kinds: make([]Fault, 1)}); err != nil {
		t.Fatal(err)
	}
	if fs.draw("/generate", now.Add(999*time.Millisecond)) == nil || fs.draw("/generate", now.Add(time.Second)) != nil {
		t.Error("want a fault until the second is over, and none then")
	}
}

func TestFaultsByFlag(t *testing.T) {
	cfg := instant()
	cfg.Faults, cfg.FaultCount, cfg.FaultEndpoints = []string{"status=500", "status=502"}, 20, []string{"/v1/chat/completions"}
	h := newTestFleet(t, cfg).Engine(0).Handler()
	n := map[int]int{}
	for range 30 {
		n[ask1(t, h, http.MethodPost, "/v1/chat/completions", hello).Code]++
	}
	if n[200] != 10 || n[500] == 0 || n[502] == 0 || n[500]+n[502] != 20 {
		t.Errorf("statuses %v", n)
	}
}

func TestParseFault(t *testing.T) {
	for _, bad := range []string{"", "nope", "status=1", "status", "cut", "cut=-1", "cut=x", "refuse=1", "cut=1;stall=2", "cut=1;cut=2", "delay=5", "delay=2h", "contenttype=", "contenttype=a\nb", "retry-after=2", "slow=-1s"} {
		if f, err := ParseFault(bad); err == nil {
			t.Errorf("%q gave %+v, want an error", bad, f)
		}
	}
	f, err := ParseFault(" status=503 ; retry-after=2;delay=1ms; cut=4")
	if want := (Fault{Status: 503, RetryAfter: 2 * time.Second, Delay: time.Millisecond, ending: endCut, after: 4}); err != nil || f != want {
		t.Errorf("got %+v, %v", f, err)
	}
}

// FuzzParseFault holds that any text is a fault within the bounds or an error.
func FuzzParseFault(f *testing.F) {
	for _, s := range []string{"status=503;retry-after=2", "reset=before", "cut=3;slow=1ms", "contenttype=text/html;ttft=1s", ";;", "status=503;status=503"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseFault(s)
		if err != nil {
			if got != (Fault{}) {
				t.Errorf("%q: an error and %+v", s, got)
			}
			return
		}
		if got.Delay < 0 || got.Delay > maxFaultWait || got.FirstToken > maxFaultWait || got.Slow > maxFaultWait || got.after < 0 || got.Status != 0 && (got.Status < 200 || got.Status > 599) {
			t.Errorf("%q: out of bounds: %+v", s, got)
		}
	})
}
