package wasm

import (
	"container/list"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"sluice/internal/kit/cores"
)

// shelfRoom is how much memory the compiled code may take of components that no
// module uses: those that were removed, and versions before the present.
const shelfRoom = 64 << 20

// The engine cannot be stopped while it compiles a core module, but with workers
// of its own, of which a panic would end the process; and it takes time that grows
// faster than what it is given. So no more than mostCompiled components are
// compiled at once, and whoever asks for one waits for mostCompiling: one that is
// hostile holds one core until it is done, and keeps nobody waiting for longer.
const (
	mostCompiled  = 2
	mostCompiling = 2 * time.Minute
)

// A shelf keeps compiled code: of components that are used, and of those that
// were used last. A component is compiled once, however many ask for it.
type shelf struct {
	room     int64          // constant
	patience time.Duration  // constant; how long who asks waits
	places   chan struct{}  // holds a word for each component that is being compiled
	begun    sync.WaitGroup // components that are being compiled, or wait for their turn

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
	left  chan struct{} // closed when nobody waits for it any more, and it has not begun
	code  *code
	err   error

	state shelvedState  // guarded by the shelf's mu
	uses  int           // by those who use it, or wait for it; guarded by the shelf's mu
	at    *list.Element // among the idle, nil while it is used; guarded by the shelf's mu
}

type shelvedState byte

const (
	waits shelvedState = iota // for its turn
	compiles
	compiled // or not; it is known
)

func newShelf(room int64) *shelf {
	return &shelf{room: room, patience: mostCompiling, places: make(chan struct{}, mostCompiled), all: make(map[codeKey]*shelved)}
}

// codeSize is about how much memory the code of a component takes, as measured
// for guests in C and Rust.
func codeSize(binary []byte) int64 { return 128<<10 + 10*int64(len(binary)) }

// get returns the code of a component, which is compiled if it is not there.
// release must follow if there is no error. compile is given up, as far as it can
// be, when its context is done; what it returns all the same is kept.
func (s *shelf) get(ctx context.Context, set *Settings, binary []byte, compile func(context.Context) (*code, error)) (*shelved, error) {
	c := s.ask(codeKey{sha256.Sum256(binary), set.Limits, set.Config}, codeSize(binary), compile)
	late := time.NewTimer(s.patience)
	defer late.Stop()
	select {
	case <-c.ready:
		return s.got(c)
	case <-ctx.Done():
		return s.leave(c, fmt.Errorf("it was waited for no longer: %w", context.Cause(ctx)))
	case <-late.C:
		return s.leave(c, nil)
	}
}

// ask finds code, or begins to compile it. Whoever asks counts as one who uses it.
func (s *shelf) ask(key codeKey, size int64, compile func(context.Context) (*code, error)) *shelved {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.all[key]
	if c == nil {
		c = &shelved{key: key, size: size, ready: make(chan struct{}), left: make(chan struct{})}
		s.all[key] = c
		s.begun.Go(func() { s.fill(c, compile) })
	}
	c.uses++
	if c.at != nil {
		s.idle.Remove(c.at)
		c.at = nil
		s.size -= c.size
	}
	return c
}

// got is get once c is ready.
func (s *shelf) got(c *shelved) (*shelved, error) {
	if c.err != nil {
		return nil, c.err
	}
	return c, nil
}

// leave is get of one who waits no longer because of err; nil for that it took
// too long.
func (s *shelf) leave(c *shelved, err error) (*shelved, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.state == compiled { // just now
		return s.got(c)
	}
	if c.uses--; c.uses == 0 && c.state == waits {
		delete(s.all, c.key)
		close(c.left)
	}
	switch {
	case err != nil:
		return nil, err
	case c.state == waits:
		return nil, fmt.Errorf("it has waited %s for its turn to be compiled: %d others are, and at most so many may be at once", s.patience, cap(s.places))
	}
	return nil, fmt.Errorf("compiling it takes longer than %s", s.patience)
}

// fill compiles when it is c's turn, and lets those go on who wait for it,
// whatever comes of it.
func (s *shelf) fill(c *shelved, compile func(context.Context) (*code, error)) {
	select {
	case s.places <- struct{}{}:
	case <-c.left:
		return
	}
	defer func() { <-s.places }()
	if !s.begin(c) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	var made *code
	var err error
	cores.Aside(func() { made, err = try(ctx, compile) })
	var gone []*shelved
	s.mu.Lock()
	c.state, c.code, c.err = compiled, made, err
	switch {
	case err != nil:
		delete(s.all, c.key) // who comes later tries again
	case c.uses == 0: // nobody has waited for so long; one who comes again finds it
		gone = s.restLocked(c)
	}
	s.mu.Unlock()
	close(c.ready)
	closeAll(gone)
}

// begin reports whether c is still wanted now that it is its turn.
func (s *shelf) begin(c *shelved) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.uses == 0 {
		return false
	}
	c.state = compiles
	return true
}

// try calls compile. A component on which the decoder or the compiler panics is
// one that is refused.
func try(ctx context.Context, compile func(context.Context) (*code, error)) (c *code, err error) {
	defer func() {
		if p := recover(); p != nil {
			c, err = nil, fmt.Errorf("BUG: compiling it broke off: %.200v", p)
		}
	}()
	c, err = compile(ctx)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// release gives c back. It stays while there is room.
func (s *shelf) release(c *shelved) {
	var gone []*shelved
	s.mu.Lock()
	if c.uses--; c.uses == 0 {
		gone = s.restLocked(c)
	}
	s.mu.Unlock()
	closeAll(gone)
}

// restLocked lays c, which nobody uses, among the idle, and returns those for which
// there is no room any more. s.mu must be held.
func (s *shelf) restLocked(c *shelved) (gone []*shelved) {
	c.at = s.idle.PushFront(c)
	s.size += c.size
	for s.size > s.room {
		gone = append(gone, s.dropLocked(s.idle.Back()))
	}
	return gone
}

func closeAll(gone []*shelved) {
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

// clear takes off all that nobody uses, once nothing is being compiled.
func (s *shelf) clear() {
	s.begun.Wait()
	s.mu.Lock()
	var gone []*shelved
	for s.idle.Len() > 0 {
		gone = append(gone, s.dropLocked(s.idle.Back()))
	}
	s.mu.Unlock()
	closeAll(gone)
}
