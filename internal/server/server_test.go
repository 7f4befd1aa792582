package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/infer"
	"sluice/internal/kit/metric"
	"sluice/internal/kit/sock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with what routing found in the body.
var echo = infer.HandlerFunc(func(_ context.Context, r *infer.Request, w *infer.Reply) error {
	return w.Send(200, "text/plain", fmt.Appendf(nil, "%s model=%s stream=%v param=%s text=%q", r.Route, r.Model, r.Stream, r.Param, r.Text()))
})

// A frontend is a Front that runs.
type frontend struct {
	URL  string
	Addr string
	stop func() error // drains, and says how it went

	front   *Front
	metrics *metric.Registry
}

// counted is the value of a metric, such as "sluice_client_connections" or
// one with its labels as they are shown.
func (f *frontend) counted(t *testing.T, name string) int {
	t.Helper()
	w := httptest.NewRecorder()
	f.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("there is no %s in\n%s", name, w.Body)
	return 0
}

// refused is how often a limit refused or ended a connection.
func (f *frontend) refused(t *testing.T, reason string) int {
	t.Helper()
	return f.counted(t, fmt.Sprintf("sluice_client_connections_refused_total{reason=%q}", reason))
}

// eventually waits until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

// serve runs mux behind the gateway's own front end.
func serve(t *testing.T, cfg Config, mux *Mux) *frontend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, "http", cfg, mux)
}

func serveOn(t testing.TB, l net.Listener, scheme string, cfg Config, mux *Mux, edit ...func(*Front)) *frontend {
	t.Helper()
	watch, err := sock.NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	watching, blind := context.WithCancel(context.Background())
	watched := make(chan error, 1)
	go func() { watched <- watch.Run(watching) }()
	m, reg := new(Metrics), metric.NewRegistry(nil)
	metric.Fill(reg, m)
	front := NewFront(Options{Config: cfg, Handler: mux, Watch: watch, Log: slog.New(slog.DiscardHandler), Metrics: m})
	for _, f := range edit {
		f(front)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- front.Serve(ctx, l) }()
	stop := sync.OnceValue(func() error {
		cancel()
		err := <-served
		blind()
		<-watched
		return err
	})
	t.Cleanup(func() { _ = stop() })
	return &frontend{scheme + "://" + l.Addr().String(), l.Addr().String(), stop, front, reg}
}

// short is a configuration whose drain does not wait for what a test left.
func short() Config {
	c := DefaultConfig()
	c.Grace = 100 * time.Millisecond
	return c
}

// named names requests, as access does.
func named(next infer.Handler) infer.Handler {
	return infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		r.ID = "id-1"
		w.Header().Set("x-request-id", r.ID)
		return next.Serve(ctx, r, w)
	})
}

// gateway serves routes behind a gate that names requests.
func gateway(t *testing.T, routes ...Route) *frontend {
	t.Helper()
	return serve(t, short(), NewMux(routes, named))
}

