package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"sluice/test/program"
)

const realtimePath = "/v1/realtime"

// A talker is a worker that answers WebSockets: it says what it hears.
type talker struct {
	*httptest.Server
	handshake func(http.ResponseWriter, *http.Request) bool // answers otherwise, if it returns true

	mu    sync.Mutex
	asked []*http.Request // guarded by mu; for WebSockets
	open  int             // guarded by mu
	ends  []error         // guarded by mu; of WebSockets
}

// newTalker starts a worker that serves model.
func newTalker(t testing.TB, model string) *talker {
	t.Helper()
	k := new(talker)
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/v1/models", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"object":"list","data":[{"id":%q,"object":"model"}]}`, model)
	})
	mux.HandleFunc(realtimePath, k.talk)
	k.Server = httptest.NewServer(mux)
	t.Cleanup(k.Close)
	return k
}

func (k *talker) talk(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	k.asked = append(k.asked, r.Clone(context.Background()))
	k.mu.Unlock()
	if k.handshake != nil && k.handshake(w, r) {
		return
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{"realtime"}, CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		return
	}
	c.SetReadLimit(64 << 20)
	k.note(1, nil)
	err = k.echo(r.Context(), c)
	_ = c.CloseNow()
	k.note(-1, err)
}

// echo says what it hears until it hears how to end.
func (k *talker) echo(ctx context.Context, c *websocket.Conn) error {
	for {
		kind, b, err := c.Read(ctx)
		if err != nil {
			return err
		}
		switch string(b) {
		case "leave":
			return c.Close(4321, "as you wish")
		case "drop":
			return errors.New("dropped")
		case "ping":
			if err := c.Ping(c.CloseRead(ctx)); err != nil {
				return err
			}
			b = []byte("pong")
		}
		if err := c.Write(ctx, kind, b); err != nil {
			return err
		}
	}
}

func (k *talker) note(n int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open += n; n < 0 {
		k.ends = append(k.ends, err)
	}
}

// last returns the last request for a WebSocket, and how many there were.
func (k *talker) last() (*http.Request, int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.asked) == 0 {
		return nil, 0
	}
	return k.asked[len(k.asked)-1], len(k.asked)
}

// ended waits until no WebSocket is open and returns how the last one ended.
func (k *talker) ended(t testing.TB) (err error) {
	t.Helper()
	program.Eventually(t, "the worker's WebSocket ends", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.open == 0 && len(k.ends) > 0 {
			err = k.ends[len(k.ends)-1]
			return true
		}
		return false
	})
	return err
}

// dial opens a WebSocket at the gateway.
func dial(t testing.TB, g *program.Gateway, query string, opt *websocket.DialOptions) *websocket.Conn {
	t.Helper()
	c, res, err := websocket.Dial(t.Context(), g.URL+realtimePath+query, opt)
	if err != nil {
		t.Fatalf("dialing: %v %v", err, res)
	}
	c.SetReadLimit(64 << 20)
	t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

// tell sends text and returns what comes back.
func tell(t testing.TB, c *websocket.Conn, text string) string {
	t.Helper()
	if err := c.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
	_, b, err := c.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func header(lines ...string) *websocket.DialOptions {
	o := &websocket.DialOptions{HTTPHeader: http.Header{}}
	for i := 0; i < len(lines); i += 2 {
		o.HTTPHeader.Add(lines[i], lines[i+1])
	}
	return o
}

func TestRealtime(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "m")
	g := inFrontOf(t, 1, []string{k.URL}, "--model-alias", "voice=m")

	o := header("OpenAI-Beta", "realtime=v1", "X-Request-Id", "r-1", "Cookie", "secret=1", "Authorization", "Bearer theirs")
	o.Subprotocols, o.CompressionMode = []string{"other", "realtime"}, websocket.CompressionContextTakeover
	c := dial(t, g, "?foo=%20x&model=voice&bar", o)
	if c.Subprotocol() != "realtime" {
		t.Errorf("the subprotocol is %q, want realtime", c.Subprotocol())
	}
	r, _ := k.last()
	if r.Method != "GET" || r.URL.RawQuery != "foo=%20x&model=m&bar" {
		t.Errorf("the worker was asked %s with %q, want GET with the query, the alias replaced", r.Method, r.URL.RawQuery)
	}
	for name, want := range map[string]string{
		"Openai-Beta": "realtime=v1", "X-Request-Id": "r-1", "Cookie": "", "Authorization": "Bearer theirs", "User-Agent": "sluice",
		"Sec-Websocket-Protocol": "other, realtime",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("the worker got %s: %q, want %q", name, got, want)
		}
	}

	if got := tell(t, c, "hello"); got != "hello" {
		t.Errorf("said hello, got %q", got)
	}
	for _, series := range []string{"sluice_client_tunnels", `smg_worker_requests_active{worker="` + k.URL + `"}`} {
		wantMetric(t, g, series, 1) // while a WebSocket is open
	}
	large := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(large)
	sent := make(chan error, 1)
	go func() { sent <- c.Write(t.Context(), websocket.MessageBinary, large) }()
	kind, b, err := c.Read(t.Context())
	if err := errors.Join(err, <-sent); err != nil || kind != websocket.MessageBinary || !bytes.Equal(b, large) {
		t.Errorf("said 16 MiB, got %v of %d bytes, %v", kind, len(b), err)
	}
	if err := c.Ping(c.CloseRead(t.Context())); err != nil {
		t.Errorf("pinging: %v", err)
	}
	_ = c.CloseNow()

	c = dial(t, g, "?model=m", nil)
	if got := tell(t, c, "ping"); got != "pong" { // the library answers while it reads
		t.Errorf("the worker's ping came back as %q", got)
	}
	_ = c.CloseNow()
	_ = k.ended(t)
	program.Eventually(t, "the log tells of both, with what passed", func() bool {
		return strings.Count(g.Log(), "path=/v1/realtime status=101") == 2 && strings.Contains(g.Log(), "bytes_in=1677")
	})
	wantMetric(t, g, "sluice_client_tunnels", 0)
}

