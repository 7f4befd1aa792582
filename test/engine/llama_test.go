package engine

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/responses"

	"sluice/test/program"
)

// TestAnswers asks for everything that the engine has, through the SDKs.
func TestAnswers(t *testing.T) {
	l := launch(t, "")
	g := serve(t, l)
	c := client(g)
	t.Run("models", func(t *testing.T) { models(t, g, c) })
	t.Run("chat", func(t *testing.T) { chat(t, c) })
	t.Run("chat stream", func(t *testing.T) { chatStream(t, c) })
	t.Run("completions", func(t *testing.T) { completions(t, c) })
	t.Run("responses", func(t *testing.T) { response(t, c) })
	t.Run("messages", func(t *testing.T) { messages(t, g) })
	t.Run("in quick turns", func(t *testing.T) { quickTurns(t, c) })
	t.Run("cached tokens", func(t *testing.T) { cached(t, c) })
	t.Run("unknown model", func(t *testing.T) { unknownModel(t, l, c) })
	t.Run("errors pass", func(t *testing.T) { errorsPass(t, l, g, c) })
}

func models(t *testing.T, g *program.Gateway, c openai.Client) {
	page, err := c.Models.List(within(t))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range page.Data {
		ids = append(ids, m.ID)
	}
	if !slices.Equal(ids, []string{model}) {
		t.Errorf("got the models %q, want what the engine says it serves", ids)
	}
	if m, err := c.Models.Get(within(t), model); err != nil || m.ID != model {
		t.Errorf("got %v, %v", m, err)
	}
	var list struct {
		Workers []struct {
			ModelID string `json:"model_id"`
			Healthy bool   `json:"is_healthy"`
		}
	}
	_, body := program.Get(t, g.URL+"/workers")
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Workers) != 1 || list.Workers[0].ModelID != model || !list.Workers[0].Healthy {
		t.Errorf("GET /workers: %v in %s", err, body)
	}
}

func chat(t *testing.T, c openai.Client) {
	a, err := c.Chat.Completions.New(within(t), asking("the word of the user", 16), wholly)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Choices) != 1 || a.Choices[0].Message.Role != "assistant" || a.Choices[0].FinishReason != "length" || a.Model != model {
		t.Errorf("got %s", a.RawJSON())
	}
	if u := a.Usage; u.CompletionTokens != 16 || u.PromptTokens == 0 || u.TotalTokens != u.PromptTokens+16 {
		t.Errorf("the usage is %s", u.RawJSON())
	}
}

func chatStream(t *testing.T, c openai.Client) {
	p := asking("the word of the user", 64)
	p.StreamOptions.IncludeUsage = openai.Bool(true)
	s := c.Chat.Completions.NewStreaming(within(t), p, wholly)
	var acc openai.ChatCompletionAccumulator
	n := 0
	for ; s.Next(); n++ {
		if !acc.AddChunk(s.Current()) {
			t.Fatalf("the chunk does not fit those before it: %s", s.Current().RawJSON())
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if len(acc.Choices) != 1 || acc.Choices[0].FinishReason != "length" || acc.Usage.CompletionTokens != 64 || n < 3 {
		t.Errorf("%d chunks: %d choices, %s", n, len(acc.Choices), acc.Usage.RawJSON())
	}
}

// quickTurns sends each request the moment the one before has ended. llama.cpp
// closes a connection after a stream without saying so; no request may meet
// one that is about to be closed.
func quickTurns(t *testing.T, c openai.Client) {
	for range 200 {
		s := c.Chat.Completions.NewStreaming(within(t), asking("the", 2))
		for s.Next() {
		}
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
		if _, err := c.Chat.Completions.New(within(t), asking("the", 2)); err != nil {
			t.Fatal(err)
		}
	}
}

func completions(t *testing.T, c openai.Client) {
	p := openai.CompletionNewParams{Model: model, MaxTokens: openai.Int(8), Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("the word")}}
	a, err := c.Completions.New(within(t), p, wholly)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Choices) != 1 || a.Choices[0].FinishReason != "length" || a.Usage.CompletionTokens != 8 {
		t.Errorf("got %s", a.RawJSON())
	}
	s := c.Completions.NewStreaming(within(t), p, wholly)
	finish := openai.CompletionChoiceFinishReason("")
	for s.Next() {
		for _, ch := range s.Current().Choices {
			if ch.FinishReason != "" {
				finish = ch.FinishReason
			}
		}
	}
	if s.Err() != nil || finish != "length" {
		t.Errorf("the stream ended by %q with %v", finish, s.Err())
	}
}

