package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"sluice/test/program"
)

// A way is how a client asks.
type way struct {
	path   string
	stream bool
}

func (w way) String() string {
	if w.stream {
		return w.path + " as a stream"
	}
	return w.path
}

var ways = []way{{chatPath, false}, {chatPath, true}, {messagesPath, false}, {messagesPath, true}, {generatePath, false}, {generatePath, true}}

// saw says what a client saw: "answer" or "stream" for a good one, "stream
// then error CODE", or "STATUS CODE".
func saw(t *testing.T, w way, a answer) string {
	t.Helper()
	switch {
	case a.cut != nil:
		return "cut"
	case a.status != 200:
		return a.refused(t)
	case !w.stream:
		want := map[string]string{chatPath: `"finish_reason"`, messagesPath: `"stop_reason"`, generatePath: `"meta_info"`}[w.path]
		if !strings.HasPrefix(a.body, "{") || !strings.HasSuffix(strings.TrimSpace(a.body), "}") || !strings.Contains(a.body, want) {
			t.Errorf("%s is no whole answer: %s", w, a.body)
		}
		return "answer"
	}
	es := events(t, a.body)
	end, err := endOf(es)
	switch {
	case err != nil:
		t.Errorf("%v in\n%s", err, a.body)
		return "nonsense"
	case end == "done":
		return "stream"
	case len(es) < 2:
		t.Errorf("an error event alone; it should have been retried or an error with a status: %s", a.body)
	}
	return "stream then " + end
}

// isStatus reports whether a case wants a status and the engine's own words.
func isStatus(want string) bool {
	_, err := strconv.Atoi(want)
	return err == nil
}

// TestFaultsOnOneWorker has one engine that meets a fault with every request,
// and one that is well. A fault before the first byte must not be noticed; a
// later one must end the stream with an error event; and no engine may see a
// request twice.
func TestFaultsOnOneWorker(t *testing.T) {
	t.Parallel()
	const openAI, anthropic = "stream then error call_upstream_body_error", "stream then error api_error"
	tests := []struct {
		name, spec    string
		unary, stream string // in OpenAI's dialect; Anthropic's is looked up
	}{
		{"500", "status=500", "answer", "stream"},
		{"502", "status=502", "answer", "stream"},
		{"503", "status=503", "answer", "stream"},
		{"503 with Retry-After", "status=503;retry-after=5", "answer", "stream"},
		{"504", "status=504", "answer", "stream"},
		{"429", "status=429;retry-after=1", "answer", "stream"},
		{"408", "status=408", "answer", "stream"},
		{"400 is the client's", "status=400", "400", "400"},
		{"404 is the client's", "status=404", "404", "404"},
		{"422 is the client's", "status=422", "422", "422"},
		{"refuses connections", "refuse", "answer", "stream"},
		{"resets before the header", "reset=before", "answer", "stream"},
		{"closes before the header", "earlyclose", "answer", "stream"},
		{"resets after the header", "reset=headers", "answer", "stream"},
		{"resets before the first event", "reset=0", "answer", "stream"},
		{"resets after two events", "reset=2", "answer", openAI},
		{"cuts in the first event", "cut=0", "answer", "stream"},
		{"cuts after two events", "cut=2", "answer", openAI},
		{"breaks the framing at once", "garbage=0", "answer", "stream"},
		{"breaks the framing after two events", "garbage=2", "answer", openAI},
		{"announces much more than it sends", "short", "cut", "stream"}, // over 1 MiB: passed on as it comes
		{"is slow to begin", "delay=30ms", "answer", "stream"},
		{"is slow to the first event", "ttft=30ms", "answer", "stream"},
		{"sends byte by byte", "slow=50us", "answer", "stream"},
	}
	g, e := program.Fleet(t, 2, []string{"--model", "m"},
		[]string{"--policy", "round_robin", "--disable-circuit-breaker", "--retry-initial-backoff-ms", "1"})
	bad := e.URLs[0]
	for _, tt := range tests {
		fault(t, bad, "")
		fault(t, bad, tt.spec)
		for _, w := range ways {
			t.Run(tt.name+" "+w.String(), func(t *testing.T) {
				want := tt.unary
				if w.stream {
					want = tt.stream
				}
				if want == openAI && w.path == messagesPath {
					want = anthropic
				}
				before := state(t, bad).Counts.Requests
				good, met := 0, 0
				for i := 0; met == 0 && i < 4; i++ { // round_robin begins at the bad one every other time
					a := post(t, g.URL, w.path, body(w.path, w.stream, ""))
					asked := state(t, bad).Counts.Requests
					if asked == before {
						good++
						if got := saw(t, w, a); got != "answer" && got != "stream" {
							t.Errorf("the good engine alone gave %s: %s", got, a.body)
						}
						continue
					}
					met++
					if isStatus(want) { // the engine's own error, or its message in Anthropic's shape
						if got := fmt.Sprint(a.status); got != want || !strings.Contains(a.body, "error") {
							t.Errorf("got %d %s, want %s and the engine's words", a.status, a.body, want)
						}
						continue
					}
					if got := saw(t, w, a); got != want {
						t.Errorf("got %s, want %s: %.600s", got, want, a.body)
					}
				}
				if met == 0 {
					t.Errorf("the bad engine was not asked in %d requests", good)
				}
			})
		}
	}
	wantOnce(t, e.URLs)
}

