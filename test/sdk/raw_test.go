package sdk

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"sluice/test/program"
)

// A recorder is a worker that remembers the last request and answers as it is
// told to.
type recorder struct {
	*httptest.Server

	mu     sync.Mutex
	path   string      // guarded by mu
	header http.Header // guarded by mu
	body   string      // guarded by mu
	status int         // guarded by mu
	kind   string      // guarded by mu; the Content-Type of the answer
	answer string      // guarded by mu
}

// record starts a recorder that serves model, and a gateway before it.
func record(t *testing.T) (*recorder, *program.Gateway) {
	t.Helper()
	r := &recorder{status: 200, kind: "application/json", answer: `{}`}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	g := program.Serve(t, "--worker-urls", r.URL)
	g.WaitReady(t, 1)
	return r, g
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodGet {
		switch req.URL.Path {
		case "/health":
		case "/v1/models":
			_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"m","object":"model"}]}`) // the gateway sees if it is cut
		default:
			http.NotFound(w, req)
		}
		return
	}
	b, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.path, r.header, r.body = req.URL.Path, req.Header.Clone(), string(b)
	w.Header().Set("Content-Type", r.kind)
	w.Header().Set("X-Request-Id", "the worker's own")
	w.Header().Set("X-Engine-Says", "hello")
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, r.answer) // the gateway sees if it is cut
}

// say sets what r answers from now on.
func (r *recorder) say(status int, kind, answer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status, r.kind, r.answer = status, kind, answer
}

// last returns the last request.
func (r *recorder) last() (path string, header http.Header, body string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.path, r.header, r.body
}

// odd are fields that a gateway which decodes bodies would change: their order,
// their numbers, their escapes, their spaces, and what it does not know.
const odd = ` "zeta" : 1.0,"alpha":1e2 , "big":123456789012345678901234567890,"neg":-0.0,"tiny":1E-400,` +
	`"nested":{"b":[1.50,{"y":null,"x":[]}],"a":{}},"text":"caf\u00e9 \/ \ud83d\ude00 é <b>&",` +
	"\n\t" + `"stop":null,"logprobs":false,"stream_options":null,"user":"","extra":{"temperature":"not ours"}`

// TestBytesToWorkers holds that a worker gets the very bytes that the client
// sent, on every call.
func TestBytesToWorkers(t *testing.T) {
	t.Parallel()
	r, g := record(t)
	tests := []struct{ path, body string }{
		{"/v1/chat/completions", `{` + odd + `,"messages":[{"role":"user","content":"hi","name":null}],"model":"m","temperature":1.0}`},
		{"/v1/chat/completions", `{"messages":[{"content":"hi","role":"user"}],` + odd + `,"\u006dodel":"\u006d"}` + "\n"},
		{"/v1/completions", `{"prompt":[1,2,3],` + odd + `,"model":"m"}`},
		{"/v1/responses", `{"input":[{"type":"something new"}],` + odd + `,"model":"m"}`},
		{"/v1/messages", `{"model":"m","max_tokens":1e1,` + odd + `,"messages":[{"role":"user","content":"hi"}]}`},
		{"/v1/messages/count_tokens", `{"model":"m",` + odd + `,"messages":[{"role":"user","content":"hi"}]}`},
		{"/v1/embeddings", `{"input":"x",` + odd + `,"model":"m","dimensions":8.0}`},
		{"/v1/classify", `{"input":["x"],` + odd + `,"model":"m"}`},
		{"/v1/rerank", `{"query":"x",` + odd + `,"documents":["y"],"model":"m"}`},
		{"/generate", `{` + odd + `,"sampling_params":{"top_p":1.0}}`},
		{"/v1/chat/completions", `{"user":"a","model":"m","user":"b","messages":[{"role":"user","role":"system","content":"hi"}],"stop":1,"stop":2}`}, // twice, and nothing to the gateway
	}
	for _, test := range tests {
		res, answer := post(t, g.URL+test.path, test.body)
		path, _, body := r.last()
		if res.StatusCode != 200 || path != test.path {
			t.Errorf("%s: %d %s, the worker was asked for %s", test.path, res.StatusCode, answer, path)
		}
		if body != test.body {
			t.Errorf("%s: the client sent\n%s\nand the worker got\n%s", test.path, test.body, body)
		}
	}
}

// TestWhatStandsTwice holds that no worker gets a body of which the gateway may
// have read another part than the worker will.
func TestWhatStandsTwice(t *testing.T) {
	t.Parallel()
	r, g := record(t)
	const messages = `"messages":[{"role":"user","content":"hi"}]`
	for _, test := range []struct{ path, body, key string }{
		{"/v1/chat/completions", `{"model":"m",` + messages + `,"model":"n"}`, "model"},
		{"/v1/chat/completions", `{"model":"m",` + messages + `,"mod\u0065l":"m"}`, "model"},
		{"/v1/chat/completions", `{"model":"m","stream":false,` + messages + `,"stream":true}`, "stream"},
		{"/v1/chat/completions", `{"model":"m",` + messages + `,` + messages + `}`, "messages"},
		{"/v1/chat/completions", `{"model":"m","tools":[],` + messages + `,"tools":[{}]}`, "tools"},
		{"/v1/completions", `{"model":"m","prompt":"a","prompt":"b"}`, "prompt"},
		{"/v1/responses", `{"model":"m","input":"a","instructions":"x","instructions":"y"}`, "instructions"},
		{"/v1/messages", `{"model":"m","max_tokens":1,"system":"a",` + messages + `,"system":null}`, "system"},
		{"/v1/embeddings", `{"model":"m","input":"a","input":"b"}`, "input"},
		{"/v1/rerank", `{"model":"m","query":"a","documents":[],"query":"b"}`, "query"},
		{"/generate", `{"text":"a","text":"b"}`, "text"},
	} {
		res, answer := post(t, g.URL+test.path, test.body)
		if res.StatusCode != 400 || !strings.Contains(answer, test.key) || !strings.Contains(answer, "stands twice") {
			t.Errorf("%s %s: %d %s, want 400 that names %s", test.path, test.body, res.StatusCode, answer, test.key)
		}
	}
	if path, _, body := r.last(); body != "" {
		t.Errorf("a worker got %s at %s", body, path)
	}
}

// TestBytesOfSDKs holds the same of what an SDK sends, with fields of its
// user's own.
func TestBytesOfSDKs(t *testing.T) {
	t.Parallel()
	r, g := record(t)
	sent := ""
	c := openAI(g.URL, option.WithMiddleware(func(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		sent = string(b)
		req.Body = io.NopCloser(strings.NewReader(sent))
		return next(req)
	}))
	p := offering("hi")
	p.Temperature, p.TopP = openai.Float(1), openai.Float(0.10)
	if _, err := c.Chat.Completions.New(within(t), p, option.WithJSONSet("regex", `^\d+<&>$`), option.WithJSONSet("chat_template_kwargs.enable_thinking", true)); err != nil {
		t.Fatal(err)
	}
	if _, _, body := r.last(); body != sent || !strings.Contains(sent, "chat_template_kwargs") {
		t.Errorf("the SDK sent\n%s\nand the worker got\n%s", sent, body)
	}
}

// TestBytesToClients holds that a client gets the very bytes that the worker
// answered, good or bad.
func TestBytesToClients(t *testing.T) {
	t.Parallel()
	r, g := record(t)
	const (
		sse  = "text/event-stream; charset=utf-8"
		json = "application/json"
	)
	stream := ": a comment\r\n\r\nid: 7\nretry: 10\ndata: {\"a\":1.0,\"choices\":[{\"delta\":{\"content\":\"caf\\u00e9\"}}]}\n\n" +
		"data: first\ndata: second\n\n:\n\nevent: odd\ndata:{\"usage\":{\"prompt_tokens\":1.0e0}}\n\ndata: [DONE]\n\n"
	chat := `{"model":"m","messages":[{"role":"user","content":"hi"}]}`
	tests := []struct {
		name, path, body string
		status           int
		kind, answer     string
	}{
		{"an answer", "/v1/chat/completions", chat, 200, json, `{` + odd + `,"choices":[]}` + "\n"},
		{"a stream", "/v1/chat/completions", `{"stream":true,` + chat[1:], 200, sse, stream},
		{"a stream that nobody asked for", "/v1/chat/completions", chat, 200, sse, stream},
		{"another good status", "/v1/embeddings", `{"model":"m","input":"x"}`, 201, json, `{` + odd + `}`},
		{"the client's fault", "/v1/chat/completions", chat, 400, json, `{"object":"error","message":"no","code":400,` + odd + `}`},
		{"a fault in words", "/v1/completions", `{"model":"m","prompt":"x"}`, 422, "text/plain", "no, " + odd},
		{"the worker's fault", "/v1/chat/completions", chat, 500, json, `{"error":{"message":"no","code":5.0e2},` + odd + `}`},
		{"too much", "/v1/chat/completions", chat, 429, json, `{` + odd + `}`},
		{"a list of ranks in an object", "/v1/rerank", `{"model":"m","query":"x","documents":["y"]}`, 200, json, `{"results":[],` + odd + `}`},
		{"an Anthropic answer", "/v1/messages", chat, 200, json, `{"type":"message",` + odd + `}`},
		{"an Anthropic error", "/v1/messages", chat, 400, json, `{"type":"error","error":{"type":"invalid_request_error","message":"no"},` + odd + `}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r.say(test.status, test.kind, test.answer)
			res, answer := post(t, g.URL+test.path, test.body)
			if res.StatusCode != test.status || res.Header.Get("Content-Type") != test.kind {
				t.Errorf("got %d %s, want %d %s", res.StatusCode, res.Header.Get("Content-Type"), test.status, test.kind)
			}
			if answer != test.answer {
				t.Errorf("the worker said\n%s\nand the client got\n%s", test.answer, answer)
			}
			if res.Header.Get("X-Engine-Says") != "hello" {
				t.Error("the worker's header is lost")
			}
			if ids := res.Header.Values("X-Request-Id"); len(ids) != 1 || ids[0] == "the worker's own" {
				t.Errorf("x-request-id is %q, want the gateway's", ids)
			}
		})
	}
}

