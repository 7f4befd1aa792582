package buf

import "testing"

func TestSizes(t *testing.T) {
	for _, n := range []int{0, 1, 1023, 1024, 1025, 16 << 10, 1 << 24, 1<<24 + 1} {
		b := Get(n)
		if len(b.B) != n {
			t.Errorf("Get(%d) has length %d", n, len(b.B))
		}
		if n > 512 && n <= 1<<24 && cap(b.B) >= 2*n {
			t.Errorf("Get(%d) wastes %d bytes", n, cap(b.B)-n)
		}
		b.Free()
	}
}

func TestGrowKeepsBytes(t *testing.T) {
	b := Get(3)
	copy(b.B, "abc")
	b = b.Grow(1000)
	b = b.Grow(5000)
	if string(b.B[:3]) != "abc" || len(b.B) != 5000 {
		t.Errorf("grown to %d bytes that begin with %q", len(b.B), b.B[:3])
	}
	b.Free()
}

func TestNothingIsAllocatedOnceWarm(t *testing.T) {
	if raceEnabled {
		t.Skip("pools drop values under the race detector")
	}
	if n := testing.AllocsPerRun(100, func() { Get(9000).Free() }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
