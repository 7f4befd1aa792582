package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/test/program"
)

// inFrontOf starts a gateway before workers that are not simulated engines.
func inFrontOf(t testing.TB, n int, urls []string, flags ...string) *program.Gateway {
	t.Helper()
	g := program.Serve(t, append(append([]string{"--worker-urls"}, urls...), flags...)...)
	g.WaitReady(t, n)
	return g
}

const sse = "text/event-stream"

// one is an event of OpenAI's, as a worker sends it.
const one = `data: {"choices":[{"index":0,"delta":{"content":"a"}}]}` + "\n\n"

// TestWorkersThatAnswerNonsense has one worker for each model: the client
// must get an answer that says so, and the worker must be asked once.
func TestWorkersThatAnswerNonsense(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 100<<10)
	tests := []struct {
		name   string
		reply  func(net.Conn, *http.Request)
		stream bool
		want   string // status and code, "cut", or how a stream ends
	}{
		{"closes at once", raw(""), false, "502 call_upstream_connection_failed"},
		{"resets at once", reset(""), true, "502 call_upstream_connection_failed"},
		{"is not HTTP", raw("SSH-2.0-OpenSSH_9.6\r\n"), false, "502 call_upstream_decode_error"},
		{"has half a status line", raw("HTTP/1.1 20"), false, "502 call_upstream_decode_error"},
		{"has no status", raw("HTTP/1.1 abc OK\r\n\r\n"), false, "502 call_upstream_decode_error"},
		{"has a header line that is none", raw("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"), false, "502 call_upstream_decode_error"},
		{"closes in the header", raw("HTTP/1.1 200 OK\r\nContent-Type: app"), false, "502 call_upstream_connection_failed"},
		{"has a header that is too large", raw("HTTP/1.1 200 OK\r\nX: " + long + "\r\n\r\n"), false, "502 call_upstream_decode_error"},
		{"has two lengths", raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} "), false, "502 call_upstream_decode_error"},
		{"has a negative length", raw("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), false, "502 call_upstream_decode_error"},
		{"resets after the header", reset("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"), false, "502 call_upstream_body_error"},
		{"sends less than its length", raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{}"), false, "502 call_upstream_body_error"},
		{"breaks its chunks", raw(chunked("application/json", `{"a":`) + "zz\r\n"), false, "502 call_upstream_body_error"},
		{"switches protocols", raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), false, "502 call_upstream_decode_error"},
		{"redirects", raw("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n"), false, "502 call_upstream_redirect_error"},
		{"redirects a stream", raw("HTTP/1.1 302 Found\r\nLocation: /v1/chat/completions\r\nContent-Length: 0\r\n\r\n"), true, "502 call_upstream_redirect_error"},
		{"begins no stream", reset(chunked(sse)), true, "502 call_upstream_body_error"},
		{"breaks in a stream", raw(chunked(sse, one, one)), true, "error call_upstream_body_error"},
		{"resets in a stream", reset(chunked(sse, one)), true, "error call_upstream_body_error"},
		{"breaks within an event", raw(chunked(sse, one, `data: {"choi`)), true, "error call_upstream_body_error"},
		{"breaks the chunks of a stream", raw(chunked(sse, one) + "zz\r\nxx\r\n"), true, "error call_upstream_body_error"},
		{"lies about a stream's length", raw("HTTP/1.1 200 OK\r\nContent-Type: " + sse + "\r\nContent-Length: 9999\r\n\r\n" + one), true, "error call_upstream_body_error"},
		{"breaks after it said all", raw(chunked(sse, one, "data: [DONE]\n\n")), true, "done"},
		{"never answers", silent(""), false, "504 call_upstream_timeout"},
		{"never sends a body", silent("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"), false, "504 call_upstream_timeout"},
		{"never begins a stream", silent(chunked(sse)), true, "504 call_upstream_timeout"},
		{"stops in a stream", silent(chunked(sse, one)), true, "error call_upstream_timeout"},
	}
	rogues, urls := make([]*rogue, len(tests)), make([]string, len(tests))
	for i, tt := range tests {
		rogues[i] = newRogueOf(t, tt.name, tt.reply)
		urls[i] = rogues[i].URL
	}
	g := inFrontOf(t, len(tests), urls)
	hurried := inFrontOf(t, len(tests), urls, "--request-timeout-secs", "3") // for those who say nothing
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, g := rogues[i], g
			if strings.HasSuffix(tt.want, "call_upstream_timeout") {
				g = hurried
			}
			watch := bubble.Begin(t)
			a := post(t, g.URL, chatPath, of(tt.name, body(chatPath, tt.stream, "")))
			if took, awake := watch.End(); awake > 10*time.Second {
				t.Errorf("the answer took %s, %s of it awake", took, awake)
			}
			got := ""
			if a.status == 200 {
				if a.cut != nil {
					t.Errorf("the stream was cut: %v", a.cut)
				}
				var err error
				if got, err = endOf(events(t, strings.Replace(a.body, "data: {\"choi\n\n", "", 1))); err != nil {
					t.Error(err)
				}
			} else {
				got = a.refused(t)
			}
			if got != tt.want {
				t.Errorf("got %q, want %q: %d %s", got, tt.want, a.status, a.body)
			}
			if n := w.times(); n != 1 {
				t.Errorf("the worker was asked %d times, want once", n)
			}
		})
	}
}

