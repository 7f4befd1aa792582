package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/secret"
	"sluice/internal/kit/sock"
	"sluice/internal/kit/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client keeps what a client would get; each piece is what one flush sent.
type client struct {
	header infer.Header
	status int
	pieces []string
	held   strings.Builder
	fail   error // of writes, if the client has left
}

func (c *client) Header() *infer.Header  { return &c.header }
func (c *client) WriteHeader(status int) { c.status = status }
func (c *client) Write(b []byte) (int, error) {
	if c.fail != nil {
		return 0, c.fail
	}
	return c.held.Write(b)
}
func (c *client) Flush() error {
	if c.held.Len() > 0 {
		c.pieces = append(c.pieces, c.held.String())
		c.held.Reset()
	}
	return c.fail
}
func (c *client) body() string { return strings.Join(c.pieces, "") + c.held.String() }

// worker returns a worker of the fleet at url.
func worker(t testing.TB, url, key string) *fleet.Worker {
	t.Helper()
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	reg := fleet.New(fleet.DefaultConfig(), health, breaker.DefaultConfig(), fleet.Options{})
	if _, err := reg.Add(fleet.Spec{URL: url, Models: []fleet.ModelCard{{ID: "m"}}, APIKey: secret.New(key)}); err != nil {
		t.Fatal(err)
	}
	return reg.Snapshot().Ready[0]
}

// raw is a worker that answers every request with bytes of the test's making,
// and then does what end says to the connection.
func raw(t testing.TB, answer string, end func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(c, answer)
			}
			end(c)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return "http://" + l.Addr().String()
}

func closeIt(c net.Conn) { c.Close() }

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// backend returns a Backend that is closed when the test ends.
func backend(t testing.TB) *Backend {
	t.Helper()
	return backendOf(t, Config{})
}

func backendOf(t testing.TB, cfg Config) *Backend {
	t.Helper()
	watch, err := sock.NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- watch.Run(ctx) }()
	client := upstream.New(upstream.Options{Watch: watch, Config: upstream.DefaultConfig()})
	t.Cleanup(func() {
		client.Close()
		cancel()
		<-done
	})
	return New(client, watch, cfg)
}

// relay sends one request to url and returns what the client got.
func relay(t testing.TB, ctx context.Context, url string, r *infer.Request) (*client, *infer.Reply, error) {
	t.Helper()
	c := new(client)
	w := infer.NewReply(c)
	if r.Received.IsZero() {
		r.Received = time.Now()
	}
	return c, w, backend(t).Serve(ctx, r, w, fleet.Team{Lead: worker(t, url, "")})
}

func chat() *infer.Request {
	return &infer.Request{ID: "id-1", Endpoint: infer.Chat, Model: "m", Body: []byte(`{"model":"m"}`)}
}

func TestBytesPassAsTheyAre(t *testing.T) {
	const body = `{ "b":1.0,"a":[1e2, 12345678901234567890],"b":"\u00e4" }`
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = string(b)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Own", "kept")
		w.Header().Set("X-Request-Id", "the worker's")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("Connection", "x-hop")
		w.WriteHeader(201)
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":2}}`)
	}))
	defer s.Close()
	r := chat()
	r.Body = []byte(body)
	c, _, err := relay(t, t.Context(), s.URL, r)
	if err != nil {
		t.Fatal(err)
	}
	if got != body {
		t.Errorf("the worker got %s, want %s", got, body)
	}
	if c.status != 201 || c.body() != `{"usage":{"prompt_tokens":3,"completion_tokens":2}}` {
		t.Errorf("the client got %d %s", c.status, c.body())
	}
	if string(c.header.Get("x-own")) != "kept" || c.header.Has("x-hop") || c.header.Has("connection") || c.header.Has("x-request-id") {
		t.Errorf("the client got the header %s", fields(&c.header))
	}
}

func fields(h *infer.Header) string {
	var b strings.Builder
	for _, f := range h.Fields() {
		fmt.Fprintf(&b, "%s: %s; ", f.Name, f.Value)
	}
	return b.String()
}

