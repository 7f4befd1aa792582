package policy

import (
	"sluice/internal/kit/blocks"
	"sluice/internal/kit/radix"
)

// A Choice is what a decision went by. It stays with the attempt: the Router
// charges the worker by it, a Learner finds in it what it did, and the receipt
// shows it. Tokens are the policy's estimate; 0 is unknown.
type Choice struct {
	Why        string // in a word, a constant: "cheapest", "hit", "ring", …
	Considered int    // workers that were compared
	Alone      bool   // the client wants this worker: no other is to be tried
	Refused    string // why nobody was chosen although workers are there, for the client; "" for nothing to say

	Prompt    int64   // tokens of the prompt
	Uncached  int64   // of those, tokens that the worker has to compute
	Blocks    int     // whole blocks of the prompt
	Hit       int     // of those, the first ones that the worker is thought to hold
	Queue     int64   // tokens that it has to compute first
	Duplicate float64 // tokens charged for computing what another worker holds; below 0 if many ask for it, so that computing it is an investment
	Decode    float64 // tokens charged for slowing down its running requests
	Price     float64 // the sum of it

	// Keys are the chained hashes of the prompt's blocks, if the policy has
	// computed them. The slice's memory is used again.
	Keys []uint64

	put   blocks.Put // what the index of prompts was told of the attempt
	bytes int        // of the prompt's text
	begun bool       // the answer has

	pin   pinRef    // where the request's routing key is remembered
	found radix.Hit // what the tree of cache_aware has found of the prompt
}

// Reset makes c empty and keeps the memory of Keys.
func (c *Choice) Reset() { *c = Choice{Keys: c.Keys[:0]} }

// Took says that the Router gives the request to another worker, because the
// Picker's choice has failed. What is known of the prompt stays.
func (c *Choice) Took() {
	keys := c.Keys
	prompt, whole, bytes := c.Prompt, c.Blocks, c.bytes
	*c = Choice{Why: "retry", Considered: 1, Prompt: prompt, Uncached: prompt, Blocks: whole, Keys: keys, bytes: bytes}
}
