package blocks

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/zeebo/xxh3"
)

// TestVectorsHashAlike holds that keys do not depend on the machine, and that
// nothing is read or written beside what was given.
func TestVectorsHashAlike(t *testing.T) {
	if !hasAVX512 {
		t.Skip("this machine has no AVX-512")
	}
	r := rand.New(rand.NewPCG(1, 1))
	text := make([]byte, 40*Size+77)
	for round := range 50 {
		for i := range text {
			text[i] = byte(r.Uint32())
		}
		if round < 2 {
			clear(text)
			text = append(text[:0], bytes.Repeat([]byte{byte(-round)}, len(text))...)
		}
		n, at := 1+r.IntN(40), r.IntN(77)
		got := make([]uint64, n+1)
		got[n] = 7
		hash(got[:n], text[at:at+n*Size])
		for i := range n {
			if want := xxh3.Hash(text[at+i*Size:][:Size]); got[i] != want {
				t.Fatalf("block %d of %d has the hash %x, want %x", i, n, got[i], want)
			}
		}
		if got[n] != 7 {
			t.Fatal("there was written more than was asked for")
		}
	}
}

// FuzzAppendKeys holds the same of chains.
func FuzzAppendKeys(f *testing.F) {
	f.Add(bytes.Repeat([]byte("text"), 20_000), uint64(1))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		got := AppendKeys(nil, text, seed, 200)
		for i, k := range got {
			if seed = chained(seed, xxh3.Hash(text[i*Size:(i+1)*Size])); seed == 0 {
				seed = 1
			}
			if k != seed {
				t.Fatalf("key %d is %x, want %x", i, k, seed)
			}
		}
		if want := min(len(text)/Size, 200); len(got) != want {
			t.Fatalf("%d keys, want %d", len(got), want)
		}
	})
}
