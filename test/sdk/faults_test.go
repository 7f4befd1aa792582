package sdk

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"

	"sluice/internal/kit/bubble"
	"sluice/test/program"
)

var faultChecks = []check{
	{"openai/refusals", openAIRefusals},
	{"openai/statuses of workers", openAIStatuses},
	{"openai/lost answers", openAILost},
	{"openai/broken streams", openAIBroken},
	{"openai/nonsense in a stream", openAINonsense},
	{"anthropic/refusals", anthropicRefusals},
	{"anthropic/statuses of workers", anthropicStatuses},
	{"anthropic/broken streams", anthropicBroken},
}

// meeting is a chat that meets a fault at whichever engine it reaches.
func meeting(fault string) openai.ChatCompletionNewParams {
	p := asking("what if")
	p.User = openai.String("mock:" + fault)
	return p
}

// suffering is a message that meets a fault at whichever engine it reaches.
func suffering(fault string) anthropic.MessageNewParams {
	p := saying("what if")
	p.Metadata = anthropic.MetadataParam{UserID: anthropic.String("mock:" + fault)}
	return p
}

// openAIRefusals are the gateway's own: no worker is asked.
func openAIRefusals(t *testing.T, f *fleet) {
	chat := func(change func(*openai.ChatCompletionNewParams)) error {
		p := asking("hi")
		change(&p)
		_, err := f.openai.Chat.Completions.New(within(t), p)
		return err
	}
	tests := []struct {
		name   string
		err    error
		status int
		code   string
		param  string
	}{
		{"unknown model", chat(func(p *openai.ChatCompletionNewParams) { p.Model = "nobody" }), 404, "model_not_found", ""},
		{"no model", chat(func(p *openai.ChatCompletionNewParams) { p.Model = "" }), 400, "missing_required_parameter", "model"},
		{"no messages", chat(func(p *openai.ChatCompletionNewParams) { p.Messages = nil }), 400, "missing_required_parameter", "messages"},
		{"empty messages", chat(func(p *openai.ChatCompletionNewParams) { p.Messages = []openai.ChatCompletionMessageParamUnion{} }), 400, "empty_array", "messages"},
		{"too warm", chat(func(p *openai.ChatCompletionNewParams) { p.Temperature = openai.Float(2.5) }), 400, "decimal_above_max_value", "temperature"},
		{"no such call", f.openai.Get(within(t), "nothing/here", nil, nil), 404, "unknown_url", ""},
		{"no such method", f.openai.Delete(within(t), "chat/completions", nil, nil), 405, "method_not_allowed", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := openAIError(t, test.err)
			if e.StatusCode != test.status || e.Code != test.code || e.Param != test.param || e.Type != "invalid_request_error" || e.Message == "" {
				t.Errorf("got %d %s, want %d %s %s", e.StatusCode, e.RawJSON(), test.status, test.code, test.param)
			}
			if got := e.Response.Header.Get("X-Smg-Error-Code"); got != test.code {
				t.Errorf("x-smg-error-code is %q, want %q", got, test.code)
			}
			if e.Response.Header.Get("X-Request-Id") == "" {
				t.Error("there is no request id")
			}
		})
	}
	s := f.openai.Chat.Completions.NewStreaming(within(t), openai.ChatCompletionNewParams{Model: "nobody", Messages: asking("hi").Messages})
	if s.Next() {
		t.Error("a stream of a model that nobody serves has begun")
	}
	if e := openAIError(t, s.Err()); e.StatusCode != 404 || e.Code != "model_not_found" {
		t.Errorf("a stream of an unknown model: got %d %s", e.StatusCode, e.RawJSON())
	}
}

