package wasm

import (
	"os"
	"testing"
)

// guests are those that are measured. SLUICE_WASM_GUEST names a further one,
// which is too large to be kept here.
func guests() []string {
	all := []string{"component/testdata/c-auth-smg.component.wasm", "component/testdata/clibc-auth-smg.component.wasm", "component/testdata/rust-auth-smg.component.wasm"}
	if g := os.Getenv("SLUICE_WASM_GUEST"); g != "" {
		all = append(all, g)
	}
	return all
}

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
