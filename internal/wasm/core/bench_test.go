package core_test

import (
	"bytes"
	"testing"

	"sluice/internal/wasm/core"
)

// BenchmarkRewrite is what registering a module costs before it is compiled.
func BenchmarkRewrite(b *testing.B) {
	ms := modules(b)
	for _, name := range []string{"c-auth-smg/0", "clibc-auth-smg/0", "rust-auth-smg/0"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(ms[name].Binary)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := core.Rewrite(ms[name], core.Options{Stack: stack}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCost is what being stoppable costs a guest: each runs as it is and
// rewritten.
func BenchmarkCost(b *testing.B) {
	for _, tt := range []struct {
		name string
		code []byte // of "f", (i32) -> i32
		arg  uint64
	}{
		{"fib", []byte{0x20, 0, 0x41, 2, 0x48, 0x04, 0x7f, 0x20, 0, 0x05, 0x20, 0, 0x41, 1, 0x6b, 0x10, 0, 0x20, 0, 0x41, 2, 0x6b, 0x10, 0, 0x6a, 0x0b, 0x0b}, 20},
		{"sum", []byte{ // of 64 KiB of memory, a word at a time
			0x03, 0x40, 0x20, 1, 0x20, 2, 0x28, 2, 0, 0x6a, 0x21, 1,
			0x20, 2, 0x41, 4, 0x6a, 0x22, 2, 0x41, 0xfc, 0xff, 3, 0x49, 0x0d, 0, 0x0b, 0x20, 1, 0x0b,
		}, 0},
		{"hash", []byte{ // FNV of 4,096 bytes
			0x03, 0x40, 0x20, 1, 0x20, 2, 0x2d, 0, 0, 0x73, 0x41, 0x93, 0x83, 0x80, 8, 0x6c, 0x21, 1,
			0x20, 2, 0x41, 1, 0x6a, 0x22, 2, 0x41, 0x80, 0x20, 0x49, 0x0d, 0, 0x0b, 0x20, 1, 0x0b,
		}, 0},
	} {
		plain := codeWith([]byte{1, 2, 0x7f}, tt.code...)
		for way, binary := range map[string][]byte{"plain": plain, "rewritten": rewrite(b, plain).Binary} {
			b.Run(tt.name+"/"+way, func(b *testing.B) {
				m, err := compiler(b).Instantiate(b.Context(), binary)
				if err != nil {
					b.Fatal(err)
				}
				f := m.ExportedFunction("f")
				var st [1]uint64
				b.ReportAllocs()
				for b.Loop() {
					st[0] = tt.arg
					if err := f.CallWithStack(b.Context(), st[:]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// setAll writes to the first n locals.
func setAll(n int) (b []byte) {
	for i := range n {
		b = concat(b, []byte{0x20}, leb(i), []byte{0x41, 1, 0x6a, 0x21}, leb(i))
	}
	return b
}

// interpreterAlone is a module of an interpreter.
func interpreterAlone(calls, locals int) []byte {
	b := interpreter(calls, locals)
	return module(section(1, times(1, 0x60, 1, 0x7f, 1, 0x7f)), section(3, times(1, 0)), section(10, leb(1), leb(len(b)), b))
}

// BenchmarkCompileHostile is what the engine takes for functions that are only
// just not refused.
func BenchmarkCompileHostile(b *testing.B) {
	for name, binary := range map[string][]byte{
		"calls of itself": code(concat(bytes.Repeat(ofItself, 5000), []byte{0x20, 0, 0x0b})...),
		"many loops":      code(concat(bytes.Repeat([]byte{3, 0x40, 0x0b}, 3400), []byte{0x20, 0, 0x0b})...),
		"many choices":    code(concat(bytes.Repeat([]byte{0x20, 0, 4, 0x40, 0x0b}, 10_000), []byte{0x20, 0, 0x0b})...),
		"filling":         code(concat(bytes.Repeat([]byte{0x41, 0, 0x41, 0, 0x20, 0, 0xfc, 11, 0}, 2000), []byte{0x20, 0, 0x0b})...),
		"an interpreter":  interpreterAlone(6, 200),
		"loops, locals":   codeWith(concat([]byte{1}, leb(500), []byte{0x7f}), concat(bytes.Repeat([]byte{3, 0x40}, 64), setAll(500), bytes.Repeat([]byte{0x20, 0, 0x0d, 0, 0x0b}, 64), []byte{0x20, 0, 0x0b})...),
	} {
		out := rewrite(b, binary).Binary
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := compiler(b).CompileModule(b.Context(), out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