func TestWhichHeadersAWorkerGets(t *testing.T) {
	var got http.Header
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer s.Close()
	send := func(key string, pairs ...string) http.Header {
		t.Helper()
		r := chat()
		for i := 0; i < len(pairs); i += 2 {
			r.Header.AddString(pairs[i], pairs[i+1])
		}
		if err := backend(t).Serve(t.Context(), r, infer.NewReply(new(client)), fleet.Team{Lead: worker(t, s.URL, key)}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	h := send("", "AUTHORIZATION", "Bearer client", "traceparent", "00-a", "x-request-id", "forged", "x-request-id-2", "kept",
		"Cookie", "c=1", "X-Forwarded-For", "1.2.3.4", "Transfer-Encoding", "chunked", "x-correlation-id", "dropped", "Connection", "close, X-Correlation-ID", "Content-Type", "application/json")
	for name, want := range map[string]string{
		"Authorization": "Bearer client", "Traceparent": "00-a", "X-Request-Id": "id-1", "X-Request-Id-2": "kept", "Content-Type": "application/json",
		"Cookie": "", "X-Forwarded-For": "", "X-Correlation-Id": "",
	} {
		if v := h.Get(name); v != want {
			t.Errorf("%s reached the worker as %q, want %q", name, v, want)
		}
	}
	h = send("worker-key", "Authorization", "Bearer client", "Authorization", "Bearer second")
	if v := h.Values("Authorization"); len(v) != 1 || v[0] != "Bearer worker-key" {
		t.Errorf("a worker with a key of its own got Authorization %q", v)
	}
	if h = send("", "Content-Type", "application/json", "Content-Type", "text/plain"); len(h.Values("Content-Type")) != 1 {
		t.Errorf("a worker got two Content-Type fields: %q", h.Values("Content-Type"))
	}
	if h = send("", "Authorization", "Bearer one", "Authorization", "Bearer two"); len(h.Values("Authorization")) != 1 {
		t.Errorf("a worker got two Authorization fields: %q", h.Values("Authorization"))
	}
}

// TestWhatAWorkerDoesWrong holds that what another worker can do better is an
// error and not an answer, and what has begun is never taken back.
func TestWhatAWorkerDoesWrong(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	const events = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	tests := []struct {
		name   string
		answer string
		end    func(net.Conn)
		code   string // of the error, "" for none
		retry  bool
		begun  bool   // the client has been sent something
		want   string // what the client got
	}{
		{"nothing, closed", "", closeIt, "call_upstream_connection_failed", true, false, ""},
		{"nothing, reset", "", reset, "call_upstream_connection_failed", true, false, ""},
		{"garbage", "SSH-2.0-OpenSSH_9.2\r\n", closeIt, "call_upstream_decode_error", true, false, ""},
		{"half a header", "HTTP/1.1 200 OK\r\nContent-Ty", closeIt, "call_upstream_connection_failed", true, false, ""},
		{"a header without end", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 300<<10), closeIt, "call_upstream_decode_error", true, false, ""},
		{"a header and no body", head + "Content-Length: 5\r\n\r\n", reset, "call_upstream_body_error", true, false, ""},
		{"half a body", head + "Content-Length: 50\r\n\r\n{\"a\":", closeIt, "call_upstream_body_error", true, false, ""},
		{"half a chunk", head + "Transfer-Encoding: chunked\r\n\r\n10\r\n{\"a\":", closeIt, "call_upstream_body_error", true, false, ""},
		{"bad chunk framing", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}", closeIt, "call_upstream_body_error", true, false, ""},
		{"a stream without events, cut", events, reset, "call_upstream_body_error", true, false, ""},
		{"a stream cut between events", events + "9\r\ndata: 1\n\n\r\n", closeIt, "call_upstream_body_error", true, true, "data: 1\n\n"},
		{"a stream cut in its first event", events + "6\r\ndata: \r\n", closeIt, "call_upstream_body_error", true, false, ""},
		{"a stream cut in an event", events + "9\r\ndata: 1\n\n\r\n6\r\ndata: \r\n", closeIt, "call_upstream_body_error", true, true, "data: 1\n\n"},
		{"a stream cut in an event after CRLF", events + "11\r\ndata: 1\r\n\r\ndata: \r\n", closeIt, "call_upstream_body_error", true, true, "data: 1\r\n\r\n"},
		{"a stream cut in an event that is too long to wait", events + "9c40\r\n" + strings.Repeat("a", 40000) + "\r\n", closeIt, "call_upstream_body_error", true, true, strings.Repeat("a", 40000) + "\n\n"},
		{"a stream cut after its last word", events + "e\r\ndata: [DONE]\n\n\r\n", reset, "", false, true, "data: [DONE]\n\n"},
		{"a stream that ends with its connection", "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n", closeIt, "call_upstream_body_error", true, true, "data: 1\n\n"},
		{"such a stream that had its last word", "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: [DONE]\n\n", closeIt, "", false, true, "data: [DONE]\n\n"},
		{"an error said to be a stream, which has no last word", "HTTP/1.0 401 X\r\nContent-Type: text/event-stream\r\n\r\ndata: no\n\n", closeIt, "", false, true, "data: no\n\n"},
		{"a redirect", "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", closeIt, "call_upstream_redirect_error", true, false, ""},
		{"500", "HTTP/1.1 500 X\r\nContent-Length: 3\r\n\r\noops", closeIt, "call_upstream_status_error", true, false, ""},
		{"400", "HTTP/1.1 400 X\r\nContent-Length: 3\r\n\r\nbad", closeIt, "", false, true, "bad"},
		{"another content type", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", closeIt, "", false, true, "<html>"},
		{"no length", head + "Connection: close\r\n\r\n{}", closeIt, "", false, true, "{}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, w, err := relay(t, t.Context(), raw(t, tt.answer, tt.end), chat())
			got := ""
			if err != nil {
				got = infer.AsError(err).Code
			}
			if got != tt.code || infer.Retryable(err) != tt.retry || w.Committed() != tt.begun {
				t.Errorf("got %v, committed %v; want code %q, retry %v, committed %v", err, w.Committed(), tt.code, tt.retry, tt.begun)
			}
			if c.body() != tt.want {
				t.Errorf("the client got %q, want %q", c.body(), tt.want)
			}
		})
	}
}

func TestAnEventIsSentWhenItComes(t *testing.T) {
	next := make(chan string)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for p := range next {
			_, _ = io.WriteString(w, p)
			_ = http.NewResponseController(w).Flush()
		}
	}))
	defer s.Close()
	got := make(chan string)
	wire := &notifying{client: new(client), got: got}
	r := chat()
	r.Received = time.Now()
	ended := make(chan error, 1)
	w := infer.NewReply(wire)
	go func() { ended <- backend(t).Serve(t.Context(), r, w, fleet.Team{Lead: worker(t, s.URL, "")}) }()
	next <- "data: half" // waits for the rest
	for _, p := range []string{" an event\n\n", "data: {\"x\":1}\n\n", "data: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n", "data: [DONE]\n\n"} {
		next <- p
		if strings.HasPrefix(p, " ") {
			p = "data: half" + p
		}
		if piece := <-got; piece != p {
			t.Errorf("sent %q, the client got %q", p, piece)
		}
	}
	close(next)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if u := w.Served.Tokens; u.Input != 7 || u.Output != 3 || w.Served.FirstByte <= 0 || w.Served.Events != 3 {
		t.Errorf("seen were %+v, first byte after %s, %d events", u, w.Served.FirstByte, w.Served.Events)
	}
}

