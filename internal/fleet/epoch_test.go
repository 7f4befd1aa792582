package fleet

import (
	"testing"
	"time"

	"sluice/internal/kit/bubble"
)

func TestEpoch(t *testing.T) {
	tests := []struct {
		name string
		what func(r *rig, w *Worker, e *engine)
		want uint64
	}{
		{"nothing happens", func(*rig, *Worker, *engine) { after(10 * time.Minute) }, 0},
		{"nobody listened to one check", func(_ *rig, w *Worker, e *engine) {
			e.set("refused")
			w.Suspect()
			after(200 * time.Millisecond)
			e.set("up")
		}, 1},
		{"nobody listened for a while", func(_ *rig, w *Worker, e *engine) {
			e.set("refused")
			w.Suspect()
			after(time.Minute)
			e.set("up")
		}, 1},
		{"it listened, but was not well yet", func(_ *rig, w *Worker, e *engine) {
			e.set("refused")
			w.Suspect()
			after(time.Minute)
			e.set("sick")
			after(time.Minute)
			e.set("up")
		}, 1},
		{"one check broke", func(_ *rig, w *Worker, e *engine) {
			e.set("reset")
			w.Suspect()
			after(200 * time.Millisecond)
			e.set("up")
		}, 0},
		{"checks broke until it was away", func(_ *rig, w *Worker, e *engine) {
			e.set("reset")
			w.Suspect()
			after(time.Minute)
			e.set("up")
		}, 1},
		{"it was too slow for a while", func(_ *rig, w *Worker, e *engine) {
			e.set("hang")
			w.Suspect()
			after(time.Minute)
			e.set("up")
		}, 0},
		{"it was sick for a while", func(_ *rig, w *Worker, e *engine) {
			e.set("sick")
			w.Suspect()
			after(time.Minute)
			e.set("up")
		}, 0},
		{"it was sick for a while, and tells another start", func(_ *rig, w *Worker, e *engine) {
			e.set("sick")
			w.Suspect()
			after(time.Minute)
			e.answer("/server_info", `{"version":"0.5","random_seed":2}`)
			e.set("up")
		}, 1},
		{"it was gone, and tells another start", func(_ *rig, w *Worker, e *engine) {
			e.set("refused")
			w.Suspect()
			after(time.Minute)
			e.answer("/server_info", `{"version":"0.5","random_seed":2}`)
			e.set("up")
		}, 1},
		{"it started anew between two checks", func(_ *rig, _ *Worker, e *engine) {
			e.answer("/server_info", `{"version":"0.5","random_seed":2}`)
			after(time.Minute)
		}, 1},
		{"it was told to flush", func(_ *rig, w *Worker, _ *engine) { w.Forgot() }, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.start()
				e := r.es.at("a")
				e.answer("/v1/models", `{"data":[{"id":"m","owned_by":"sglang"}]}`)
				e.answer("/server_info", `{"version":"0.5","random_seed":1}`)
				w := r.add("a", Spec{})
				after(time.Second)
				r.want("at first", w, Ready)
				tt.what(r, w, e)
				after(2 * time.Minute)
				r.want("in the end", w, Ready)
				if got := w.Epoch(); got != tt.want {
					t.Errorf("epoch %d, want %d", got, tt.want)
				}
			})
		})
	}
}

func TestReadyAt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.es.at("a").set("refused")
		w := r.add("a", Spec{})
		after(time.Minute)
		if at := w.ReadyAt(); !at.IsZero() {
			t.Errorf("a worker that was never ready was so at %v", at)
		}
		for range 2 {
			r.es.at("a").set("up")
			after(time.Minute)
			r.want("then", w, Ready)
			if age := time.Since(w.ReadyAt()); age < 20*time.Second || age > time.Minute {
				t.Errorf("it became ready %v ago, want less than a minute", age)
			}
			r.es.at("a").set("refused")
			w.Suspect()
			after(10 * time.Minute)
		}
	})
	if w := still(t); time.Since(w.ReadyAt()) > time.Minute {
		t.Errorf("one that is not checked became ready at %v, want now", w.ReadyAt())
	}
}

func TestAVetoMakesANewSnapshot(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		w := r.add("a", Spec{})
		after(time.Second)
		var seen []bool
		r.Watch(func(*Snapshot) { seen = append(seen, w.Vetoed()) })
		w.setVeto(Overloaded, true)
		after(10 * time.Millisecond)
		w.setVeto(Wedged, true)
		after(10 * time.Millisecond)
		w.setVeto(Overloaded, false)
		after(10 * time.Millisecond)
		w.setVeto(Wedged, false)
		w.setVeto(Wedged, false)
		after(10 * time.Millisecond)
		if len(seen) < 3 || !seen[1] || seen[len(seen)-1] {
			t.Errorf("snapshots saw the veto as %v, want one with it and a last one without", seen)
		}
		if got := (Overloaded | Wedged).String(); got != "overloaded, wedged" {
			t.Errorf("String() = %q", got)
		}
	})
}
