package bench

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

const smallScript = `{"tools":[{"type":"function","function":{"name":"f"}}]}

{"session":"a","messages":[{"role":"system","content":"S"},{"role":"user","content":"one"},{"role":"assistant","content":"twelve bytes"},{"role":"user","content":"two"},{"content":null,"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"r"},{"role":"assistant","content":"end"},{"role":"user","content":"not sent"}]}
{"session":"b","messages":[{"role":"user","content":[{"type":"text","text":"parts"}]},{"role":"user","content":"\"quoted\""},{"role":"assistant","content":""}]}
`

func TestParseScript(t *testing.T) {
	s, err := parseScript(strings.NewReader(smallScript))
	if err != nil {
		t.Fatal(err)
	}
	if string(s.tools) != `[{"type":"function","function":{"name":"f"}}]` || len(s.sessions) != 2 {
		t.Fatalf("tools %s, %d sessions", s.tools, len(s.sessions))
	}
	a, b := s.sessions[0], s.sessions[1]
	if want := []turn{{messages: 2, output: 3}, {messages: 4, output: 1}, {messages: 6, output: 1, tool: true}}; !reflect.DeepEqual(a.turns, want) {
		t.Errorf("turns %+v, want %+v", a.turns, want)
	}
	if a.mark != 1 || b.mark != 1 || len(b.turns) != 1 {
		t.Errorf("marks %d, %d; %d turns", a.mark, b.mark, len(b.turns))
	}
}

func TestScriptFaultsNameTheLine(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		_, err := parseScript(strings.NewReader(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want %q", in, err, want)
		}
	}
	ok := `{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}` + "\n"
	f("", "no sessions")
	f(`{"tools":[]}`, "no sessions")
	f(ok+"x", "line 2: invalid character")
	f(ok+"{}", "line 2: there are neither")
	f(ok+`{"tools":[]}`, "line 2: tools stand in the first line")
	f(`{"tools":[]}`+"\n"+`{"tools":[]}`, "line 2: tools stand in the first line")
	f(`{"tools":{}}`, "line 1: tools must be an array")
	f(`{"tools":[],"messages":[]}`, "line 1: tools and messages in one line")
	f(ok+"\n"+`{"messages":[{"role":"user","content":"q"}]}`, "line 3: no message of the assistant")
	f(`{"messages":[{"role":"assistant","content":"q"}]}`, "line 1: no message of the assistant")
	f(`{"messages":[{"content":"q"}]}`, "line 1: messages[0] has no role")
	f(`{"messages":[{"role":"user"},3]}`, "line 1: messages[1]: the root is of type number")
	f(`{"messages":[{"role":"user","role":"user"}]}`, `line 1: messages[0]: duplicate key "role"`)
	f(`{"messages":"x"}`, "line 1: json")
	f(ok+strings.Repeat(" ", maxSessionLine+1), "line 2: longer than")
	f(`{"messages":[`+strings.Repeat(`{"role":"user"},`, maxSessionMessages)+`{"role":"assistant"}]}`, "line 1: a session may have 4096 messages")
}

// heardTurn is a request as a server got it.
type heardTurn struct {
	at   time.Duration
	body struct {
		Messages []struct {
			Role    string `json:"role"`
			Content any    `json:"content"`
		} `json:"messages"`
		Tools     []any `json:"tools"`
		MaxTokens int   `json:"max_tokens"`
	}
	raw string
}

// playedTo runs cfg and returns what the server heard.
func playedTo(t *testing.T, script string, change func(*Config)) (heard []heardTurn, r *Result) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "s.jsonl")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	bubble.Test(t, func(t *testing.T) {
		start := time.Now()
		w := serve(t, func(w http.ResponseWriter, r *http.Request) {
			h := heardTurn{at: time.Since(start)}
			b, _ := io.ReadAll(r.Body)
			if err := json.Unmarshal(b, &h.body); err != nil || int(r.ContentLength) != len(b) {
				t.Errorf("%s: %v", b, err)
			}
			h.raw = string(b)
			mu.Lock()
			heard = append(heard, h)
			mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			answerJSON(w, `{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":25}}}`)
		})
		r = mustRun(t, t.Context(), config(func(c *Config) {
			c.Sessions, c.OutputTokens, c.Concurrency = file, 0, 1
			change(c)
		}), w)
	})
	return heard, r
}

