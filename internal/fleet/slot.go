package fleet

// slots hands out small numbers, so that what others keep for each worker can be
// a slice instead of a map. A number is used again when its worker was forgotten.
type slots struct {
	free []int32
	next int32
}

func (s *slots) take() int32 {
	if n := len(s.free); n > 0 {
		slot := s.free[n-1]
		s.free = s.free[:n-1]
		return slot
	}
	s.next++
	return s.next - 1
}

func (s *slots) give(slot int32) { s.free = append(s.free, slot) }