// notifying tells of every piece.
type notifying struct {
	*client
	got chan string
}

func (n *notifying) Flush() error {
	before := len(n.pieces)
	err := n.client.Flush()
	for _, p := range n.pieces[before:] {
		n.got <- p
	}
	return err
}

func TestTheClientLeaves(t *testing.T) {
	for _, phase := range []string{"before the header", "in the stream"} {
		t.Run(phase, func(t *testing.T) {
			arrived, left := make(chan struct{}), make(chan struct{})
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if phase == "in the stream" {
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, "data: 1\n\n")
					_ = http.NewResponseController(w).Flush()
				}
				close(arrived)
				<-r.Context().Done()
				close(left)
			}))
			defer s.Close()
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-arrived
				cancel()
			}()
			_, _, err := relay(t, ctx, s.URL, chat())
			if e := infer.AsError(err); e.Status != infer.StatusClientGone || e.Retry {
				t.Errorf("got %v, want the client's leaving", err)
			}
			<-left // the worker was told
		})
	}
}

func TestTheTimeIsUp(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err := relay(t, ctx, s.URL, chat())
	if e := infer.AsError(err); e.Status != 504 || e.Code != "call_upstream_timeout" {
		t.Errorf("got %v, want 504 call_upstream_timeout", err)
	}
}

