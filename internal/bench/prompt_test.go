package bench

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"sluice/internal/infer"
)

// promptOf finds the prompt in a request body of any endpoint, the system text
// before it.
func promptOf(t *testing.T, body string) string {
	t.Helper()
	var m struct {
		Prompt, Text, Input, Instructions, System string
		Messages                                  []struct{ Role, Content string }
	}
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatalf("body is no JSON: %v\n%s", err, body)
	}
	parts := []string{m.Instructions, m.System, m.Prompt, m.Text, m.Input}
	for _, msg := range m.Messages {
		parts = append(parts, msg.Content)
	}
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}

func bodies(e infer.Endpoint, n int, change func(*Config)) []string {
	c := config(func(c *Config) { c.Endpoint, c.Model = e.Label(), `my "model"`; change(c) })
	p := &prompts{seed: c.Seed, tokens: c.PromptTokens, shared: c.SharedPrefix, prefixes: uint64(c.Prefixes), output: c.OutputTokens, block: c.TraceBlock}
	tmpl := newTemplate(c, e)
	var out []string
	for i := range n {
		j, _ := p.plan(uint64(i))
		out = append(out, string(tmpl.body(p, j)))
	}
	return out
}

func TestPromptsShareWhatTheyShould(t *testing.T) {
	for _, e := range endpoints {
		t.Run(e.Label(), func(t *testing.T) {
			same := func(c *Config) {
				c.PromptTokens, c.SharedPrefix, c.Prefixes, c.Stream, c.IgnoreEOS = 200, 150, 3, e != infer.Embeddings, true
			}
			one, two := bodies(e, 100, same), bodies(e, 100, same)
			other := bodies(e, 100, func(c *Config) { same(c); c.Seed = 1 })
			prefixes, whole := map[string]int{}, map[string]bool{}
			for i := range one {
				if one[i] != two[i] {
					t.Fatalf("request %d differs between two runs with one seed", i)
				}
				p := promptOf(t, one[i])
				if n := len(strings.Fields(p)); n != 200 || len(p) != 799 {
					t.Fatalf("prompt of %d words and %d bytes, want 200 and 799", n, len(p))
				}
				prefixes[p[:600]]++
				whole[p] = true
				if p == promptOf(t, other[i]) {
					t.Error("another seed gave the same prompt")
				}
			}
			if len(prefixes) != 3 || len(whole) != 100 {
				t.Errorf("%d prefixes and %d prompts, want 3 and 100", len(prefixes), len(whole))
			}
			has(t, "body", one[0], `"model":"my \"model\""`)
		})
	}
}

func TestBodies(t *testing.T) {
	var b strings.Builder
	for _, e := range endpoints {
		for _, stream := range []bool{false, true} {
			for _, shared := range []int{0, 2} {
				if stream && e == infer.Embeddings {
					continue
				}
				body := bodies(e, 1, func(c *Config) { c.PromptTokens, c.SharedPrefix, c.Stream = 3, shared, stream })[0]
				if !json.Valid([]byte(body)) {
					t.Errorf("not JSON: %s", body)
				}
				b.WriteString(e.Path() + " " + body + "\n")
			}
		}
	}
	golden(t, "testdata/bodies.txt", b.String())
}

func BenchmarkBody(b *testing.B) {
	for _, tokens := range []int{128, 16384} {
		b.Run(strconv.Itoa(tokens), func(b *testing.B) {
			c := config(func(c *Config) { c.PromptTokens = tokens })
			p := &prompts{tokens: c.PromptTokens, prefixes: 1, output: 64, block: 512}
			tmpl := newTemplate(c, infer.Chat)
			b.ReportAllocs()
			for i := range b.N {
				j, _ := p.plan(uint64(i))
				tmpl.body(p, j)
			}
		})
	}
}
