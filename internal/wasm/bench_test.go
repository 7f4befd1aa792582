//go:build !race

package wasm

import (
	"syscall"
	"testing"
	"time"
)

// spent is the processor time that the process has used: on a machine with other
// work, the clock on the wall tells of that.
func spent(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// calls measures f, from one goroutine and from many at once.
func calls(b *testing.B, f func() func() error) {
	measure := func(b *testing.B, run func(*testing.B)) {
		b.ReportAllocs()
		begin := spent(b)
		run(b)
		b.ReportMetric(float64((spent(b)-begin).Nanoseconds())/float64(b.N), "cpu-ns/op")
	}
	b.Run("1", func(b *testing.B) {
		call := f()
		measure(b, func(b *testing.B) {
			for b.Loop() {
				if err := call(); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("16", func(b *testing.B) {
		b.SetParallelism(8) // times GOMAXPROCS, of 2
		measure(b, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				call := f()
				for pb.Next() {
					if err := call(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	})
}

// BenchmarkOnRequest is a call as requests make it: a body of 2 KiB, 12 headers,
// put back afterwards, with all limits on.
func BenchmarkOnRequest(b *testing.B) {
	for _, file := range guests() {
		m := loadFile(b, file, DefaultSettings())
		b.Run(name(file), func(b *testing.B) {
			calls(b, func() func() error {
				r, c, a := request(2048), new(Call), new(Action)
				return func() error { return m.OnRequest(b.Context(), c, r, a) }
			})
		})
	}
}

// chunkers are modules that look at events: one in C, which asks the host for what
// it is to do; one in Rust that looks at the event and passes it; one in Rust that
// takes texts apart.
var chunkers = []string{"testdata/every.wasm", "testdata/look.wasm", "../../examples/wasm/redact/redact.wasm"}

func BenchmarkOnChunk(b *testing.B) {
	event := []byte(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" hello"},"finish_reason":null}]}` + "\n\n")
	for _, file := range chunkers {
		m := loadFile(b, file, DefaultSettings())
		b.Run(name(file), func(b *testing.B) {
			calls(b, func() func() error {
				c, a := &Call{Store: NewStore()}, new(ChunkAction)
				return func() error { return m.OnChunk(b.Context(), c, event, a) }
			})
		})
	}
}

// TestCallsDoNotAllocate holds that a call takes no memory once an instance and
// what it answers have had some.
func TestCallsDoNotAllocate(t *testing.T) {
	for _, file := range guests() {
		m := loadFile(t, file, DefaultSettings())
		r, c, a := request(2048), new(Call), new(Action)
		if n := testing.AllocsPerRun(200, func() {
			if err := m.OnRequest(t.Context(), c, r, a); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", file, n)
		}
	}
	for _, file := range chunkers {
		m := loadFile(t, file, DefaultSettings())
		c, a, event := &Call{Store: NewStore()}, new(ChunkAction), []byte("data: a@b.example\n\n")
		if n := testing.AllocsPerRun(200, func() {
			if err := m.OnChunk(t.Context(), c, event, a); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%s, an event: %v allocations", file, n)
		}
	}
}
