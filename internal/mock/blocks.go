package mock

// blocks is the KV cache: blocks of tokens by hash. Those that no running
// request holds stay until their room is needed, the least recently used
// leave first.
type blocks struct {
	cap      int
	idx      map[uint64]int32
	n        []block
	free     []int32
	newest   int32 // of those that nobody holds, -1 for none
	oldest   int32
	idle     int // how many nobody holds
	reserved int // room promised to running requests and not yet filled
}

type block struct {
	hash         uint64
	holders      int32
	newer, older int32
	idle         bool // in the list of those that may leave
}

func newBlocks(capacity int) *blocks {
	return &blocks{cap: capacity, idx: map[uint64]int32{}, newest: -1, oldest: -1}
}

// used is how many blocks are taken or promised.
func (c *blocks) used() int { return len(c.idx) + c.reserved }

// match returns how many of hashes, from the first on, are here.
func (c *blocks) match(hashes []uint64) int {
	for k, h := range hashes {
		if _, ok := c.idx[h]; !ok {
			return k
		}
	}
	return len(hashes)
}

// reserve makes room for n more blocks, and reports whether it could. If it
// cannot, nothing leaves.
func (c *blocks) reserve(n int) bool {
	if c.cap-c.used()+c.idle < n {
		return false
	}
	for c.cap-c.used() < n {
		c.evict()
	}
	c.reserved += n
	return true
}

// hold keeps the block of hash from leaving, if it is here.
func (c *blocks) hold(hash uint64) (int32, bool) {
	i, ok := c.idx[hash]
	if !ok {
		return 0, false
	}
	b := &c.n[i]
	if b.idle {
		c.unlink(i)
	}
	b.holders++
	return i, true
}

// fill puts a block into one reserved place and holds it.
func (c *blocks) fill(hash uint64) int32 {
	c.reserved--
	b := block{hash: hash, holders: 1, newer: -1, older: -1}
	var i int32
	if k := len(c.free); k > 0 {
		i = c.free[k-1]
		c.free = c.free[:k-1]
		c.n[i] = b
	} else {
		i = int32(len(c.n))
		c.n = append(c.n, b)
	}
	c.idx[hash] = i
	return i
}

// release ends one hold of i.
func (c *blocks) release(i int32) {
	b := &c.n[i]
	b.holders--
	if b.holders > 0 {
		return
	}
	b.idle, b.newer, b.older = true, -1, c.newest
	if c.newest >= 0 {
		c.n[c.newest].newer = i
	} else {
		c.oldest = i
	}
	c.newest = i
	c.idle++
}

// flush forgets every block that nobody holds.
func (c *blocks) flush() {
	for c.evict() {
	}
}

func (c *blocks) evict() bool {
	i := c.oldest
	if i < 0 {
		return false
	}
	c.unlink(i)
	delete(c.idx, c.n[i].hash)
	c.free = append(c.free, i)
	return true
}

func (c *blocks) unlink(i int32) {
	b := &c.n[i]
	if b.newer >= 0 {
		c.n[b.newer].older = b.older
	} else {
		c.newest = b.older
	}
	if b.older >= 0 {
		c.n[b.older].newer = b.newer
	} else {
		c.oldest = b.newer
	}
	b.idle, b.newer, b.older = false, -1, -1
	c.idle--
}
