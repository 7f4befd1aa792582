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

// TestNamesThatAreTooLong: setting a header compares its name with all that are
// there, and that is the guest's work.
func TestNamesThatAreTooLong(t *testing.T) {
	mem := memory(t)
	x, out, _ := exchange()
	host := &worker{}
	x.Host = host
	name := strings.Repeat("n", MaxName)
	if _, err := call(t, x, mem, "set_header_value", 0, name, "v"); err != nil || len(out.Request) != 1 {
		t.Fatalf("%v, and %d changes", err, len(out.Request))
	}
	if host.works < MaxName*x.header[ofRequest].len() {
		t.Errorf("to find a name of %d bytes among %d was %d bytes of work", MaxName, x.header[ofRequest].len(), host.works)
	}
	_, err := call(t, x, mem, "set_header_value", 0, name+"n", "v")
	if err == nil || err.Error() != "it changes a header whose name has 257 bytes; at most 256 are allowed" {
		t.Errorf("a longer one: %v", err)
	}
}

// worker is a Host that counts what is done.
type worker struct {
	quiet
	works int
}

func (w *worker) Works(n int) { w.works += n }
