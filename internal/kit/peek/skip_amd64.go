package peek

import "golang.org/x/sys/cpu"

// What reads strings here. They change in tests only.
var (
	hasAVX2   = cpu.X86.HasAVX2 && cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT
	hasAVX512 = hasAVX2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VBMI
	hasVBMI2  = hasAVX512 && cpu.X86.HasAVX512VBMI2
)

// skips reports whether skip skips at all.
func skips() bool { return hasAVX2 }

const (
	// skipStep bounds how much is read at a time: a goroutine in assembly
	// cannot be stopped, and the garbage collector waits for it. This is about
	// 50 microseconds.
	skipStep = 1 << 19

	// skipEnd is more than what the functions leave unread of sound text: less
	// than a block, and less than an escape.
	skipEnd = 64 + 6
)

// skip reads the inside of a string from i on, where no escape may have begun
// before. It returns an index: up to there the string does not end, nothing is
// wrong, and no escape reaches beyond. What is there must be looked at; it need
// not be an end or an error.
func skip(b []byte, i int) int {
	for {
		end := min(i+skipStep, len(b))
		switch {
		case hasAVX512:
			i = skipAVX512(b[:end], i)
		case hasAVX2:
			i = skipAVX2(b[:end], i)
		default:
			return i
		}
		if end == len(b) || i < end-skipEnd {
			return i
		}
	}
}

// skipAVX2 is skip without steps. It reads whole blocks of 64 bytes only.
//
//go:noescape
func skipAVX2(b []byte, i int) int

// skipAVX512 is skip without steps. It reads up to the end of b.
//
//go:noescape
func skipAVX512(b []byte, i int) int

// hasText reports whether textAVX512 can be called.
func hasText() bool { return hasVBMI2 }

// textAVX512 writes the text of src, the inside of a string, to dst, up to the end
// of src, a quote or a control character, or an escape that it cannot read: those
// that are wrong, and \u. It returns how much it wrote and how much of src that
// was, which is not within an escape. dst must be as long as src; what it holds
// behind the text is undefined.
//
//go:noescape
func textAVX512(dst, src []byte) (nd, ns int)