// TestAWorkerThatDoesNotBegin holds that a worker which says nothing for too long
// has failed, and that another may be asked.
func TestAWorkerThatDoesNotBegin(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	for _, e := range []infer.Endpoint{infer.Chat, infer.Realtime} {
		r, w := chat(), infer.NewReply(new(client))
		r.Endpoint = e
		begin := time.Now()
		err := backendOf(t, Config{FirstByte: 100 * time.Millisecond}).Serve(t.Context(), r, w, fleet.Team{Lead: worker(t, s.URL, "")})
		if e := infer.AsError(err); e.Status != 504 || e.Code != "call_upstream_timeout" || !e.Retry || w.Committed() {
			t.Errorf("%s: got %v, want 504 call_upstream_timeout, to be tried elsewhere", r.Endpoint.Label(), err)
		}
		if took := time.Since(begin); took >= handshakeTimeout {
			t.Errorf("%s: after %v", r.Endpoint.Label(), took)
		}
	}
}

// TestNoDescriptors holds that a client is not told that a worker is at fault when
// it is the gateway that cannot open a connection.
func TestNoDescriptors(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		err := failed(t.Context(), &upstream.Error{Op: "dial", Err: os.NewSyscallError("socket", errno)})
		var e *infer.Error
		if !errors.As(err, &e) || e.Status != 503 || e.Code != "no_descriptors" || e.RetryAfter == 0 || !e.Retry {
			t.Errorf("%v: got %+v", errno, err)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, _, err = relay(t, t.Context(), "http://"+l.Addr().String(), chat())
	if e := infer.AsError(err); e.Status != 502 || e.Code != "call_upstream_connection_failed" || !e.Retry {
		t.Errorf("got %v, want 502 call_upstream_connection_failed, to be tried elsewhere", err)
	}
}

func TestALongAnswerPassesThrough(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 200<<10) // 3.2 MB
	for _, chunked := range []bool{false, true} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if !chunked {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			}
			_, _ = io.WriteString(w, body)
		}))
		c, _, err := relay(t, t.Context(), s.URL, chat())
		if err != nil || c.body() != body {
			t.Errorf("chunked %v: got %d bytes, %v; want all %d", chunked, len(c.body()), err, len(body))
		}
		s.Close()
	}
}

func TestBackPressure(t *testing.T) {
	answer := func(status int, header, body string) string {
		return fmt.Sprintf("HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s", status, header, len(body), body)
	}
	for raws, want := range map[string]bool{
		answer(429, "", "{}"):                               true,
		answer(503, "Retry-After: 2\r\n", ""):               true,
		answer(503, "", `{"message":"The queue is full."}`): true,
		answer(503, "", `{"message":"model crashed"}`):      false,
		answer(500, "", `{"message":"queue"}`):              false,
	} {
		_, _, err := relay(t, t.Context(), raw(t, raws, closeIt), chat())
		if got := BackPressure(err); got != want {
			t.Errorf("%q: BackPressure is %v, want %v", raws, got, want)
		}
	}
}

