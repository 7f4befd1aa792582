package wasm

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
)

// manyBlocks is a core module with one function, which has n blocks.
func manyBlocks(t *testing.T, n int) *core.Module {
	t.Helper()
	body := append([]byte{0}, bytes.Repeat([]byte{0x02, 0x40, 0x0b}, n)...)
	body = append(body, 0x0b)
	code := append(appendU32([]byte{1}, len(body)), body...)
	b := append([]byte(wasmHeader), 1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0)
	b = append(appendU32(append(b, 10), len(code)), code...)
	m, err := core.Decode(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestManyPartsTogetherHaveABound holds that what compiling takes is bounded for a
// component as a whole, and not only for each of its core modules, of which it
// may have many, and instances of one.
func TestManyPartsTogetherHaveABound(t *testing.T) {
	for _, tt := range []struct {
		parts, blocks int
		ok            bool
	}{
		{1, 5000, true}, // a quarter of what there may be
		{3, 5000, true},
		{9, 5000, false},
		{200, 100, true},
	} {
		for _, same := range []bool{false, true} {
			c := &code{plan: new(component.Plan), limits: DefaultLimits(), rt: newRuntime(t.Context(), DefaultLimits(), nil)}
			for i := range tt.parts {
				module := 0
				if i == 0 || !same {
					module = len(c.plan.Modules)
					c.plan.Modules = append(c.plan.Modules, manyBlocks(t, tt.blocks))
				}
				c.plan.Instances = append(c.plan.Instances, component.Instance{Module: module})
			}
			err := c.link(t.Context())
			if tt.ok && err != nil || !tt.ok && (err == nil || !strings.Contains(err.Error(), "all together too much")) {
				t.Errorf("%d parts of %d blocks, of one module %v: %v", tt.parts, tt.blocks, same, err)
			}
			c.close(context.Background())
		}
	}
}

// TestTheCodeOfAllInstancesHasABound holds that code is counted as often as it is
// compiled.
func TestTheCodeOfAllInstancesHasABound(t *testing.T) {
	var a amount
	for n := 0; n < maxCode; n += 1 << 20 {
		if err := a.add(&core.Rewritten{Code: 1 << 20}); err != nil {
			t.Fatalf("at %d bytes: %v", n, err)
		}
	}
	if err := a.add(&core.Rewritten{Code: 1}); err == nil {
		t.Errorf("more than %d bytes are compiled", maxCode)
	}
}
