// Package intern makes strings of bytes that come again and again, such as the
// names of models, without making one each time.
package intern

import (
	"hash/maphash"
	"sync/atomic"
)

const (
	size = 1024 // a power of two

	// MaxLen is the length of the longest string that is kept.
	MaxLen = 128
)

// A Table remembers up to 1,024 strings. Its zero value is ready; it may be
// used by many goroutines at once, takes no lock, and is full from the start:
// a new string takes the place of another. It must not be copied.
type Table struct {
	slots [size]atomic.Pointer[string]
}

// seed keeps clients from choosing strings that all fall on one place.
var seed = maphash.MakeSeed()

// String returns b as a string. It allocates if b was not seen lately or is
// longer than MaxLen.
func (t *Table) String(b []byte) string {
	if len(b) == 0 || len(b) > MaxLen {
		return string(b)
	}
	slot := &t.slots[maphash.Bytes(seed, b)%size]
	if p := slot.Load(); p != nil && *p == string(b) {
		return *p
	}
	s := string(b)
	slot.Store(&s)
	return s
}
