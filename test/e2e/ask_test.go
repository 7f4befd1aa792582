package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	chatPath     = "/v1/chat/completions"
	messagesPath = "/v1/messages"
	generatePath = "/generate"
)

// body returns a request of path for model m, with further JSON members.
func body(path string, stream bool, more string) string {
	if more != "" {
		more = "," + more
	}
	prompt := `"messages":[{"role":"user","content":"tell me a story"}],"max_tokens":8`
	switch path {
	case generatePath:
		prompt = `"text":"tell me a story","sampling_params":{"max_new_tokens":8}`
	case "/v1/embeddings", "/v1/responses":
		prompt = `"input":"tell me a story"`
	case "/v1/completions":
		prompt = `"prompt":"tell me a story","max_tokens":8`
	}
	return fmt.Sprintf(`{"model":"m","stream":%v,%s%s}`, stream, prompt, more)
}

// of returns b for another model.
func of(model, b string) string {
	return strings.Replace(b, `"model":"m"`, fmt.Sprintf(`"model":%q`, model), 1)
}

// oneShot is a client without idle connections: every call sees the gateway as
// a new one does.
var oneShot = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       time.Minute,
}

// An answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
	cut    error // why the body ended before its end
}

// ask sends a JSON body, or none, and returns the whole answer. Header fields
// are names and values in turn.
func ask(t testing.TB, method, url, body string, header ...string) answer {
	t.Helper()
	a, err := try(context.WithoutCancel(t.Context()), oneShot, method, url, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// post is ask for a request of a worker.
func post(t testing.TB, base, path, body string, header ...string) answer {
	t.Helper()
	return ask(t, "POST", base+path, body, header...)
}

func try(ctx context.Context, c *http.Client, method, url, body string, header ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if strings.EqualFold(header[i], "Host") {
			req.Host = header[i+1]
			continue
		}
		req.Header[http.CanonicalHeaderKey(header[i])] = []string{header[i+1]}
	}
	res, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(b), err}, nil
}

// refused says which error an answer is, in the words of either dialect:
// "status code" for OpenAI's, "status type" for Anthropic's. A body that is
// neither is an error of the test.
func (a answer) refused(t testing.TB) string {
	t.Helper()
	var e struct {
		Type      string
		Error     struct{ Type, Code, Message string }
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || e.Error.Message == "" || e.Error.Type == "" {
		t.Errorf("%d %q is no error envelope: %v", a.status, a.body, err)
		return ""
	}
	if ct := a.header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("the error's Content-Type is %q", ct)
	}
	if a.header.Get("X-Request-Id") == "" {
		t.Error("the error has no x-request-id")
	}
	if e.Type == "error" {
		if ours := a.header.Get("X-Smg-Error-Code") != ""; ours && e.RequestID == "" {
			t.Errorf("an error in Anthropic's shape has no request_id: %s", a.body)
		}
		return fmt.Sprint(a.status, " ", e.Error.Type)
	}
	if h := a.header.Get("X-Smg-Error-Code"); h != e.Error.Code {
		t.Errorf("x-smg-error-code is %q, and the body says %q", h, e.Error.Code)
	}
	return fmt.Sprint(a.status, " ", e.Error.Code)
}

// An event is one of a stream's.
type event struct{ name, data string }

// events reads a stream. What is not an event is an error of the test.
func events(t testing.TB, s string) []event {
	t.Helper()
	es, err := readEvents(s)
	if err != nil {
		t.Error(err)
	}
	return es
}

func readEvents(s string) ([]event, error) {
	var es []event
	for block := range strings.SplitSeq(s, "\n\n") {
		if block == "" {
			continue
		}
		var e event
		for line := range strings.SplitSeq(block, "\n") {
			switch field, value, _ := strings.Cut(line, ": "); field {
			case "event":
				e.name = value
			case "data":
				e.data += value
			case "", ":": // a comment
			default:
				return es, fmt.Errorf("%.80q is no line of an event", line)
			}
		}
		es = append(es, e)
	}
	return es, nil
}

// lastWords are the types that end a stream of Anthropic's or of Responses.
var lastWords = []string{"message_stop", "response.completed", "response.incomplete", "response.failed"}

// endOf says how a stream ended: "done", "error CODE", or "open" if it just
// stopped. More than one end is an error.
func endOf(es []event) (string, error) {
	end, last := "open", -1
	for i, e := range es {
		var d struct {
			Type  string
			Error *struct{ Type, Code, Message string }
		}
		this := ""
		switch {
		case e.data == "[DONE]":
			this = "done"
		case json.Unmarshal([]byte(e.data), &d) != nil:
			return "", fmt.Errorf("event %d is not JSON: %.120q", i, e.data)
		case slices.Contains(lastWords, d.Type):
			this = "done"
		case d.Error != nil && (e.name == "error" || d.Error.Type == "stream_error"):
			this = "error " + d.Error.Code
			if e.name == "error" {
				this = "error " + d.Error.Type
			}
		}
		if this != "" && last >= 0 {
			return "", fmt.Errorf("the stream ended twice: %q, then %q", end, this)
		}
		if this != "" {
			end, last = this, i
		}
	}
	if last >= 0 && last != len(es)-1 {
		return "", fmt.Errorf("%d events follow the end %q", len(es)-1-last, end)
	}
	return end, nil
}

// state reads what a simulated engine says of itself.
func state(t testing.TB, engine string) (s struct {
	Counts struct{ Requests, Served, Faulted, Cancelled, Killed int }
	Load   struct{ Running, Waiting int }
	IDs    struct {
		Known    int
		Repeated map[string]struct{ Asked, Begun, Served int }
		All      map[string]struct{ Asked, Begun, Served int }
	}
},
) {
	t.Helper()
	a := ask(t, "GET", engine+"/mock/state?ids=all", "")
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatalf("%s/mock/state: %v: %s", engine, err, a.body)
	}
	return s
}

// wantOnce fails if a request id came to an engine more than once.
func wantOnce(t testing.TB, engines []string) {
	t.Helper()
	for _, e := range engines {
		for id, times := range state(t, e).IDs.All {
			if times.Asked > 1 {
				t.Errorf("engine %s was asked %d times for request %s", e, times.Asked, id)
			}
		}
	}
}

// fault makes an engine fail all that infers from now on; "" mends it.
func fault(t testing.TB, engine, spec string, more ...string) {
	t.Helper()
	if spec == "" {
		ask(t, "DELETE", engine+"/mock/fault", "")
		return
	}
	extra := ""
	if len(more) > 0 {
		extra = "," + strings.Join(more, ",")
	}
	a := ask(t, "POST", engine+"/mock/fault", fmt.Sprintf(`{"spec":%q%s}`, spec, extra))
	if a.status != 200 {
		t.Fatalf("setting a fault: %d %s", a.status, a.body)
	}
}
