package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sluice/test/program"
)

// TestReceipts asks the gateway why it chose whom it chose, in each of the ways
// that there are.
func TestReceipts(t *testing.T) {
	t.Parallel()
	trace := filepath.Join(t.TempDir(), "trace.jsonl")
	g, e := program.Fleet(t, 2, []string{"--model", "m"}, []string{"--policy", "round_robin", "--route-log", trace, "--model-alias", "nick=m"})
	for i := range 6 {
		a := post(t, g.URL, chatPath, body(chatPath, i%2 == 0, ""), "X-Request-Id", fmt.Sprintf("req-%d", i), "X-Sluice-Debug", "route")
		if got := a.header.Get("X-Sluice-Route"); a.status != 200 || !strings.Contains(got, "policy=round_robin") || !strings.Contains(got, "worker=http://127.0.0.1:") {
			t.Errorf("got %d, x-sluice-route: %q", a.status, got)
		}
	}
	if got := post(t, g.URL, chatPath, body(chatPath, false, "")).header.Get("X-Sluice-Route"); got != "" {
		t.Errorf("who does not ask is told %q", got)
	}
	type receipt struct {
		Request string `json:"request_id"`
		Model   string
		Worker  string
		Policy  string
		Status  int
		Ended   bool
	}
	recent := func(query string) []receipt {
		t.Helper()
		var list struct{ Receipts []receipt }
		a := ask(t, "GET", g.URL+"/routes/recent"+query, "")
		if err := json.Unmarshal([]byte(a.body), &list); err != nil || a.status != 200 {
			t.Fatalf("%s: %d %s", query, a.status, a.body)
		}
		return list.Receipts
	}
	var got []receipt
	program.Eventually(t, "the ends of all are told", func() bool { // a client may know of one before
		got = recent("")
		return !slices.ContainsFunc(got, func(r receipt) bool { return !r.Ended })
	})
	if len(got) != 7 || got[1].Request != "req-5" || got[6].Request != "req-0" {
		t.Errorf("got %+v, want the requests, newest first", got)
	}
	for _, r := range got {
		if r.Model != "m" || r.Policy != "round_robin" || r.Status != 200 {
			t.Errorf("got %+v", r)
		}
	}
	if got := recent("?n=2"); len(got) != 2 || got[1].Request != "req-5" {
		t.Errorf("the last two are %+v", got)
	}
	for _, u := range e.URLs {
		got := recent("?worker=" + url.QueryEscape(u))
		if len(got) < 3 || len(got) > 4 || got[0].Worker != u {
			t.Errorf("of 7 requests %d are told of %s", len(got), u)
		}
	}
	if got := recent("?model=nick"); len(got) != 7 {
		t.Errorf("by an alias there are %d, want 7", len(got))
	}
	if got := recent("?model=x"); len(got) != 0 {
		t.Errorf("of another model: %+v", got)
	}
	for _, q := range []string{"?n=0", "?n=1001", "?n=many", "?n=%zz"} {
		if a := ask(t, "GET", g.URL+"/routes/recent"+q, ""); a.status != 400 {
			t.Errorf("%s: %d %s, want 400", q, a.status, a.body)
		}
	}
	program.Eventually(t, "the trace is written", func() bool {
		b, err := os.ReadFile(trace)
		return err == nil && strings.Count(string(b), "\n") == 7 && strings.Count(string(b), `"hash_ids":[`) == 7
	})
	if err := os.Rename(trace, trace+".1"); err != nil {
		t.Fatal(err)
	}
	program.Eventually(t, "a trace that was moved is begun anew", func() bool {
		post(t, g.URL, chatPath, body(chatPath, false, ""))
		b, err := os.ReadFile(trace)
		return err == nil && strings.HasSuffix(string(b), "\n")
	})
	if b, err := os.ReadFile(trace + ".1"); err != nil || strings.Count(string(b), "\n") < 7 {
		t.Errorf("the one that was moved holds %q, %v", b, err)
	}
}

// TestWhoIsToldOfRoutes holds that workers' addresses are for those who may use
// the control plane, unless a flag says otherwise.
func TestWhoIsToldOfRoutes(t *testing.T) {
	t.Parallel()
	e := program.Mock(t, 1, "--model", "m")
	for _, flag := range []bool{false, true} {
		flags := []string{"--worker-urls", e.URLs[0]}
		if flag {
			flags = append(flags, "--debug-headers")
		}
		g := program.Serve(t, flags...)
		g.WaitReady(t, 1)
		a := post(t, g.URL, chatPath, body(chatPath, false, ""), "X-Sluice-Debug", "route", "X-Forwarded-For", "10.9.9.9")
		if got := a.header.Get("X-Sluice-Route"); a.status != 200 || (got != "") != flag {
			t.Errorf("with the flag: %v: a stranger is told %q", flag, got)
		}
		if a := ask(t, "GET", g.URL+"/routes/recent", "", "X-Forwarded-For", "10.9.9.9"); a.status != 403 {
			t.Errorf("with the flag: %v: a stranger's list: %d %s", flag, a.status, a.body)
		}
	}
}
