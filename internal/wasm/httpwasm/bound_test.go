package httpwasm

import (
	"strings"
	"testing"
)

// TestWhatIsSetAgainAndAgainTakesNoMoreMemory: a guest may set its URI as often as it
// has time for.
func TestWhatIsSetAgainAndAgainTakesNoMoreMemory(t *testing.T) {
	mem := memory(t)
	x, out, _ := exchange()
	uri, method := "/"+strings.Repeat("u", maxURI-1), strings.Repeat("M", maxMethod)
	for range 1000 {
		if _, err := call(t, x, mem, "set_uri", uri); err != nil {
			t.Fatal(err)
		}
		if _, err := call(t, x, mem, "set_method", method); err != nil {
			t.Fatal(err)
		}
	}
	if out.URI != uri || out.Method != method {
		t.Errorf("the last URI has %d bytes and the last method %d, want %d and %d", len(out.URI), len(out.Method), len(uri), len(method))
	}
	if got := cap(out.mem); got > maxHeader+maxURI {
		t.Errorf("%d bytes are kept for them", got)
	}
}
