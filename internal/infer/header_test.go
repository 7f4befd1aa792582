package infer

import (
	"fmt"
	"strings"
	"testing"
)

func text(h *Header) string {
	var b strings.Builder
	for _, f := range h.Fields() {
		fmt.Fprintf(&b, "%s=%s ", f.Name, f.Value)
	}
	return strings.TrimSpace(b.String())
}

func TestHeaderKeepsOrderAndCase(t *testing.T) {
	var h Header
	h.Add([]byte("Content-Type"), []byte("a"))
	h.AddString("X-Two", "1")
	h.AddString("x-two", "2")
	h.AddString("Last", "")
	f := func(want string) {
		t.Helper()
		if got := text(&h); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f("Content-Type=a X-Two=1 x-two=2 Last=")
	h.Set("X-TWO", "3")
	f("Content-Type=a X-Two=3 Last=")
	h.Del("content-type")
	f("X-Two=3 Last=")
	if h.Get("last") == nil || h.Has("gone") {
		t.Error("an empty value must be there, an absent one not")
	}
}

func TestHeaderValuesOutliveGrowth(t *testing.T) {
	var h Header
	h.Set("first", "kept")
	first := h.Get("first")
	for i := range 100 {
		h.AddString(fmt.Sprintf("name-%d", i), strings.Repeat("v", 50))
	}
	if string(first) != "kept" {
		t.Errorf("an early value became %q", first)
	}
}

func TestHasToken(t *testing.T) {
	var h Header
	h.AddString("Connection", "close , X-Secret")
	h.AddString("connection", "Upgrade")
	for token, want := range map[string]bool{"x-secret": true, "upgrade": true, "secret": false} {
		if got := h.HasToken("Connection", token); got != want {
			t.Errorf("HasToken(%q) = %v, want %v", token, got, want)
		}
	}
}
