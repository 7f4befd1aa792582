package intern

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"unsafe"
)

func TestString(t *testing.T) {
	var tab Table
	f := func(s string, kept bool) {
		t.Helper()
		first := tab.String([]byte(s))
		b := []byte(s)
		second := tab.String(b)
		clear(b) // the caller's memory is its own
		if first != s || second != s {
			t.Errorf("%q came back as %q and %q", s, first, second)
		}
		if same := unsafe.StringData(first) == unsafe.StringData(second); s != "" && same != kept {
			t.Errorf("%.20q: the same memory twice: %v, want %v", s, same, kept)
		}
	}
	f("", false)
	f("meta-llama/Llama-3.1-8B-Instruct", true)
	f("a\x00\xff", true)
	f(strings.Repeat("x", MaxLen), true)
	f(strings.Repeat("x", MaxLen+1), false)
}

// TestManyAtOnce holds that nobody gets another's string, however many there
// are for a place.
func TestManyAtOnce(t *testing.T) {
	var tab Table
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 3 * size {
				if want := fmt.Sprint("model-", i); tab.String([]byte(want)) != want {
					t.Errorf("%q came back as another", want)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkString(b *testing.B) {
	var tab Table
	name := []byte("meta-llama/Llama-3.1-8B-Instruct")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if tab.String(name) == "" {
				b.Fatal("lost")
			}
		}
	})
}
