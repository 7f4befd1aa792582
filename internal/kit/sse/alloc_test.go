//go:build !race

package sse

import (
	"strings"
	"testing"
	"unsafe"
)

func TestWatcherDoesNotAllocate(t *testing.T) {
	for name, stream := range map[string]string{"openai": openAI, "anthropic": anthropic, "responses": responses, "generate": generate, "burst": strings.Repeat(chunk, 200)} {
		p := []byte(stream)
		if n := testing.AllocsPerRun(100, func() { // a new stream each time
			var w Watcher
			w.Feed(p)
			if !w.AtBoundary() {
				t.Fatal("not at a boundary")
			}
		}); n != 0 {
			t.Errorf("%s, whole events: %v allocations, want 0", name, n)
		}
		var w Watcher
		if n := testing.AllocsPerRun(100, func() {
			for cut := 0; cut < len(p); cut += 101 {
				w.Feed(p[cut:min(cut+101, len(p))])
			}
		}); n != 0 {
			t.Errorf("%s, cut events after the first: %v allocations, want 0", name, n)
		}
	}
	body := []byte(`{"id":"x","usage":{"prompt_tokens":3}}`)
	if n := testing.AllocsPerRun(100, func() { UsageOf(body) }); n != 0 {
		t.Errorf("UsageOf: %v allocations, want 0", n)
	}
	if n := unsafe.Sizeof(Watcher{}); n > 160 {
		t.Errorf("a Watcher takes %d bytes, want at most 160: there is one for each stream", n)
	}
}

func TestReaderDoesNotAllocateByEvent(t *testing.T) {
	rd := NewReader(strings.NewReader(strings.Repeat(anthropic, 1000)))
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := rd.Next(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations an event, want 0", n)
	}
}