// TestTheEndOfAWebSocket has each side end one, well or badly: the other must
// hear of it at once, with the code that was given.
func TestTheEndOfAWebSocket(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "m")
	g := inFrontOf(t, 1, []string{k.URL})
	begin := func() *websocket.Conn {
		c := dial(t, g, "?model=m", nil)
		if got := tell(t, c, "hello"); got != "hello" {
			t.Fatalf("said hello, got %q", got)
		}
		return c
	}
	c := begin()
	if err := c.Close(4000, "enough"); err != nil {
		t.Errorf("closing: %v", err)
	}
	if err := k.ended(t); websocket.CloseStatus(err) != 4000 || !strings.Contains(err.Error(), "enough") {
		t.Errorf("the client closed with 4000 enough; the worker heard %v", err)
	}

	c = begin()
	_ = c.Write(t.Context(), websocket.MessageText, []byte("leave"))
	if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != 4321 || !strings.Contains(err.Error(), "as you wish") {
		t.Errorf("the worker closed with 4321 as you wish; the client heard %v", err)
	}
	if err := k.ended(t); err != nil {
		t.Errorf("the worker's closing: %v", err)
	}

	c = begin()
	_ = c.CloseNow()
	if err := k.ended(t); err == nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("the client left without a word; the worker heard %v", err)
	}

	c = begin()
	_ = c.Write(t.Context(), websocket.MessageText, []byte("drop"))
	if _, _, err := c.Read(t.Context()); err == nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("the worker died; the client heard %v", err)
	}
	_ = c.CloseNow()
	program.Eventually(t, "no tunnel is left", func() bool {
		_, m := program.Get(t, g.MetricsURL)
		return strings.Contains(m, "sluice_client_tunnels 0")
	})
}

