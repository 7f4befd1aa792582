package wasm

import "testing"

// TestTheEngineBeneathKeepsItsWord runs what every start runs.
func TestTheEngineBeneathKeepsItsWord(t *testing.T) {
	if frozen, err := selfTest(t.Context()); frozen != "" || err != nil {
		t.Errorf("instances cannot be put back: %q; cannot be run: %v", frozen, err)
	}
}

func BenchmarkSelfTest(b *testing.B) {
	for b.Loop() {
		if _, err := selfTest(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