func response(t *testing.T, c openai.Client) {
	p := responses.ResponseNewParams{
		Model: model, MaxOutputTokens: openai.Int(8),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("the word")},
	}
	r, err := c.Responses.New(within(t), p)
	if err != nil {
		t.Fatal(err)
	}
	if r.ID == "" || r.Object != "response" || r.Usage.InputTokens == 0 {
		t.Errorf("got %s", r.RawJSON())
	}
	s := c.Responses.NewStreaming(within(t), p)
	last := ""
	for s.Next() {
		last = s.Current().Type
	}
	if s.Err() != nil || last != "response.completed" && last != "response.incomplete" {
		t.Errorf("the stream ended by %q with %v", last, s.Err())
	}
}

func messages(t *testing.T, g *program.Gateway) {
	c := anthropic.NewClient(anthropicoption.WithBaseURL(g.URL), anthropicoption.WithAPIKey("unused"), anthropicoption.WithMaxRetries(0))
	p := anthropic.MessageNewParams{
		Model: model, MaxTokens: 8,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("the word of the user"))},
	}
	m, err := c.Messages.New(within(t), p)
	if err != nil {
		t.Fatal(err)
	}
	if m.Type != "message" || m.StopReason == "" || m.Usage.InputTokens+m.Usage.CacheReadInputTokens == 0 {
		t.Errorf("got %s", m.RawJSON())
	}
	s := c.Messages.NewStreaming(within(t), p)
	var acc anthropic.Message
	last := ""
	for s.Next() {
		if err := acc.Accumulate(s.Current()); err != nil {
			t.Fatal(err)
		}
		last = s.Current().Type
	}
	if s.Err() != nil || last != "message_stop" || acc.StopReason == "" {
		t.Errorf("the stream ended by %q, %s, with %v", last, acc.StopReason, s.Err())
	}
	n, err := c.Messages.CountTokens(within(t), anthropic.MessageCountTokensParams{Model: model, Messages: p.Messages})
	if err != nil || n.InputTokens == 0 {
		t.Errorf("count_tokens: %v, %v", n, err)
	}
	p.Messages = []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(strings.Repeat("word ", 40000)))}
	_, err = c.Messages.New(within(t), p)
	var e *anthropic.Error
	if !errors.As(err, &e) || e.StatusCode != 400 || e.Type() != "invalid_request_error" || e.RequestID == "" {
		t.Errorf("a prompt that is too long: got %v, want Anthropic's error", err)
	}
}

// cached holds that a prompt that comes again is not computed again, and that
// the client is told.
func cached(t *testing.T, c openai.Client) {
	p := asking("of the cache: "+strings.Repeat("the word and the word of ", 100), 4)
	for i := range 2 {
		a, err := c.Chat.Completions.New(within(t), p, wholly)
		if err != nil {
			t.Fatal(err)
		}
		got, all := a.Usage.PromptTokensDetails.CachedTokens, a.Usage.PromptTokens
		if i == 0 && got > all/2 || i == 1 && got < all/2 {
			t.Errorf("request %d: %d of %d tokens were cached", i+1, got, all)
		}
	}
}

// unknownModel holds that the gateway knows better than the engine, which
// serves any name.
func unknownModel(t *testing.T, l *llama, c openai.Client) {
	if status, answer := post(t, l.url+"/v1/chat/completions", `{"model":"nobody","max_tokens":1,"messages":[{"role":"user","content":"x"}]}`); status != 200 {
		t.Logf("the engine has learned to refuse unknown models: %d %s", status, answer)
	}
	p := asking("who", 1)
	p.Model = "nobody"
	_, err := c.Chat.Completions.New(within(t), p)
	var e *openai.Error
	if !errors.As(err, &e) || e.StatusCode != 404 || e.Code != "model_not_found" {
		t.Errorf("got %v, want 404 model_not_found", err)
	}
}

// errorsPass holds that what the engine refuses reaches the client in the
// engine's own words.
func errorsPass(t *testing.T, l *llama, g *program.Gateway, c openai.Client) {
	for _, body := range []string{
		`{"model":"tiny","prompt":{}}`,
		`{"model":"tiny"}`,
		`{"model":"tiny","prompt":"x","n_predict":"many"}`,
		`{"model":"tiny","prompt":"x","grammar":"not a grammar"}`,
	} {
		want, words := post(t, l.url+"/v1/completions", body)
		status, answer := post(t, g.URL+"/v1/completions", body)
		if want < 400 {
			t.Errorf("%s: the engine takes it: %d", body, want)
		}
		if status != want || answer != words {
			t.Errorf("%s: got %d %s, the engine says %d %s", body, status, answer, want, words)
		}
	}
	_, err := c.Chat.Completions.New(within(t), asking(strings.Repeat("word ", 40000), 1))
	var e *openai.Error
	if !errors.As(err, &e) || e.StatusCode != 400 || e.Type != "exceed_context_size_error" {
		t.Errorf("a prompt that is too long: got %v, want the engine's error", err)
	}
}

