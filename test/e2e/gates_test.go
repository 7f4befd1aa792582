package e2e

import (
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"sluice/test/program"
)

// TestRequestIDs holds where ids come from, and that workers get them.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	w := newRogue(t, func(c net.Conn, _ *http.Request) { say(c, "200 OK", "application/json", "{}") })
	standard, custom := inFrontOf(t, 1, []string{w.URL}), inFrontOf(t, 1, []string{w.URL}, "--request-id-headers", "x-trace", "x-request-id")
	long := strings.Repeat("a", 129)
	tests := []struct {
		name   string
		g      *program.Gateway
		path   string
		header []string
		want   string // a pattern
	}{
		{"the client's", standard, chatPath, []string{"X-Request-Id", "abc-1"}, "abc-1"},
		{"by another name", standard, chatPath, []string{"X-Correlation-Id", "abc-2"}, "abc-2"},
		{"the first name counts", standard, chatPath, []string{"Request-Id", "abc-3", "X-Request-Id", "abc-4"}, "abc-4"},
		{"by a name of the operator's", custom, chatPath, []string{"X-Trace", "abc-5", "X-Request-Id", "abc-6"}, "abc-5"},
		{"not by a name that is not listed", custom, chatPath, []string{"X-Correlation-Id", "abc-7"}, "chatcmpl-[0-9A-Za-z]{24}"},
		{"a new one for a chat", standard, chatPath, nil, "chatcmpl-[0-9A-Za-z]{24}"},
		{"a new one for a message", standard, messagesPath, nil, "msg_[0-9A-Za-z]{24}"},
		{"a new one for generate", standard, generatePath, nil, "gnt-[0-9A-Za-z]{24}"},
		{"a new one for one that is too long", standard, chatPath, []string{"X-Request-Id", long}, "chatcmpl-[0-9A-Za-z]{24}"},
		{"a new one for one with a space", standard, chatPath, []string{"X-Request-Id", "a b"}, "chatcmpl-[0-9A-Za-z]{24}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := post(t, tt.g.URL, tt.path, body(tt.path, false, ""), tt.header...)
			got := a.header.Get("X-Request-Id")
			if !regexp.MustCompile("^" + tt.want + "$").MatchString(got) {
				t.Errorf("the id is %q, want %s", got, tt.want)
			}
			if r, _ := w.last(t); r.Header.Get("X-Request-Id") != got {
				t.Errorf("the worker got the id %q, the client %q", r.Header.Get("X-Request-Id"), got)
			}
			wantLine(t, tt.g, "id="+got, "path="+tt.path, "status=200")
		})
	}
}

func TestWebPages(t *testing.T) {
	t.Parallel()
	none, some := program.Serve(t), program.Serve(t, "--cors-allowed-origins", "https://app.example", "--api-key", "k")
	preflight := []string{"Origin", "https://app.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type"}
	a := ask(t, "OPTIONS", some.URL+chatPath, "", preflight...)
	if a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != "https://app.example" || !strings.Contains(a.header.Get("Access-Control-Allow-Methods"), "POST") ||
		a.header.Get("Access-Control-Allow-Headers") != "authorization,content-type" {
		t.Errorf("a preflight without a key: %d %v", a.status, a.header)
	}
	preflight[1] = "https://evil.example"
	if a := ask(t, "OPTIONS", some.URL+chatPath, "", preflight...); a.status != 403 || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another page's preflight: %d %v", a.status, a.header)
	}
	a = ask(t, "GET", some.URL+"/v1/models", "", "Origin", "https://app.example")
	if a.header.Get("Access-Control-Allow-Origin") != "https://app.example" || !strings.Contains(a.header.Get("Vary"), "Origin") {
		t.Errorf("a page's call, which is an error here: %d %v", a.status, a.header)
	}
	if a := ask(t, "GET", none.URL+"/health", "", "Origin", "https://app.example"); a.status != 200 || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("without the flag: %d %v", a.status, a.header)
	}
}

