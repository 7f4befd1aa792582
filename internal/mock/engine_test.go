package mock

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

func get1(t testing.TB, c *http.Client, url string) got {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		return got{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return got{status: resp.StatusCode, header: resp.Header, body: string(b), err: err}
}

// slowly is a Config whose answers take long enough to be interrupted.
func slowly() Config {
	cfg := DefaultConfig()
	cfg.Port, cfg.DecodeRate = 0, 200
	return cfg
}

const long = `{"stream":true,"max_tokens":10000,"prompt":"x"}`

func TestKillAndRestart(t *testing.T) {
	cfg := slowly()
	cfg.Count = 2
	f := serve(t, cfg)
	e, c := f.Engine(0), client(t)
	url := f.URLs()[0] + "/v1/completions"
	var wg sync.WaitGroup
	hows := make([]string, 10)
	for i := range hows {
		wg.Go(func() { hows[i] = exchange(t, c, url, long, 20*time.Second).how() })
	}
	eventually(t, "ten run", func() bool { return e.sched.Load().load().Running == 10 })
	e.Kill()
	wg.Wait()
	for _, h := range hows {
		if h != "reset" {
			t.Errorf("a stream of the killed engine ended %q, want reset", h)
		}
	}
	if e.Running() || !f.Engine(1).Running() {
		t.Errorf("running: %v, %v; want false, true", e.Running(), f.Engine(1).Running())
	}
	if got := e.Seen(); got.Killed != 10 {
		t.Errorf("%+v", got)
	}
	if g := get1(t, c, f.URLs()[0]+"/health"); g.err == nil {
		t.Error("a killed engine answers")
	}
	e.Kill() // again: nothing more to do
	if err := e.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := e.Restart(); err == nil {
		t.Error("a running engine was restarted")
	}
	if g := get1(t, c, f.URLs()[0]+"/health"); g.status != 200 {
		t.Errorf("after the restart: %d, %v", g.status, g.err)
	}
}

func TestKillByCall(t *testing.T) {
	f := serve(t, slowly())
	e, c := f.Engine(0), client(t)
	how := make(chan string, 1)
	go func() { how <- exchange(t, c, f.URLs()[0]+"/v1/completions", long, 20*time.Second).how() }()
	eventually(t, "it runs", func() bool { return e.sched.Load().load().Running == 1 })
	if g := exchange(t, client(t), f.URLs()[0]+"/mock/kill?seconds=0.05", "", 10*time.Second); g.status != 202 || g.err != nil {
		t.Errorf("status %d, %v", g.status, g.err)
	}
	if h := <-how; h != "reset" {
		t.Errorf("the stream ended %q, want reset", h)
	}
	eventually(t, "it comes back", func() bool { return get1(t, c, f.URLs()[0]+"/health").status == 200 })
	if g := exchange(t, c, f.URLs()[0]+"/mock/kill?seconds=-1", "", 10*time.Second); g.status != 400 {
		t.Errorf("status %d, want 400", g.status)
	}
	// An engine that waits to come back does not hold up the end.
	if g := exchange(t, c, f.URLs()[0]+"/mock/kill?seconds=3000", "", 10*time.Second); g.status != 202 {
		t.Errorf("status %d", g.status)
	}
	if g := get1(t, c, f.URLs()[0]+"/health"); g.err == nil {
		t.Errorf("it is said to be killed, and answers with %d", g.status)
	}
}

func TestServeEnds(t *testing.T) {
	f := newTestFleet(t, slowly())
	if err := f.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx) }()
	c := client(t)
	how := make(chan string, 1)
	go func() { how <- exchange(t, c, f.URLs()[0]+"/v1/completions", long, 20*time.Second).how() }()
	eventually(t, "it runs", func() bool { return f.Engine(0).sched.Load().load().Running == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if h := <-how; h == "ok" {
		t.Error("a stream ended well though its engine was gone")
	}
	if l := f.Engine(0).sched.Load().load(); l.Running != 0 {
		t.Errorf("still running: %+v", l)
	}
	if err := f.Engine(0).Restart(); err == nil {
		t.Error("an engine of a fleet that ended was restarted")
	}
}

func TestListenAllOrNothing(t *testing.T) {
	busy := serve(t, instant())
	var port int
	if _, err := fmt.Sscanf(busy.Addrs()[0], "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	cfg := instant()
	cfg.Count, cfg.Port = 2, port-1
	f := newTestFleet(t, cfg)
	if err := f.Listen(); err == nil {
		t.Fatal("two listen on one port")
	}
	if err := f.Serve(t.Context()); err == nil {
		t.Error("a fleet that does not listen serves")
	}
}

func TestClientLeavesOverNetwork(t *testing.T) {
	f := serve(t, slowly())
	for i, stream := range []bool{true, false} {
		g := exchange(t, client(t), f.URLs()[0]+"/v1/completions", fmt.Sprintf(`{"stream":%v,"max_tokens":10000,"prompt":"x"}`, stream), time.Second)
		if g.how() != "timeout" {
			t.Errorf("ended %q", g.how())
		}
		eventually(t, "generation stops", func() bool {
			return f.Engine(0).sched.Load().load().Running == 0 && f.Seen().Cancelled == int64(i+1)
		})
	}
}

func TestRequestIDs(t *testing.T) {
	cfg := instant()
	cfg.Count = 2
	f := newTestFleet(t, cfg)
	for i, id := range []string{"a", "a", "b", ""} {
		ask1(t, f.Engine(i%2).Handler(), http.MethodPost, "/v1/chat/completions", hello, "X-Request-Id", id)
	}
	ask1(t, f.Engine(0).Handler(), http.MethodPost, "/generate", `{"text":"x","rid":"b"}`)
	ask1(t, f.Engine(0).Handler(), http.MethodPost, "/generate", `{}`, "X-Request-Id", "c")
	for id, want := range map[string]Times{"a": {2, 2, 2}, "b": {2, 2, 2}, "c": {1, 0, 0}, "d": {}} {
		if got := f.Times(id); got != want {
			t.Errorf("%s came %+v, want %+v", id, got, want)
		}
	}
	v := object1(t, ask1(t, f.Engine(0).Handler(), http.MethodGet, "/mock/state", "").Body.Bytes())
	if at(t, v, "ids", "known") != 3.0 || at(t, v, "ids", "repeated", "b", "asked") != 2.0 || at(t, v, "counts", "served") != 3.0 {
		t.Errorf("state %v", v)
	}
	v = object1(t, ask1(t, f.Engine(0).Handler(), http.MethodGet, "/mock/state?ids=all", "").Body.Bytes())
	if len(at(t, v, "ids", "all").(map[string]any)) != 3 {
		t.Errorf("state %v", v)
	}
	v = object1(t, ask1(t, f.Engine(0).Handler(), http.MethodGet, "/mock/state?id=b", "").Body.Bytes())
	if v["asked"] != 2.0 {
		t.Errorf("id b: %v", v)
	}
}

func TestOldRequestIDsAreForgotten(t *testing.T) {
	g := newRegister()
	for i := range maxIDs + 5 {
		g.came(fmt.Sprint(i))
	}
	known, forgotten, _ := g.list(false)
	if known != maxIDs || forgotten != 5 || g.times("4").Asked != 0 || g.times("5").Asked != 1 || len(g.order) != maxIDs {
		t.Errorf("%d known, %d forgotten, %+v, %+v", known, forgotten, g.times("4"), g.times("5"))
	}
}

func TestHealthAndModels(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := instant()
		cfg.StartupDelay = 3 * time.Second
		h := newTestFleet(t, cfg).Engine(0).Handler()
		health := func(want int) {
			t.Helper()
			if got := ask1(t, h, http.MethodGet, "/health", "").Code; got != want {
				t.Errorf("health %d, want %d", got, want)
			}
		}
		health(503)
		if got := ask1(t, h, http.MethodPost, "/v1/chat/completions", hello).Code; got != 503 {
			t.Errorf("an engine that loads answers %d", got)
		}
		time.Sleep(3 * time.Second)
		health(200)
		set := func(body string, want int) {
			t.Helper()
			if w := ask1(t, h, http.MethodPost, "/mock/health", body); w.Code != want {
				t.Errorf("%s: %d, want %d", body, w.Code, want)
			}
		}
		set(`{"status":500}`, 200)
		health(500)
		set(`{"status":200}`, 200)
		health(200)
		set(`{"flap":"500ms"}`, 200)
		for _, want := range []int{200, 503, 200, 503} {
			health(want)
			time.Sleep(500 * time.Millisecond)
		}
		set(`{"flap":"x"}`, 400)
		set(`{"status":1}`, 400)
		if w := ask1(t, h, http.MethodPost, "/mock/models", `{"models":["other","more"]}`); w.Code != 200 {
			t.Errorf("models: %d", w.Code)
		}
		if got := ask1(t, h, http.MethodGet, "/v1/models", "").Body.String(); !strings.Contains(got, `"id":"other"`) || !strings.Contains(got, `"id":"more"`) || strings.Contains(got, `"id":"mock"`) {
			t.Errorf("models %s", got)
		}
		if w := ask1(t, h, http.MethodPost, "/mock/models", `{"models":[]}`); w.Code != 400 {
			t.Errorf("no models: %d", w.Code)
		}
	})
}