// TestEmbeddings asks an engine that embeds.
func TestEmbeddings(t *testing.T) {
	l := launch(t, "embedding")
	c := client(serve(t, l))
	p := openai.EmbeddingNewParams{Model: model, Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"the word", "of the user"}}}
	r, err := c.Embeddings.New(within(t), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Data) != 2 || len(r.Data[0].Embedding) == 0 || r.Usage.PromptTokens == 0 {
		t.Errorf("got %.300s", r.RawJSON())
	}
	p.EncodingFormat = openai.EmbeddingNewParamsEncodingFormatBase64
	if r, err = c.Embeddings.New(within(t), p); err != nil || len(r.Data) != 2 || !strings.HasPrefix(r.Data[0].JSON.Embedding.Raw(), `"`) {
		t.Errorf("base64: %v, %v", err, r)
	}
}

// TestCancel holds that an engine stops when its client leaves, in a stream and
// before an answer.
func TestCancel(t *testing.T) {
	l := launch(t, "")
	c := client(serve(t, l))
	t.Run("stream", func(t *testing.T) {
		before := l.made(t)
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		s := c.Chat.Completions.NewStreaming(ctx, asking("go on", endless), wholly)
		for range 3 {
			if !s.Next() {
				t.Fatalf("the stream ended: %v", s.Err())
			}
		}
		cancel()
		l.stops(t, before, 10*time.Millisecond)
	})
	t.Run("unary", func(t *testing.T) {
		before := l.made(t)
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		done := make(chan error, 1)
		go func() {
			_, err := c.Chat.Completions.New(ctx, asking("go on", endless), wholly)
			done <- err
		}()
		program.Eventually(t, "the engine works", func() bool { return l.busy(t) > 0 })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the client got %v", err)
		}
		// llama.cpp looks after the connection of such a request when nothing
		// has happened for a second, and being asked for its slots is something.
		l.stops(t, before, 1500*time.Millisecond)
	})
}

// stops waits until l is idle, looking again after each pause, and holds that
// it did not make all the tokens that it was asked for.
func (l *llama) stops(t *testing.T, before float64, pause time.Duration) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	again := time.NewTicker(pause)
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatal("the engine works on, ten seconds after its client left")
		}
		if l.busy(t) == 0 {
			break
		}
	}
	if n := l.made(t) - before; n >= endless {
		t.Errorf("the engine made all %g tokens", n)
	}
}

// idle is more than the five seconds for which llama.cpp keeps a connection
// that nobody uses.
const idle = 6 * time.Second

// TestKeepAlive holds that a connection that the engine has closed meanwhile
// costs no request, whether the gateway keeps connections longer than the
// engine or not.
func TestKeepAlive(t *testing.T) {
	l := launch(t, "")
	clients := []openai.Client{client(serve(t, l)), client(serve(t, l, "--upstream-pool-idle-timeout-secs", "60", "--disable-retries"))}
	for round := range 2 {
		if round > 0 {
			<-time.After(idle) // which is what is tested
		}
		for i, c := range clients {
			if _, err := c.Chat.Completions.New(within(t), asking("hi", 2)); err != nil {
				t.Errorf("gateway %d, round %d: %v", i, round, err)
			}
		}
	}
}

// TestCrash kills the engine within a stream and brings it back.
func TestCrash(t *testing.T) {
	l := launch(t, "")
	g := serve(t, l)
	c := client(g)
	s := c.Chat.Completions.NewStreaming(within(t), asking("go on", endless), wholly)
	for range 3 {
		if !s.Next() {
			t.Fatalf("the stream ended: %v", s.Err())
		}
	}
	l.kill(t)
	for s.Next() {
	}
	var broken *ssestream.StreamError
	if !errors.As(s.Err(), &broken) || !strings.Contains(broken.Message, "call_upstream_body_error") {
		t.Errorf("the engine was killed: the stream ended with %v, want the gateway's error event", s.Err())
	}
	_, err := c.Chat.Completions.New(within(t), asking("hi", 2))
	var e *openai.Error
	if !errors.As(err, &e) || e.StatusCode != 502 && e.StatusCode != 503 {
		t.Errorf("without an engine: got %v, want 502 or 503", err)
	}
	program.Eventually(t, "the gateway is not ready", func() bool {
		status, _ := program.Get(t, g.URL+"/readiness")
		return status == 503
	})
	l.start(t)
	g.WaitReady(t, 1)
	if _, err := c.Chat.Completions.New(within(t), asking("hi", 2), option.WithMaxRetries(0)); err != nil {
		t.Errorf("the engine is back: %v", err)
	}
}
