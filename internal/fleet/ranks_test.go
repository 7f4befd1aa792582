package fleet

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

// dpRig runs one engine with so many ranks, and an ordinary one.
func dpRig(t *testing.T, aware bool, ranks int) (*rig, *Worker) {
	r := newRig(t)
	r.cfg.DPAware = aware
	r.start()
	e := r.es.at("a")
	e.answer("/v1/models", `{"data":[{"id":"m","owned_by":"sglang"}]}`)
	e.answer("/server_info", fmt.Sprintf(`{"version":"0.5","dp_size":%d,"max_total_num_tokens":1000}`, ranks))
	w := r.add("a", Spec{})
	r.add("b", Spec{})
	after(time.Second)
	return r, w
}

// bases lists who can be chosen.
func (r *rig) bases() string {
	var names []string
	for _, w := range r.Snapshot().Ready {
		names = append(names, strings.TrimPrefix(w.Base(), "http://"))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestRanks(t *testing.T) {
	tests := []struct {
		name  string
		aware bool
		ranks int
		want  string
	}{
		{"nobody cares", false, 4, "a b"},
		{"four", true, 4, "a@0 a@1 a@2 a@3 b"},
		{"one", true, 1, "a b"},
		{"none told", true, 0, "a b"},
		{"nonsense", true, -7, "a b"},
		{"too many", true, 100000, "a b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r, _ := dpRig(t, tt.aware, tt.ranks)
				if got := r.bases(); got != tt.want {
					t.Errorf("ready: %s; want %s", got, tt.want)
				}
			})
		})
	}
}

func TestRanksLiveTogether(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r, first := dpRig(t, true, 2)
		w, ok := r.Get(first.ID())
		if !ok || w == first {
			t.Fatalf("the ID of the registration is %v, want that of the first rank", w)
		}
		if rank, ok := w.Rank(); rank != 0 || !ok || w.Root() != "http://a" || w.Base() != "http://a@0" || w.URL().String() != "http://a" || w.Info().KVTokens != 1000 {
			t.Errorf("rank %d, root %s, base %s, URL %s", rank, w.Root(), w.Base(), w.URL())
		}
		if _, err := r.Add(Spec{URL: "http://a"}); err == nil || !strings.Contains(err.Error(), "already exists at URL 'http://a'") {
			t.Errorf("Add() of the same URL: %v, want a refusal", err)
		}
		if err := r.Update(w.ID(), Patch{Labels: map[string]string{"x": "1"}}); err != nil {
			t.Fatal(err)
		}
		if err := r.Replace(w.ID(), Spec{URL: "http://c"}); err == nil || !strings.Contains(err.Error(), "http://a") {
			t.Errorf("Replace() with another URL: %v, want a refusal", err)
		}
		r.es.at("a").answer("/v1/loads", `{"loads":[{"dp_rank":0,"num_running_reqs":1,"num_waiting_reqs":50,"num_used_tokens":7},{"dp_rank":1,"num_running_reqs":2,"num_used_tokens":9}]}`)
		after(12 * time.Second)
		for _, o := range r.Snapshot().All {
			if o.Root() != "http://a" {
				continue
			}
			rank, _ := o.Rank()
			if l := o.Load(); l == nil || l.Running != rank+1 || l.UsedTokens != int64(7+2*rank) || o.Vetoed() != (rank == 0) || o.Info().Labels["x"] != "1" {
				t.Errorf("rank %d: load %+v, veto %q, labels %v", rank, o.Load(), o.Veto(), o.Info().Labels)
			}
		}
		r.es.at("a").set("refused")
		for _, o := range r.Snapshot().All {
			o.Suspect()
		}
		after(3 * time.Second)
		if got := r.bases(); got != "b" {
			t.Errorf("when the engine is gone: %s are ready, want b", got)
		}
		r.es.at("a").answer("/server_info", `{"version":"0.5","dp_size":3}`)
		r.es.at("a").set("up")
		after(20 * time.Second)
		if got := r.bases(); got != "a@0 a@1 a@2 b" {
			t.Errorf("when it is back with three ranks: %s are ready", got)
		}
		if err := r.Remove(w.ID()); err != nil {
			t.Fatal(err)
		}
		after(10 * time.Second)
		if got := r.bases(); got != "b" || len(r.Snapshot().All) != 1 {
			t.Errorf("after Remove: %s are ready, %d known", got, len(r.Snapshot().All))
		}
		r.add("a", Spec{})
		after(time.Second)
		if got := r.bases(); got != "a@0 a@1 a@2 b" {
			t.Errorf("added again: %s are ready", got)
		}
	})
}

