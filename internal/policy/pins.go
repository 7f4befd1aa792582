package policy

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/zeebo/xxh3"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

// pins remember which workers a routing key was given, up to two of them. They
// keep a hash of the key, 128 bits with a seed of this process, so that nobody
// can choose keys that meet; and of the worker a number that stands for its URL,
// so that one that went and came again has its keys again.
//
// The keys are spread over shards, each with a lock of its own that is held for
// some instructions: two requests meet there if their keys do.
type pins struct {
	idle  uint32 // seconds, 0 for ever
	room  int    // keys in a shard
	seed  uint64
	mask  uint64 // of a hash, which shard
	shard []pinShard

	mu    sync.Mutex
	seats map[string]uint32         // guarded by mu; the number of each URL that is bound or pinned
	bound []uint64                  // guarded by mu; by seat: the round in which it was bound last
	free  []uint32                  // guarded by mu
	round uint64                    // guarded by mu; counts Binds
	all   atomic.Pointer[[]*pinned] // by seat; only grows, so every seat ever given is in it
}

// pinned counts the keys of a seat. Every key that counts here is a pin that
// says so, and is counted out by who changes the pin.
type pinned struct {
	pins atomic.Int64 // that name the seat: until there are none it stands for its URL
	keys atomic.Int64 // with requests in flight
	_    [48]byte
}

// A pinShard is part of the keys: a hash table whose chains, and a list by last
// use, run through one slice.
type pinShard struct {
	mu     sync.Mutex // guards all below
	heads  []int32    // of chains; a power of two
	pins   []pin      // the first is nobody's, so that 0 is none
	spare  int32      // first of those that are free
	newest int32
	oldest int32
	keys   int
	_      [16]byte
}

// A pin is what is remembered of a key. It holds no pointer, so the collector
// does not look at it.
type pin struct {
	hi, lo       uint64
	at           [2]place
	used         uint32 // seconds
	era          uint32 // of its counts: who counted in another must not count out
	next         int32  // in its chain, or of those that are free
	newer, older int32
}

// A place is a worker that a key was given.
type place struct {
	seat   uint32 // 1 more than its number, 0 for no place
	active int32  // requests in flight
}

// A pinRef is where a request has been counted.
type pinRef struct {
	hi   uint64 // of the key
	i    int32  // 0 for nowhere
	era  uint32
	seat uint32 // 0 if it is not counted
}

const (
	pinShards = 64
	shardRoom = 256 // keys that are worth a shard
	oldTries  = 8   // keys in use that are passed over to make room
)

// newPins returns pins for at most n keys, each kept for so many seconds after
// its last use.
func newPins(n int, idle int64, d dice) *pins {
	shards := 1
	for shards < pinShards && shards*2*shardRoom <= n {
		shards *= 2
	}
	p := &pins{
		idle: uint32(min(max(idle, 0), math.MaxInt32)), room: max(n/shards, 1), seed: uint64(d.uint32())<<32 | uint64(d.uint32()), mask: uint64(shards - 1),
		shard: make([]pinShard, shards), seats: make(map[string]uint32),
	}
	p.all.Store(new([]*pinned))
	return p
}

// A seating says which worker sits where. It is not written to after it was made.
type seating struct {
	at   []*fleet.Worker // by seat, nil for one who is away
	seat []uint32        // by fleet.Worker.Slot
	keys []*pinned       // by index of the workers
}

// seatOf returns the seat of a worker who sits.
func (s *seating) seatOf(w *fleet.Worker) uint32 { return s.seat[w.Slot()] }

// sits reports whether w is one of those that s was made for.
func (s *seating) sits(w *fleet.Worker) bool {
	i := w.Slot()
	return i < len(s.seat) && s.at[s.seat[i]] == w
}

// who returns the worker at the place, nil if he is away, or came after s was made.
func (s *seating) who(at place) *fleet.Worker {
	if at.seat == 0 || int(at.seat) > len(s.at) {
		return nil
	}
	return s.at[at.seat-1]
}

