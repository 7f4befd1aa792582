//go:build !race

package peek

import "testing"

func TestObjectDoesNotAllocate(t *testing.T) {
	for _, kind := range kinds {
		body := append([]byte(`{"mo\u0064el2":1,`), kind.make(100 << 10)[1:]...)
		var got [3]Value
		if n := testing.AllocsPerRun(10, func() {
			if err := Object(body, routing, got[:]); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", kind.name, n)
		}
	}
}

func TestTextIsAppendedInPlace(t *testing.T) {
	body := chat(2400, 300, escapes)
	dst := make([]byte, 0, len(body))
	if n := testing.AllocsPerRun(10, func() { dst = AppendText(dst[:0], body[len(`{"messages": `):]) }); n != 0 {
		t.Errorf("AppendText: %v allocations with room in dst, want 0", n)
	}
	if len(dst) == 0 {
		t.Error("there was no text")
	}
	var got [3]Value
	var parts [3]Part
	if n := testing.AllocsPerRun(10, func() { _, _ = ObjectText(body, routing, got[:], 1<<2, dst[:0], parts[:]) }); n != 0 || parts[2] != (Part{0, len(dst)}) {
		t.Errorf("ObjectText: %v allocations with room in dst, want 0; %+v", n, parts)
	}
	raw := []byte(`"meta-llama/Llama-3.1-8B-Instruct"`)
	if n := testing.AllocsPerRun(10, func() { StringValue(raw) }); n > 1 {
		t.Errorf("StringValue: %v allocations, want the result's", n)
	}
	if n := testing.AllocsPerRun(10, func() { IsTrue(raw); ArrayEmpty(raw) }); n != 0 {
		t.Errorf("the small questions: %v allocations, want 0", n)
	}
}
