package route

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/bubble"
	"sluice/internal/kit/linelog"
	"sluice/internal/kit/metric"
	"sluice/internal/kit/tracefile"
	"sluice/internal/policy"
)

func all(*Receipt) bool { return true }

// TestADecisionLeavesAReceipt holds what it says: first who was chosen and why,
// and then what became of it.
func TestADecisionLeavesAReceipt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var rt *Router
		n := 0
		rt = before(t, kinds(t, "r r"), Options{Policies: estimates(), Receipts: 100}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, team fleet.Team) error {
			if n++; n == 1 {
				return broken
			}
			if got := rt.Recent(1, all); len(got) != 1 || got[0].Ended || got[0].Worker != team.Lead.Base() {
				t.Errorf("while it runs, the last receipt is %+v", got)
			}
			time.Sleep(time.Second)
			w.Served.FirstByte, w.Served.Tokens = 3*time.Second, infer.Tokens{Input: 7, Cached: 2, Output: 9}
			_, err := w.Write([]byte("ok"))
			return err
		}))
		begin := time.Now().UTC()
		r := &infer.Request{ID: "req-1", Endpoint: infer.Chat, Model: "m", Stream: true, Received: begin}
		if err := rt.Serve(t.Context(), r, infer.NewReply(new(wire))); err != nil {
			t.Fatal(err)
		}
		got := rt.Recent(10, all)
		if len(got) != 2 {
			t.Fatalf("there are %d receipts, want one for each attempt", len(got))
		}
		first, second := got[1].Worker, got[0].Worker
		common := Receipt{Request: "req-1", Endpoint: "chat", Model: "m", Stream: true, Family: "http-regular", Role: "regular", Policy: "round_robin", Ended: true, Prompt: 1000, Blocks: 8}
		a, b := common, common
		a.Time, a.Worker, a.Why, a.Considered, a.Try = begin, first, "cheapest", 2, 1
		a.Uncached, a.Hit, a.Queue, a.Price, a.Status, a.Error = 600, 3, 50, 650, 502, "call_upstream_connection_failed"
		b.Time, b.Worker, b.Why, b.Considered, b.Try = begin.Add(50*time.Millisecond), second, "retry", 1, 2
		b.Uncached, b.Status, b.TTFT, b.Took, b.Tokens, b.Cached, b.Outputs = 1000, 200, 3, 1, 7, 2, 9
		if d := cmp.Diff([]Receipt{b, a}, got); d != "" || first == second {
			t.Error(d)
		}
	})
}

// TestReceiptsAreTheLastOnes holds that there are as many as asked for, newest
// first, and that those of requests which outlast the ring do not write into
// others'.
func TestReceiptsAreTheLastOnes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		long := make(chan struct{})
		rt := before(t, kinds(t, "r r"), Options{Receipts: 64}, backendFunc(func(_ context.Context, r *infer.Request, w *infer.Reply, _ fleet.Team) error {
			if r.ID == "long" {
				<-long
				return &infer.Error{Status: 500, Code: "late"}
			}
			_, err := w.Write([]byte("ok"))
			return err
		}))
		serve := func(id string) {
			_ = rt.Serve(t.Context(), &infer.Request{ID: id, Endpoint: infer.Chat, Model: "m", Received: time.Now()}, infer.NewReply(new(wire)))
		}
		var wg sync.WaitGroup
		wg.Go(func() { serve("long") })
		synctest.Wait()
		if got := rt.Recent(10, all); len(got) != 1 || got[0].Ended {
			t.Errorf("got %+v", got)
		}
		for i := range 200 {
			time.Sleep(time.Millisecond)
			serve(fmt.Sprint(i))
		}
		close(long)
		wg.Wait()
		got := rt.Recent(20, all)
		if len(got) != 20 {
			t.Fatalf("got %d receipts, want 20", len(got))
		}
		for i, r := range got {
			if want := fmt.Sprint(199 - i); r.Request != want && !raced || r.Status != 200 || r.Error != "" { // under the race detector pools forget what they hold, and pieces are left unused
				t.Errorf("receipt %d is of request %s, status %d %s; want %s, 200", i, r.Request, r.Status, r.Error, want)
			}
		}
		if got := rt.Recent(1000, all); len(got) > 64 || len(got) < 64-2*piece {
			t.Errorf("%d receipts are kept, want about 64", len(got))
		}
		if short := rt.Recent(3, all); !slices.Equal(short, got[:3]) || cap(short) > 8 {
			t.Errorf("the last 3 are not the first of the last 20, or are kept with room for %d", cap(short))
		}
		if got := rt.Recent(1000, func(r *Receipt) bool { return r.Request == got[3].Request }); len(got) != 1 {
			t.Errorf("%d receipts match, want 1", len(got))
		}
	})
}