// TestRequestIDs holds that one id names a request to client and worker.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	r, g := record(t)
	c := openAI(g.URL)
	for _, test := range []struct{ name, field, value, want string }{
		{"the client's", "X-Request-Id", "my-id.1", "my-id.1"},
		{"of another name", "X-Correlation-Id", "my-id.2", "my-id.2"},
		{"made up", "X-Unrelated", "x", ""},
		{"one that is no id", "X-Request-Id", "two words", ""},
		{"one that is too long", "X-Request-Id", strings.Repeat("x", 129), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var res *http.Response
			if _, err := c.Chat.Completions.New(within(t), asking("hi"), option.WithHeader(test.field, test.value), option.WithResponseInto(&res)); err != nil {
				t.Fatal(err)
			}
			_, header, _ := r.last()
			got := res.Header.Get("X-Request-Id")
			if up := header.Get("X-Request-Id"); up != got {
				t.Errorf("the client has the id %q, the worker %q", got, up)
			}
			if test.want == "" && !strings.HasPrefix(got, "chatcmpl-") || test.want != "" && got != test.want {
				t.Errorf("the id is %q, want %q", got, test.want)
			}
		})
	}
	a := claude(g.URL)
	_, err := a.Messages.New(within(t), saying("hi"))
	if err != nil {
		t.Fatal(err)
	}
	_, header, _ := r.last()
	if header.Get("Anthropic-Version") == "" {
		t.Errorf("the worker is not told the version: %v", header)
	}
	if header.Get("X-Api-Key") != "" {
		t.Error("the client's x-api-key went on to the worker")
	}
}
