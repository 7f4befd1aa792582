package h1

import (
	"fmt"
	"strings"
	"testing"
)

// TestErrorsSayWhatAndWhere holds errors to what is put in logs and labels.
func TestErrorsSayWhatAndWhere(t *testing.T) {
	var h RequestHead
	_, err := ParseRequest([]byte("GET / HTTP/1.1\r\nHost: secret secret\r\n\r\n"), &h, DefaultLimits())
	if got, want := fmt.Sprint(err), "400: Host is not a host with an optional port (RFC 9112 §3.2)"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	var f []string
	for i := range FramingClose + 2 {
		f = append(f, i.String())
	}
	if got, want := strings.Join(f, " "), "none length chunked close Framing(4)"; got != want {
		t.Errorf("framings are called %q, want %q", got, want)
	}
}