// call returns an answer's status, header and body.
func call(t *testing.T, method, url, contentType, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// errorOf reads an error in OpenAI's shape.
func errorOf(t *testing.T, body string) (typ, code, param string) {
	t.Helper()
	var e struct {
		Error struct{ Type, Code, Param, Message string }
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Error.Message == "" {
		t.Fatalf("%q is no error envelope: %v", body, err)
	}
	return e.Error.Type, e.Error.Code, e.Error.Param
}

func TestWhatABodyMustBe(t *testing.T) {
	work := Body(1<<10, 0, nil, nil, nil)(echo)
	s := gateway(t,
		Route{"POST", "/v1/chat/completions", infer.Chat, work},
		Route{"POST", "/v1/embeddings", infer.Embeddings, work},
		Route{"POST", "/generate", infer.Generate, work},
	)
	const js = "application/json"
	tests := []struct {
		name, path, contentType, body string
		status                        int
		want                          string // the body's text, or code/param of an error
	}{
		{"what routing needs is found", "/v1/chat/completions", js, `{"messages":[{"role":"user","content":"hi"}],"stream":true,"model":"m"}`, 200, `/v1/chat/completions model=m stream=true param= text="user\nhi"`},
		{"keys are unescaped", "/v1/chat/completions", js + "; charset=utf-8", `{"m\u006fdel":"m\u0031","messages":[1]}`, 200, "model=m1"},
		{"generate needs no model", "/generate", js, `{"text":"hi"}`, 200, `model= stream=false param= text="hi`},
		{"not JSON", "/v1/chat/completions", js, `{"model":`, 400, "json_parse_error/"},
		{"nothing", "/v1/chat/completions", js, ``, 400, "json_parse_error/"},
		{"an array", "/v1/chat/completions", js, `[]`, 400, "json_parse_error/"},
		{"two objects", "/v1/chat/completions", js, `{"model":"m"}{}`, 400, "json_parse_error/"},
		{"two models", "/v1/chat/completions", js, `{"model":"a","messages":[1],"model":"b"}`, 400, "duplicate_parameter/model"},
		{"two models, one escaped", "/v1/chat/completions", js, `{"model":"a","messages":[1],"\u006dodel":"b"}`, 400, "duplicate_parameter/model"},
		{"two streams", "/generate", js, `{"stream":true,"stream":false}`, 400, "duplicate_parameter/stream"},
		{"a number for a model", "/v1/chat/completions", js, `{"model":5,"messages":[1]}`, 400, "invalid_type/model"},
		{"a string for stream", "/generate", js, `{"stream":"yes"}`, 400, "invalid_type/stream"},
		{"no model", "/v1/chat/completions", js, `{"messages":[1]}`, 400, "missing_required_parameter/model"},
		{"no messages", "/v1/chat/completions", js, `{"model":"m"}`, 400, "missing_required_parameter/messages"},
		{"empty messages", "/v1/chat/completions", js, `{"model":"m","messages":[ ]}`, 400, "empty_array/messages"},
		{"too hot", "/v1/chat/completions", js, `{"model":"m","messages":[1],"temperature":9}`, 400, "decimal_above_max_value/temperature"},
		{"embeddings need no messages", "/v1/embeddings", js, `{"model":"m","input":"a"}`, 200, "model=m"},
		{"no content type", "/generate", "", `{}`, 415, "unsupported_media_type/"},
		{"another content type", "/generate", "text/plain", `{}`, 415, "unsupported_media_type/"},
		{"too long", "/generate", js, `{"text":"` + strings.Repeat("a", 1<<10) + `"}`, 413, "request_body_too_large/"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, body := call(t, "POST", s.URL+tt.path, tt.contentType, tt.body)
			got := body
			if tt.status != 200 {
				_, code, param := errorOf(t, body)
				got = code + "/" + param
				if h := res.Header.Get("x-smg-error-code"); h != code {
					t.Errorf("x-smg-error-code is %q, want %q", h, code)
				}
			}
			if res.StatusCode != tt.status || !strings.Contains(got, tt.want) {
				t.Errorf("got %d %s, want %d with %s", res.StatusCode, got, tt.status, tt.want)
			}
			if res.Header.Get("X-Request-Id") != "id-1" {
				t.Error("the request id is missing")
			}
		})
	}
}

// TestARefusalIsNoTrapForTheNextRequest holds that what is left of a refused
// request is never taken for the next: a body that has come is passed over, and
// one that has not ends the connection, and its client is told.
func TestARefusalIsNoTrapForTheNextRequest(t *testing.T) {
	s := gateway(t, Route{"POST", "/generate", infer.Generate, Body(1<<10, 0, nil, nil, nil)(echo)})
	const head = "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
	for _, tt := range []struct {
		name, body string
		closes     bool
	}{
		{"the body has come", "0123456789", false},
		{"half of it has", "01234", true},
		{"none of it has", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			br := bufio.NewReader(c)
			for range 3 {
				_, _ = io.WriteString(c, head+tt.body)
				res, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				if res.StatusCode != 415 || res.Close != tt.closes {
					t.Errorf("got %d, to be closed: %v", res.StatusCode, res.Close)
				}
				if res.Close {
					break
				}
			}
			if !tt.closes {
				return
			}
			_, _ = io.WriteString(c, "56789GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if rest, _ := io.ReadAll(br); len(rest) > 0 {
				t.Errorf("the rest was answered: %q", rest)
			}
		})
	}
}

