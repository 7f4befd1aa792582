//go:build !amd64

package blocks

import "github.com/zeebo/xxh3"

// hash sets each of dst to the XXH3 of a block of text.
func hash(dst []uint64, text []byte) {
	for i := range dst {
		dst[i] = xxh3.Hash(text[i*Size : (i+1)*Size])
	}
}