// openAIStatuses holds that what all workers refuse reaches the client as they
// said it, and that each was asked once.
func openAIStatuses(t *testing.T, f *fleet) {
	for _, test := range []struct {
		fault      string
		status     int
		asked      int // engines
		retryAfter string
	}{
		{"status=429;retry-after=7", 429, 2, "7"},
		{"status=500", 500, 2, ""},
		{"status=503;retry-after=3", 503, 2, "3"},
		{"status=502", 502, 2, ""},
		{"status=400", 400, 1, ""}, // is the client's fault everywhere
		{"status=422", 422, 1, ""},
	} {
		t.Run(test.fault, func(t *testing.T) {
			id := "id-" + strings.Map(func(r rune) rune {
				if strings.ContainsRune(";=", r) {
					return '-'
				}
				return r
			}, test.fault)
			_, err := f.openai.Chat.Completions.New(within(t), meeting(test.fault), option.WithHeader("X-Request-Id", id))
			e := openAIError(t, err)
			if e.StatusCode != test.status || e.Response.Header.Get("Retry-After") != test.retryAfter || e.Response.Header.Get("X-Request-Id") != id {
				t.Errorf("got %d, %v", e.StatusCode, e.Response.Header)
			}
			asked := f.asked(t, id)
			slices.Sort(asked)
			if asked[0] != test.asked-1 || asked[1] != 1 {
				t.Errorf("the engines were asked %v times, want %d of them once", asked, test.asked)
			}
		})
	}
}

