package policy

import (
	"math"
	"sync"

	"github.com/zeebo/xxh3"
)

// heads remembers which workers were given which beginnings of prompts, by their
// hashes: for engines that can use a cache only from certain positions on, and
// not for long.
type heads struct {
	bounds []int // bytes, rising
	ttl    int64 // nanoseconds
	most   int   // entries of a shard
	shards [headShards]headShard
}

type headShard struct {
	mu sync.Mutex
	m  map[uint64]headHolders // guarded by mu
	_  [48]byte
}

// headHolders are who was given one beginning, none of them twice.
type headHolders [3]headHolder

type headHolder struct {
	m     *member // nil for none
	at    int64   // when, in Unix nanoseconds
	epoch uint64  // of the worker, then
}

const (
	headShards = 64
	headBytes  = 208 // that an entry takes in a map, room to grow included
)

func newHeads(cfg CacheAwareConfig, budget int64) *heads {
	bounds, _ := cfg.bounds()
	h := &heads{bounds: bounds, ttl: int64(cfg.TTL), most: int(max(1, budget/headBytes/headShards))}
	for i := range h.shards {
		h.shards[i].m = make(map[uint64]headHolders)
	}
	return h
}

// keys hashes the beginnings of text, each from the one before.
func (h *heads) keys(text []byte, room *[maxBoundaries]uint64) []uint64 {
	l, from, key := room[:0], 0, uint64(0)
	for _, b := range h.bounds {
		if b > len(text) {
			break
		}
		key = xxh3.HashSeed(text[from:b], key+1)
		l, from = append(l, key), b
	}
	return l
}

// at returns the shard for key, locked.
func (h *heads) at(key uint64) *headShard {
	s := &h.shards[key>>58]
	s.mu.Lock()
	return s
}

// holders returns who has what key stands for.
func (h *heads) holders(key uint64) headHolders {
	s := h.at(key)
	defer s.mu.Unlock()
	return s.m[key]
}

// alive reports whether o has what it was given, as far as is known.
func (h *heads) alive(o *headHolder, now int64) bool {
	return o.m != nil && now-o.at <= h.ttl && o.epoch == o.m.w.Epoch()
}

// note notes that m was given text at now.
func (h *heads) note(text []byte, m *member, now int64) {
	var room [maxBoundaries]uint64
	for _, key := range h.keys(text, &room) {
		h.put(key, headHolder{m, now, m.w.Epoch()}, now)
	}
}

// put adds a holder for key. The one that is dead, or else was given it longest
// ago, makes room.
func (h *heads) put(key uint64, o headHolder, now int64) {
	s := h.at(key)
	defer s.mu.Unlock()
	l, known := s.m[key]
	if !known && len(s.m) >= h.most {
		h.makeRoom(s, now)
	}
	at := 0
	for i := range l {
		if l[i].m == o.m {
			at = i
			break
		}
		if l[i].at < l[at].at && h.alive(&l[at], now) || !h.alive(&l[i], now) {
			at = i
		}
	}
	l[at] = o
	s.m[key] = l
}

// makeRoom removes from s some of what is dead, or what it meets first if all
// lives. s.mu must be held.
func (h *heads) makeRoom(s *headShard, now int64) {
	const looked = 32
	n, last, gone := 0, uint64(0), false
	for key, l := range s.m {
		last = key
		dead := true
		for i := range l {
			dead = dead && !h.alive(&l[i], now)
		}
		if dead {
			delete(s.m, key)
			gone = true
		}
		if n++; n == looked {
			break
		}
	}
	if !gone {
		delete(s.m, last)
	}
}

// pickByHash returns which worker is to have text, and why: one that was given
// the longest beginning that anybody was, unless it has too much to do.
func (p *cachePicker) pickByHash(text []byte, c *Choice, now int64) (i, by int) {
	if full := p.pressed(now); full < 1 {
		return p.least(c, full, now), byPressure
	}
	var room [maxBoundaries]uint64
	keys := p.hash.keys(text, &room)
	for n := len(keys) - 1; n >= 0; n-- {
		l := p.hash.holders(keys[n])
		best, least := -1, int64(math.MaxInt64)
		for j := range l {
			if !p.hash.alive(&l[j], now) {
				continue
			}
			k := p.find(l[j].m.w)
			if k < 0 {
				continue
			}
			c.Considered++
			if load := p.ws[k].InFlight(); load < least {
				best, least = k, load
			}
		}
		if best < 0 {
			continue
		}
		if p.tooBusy(least) {
			return p.least(c, 1, now), bySpill
		}
		c.Hit = p.hash.bounds[n] / promptBlock
		c.Uncached = tokensOf(len(text) - p.hash.bounds[n])
		return best, byMatch
	}
	return p.least(c, 1, now), byWait
}