// TestRanksHaveOneOrder: workers are in the order of their registration, the ranks
// of an engine together, whichever engine tells of its ranks first.
func TestRanksHaveOneOrder(t *testing.T) {
	for _, slow := range []string{"a", "b", "c"} {
		t.Run(slow+" is slow", func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.cfg.DPAware = true
				r.start()
				for _, host := range []string{"a", "b", "c"} {
					e := r.es.at(host)
					e.answer("/v1/models", `{"data":[{"id":"m","owned_by":"sglang"}]}`)
					e.answer("/server_info", `{"version":"0.5","dp_size":2}`)
				}
				r.es.at(slow).set("sick")
				for _, host := range []string{"a", "b", "c"} {
					r.add(host, Spec{})
				}
				after(10 * time.Second)
				r.es.at(slow).answer("/server_info", `{"version":"0.5","dp_size":3}`)
				r.es.at(slow).set("up")
				after(time.Minute)
				var got []string
				for _, w := range r.Snapshot().Ready {
					got = append(got, strings.TrimPrefix(w.Base(), "http://"))
				}
				want := strings.Replace("a@0 a@1 b@0 b@1 c@0 c@1", slow+"@1", slow+"@1 "+slow+"@2", 1)
				if got := strings.Join(got, " "); got != want {
					t.Errorf("%s; want %s", got, want)
				}
			})
		})
	}
}

// TestRanksThatNobodyAsksFor: who says how many ranks a worker has is told that it
// does nothing.
func TestRanksThatNobodyAsksFor(t *testing.T) {
	two := 2
	for _, tt := range []struct {
		name  string
		aware bool
		spec  Spec
		want  string
	}{
		{"a field", false, Spec{DPSize: &two}, "dp_size does nothing without --dp-aware"},
		{"a label", false, Spec{Labels: map[string]string{"dp_size": "2"}}, "the label dp_size does nothing without --dp-aware"},
		{"neither", false, Spec{}, ""},
		{"a field that does something", true, Spec{DPSize: &two}, ""},
		{"a label that does something", true, Spec{Labels: map[string]string{"dp_size": "2"}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.cfg.DPAware = tt.aware
				p := &pipe{free: make(chan struct{})}
				close(p.free)
				r.opt.Log = slog.New(p)
				r.start()
				if got := r.Idle(tt.spec); got != tt.want {
					t.Errorf("Idle() = %q, want %q", got, tt.want)
				}
				r.add("a", tt.spec)
				after(time.Second)
				if got := strings.Contains(strings.Join(p.lines, "\n"), "a field of a worker has no effect"); got != (tt.want != "") {
					t.Errorf("log: %q", p.lines)
				}
				ranks := "a"
				if tt.aware {
					ranks = "a@0 a@1"
				}
				if got := r.bases(); got != ranks {
					t.Errorf("ready: %s; want %s", got, ranks)
				}
			})
		})
	}
}

// TestRanksByLabel: vLLM does not tell how many ranks it has.
func TestRanksByLabel(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.DPAware = true
		r.start()
		r.add("v", Spec{Labels: map[string]string{"dp_size": "2"}})
		r.add("x", Spec{Labels: map[string]string{"dp_size": "many"}})
		after(time.Second)
		if got := r.bases(); got != "v@0 v@1 x" {
			t.Errorf("ready: %s", got)
		}
	})
}
