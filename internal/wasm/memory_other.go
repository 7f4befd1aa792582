//go:build !linux

package wasm

import (
	"sync/atomic"

	"github.com/tetratelabs/wazero/experimental"
)

// A memory is a guest's linear memory on the Go heap. It is put back by copying
// all of it.
type memory struct {
	base  []byte
	limit uint64        // bytes that the guest may have
	high  atomic.Uint64 // bytes that it has had at most
	size  uint64
	image *image // nil until it is adopted
	grew  bool   // since the last reset
	back  bool   // Reallocate is to return the image's length
}

// Reallocate implements experimental.LinearMemory. While a memory is put back it
// tells the engine the length that it had: that is how a memory shrinks.
func (m *memory) Reallocate(size uint64) []byte {
	if m.back {
		return m.base[:m.image.size:m.image.size]
	}
	if size > m.limit {
		return nil
	}
	if size > uint64(cap(m.base)) {
		b := make([]byte, size, min(m.limit, size+size/4))
		copy(b, m.base)
		m.base = b
	}
	m.base = m.base[:size]
	m.size, m.grew = size, true
	m.high.Store(max(m.high.Load(), size))
	return m.base[:size:size]
}

// Free implements experimental.LinearMemory.
func (m *memory) Free() { m.base = nil }

// keepTail is how much of what a memory grew by stays: all that there may be.
const keepTail = 1 << 32

// An allocator makes memories, and remembers which.
type allocator struct {
	limit uint64
	made  []*memory
}

// Allocate implements experimental.MemoryAllocator. A page of what is asked for
// is room for putting the memory back, and not the guest's.
func (a *allocator) Allocate(_, most uint64) experimental.LinearMemory {
	m := &memory{limit: min(most-min(most, pageSize), a.limit)}
	a.made = append(a.made, m)
	return m
}

// An image is what a memory holds in the snapshot. All instances share it.
type image struct {
	size uint64
	view []byte
}

func newImage(mem []byte) (*image, error) {
	return &image{size: uint64(len(mem)), view: append([]byte(nil), mem...)}, nil
}

func (im *image) close() {}

func (m *memory) adopt(im *image) error {
	m.image, m.grew = im, m.size != im.size
	return nil
}

// shrink begins to make m as short as its image: until shrunk, whatever length
// the engine asks for, it is told that one.
func (m *memory) shrink() { m.back = true }
func (m *memory) shrunk() { m.back, m.grew = false, false }

// excess is how much of the memory reset gives back: nothing is.
func (m *memory) excess() uint64 { return 0 }

// reset makes m hold what its image holds.
func (m *memory) reset(bool) error {
	n := copy(m.base, m.image.view)
	clear(m.base[n:])
	m.size = m.image.size
	return nil
}
