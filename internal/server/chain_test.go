package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/internal/gate/access"
	"sluice/internal/gate/auth"
	"sluice/internal/gate/cors"
	"sluice/internal/infer"
	"sluice/internal/kit/linelog"
	"sluice/internal/kit/metric"
	"sluice/internal/kit/secret"
)

// fakeClient is a connection: its header, and what its request holds.
type fakeClient struct {
	header infer.Header
	body   []byte
	sent   int
}

func (c *fakeClient) Header() *infer.Header        { return &c.header }
func (c *fakeClient) WriteHeader(int)              {}
func (c *fakeClient) Write(b []byte) (int, error)  { c.sent += len(b); return len(b), nil }
func (c *fakeClient) Flush() error                 { return nil }
func (c *fakeClient) Splices() bool                { return true }
func (c *fakeClient) Splice(_ []byte, n int) error { c.sent += n; return nil }
func (c *fakeClient) Length() int64                { return int64(len(c.body)) }
func (c *fakeClient) Release()                     {}

func (c *fakeClient) ReadShort(most, limit int64) ([]byte, bool, error) {
	return c.body, int64(len(c.body)) <= most, nil
}

func (c *fakeClient) Pass(w io.Writer, _ int64) error {
	_, err := w.Write(c.body)
	return err
}

func (c *fakeClient) Stop() {}

const apiKey = "sk-0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghij"

// prompt is a chat of about 2 KiB.
var prompt = fmt.Appendf(nil, `{"messages":[{"role":"system","content":%q},{"role":"user","content":%q}],"temperature":0.7,"max_tokens":256,"stream":%s,"model":"meta-llama/Llama-3.1-8B-Instruct"}`,
	strings.Repeat("You are a helpful assistant. ", 35), strings.Repeat("Tell me a story, please. ", 40), "true")

// settings are what the gates are made of.
type settings struct {
	access access.Config
	auth   auth.Config
	cors   cors.Config
	texts  bool // are looked at
}

// gates returns every gate of a gateway before a handler that answers at once,
// and its log.
func gates(change func(*settings), answer infer.HandlerFunc, log io.Writer) (*Mux, *linelog.Log) {
	s := settings{access.DefaultConfig(), auth.Config{APIKey: secret.New(apiKey)}, cors.DefaultConfig(), false}
	change(&s)
	lines, m := linelog.New(log, linelog.Config{JSON: true}), new(access.Metrics)
	metric.Fill(metric.NewRegistry(nil), m)
	classes := map[string]auth.Class{"": auth.Public, "/health": auth.Public, "/workers": auth.Control}
	work := Body(1<<20, 8<<10, func() bool { return false }, func() bool { return s.texts }, nil)(answer)
	return NewMux([]Route{
		{"POST", "/v1/chat/completions", infer.Chat, work},
		{"POST", "/v1/completions", infer.Completions, work},
		{"POST", "/v1/messages", infer.Messages, work},
		{"POST", "/generate", infer.Generate, work},
	},
		access.Gate(s.access, access.Options{Log: slog.New(slog.DiscardHandler), Lines: lines, Metrics: m, Refuse: Refuse}),
		cors.Gate(s.cors),
		auth.Gate(s.auth, func(r *infer.Request) auth.Class {
			c, ok := classes[r.Route]
			if !ok {
				return auth.Data
			}
			return c
		}),
	), lines
}

// sdkFields are a request's, as OpenAI's client for Python sends them.
var sdkFields = [][2]string{
	{"Host", "gateway:30000"}, {"Accept-Encoding", "gzip, deflate"}, {"Connection", "keep-alive"}, {"Accept", "application/json"},
	{"Content-Type", "application/json"}, {"User-Agent", "OpenAI/Python 2.8.0"}, {"X-Stainless-Lang", "python"}, {"X-Stainless-Package-Version", "2.8.0"},
	{"X-Stainless-OS", "Linux"}, {"X-Stainless-Arch", "x64"}, {"X-Stainless-Runtime", "CPython"}, {"X-Stainless-Runtime-Version", "3.13.1"},
	{"Authorization", "Bearer " + apiKey}, {"X-Stainless-Async", "false"}, {"x-stainless-retry-count", "0"}, {"x-stainless-read-timeout", "600"}, {"Content-Length", "2048"},
}