func TestReceiptsAreReadWhileRequestsRun(t *testing.T) {
	rt := before(t, kinds(t, "r r p d"), Options{Receipts: 64}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
		_, err := w.Write([]byte("ok"))
		return err
	}))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				_, _, _ = ask(rt, "m")
			}
		})
	}
	for range 50 {
		for _, r := range rt.Recent(64, all) {
			if r.Worker == "" || r.Model != "m" || r.Try != 1 {
				t.Errorf("torn: %+v", r)
			}
		}
	}
	wg.Wait()
}

func TestNoReceiptsIfNobodyWantsThem(t *testing.T) {
	rt := before(t, kinds(t, "r"), Options{}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
		_, err := w.Write([]byte("ok"))
		return err
	}))
	if _, _, err := ask(rt, "m"); err != nil || len(rt.Recent(10, all)) != 0 {
		t.Errorf("got %v, %d receipts", err, len(rt.Recent(10, all)))
	}
}

// TestAClientIsTold holds that who asks is told how his request was routed, also
// if it failed, and that others are not.
func TestAClientIsTold(t *testing.T) {
	for _, words := range []string{"r", "p d"} {
		rt := before(t, kinds(t, words), Options{Policies: estimates(), Explain: func(r *infer.Request) bool { return r.Header.Has("x-sluice-debug") }},
			backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error { return broken }))
		wi := new(wire)
		r := &infer.Request{Endpoint: infer.Chat, Model: "m"}
		_ = rt.Serve(t.Context(), r, infer.NewReply(wi))
		if wi.header.Has(headerRoute) {
			t.Error("who does not ask is told")
		}
		r.Header.AddString("X-Sluice-Debug", "route")
		_ = rt.Serve(t.Context(), r, infer.NewReply(wi))
		want := "worker=http://r.1.0:8000; role=regular; policy=round_robin; why=cheapest; considered=2; try=1; prompt=1000; uncached=600; hit=3/8; queue=50; duplicate=0; decode=0; price=650"
		if words != "r" {
			want = strings.NewReplacer("r.1.0", "d.1.1", "regular", "decode").Replace(want) + ", " + strings.NewReplacer("r.1.0", "p.1.0", "regular", "prefill").Replace(want)
		}
		if got := string(wi.header.Get(headerRoute)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestWhatWasAskedCanBePlayed holds that the lines are a trace, which has what is
// known of each request that was answered.
func TestWhatWasAskedCanBePlayed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		lines := linelog.New(&out, linelog.Config{JSON: true, Level: 1000})
		n := 0
		rt := before(t, kinds(t, "r r"), Options{Policies: estimates(), Record: lines}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
			switch n++; n {
			case 1:
				w.Served.Tokens, w.Served.FirstByte = infer.Tokens{Input: 900, Output: 33}, 1500*time.Millisecond
			case 2:
				return &infer.Error{Status: 400, Code: "bad"}
			case 3:
				return w.Send(404, "text/plain", nil)
			case 5: // an engine's nonsense
				w.Served.Tokens = infer.Tokens{Input: 1 << 40, Output: 1 << 50}
			case 6: // more than a trace may have
				w.Served.Tokens = infer.Tokens{Input: tracefile.MaxTokens + 1, Output: mostTokens}
			}
			_, err := w.Write([]byte("ok"))
			return err
		}))
		for range 6 {
			_, _, _ = ask(rt, "m")
			time.Sleep(250 * time.Millisecond)
		}
		lines.Flush()
		got, err := tracefile.Read(bytes.NewReader(out.Bytes()))
		if err != nil {
			t.Fatalf("%v in\n%s", err, out.String())
		}
		want := []tracefile.Row{{At: 0, Input: 900, Output: 33, Blocks: []int64{11, -1}}, {At: 750 * time.Millisecond, Input: 1000, Output: 0, Blocks: []int64{11, -1}},
			{At: time.Second, Input: 1000, Output: 0, Blocks: []int64{11, -1}}, {At: 1250 * time.Millisecond, Input: tracefile.MaxTokens, Output: tracefile.MaxTokens, Blocks: []int64{11, -1}}}
		if d := cmp.Diff(want, got.Rows); d != "" || got.BlockTokens != 128 {
			t.Errorf("%s\nblocks of %d tokens", d, got.BlockTokens)
		}
		type line struct {
			Model, Policy, Worker string
			TTFT                  float64 `json:"ttft_s"`
		}
		var timed []line // lines stand in no order
		for text := range bytes.Lines(out.Bytes()) {
			var l line
			if err := json.Unmarshal(text, &l); err != nil {
				t.Errorf("%v in %s", err, text)
			}
			if l.TTFT != 0 {
				timed = append(timed, l)
			}
		}
		if len(timed) != 1 || timed[0].Model != "m" || timed[0].Policy != "round_robin" || timed[0].TTFT != 1.5 || timed[0].Worker == "" {
			t.Errorf("lines with a time to the first token: %+v", timed)
		}
	})
}

