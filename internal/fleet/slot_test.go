package fleet

import (
	"fmt"
	"testing"

	"sluice/internal/kit/breaker"
)

// TestSlots holds that no two workers of a snapshot have one number, and that
// numbers do not grow when workers come and go.
func TestSlots(t *testing.T) {
	health := DefaultHealthConfig()
	health.Disabled = true
	r := New(DefaultConfig(), health, breaker.DefaultConfig(), Options{})
	var ids []ID
	for i := range 300 {
		id, err := r.Add(Spec{URL: fmt.Sprintf("http://10.0.%d.%d:1", i/100, i%100), Models: []ModelCard{{ID: "m"}}})
		if err != nil {
			t.Fatal(err)
		}
		if ids = append(ids, id); i%3 == 2 { // the oldest goes
			if err := r.Remove(ids[0]); err != nil {
				t.Fatal(err)
			}
			ids = ids[1:]
		}
		seen := make(map[int]bool)
		for _, w := range r.Snapshot().All {
			if seen[w.Slot()] || w.Slot() < 0 || w.Slot() > len(ids) {
				t.Fatalf("of %d workers one has the slot %d, taken: %v", len(ids), w.Slot(), seen[w.Slot()])
			}
			seen[w.Slot()] = true
		}
	}
}
