// Package buf lends byte slices by size class, so that the memory that bytes
// pass through is used again, and held only while there are bytes in it.
package buf

import (
	"math/bits"
	"sync"
)

// The classes are powers of two. What is larger than the largest is made for
// its one use.
const (
	smallest = 10 // 1 KiB
	largest  = 24 // 16 MiB
)

// A Buf is a lent slice. Whoever has it may write to all of B[:cap(B)] until
// it calls Free, once.
type Buf struct {
	B     []byte
	class int8
}

var pools [largest - smallest + 1]sync.Pool

// Get lends a Buf with a B of length n, and more capacity if its class has it.
// What is in it is what somebody left there.
func Get(n int) *Buf {
	class := max(bits.Len(uint(max(n, 1)-1)), smallest)
	if class > largest {
		return &Buf{B: make([]byte, n), class: -1}
	}
	if b, ok := pools[class-smallest].Get().(*Buf); ok {
		b.B = b.B[:n]
		return b
	}
	return &Buf{B: make([]byte, n, 1<<class), class: int8(class)}
}

// Size returns how much memory Get(n) takes.
func Size(n int) int {
	class := max(bits.Len(uint(max(n, 1)-1)), smallest)
	if class > largest {
		return n
	}
	return 1 << class
}

// Free gives b back. Its bytes, and slices of them, belong to others from then
// on.
func (b *Buf) Free() {
	if b.class < 0 {
		return
	}
	b.B = b.B[:0]
	pools[b.class-smallest].Put(b)
}

// Grow returns a Buf of length n that begins with what is in b, which is freed
// if it is too small.
func (b *Buf) Grow(n int) *Buf {
	if n <= cap(b.B) {
		b.B = b.B[:n]
		return b
	}
	g := Get(n)
	copy(g.B, b.B)
	b.Free()
	return g
}
