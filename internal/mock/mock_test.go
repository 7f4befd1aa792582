package mock

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quietLog = slog.New(slog.DiscardHandler)

// instant is a Config whose engines answer at once, on any free port.
func instant() Config {
	cfg := DefaultConfig()
	cfg.Speed, cfg.Port = 0, 0
	return cfg
}

func newTestFleet(t testing.TB, cfg Config) *Fleet {
	t.Helper()
	f, err := New(cfg, quietLog)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// ask1 asks an engine's handler and returns what it answered.
func ask1(t testing.TB, h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// post asks for a JSON object, which must come with status 200.
func ok(t testing.TB, h http.Handler, path, body string) map[string]any {
	t.Helper()
	w := ask1(t, h, http.MethodPost, path, body)
	if w.Code != http.StatusOK {
		t.Fatalf("%s %s: status %d: %s", path, body, w.Code, w.Body)
	}
	return object1(t, w.Body.Bytes())
}

func object1(t testing.TB, b []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	return v
}

// at walks v by keys and indexes.
func at(t testing.TB, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("no object to find %v of %v in: %v", p, path, v)
			}
			v = m[p]
		case int:
			l, ok := v.([]any)
			if !ok || p >= len(l) {
				t.Fatalf("no item %v of %v in: %v", p, path, v)
			}
			v = l[p]
		}
	}
	return v
}

// event1 is one event of a stream.
type event1 struct {
	name string
	data string
}

func parseEvents(t testing.TB, r io.Reader) []event1 {
	t.Helper()
	var evs []event1
	var e event1
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		switch line := sc.Text(); {
		case line == "":
			evs, e = append(evs, e), event1{}
		case strings.HasPrefix(line, "event: "):
			e.name = line[7:]
		case strings.HasPrefix(line, "data: "):
			e.data = line[6:]
		default:
			t.Fatalf("a line that is neither event nor data: %q", line)
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return evs
}

// stream asks for a stream, which must come with status 200.
func stream(t testing.TB, h http.Handler, path, body string) []event1 {
	t.Helper()
	w := ask1(t, h, http.MethodPost, path, body)
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%s: status %d, %s: %s", path, w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	return parseEvents(t, w.Body)
}

// serve runs a fleet on the network until the test ends.
func serve(t testing.TB, cfg Config) *Fleet {
	t.Helper()
	f := newTestFleet(t, cfg)
	if err := f.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

// client is a client whose connections end with the test.
func client(t testing.TB) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// eventually waits for cond, with a deadline.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s for: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

const hello = `{"model":"m","messages":[{"role":"user","content":"say hello"}]}`

func TestChat(t *testing.T) {
	for _, engine := range []string{SGLang, VLLM, LlamaCPP} {
		cfg := instant()
		cfg.Engine, cfg.Models = engine, []string{"m"}
		h := newTestFleet(t, cfg).Engine(0).Handler()
		v := ok(t, h, "/v1/chat/completions", hello)
		text, _ := at(t, v, "choices", 0, "message", "content").(string)
		if got := len(strings.Fields(text)); got != cfg.OutputTokens {
			t.Errorf("%s: %d words, want %d: %q", engine, got, cfg.OutputTokens, text)
		}
		if got := fmt.Sprint(at(t, v, "choices", 0, "finish_reason"), at(t, v, "usage", "prompt_tokens"), at(t, v, "usage", "completion_tokens")); got != "stop4 32" {
			t.Errorf("%s: finish and usage %q", engine, got)
		}
		var whole strings.Builder
		finishes := ""
		evs := stream(t, h, "/v1/chat/completions", `{"stream":true,"stream_options":{"include_usage":true},`+hello[1:])
		for i, e := range evs {
			if e.data == "[DONE]" {
				if i != len(evs)-1 {
					t.Errorf("%s: [DONE] is not the last", engine)
				}
				continue
			}
			c := object1(t, []byte(e.data))
			if len(c["choices"].([]any)) == 0 {
				if at(t, c, "usage", "completion_tokens") != 32.0 {
					t.Errorf("%s: usage %v", engine, c["usage"])
				}
				continue
			}
			s, isText := at(t, c, "choices", 0, "delta", "content").(string)
			whole.WriteString(s)
			if i == 0 && isText == (engine == LlamaCPP) {
				t.Errorf("%s: first chunk %s", engine, e.data)
			}
			if f := at(t, c, "choices", 0, "finish_reason"); f != nil {
				finishes += fmt.Sprint(f, " ", s != "", ";")
			}
		}
		if whole.String() != text {
			t.Errorf("%s: streamed %q, whole %q", engine, whole.String(), text)
		}
		if want := map[bool]string{true: "stop true;", false: "stop false;"}[engine == VLLM]; finishes != want {
			t.Errorf("%s: finish reasons %q, want %q", engine, finishes, want)
		}
	}
}

func BenchmarkInstant(b *testing.B) {
	for _, bb := range []struct{ name, body string }{
		{"unary", `{"model":"m","max_tokens":32,"messages":[{"role":"user","content":"` + strings.Repeat("word ", 180) + `"}]}`},
		{"stream", `{"model":"m","max_tokens":32,"stream":true,"messages":[{"role":"user","content":"` + strings.Repeat("word ", 180) + `"}]}`},
	} {
		for _, memo := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/memo=%v", bb.name, memo), func(b *testing.B) {
				e := newTestFleet(b, instant()).Engine(0)
				h := e.Handler()
				w := &sink{h: http.Header{}}
				r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", nil)
				b.ReportAllocs()
				for b.Loop() {
					if !memo {
						e.memo = newMemo()
					}
					r.Body = io.NopCloser(strings.NewReader(bb.body))
					h.ServeHTTP(w, r)
				}
			})
		}
	}
}

// sink is a response writer that keeps nothing.
type sink struct{ h http.Header }

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Flush()                      {}

// BenchmarkInstantNetwork measures an engine on the network, with a client that
// costs next to nothing: it sends the same bytes and waits for the last of the
// answer.
func BenchmarkInstantNetwork(b *testing.B) {
	for _, bb := range []struct {
		name, extra, end string
		per              int
	}{{"unary", "", "}}}", 1}, {"stream", `"stream":true,`, "0\r\n\r\n", 1}, {"stream at once", `"stream":true,`, "0\r\n\r\n", 1000}} {
		b.Run(bb.name, func(b *testing.B) {
			cfg := instant()
			cfg.EventsPerWrite = bb.per
			f := serve(b, cfg)
			c, err := net.Dial("tcp", f.Addrs()[0])
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			body := `{` + bb.extra + `"model":"m","max_tokens":32,"messages":[{"role":"user","content":"` + strings.Repeat("word ", 180) + `"}]}`
			ask := fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			buf := make([]byte, 64<<10)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(ask); err != nil {
					b.Fatal(err)
				}
				for n := 0; !bytes.HasSuffix(buf[:n], []byte(bb.end)); {
					k, err := c.Read(buf[n:])
					if err != nil {
						b.Fatal(err)
					}
					n += k
				}
			}
		})
	}
}