func TestFlush(t *testing.T) {
	h := handler(t, SGLang)
	cached := func() any {
		return at(t, ok(t, h, "/v1/completions", fmt.Sprintf(`{"prompt":%q}`, prompt(64, 0))), "usage", "prompt_tokens_details", "cached_tokens")
	}
	cached()
	if got := cached(); got != 63.0 {
		t.Errorf("%v cached", got)
	}
	if w := ask1(t, h, http.MethodPost, "/flush_cache", ""); w.Code != 200 {
		t.Errorf("status %d", w.Code)
	}
	if got := cached(); got != 0.0 {
		t.Errorf("%v cached after a flush", got)
	}
}

func TestLoads(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cfg := timed()
		cfg.Engine, cfg.MaxRunning, cfg.PrefillRate = SGLang, 2, 1e9
		h := newTestFleet(t, cfg).Engine(0).Handler()
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() { timedCall(ctx, h, body(10, 100*i, 1000)) })
		}
		time.Sleep(100 * time.Millisecond)
		v := object1(t, ask1(t, h, http.MethodGet, "/v1/loads", "").Body.Bytes())
		if got := fmt.Sprint(at(t, v, "loads", 0, "num_running_reqs"), at(t, v, "loads", 0, "num_waiting_reqs"), at(t, v, "loads", 0, "num_waiting_uncached_tokens"), at(t, v, "aggregate", "total_reqs")); got != "2 1 10 3" {
			t.Errorf("running, waiting, tokens, total: %s", got)
		}
		if got := ask1(t, h, http.MethodGet, "/get_load", "").Body.String(); !strings.Contains(got, `"num_reqs":3`) {
			t.Errorf("get_load %s", got)
		}
		cancel()
		wg.Wait()
	})
}

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	bad := Config{Port: -1, Engine: "tgi", Speed: -1, QueueStatus: 200, Faults: []string{"x"}, FaultRate: 2, FaultEndpoints: []string{"/x"}, StartupDelay: -1}
	err := bad.Validate()
	for _, want := range []string{"host", "count", "port", "model", "engine", "speed", "prefill-rate", "decode-rate", "prefill-chunk", "max-running", "queue-status", "block-size", "context-length", "output-tokens", "events-per-write", "max-body", "startup-delay-secs", `fault "x"`, "fault-rate", "fault-endpoints"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in %v", want, err)
		}
	}
}
