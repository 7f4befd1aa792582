package access

import (
	"math/rand/v2"
	"strings"
	"sync"

	"sluice/internal/infer"
)

const (
	maxID    = 128
	randomID = 24 // characters after the prefix; an even number
	alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// requestID returns the id that the client gave in one of headers, or a new
// one if there is none that is 1 to 128 visible ASCII characters.
func requestID(r *infer.Request, headers []string) string {
	for _, name := range headers {
		if v := r.Header.Get(name); isID(v) {
			return keep(v)
		}
	}
	return newID(r.Endpoint.IDPrefix())
}

func isID(v []byte) bool {
	for _, c := range v {
		if c < 0x21 || c > 0x7e {
			return false
		}
	}
	return 0 < len(v) && len(v) <= maxID
}

// newID returns prefix and 24 random characters, 143 bits, from the runtime's
// ChaCha8: ids cannot be guessed from others, and asking takes no lock.
func newID(prefix string) string {
	const tenDigits = 62 * 62 * 62 * 62 * 62 * 62 * 62 * 62 * 62 * 62 // as many as a uint64 holds
	var buf [48]byte
	id := append(buf[:0], prefix...)
	for left := randomID; left > 0; left -= 10 {
		n := rand.Uint64N(tenDigits)
		for range min(left, 10) / 2 {
			two := uint32(n % (62 * 62))
			id = append(id, alphabet[two%62], alphabet[two/62])
			n /= 62 * 62
		}
	}
	return keep(id)
}

// A block is memory that ids are cut from. It is written to once, so that an id
// lives as long as somebody has it. It is in nobody's hand but for a moment: a
// stream that kept one would keep it all.
type block struct{ text strings.Builder }

const blockSize = 4 << 10 // some 120 ids

var blocks = sync.Pool{New: func() any { return new(block) }}

// keep returns id as a string that shares its memory with others.
func keep(id []byte) string {
	b := blocks.Get().(*block)
	if b.text.Cap()-b.text.Len() < len(id) {
		b.text.Reset() // leaves what is there to those who have it
		b.text.Grow(blockSize)
	}
	n := b.text.Len()
	b.text.Write(id)
	s := b.text.String()[n:]
	blocks.Put(b)
	return s
}