func TestSessionsArePlayedTurnByTurn(t *testing.T) {
	heard, r := playedTo(t, smallScript, func(c *Config) { c.UserGap, c.ToolGap = time.Minute, time.Second })
	if len(heard) != 4 {
		t.Fatalf("%d requests, want 4", len(heard))
	}
	for i, want := range []struct{ messages, output int }{{2, 3}, {4, 1}, {6, 1}, {2, 1}} {
		if b := heard[i].body; len(b.Messages) != want.messages || b.MaxTokens != want.output || len(b.Tools) != 1 {
			t.Errorf("request %d has %d messages, %d tools and asks for %d tokens; want %+v and 1 tool", i, len(b.Messages), len(b.Tools), b.MaxTokens, want)
		}
	}
	// Each turn waits for the answer before, and then for a user or a tool.
	if user, tool := heard[1].at-heard[0].at, heard[2].at-heard[1].at; user < 10*time.Second || user > 6*time.Minute || tool < 250*time.Millisecond || tool > 6*time.Second {
		t.Errorf("gaps of %v and %v, want about a minute and a second", user, tool)
	}
	// The next turn repeats the one before, and then has more.
	first, second := heard[0].raw, heard[1].raw
	if at := strings.Index(first, `],"tools"`); at < 0 || first[:at] != second[:at] {
		t.Errorf("the second turn does not begin with the first:\n%s\n%s", first, second)
	}
	if s := heard[3].body.Messages[1].Content; !strings.HasSuffix(s.(string), `) "quoted"`) {
		t.Errorf("the marked message reads %q", s)
	}
	if r.StoppedBy != "sessions" || *r.Sessions != (Sessions{Begun: 2, Whole: 2}) || r.Requests.OK != 4 {
		t.Errorf("stopped by %q, %+v, %+v", r.StoppedBy, *r.Sessions, r.Requests)
	}
	near(t, "hit ratio", r.HitRatio, .25)
}

// Sessions are played again and again until the time is over, but a server
// never sees one twice: it would answer it from its cache.
func TestSessionsDoNotRepeat(t *testing.T) {
	seen := map[string]bool{}
	n := 0
	for _, seed := range []int64{0, 3} {
		heard, r := playedTo(t, smallScript, func(c *Config) { c.Requests, c.GapScale, c.Seed, c.MaxTurns = 40, 0, seed, 1 })
		for _, h := range heard {
			seen[h.raw] = true
			n++
		}
		if r.StoppedBy != "requests" || r.Requests.OK != 40 {
			t.Errorf("stopped by %q, %+v", r.StoppedBy, r.Requests)
		}
	}
	if n != 80 || len(seen) != n {
		t.Errorf("%d different bodies of %d", len(seen), n)
	}
	a, _ := playedTo(t, smallScript, func(c *Config) { c.Seed = 9 })
	b, _ := playedTo(t, smallScript, func(c *Config) { c.Seed = 9 })
	for i := range a {
		if a[i].raw != b[i].raw || a[i].at != b[i].at {
			t.Errorf("the same seed played request %d in another way", i)
		}
	}
}