// TestRealtimeIsRefused holds that who cannot have a WebSocket is told why, and
// that the connection serves the next request.
func TestRealtimeIsRefused(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "m")
	g := inFrontOf(t, 1, []string{k.URL})
	good := []string{"Connection", "keep-alive, Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	with := func(change ...string) []string {
		h := append([]string{}, good...)
		for i := 0; i < len(change); i += 2 {
			h = append(h, change[i], change[i+1])
		}
		return h
	}
	tests := []struct {
		name, query, body string
		header            []string
		want              string
	}{
		{"no upgrade", "?model=m", "", nil, "426 websocket_required"},
		{"another protocol", "?model=m", "", with("Upgrade", "h2c"), "426 websocket_required"},
		{"not named in Connection", "?model=m", "", with("Connection", "keep-alive"), "426 websocket_required"},
		{"another version", "?model=m", "", with("Sec-WebSocket-Version", "8"), "426 websocket_version"},
		{"a short key", "?model=m", "", with("Sec-WebSocket-Key", "Zm9v"), "400 bad_websocket_handshake"},
		{"a key that is none", "?model=m", "", with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ!!"), "400 bad_websocket_handshake"},
		{"a body", "?model=m", "{}", good, "400 bad_websocket_handshake"},
		{"no model", "", "", good, "400 missing_required_parameter"},
		{"an empty model", "?model=", "", good, "400 missing_required_parameter"},
		{"two models", "?model=m&mod%65l=n", "", good, "400 duplicate_parameter"},
		{"a model that is badly escaped", "?model=%zz", "", good, "400 invalid_query"},
		{"an unknown model", "?model=n", "", good, "404 model_not_found"},
		{"a page", "?model=m", "", with("Origin", "https://example.com"), "403 origin_not_allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := ask(t, "GET", g.URL+realtimePath+tt.query, tt.body, tt.header...)
			if got := a.refused(t); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if up := a.header.Get("Upgrade"); (a.status == 426) != (up == "websocket") {
				t.Errorf("status %d with Upgrade: %q", a.status, up)
			}
		})
	}
	if a := ask(t, "POST", g.URL+realtimePath+"?model=m", "{}"); a.status != 405 || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("a POST gets %d with Allow: %q, want 405", a.status, a.header.Get("Allow"))
	}
	if a, err := try(t.Context(), h2c(), "GET", g.URL+realtimePath+"?model=m", ""); err != nil || a.refused(t) != "426 websocket_required" || a.header.Get("Upgrade") != "" {
		t.Errorf("over HTTP/2: %v %v %v, want 426 without an Upgrade", a.status, a.header, err)
	}
	if _, n := k.last(); n != 0 {
		t.Errorf("the worker was asked %d times", n)
	}
	// The refusals' connections are not lost, and bytes behind the head are
	// the next request.
	nc, r := plain(t, g)
	fmt.Fprintf(nc, "GET /v1/realtime?model=n HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET /liveness HTTP/1.1\r\nHost: a\r\n\r\n")
	for i, want := range []int{404, 200} {
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != want {
			t.Fatalf("answer %d: %v %v, want %d", i, res, err, want)
		}
		_, _ = io.Copy(io.Discard, res.Body)
	}
	fmt.Fprintf(nc, "GET /v1/realtime?model=m HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 400 {
		t.Errorf("over HTTP/1.0: %v %v, want 400", res, err)
	}
}

// plain opens a plain connection to the gateway.
func plain(t testing.TB, g *program.Gateway) (net.Conn, *bufio.Reader) {
	t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	return nc, bufio.NewReader(nc)
}

// h2c is a client that speaks HTTP/2 without TLS.
func h2c() *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols), DisableKeepAlives: true}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: tr}
}

// TestRealtimeKeys holds that a WebSocket needs the key, and that browsers have
// a way to send it which the worker does not hear of.
func TestRealtimeKeys(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "m")
	g := inFrontOf(t, 1, []string{k.URL}, "--api-key", "sesame")
	page := header("Origin", "https://example.com")
	for _, o := range []*websocket.DialOptions{nil, header("Authorization", "Bearer wrong"), {Subprotocols: []string{"realtime", "openai-insecure-api-key.wrong"}}, page} {
		_, res, err := websocket.Dial(t.Context(), g.URL+realtimePath+"?model=m", o)
		if err == nil || res == nil || res.StatusCode != 401 {
			t.Errorf("with %v: %v %v, want 401", o, res, err)
		}
	}
	if _, n := k.last(); n != 0 {
		t.Errorf("the worker was asked %d times", n)
	}
	page.Subprotocols = []string{"realtime", "openai-insecure-api-key.sesame", "openai-beta.realtime-v1"}
	for _, o := range []*websocket.DialOptions{header("Authorization", "Bearer sesame"), page} {
		c := dial(t, g, "?model=m", o)
		if got := tell(t, c, "hello"); got != "hello" {
			t.Errorf("said hello, got %q", got)
		}
		r, _ := k.last()
		if got := r.Header.Get("Authorization"); got != "Bearer sesame" {
			t.Errorf("the worker got Authorization: %q, want its own key", got)
		}
		if p, o := r.Header.Get("Sec-WebSocket-Protocol"), r.Header.Get("Origin"); strings.Contains(p, "sesame") || o != "" {
			t.Errorf("the worker got the subprotocols %q, and the origin %q", p, o)
		}
	}
	if strings.Contains(g.Log(), "sesame") {
		t.Error("the key is in the log")
	}
}

