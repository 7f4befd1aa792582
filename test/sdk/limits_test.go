package sdk

import (
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"sluice/test/program"
)

// TestKeys holds that each SDK's own way to send a key is understood, that a
// wrong one is refused in its own error, and that the engines get the key.
func TestKeys(t *testing.T) {
	t.Parallel()
	const key = "sk-the-right-one"
	g, _ := program.Fleet(t, 1, []string{"--model", model, "--api-key", key}, []string{"--api-key", key})

	right := openAI(g.URL, option.WithAPIKey(key))
	if _, err := right.Chat.Completions.New(within(t), asking("hi")); err != nil {
		t.Errorf("the right key: %v", err)
	}
	wrong := openAI(g.URL)
	_, err := wrong.Chat.Completions.New(within(t), asking("hi"))
	if e := openAIError(t, err); e.StatusCode != 401 || e.Code != "invalid_api_key" || e.Type != "invalid_request_error" || strings.Contains(e.RawJSON(), key) {
		t.Errorf("a wrong key: got %d %s", e.StatusCode, e.RawJSON())
	} else if got := e.Response.Header.Get("WWW-Authenticate"); got != `Bearer realm="data-plane"` {
		t.Errorf("WWW-Authenticate is %q", got)
	}
	s := wrong.Chat.Completions.NewStreaming(within(t), asking("hi"))
	if s.Next() || openAIError(t, s.Err()).StatusCode != 401 {
		t.Errorf("a stream with a wrong key: %v", s.Err())
	}
	if _, err := wrong.Models.List(within(t)); err != nil {
		t.Errorf("models are public: %v", err)
	}

	for name, c := range map[string]anthropic.Client{
		"x-api-key": claude(g.URL, anthropicoption.WithAPIKey(key)),
		"bearer":    anthropic.NewClient(anthropicoption.WithBaseURL(g.URL), anthropicoption.WithAuthToken(key), anthropicoption.WithMaxRetries(0)),
	} {
		if _, err := c.Messages.New(within(t), saying("hi")); err != nil {
			t.Errorf("Anthropic's %s: %v", name, err)
		}
	}
	stranger := claude(g.URL)
	_, err = stranger.Messages.New(within(t), saying("hi"))
	if e := anthropicError(t, err); e.StatusCode != 401 || e.Type() != "authentication_error" || e.RequestID == "" {
		t.Errorf("a wrong x-api-key: got %d %s, id %q", e.StatusCode, e.RawJSON(), e.RequestID)
	}
}

// TestLimits holds that a body over the limit is refused in each SDK's error,
// and one that is not is served.
func TestLimits(t *testing.T) {
	t.Parallel()
	g, _ := program.Fleet(t, 1, []string{"--model", model}, []string{"--max-payload-size", "4096"})
	f := &fleet{openai: openAI(g.URL), anthropic: claude(g.URL)}
	long := strings.Repeat("word ", 4096)
	_, err := f.openai.Chat.Completions.New(within(t), asking(long))
	if e := openAIError(t, err); e.StatusCode != 413 || e.Code != "request_body_too_large" || e.Type != "invalid_request_error" {
		t.Errorf("got %d %s", e.StatusCode, e.RawJSON())
	}
	_, err = f.anthropic.Messages.New(within(t), saying(long))
	if e := anthropicError(t, err); e.StatusCode != 413 || e.Type() != "request_too_large" {
		t.Errorf("got %d %s", e.StatusCode, e.RawJSON())
	}
	answered(t, f, asking(long[:2048]))
}

// TestNobody holds what clients are told when there is no worker to ask.
func TestNobody(t *testing.T) {
	t.Parallel()
	g := program.Serve(t)
	o, a := openAI(g.URL), claude(g.URL)
	_, err := o.Chat.Completions.New(within(t), asking("hi"))
	if e := openAIError(t, err); e.StatusCode != 503 || e.Code != "no_workers" || e.Type != "server_error" || e.Response.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %s", e.StatusCode, e.RawJSON())
	}
	_, err = a.Messages.New(within(t), saying("hi"))
	if e := anthropicError(t, err); e.StatusCode != 503 || e.Type() != "overloaded_error" {
		t.Errorf("got %d %s", e.StatusCode, e.RawJSON())
	}
}

// TestOneModel holds that SGLang's own calls need no model where there is one
// only.
func TestOneModel(t *testing.T) {
	t.Parallel()
	g, _ := program.Fleet(t, 1, []string{"--model", "only"}, nil)
	var one generated
	ok(t, g.URL+"/generate", `{"text":"a b c"}`, &one)
	if one.Text == "" {
		t.Errorf("got %+v", one)
	}
	var list ranked
	ok(t, g.URL+"/v1/rerank", `{"query":"q","documents":["a","b"],"rid":"r1"}`, &list)
	if len(list.Results) != 2 || list.Model != "only" {
		t.Errorf("got %+v", list)
	}
	c := openAI(g.URL)
	_, err := c.Chat.Completions.New(within(t), openai.ChatCompletionNewParams{Messages: asking("hi").Messages})
	if e := openAIError(t, err); e.StatusCode != 400 || e.Param != "model" {
		t.Errorf("OpenAI's calls need a model: got %d %s", e.StatusCode, e.RawJSON())
	}
}