// TestFaultsOnEveryWorker has requests that carry their fault with them to
// every engine: the last engine's word must reach the client, in its dialect,
// and each engine is asked once.
func TestFaultsOnEveryWorker(t *testing.T) {
	t.Parallel()
	tests := []struct {
		spec          string
		path          string
		unary, stream string // what the client sees
		engines       int    // how many are asked for the unary one
	}{
		{"status=500", chatPath, "500", "500", 3},
		{"status=503;retry-after=7", chatPath, "503", "503", 3},
		{"status=429;retry-after=7", messagesPath, "429 rate_limit_error", "429 rate_limit_error", 3},
		{"status=500", messagesPath, "500 api_error", "500 api_error", 3},
		{"status=400", chatPath, "400", "400", 1},
		{"status=400", messagesPath, "400 invalid_request_error", "400 invalid_request_error", 1},
		{"refuse", chatPath, "502 call_upstream_connection_failed", "502 call_upstream_connection_failed", 3},
		{"reset=before", messagesPath, "502 api_error", "502 api_error", 3},
		{"earlyclose", chatPath, "502 call_upstream_connection_failed", "502 call_upstream_connection_failed", 3},
		{"reset=headers", chatPath, "502 call_upstream_body_error", "502 call_upstream_body_error", 3},
		{"cut=1", chatPath, "502 call_upstream_body_error", "stream then error call_upstream_body_error", 3},
		{"cut=1", messagesPath, "502 api_error", "stream then error api_error", 3},
		{"garbage=2", chatPath, "502 call_upstream_body_error", "stream then error call_upstream_body_error", 3},
		{"short", messagesPath, "cut", "stream", 1},
		{"never", chatPath, "504 call_upstream_timeout", "504 call_upstream_timeout", 1},
		{"never", messagesPath, "504 timeout_error", "504 timeout_error", 1},
		{"stall=2", chatPath, "504 call_upstream_timeout", "stream then error call_upstream_timeout", 1},
		{"stall=2", messagesPath, "504 timeout_error", "stream then error timeout_error", 1},
	}
	flags := []string{"--disable-circuit-breaker", "--retry-initial-backoff-ms", "1"}
	g, e := program.Fleet(t, 3, []string{"--model", "m"}, flags)
	hurried := inFrontOf(t, 3, e.URLs, append(flags, "--request-timeout-secs", "3")...) // for those who say nothing
	t.Cleanup(func() { wantOnce(t, e.URLs) })                                           // when all have ended
	for i, tt := range tests {
		for _, w := range []way{{tt.path, false}, {tt.path, true}} {
			t.Run(tt.spec+" "+w.String(), func(t *testing.T) {
				t.Parallel()
				more := fmt.Sprintf(`"user":"mock:%s"`, tt.spec)
				if tt.path == messagesPath {
					more = fmt.Sprintf(`"metadata":{"mock_fault":%q}`, tt.spec)
				}
				id, g := fmt.Sprintf("fault-%d-%v", i, w.stream), g
				if strings.HasPrefix(tt.spec, "never") || strings.HasPrefix(tt.spec, "stall") {
					g = hurried
				}
				a := post(t, g.URL, w.path, body(w.path, w.stream, more), "X-Request-Id", id)
				want := tt.unary
				if w.stream {
					want = tt.stream
				}
				got := fmt.Sprint(a.status)
				if !isStatus(want) {
					got = saw(t, w, a)
				}
				if got != want {
					t.Errorf("got %s, want %s: %s", got, want, a.body)
				}
				if strings.Contains(tt.spec, "retry-after=7") && a.header.Get("Retry-After") != "7" {
					t.Errorf("Retry-After is %q, want the engine's", a.header.Get("Retry-After"))
				}
				asked := 0
				for _, u := range e.URLs {
					asked += state(t, u).IDs.All[id].Asked
				}
				// "refuse" hangs up before the engine knows the request's id.
				if !w.stream && asked != tt.engines && tt.spec != "refuse" {
					t.Errorf("%d engines were asked, want %d", asked, tt.engines)
				}
			})
		}
	}
}

// A data line that is not JSON is the engine's own; what follows it passes.
func TestAMalformedEventPasses(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 1, []string{"--model", "m"}, nil)
	fault(t, e.URLs[0], "badjson=2")
	a := post(t, g.URL, chatPath, body(chatPath, true, ""))
	if a.status != 200 || !strings.Contains(a.body, "this is not JSON") || !strings.HasSuffix(a.body, "data: [DONE]\n\n") {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

// TestHowOftenIsTried holds the flags that bound the attempts.
func TestHowOftenIsTried(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		flags []string
		want  int
	}{
		{"by default, five at most", nil, 5},
		{"--retry-max-retries counts attempts", []string{"--retry-max-retries", "2"}, 2},
		{"--disable-retries", []string{"--disable-retries"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g, e := program.Fleet(t, 6, []string{"--model", "m", "--fault", "status=503"}, append(tt.flags, "--retry-initial-backoff-ms", "1"))
			a := post(t, g.URL, chatPath, body(chatPath, false, ""))
			if a.status != 503 {
				t.Errorf("got %d %s", a.status, a.body)
			}
			asked := 0
			for _, u := range e.URLs {
				asked += state(t, u).Counts.Requests
			}
			if asked != tt.want {
				t.Errorf("%d engines were asked, want %d", asked, tt.want)
			}
			wantOnce(t, e.URLs)
		})
	}
}