// sit returns the seating of ws.
func (p *pins) sit(ws []*fleet.Worker) seating {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.round++
	all := *p.all.Load()
	slots := 0
	for _, w := range ws {
		slots = max(slots, w.Slot()+1)
	}
	s := seating{seat: make([]uint32, slots), keys: make([]*pinned, len(ws))}
	for i, w := range ws {
		n, known := p.seats[w.Base()]
		if !known {
			if last := len(p.free) - 1; last >= 0 {
				n, p.free = p.free[last], p.free[:last]
			} else {
				n = uint32(len(all))
				all = append(all, new(pinned))
				p.bound = append(p.bound, 0)
			}
			p.seats[w.Base()] = n
		}
		p.bound[n] = p.round
		s.seat[w.Slot()], s.keys[i] = n, all[n]
	}
	s.at = make([]*fleet.Worker, len(all))
	for _, w := range ws {
		s.at[s.seatOf(w)] = w
	}
	if len(p.seats) > len(ws) {
		for url, n := range p.seats {
			// Requests may still go by the last seating: it counts as present.
			if p.bound[n]+1 < p.round && all[n].pins.Load() == 0 {
				delete(p.seats, url)
				p.free = append(p.free, n)
			}
		}
	}
	p.all.Store(&all)
	return s
}

// count returns the counts of a place's seat.
func (p *pins) count(at place) *pinned { return (*p.all.Load())[at.seat-1] }

// hash returns what stands for key among the keys of r's model.
func (p *pins) hash(r *infer.Request, key []byte) xxh3.Uint128 {
	return xxh3.Hash128Seed(key, xxh3.HashStringSeed(r.Model, p.seed))
}

// of returns the shard that h belongs to.
func (p *pins) of(hi uint64) *pinShard { return &p.shard[hi&p.mask] }

// find returns where the worker is that h was given and that sits in s, if there
// is one, and the worker. It counts as a use. known says that h was given one,
// who may be away.
func (p *pins) find(h xxh3.Uint128, now uint32, s *seating) (ref pinRef, w *fleet.Worker, known bool) {
	sh := p.of(h.Hi)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i := p.freshLocked(sh, h, now)
	if i == 0 {
		return pinRef{}, nil, false
	}
	ref, w = p.useLocked(sh, i, now, s)
	return ref, w, true
}

// freshLocked returns h's pin, 0 if it has none or it was idle for too long.
func (p *pins) freshLocked(sh *pinShard, h xxh3.Uint128, now uint32) int32 {
	i := sh.findLocked(h)
	if i != 0 && p.stale(&sh.pins[i], now) {
		p.dropLocked(sh, i)
		return 0
	}
	return i
}

// useLocked uses pin i and returns the first of its workers who is there.
func (p *pins) useLocked(sh *pinShard, i int32, now uint32, s *seating) (pinRef, *fleet.Worker) {
	e := &sh.pins[i]
	if since(now, e.used) > 0 {
		e.used = now
		sh.unlinkLocked(i)
		sh.linkLocked(i)
		p.sweepLocked(sh, now)
	}
	for _, at := range e.at {
		if w := s.who(at); w != nil {
			return pinRef{hi: e.hi, i: i, era: e.era}, w
		}
	}
	return pinRef{hi: e.hi, i: i, era: e.era}, nil
}

// put remembers that h was given w, behind the one it was given first.
// If h was given one in the meantime, by another request, it returns that one.
func (p *pins) put(h xxh3.Uint128, now uint32, s *seating, w *fleet.Worker) (pinRef, *fleet.Worker) {
	sh := p.of(h.Hi)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i := p.freshLocked(sh, h, now)
	if i == 0 {
		i = p.addLocked(sh, h, now)
	}
	if ref, other := p.useLocked(sh, i, now, s); other != nil {
		return ref, other
	}
	e := &sh.pins[i]
	p.giveLocked(e, s.seatOf(w))
	return pinRef{hi: e.hi, i: i, era: e.era}, w
}

// giveLocked notes that e's key was given the seat. Of three the one that it was
// given longest ago is forgotten.
func (p *pins) giveLocked(e *pin, seat uint32) {
	at := place{seat: seat + 1}
	if e.at[0].seat == at.seat || e.at[1].seat == at.seat {
		return
	}
	p.count(at).pins.Add(1)
	switch {
	case e.at[0].seat == 0:
		e.at[0] = at
		return
	case e.at[1].seat == 0:
		e.at[1] = at
	default:
		p.forgetLocked(e, 0)
		e.at[0], e.at[1] = e.at[1], at
	}
}

