package sim

import "time"

// An event is what happens at a time.
type event struct {
	at    time.Duration
	order uint64 // in which it was pushed
	kind  int8
	n     int32
	epoch int32
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.order < o.order }

// events are a heap. What comes at one time comes in the order in which it was
// pushed.
type events struct {
	heap  []event
	order uint64
}

func (q *events) len() int { return len(q.heap) }

func (q *events) push(e event) {
	q.order++
	e.order = q.order
	q.heap = append(q.heap, e)
	for i := len(q.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.heap[i].before(&q.heap[up]) {
			break
		}
		q.heap[i], q.heap[up] = q.heap[up], q.heap[i]
		i = up
	}
}

// first is what comes next, and stays there. There must be something.
func (q *events) first() *event { return &q.heap[0] }

// pop takes what comes next. There must be something.
func (q *events) pop() event {
	n := len(q.heap) - 1
	first := q.heap[0]
	q.heap[0] = q.heap[n]
	q.heap = q.heap[:n]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < n; c++ {
			if q.heap[c].before(&q.heap[least]) {
				least = c
			}
		}
		if least == i {
			return first
		}
		q.heap[i], q.heap[least] = q.heap[least], q.heap[i]
		i = least
	}
}