func TestRecordingAllocatesNothing(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	rt := counted(t, 64)
	var nothing bytes.Buffer
	rt.recording = linelog.New(&nothing, linelog.Config{JSON: true, Level: 1000})
	c := &caller{ctx: t.Context(), rt: rt, body: []byte(`{"model":"m"}`)}
	serve := func() {
		if err := c.call(true); err != nil {
			t.Fatal(err)
		}
		rt.recording.Flush()
		nothing.Reset()
	}
	for range 64 {
		serve()
	}
	if got := testing.AllocsPerRun(1000, serve); got != 0 {
		t.Errorf("a request allocates %v times, want 0", got)
	}
}

// TestLongNamesAreNotKept holds that the receipts do not hold what clients make
// up.
func TestLongNamesAreNotKept(t *testing.T) {
	rt := before(t, kinds(t, "r"), Options{Receipts: 16}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
		_, err := w.Write([]byte("ok"))
		return err
	}))
	rt.Table().models["m"].Model = "" // as that of a worker that takes any
	name := strings.Repeat("x", 1<<20)
	rt.Table().models[name] = rt.Table().models["m"]
	if _, _, err := ask(rt, name); err != nil {
		t.Fatal(err)
	}
	if got := rt.Recent(1, all); len(got) != 1 || len(got[0].Model) > maxName {
		t.Errorf("%d receipts", len(got))
	}
}

func TestWhatIsToldOfPromptsAndLoad(t *testing.T) {
	set := metric.NewRegistry(nil)
	m := new(Metrics)
	metric.Fill(set, m)
	reg := kinds(t, "r r")
	rt := before(t, reg, Options{Policies: estimates(), Metrics: m}, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, team fleet.Team) error {
		text := scrape(t, set)
		for _, want := range []string{
			`sluice_route_imbalance_ratio{model="m",of="requests",worker_type="regular"} 2`,
			`sluice_route_imbalance_ratio{model="m",of="prefill_tokens",worker_type="regular"} 2`,
		} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
		_, err := w.Write([]byte("ok"))
		return err
	}))
	for range 2 {
		if _, _, err := ask(rt, "m"); err != nil {
			t.Fatal(err)
		}
	}
	text := scrape(t, set)
	for _, want := range []string{`sluice_route_prompt_tokens_total{model="m"} 2000`, `sluice_route_hit_tokens_total{model="m"} 800`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "imbalance_ratio{") {
		t.Error("the imbalance of idle workers is told")
	}
	for range 10 * untimed {
		_, _, _ = ask(rt, "m")
	}
	if text := scrape(t, set); !strings.Contains(text, `sluice_route_decision_seconds_count{policy="round_robin"}`) {
		t.Errorf("no decision was timed:\n%s", text)
	}
}

// lengthy is a policy that knows long prompts by their hashes.
type lengthy struct {
	policy.Policy
	seen func(c *policy.Choice, when string)
}

func (l lengthy) Bind(ws []*fleet.Worker) policy.Picker { return lengthyPicker{l, l.Policy.Bind(ws)} }

type lengthyPicker struct {
	lengthy
	policy.Picker
}

func (l lengthyPicker) Pick(r *infer.Request, c *policy.Choice) *fleet.Worker {
	for i := range uint64(2 * maxIdle) {
		c.Keys = append(c.Keys, i)
	}
	return l.Picker.Pick(r, c)
}
func (l lengthyPicker) Sent(_ *infer.Request, _ *fleet.Worker, c *policy.Choice) { l.seen(c, "sent") }
func (l lengthyPicker) Began(_ *fleet.Worker, c *policy.Choice, _ time.Time)     { l.seen(c, "began") }
func (l lengthyPicker) Ended(_ *fleet.Worker, c *policy.Choice, _ *infer.Served, _ error, _ time.Time) {
	l.seen(c, "ended")
}

// TestHashesAreKeptIfSomebodyNeedsThem holds that a stream does not keep the
// hashes of a long prompt, unless they are to be written down at its end.
func TestHashesAreKeptIfSomebodyNeedsThem(t *testing.T) {
	for _, records := range []bool{false, true} {
		got := make(map[string]int)
		ps := policies("random")
		ps.New = func(name string) (policy.Policy, error) {
			p, err := policy.New(name, policy.DefaultSettings())
			return lengthy{p, func(c *policy.Choice, when string) { got[when] = len(c.Keys) }}, err
		}
		o := Options{Policies: ps}
		if records {
			o.Record = linelog.New(new(bytes.Buffer), linelog.Config{JSON: true})
		}
		rt := before(t, kinds(t, "r"), o, backendFunc(func(_ context.Context, _ *infer.Request, w *infer.Reply, _ fleet.Team) error {
			_, err := w.Write([]byte("data: 1\n\n"))
			return err
		}))
		if _, _, err := ask(rt, "m"); err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"sent": 2 * maxIdle, "began": 2 * maxIdle, "ended": 0}
		if records {
			want["ended"] = 2 * maxIdle
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("recorded: %v: %s", records, d)
		}
	}
}