// Without a key the operator's calls are for programs on this machine, not for
// what their browsers show, nor for what comes through a proxy.
func TestTheControlPlaneIsLocal(t *testing.T) {
	t.Parallel()
	g := program.Serve(t)
	tests := []struct {
		name   string
		header []string
		want   string
	}{
		{"this machine", nil, ""},
		{"a web page", []string{"Origin", "http://127.0.0.1:30000"}, "403 control_plane_browser_refused"},
		{"a web page without Origin", []string{"Sec-Fetch-Site", "cross-site"}, "403 control_plane_browser_refused"},
		{"a name that leads here", []string{"Host", "evil.example"}, "403 control_plane_browser_refused"},
		{"a proxy", []string{"X-Forwarded-For", "203.0.113.1"}, "403 control_plane_loopback_only"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, c := range []struct{ method, path string }{{"GET", "/workers"}, {"POST", "/workers"}, {"POST", "/flush_cache"}, {"GET", "/engine_metrics"}, {"GET", "/get_loads"}} {
				a := ask(t, c.method, g.URL+c.path, "", tt.header...)
				if tt.want == "" {
					if a.status == 403 || a.status == 401 {
						t.Errorf("%s %s: %d %s", c.method, c.path, a.status, a.body)
					}
				} else if got := a.refused(t); got != tt.want {
					t.Errorf("%s %s: got %s, want %s", c.method, c.path, got, tt.want)
				}
			}
			if a := ask(t, "GET", g.URL+"/health", "", tt.header...); a.status != 200 {
				t.Errorf("/health: %d; it is public", a.status)
			}
		})
	}
	t.Run("another machine", func(t *testing.T) {
		other := ownAddress(t)
		g := program.Serve(t, "--host", "0.0.0.0")
		port := g.URL[strings.LastIndexByte(g.URL, ':')+1:]
		if a := ask(t, "GET", "http://"+net.JoinHostPort(other, port)+"/workers", ""); a.refused(t) != "403 control_plane_loopback_only" {
			t.Errorf("got %d %s", a.status, a.body)
		}
		wantLine(t, g, "level=WARN", "--api-key")
	})
}

// ownAddress returns an address of this machine that is not its loopback.
func ownAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address but its loopback")
	return ""
}

// Nothing shows a key: no answer, log line, metric, error or setting.
func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	const ours, theirs, client = "sk-gateway-1111", "sk-worker-2222", "sk-wrong-3333"
	e := program.Mock(t, 1, "--model", "m", "--api-key", theirs)
	g := program.Serve(t, "--api-key", ours, "--log-level", "debug", "--engine-metrics")
	key := []string{"Authorization", "Bearer " + ours}
	var said strings.Builder
	call := func(method, path, body string, header ...string) {
		t.Helper()
		a := ask(t, method, g.URL+path, body, header...)
		said.WriteString(a.body)
		for n, v := range a.header {
			said.WriteString(n + strings.Join(v, ""))
		}
	}
	call("POST", "/workers", `{"url":"`+e.URLs[0]+`","api_key":"`+theirs+`"}`, key...)
	g.WaitReady(t, 1)
	call("POST", "/workers", `{"url":"`+e.URLs[0]+`","api_key":"`+theirs+` bad"}`, key...)
	call("GET", "/workers", "", key...)
	call("GET", "/get_server_info", "", key...)
	call("GET", "/engine_metrics", "", key...)
	call("POST", chatPath, body(chatPath, false, ""), key...)
	call("POST", chatPath, body(chatPath, false, ""), "Authorization", "Bearer "+client)
	call("POST", messagesPath, body(messagesPath, false, ""), "X-Api-Key", client)
	call("GET", "/v1/nothing?key="+client, "", key...)
	ask(t, "POST", e.URLs[0]+"/mock/kill", "", "Authorization", "Bearer "+theirs)
	call("POST", chatPath, body(chatPath, false, ""), key...)
	_, metrics := program.Get(t, g.MetricsURL)
	config, errs, code := program.Run(t, "config", "--api-key", ours)
	if code != 0 || !strings.Contains(config, "****") {
		t.Errorf("sluice config: code %d: %s%s", code, config, errs)
	}
	_, refused, _ := program.Run(t, "serve", "--api-key", ours, "--port", "x")
	for where, text := range map[string]string{"an answer": said.String(), "the log": g.Log(), "a metric": metrics, "sluice config": config, "an error of the start": refused} {
		for _, secret := range []string{ours, theirs, client} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s shows %s: …%s", where, secret, text[max(0, i-200):i+len(secret)])
			}
		}
	}
}