// TestABodyThatStalls holds that a client which stops sending is let go, that
// what it sends later is no request, and that one which has sent all may wait.
func TestABodyThatStalls(t *testing.T) {
	const stall = 100 * time.Millisecond
	slow := infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		select {
		case <-time.After(3 * stall):
			return echo(ctx, r, w)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	cfg := short()
	cfg.BodyTimeout = stall
	s := serve(t, cfg, NewMux([]Route{{"POST", "/generate", infer.Generate, Body(1<<10, 0, nil, nil, nil)(slow)}}))
	for _, tt := range []struct {
		name, length, body string
		want               int
	}{
		{"half a body", "Content-Length: 100", `{"text":`, 408},
		{"half a body in chunks", "Transfer-Encoding: chunked", "2\r\n{}\r\n", 408},
		{"nothing of one", "Content-Length: 2", "", 408},
		{"all of it", "Content-Length: 2", "{}", 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = fmt.Fprintf(c, "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n%s", tt.length, tt.body)
			br := bufio.NewReader(c)
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			if res.StatusCode != tt.want || res.Close != (tt.want == 408) {
				t.Errorf("got %d, to be closed: %v; want %d", res.StatusCode, res.Close, tt.want)
			}
			if !res.Close {
				return
			}
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if rest, _ := io.ReadAll(br); len(rest) > 0 {
				t.Errorf("the rest of the body was answered: %q", rest)
			}
		})
	}
}

func TestARefusalDoesNotWaitForTheBody(t *testing.T) {
	s := gateway(t, Route{"POST", "/generate", infer.Generate, Body(1<<10, 0, nil, nil, nil)(echo)})
	chunk := fmt.Sprintf("500\r\n%s\r\n", strings.Repeat("a", 0x500))
	tests := []struct {
		name, header, body string
		want               int
	}{
		{"too long by far", "Content-Type: application/json\r\nContent-Length: 1000000000\r\n", "", 413},
		{"too long by a little", "Content-Type: application/json\r\nContent-Length: 1025\r\n", "", 413},
		{"too long in chunks", "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n", chunk, 413},
		{"too long, and not sent unless invited", "Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n", "", 413},
		{"of the wrong type", "Content-Length: 10\r\n", "", 415},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "POST /generate HTTP/1.1\r\nHost: x\r\n%s\r\n%s", tt.header, tt.body)
			if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatalf("no answer before the body was sent: %v", err)
			}
			defer res.Body.Close()
			if res.StatusCode != tt.want {
				t.Errorf("got %d, want %d", res.StatusCode, tt.want)
			}
		})
	}
}

func TestPathsAndMethods(t *testing.T) {
	s := gateway(t,
		Route{"GET", "/workers", 0, echo},
		Route{"POST", "/workers", 0, echo},
		Route{"GET", "/workers/{id}", 0, echo},
		Route{"GET", "/v1/models/{id}", 0, echo},
		Route{"POST", "/v1/messages", infer.Messages, echo},
	)
	tests := []struct {
		method, path string
		status       int
		allow, want  string
	}{
		{"GET", "/workers", 200, "", "/workers model"},
		{"GET", "/workers?model=m", 200, "", "/workers model"},
		{"HEAD", "/workers", 200, "", ""},
		{"GET", "/workers/abc", 200, "", "/workers/{id} model= stream=false param=abc"},
		{"GET", "/v1/models/org/name%20x", 200, "", "param=org/name x"},
		{"DELETE", "/workers", 405, "GET, HEAD, POST", "method_not_allowed"},
		{"GET", "/", 404, "", "Invalid URL (GET /)"},
		{"GET", "/workers/", 404, "", "unknown_url"},
		{"PROPFIND", "/nope", 404, "", "unknown_url"},
		{"GET", "/v1/messages", 405, "POST", `{"type":"error","error":{"type":"invalid_request_error","message":"Invalid URL (GET /v1/messages)"},"request_id":"id-1"}`},
		{"GET", "/v1/messages/batches", 404, "", `"type":"not_found_error"`},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			res, body := call(t, tt.method, s.URL+tt.path, "", "")
			if res.StatusCode != tt.status || !strings.Contains(body, tt.want) || res.Header.Get("Allow") != tt.allow {
				t.Errorf("got %d %q, Allow %q; want %d with %q, Allow %q", res.StatusCode, body, res.Header.Get("Allow"), tt.status, tt.want, tt.allow)
			}
		})
	}
}

