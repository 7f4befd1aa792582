package mock

import "sync"

// Seen counts what became of an engine's requests for inference.
type Seen struct {
	Requests  int64 `json:"requests"` // all that came
	Served    int64 `json:"served"`   // answered in full
	Invalid   int64 `json:"invalid"`  // refused for what they asked
	QueueFull int64 `json:"queue_full"`
	Faulted   int64 `json:"faulted"`   // met a fault that showed
	Cancelled int64 `json:"cancelled"` // left by the client before the answer was complete
	Killed    int64 `json:"killed"`    // lost when the engine was killed or ended
}

// Plus returns the sum of s and t.
func (s Seen) Plus(t Seen) Seen {
	s.Requests += t.Requests
	s.Served += t.Served
	s.Invalid += t.Invalid
	s.QueueFull += t.QueueFull
	s.Faulted += t.Faulted
	s.Cancelled += t.Cancelled
	s.Killed += t.Killed
	return s
}

// An outcome is what became of one request.
type outcome uint8

const (
	served outcome = iota
	invalid
	queueFull
	faulted
	cancelled
	killed
)

// Times says how often a request id came.
type Times struct {
	Asked  int `json:"asked"`
	Begun  int `json:"begun"`  // a first byte of an answer with status 200 was sent
	Served int `json:"served"` // answered in full
}

// maxIDs is how many request ids an engine remembers.
const maxIDs = 200_000

// maxID is the longest request id that is remembered.
const maxID = 256

// A register remembers request ids and counts outcomes.
type register struct {
	mu        sync.Mutex
	sum       Seen             // guarded by mu
	ids       map[string]Times // guarded by mu; at most maxIDs
	order     []string         // guarded by mu; a ring of ids by age
	next      int              // guarded by mu; the oldest of order, once it is full
	forgotten int64            // guarded by mu
}

func newRegister() *register { return &register{ids: map[string]Times{}} }

// came notes a request. An id of "" or over maxID is counted, not remembered.
func (g *register) came(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sum.Requests++
	if id == "" || len(id) > maxID {
		return
	}
	t, known := g.ids[id]
	t.Asked++
	g.ids[id] = t
	if known {
		return
	}
	if len(g.order) < maxIDs {
		g.order = append(g.order, id)
		return
	}
	delete(g.ids, g.order[g.next])
	g.order[g.next] = id
	g.next = (g.next + 1) % maxIDs
	g.forgotten++
}

// ended notes what became of it.
func (g *register) ended(id string, how outcome, begun bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch how {
	case served:
		g.sum.Served++
	case invalid:
		g.sum.Invalid++
	case queueFull:
		g.sum.QueueFull++
	case faulted:
		g.sum.Faulted++
	case cancelled:
		g.sum.Cancelled++
	case killed:
		g.sum.Killed++
	}
	t, known := g.ids[id]
	if !known {
		return
	}
	if begun {
		t.Begun++
	}
	if how == served {
		t.Served++
	}
	g.ids[id] = t
}

func (g *register) seen() Seen {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sum
}

func (g *register) times(id string) Times {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ids[id]
}

// list returns how many ids are remembered, how many were forgotten, and the
// ids themselves: all, or those that came more than once.
func (g *register) list(all bool) (known int, forgotten int64, ids map[string]Times) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ids = map[string]Times{}
	for id, t := range g.ids {
		if all || t.Asked > 1 {
			ids[id] = t
		}
	}
	return len(g.ids), g.forgotten, ids
}