func TestRerankIsWrapped(t *testing.T) {
	const list = `[{"score": 0.90,"document":"a","index":1,"meta_info":{}}, {"score": 0.5,"document":"b<","index":0}]`
	tests := []struct{ name, request, answer, want string }{
		{"as it is", `{"model":"m","query":"q"}`, list, `{"results":[{"score": 0.90,"document":"a","index":1,"meta_info":{}},{"score": 0.5,"document":"b<","index":0}],"model":"m","usage":null,"object":"rerank","id":null,"created":`},
		{"cut", `{"model":"m","top_k":1,"rid":"r1"}`, list, `{"results":[{"score": 0.90,"document":"a","index":1,"meta_info":{}}],"model":"m","usage":null,"object":"rerank","id":"r1",`},
		{"without documents", `{"return_documents":false}`, list, `{"results":[{"score": 0.90,"document":null,"index":1,"meta_info":{}},{"score": 0.5,"document":null,"index":0}],`},
		{"an object passes", `{}`, `{"id":"x","results":[]}`, `{"id":"x","results":[]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := chat()
			r.Endpoint, r.Body = infer.Rerank, []byte(tt.request)
			url := raw(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(tt.answer), tt.answer), closeIt)
			c, _, err := relay(t, t.Context(), url, r)
			if err != nil || !strings.HasPrefix(c.body(), tt.want) {
				t.Errorf("got %s, %v; want %s…", c.body(), err, tt.want)
			}
			if n := string(c.header.Get("Content-Length")); n != fmt.Sprint(len(c.body())) {
				t.Errorf("Content-Length is %s for %d bytes", n, len(c.body()))
			}
		})
	}
}

// TestAnAnnouncedLengthIsNotBelieved holds that a worker cannot take memory by
// saying how much it is going to send.
func TestAnAnnouncedLengthIsNotBelieved(t *testing.T) {
	r := chat()
	r.Endpoint = infer.Rerank
	_, w, err := relay(t, t.Context(), raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 1152921504606846976\r\n\r\n[", closeIt), r)
	if e := infer.AsError(err); e.Code != "call_upstream_body_error" || !e.Retry || w.Committed() {
		t.Errorf("got %v, want call_upstream_body_error, to be tried elsewhere", err)
	}
}

func TestALongListIsWrappedToo(t *testing.T) {
	list := `[{"score":1,"document":"` + strings.Repeat("x", 2<<20) + `","index":0}]`
	r := chat()
	r.Endpoint = infer.Rerank
	c, _, err := relay(t, t.Context(), raw(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(list), list), closeIt), r)
	if want := `{"results":` + list + `,`; err != nil || !strings.HasPrefix(c.body(), want) {
		t.Errorf("got %.40s…, %v; want it wrapped", c.body(), err)
	}
}

// TestWhereOnlyTheEndOfTheConnectionEndsAnAnswer holds that a worker that died
// is not taken for one that was done, nor the other way round.
func TestWhereOnlyTheEndOfTheConnectionEndsAnAnswer(t *testing.T) {
	const stream = "Content-Type: text/event-stream\r\n"
	tests := []struct {
		name, answer string
		whole        bool
	}{
		{"JSON that is whole", "Content-Type: application/json\r\n\r\n{\"a\":1}\n", true},
		{"JSON that is torn", "Content-Type: application/json\r\n\r\n{\"a\":1", false},
		{"a list", "Content-Type: application/json\r\n\r\n[1]", true},
		{"a stream that says that it is over", stream + "\r\ndata: 1\n\ndata: [DONE]\n\n", true},
		{"a stream that does not", stream + "\r\ndata: 1\n\n", false},
		{"a stream of an announced length", stream + "Content-Length: 9\r\n\r\ndata: 1\n\n", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := relay(t, t.Context(), raw(t, "HTTP/1.1 200 OK\r\n"+tt.answer, closeIt), chat())
			if (err == nil) != tt.whole {
				t.Errorf("the client got %q, %v; want it taken for whole: %v", c.body(), err, tt.whole)
			}
		})
	}
}

// TestALongErrorIsStillAnAnswer holds that a worker which repeats a long bad
// request in its error is not taken for one that is gone: clients could open
// every breaker of the fleet otherwise.
func TestALongErrorIsStillAnAnswer(t *testing.T) {
	r := chat()
	r.Endpoint = infer.Messages
	long := strings.Repeat("x", 2<<20)
	_, _, err := relay(t, t.Context(), raw(t, fmt.Sprintf("HTTP/1.1 422 X\r\nContent-Length: %d\r\n\r\n%s", len(long), long), closeIt), r)
	if e := infer.AsError(err); e.Answer == nil || e.Answer.Status != 422 || e.Answer.Body != nil || e.Retry {
		t.Errorf("got %v, want an answer of 422 without its body", err)
	}
	_, _, err = relay(t, t.Context(), raw(t, fmt.Sprintf("HTTP/1.1 429 X\r\nContent-Length: %d\r\n\r\n%s", len(long), long), closeIt), chat())
	if !BackPressure(err) {
		t.Errorf("%v is not taken for back-pressure", err)
	}
}

func TestWhatAWorkerSaysOfItsOwnAddressStaysHere(t *testing.T) {
	c, _, err := relay(t, t.Context(), raw(t, "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nAlt-Svc: h3=\":8000\"\r\nX-Own: 1\r\nContent-Length: 0\r\n\r\n", closeIt), chat())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"Access-Control-Allow-Origin": false, "Access-Control-Allow-Credentials": false, "Alt-Svc": false, "X-Own": true} {
		if got := c.header.Has(name); got != want {
			t.Errorf("the client got %s: %v, want %v", name, got, want)
		}
	}
}

func TestNoContentHasNoLength(t *testing.T) {
	c, _, err := relay(t, t.Context(), raw(t, "HTTP/1.1 204 No Content\r\n\r\n", closeIt), chat())
	if err != nil || c.status != 204 || c.header.Has("Content-Length") {
		t.Errorf("got %d with length %q, %v; want 204 and no length", c.status, c.header.Get("Content-Length"), err)
	}
}

func TestErrorsForAnthropicsClientsAreHeld(t *testing.T) {
	r := chat()
	r.Endpoint = infer.Messages
	_, w, err := relay(t, t.Context(), raw(t, "HTTP/1.1 404 X\r\nContent-Length: 22\r\n\r\n{\"detail\":\"Not Found\"}", closeIt), r)
	e := infer.AsError(err)
	if w.Committed() || e.Answer == nil || e.Answer.Status != 404 || e.Retry {
		t.Errorf("got %v, committed %v; want the answer held, to be said in Anthropic's words", err, w.Committed())
	}
}

// llama.cpp's server closes a connection after a streamed answer and does not
// say so; the next request must not be sent on it.
func TestAStreamOfLlamaCppIsTheLastOnItsConnection(t *testing.T) {
	var closing []bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/v1/models":
			_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"m","object":"model","owned_by":"llamacpp"}]}`)
		case "/health":
			_, _ = io.WriteString(w, `{"status":"ok"}`)
		case "/v1/chat/completions":
			closing = append(closing, r.Close)
			_, _ = io.WriteString(w, "{}")
		default:
			w.WriteHeader(404)
		}
	}))
	defer s.Close()
	reg := fleet.New(fleet.DefaultConfig(), fleet.DefaultHealthConfig(), breaker.DefaultConfig(), fleet.Options{})
	if _, err := reg.Add(fleet.Spec{URL: s.URL}); err != nil {
		t.Fatal(err)
	}
	ready := make(chan *fleet.Worker, 1)
	reg.Watch(func(s *fleet.Snapshot) {
		if len(s.Ready) == 1 && s.Ready[0].Joined() {
			select {
			case ready <- s.Ready[0]:
			default:
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- reg.Run(ctx) }()
	lead := <-ready
	whole, stream, unknown := chat(), chat(), left("{}", -1)
	stream.Stream = true
	for _, r := range []*infer.Request{whole, stream, unknown} {
		r.Received = time.Now()
		if err := backend(t).Serve(t.Context(), r, infer.NewReply(new(client)), fleet.Team{Lead: lead}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(closing); got != "[false true true]" {
		t.Errorf("the worker was told to close: %s, want after the stream, and what may be one", got)
	}
}

// A holder is a client's wire that keeps the beginnings of events.
type holder struct{ client }

func (*holder) Holds() bool { return true }

// TestATornEventIsNotEnded holds that the beginning of an event too long to wait
// here gets no end where it waits behind: who keeps it would take it for whole.
func TestATornEventIsNotEnded(t *testing.T) {
	for _, n := range []int{32 << 10, 40_000, 300_000} {
		torn := "data: " + strings.Repeat("a", n)
		url := raw(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(torn), torn), closeIt)
		c := new(holder)
		r := chat()
		r.Received = time.Now()
		err := backend(t).Serve(t.Context(), r, infer.NewReply(c), fleet.Team{Lead: worker(t, url, "")})
		if infer.AsError(err).Code != "call_upstream_body_error" || strings.Contains(c.body(), "\n") {
			t.Errorf("%d: %v, and an end was written", n, err)
		}
	}
}
