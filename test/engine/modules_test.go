package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"sluice/test/program"
)

// modules are those of examples/wasm that a fleet of one may have, and a key that
// they let in.
var modules = []string{"api-key", "redact", "request-log"}

const goodKey = "sk-acme-0123456789"

// TestModules puts modules in Rust and Go before a real engine: one that guards the
// door, one that sees each event, one that hears how requests end.
func TestModules(t *testing.T) {
	l := launch(t, "")
	flags := []string{"--enable-wasm"}
	for _, m := range modules {
		flags = append(flags, "--wasm-module", m+"="+example(t, m)+";fail_closed=true;models="+model)
	}
	g := serve(t, l, flags...)
	c := openai.NewClient(option.WithBaseURL(g.URL+"/v1"), option.WithAPIKey(goodKey), option.WithMaxRetries(0))
	t.Run("without a key", func(t *testing.T) { noKey(t, l, g) })
	t.Run("chat", func(t *testing.T) { chat(t, c) })
	t.Run("chat stream", func(t *testing.T) { chatStream(t, c) })
	t.Run("in quick turns", func(t *testing.T) { quickTurns(t, c) })
	t.Run("the same words", func(t *testing.T) { sameWords(t, l, c) })
	t.Run("replaced under a stream", func(t *testing.T) { replaced(t, l, g, c) })
}

// example is the path of a module of examples/wasm.
func example(t *testing.T, name string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join("..", "..", "examples", "wasm", name, name+".wasm"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func noKey(t *testing.T, l *llama, g *program.Gateway) {
	before := l.made(t)
	c := client(g)
	_, err := c.Chat.Completions.New(within(t), asking("the word", 8), wholly)
	if e, ok := errors.AsType[*openai.Error](err); !ok || e.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %v, want 401", err)
	}
	if after := l.made(t); after != before {
		t.Errorf("the engine has made %v tokens for it", after-before)
	}
}

// sameWords compares what is said through the modules with what is said without.
func sameWords(t *testing.T, l *llama, c openai.Client) {
	direct := openai.NewClient(option.WithBaseURL(l.url+"/v1"), option.WithAPIKey("unused"), option.WithMaxRetries(0))
	said := func(c openai.Client) (text string) {
		p := asking("the word of the user", 64)
		p.Temperature, p.Seed = openai.Float(0), openai.Int(1)
		s := c.Chat.Completions.NewStreaming(within(t), p, wholly)
		for s.Next() {
			for _, ch := range s.Current().Choices {
				text += ch.Delta.Content
			}
		}
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
		return text
	}
	if got, want := said(c), said(direct); got != want || want == "" {
		t.Errorf("through the modules the engine says\n%q, and\n%q without", got, want)
	}
}

// replaced gives the gateway other bytes for a module while a stream passes it,
// which goes on. When its client leaves, the engine stops, and the module that
// hears of ends is told.
func replaced(t *testing.T, l *llama, g *program.Gateway, c openai.Client) {
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	s := c.Chat.Completions.NewStreaming(ctx, asking("the word", endless), wholly)
	defer s.Close()
	read := func(n int) {
		for range n {
			if !s.Next() {
				t.Fatal("the stream has ended: ", s.Err())
			}
		}
	}
	read(5)
	put(t, g, "redact")
	read(50)
	cancel()
	program.Eventually(t, "the engine stops", func() bool { return l.busy(t) == 0 })
	program.Eventually(t, "a module tells of a client that has left", func() bool {
		return strings.Contains(g.Log(), `\"error\":\"client_closed_request\"`)
	})
	chatStream(t, c)
}

// put replaces a module by the same one: its bytes, and a section of their own that
// means nothing.
func put(t *testing.T, g *program.Gateway, name string) {
	t.Helper()
	var list struct {
		Modules []struct {
			ID   string `json:"module_uuid"`
			Meta struct {
				Name string `json:"name"`
			} `json:"module_meta"`
		} `json:"modules"`
	}
	_, body := program.Get(t, g.URL+"/wasm")
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatalf("GET /wasm: %v in %s", err, body)
	}
	binary, err := os.ReadFile(example(t, name))
	if err != nil {
		t.Fatal(err)
	}
	binary = append(binary, 0, 5, 4, 'n', 'e', 'x', 't')
	for _, m := range list.Modules {
		if m.Meta.Name != name {
			continue
		}
		req, err := http.NewRequestWithContext(within(t), http.MethodPut, g.URL+"/wasm/"+m.ID, bytes.NewReader(binary))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/wasm")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _ = res.Body.Close(); res.StatusCode != http.StatusOK {
			t.Fatalf("PUT /wasm: %s", res.Status)
		}
		return
	}
	t.Fatalf("there is no module %q in %s", name, body)
}
