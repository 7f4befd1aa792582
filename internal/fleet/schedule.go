package fleet

import (
	"container/heap"
	"time"
)

// A schedule is the workers that wait for something, the next one first. The
// Registry's lock guards it.
type schedule []*Worker

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].health.due.Before(s[j].health.due) }

// Swap implements heap.Interface.
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].health.place, s[j].health.place = i, j
}

// Push implements heap.Interface; use set.
func (s *schedule) Push(x any) {
	w := x.(*Worker)
	w.health.in, w.health.place = s, len(*s)
	*s = append(*s, w)
}

// Pop implements heap.Interface; use drop.
func (s *schedule) Pop() any {
	last := len(*s) - 1
	w := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	w.health.in = nil
	return w
}

// set makes w wait in s until t, wherever it waited before.
func (s *schedule) set(w *Worker, t time.Time) {
	drop(w)
	w.health.due = t
	heap.Push(s, w)
}

// drop makes w wait no longer.
func drop(w *Worker) {
	if s := w.health.in; s != nil {
		heap.Remove(s, w.health.place)
	}
}

// first returns who is due at now, or nil.
func (s schedule) first(now time.Time) *Worker {
	if len(s) == 0 || s[0].health.due.After(now) {
		return nil
	}
	return s[0]
}
