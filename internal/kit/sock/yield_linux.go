package sock

import (
	"sync/atomic"
	_ "unsafe" // for go:linkname
)

// maxStanding is how many connections of a shard may wait in stand at once.
// Each has a buffer in its hand meanwhile.
const maxStanding = 16

// standing counts who waits in stand, by descriptor, so that cores seldom write
// to the same cache line.
var standing [8]struct {
	n atomic.Int32
	_ [60]byte
}

// stand lets the other goroutines that are ready on this core run first. It is
// called between a read and what is made of it, and before a write, so that
// connections which are ready together go through the same steps together: all
// are read, all are parsed and decided, all are written. A step's code and
// tables are then in the caches for all but the first, and whoever reads the
// other ends is woken once for many writes rather than for each; a wake-up is
// the dearest part of a write. When nothing else is ready it costs a tenth of a
// microsecond.
func (c *Conn) stand() {
	s := &standing[c.fd&7]
	if s.n.Add(1) <= maxStanding {
		goyield()
	}
	s.n.Add(-1)
}

// goyield is runtime.Gosched without the queue that all cores share. The
// runtime keeps its name and type for packages that link to it:
// go.dev/issue/67401.
//
//go:linkname goyield runtime.goyield
func goyield()
