package wasm

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// executable is how many bytes of the process's memory may be run.
func executable(t *testing.T) (n int64) {
	t.Helper()
	for l := range strings.Lines(string(file(t, "/proc/self/maps"))) {
		var from, to uint64
		var may string
		if _, err := fmt.Sscanf(l, "%x-%x %s", &from, &to, &may); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(may, "x") {
			n += int64(to - from)
		}
	}
	return n
}

// TestCodeOfModulesThatAreGoneIsGone holds that modules that were registered and
// removed leave none of their code, whichever they were.
func TestCodeOfModulesThatAreGoneIsGone(t *testing.T) {
	if _, err := os.Stat("/proc/self/maps"); err != nil {
		t.Skip(err)
	}
	for _, dir := range []string{"", t.TempDir()} {
		e, err := NewEngine(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		e.shelf.room = 0 // nothing is kept for later
		before := executable(t)
		const modules = 100
		for i := range modules {
			constant := string([]byte{0x41, byte(i&63) | 0x80, byte(i>>6) | 0x80, 0})
			m, err := e.Load(t.Context(), least(constant+"\x1a"), DefaultSettings())
			if err != nil {
				t.Fatal(err)
			}
			m.Close()
		}
		const each = 4 << 10 // a page of each would be too much
		grown := int64(0)
		for begun := time.Now(); time.Since(begun) < 10*time.Second; runtime.Gosched() {
			runtime.GC() // which gives code back
			if grown = executable(t) - before; grown < modules*each/4 {
				break
			}
		}
		if grown >= modules*each/4 {
			t.Errorf("%d modules have left %d bytes of code", modules, grown)
		}
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}