func TestErrorsInTheClientsWords(t *testing.T) {
	var err error
	fail := infer.HandlerFunc(func(context.Context, *infer.Request, *infer.Reply) error { return err })
	s := gateway(t, Route{"POST", "/v1/chat/completions", infer.Chat, fail}, Route{"POST", "/v1/messages", infer.Messages, fail})
	answer := func(status int, body string) error {
		a := &infer.Answer{Status: status, Body: []byte(body)}
		a.Header.AddString("Content-Type", "application/json")
		a.Header.AddString("Retry-After", "3")
		return &infer.Error{Status: status, Msg: "The worker answered.", Answer: a}
	}
	tests := []struct {
		name              string
		err               error
		status            int
		openAI, anthropic string
	}{
		{"the gateway's own", &infer.Error{Status: 503, Code: "no_workers", Msg: "None <here>.", RetryAfter: 1500 * time.Millisecond}, 503,
			`{"error":{"type":"server_error","code":"no_workers","message":"None <here>.","param":null}}`,
			`{"type":"error","error":{"type":"overloaded_error","message":"None <here>."},"request_id":"id-1"}`},
		{"one that nobody named", errors.New("secret detail"), 500,
			`{"error":{"type":"server_error","code":"internal_error","message":"The gateway failed.","param":null}}`,
			`{"type":"error","error":{"type":"api_error","message":"The gateway failed."},"request_id":"id-1"}`},
		{"a worker's", answer(429, `{"error": {"message":"slow down"}}`), 429, `{"error": {"message":"slow down"}}`,
			`{"type":"error","error":{"type":"rate_limit_error","message":"slow down"},"request_id":"id-1"}`},
		{"a worker's in SGLang's shape", answer(400, `{"object":"error","message":"too long","code":400}`), 400, `{"object":"error","message":"too long","code":400}`,
			`{"type":"error","error":{"type":"invalid_request_error","message":"too long"},"request_id":"id-1"}`},
		{"a worker's in Anthropic's shape", answer(400, `{"type":"error","error":{"type":"x_error","message":"own"}}`), 400, `{"type":"error","error":{"type":"x_error","message":"own"}}`,
			`{"type":"error","error":{"type":"x_error","message":"own"}}`},
		{"a worker's that is no JSON", answer(404, `<html>`), 404, `<html>`,
			`{"type":"error","error":{"type":"not_found_error","message":"The worker answered."},"request_id":"id-1"}`},
	}
	long := answer(422, "").(*infer.Error)
	long.Answer.Body, long.Code = nil, "call_upstream_status_error"
	tests = append(tests, struct {
		name              string
		err               error
		status            int
		openAI, anthropic string
	}{"a worker's that is too long", long, 422,
		`{"error":{"type":"invalid_request_error","code":"call_upstream_status_error","message":"The worker answered.","param":null}}`,
		`{"type":"error","error":{"type":"invalid_request_error","message":"The worker answered."},"request_id":"id-1"}`})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err = tt.err
			for path, want := range map[string]string{"/v1/chat/completions": tt.openAI, "/v1/messages": tt.anthropic} {
				res, body := call(t, "POST", s.URL+path, "application/json", "{}")
				if res.StatusCode != tt.status || body != want {
					t.Errorf("%s: got %d %s, want %d %s", path, res.StatusCode, body, tt.status, want)
				}
				if tt.status == 503 && res.Header.Get("Retry-After") != "2" {
					t.Errorf("Retry-After is %q, want 2: whole seconds, not less than meant", res.Header.Get("Retry-After"))
				}
				if tt.status == 429 && res.Header.Get("Retry-After") != "3" {
					t.Error("the worker's Retry-After is lost")
				}
			}
		})
	}
}

