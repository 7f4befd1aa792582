package core_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"sluice/internal/wasm/core"
)

// TestCompilingTakesNoMoreMemory holds that a function is refused for which the
// engine would take more than 512 MiB, with the place where it stands: of each of
// these it takes more than 1 GiB, up to 17.
func TestCompilingTakesNoMoreMemory(t *testing.T) {
	// The types: () -> (), () -> 1,000 values, 1,000 values -> (), the same both ways.
	value := bytes.Repeat([]byte{0x7f}, 1000)
	types := concat(leb(4), []byte{0x60, 0, 0}, []byte{0x60, 0}, leb(1000), value, []byte{0x60}, leb(1000), value, []byte{0},
		[]byte{0x60}, leb(1000), value, leb(1000), value)
	body := func(parts ...[]byte) []byte { return concat(append([][]byte{{1, 1, 0x7f}}, parts...)...) }
	many := func(n int, unit ...byte) []byte { return bytes.Repeat(unit, n) }
	for _, tt := range []struct {
		name string
		body []byte
	}{
		{"calls that pass many values", body(many(2000, 0x10, 1, 0x10, 2), []byte{0x0b})},
		{"blocks that pass many values", body([]byte{0x10, 1}, many(2000, 0x02, 3, 0x0b), []byte{0x10, 2, 0x0b})},
		{"branches that pass many values", body([]byte{0x10, 1, 0x02, 3}, many(3000, 0x41, 0, 0x0d, 0), []byte{0x0b, 0x10, 2, 0x0b})},
		{"many loads", body([]byte{0x20, 0}, many(200_000, 0x28, 0, 0), []byte{0x1a, 0x0b})},
		{"many loads of vectors", body(many(200_000, 0x20, 0, 0xfd, 0, 0, 0, 0x1a), []byte{0x0b})},
		{"many divisions", body([]byte{0x20, 0}, many(500_000, 0x20, 0, 0x6d), []byte{0x1a, 0x0b})},
		{"many truncations", body([]byte{0x20, 0}, many(500_000, 0xb2, 0xa8), []byte{0x1a, 0x0b})},
		{"many calls", body(many(900_000, 0x10, 0), []byte{0x0b})},
		{"many looks at a table", body(many(400_000, 0x41, 0, 0x25, 0, 0x1a), []byte{0x0b})},
		{"many copies", body(many(200_000, 0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 10, 0, 0), []byte{0x0b})},
	} {
		thousand := concat([]byte{0}, many(1000, 0x41, 0), []byte{0x0b})
		before := module(section(1, types), section(3, []byte{4, 0, 1, 2, 0}), section(4, []byte{1, 0x70, 0, 1}), section(5, []byte{1, 0, 1}))
		bodies := [][]byte{{0, 0x0b}, thousand, {0, 0x0b}, tt.body}
		list := leb(len(bodies))
		for _, b := range bodies {
			list = concat(list, leb(len(b)), b)
		}
		b := concat(before, section(10, list))
		m, err := core.Decode(b, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = core.Rewrite(m, core.Options{})
		where, is := errors.AsType[*core.Error](err)
		if !is || !strings.Contains(err.Error(), "MiB") || where.Offset != len(b)-len(tt.body)+3 {
			t.Errorf("%s: got %v, want that it takes too much memory at offset %#x", tt.name, err, len(b)-len(tt.body)+3)
		}
	}
}

// TestGuestsTakeLittleMemory holds that what is refused is far from what guests in
// Rust, Go and C have.
func TestGuestsTakeLittleMemory(t *testing.T) {
	for _, pattern := range []string{"../component/testdata/*.wasm", "../../../examples/wasm/*/*.wasm"} {
		for name, m := range modulesOf(t, pattern) {
			n, err := core.MemoryFor(m, core.Options{})
			if err != nil || n > core.MaxMemory/10 {
				t.Errorf("%s: %d MiB, %v", name, n>>20, err)
			}
		}
	}
}

// TestTypesOfManyValues holds that a module's types may not have values without end:
// the engine compiles a way in for each.
func TestTypesOfManyValues(t *testing.T) {
	one := concat([]byte{0x60}, leb(1000), bytes.Repeat([]byte{0x7f}, 1000), []byte{0})
	_, err := core.Decode(module(section(1, concat(leb(300), bytes.Repeat(one, 300)))), 0)
	if err == nil || !strings.Contains(err.Error(), "more than 262144 parameters and results") {
		t.Errorf("got %v", err)
	}
}
