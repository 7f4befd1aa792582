package blocks

import (
	"github.com/zeebo/xxh3"
	"golang.org/x/sys/cpu"
)

// hasAVX512 changes in tests only.
var hasAVX512 = cpu.X86.HasAVX512F && cpu.X86.HasBMI2

// hash sets each of dst to the XXH3 of a block of text. Most of what hashing 512
// bytes costs is what comes before and after them, which is here done for many.
func hash(dst []uint64, text []byte) {
	if hasAVX512 && len(dst) > 0 {
		_ = text[:len(dst)*Size]
		hashAVX512(&dst[0], &text[0], len(dst))
		return
	}
	for i := range dst {
		dst[i] = xxh3.Hash(text[i*Size : (i+1)*Size])
	}
}

// hashAVX512 is hash of n blocks, at least 1.
//
//go:noescape
func hashAVX512(dst *uint64, text *byte, n int)
