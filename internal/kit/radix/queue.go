package radix

import "unsafe"

// A queued is a leaf, and when it had been used when it was queued.
type queued struct {
	node  *node
	stamp uint32
}

// A queue is a list of leaves in pieces, first in, first out.
type queue struct {
	head, tail *piece // nil if it is empty
	first      int    // in head
}

// A piece is a part of a queue. The first of a queue is small: most tenants of a
// large fleet have little.
type piece struct {
	next *piece
	n    int
	list []queued
}

const (
	smallPiece = 6
	largePiece = 62
)

var pieceBytes = func(room int) int64 {
	return class(int64(unsafe.Sizeof(piece{}))) + class(withHeader(int64(room)*int64(unsafe.Sizeof(queued{}))))
}

// push adds q and returns how much memory that took.
func (u *queue) push(q queued) (grown int64) {
	if u.tail == nil || u.tail.n == len(u.tail.list) {
		room := largePiece
		if u.tail == nil {
			room = smallPiece
		}
		p := &piece{list: make([]queued, room)}
		grown = pieceBytes(room)
		if u.tail == nil {
			u.head, u.first = p, 0
		} else {
			u.tail.next = p
		}
		u.tail = p
	}
	u.tail.list[u.tail.n] = q
	u.tail.n++
	return grown
}

// pop takes the first and returns how much memory that gave back.
func (u *queue) pop() (q queued, shrunk int64, ok bool) {
	if u.head == nil {
		return q, 0, false
	}
	q = u.head.list[u.first]
	u.head.list[u.first] = queued{}
	if u.first++; u.first == u.head.n {
		shrunk = pieceBytes(len(u.head.list))
		if u.head, u.first = u.head.next, 0; u.head == nil {
			u.tail = nil
		}
	}
	return q, shrunk, true
}

// oldest returns the first one's stamp plus one, 0 if there is none.
func (u *queue) oldest() uint64 {
	if u.head == nil {
		return 0
	}
	return uint64(u.head.list[u.first].stamp) + 1
}