// TestWorkersThatAnswerUnusually has answers that are odd and yet right: they
// reach the client as they are.
func TestWorkersThatAnswerUnusually(t *testing.T) {
	t.Parallel()
	big := `{"text":"` + strings.Repeat("a", 3<<20) + `"}`
	tests := []struct {
		name   string
		reply  func(net.Conn, *http.Request)
		stream bool
		want   answer
	}{
		{"another content type", func(c net.Conn, _ *http.Request) { say(c, "200 OK", "text/html", "<b>hi</b>") }, false,
			answer{status: 200, header: http.Header{"Content-Type": {"text/html"}}, body: "<b>hi</b>"}},
		{"JSON where a stream was asked", func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", `{"a":1}`) }, true,
			answer{status: 200, header: http.Header{"Content-Type": {"application/json"}}, body: `{"a":1}`}},
		{"a stream where none was asked", raw(chunked(sse, one, "data: [DONE]\n\n") + "0\r\n\r\n"), false,
			answer{status: 200, header: http.Header{"Content-Type": {sse}}, body: one + "data: [DONE]\n\n"}},
		{"early hints before it", raw("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), false,
			answer{status: 200, body: "{}"}},
		{"an invitation before it", raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), false,
			answer{status: 200, body: "{}"}},
		{"no length and a close", raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}"), false,
			answer{status: 200, body: "{}"}},
		{"HTTP/1.0", raw("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}"), false,
			answer{status: 200, body: "{}"}},
		{"nothing", raw("HTTP/1.1 204 No Content\r\n\r\n"), false, answer{status: 204}},
		{"a large body", func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", big) }, false,
			answer{status: 200, body: big}},
		{"a client's error", func(c net.Conn, _ *http.Request) {
			say(c, "422 Unprocessable Entity", "application/json", `{"detail":"no"}`)
		}, false,
			answer{status: 422, body: `{"detail":"no"}`}},
		{"its own and hop-by-hop fields", raw("HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Kept: 2\r\nKeep-Alive: x\r\nX-Request-Id: evil\r\nContent-Length: 2\r\n\r\n{}"), false,
			answer{status: 200, header: http.Header{"X-Hop": nil, "X-Kept": {"2"}, "Keep-Alive": nil}, body: "{}"}},
	}
	rogues, urls := make([]*rogue, len(tests)), make([]string, len(tests))
	for i, tt := range tests {
		rogues[i] = newRogueOf(t, tt.name, tt.reply)
		urls[i] = rogues[i].URL
	}
	g := inFrontOf(t, len(tests), urls)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := rogues[i]
			a := post(t, g.URL, chatPath, of(tt.name, body(chatPath, tt.stream, "")), "X-Request-Id", "mine")
			if a.status != tt.want.status || a.body != tt.want.body || a.cut != nil {
				t.Errorf("got %d %.200q %v, want %d %.200q", a.status, a.body, a.cut, tt.want.status, tt.want.body)
			}
			for name, values := range tt.want.header {
				if got := a.header.Values(name); fmt.Sprint(got) != fmt.Sprint(values) {
					t.Errorf("%s is %q, want %q", name, got, values)
				}
			}
			if id := a.header.Values("X-Request-Id"); len(id) != 1 || id[0] != "mine" {
				t.Errorf("x-request-id is %q, want the client's only", id)
			}
			if n := w.times(); n != 1 {
				t.Errorf("the worker was asked %d times, want once", n)
			}
		})
	}
}

// A part of an answer that is no stream must not pass for the whole.
func TestALargeAnswerThatBreaksIsCut(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{
		"with a length": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n",
		"without":       "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newRogue(t, raw(head+strings.Repeat("a", 2<<20)+"\r\n"))
			g := inFrontOf(t, 1, []string{w.URL})
			if a := post(t, g.URL, chatPath, body(chatPath, false, "")); a.status != 200 || a.cut == nil {
				t.Errorf("got %d with %d bytes and no sign of the break", a.status, len(a.body))
			}
		})
	}
}

// What a redirect names must not be asked, whoever it is.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	victim := newRogue(t, func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", "{}") })
	w := newRogue(t, raw("HTTP/1.1 307 Temporary Redirect\r\nLocation: "+victim.URL+"/v1/chat/completions\r\nContent-Length: 0\r\n\r\n"))
	g := inFrontOf(t, 1, []string{w.URL})
	if a := post(t, g.URL, chatPath, body(chatPath, false, "")); a.refused(t) != "502 call_upstream_redirect_error" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if victim.times() != 0 {
		t.Error("the redirect was followed")
	}
}

