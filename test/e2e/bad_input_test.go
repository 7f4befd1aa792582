package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/test/program"
)

// TestWhatClientsGetWrong sends every kind of bad request to the built program,
// behind all its gates.
func TestWhatClientsGetWrong(t *testing.T) {
	t.Parallel()
	g, e := program.Fleet(t, 2, []string{"--model", "m"}, []string{"--max-payload-size", "4096"})
	const js = "application/json"
	long := strings.Repeat("a", 8<<10)
	tests := []struct {
		name, method, path, contentType, body string
		want                                  string // status and code, or type in Anthropic's dialect
	}{
		{"not JSON", "POST", chatPath, js, `{"model":`, "400 json_parse_error"},
		{"not JSON, by Anthropic's path", "POST", messagesPath, js, `{"model":`, "400 invalid_request_error"},
		{"JSON with a tail", "POST", generatePath, js, `{"text":"a"} x`, "400 json_parse_error"},
		{"an array", "POST", "/v1/embeddings", js, `[1]`, "400 json_parse_error"},
		{"no body", "POST", chatPath, js, "", "400 json_parse_error"},
		{"bad UTF-8 in a name", "POST", chatPath, js, "{\"model\":\"\xff\",\"messages\":[1]}", "404 model_not_found"},
		{"no content type", "POST", chatPath, "", `{}`, "415 unsupported_media_type"},
		{"another content type", "POST", chatPath, "text/plain", `{}`, "415 unsupported_media_type"},
		{"a form, by Anthropic's path", "POST", messagesPath, "application/x-www-form-urlencoded", `a=b`, "415 invalid_request_error"},
		{"too long", "POST", chatPath, js, `{"model":"m","messages":["` + long + `"]}`, "413 request_body_too_large"},
		{"too long, by Anthropic's path", "POST", messagesPath, js, `{"x":"` + long + `"}`, "413 request_too_large"},
		{"an unknown model", "POST", chatPath, js, `{"model":"nope","messages":[1]}`, "404 model_not_found"},
		{"an unknown model, by Anthropic's path", "POST", messagesPath, js, `{"model":"nope","messages":[1]}`, "404 not_found_error"},
		{"an unknown model to embed", "POST", "/v1/embeddings", js, `{"model":"nope","input":"x"}`, "404 model_not_found"},
		{"an unknown model to generate", "POST", generatePath, js, `{"model":"nope","text":"x"}`, "404 model_not_found"},
		{"two models", "POST", chatPath, js, `{"model":"m","messages":[1],"model":"x"}`, "400 duplicate_parameter"},
		{"two models, one escaped", "POST", chatPath, js, `{"model":"m","messages":[1],"\u006dodel":"x"}`, "400 duplicate_parameter"},
		{"two streams", "POST", messagesPath, js, `{"model":"m","messages":[1],"stream":true,"stream":false}`, "400 invalid_request_error"},
		{"an unknown path", "GET", "/v1/nothing", "", "", "404 unknown_url"},
		{"an unknown path with a body", "POST", "/v1/images/generations", js, `{}`, "404 unknown_url"},
		{"an unknown path of Anthropic's", "GET", "/v1/messages/batches", "", "", "404 not_found_error"},
		{"the wrong method", "GET", chatPath, "", "", "405 method_not_allowed"},
		{"the wrong method of Anthropic's", "DELETE", messagesPath, "", "", "405 invalid_request_error"},
		{"a path that climbs", "GET", "/../workers", "", "", "404 unknown_url"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := ask(t, tt.method, g.URL+tt.path, tt.body, "Content-Type", tt.contentType)
			if got := a.refused(t); got != tt.want {
				t.Errorf("got %s, want %s: %s", got, tt.want, a.body)
			}
			if allow := a.header.Get("Allow"); (a.status == 405) != (allow == "POST") {
				t.Errorf("Allow is %q with status %d", allow, a.status)
			}
		})
	}
	for _, u := range e.URLs {
		if n := state(t, u).Counts.Requests; n != 0 {
			t.Errorf("an engine was asked %d times; want never", n)
		}
	}
	if a := post(t, g.URL, chatPath, body(chatPath, false, "")); a.status != 200 {
		t.Errorf("after all that, a good request got %d: %s", a.status, a.body)
	}
}

// talk writes bytes to the gateway and reads one answer, while the connection
// stays open.
func talk(t *testing.T, g *program.Gateway, write func(c net.Conn)) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	write(c)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

func TestATooLongBodyIsNotReadWhole(t *testing.T) {
	t.Parallel()
	g := program.Serve(t, "--max-payload-size", "4096")
	const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	t.Run("announced", func(t *testing.T) {
		res := talk(t, g, func(c net.Conn) { fmt.Fprint(c, head+"Content-Length: 1000000000\r\n\r\n") })
		if res.StatusCode != 413 {
			t.Errorf("got %d, want 413", res.StatusCode)
		}
	})
	t.Run("chunked", func(t *testing.T) {
		res := talk(t, g, func(c net.Conn) {
			fmt.Fprint(c, head+"Transfer-Encoding: chunked\r\n\r\n")
			for range 5 { // 5 KiB, and no end
				fmt.Fprintf(c, "400\r\n%s\r\n", strings.Repeat("a", 1<<10))
			}
		})
		if res.StatusCode != 413 {
			t.Errorf("got %d, want 413", res.StatusCode)
		}
	})
	t.Run("expecting 100", func(t *testing.T) {
		res := talk(t, g, func(c net.Conn) {
			fmt.Fprint(c, head+"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n")
		})
		if res.StatusCode != 413 {
			t.Errorf("got %d, want 413 and no invitation to send", res.StatusCode)
		}
	})
}

