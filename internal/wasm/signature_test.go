package wasm

import (
	"os"
	"testing"
)

// TestOwnWorldLoads: modules of our own world, whose hooks are exported under
// names that begin with "sluice:", load.
func TestOwnWorldLoads(t *testing.T) {
	for _, name := range []string{"api-key", "rate-limit", "redact"} {
		b, err := os.ReadFile("../../examples/wasm/" + name + "/" + name + ".wasm")
		if err != nil {
			t.Fatal(err)
		}
		c, err := compile(t.Context(), b, DefaultLimits(), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.world != ownPackage {
			t.Errorf("%s: it is of world %s, want %s", name, c.world, ownPackage)
		}
		c.close(t.Context())
	}
}