func TestSessionsArriveAtTheRate(t *testing.T) {
	heard, r := playedTo(t, smallScript, func(c *Config) {
		c.Concurrency, c.Rate, c.Arrival, c.Duration, c.MaxTurns = 0, 2, "constant", 10*time.Second, 1
		c.OutputTokens = 7
	})
	if len(heard) != 20 || r.StoppedBy != "duration" || heard[3].body.MaxTokens != 7 {
		t.Fatalf("%d sessions in 10 s at 2/s, stopped by %q; asked for %d tokens", len(heard), r.StoppedBy, heard[3].body.MaxTokens)
	}
	near(t, "the fourth begins", heard[3].at.Seconds(), 1.5)
	near(t, "measured", r.MeasuredS, 10)
	_, r = playedTo(t, smallScript, func(c *Config) {
		c.Concurrency, c.Rate, c.MaxInFlight, c.UserGap, c.Duration = 0, 100, 1, time.Hour, time.Second
	})
	if r.Sessions.Shed == 0 || r.Requests.Shed != r.Sessions.Shed {
		t.Errorf("%+v, %+v", *r.Sessions, r.Requests)
	}
}

// A session whose user would answer after the run has ended is not replaced by
// a new one, which would send more first turns than users do.
func TestUsersThatThinkAtTheEnd(t *testing.T) {
	heard, r := playedTo(t, smallScript, func(c *Config) { c.Concurrency, c.UserGap, c.Duration = 4, time.Hour, 10*time.Second })
	if len(heard) > 10 || r.StoppedBy != "duration" {
		t.Errorf("%d requests of 4 sessions that wait, stopped by %q", len(heard), r.StoppedBy)
	}
	near(t, "measured", r.MeasuredS, 10)
}

func TestSettingsOfSessions(t *testing.T) {
	f := func(want string, change func(*Config)) {
		t.Helper()
		if err := config(change).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("exclude each other", func(c *Config) { c.Sessions, c.Trace = "a", "b" })
	f("endpoint messages cannot be asked", func(c *Config) { c.Sessions, c.Endpoint = "a", "messages" })
	f("max-turns", func(c *Config) { c.MaxTurns = -1 })
	f("user-gap", func(c *Config) { c.UserGap = -1 })
	f("gap-scale", func(c *Config) { c.GapScale = -1 })
}

// TestRecordedSessions holds that the recorded conversations can be played.
func TestRecordedSessions(t *testing.T) {
	s, err := loadScript("testdata/tau_airline.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	turns, size := 0, 0
	tp := newTemplate(config(nil), endpoints[0])
	for i := range s.sessions {
		one := &s.sessions[i]
		for k := range one.turns {
			turns++
			b := one.body(&tp, s.tools, k, "(call) ", 5)
			if !json.Valid(b) || !bytes.Contains(b, []byte(`"(call) `)) {
				t.Fatalf("session %d, turn %d: %.300s", i, k, b)
			}
			size += len(b)
		}
	}
	t.Logf("%d sessions, %d turns, %d bytes each", len(s.sessions), turns, size/turns)
	if len(s.sessions) != 60 || s.tools == nil {
		t.Errorf("%d sessions", len(s.sessions))
	}
}

// FuzzParseScript holds that what is parsed makes bodies that are JSON.
func FuzzParseScript(f *testing.F) {
	f.Add([]byte(smallScript))
	f.Add([]byte(`{"messages":[{"role":"us\u0065r","content":""},{"role":"assistant"}]}`))
	f.Add([]byte(`{"tools":null,"messages":[{"content":"\ud800","role":"user"},{"role":"assistant","content":[1,{}]}]}`))
	tp := newTemplate(config(nil), endpoints[0])
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := parseScript(bytes.NewReader(in))
		if (err == nil) != (s != nil) {
			t.Fatalf("%v, %v", s, err)
		}
		if err != nil {
			return
		}
		for i := range s.sessions {
			one := &s.sessions[i]
			for k, turn := range one.turns {
				if b := one.body(&tp, s.tools, k, "(call) ", turn.output); !json.Valid(b) || turn.output < 1 {
					t.Fatalf("session %d, turn %d: %s", i, k, b)
				}
			}
		}
	})
}