func TestBytesThatAreNoRequest(t *testing.T) {
	t.Parallel()
	g := program.Serve(t)
	tests := []struct {
		name, bytes string
		want        int
	}{
		{"a header section that is too large", "GET /health HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 80<<10) + "\r\n\r\n", 431},
		{"many small header fields", "GET /health HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 20<<10) + "\r\n", 431},
		{"garbage", "\x16\x03\x01\x02 hello\r\n\r\n", 400},
		{"two lengths", "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12", 400},
		{"a negative length", "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
		{"no host", "GET /health HTTP/1.1\r\n\r\n", 400},
		{"a space in a header's name", "GET /health HTTP/1.1\r\nHost: x\r\nBad Name: x\r\n\r\n", 400},
		{"an unknown transfer coding", "POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := talk(t, g, func(c net.Conn) { _, _ = io.WriteString(c, tt.bytes) })
			if res.StatusCode != tt.want {
				t.Errorf("got %d, want %d", res.StatusCode, tt.want)
			}
		})
	}
	if status, _ := program.Get(t, g.URL+"/health"); status != 200 {
		t.Errorf("after all that, /health says %d", status)
	}
}

func TestNoUsableWorker(t *testing.T) {
	t.Parallel()
	closed := closedPort(t)
	tests := []struct {
		name, want, anthropic string
		flags                 []string
	}{
		{"none is registered", "503 no_workers", "503 overloaded_error", nil},
		{"none has answered yet", "503 no_available_workers", "503 overloaded_error", []string{"--worker-urls", closed}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := program.Serve(t, tt.flags...)
			for path, want := range map[string]string{chatPath: tt.want, generatePath: tt.want, messagesPath: tt.anthropic} {
				a := post(t, g.URL, path, body(path, true, ""))
				if got := a.refused(t); got != want || a.header.Get("Retry-After") == "" {
					t.Errorf("%s: got %s, Retry-After %q; want %s and when to come again", path, got, a.header.Get("Retry-After"), want)
				}
			}
			if a := ask(t, "GET", g.URL+"/v1/models", ""); a.refused(t) != "503 no_models_available" {
				t.Errorf("/v1/models: %d %s", a.status, a.body)
			}
			if a := ask(t, "GET", g.URL+"/readiness", ""); a.status != 503 || !strings.Contains(a.body, "not ready") {
				t.Errorf("/readiness: %d %s", a.status, a.body)
			}
			for _, p := range []string{"/health", "/liveness"} {
				if a := ask(t, "GET", g.URL+p, ""); a.status != 200 {
					t.Errorf("%s: %d; the process is alive", p, a.status)
				}
			}
			if a := ask(t, "GET", g.URL+"/get_model_info", ""); a.refused(t) != "503 no_workers" {
				t.Errorf("/get_model_info: %d %s", a.status, a.body)
			}
		})
	}
}

// closedPort returns a URL that nobody listens at. Its port is none of those that
// the system gives to whoever wants any, which another test could get at once.
func closedPort(t testing.TB) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10_000+rand.IntN(20_000)))
		if err == nil {
			_ = l.Close()
			return "http://" + l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

func TestTheKey(t *testing.T) {
	t.Parallel()
	const key = "sk-verysecret-1"
	e := program.Mock(t, 1, "--model", "m", "--api-key", key)
	g := program.Serve(t, "--worker-urls", e.URLs[0], "--api-key", key)
	g.WaitReady(t, 1)
	chat, msg := body(chatPath, false, ""), body(messagesPath, false, "")
	tests := []struct {
		name, method, path, body string
		header                   []string
		want                     string
	}{
		{"none", "POST", chatPath, chat, nil, "401 invalid_api_key"},
		{"a wrong one", "POST", chatPath, chat, []string{"Authorization", "Bearer sk-verysecret-2"}, "401 invalid_api_key"},
		{"another scheme", "POST", chatPath, chat, []string{"Authorization", "Basic " + key}, "401 invalid_api_key"},
		{"none, by Anthropic's path", "POST", messagesPath, msg, nil, "401 authentication_error"},
		{"a wrong x-api-key", "POST", messagesPath, msg, []string{"X-Api-Key", "nope"}, "401 authentication_error"},
		{"the right one", "POST", chatPath, chat, []string{"Authorization", "bearer " + key}, ""},
		{"the right x-api-key", "POST", messagesPath, msg, []string{"X-Api-Key", key}, ""},
		{"an operator without", "GET", "/workers", "", nil, "401 invalid_api_key"},
		{"an operator with", "GET", "/workers", "", []string{"Authorization", "Bearer " + key}, ""},
		{"public calls need none", "GET", "/v1/models", "", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := ask(t, tt.method, g.URL+tt.path, tt.body, tt.header...)
			if tt.want == "" {
				if a.status != 200 {
					t.Errorf("got %d, want 200: %s", a.status, a.body)
				}
				return
			}
			if got := a.refused(t); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer realm=") {
				t.Errorf("WWW-Authenticate is %q", a.header.Get("WWW-Authenticate"))
			}
			if strings.Contains(a.body, "verysecret") {
				t.Errorf("the answer holds a key: %s", a.body)
			}
		})
	}
	// A stranger's body is not waited for.
	res := talk(t, g, func(c net.Conn) {
		fmt.Fprint(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
	})
	if res.StatusCode != 401 {
		t.Errorf("a stranger who sends no body got %d, want 401 at once", res.StatusCode)
	}
}
