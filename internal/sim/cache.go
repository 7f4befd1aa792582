package sim

// A cache is what an engine keeps of prompts: blocks, each of which stands for
// its whole prefix. Those that running requests use are held; of the others the
// least recently used go first. A request lets go of its blocks last to first,
// so that a prefix outlives what follows on it.
type cache struct {
	at   map[int32]int32 // where in nodes a block is
	node []node
	free []int32 // places in node that are not used
	old  int32   // the block that goes next; -1 for none
	new  int32   // the other end of that list
	idle int     // length of that list
}

// A node is a block in the cache.
type node struct {
	block        int32
	users        int32
	older, newer int32 // in the list of those without users; -1 at its ends
}

func newCache() *cache { return &cache{at: make(map[int32]int32), old: -1, new: -1} }

// blocks returns how many there are.
func (c *cache) blocks() int { return len(c.at) }

// held returns how many blocks running requests use.
func (c *cache) held() int { return len(c.at) - c.idle }

// match returns how many of the first blocks are there.
func (c *cache) match(blocks []int32) int {
	for n, b := range blocks {
		if _, ok := c.at[b]; !ok {
			return n
		}
	}
	return len(blocks)
}

// use holds a block, which is put in if it is not there, and returns where it is.
func (c *cache) use(block int32) int32 {
	if i, ok := c.at[block]; ok {
		if c.node[i].users == 0 {
			c.unlist(i)
		}
		c.node[i].users++
		return i
	}
	var i int32
	if n := len(c.free); n > 0 {
		i, c.free = c.free[n-1], c.free[:n-1]
	} else {
		i = int32(len(c.node))
		c.node = append(c.node, node{})
	}
	c.node[i] = node{block: block, users: 1, older: -1, newer: -1}
	c.at[block] = i
	return i
}

// leave lets go of the block at i.
func (c *cache) leave(i int32) {
	n := &c.node[i]
	if n.users--; n.users > 0 {
		return
	}
	n.older, n.newer = c.new, -1
	if c.new >= 0 {
		c.node[c.new].newer = i
	} else {
		c.old = i
	}
	c.new = i
	c.idle++
}

// unlist takes the block at i out of the list of those without users.
func (c *cache) unlist(i int32) {
	n := &c.node[i]
	if n.newer >= 0 {
		c.node[n.newer].older = n.older
	} else {
		c.new = n.older
	}
	if n.older >= 0 {
		c.node[n.older].newer = n.newer
	} else {
		c.old = n.newer
	}
	c.idle--
}

// evict drops the block that was not used for longest. There must be one that
// nobody uses.
func (c *cache) evict() {
	i := c.old
	c.unlist(i)
	delete(c.at, c.node[i].block)
	c.free = append(c.free, i)
}