// forgetLocked forgets a worker of e's. Who is counted in e is counted out.
func (p *pins) forgetLocked(e *pin, n int) {
	p.idleLocked(e)
	p.count(e.at[n]).pins.Add(-1)
	e.at[n] = place{}
}

// idleLocked counts out all requests of e's, and begins a new era.
func (p *pins) idleLocked(e *pin) {
	for n := range e.at {
		if e.at[n].active > 0 {
			e.at[n].active = 0
			p.count(e.at[n]).keys.Add(-1)
		}
	}
	e.era++
}

// enter counts a request in that is sent to w, if its key remembers w.
func (p *pins) enter(ref *pinRef, w *fleet.Worker, s *seating) {
	sh := p.of(ref.hi)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := &sh.pins[ref.i]
	if e.era != ref.era {
		return
	}
	for n := range e.at {
		at := &e.at[n]
		if s.who(*at) != w {
			continue
		}
		if at.active++; at.active == 1 {
			p.count(*at).keys.Add(1)
		}
		ref.seat = at.seat
		return
	}
}

// second notes that h was also given w, if it was given one worker only: then
// what w has computed is not lost should the first stay away.
func (p *pins) second(h xxh3.Uint128, s *seating, w *fleet.Worker) pinRef {
	sh := p.of(h.Hi)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i := sh.findLocked(h)
	if i == 0 {
		return pinRef{}
	}
	e := &sh.pins[i]
	if e.at[1].seat == 0 {
		p.giveLocked(e, s.seatOf(w))
	}
	return pinRef{hi: e.hi, i: i, era: e.era}
}

// leave counts out what enter counted in. Until then the key was in use.
func (p *pins) leave(ref *pinRef, now uint32) {
	if ref.seat == 0 {
		return
	}
	sh := p.of(ref.hi)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := &sh.pins[ref.i]
	if e.era != ref.era {
		return
	}
	for n := range e.at {
		if at := &e.at[n]; at.seat == ref.seat {
			if at.active--; at.active == 0 {
				p.count(*at).keys.Add(-1)
			}
		}
	}
	if since(now, e.used) > 0 {
		e.used = now
		sh.unlinkLocked(ref.i)
		sh.linkLocked(ref.i)
	}
}

// stale reports whether e was not used for so long that it is forgotten.
func (p *pins) stale(e *pin, now uint32) bool {
	return p.idle > 0 && since(now, e.used) >= int64(p.idle) && e.at[0].active == 0 && e.at[1].active == 0
}

// since returns the seconds from one time to another, 0 if it is not later.
// Requests that meet do not come in the order in which they were received.
func since(now, then uint32) int64 { return int64(max(int32(now-then), 0)) }

// sweepLocked forgets keys that are idle, at most two: each key that comes or is
// used for the first time in a second pays for that, so none stay for long.
func (p *pins) sweepLocked(sh *pinShard, now uint32) {
	for range 2 {
		i := sh.oldest
		if i == 0 || !p.stale(&sh.pins[i], now) {
			return
		}
		p.dropLocked(sh, i)
	}
}

// addLocked makes a pin for h. If there is no room the key that was not used for
// longest goes, if possible one that has no requests in flight.
func (p *pins) addLocked(sh *pinShard, h xxh3.Uint128, now uint32) int32 {
	p.sweepLocked(sh, now)
	if sh.keys >= p.room {
		for range oldTries {
			if e := &sh.pins[sh.oldest]; e.at[0].active == 0 && e.at[1].active == 0 {
				break
			}
			i := sh.oldest
			sh.unlinkLocked(i)
			sh.linkLocked(i)
		}
		p.dropLocked(sh, sh.oldest)
	}
	i := sh.spare
	if i != 0 {
		sh.spare = sh.pins[i].next
	} else {
		i = sh.growLocked(p.room)
	}
	e := &sh.pins[i]
	e.hi, e.lo, e.used = h.Hi, h.Lo, now
	sh.keys++
	head := sh.headLocked(h.Lo)
	e.next, *head = *head, i
	sh.linkLocked(i)
	return i
}