func TestAnAnswerThatBreaks(t *testing.T) {
	broken := &infer.Error{Status: 502, Code: "call_upstream_body_error", Msg: "The worker's answer broke off."}
	begin := func(contentType string) infer.Handler {
		return infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			w.Header().Set("Content-Type", contentType)
			if _, err := w.Write([]byte("data: one\n\n")); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
			return broken
		})
	}
	s := gateway(t,
		Route{"POST", "/v1/chat/completions", infer.Chat, begin("text/event-stream; charset=utf-8")},
		Route{"POST", "/v1/messages", infer.Messages, begin("text/event-stream")},
		Route{"POST", "/generate", infer.Generate, begin("application/json")},
	)
	_, body := call(t, "POST", s.URL+"/v1/chat/completions", "", "")
	if want := "data: one\n\ndata: {\"error\":{\"type\":\"stream_error\",\"code\":\"call_upstream_body_error\",\"message\":\"The worker's answer broke off.\",\"param\":null}}\n\n"; body != want {
		t.Errorf("OpenAI's client got %q, want %q", body, want)
	}
	_, body = call(t, "POST", s.URL+"/v1/messages", "", "")
	if want := "data: one\n\nevent: error\ndata: {\"type\":\"error\","; !strings.HasPrefix(body, want) {
		t.Errorf("Anthropic's client got %q, want %q…", body, want)
	}
	res, err := http.Post(s.URL+"/generate", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("a part of a JSON answer was ended as if it were the whole")
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestAHeaderThatIsTooLong(t *testing.T) {
	s := gateway(t, Route{"GET", "/health", 0, echo})
	req, err := http.NewRequest("GET", s.URL+"/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("a", 80<<10))
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 431 {
		t.Errorf("got %d, want 431", res.StatusCode)
	}
}

func TestDrain(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	slow := infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
		close(begun)
		<-end
		return w.Send(200, "text/plain", []byte("whole"))
	})
	s := serve(t, DefaultConfig(), NewMux([]Route{{"GET", "/slow", 0, slow}}))
	got := make(chan string, 1)
	tr := new(http.Transport)
	defer tr.CloseIdleConnections()
	go func() {
		res, err := (&http.Client{Transport: tr}).Get(s.URL + "/slow")
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		got <- string(b)
	}()
	<-begun
	served := make(chan error, 1)
	go func() { served <- s.stop() }()
	for { // the listener closes at once
		c, err := net.Dial("tcp", s.Addr)
		if err != nil {
			break
		}
		c.Close()
	}
	close(end)
	if s := <-got; s != "whole" {
		t.Errorf("a request that ran when the drain began got %q", s)
	}
	if err := <-served; err != nil {
		t.Errorf("the drain ended with %v", err)
	}
}

// TestThereIsNoGrace holds that who stops at once does not take idle connections for
// requests that were cut.
func TestThereIsNoGrace(t *testing.T) {
	for _, road := range roads[:3] {
		cfg := DefaultConfig()
		cfg.Grace = 0
		s := road.on(t, cfg, NewMux([]Route{{"GET", "/a", 0, infer.HandlerFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply) error {
			return w.Send(200, "text/plain", []byte("a"))
		})}}, named))
		for range 5 {
			c := road.dial(t, s)
			c.say(get)
			if status, closes, body := c.hear("GET"); status != 200 || closes || body != "a" {
				t.Fatalf("%s: got %d %q, closes: %t", road.name, status, body, closes)
			}
		}
		for c := range s.front.each {
			eventually(t, "it is idle", func() bool { return c.state.Load() == connIdle })
		}
		if err := s.stop(); err != nil {
			t.Errorf("%s: the drain ended with %v", road.name, err)
		}
	}
}

