package sock

import _ "unsafe" // for go:linkname

// yield lets the other goroutines that are ready on this core run first. It is
// called between a read and what is made of it, and before a write, so that
// connections which are ready together go through the same steps together: all
// are read, all are parsed and decided, all are written. A step's code and
// tables are then in the caches for all but the first, and whoever reads the
// other ends is woken once for many writes rather than for each; a wake-up is
// the dearest part of a write. When nothing else is ready it costs less than a
// tenth of a microsecond.
//
// It is runtime.Gosched without the queue that all cores share. The runtime
// keeps its name and type for packages that link to it: go.dev/issue/67401.
//
//go:linkname yield runtime.goyield
func yield()