// dropLocked forgets the key of pin i.
func (p *pins) dropLocked(sh *pinShard, i int32) {
	e := &sh.pins[i]
	p.idleLocked(e)
	for n := range e.at {
		if e.at[n].seat != 0 {
			p.forgetLocked(e, n)
		}
	}
	at := sh.headLocked(e.lo)
	for *at != i {
		at = &sh.pins[*at].next
	}
	*at = e.next
	sh.unlinkLocked(i)
	e.next, sh.spare = sh.spare, i
	sh.keys--
}

func (sh *pinShard) headLocked(lo uint64) *int32 { return &sh.heads[lo&uint64(len(sh.heads)-1)] }

func (sh *pinShard) findLocked(h xxh3.Uint128) int32 {
	if len(sh.heads) == 0 {
		return 0
	}
	i := *sh.headLocked(h.Lo)
	for i != 0 && (sh.pins[i].lo != h.Lo || sh.pins[i].hi != h.Hi) {
		i = sh.pins[i].next
	}
	return i
}

// growLocked returns a pin that is new. The memory doubles up to what room needs.
func (sh *pinShard) growLocked(room int) int32 {
	if len(sh.pins) == cap(sh.pins) {
		more := make([]pin, max(len(sh.pins), 1), min(max(2*len(sh.pins), 16), room+1))
		copy(more, sh.pins)
		sh.pins = more
		heads := 1
		for heads < cap(more) {
			heads *= 2
		}
		sh.heads = make([]int32, heads)
		for i := sh.oldest; i != 0; i = sh.pins[i].newer {
			head := sh.headLocked(sh.pins[i].lo)
			sh.pins[i].next, *head = *head, i
		}
	}
	sh.pins = sh.pins[:len(sh.pins)+1]
	return int32(len(sh.pins) - 1)
}

func (sh *pinShard) linkLocked(i int32) {
	sh.pins[i].older, sh.pins[i].newer = sh.newest, 0
	if sh.newest != 0 {
		sh.pins[sh.newest].newer = i
	} else {
		sh.oldest = i
	}
	sh.newest = i
}

func (sh *pinShard) unlinkLocked(i int32) {
	e := &sh.pins[i]
	if e.older != 0 {
		sh.pins[e.older].newer = e.newer
	} else {
		sh.oldest = e.newer
	}
	if e.newer != 0 {
		sh.pins[e.newer].older = e.older
	} else {
		sh.newest = e.older
	}
}

// keys returns how many keys are remembered.
func (p *pins) keys() int {
	n := 0
	for i := range p.shard {
		sh := &p.shard[i]
		sh.mu.Lock()
		n += sh.keys
		sh.mu.Unlock()
	}
	return n
}

// each calls yield with each worker that was bound last or has keys in use, and
// how many it has.
func (p *pins) each(yield func(url string, keys int64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := *p.all.Load()
	for url, n := range p.seats {
		if keys := all[n].keys.Load(); keys > 0 || p.bound[n] == p.round {
			yield(url, keys)
		}
	}
}

// pinLists are all pins there are, as the metrics see them. Policies come and go
// with their models, so what nobody else holds is let go of.
type pinLists struct {
	mu sync.Mutex
	l  []weak.Pointer[pins] // guarded by mu
}

// add makes p part of what m shows.
func (l *pinLists) add(m *Metrics, p *pins) {
	l.mu.Lock()
	l.l = slices.DeleteFunc(l.l, func(w weak.Pointer[pins]) bool { return w.Value() == nil })
	l.l = append(l.l, weak.Make(p))
	l.mu.Unlock()
	m.ManualEntries.Set(func() float64 {
		n := 0
		for _, p := range l.all() {
			n += p.keys()
		}
		return float64(n)
	})
	m.RoutingKeys.Set(func(yield func(value float64, labels ...string)) {
		sums := make(map[string]int64)
		for _, p := range l.all() {
			p.each(func(url string, keys int64) { sums[url] += keys })
		}
		for url, keys := range sums {
			yield(float64(keys), url)
		}
	})
}

func (l *pinLists) all() []*pins {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*pins
	for _, w := range l.l {
		if p := w.Value(); p != nil {
			all = append(all, p)
		}
	}
	return all
}
