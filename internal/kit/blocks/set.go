package blocks

// A set is the holders of a block that more than two hold, each with the group
// that the block is in: a hash table in one piece of memory, at most three
// quarters full.
type set struct {
	cells []uint64 // group<<32 | holder+1; 0 for none
	n     int
}

const (
	firstCells = 8
	setBytes   = 32
	setCost    = setBytes + 4 + 4 // with its place among the free, and what the runtime needs
)

// spot returns where holder is, or where it would be put.
func (s *set) spot(holder uint16) int {
	mask := len(s.cells) - 1
	i := home(holder) & mask
	for s.cells[i] != 0 && uint16(uint32(s.cells[i])-1) != holder {
		i = (i + 1) & mask
	}
	return i
}

// home is where a search for holder begins. Numbers are dense, so they spread
// well as they are.
func home(holder uint16) int { return int(holder) }

func cell(holder uint16, group uint32) uint64 { return uint64(group)<<32 | uint64(holder) + 1 }

func cellHolder(c uint64) uint16 { return uint16(uint32(c) - 1) }

func cellGroup(c uint64) uint32 { return uint32(c >> 32) }

// group returns the group of holder's that the block is in, 0 for none.
func (s *set) group(holder uint16) uint32 { return cellGroup(s.cells[s.spot(holder)]) }

// put notes that holder holds the block, in group. It reports false if there is
// no memory for that.
func (s *set) put(a *account, holder uint16, group uint32) bool {
	i := s.spot(holder)
	if s.cells[i] == 0 {
		if (s.n+1)*4 > len(s.cells)*3 {
			if !s.grow(a) {
				return false
			}
			i = s.spot(holder)
		}
		s.n++
	}
	s.cells[i] = cell(holder, group)
	return true
}

func (s *set) grow(a *account) bool {
	old := s.cells
	if !a.take(int64(len(old)) * 16) {
		return false
	}
	s.cells = make([]uint64, 2*len(old))
	for _, c := range old {
		if c != 0 {
			s.cells[s.spot(cellHolder(c))] = c
		}
	}
	a.give(int64(len(old)) * 8)
	return true
}

// drop forgets holder, if it is there.
func (s *set) drop(holder uint16) {
	i := s.spot(holder)
	if s.cells[i] == 0 {
		return
	}
	s.n--
	mask := len(s.cells) - 1
	for j := i; ; {
		j = (j + 1) & mask
		c := s.cells[j]
		if c == 0 {
			break
		}
		// c moves up if its search would pass the gap.
		if (j-home(cellHolder(c)))&mask >= (j-i)&mask {
			s.cells[i] = c
			i = j
		}
	}
	s.cells[i] = 0
}

// groupOf returns the group of holder's that e is in, 0 if holder does not hold
// it. s.mu must be held.
func (s *shard) groupOf(e *body, holder uint16) uint32 {
	switch {
	case e.holder[0] == many:
		return s.sets[e.group[0]].group(holder)
	case e.holder[0] == holder:
		return e.group[0]
	case e.holder[1] == holder:
		return e.group[1]
	}
	return 0
}

// count returns how many hold e. s.mu must be held.
func (s *shard) count(e *body) int {
	switch {
	case e.holder[0] == many:
		return s.sets[e.group[0]].n
	case e.holder[0] == nobody:
		return 0 // never for long
	case e.holder[1] == nobody:
		return 1
	}
	return 2
}

// putGroup notes that holder holds e, in group, and returns the group it was in
// before. It reports false if there is no memory for that. s.mu must be held.
func (s *shard) putGroup(a *account, e *body, holder uint16, group uint32) (old uint32, ok bool) {
	switch {
	case e.holder[0] == many:
		set := &s.sets[e.group[0]]
		old = set.group(holder)
		return old, set.put(a, holder, group)
	case e.holder[0] == holder:
		old, e.group[0] = e.group[0], group
	case e.holder[1] == holder:
		old, e.group[1] = e.group[1], group
	case e.holder[0] == nobody:
		e.holder[0], e.group[0] = holder, group
	case e.holder[1] == nobody:
		e.holder[1], e.group[1] = holder, group
	default:
		return 0, s.widen(a, e, holder, group)
	}
	return old, true
}

// widen makes a set of e's two holders and a third. s.mu must be held.
func (s *shard) widen(a *account, e *body, holder uint16, group uint32) bool {
	if !a.take(firstCells * 8) {
		return false
	}
	if len(s.free) == 0 && !s.moreSets(a) {
		a.give(firstCells * 8)
		return false
	}
	place := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	set := &s.sets[place]
	set.cells = make([]uint64, firstCells)
	set.n = 0
	set.put(a, e.holder[0], e.group[0])
	set.put(a, e.holder[1], e.group[1])
	set.put(a, holder, group)
	e.holder, e.group = [2]uint16{many, nobody}, [2]uint32{place, 0}
	return true
}

// moreSets doubles the places for sets. s.mu must be held.
func (s *shard) moreSets(a *account) bool {
	n := max(2*len(s.sets), 8)
	if !a.take(int64(n) * setCost) {
		return false
	}
	old := len(s.sets)
	sets := make([]set, n)
	copy(sets, s.sets)
	s.sets = sets
	s.free = make([]uint32, 0, n)
	for i := n - 1; i >= old; i-- {
		s.free = append(s.free, uint32(i))
	}
	a.give(int64(old) * setCost)
	return true
}

// dropGroup notes that holder does not hold e any longer. s.mu must be held.
func (s *shard) dropGroup(a *account, e *body, holder uint16) {
	switch {
	case e.holder[0] == many:
		place := e.group[0]
		set := &s.sets[place]
		set.drop(holder)
		if set.n > 1 {
			return
		}
		// One is left. It goes back to two places only now, so that a third
		// holder that comes and goes costs nothing.
		e.holder, e.group = [2]uint16{nobody, nobody}, [2]uint32{}
		for _, c := range set.cells {
			if c != 0 {
				e.holder[0], e.group[0] = cellHolder(c), cellGroup(c)
			}
		}
		a.give(int64(len(set.cells)) * 8)
		set.cells = nil
		s.free = append(s.free, place)
	case e.holder[1] == holder:
		e.holder[1], e.group[1] = nobody, 0
	case e.holder[0] == holder:
		e.holder[0], e.group[0] = e.holder[1], e.group[1]
		e.holder[1], e.group[1] = nobody, 0
	}
}