// TestRealtimeWorkersThatDoNot has workers that open no WebSocket: another must
// be asked if that may help, else the client hears what the worker says.
func TestRealtimeWorkersThatDoNot(t *testing.T) {
	t.Parallel()
	refuse := func(status int, text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprint(w, text)
			return true
		}
	}
	hijack := func(answer string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			nc, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				fmt.Fprint(nc, answer)
				nc.Close()
			}
			return true
		}
	}
	const upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
	const accepted = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	tests := []struct {
		name      string
		handshake func(http.ResponseWriter, *http.Request) bool
		want      string // alone
		retried   bool
	}{
		{"no such call", refuse(404, `{"detail":"Not Found"}`), `404 {"detail":"Not Found"}`, false},
		{"an answer of another kind", refuse(200, `{}`), "200 {}", false},
		{"busy", refuse(503, `{"error":"no"}`), `503 {"error":"no"}`, true},
		{"dies", hijack(""), "502 call_upstream_connection_failed", true},
		{"no HTTP", hijack("nonsense\r\n\r\n"), "502 call_upstream_decode_error", true},
		{"another protocol", hijack(upgrade + "Upgrade: h2c\r\n" + accepted + "\r\n"), "502 call_upstream_handshake_error", true},
		{"no protocol", hijack("HTTP/1.1 101 x\r\n" + accepted + "\r\n"), "502 call_upstream_handshake_error", true},
		{"another key", hijack(upgrade + "Upgrade: websocket\r\nSec-WebSocket-Accept: AAAPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"), "502 call_upstream_handshake_error", true},
		{"a subprotocol that nobody offered", hijack(upgrade + "Upgrade: websocket\r\nSec-WebSocket-Protocol: x\r\n" + accepted + "\r\n"), "502 call_upstream_handshake_error", true},
	}
	var urls []string
	for i, tt := range tests {
		alone, beside, good := newTalker(t, fmt.Sprint("alone-", i)), newTalker(t, fmt.Sprint("beside-", i)), newTalker(t, fmt.Sprint("beside-", i))
		alone.handshake, beside.handshake = tt.handshake, tt.handshake
		urls = append(urls, alone.URL, beside.URL, good.URL)
	}
	g := inFrontOf(t, len(urls), urls, "--retry-max-retries", "3", "--policy", "round_robin")
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := ask(t, "GET", fmt.Sprint(g.URL, realtimePath, "?model=alone-", i), "", "Connection", "Upgrade", "Upgrade", "websocket",
				"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
			if got := fmt.Sprint(a.status, " ", a.body); got != tt.want && a.refused(t) != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			opened := 0
			for range 2 {
				c, _, err := websocket.Dial(t.Context(), fmt.Sprint(g.URL, realtimePath, "?model=beside-", i), nil)
				if err == nil {
					opened++
					if got := tell(t, c, "hello"); got != "hello" {
						t.Errorf("said hello, got %q", got)
					}
					_ = c.CloseNow()
				}
			}
			if want := map[bool]int{false: 1, true: 2}[tt.retried]; opened != want {
				t.Errorf("%d of 2 WebSockets were opened beside a good worker, want %d", opened, want)
			}
		})
	}
}

// TestRealtimeDrain holds that a WebSocket has the grace when the gateway
// stops, and no more.
func TestRealtimeDrain(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "m")
	g := inFrontOf(t, 1, []string{k.URL}, "--shutdown-grace-period-secs", "5") // what is within it may be late
	c, silent := dial(t, g, "?model=m", nil), dial(t, g, "?model=m", nil)
	_ = tell(t, silent, "hello")
	g.Signal(t, syscall.SIGTERM)
	program.Eventually(t, "the gateway drains", func() bool { return strings.Contains(g.Log(), "stopping") })
	if got := tell(t, c, "still here"); got != "still here" {
		t.Errorf("within the grace: %q", got)
	}
	if err := c.Close(1000, ""); err != nil {
		t.Errorf("closing within the grace: %v", err)
	}
	if _, _, err := silent.Read(t.Context()); err == nil {
		t.Error("the grace is over, and the WebSocket is not")
	}
	g.Wait(t)
	_ = k.ended(t)
	if !strings.Contains(g.Log(), "status=101") || !strings.Contains(g.Log(), "error=gateway_stopping") {
		t.Error("the log does not tell which WebSocket was cut")
	}
}

func TestRealtimeIdle(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "m")
	g := inFrontOf(t, 1, []string{k.URL}, "--tunnel-idle-timeout-secs", "3")
	c := dial(t, g, "?model=m", nil)
	begin := time.Now()
	_ = tell(t, c, "hello")
	if _, _, err := c.Read(t.Context()); err == nil || time.Since(begin) < 2900*time.Millisecond {
		t.Errorf("after %s: %v, want an end after three seconds", time.Since(begin), err)
	}
	_ = k.ended(t)
	program.Eventually(t, "the log tells why", func() bool { return strings.Contains(g.Log(), `cause="nothing passed for 3s"`) })
}