// TestTheGraceIsOver holds that a request which outlasts the gateway is told so.
func TestTheGraceIsOver(t *testing.T) {
	begun := make(chan struct{}, 1)
	wait := func(ctx context.Context) error {
		begun <- struct{}{}
		<-ctx.Done()
		return infer.Ended(ctx, ctx.Err())
	}
	silent := infer.HandlerFunc(func(ctx context.Context, _ *infer.Request, _ *infer.Reply) error { return wait(ctx) })
	stream := infer.HandlerFunc(func(ctx context.Context, _ *infer.Request, w *infer.Reply) error {
		w.Header().Set("Content-Type", "text/event-stream")
		if _, err := w.Write([]byte("data: 1\n\n")); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		return wait(ctx)
	})
	const told = `"code":"gateway_stopping","message":"The gateway is stopping.","param":null}}`
	for _, tt := range []struct {
		name    string
		handler infer.Handler
		status  int
		want    string
	}{
		{"nothing was sent", silent, 503, `{"error":{"type":"server_error",` + told},
		{"a stream has begun", stream, 200, "data: 1\n\ndata: {\"error\":{\"type\":\"stream_error\"," + told + "\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Grace = 50 * time.Millisecond
			s := serve(t, cfg, NewMux([]Route{{"GET", "/slow", 0, tt.handler}}))
			served := make(chan error, 1)
			go func() { <-begun; served <- s.stop() }()
			res, body := call(t, "GET", s.URL+"/slow", "", "")
			if res.StatusCode != tt.status || body != tt.want {
				t.Errorf("got %d %s, want %d %s", res.StatusCode, body, tt.status, tt.want)
			}
			if err := <-served; !errors.Is(err, ErrCut) {
				t.Errorf("the drain ended with %v, want ErrCut", err)
			}
		})
	}
}

func TestHowMuchABodyMayHold(t *testing.T) {
	for n, want := range map[int64]bool{-1: false, 0: false, 1: true, 512 << 20: true, math.MaxInt64: false} {
		c := DefaultConfig()
		c.MaxBody = n
		if err := c.Validate(); (err == nil) != want {
			t.Errorf("max-payload-size %d: %v, want it taken: %v", n, err, want)
		}
	}
}

func TestIsSelfOnAUnixSocket(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "gateway.sock")
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	link := filepath.Join(dir, "link.sock")
	if err := os.Symlink(at, link); err != nil {
		t.Fatal(err)
	}
	self := IsSelf(l.Addr(), &net.UnixAddr{Name: "@gateway", Net: "unix"})
	for _, tt := range []struct {
		url  url.URL
		want bool
	}{
		{url.URL{Scheme: "unix", Path: at}, true},
		{url.URL{Scheme: "unix", Path: link}, true},
		{url.URL{Scheme: "unix", Opaque: "@gateway"}, true},
		{url.URL{Scheme: "unix", Path: filepath.Join(dir, "engine.sock")}, false},
		{url.URL{Scheme: "unix", Opaque: "@engine"}, false},
		{url.URL{Scheme: "http", Host: "localhost"}, false},
	} {
		if got := self(&tt.url); got != tt.want {
			t.Errorf("IsSelf(%s) = %v, want %v", &tt.url, got, tt.want)
		}
	}
}

func TestIsSelf(t *testing.T) {
	self := IsSelf(&net.TCPAddr{IP: net.IPv4zero, Port: 30000}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 29000})
	for s, want := range map[string]bool{
		"http://127.0.0.1:30000": true, "http://localhost:30000": true, "http://[::1]:30000": true, "http://0.0.0.0:30000": true,
		"http://127.0.0.1:29000": true, "http://0.0.0.0:29000": true, "http://[::]:29000": true, "http://127.0.0.1:30001": false, "http://203.0.113.9:30000": false, "http://127.0.0.1": false,
	} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := self(u); got != want {
			t.Errorf("IsSelf(%s) = %v, want %v", s, got, want)
		}
	}
}
