package bench

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/kit/secret"
)

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	c := Config{
		URL: "ftp://x", Endpoint: "chats", Headers: []string{"no colon", "Host: x", "A: b\nc"}, APIKey: secret.New("a\nb"),
		Concurrency: -1, Rate: -2, Arrival: "burst", Duration: -time.Second, Requests: -1, PromptTokens: 0, OutputTokens: 1 << 30,
		SharedPrefix: 5, PID: -1, Connections: -1, TraceBlock: -1,
	}
	err := c.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`endpoint "chats"`, `url scheme "ftp"`, "model is missing", "not written name:value", `header "Host"`, `header "A"`, "api-key",
		"concurrency -1", "rate -2", `arrival "burst"`, "max-in-flight 0", "duration and warmup", "requests and max-errors", "timeout 0s",
		"connections", "pid", "prompt-tokens 0", "output-tokens 1073741824", "shared-prefix-tokens 5", "prefixes 0", "trace-speed 0", "trace-block-tokens -1",
	} {
		has(t, "error", err.Error(), want)
	}
	if strings.Contains(err.Error(), "no colon") {
		t.Errorf("a header that may hold a secret shows: %v", err)
	}
}

func TestFaultsOfTwoSettings(t *testing.T) {
	f := func(want string, change func(*Config)) {
		t.Helper()
		if err := config(change).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("exclude each other", func(c *Config) { c.Concurrency, c.Rate = 1, 1 })
	f("not possible with endpoint embeddings", func(c *Config) { c.Endpoint, c.Stream = "embeddings", true })
	if err := config(nil).Validate(); err != nil {
		t.Error(err)
	}
}

func TestEverySettingHasItsTags(t *testing.T) {
	for f := range reflect.TypeFor[Config]().Fields() {
		for _, tag := range []string{"yaml", "flag", "help"} {
			if f.Tag.Get(tag) == "" {
				t.Errorf("%s has no %s tag", f.Name, tag)
			}
		}
	}
}

func TestTargetURL(t *testing.T) {
	f := func(raw string, e infer.Endpoint, want string) {
		t.Helper()
		u, err := targetURL(raw, e)
		got := ""
		if err != nil {
			got = "error: " + err.Error()
		} else {
			got = u.String()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
	f("http://h:1", infer.Chat, "http://h:1/v1/chat/completions")
	f("http://h:1/", infer.Chat, "http://h:1/v1/chat/completions")
	f("h:1", infer.Generate, "http://h:1/generate")
	f("127.0.0.1:30000", infer.Chat, "http://127.0.0.1:30000/v1/chat/completions")
	f("[::1]:30000", infer.Chat, "http://[::1]:30000/v1/chat/completions")
	f("https://h/v1", infer.Messages, "https://h/v1/messages")
	f("https://h/v1/", infer.Messages, "https://h/v1/messages")
	f("https://h/v1", infer.Generate, "https://h/generate")
	f("https://h/team/v1", infer.Chat, "https://h/team/v1/chat/completions")
	f("https://h/team/", infer.Chat, "https://h/team/v1/chat/completions")
	f("https://h/team/ask?v=2", infer.Chat, "https://h/team/ask?v=2")
	f("http://h/v1/chat/completions", infer.Chat, "http://h/v1/chat/completions")
	f("", infer.Chat, "error: url is missing")
	f("http://", infer.Chat, "error: url \"http:\" names no host")
	f("http://h:99999", infer.Chat, "error: url port")
	f("http://u:p@h", infer.Chat, "error: url must not hold a user")
	f("http://h/\x7f", infer.Chat, "error: reading url: net/url: invalid control character")
	f("unix:///x", infer.Chat, "error: url scheme")
}

func TestHeadersGoOut(t *testing.T) {
	c := config(func(c *Config) {
		c.APIKey, c.Headers = secret.New("k"), []string{"x-a: 1", "X-A:2", "user-agent: me"}
	})
	h := requestHeader(c, infer.Messages)
	if h.Get("Authorization") != "Bearer k" || h.Get("X-Api-Key") != "k" || h.Get("Anthropic-Version") == "" ||
		strings.Join(h["X-A"], ",") != "1,2" || h.Get("User-Agent") != "me" {
		t.Errorf("%v", h)
	}
}