// openAILost loses whole answers at every worker: the client must be told.
func openAILost(t *testing.T, f *fleet) {
	for _, fault := range []string{"reset=before", "reset=headers", "earlyclose", "cut=0", "reset=0"} {
		t.Run(fault, func(t *testing.T) {
			_, err := f.openai.Chat.Completions.New(within(t), meeting(fault))
			if e := openAIError(t, err); e.StatusCode != 502 || !strings.HasPrefix(e.Code, "call_upstream_") || e.Type != "server_error" {
				t.Errorf("got %d %s", e.StatusCode, e.RawJSON())
			}
		})
	}
	// An answer too long to be held has begun when it breaks off: the length
	// that was announced does not come true.
	if c, err := f.openai.Chat.Completions.New(within(t), meeting("short")); err == nil {
		t.Errorf("an answer that is not complete was taken for one: %s", c.RawJSON())
	}
	// A second worker saves what the first lost.
	for range 4 {
		post(t, f.engines[0]+"/mock/fault", `{"spec":"reset=before","count":1}`)
		if _, err := f.openai.Chat.Completions.New(within(t), asking("what if one is lost")); err != nil {
			t.Errorf("one of two workers dropped the request: %v", err)
		}
		req, err := http.NewRequestWithContext(within(t), http.MethodDelete, f.engines[0]+"/mock/fault", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// breaks are ways to break a stream after three events, the first of them
// within the fourth: its half must not be what the SDK reads instead of the
// error.
var breaks = []string{"cut=3", "reset=3", "garbage=3"}

// wantBroken holds the end of a stream that broke to an error that says so.
func wantBroken(t *testing.T, err error, pieces int) {
	t.Helper()
	var broken *ssestream.StreamError
	if !errors.As(err, &broken) {
		t.Fatalf("after %d pieces the stream ended with %v (%T), want the gateway's error event", pieces, err, err)
	}
	for _, want := range []string{`"type":"stream_error"`, `"code":"call_upstream_body_error"`} {
		if !strings.Contains(string(broken.Event.Data), want) {
			t.Errorf("the error event has no %s: %s", want, broken.Event.Data)
		}
	}
	if pieces == 0 {
		t.Error("nothing came before the error")
	}
}

// openAIBroken breaks every kind of stream: none may look complete.
func openAIBroken(t *testing.T, f *fleet) {
	for _, fault := range breaks {
		t.Run(fault+"/chat", func(t *testing.T) {
			s := f.openai.Chat.Completions.NewStreaming(within(t), meeting(fault))
			n := 0
			for ; s.Next(); n++ {
			}
			wantBroken(t, s.Err(), n)
		})
		t.Run(fault+"/completions", func(t *testing.T) {
			p := continuing("what if")
			p.User = openai.String("mock:" + fault)
			s := f.openai.Completions.NewStreaming(within(t), p)
			n := 0
			for ; s.Next(); n++ {
			}
			wantBroken(t, s.Err(), n)
		})
		t.Run(fault+"/responses", func(t *testing.T) {
			s := f.openai.Responses.NewStreaming(within(t), wanting("what if"), option.WithJSONSet("user", "mock:"+fault))
			n := 0
			for ; s.Next(); n++ {
			}
			wantBroken(t, s.Err(), n)
		})
		t.Run(fault+"/raw", func(t *testing.T) {
			res, body := post(t, f.gateway.URL+"/v1/chat/completions", `{"model":"m","stream":true,"user":"mock:`+fault+`","messages":[{"role":"user","content":"x"}]}`)
			if res.StatusCode != 200 || strings.Contains(body, "[DONE]") || !strings.HasSuffix(body, "}}\n\n") || !strings.Contains(body, "\n\ndata: {\"error\":") {
				t.Errorf("got %d\n%s", res.StatusCode, body)
			}
		})
	}
}

// openAINonsense is what no gateway can mend, and none may hide.
func openAINonsense(t *testing.T, f *fleet) {
	s := f.openai.Chat.Completions.NewStreaming(within(t), meeting("badjson=3"))
	n := 0
	for ; s.Next(); n++ {
	}
	if s.Err() == nil || n != 3 {
		t.Errorf("after %d events: %v, want an error at the one that is no JSON", n, s.Err())
	}
}

func anthropicRefusals(t *testing.T, f *fleet) {
	message := func(change func(*anthropic.MessageNewParams)) error {
		p := saying("hi")
		change(&p)
		_, err := f.anthropic.Messages.New(within(t), p, anthropicoption.WithHeader("X-Request-Id", "its-own-id"))
		return err
	}
	tests := []struct {
		name   string
		err    error
		status int
		kind   string
	}{
		{"unknown model", message(func(p *anthropic.MessageNewParams) { p.Model = "nobody" }), 404, "not_found_error"},
		{"empty messages", message(func(p *anthropic.MessageNewParams) { p.Messages = []anthropic.MessageParam{} }), 400, "invalid_request_error"},
		{"what the engine refuses", message(func(p *anthropic.MessageNewParams) { p.MaxTokens = -1 }), 400, "invalid_request_error"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := anthropicError(t, test.err)
			if e.StatusCode != test.status || string(e.Type()) != test.kind {
				t.Errorf("got %d %s %s", e.StatusCode, e.Type(), e.RawJSON())
			}
			if e.RequestID != "its-own-id" {
				t.Errorf("the SDK read the request id %q", e.RequestID)
			}
		})
	}
}

func anthropicStatuses(t *testing.T, f *fleet) {
	for fault, want := range map[string]struct {
		status int
		kind   string
	}{
		"status=429":   {429, "rate_limit_error"},
		"status=500":   {500, "api_error"},
		"status=503":   {503, "overloaded_error"},
		"status=400":   {400, "invalid_request_error"},
		"reset=before": {502, "api_error"},
		"cut=0":        {502, "api_error"},
	} {
		t.Run(fault, func(t *testing.T) {
			_, err := f.anthropic.Messages.New(within(t), suffering(fault))
			if e := anthropicError(t, err); e.StatusCode != want.status || string(e.Type()) != want.kind || e.RequestID == "" {
				t.Errorf("got %d %s, id %q: %s", e.StatusCode, e.Type(), e.RequestID, e.RawJSON())
			}
		})
	}
}

func anthropicBroken(t *testing.T, f *fleet) {
	for _, fault := range breaks {
		t.Run(fault, func(t *testing.T) {
			s := f.anthropic.Messages.NewStreaming(within(t), suffering(fault))
			n := 0
			for ; s.Next(); n++ {
				if s.Current().Type == "message_stop" {
					t.Error("a stream that broke says that it is complete")
				}
			}
			e := anthropicError(t, s.Err())
			if e.Type() != "api_error" || e.RequestID == "" || n == 0 {
				t.Errorf("after %d events: got %s, id %q: %s", n, e.Type(), e.RequestID, e.RawJSON())
			}
		})
	}
}

// TestTimeouts holds that a worker that is silent costs a client the request's
// time, and no more.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	f := start(t, "sglang", "--disable-circuit-breaker", "--request-timeout-secs", "1")
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		_, err := f.openai.Chat.Completions.New(within(t), meeting("never"))
		if e := openAIError(t, err); e.StatusCode != 504 || e.Code != "call_upstream_timeout" || e.Type != "server_error" {
			t.Errorf("got %d %s", e.StatusCode, e.RawJSON())
		}
	})
	t.Run("half a stream", func(t *testing.T) {
		t.Parallel()
		s := f.openai.Chat.Completions.NewStreaming(within(t), meeting("stall=3"))
		n := 0
		for ; s.Next(); n++ {
		}
		var broken *ssestream.StreamError
		if !errors.As(s.Err(), &broken) || !strings.Contains(broken.Message, "call_upstream_timeout") || n != 3 {
			t.Errorf("after %d events: %v, want an error that tells of the timeout", n, s.Err())
		}
	})
	t.Run("half a message", func(t *testing.T) {
		t.Parallel()
		s := f.anthropic.Messages.NewStreaming(within(t), suffering("stall=3"))
		for s.Next() {
		}
		if e := anthropicError(t, s.Err()); e.Type() != "timeout_error" {
			t.Errorf("got %s %s", e.Type(), e.RawJSON())
		}
	})
}

