// Package blocks knows which prompts' beginnings are where.
//
// A text is cut into blocks of 512 bytes, and each block is named by a hash of
// itself and of all that is before it. So a key stands for a whole beginning, and
// two texts that have a key in common have everything before it in common too. An
// Index remembers which holder — a worker's cache — has which blocks, how often
// each is asked for, and forgets what a cache of the holder's size would have
// forgotten.
//
// Everything in it is a hint. Keys are 64 bits wide and not secret, so somebody
// who wants to can make two texts look the same; a wrong hint costs time, never a
// wrong answer.
package blocks

import (
	"math/bits"
	"slices"

	"github.com/zeebo/xxh3"
)

// Size is how many bytes a block has: about 128 tokens.
const Size = 512

// chainSeed makes a chain's first seed. It must never change: gateways that share
// what they know speak of blocks by their keys.
const chainSeed = 0x736c75696365_0001

// Seed returns what the chains of a model's texts begin with, the same in every
// process.
func Seed(model string) uint64 { return xxh3.HashStringSeed(model, chainSeed) }

// AppendKeys appends the keys of text's whole blocks to dst, of the first most
// ones. What is left at the end of text has no key. No key is 0.
func AppendKeys(dst []uint64, text []byte, seed uint64, most int) []uint64 {
	most = min(most, len(text)/Size)
	dst = slices.Grow(dst, max(most, 0))
	for most > 0 {
		// A goroutine in assembly cannot be stopped: so many take a microsecond.
		n := min(most, 128)
		own := dst[len(dst) : len(dst)+n]
		hash(own, text)
		for i, h := range own {
			if seed = chained(seed, h); seed == 0 {
				seed = 1
			}
			own[i] = seed
		}
		dst, text, most = dst[:len(dst)+n], text[n*Size:], most-n
	}
	return dst
}

// chained returns the key of the block whose own hash is h, after the one of key
// last. A seeded hash of the block would be as good, but makes a secret of its
// own for each seed, which costs as much as a block does.
func chained(last, h uint64) uint64 {
	hi, lo := bits.Mul64(last^0x9e3779b97f4a7c15, h^0xd1b54a32d192ed03)
	return hi ^ lo ^ bits.RotateLeft64(h, 32)
}
