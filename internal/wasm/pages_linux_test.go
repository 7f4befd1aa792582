package wasm

import "testing"

// greedy is an http-wasm module that takes all the memory that there can be, writes
// to the end of it and reads that; and traps if that is not as it should be, or if
// it gets more.
var greedy = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x0a\x02\x60\x00\x01\x7e\x60\x02\x7f\x7f\x00" + // () -> i64, (i32 i32) -> ()
	"\x03\x03\x02\x00\x01" +
	"\x05\x03\x01\x00\x01" + // a memory of one page
	"\x07\x2d\x03\x06memory\x02\x00\x0ehandle_request\x00\x00\x0fhandle_response\x00\x01" +
	"\x0a\x43\x02" +
	"\x3e\x00" +
	"\x41\xfe\xff\x03\x40\x00\x41\x01\x47\x04\x40\x00\x0b" + // grow(65534) != 1: unreachable
	"\x41\x01\x40\x00\x41\x7f\x47\x04\x40\x00\x0b" + // grow(1) != -1
	"\x3f\x00\x41\xff\xff\x03\x47\x04\x40\x00\x0b" + // size != 65535
	"\x41\xff\xff\x7b\x41\x07\x3a\x00\x00" + // [-65537] = 7
	"\x41\xff\xff\x7b\x2d\x00\x00\x41\x07\x47\x04\x40\x00\x0b" +
	"\x42\x01\x0b" +
	"\x02\x00\x0b")

// TestAllTheMemoryThereCanBe: a module whose limit is the contract's largest gets all
// but the last page of that, and its memory is put back.
func TestAllTheMemoryThereCanBe(t *testing.T) {
	for _, is := range []Isolation{Snapshot, Fresh, Shared} {
		e := newDiskEngine(t, t.TempDir())
		set := DefaultSettings()
		set.Isolation, set.Limits.MemoryPages = is, 1<<16
		m, err := e.Load(t.Context(), greedy, set)
		if err != nil {
			t.Fatal(err)
		}
		calls := 3
		if is == Shared {
			calls = 1 // the next has it all from the start
		}
		for range calls {
			var c Call
			if err := m.OnRequest(t.Context(), &c, request(10), new(Action)); err != nil {
				t.Errorf("%s: %v", is, err)
			}
			c.Release()
		}
		m.Close()
	}
}
