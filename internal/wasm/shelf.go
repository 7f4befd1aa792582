package wasm

import (
	"container/list"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
)

// shelfRoom is how much memory the compiled code may take of components that no
// module uses: those that were removed, and versions before the present.
const shelfRoom = 64 << 20

// A shelf keeps compiled code: of components that are used, and of those that
// were used last. A component is compiled once, however many ask for it.
type shelf struct {
	room int64 // constant

	mu   sync.Mutex
	all  map[codeKey]*shelved // guarded by mu
	idle list.List            // *shelved, the one used last first; guarded by mu
	size int64                // of those that are idle; guarded by mu
}

// A codeKey is what compiled code depends on.
type codeKey struct {
	sum    [sha256.Size]byte
	limits Limits
	config string
}

// A shelved is code on the shelf, or to be.
type shelved struct {
	key   codeKey
	size  int64
	ready chan struct{} // closed when code or err is there
	code  *code
	err   error

	uses int           // guarded by the shelf's mu
	at   *list.Element // among the idle, nil while it is used; guarded by the shelf's mu
}

func newShelf(room int64) *shelf { return &shelf{room: room, all: make(map[codeKey]*shelved)} }

// codeSize is about how much memory the code of a component takes, as measured
// for guests in C and Rust.
func codeSize(binary []byte) int64 { return 128<<10 + 10*int64(len(binary)) }

// get returns the code of a component, which is compiled if it is not there.
// release must follow if there is no error.
func (s *shelf) get(set *Settings, binary []byte, compile func() (*code, error)) (*shelved, error) {
	key := codeKey{sha256.Sum256(binary), set.Limits, set.Config}
	s.mu.Lock()
	c, there := s.all[key]
	if !there {
		c = &shelved{key: key, size: codeSize(binary), ready: make(chan struct{})}
		s.all[key] = c
	}
	c.uses++
	if c.at != nil {
		s.idle.Remove(c.at)
		c.at = nil
		s.size -= c.size
	}
	s.mu.Unlock()
	if !there {
		c.fill(compile)
	}
	<-c.ready
	if c.err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.all[key] == c {
			delete(s.all, key) // who comes later tries again
		}
		return nil, c.err
	}
	return c, nil
}

// fill compiles, and lets those go on who wait for it, whatever comes of it. A
// component on which the decoder or the compiler panics is one that is refused.
func (c *shelved) fill(compile func() (*code, error)) {
	defer close(c.ready)
	defer func() {
		if p := recover(); p != nil {
			c.code, c.err = nil, fmt.Errorf("BUG: compiling it broke off: %.200v", p)
		}
	}()
	c.code, c.err = compile()
}

// release gives c back. It stays while there is room.
func (s *shelf) release(c *shelved) {
	var gone []*shelved
	s.mu.Lock()
	if c.uses--; c.uses == 0 {
		c.at = s.idle.PushFront(c)
		s.size += c.size
	}
	for s.size > s.room {
		gone = append(gone, s.dropLocked(s.idle.Back()))
	}
	s.mu.Unlock()
	for _, c := range gone {
		c.code.close(context.Background())
	}
}

// dropLocked takes an idle one off the shelf. s.mu must be held.
func (s *shelf) dropLocked(e *list.Element) *shelved {
	c := s.idle.Remove(e).(*shelved)
	c.at = nil
	s.size -= c.size
	delete(s.all, c.key)
	return c
}

// clear takes off all that nobody uses.
func (s *shelf) clear() {
	s.mu.Lock()
	var gone []*shelved
	for s.idle.Len() > 0 {
		gone = append(gone, s.dropLocked(s.idle.Back()))
	}
	s.mu.Unlock()
	for _, c := range gone {
		c.code.close(context.Background())
	}
}
