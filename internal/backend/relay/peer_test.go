package relay

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"sluice/internal/fleet"
	"sluice/internal/kit/breaker"
)

// TestAWorkerIsSpokenToAsItself: whoever had its slot before, and however many
// come and go while requests find out how to speak to them; and of who has left
// nothing is kept.
func TestAWorkerIsSpokenToAsItself(t *testing.T) {
	b := backend(t)
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	reg := fleet.New(fleet.DefaultConfig(), health, breaker.DefaultConfig(), fleet.Options{})
	for round := range 20 {
		const n = 100 // more than there is room for at first
		for i := range n {
			if _, err := reg.Add(fleet.Spec{URL: fmt.Sprintf("http://w%d-%d:8000", round, i)}); err != nil {
				t.Fatal(err)
			}
		}
		ws := reg.Snapshot().All
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 500 {
					w := ws[rand.IntN(len(ws))]
					p, err := b.peer(w)
					if err != nil || p.worker != w || p.name != w.URL().Host {
						t.Errorf("%s is spoken to as %+v (%v)", w.Base(), p, err)
					}
				}
			})
		}
		wg.Go(func() {
			for _, w := range ws {
				if w.Slot()%2 == 0 {
					b.Forget(w)
				}
			}
		})
		wg.Wait()
		for _, w := range ws {
			if err := reg.Remove(w.ID()); err != nil {
				t.Fatal(err)
			}
			b.Forget(w)
			if p, err := b.peer(w); err != nil || p.worker != w { // a request had chosen it before
				t.Errorf("%s, which is leaving, is spoken to as %+v (%v)", w.Base(), p, err)
			}
			if s := b.nearby(w); s != nil && s.Load() != nil {
				t.Fatalf("%s has left, and how it is spoken to is kept", w.Base())
			}
		}
	}
	b.peers.Range(func(w, _ any) bool {
		t.Errorf("%s has left, and how it is spoken to is kept", w.(*fleet.Worker).Base())
		return true
	})
}
