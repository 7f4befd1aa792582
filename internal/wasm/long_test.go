package wasm

import "testing"

// TestLongBodies holds that every guest takes what a module may be given: a long
// body, and one after the other. A runtime that collects garbage, as Go's in
// request-log, does so where its allocator is called, and looks at the clock then.
func TestLongBodies(t *testing.T) {
	for _, file := range append(guests(), "../../examples/wasm/request-log/request-log.wasm") {
		for _, how := range []Isolation{Snapshot, Fresh, Shared} {
			t.Run(name(file)+" "+string(how), func(t *testing.T) {
				set := DefaultSettings()
				set.Isolation = how
				m := loadFile(t, file, set)
				sizes := []int{130_000, 3 << 20}
				if how == Shared {
					for range 300 {
						sizes = append(sizes, 30_000)
					}
				}
				c, a := new(Call), new(Action)
				for i, n := range sizes {
					if err := m.OnRequest(t.Context(), c, request(n), a); err != nil {
						t.Fatalf("call %d, %d bytes: %v", i+1, n, err)
					}
				}
			})
		}
	}
}
