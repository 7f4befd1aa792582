package wasm

import (
	"runtime"
	"testing"
	"weak"
)

// TestATrimmedActionHoldsNoLongBody: what it says of headers is in the memory of the
// body that was there before, and is not to keep that.
func TestATrimmedActionHoldsNoLongBody(t *testing.T) {
	a := &Action{mem: make([]byte, 16, 2<<20)}
	text := view(a.mem)
	a.fields, a.strings = append(a.fields, Field{text, text}), append(a.strings, text)
	a.Set, a.Remove = a.fields, a.strings
	held := weak.Make(&a.mem[0])
	text = ""
	a.Trim(1 << 20)
	runtime.GC()
	if held.Value() != nil {
		t.Error("the memory is still held")
	}
	if cap(a.fields) == 0 || cap(a.strings) == 0 {
		t.Error("the lists have lost their room")
	}
}