// Every fault of before is met by one of two workers here, and nobody notices.
func TestNonsenseIsRetriedOnAnotherWorker(t *testing.T) {
	t.Parallel()
	good := func(c net.Conn, r *http.Request) { say(c, "200 OK", "application/json", `{"ok":true}`) }
	for name, reply := range map[string]func(net.Conn, *http.Request){
		"closes": raw(""), "resets": reset(""), "garbage": raw("SSH-2.0\r\n"), "redirect": raw("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
		"short": raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{}"),
		"hops":  raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad, fine := newRogue(t, reply), newRogue(t, good)
			g := inFrontOf(t, 2, []string{bad.URL, fine.URL}, "--policy", "round_robin", "--retry-initial-backoff-ms", "1")
			for range 6 {
				if a := post(t, g.URL, chatPath, body(chatPath, false, "")); a.status != 200 || a.body != `{"ok":true}` {
					t.Errorf("got %d %s", a.status, a.body)
				}
			}
			if bad.times() == 0 || fine.times() != 6 {
				t.Errorf("the bad worker was asked %d times and the good one %d; want some and 6", bad.times(), fine.times())
			}
		})
	}
}

// TestBodiesPassAsBytes holds that a request and an answer are the same bytes
// on both sides of the gateway.
func TestBodiesPassAsBytes(t *testing.T) {
	t.Parallel()
	const odd = "{ \"zz\":1.50e+01, \"model\" :\"m\",\t\"messages\":[ {\"content\":\"\\u00e9\\/\",\"role\":\"user\"} ],\"n\":9007199254740993 , \"stream\":false}\r\n"
	const said = "{\"b\":1.0,\n \"a\":\"\\u003c\"}\n"
	w := newRogue(t, func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", said) })
	g := inFrontOf(t, 1, []string{w.URL})
	a := post(t, g.URL, chatPath, odd)
	if _, got := w.last(t); got != odd {
		t.Errorf("the worker got\n%q, want\n%q", got, odd)
	}
	if a.body != said {
		t.Errorf("the client got\n%q, want\n%q", a.body, said)
	}
}

// TestAStreamIsNotHeldBack holds that each event reaches the client before the
// next one is sent, and that its framing is the worker's.
func TestAStreamIsNotHeldBack(t *testing.T) {
	t.Parallel()
	next := make(chan string)
	end := sync.OnceFunc(func() { close(next) })
	defer end() // also when the test fails: the worker waits for it
	w := newRogue(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, chunked(sse))
		for s := range next {
			fmt.Fprintf(c, "%x\r\n%s\r\n", len(s), s)
		}
		_, _ = io.WriteString(c, "0\r\n\r\n")
	})
	g := inFrontOf(t, 1, []string{w.URL})
	pieces := []string{": hello\n\n", one, "data: {\"half\":1}\r\n\r\n", "event: x\nid: 7\ndata: y\n\n", "data: [DONE]\n\n"}
	first := make(chan struct{})
	go func() {
		next <- pieces[0]
		close(first)
	}()
	res, err := oneShot.Post(g.URL+chatPath, "application/json", strings.NewReader(body(chatPath, true, "")))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-first
	for i, p := range pieces {
		if i > 0 {
			next <- p
		}
		got := make([]byte, len(p))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != p {
			t.Fatalf("piece %d is %q, %v; want %q", i, got, err, p)
		}
	}
	end()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
		t.Errorf("after the end came %q, %v", rest, err)
	}
}

// TestWhichHeadersWorkersGet holds the list of what is passed on.
func TestWhichHeadersWorkersGet(t *testing.T) {
	t.Parallel()
	w := newRogue(t, func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", "{}") })
	g := inFrontOf(t, 1, []string{w.URL})
	post(t, g.URL, chatPath, body(chatPath, false, ""),
		"Authorization", "Bearer client", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Tracestate", "a=b",
		"X-Correlation-Id", "c1", "X-Smg-Routing-Key", "k", "X-Request-Id-Extra", "e", "X-Request-Id", "id-7",
		"Cookie", "secret=1", "X-Forwarded-For", "10.0.0.1", "X-Mock-Fault", "never", "Connection", "Tracestate", "Te", "trailers")
	r, _ := w.last(t)
	for name, want := range map[string]string{
		"Authorization": "Bearer client", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "X-Correlation-Id": "c1",
		"X-Smg-Routing-Key": "k", "X-Request-Id-Extra": "e", "X-Request-Id": "id-7", "Content-Type": "application/json",
		"Tracestate": "", "Cookie": "", "X-Forwarded-For": "", "X-Mock-Fault": "", "Te": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("the worker got %s %q, want %q", name, got, want)
		}
	}
}
