package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// smuggled is what each trick would have a worker serve.
const smuggled = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 26\r\n\r\n{\"model\":\"m\",\"messages\":1}"

// TestSmuggling sends what two readers could take for different requests: it is
// refused with an error that can be found in the log, the connection ends, and
// no worker hears of it.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	const (
		line = "POST /v1/chat/completions HTTP/1.1\r\n"
		typ  = "Host: x\r\nContent-Type: application/json\r\n"
		head = line + typ
		te   = "Transfer-Encoding: chunked\r\n"
		body = `{"model":"m","messages":[1]}` // 28 bytes
	)
	chunks := "1c\r\n" + body + "\r\n0\r\n\r\n"
	long := strings.Repeat("a", 100<<10)
	tests := []struct {
		name, say string
		want      int
	}{
		{"CL.TE", head + "Content-Length: 28\r\n" + te + "\r\n" + chunks, 400},
		{"TE.CL", head + te + "Content-Length: 4\r\n\r\n" + chunks, 400},
		{"CL.TE that agree", head + "Content-Length: 38\r\n" + te + "\r\n" + chunks, 400},
		{"TE behind a tab", head + "Transfer-Encoding:\tchunked\r\nContent-Length: 4\r\n\r\n" + chunks, 400},
		{"TE with a space before its colon", head + "Transfer-Encoding : chunked\r\nContent-Length: 4\r\n\r\n" + chunks, 400},
		{"TE with a vertical tab", head + "Transfer-Encoding: \vchunked\r\n\r\n" + chunks, 400},
		{"TE with a form feed", head + "Transfer-Encoding: chunked\f\r\n\r\n" + chunks, 400},
		{"TE in quotes", head + "Transfer-Encoding: \"chunked\"\r\n\r\n" + chunks, 400},
		{"TE xchunked", head + "Transfer-Encoding: xchunked\r\n\r\n" + chunks, 400},
		{"TE identity", head + "Transfer-Encoding: identity\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"TE chunked and identity", head + "Transfer-Encoding: chunked, identity\r\n\r\n" + chunks, 400},
		{"TE gzip and chunked", head + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks, 501},
		{"TE twice", head + te + te + "\r\n" + chunks, 400},
		{"TE chunked twice", head + "Transfer-Encoding: chunked, chunked\r\n\r\n" + chunks, 400},
		{"TE with a parameter", head + "Transfer-Encoding: chunked;q=1\r\n\r\n" + chunks, 400},
		{"TE empty", head + "Transfer-Encoding:\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"TE folded", head + "Transfer-Encoding:\r\n chunked\r\n\r\n" + chunks, 400},
		{"TE in HTTP/1.0", "POST /v1/chat/completions HTTP/1.0\r\n" + typ + te + "\r\n" + chunks, 400},
		{"TE behind a bare LF", head + "X: y\nTransfer-Encoding: chunked\r\n\r\n" + chunks, 400},
		{"TE behind a bare CR", head + "X: y\rTransfer-Encoding: chunked\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"TE with NUL", head + "Transfer-Encoding: chunked\x00\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"TE with a letter of another alphabet", head + "Transfer-Encoding: chun\u212aed\r\nContent-Length: 28\r\n\r\n" + body, 400},

		{"CL twice, differing", head + "Content-Length: 28\r\nContent-Length: 0\r\n\r\n" + body, 400},
		{"CL twice, the same", head + "Content-Length: 28\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"CL as a list", head + "Content-Length: 28, 28\r\n\r\n" + body, 400},
		{"CL +28", head + "Content-Length: +28\r\n\r\n" + body, 400},
		{"CL -1", head + "Content-Length: -1\r\n\r\n" + body, 400},
		{"CL 0x1c", head + "Content-Length: 0x1c\r\n\r\n" + body, 400},
		{"CL 28.0", head + "Content-Length: 28.0\r\n\r\n" + body, 400},
		{"CL 2 8", head + "Content-Length: 2 8\r\n\r\n" + body, 400},
		{"CL empty", head + "Content-Length:\r\n\r\n" + body, 400},
		{"CL with an underscore", head + "Content-Length: 2_8\r\n\r\n" + body, 400},
		{"CL in other digits", head + "Content-Length: ２８\r\n\r\n" + body, 400},
		{"CL that overflows", head + "Content-Length: 18446744073709551644\r\n\r\n" + body, 413},
		{"CL with a space before its colon", head + "Content-Length : 28\r\n\r\n" + body, 400},
		{"CL folded", head + "Content-Length:\r\n 28\r\n\r\n" + body, 400},

		{"bare LF after the request line", "POST /v1/chat/completions HTTP/1.1\n" + typ + "Content-Length: 28\r\n\r\n" + body, 400},
		{"bare LF for the empty line", head + "Content-Length: 28\r\n\n" + body, 400},
		{"bare CR in the request line", "POST /v1/chat\r/completions HTTP/1.1\r\n" + typ + "\r\n", 400},
		{"CR CR LF", head + "X: y\r\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"obs-fold", head + "X: y\r\n z\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"a first line that is folded", line + " X: y\r\n" + typ + "\r\n", 400},
		{"NUL in a value", head + "X: a\x00b\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"NUL in a name", head + "X\x00Y: a\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"a control in a value", head + "X: a\x01b\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"an empty name", head + ": a\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"a field without a colon", head + "nonsense\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"two Hosts", line + "Host: y\r\n" + typ + "Content-Length: 28\r\n\r\n" + body, 400},
		{"no Host", line + "Content-Type: application/json\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"a Host with a path", line + "Host: x/y\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"a Host with a user", line + "Host: a@x\r\nContent-Length: 28\r\n\r\n" + body, 400},
		{"two empty lines before", "\r\n\r\n" + head + "Content-Length: 28\r\n\r\n" + body, 400},
		{"a space before the method", " " + head + "Content-Length: 28\r\n\r\n" + body, 400},
		{"two spaces in the request line", "POST  /v1/chat/completions HTTP/1.1\r\n" + typ + "\r\n", 400},
		{"a tab in the request line", "POST\t/v1/chat/completions HTTP/1.1\r\n" + typ + "\r\n", 400},
		{"a space in the target", "POST /v1/chat completions HTTP/1.1\r\n" + typ + "\r\n", 400},
		{"a fragment", "POST /v1/chat/completions#x HTTP/1.1\r\n" + typ + "\r\n", 400},
		{"HTTP/0.9", "POST /v1/chat/completions\r\n", 400},
		{"http/1.1", "POST /v1/chat/completions http/1.1\r\n" + typ + "\r\n", 400},
		{"HTTP/1.10", "POST /v1/chat/completions HTTP/1.10\r\n" + typ + "\r\n", 400},
		{"HTTP/2.0", "POST /v1/chat/completions HTTP/2.0\r\n" + typ + "\r\n", 505},
		{"CONNECT", "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 501},
		{"a target that is a host", "POST x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"another scheme", "POST ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},

		{"a chunk size in C", head + te + "\r\n0x1c\r\n" + body + "\r\n0\r\n\r\n", 400},
		{"a chunk size with a sign", head + te + "\r\n+1c\r\n" + body + "\r\n0\r\n\r\n", 400},
		{"a chunk size with a space", head + te + "\r\n1c \r\n" + body + "\r\n0\r\n\r\n", 400},
		{"a chunk size that overflows", head + te + "\r\n1000000000000001c\r\n" + body + "\r\n0\r\n\r\n", 400},
		{"a chunk size that is empty", head + te + "\r\n\r\n" + body + "\r\n0\r\n\r\n", 400},
		{"a chunk line with a bare LF", head + te + "\r\n1c\n" + body + "\r\n0\r\n\r\n", 400},
		{"an extension with a bare LF", head + te + "\r\n1c;a\nb\r\n" + body + "\r\n0\r\n\r\n", 400},
		{"an extension with a bare CR", head + te + "\r\n1c;a\rb\r\n" + body + "\r\n0\r\n\r\n", 400},
		{"an extension that is long", head + te + "\r\n1c;a=" + long + "\r\n" + body + "\r\n0\r\n\r\n", 400},
		{"a chunk that is longer than it says", head + te + "\r\n1c\r\n" + body + "xx\r\n0\r\n\r\n", 400},
		{"a chunk that ends with a bare LF", head + te + "\r\n1c\r\n" + body + "\n0\r\n\r\n", 400},
		{"a last chunk that ends with a bare LF", head + te + "\r\n1c\r\n" + body + "\r\n0\r\n\n", 400},
		{"a trailer with a length", head + te + "\r\n1c\r\n" + body + "\r\n0\r\nContent-Length: 5\r\n\r\n", 400},
		{"a trailer with a host", head + te + "\r\n1c\r\n" + body + "\r\n0\r\nHost: y\r\n\r\n", 400},
		{"a trailer with a key", head + te + "\r\n1c\r\n" + body + "\r\n0\r\nAuthorization: y\r\n\r\n", 400},
		{"a trailer that is long", head + te + "\r\n1c\r\n" + body + "\r\n0\r\nX: " + long + "\r\n\r\n", 431},

		{"a line that is long", "POST /" + long + " HTTP/1.1\r\n" + typ + "\r\n", 414},
		{"a method that is long", long + " / HTTP/1.1\r\n" + typ + "\r\n", 414},
		{"a field that is long", head + "X: " + long + "\r\n\r\n", 431},
		{"a name that is long", head + long + ": x\r\n\r\n", 431},
		{"many fields", head + strings.Repeat("X: y\r\n", 200) + "\r\n", 431},
		{"many options", head + "Connection: " + strings.Repeat("a,", 200) + "b\r\n\r\n", 431},
	}
	w := newRogue(t, func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", "{}") })
	g := inFrontOf(t, 1, []string{w.URL})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			go func() { _, _ = io.WriteString(c, tt.say+smuggled) }()
			br := bufio.NewReader(c)
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			a := answer{status: res.StatusCode, header: res.Header, body: string(b)}
			_ = a.refused(t)
			if a.status != tt.want || !res.Close {
				t.Errorf("got %d, closes: %v; want %d: %s", a.status, res.Close, tt.want, b)
			}
			if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
				t.Errorf("then came %q, %v", rest, err)
			}
			wantLine(t, g, "id="+a.header.Get("X-Request-Id")+" ", fmt.Sprintf("status=%d", tt.want), "cause=")
		})
	}
	if n := w.times(); n != 0 {
		_, b := w.last(t)
		t.Errorf("a worker was asked %d times, last %q", n, b)
	}
	if a := post(t, g.URL, chatPath, body); a.status != 200 {
		t.Errorf("after all that, a good request got %d: %s", a.status, a.body)
	}
}

// TestWhatGoesOnIsBuilt holds that a worker gets one request for one, with
// framing of the gateway's own, whatever a client's framing has in it.
func TestWhatGoesOnIsBuilt(t *testing.T) {
	t.Parallel()
	const chat = `{"model":"m","messages":[1]}`
	w := newRogue(t, func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", "{}") })
	g := inFrontOf(t, 1, []string{w.URL})
	for name, say := range map[string]string{
		"chunks, extensions and a trailer": "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Smuggled\r\n\r\n" +
			"5;GET=\"/evil HTTP/1.1\"\r\n" + chat[:5] + "\r\n000000017;x\r\n" + chat[5:] + "\r\n0;y\r\nX-Smuggled: GET /evil HTTP/1.1\r\n\r\n",
		"a length with zeros": "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 0028\r\n\r\n" + chat,
		"an absolute target":  "POST http://evil:1/v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n" + chat,
		"HTTP/1.0":            "POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n" + chat,
		"fields by Connection": "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 28\r\n" +
			"Connection: X-Request-Id, Content-Length, keep-alive\r\nX-Request-Id: a\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n" + chat,
		"an expectation": "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 28\r\nExpect: 100-continue\r\n\r\n" + chat,
	} {
		t.Run(name, func(t *testing.T) {
			before := w.times()
			res := talk(t, g, func(c net.Conn) { _, _ = io.WriteString(c, say) })
			if res.StatusCode != 200 {
				t.Fatalf("got %d", res.StatusCode)
			}
			r, b := w.last(t)
			if w.times() != before+1 || b != chat {
				t.Errorf("the worker was asked %d times, with %q", w.times()-before, b)
			}
			if r.RequestURI != chatPath || r.ContentLength != 28 || len(r.TransferEncoding) > 0 || r.Host != strings.TrimPrefix(w.URL, "http://") {
				t.Errorf("the worker was asked %s of %s, with length %d and coding %q", r.RequestURI, r.Host, r.ContentLength, r.TransferEncoding)
			}
			for _, name := range []string{"Trailer", "X-Smuggled", "Te", "Upgrade", "Keep-Alive", "Proxy-Connection", "Expect"} {
				if v := r.Header.Values(name); len(v) > 0 {
					t.Errorf("the worker got %s: %q", name, v)
				}
			}
		})
	}
}

// TestAnswersAreNotMixed has workers that say more than one answer, or what
// two readers could take for different ones: the client gets one answer or an
// error, the connection to the worker ends, and what was said beyond it is
// nobody's answer.
func TestAnswersAreNotMixed(t *testing.T) {
	t.Parallel()
	const (
		ok   = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
		te   = "Transfer-Encoding: chunked\r\n"
		evil = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n\"evil\""
		bad  = "502 call_upstream_decode_error"
		torn = "502 call_upstream_body_error"
	)
	chunks := "2\r\n{}\r\n0\r\n\r\n"
	tests := []struct{ name, says, want string }{
		{"two answers", ok + "Content-Length: 2\r\n\r\n{}" + evil, "200 {}"},
		{"two answers, of chunks", ok + te + "\r\n" + chunks + evil, "200 {}"},
		{"a byte too many", ok + "Content-Length: 2\r\n\r\n{}}", "200 {}"},
		{"a body of 204", "HTTP/1.1 204 No Content\r\n\r\n" + evil, "204 "},
		{"CL and TE", ok + "Content-Length: 2\r\n" + te + "\r\n" + chunks, bad},
		{"TE and CL", ok + te + "Content-Length: 10\r\n\r\n" + chunks, bad},
		{"CL twice, the same", ok + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", bad},
		{"CL +2", ok + "Content-Length: +2\r\n\r\n{}", bad},
		{"CL 2, 2", ok + "Content-Length: 2, 2\r\n\r\n{}", bad},
		{"CL that overflows", ok + "Content-Length: 99999999999999999999\r\n\r\n{}", bad},
		{"TE twice", ok + te + te + "\r\n" + chunks, bad},
		{"TE chunked twice", ok + "Transfer-Encoding: chunked, chunked\r\n\r\n" + chunks, bad},
		{"TE gzip and chunked", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks, bad},
		{"TE identity", ok + "Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}", bad},
		{"TE in HTTP/1.0", "HTTP/1.0 200 OK\r\n" + te + "\r\n" + chunks, bad},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", bad},
		{"bare LF between fields", ok + "X: y\nContent-Length: 2\r\n\r\n{}", bad},
		{"bare CR", ok + "X: a\rContent-Length: 2\r\n\r\n{}", bad},
		{"obs-fold", ok + "X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}", bad},
		{"a space before the colon", ok + "Content-Length : 2\r\n\r\n{}", bad},
		{"NUL", ok + "X: \x00\r\nContent-Length: 2\r\n\r\n{}", bad},
		{"many fields", ok + strings.Repeat("X: y\r\n", 5000) + "Content-Length: 2\r\n\r\n{}", bad},
		{"garbage before", "xx\r\n" + ok + "Content-Length: 2\r\n\r\n{}", bad},
		{"status 99", "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\n{}", bad},
		{"status 600", "HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\n{}", bad},
		{"status 2000", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}", bad},
		{"HTTP/2", "HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}", bad},
		{"small letters", "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", bad},
		{"invitations without end", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 10_000), bad},
		{"a length of 204", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}", bad},
		{"chunks of 204", "HTTP/1.1 204 No Content\r\n" + te + "\r\n" + chunks, bad},
		{"a chunk size in C", ok + te + "\r\n0x2\r\n{}\r\n0\r\n\r\n", torn},
		{"a chunk size with a space", ok + te + "\r\n2 \r\n{}\r\n0\r\n\r\n", torn},
		{"a chunk size that overflows", ok + te + "\r\n10000000000000002\r\n{}\r\n0\r\n\r\n", torn},
		{"a chunk line with a bare LF", ok + te + "\r\n2\n{}\r\n0\r\n\r\n", torn},
		{"a chunk that is longer than it says", ok + te + "\r\n2\r\n{}}\r\n0\r\n\r\n", torn},
		{"a last chunk with a bare LF", ok + te + "\r\n2\r\n{}\r\n0\r\n\n", torn},
		{"a trailer with a length", ok + te + "\r\n2\r\n{}\r\n0\r\nContent-Length: 6\r\n\r\n" + evil, torn},
		{"an extension without end", ok + te + "\r\n2;" + strings.Repeat("a", 64<<10) + "\r\n{}\r\n0\r\n\r\n", torn},
	}
	rogues, urls, closed := make([]*rogue, len(tests)), make([]string, len(tests)), make([]chan struct{}, len(tests))
	for i, tt := range tests {
		closed[i] = make(chan struct{}, 8)
		rogues[i] = newRogueOf(t, tt.name, func(c net.Conn, _ *http.Request) {
			_, _ = io.WriteString(c, tt.says)
			_, _ = io.Copy(io.Discard, c)
			closed[i] <- struct{}{}
		})
		urls[i] = rogues[i].URL
	}
	g := inFrontOf(t, len(tests), urls, "--disable-circuit-breaker", "--disable-retries")
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 {
				a := post(t, g.URL, chatPath, of(tt.name, body(chatPath, false, "")))
				got := fmt.Sprint(a.status, " ", a.body)
				if a.status >= 400 {
					got = a.refused(t)
				}
				if got != tt.want || a.cut != nil {
					t.Errorf("got %.200q, %v; want %q", got, a.cut, tt.want)
				}
				select {
				case <-closed[i]:
				case <-time.After(20 * time.Second):
					t.Fatal("the connection to the worker was kept")
				}
			}
			if n := rogues[i].times(); n != 2 {
				t.Errorf("the worker was asked %d times, want twice", n)
			}
		})
	}
}

// TestWhatIsSaidUnasked has a worker whose connections say a further answer
// when nobody has asked: no request gets it. One that is asked soon
// after, before it was found out, may fail.
func TestWhatIsSaidUnasked(t *testing.T) {
	t.Parallel()
	const (
		good = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
		evil = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n\"evil\""
	)
	w := newRogue(t, func(c net.Conn, _ *http.Request) {
		br := bufio.NewReader(c)
		for {
			_, _ = io.WriteString(c, good)
			time.Sleep(5 * time.Millisecond)
			_, _ = io.WriteString(c, evil)
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
		}
	})
	g := inFrontOf(t, 1, []string{w.URL}, "--request-timeout-secs", "10")
	for i := range 20 {
		a := post(t, g.URL, chatPath, body(chatPath, false, ""))
		if a.status == 200 && a.body != "{}" || a.status != 200 && a.refused(t) != "502 call_upstream_decode_error" {
			t.Fatalf("request %d got %d %q", i, a.status, a.body)
		}
		time.Sleep(time.Duration(30+10*(i%10)) * time.Millisecond) // what is said after the next request is its answer, for all that anybody knows
	}
}
