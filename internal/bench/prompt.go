package bench

import (
	"math/rand/v2"

	"sluice/internal/kit/tracefile"
)

// words are three letters each, so that with its space a word is four bytes:
// what a tokenizer makes one token of, and what a byte count divides by four.
// There are 64, six bits of chance a word.
const words = "the and for are but not you all any can had her was one our out " +
	"day get has him his how man new now old see two way who boy did " +
	"its let put say she too use dad mom car dog cat sun sky sea red " +
	"big top run sit eat fly cut dry hot wet low far end art ice oil "

const wordLen = 4 // bytes of a word and the space after it

// Streams of chance: each purpose has its own, so that a shorter prefix does
// not change the text behind it.
const (
	ofPrefix uint64 = iota + 1
	ofBlock
	ofTail
	ofChoice
	ofArrival
	ofSession
)

// appendWords appends n words, each with a space after it, that follow from
// seed, kind and id alone.
func appendWords(b []byte, n int, seed int64, kind, id uint64) []byte {
	var rng rand.PCG
	rng.Seed(uint64(seed)^kind<<56, id)
	for n > 0 {
		bits := rng.Uint64()
		for range min(n, 10) {
			i := bits & 63 * wordLen
			b = append(b, words[i:i+wordLen]...)
			bits >>= 6
		}
		n -= 10
	}
	return b
}

// A plan says what one request asks.
type plan struct {
	id     uint64  // its place in the run; what is its own follows from it
	shared int     // words shared with others
	prefix uint64  // which shared words
	own    int     // words that may be its own
	blocks []int64 // trace: blocks that make up the first of those words
	output int
}

func (j plan) words() int { return j.shared + j.own }

// prompts makes plans and their texts. It is constant and may be used by
// several goroutines at once.
type prompts struct {
	seed     int64
	tokens   int
	shared   int
	prefixes uint64
	output   int
	rows     []tracefile.Row // nil: synthetic
	block    int
}

// plan returns the plan of request i. It reports false where the trace is over.
func (p *prompts) plan(i uint64) (plan, bool) {
	if p.rows != nil {
		if i >= uint64(len(p.rows)) {
			return plan{}, false
		}
		r := &p.rows[i]
		return plan{id: i, own: r.Input, blocks: r.Blocks, output: r.Output}, true
	}
	j := plan{id: i, shared: p.shared, own: p.tokens - p.shared, output: p.output}
	if p.shared > 0 && p.prefixes > 1 {
		var rng rand.PCG
		rng.Seed(uint64(p.seed)^ofChoice<<56, i)
		j.prefix = rng.Uint64() % p.prefixes
	}
	return j, true
}

// appendShared appends the words that j shares.
func (p *prompts) appendShared(b []byte, j plan) []byte {
	return appendWords(b, j.shared, p.seed, ofPrefix, j.prefix)
}

// appendOwn appends j's blocks and then words that no other request has.
func (p *prompts) appendOwn(b []byte, j plan) []byte {
	left := j.own
	for _, id := range j.blocks {
		n := min(left, p.block)
		b = appendWords(b, n, p.seed, ofBlock, uint64(id))
		left -= n
	}
	return appendWords(b, left, p.seed, ofTail, j.id)
}
