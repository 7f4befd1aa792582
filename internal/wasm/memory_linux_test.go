package wasm

import "testing"

// TestAMemoryThatIsLongNowAndThen is of a component with several memories, one of
// which is so short that it is put back as a whole, unless it has grown. What it
// wrote while it was short is not forgotten when it is long again.
func TestAMemoryThatIsLongNowAndThen(t *testing.T) {
	if err := unwatched(); err != nil {
		t.Skip(err)
	}
	im, err := newImage(make([]byte, pageSize))
	if err != nil {
		t.Fatal(err)
	}
	defer im.close()
	m := (&allocator{limit: 4 * pageSize}).Allocate(0, 1<<32).(*memory)
	defer m.Free()
	if m.Reallocate(pageSize) == nil {
		t.Fatal("memory cannot be opened")
	}
	if err := m.adopt(im); err != nil {
		t.Fatal(err)
	}
	m.owner = &instance{}
	m.owner.watch.on = true
	call := func(grows, quiet bool, at int) {
		t.Helper()
		if grows && m.Reallocate(2*pageSize) == nil {
			t.Fatal("memory cannot grow")
		}
		m.base[at] = 7
		if err := m.reset(quiet); err != nil {
			t.Fatal(err)
		}
		if m.base[at] != 0 {
			t.Errorf("what was written at %d is still there", at)
		}
	}
	const elsewhere = 5 << 12
	call(true, false, 0)
	call(false, false, elsewhere)
	call(true, true, elsewhere) // without a fault: the page is the process's own
}