// ask returns a request through h as a front end makes it: with memory that it
// uses again. After each hundred requests the log is written.
func ask(h infer.Handler, lines *linelog.Log, path string, more ...[2]string) func() error {
	c, r, w, ctx := &fakeClient{body: prompt}, &infer.Request{}, &infer.Reply{}, context.Background()
	remote, n := netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0
	var names, values [][]byte
	for _, f := range append(sdkFields, more...) {
		names, values = append(names, []byte(f[0])), append(values, []byte(f[1]))
	}
	return func() error {
		c.header.Reset()
		w.Reset(c)
		r.Reset()
		for i := range names {
			r.Header.Add(names[i], values[i])
		}
		r.Method, r.Path, r.Remote, r.Received = "POST", path, remote, time.Now()
		r.SetBody(c)
		if n++; n%100 == 0 {
			lines.Flush()
		}
		return h.Serve(ctx, r, w)
	}
}

var chunk, rest = []byte("5\r\nhello\r\n"), []byte("the rest")

// fromWorker is an answer of which some comes in chunks.
func fromWorker(_ context.Context, r *infer.Request, w *infer.Reply) error {
	if r.Model != "meta-llama/Llama-3.1-8B-Instruct" || !r.Stream {
		return fmt.Errorf("model %q, stream %v", r.Model, r.Stream)
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	w.Served = infer.Served{Worker: "http://10.0.0.1:8000", Tries: 1, FirstByte: 12345 * time.Microsecond, Tokens: infer.Tokens{Input: 100, Output: 20}}
	w.Commit(200)
	if !w.Splices() {
		return fmt.Errorf("chunks cannot pass the gates")
	}
	if err := w.Splice(chunk, 5); err != nil {
		return err
	}
	_, err := w.Write(rest)
	return err
}

// ways are requests that pass the gates, each in a gateway of its own.
var ways = []struct {
	name   string
	change func(*settings)
	path   string
	more   [][2]string
}{
	{"as it comes", func(*settings) {}, "/v1/chat/completions", nil},
	{"with an id", func(*settings) {}, "/v1/chat/completions", [][2]string{{"X-Request-Id", "0193e3a6-7e5b-7c3d-9f5e-2b1a4c6d8e0f"}}},
	{"from a web page", func(s *settings) { s.cors.Origins = []string{"https://chat.example"} }, "/v1/chat/completions", [][2]string{{"Origin", "https://chat.example"}}},
	{"for its text", func(s *settings) { s.texts = true }, "/v1/chat/completions", nil},
	{"Anthropic's", func(*settings) {}, "/v1/messages", [][2]string{{"anthropic-version", "2023-06-01"}}},
	{"without a key", func(s *settings) { s.auth.APIKey = secret.String{} }, "/v1/completions", nil},
	{"showing the worker", func(s *settings) { s.access.ShowWorker = true }, "/generate", nil},
}

// TestARequestThatPassesAllocatesNothing is about everything between the front
// end and the router, with all of it switched on.
func TestARequestThatPassesAllocatesNothing(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	for _, tt := range ways {
		t.Run(tt.name, func(t *testing.T) {
			h, lines := gates(tt.change, fromWorker, io.Discard)
			do := ask(h, lines, tt.path, tt.more...)
			if err := do(); err != nil {
				t.Fatal(err)
			}
			// Ids share an allocation among a hundred.
			if n := testing.AllocsPerRun(10_000, func() { _ = do() }); n != 0 {
				t.Errorf("%v allocations a request, want none", n)
			}
		})
	}
}

// TestWhatARefusalSent holds that the log knows of an answer of the gateway's
// own what it would know of a worker's.
func TestWhatARefusalSent(t *testing.T) {
	var log strings.Builder
	h, lines := gates(func(s *settings) { s.auth.APIKey = secret.New("another key") }, fromWorker, &log)
	c, r := &fakeClient{}, &infer.Request{Method: "POST", Path: "/v1/messages"}
	if err := h.Serve(t.Context(), r, infer.NewReply(c)); err != nil {
		t.Errorf("the front end was told to cut the connection: %v", err)
	}
	lines.Flush()
	var line struct {
		Status   int
		BytesOut int `json:"bytes_out"`
		Error    string
	}
	if err := json.Unmarshal([]byte(log.String()), &line); err != nil {
		t.Fatalf("%v in %q", err, log.String())
	}
	if line.Status != 401 || line.Error != "invalid_api_key" || line.BytesOut != c.sent || c.sent == 0 {
		t.Errorf("logged %+v, want status 401 and %d bytes", line, c.sent)
	}
	if got := string(c.header.Get("request-id")); got != r.ID {
		t.Errorf("the refusal's request-id is %q, want %q", got, r.ID)
	}
}

func BenchmarkGates(b *testing.B) {
	for _, tt := range ways {
		b.Run(tt.name, func(b *testing.B) {
			h, lines := gates(tt.change, fromWorker, io.Discard)
			do := ask(h, lines, tt.path, tt.more...)
			b.ReportAllocs()
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