var goneChecks = []check{
	{"gone/chat stream", goneChat},
	{"gone/message stream", goneMessage},
	{"gone/before the answer", goneBefore},
	{"gone/the SDK's own timeout", goneTimeout},
}

// cancelledBy returns once one more request was cancelled at the engines than
// before act, and how long that took on a machine that was awake.
func (f *fleet) cancelledBy(t *testing.T, act func()) time.Duration {
	t.Helper()
	before := f.counts(t).Cancelled
	act()
	watch := bubble.Begin(t)
	program.Eventually(t, "the engine's request is cancelled", func() bool { return f.counts(t).Cancelled > before })
	_, awake := watch.End()
	return awake
}

// promptly is far above the 50 ms that are meant, because the machine may be
// busy, and far below the seconds that the answer would take.
const promptly = 2 * time.Second

func goneChat(t *testing.T, f *fleet) {
	ctx, cancel := context.WithCancel(within(t))
	s := f.openai.Chat.Completions.NewStreaming(ctx, meeting("slow=5ms"))
	if !s.Next() || !s.Next() {
		t.Fatal(s.Err())
	}
	if took := f.cancelledBy(t, cancel); took > promptly {
		t.Errorf("the engine worked on for %s", took)
	}
	for s.Next() {
	}
	if !errors.Is(s.Err(), context.Canceled) {
		t.Errorf("the stream ended with %v", s.Err())
	}
}

func goneMessage(t *testing.T, f *fleet) {
	ctx, cancel := context.WithCancel(within(t))
	s := f.anthropic.Messages.NewStreaming(ctx, suffering("slow=5ms"))
	if !s.Next() {
		t.Fatal(s.Err())
	}
	if took := f.cancelledBy(t, cancel); took > promptly {
		t.Errorf("the engine worked on for %s", took)
	}
}

func goneBefore(t *testing.T, f *fleet) {
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	before := f.counts(t).Requests
	done := make(chan error, 1)
	go func() {
		_, err := f.openai.Chat.Completions.New(ctx, meeting("delay=1m"))
		done <- err
	}()
	program.Eventually(t, "the engine has the request", func() bool { return f.counts(t).Requests > before })
	if took := f.cancelledBy(t, cancel); took > promptly {
		t.Errorf("the engine worked on for %s", took)
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := f.counts(t).Requests; got != before+1 {
		t.Errorf("the engines saw %d requests, want 1", got-before)
	}
}

func goneTimeout(t *testing.T, f *fleet) {
	before := f.counts(t)
	_, err := f.openai.Chat.Completions.New(within(t), meeting("delay=1m"), option.WithRequestTimeout(time.Second))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	watch := bubble.Begin(t)
	program.Eventually(t, "no engine works on it", func() bool {
		c := f.counts(t)
		return c.Cancelled-before.Cancelled == c.Requests-before.Requests // both 0 if the second went by before it was sent on
	})
	if _, took := watch.End(); took > promptly {
		t.Errorf("the engine worked on for %s", took)
	}
}
