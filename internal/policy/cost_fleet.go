package policy

import (
	"sync"
	"sync/atomic"

	"sluice/internal/fleet"
	"sluice/internal/kit/blocks"
)

// known is what the policy cost knows of workers from table to table.
type known struct {
	mu      sync.Mutex
	members []*costMember // guarded by mu; by the worker's slot, nil for none
	tables  uint64        // guarded by mu; how often Bind was called
}

// A costMember is a worker whose prompts the index remembers.
type costMember struct {
	w     *fleet.Worker // constant
	epoch atomic.Uint64 // of the worker, when it began to be remembered
	era   atomic.Uint32 // of its slot in the index; written with known.mu held

	capacity int    // guarded by known.mu; in blocks
	table    uint64 // guarded by known.mu; the last that it was in
}

// Bind implements Policy. A worker that is away for a while, because it does not
// answer or has too much to do, is still remembered; one that was removed or has
// failed for long is not, and neither is one that has lost its cache.
func (p *cost) Bind(ws []*fleet.Worker) Picker {
	k := &p.known
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tables++
	pick := &costPicker{cost: p, ws: ws, meters: crewOf(ws).meters, members: make([]*costMember, len(ws))}
	slots := 0
	for i, w := range ws {
		m := p.memberLocked(w)
		m.table = k.tables
		pick.members[i] = m
		slots = max(slots, w.Slot()+1)
	}
	pick.at = make([]int32, slots)
	for i := range pick.at {
		pick.at[i] = -1
	}
	for i, w := range ws {
		pick.at[w.Slot()] = int32(i)
	}
	for slot, m := range k.members {
		if m == nil || m.table == k.tables {
			continue
		}
		if s := m.w.Status(); s == fleet.Draining || s == fleet.Failed {
			p.index.Leave(slot)
			k.members[slot] = nil
		}
	}
	return pick
}

// memberLocked returns the member for w. p.known.mu must be held.
func (p *cost) memberLocked(w *fleet.Worker) *costMember {
	k, slot := &p.known, w.Slot()
	if slot >= len(k.members) {
		more := make([]*costMember, max(slot+1, 2*len(k.members)))
		copy(more, k.members)
		k.members = more
	}
	m := k.members[slot]
	if m == nil || m.w != w {
		m = &costMember{w: w}
		m.epoch.Store(w.Epoch() - 1)
		k.members[slot] = m
	}
	p.renewLocked(m)
	p.resizeLocked(m)
	return m
}

// renew makes the index forget what m's worker has lost.
func (p *cost) renew(m *costMember) {
	p.known.mu.Lock()
	defer p.known.mu.Unlock()
	if p.known.members[m.w.Slot()] == m {
		p.renewLocked(m)
	}
}

// renewLocked is renew. p.known.mu must be held.
func (p *cost) renewLocked(m *costMember) {
	epoch := m.w.Epoch()
	if m.epoch.Load() == epoch {
		return
	}
	m.capacity = p.capacity(m.w)
	m.era.Store(p.index.Join(m.w.Slot(), m.capacity))
	m.epoch.Store(epoch)
}

// resize makes the index go by what is known now of the workers' caches.
func (p *cost) resize() {
	p.known.mu.Lock()
	defer p.known.mu.Unlock()
	for _, m := range p.known.members {
		if m != nil {
			p.resizeLocked(m)
		}
	}
}

// resizeLocked is resize of one member. p.known.mu must be held.
func (p *cost) resizeLocked(m *costMember) {
	if n := p.capacity(m.w); n != m.capacity {
		m.capacity = n
		p.index.Resize(m.w.Slot(), n)
	}
}

// capacity returns how many blocks are remembered of w: somewhat more than its
// cache holds. Remembering half of that makes the times to first tokens several
// times as long where caches are scarce; half as much again makes them 10 % longer,
// because what is believed to be there is not.
func (p *cost) capacity(w *fleet.Worker) int {
	const more, most = 1.1, 1 << 26
	tokens := int64(w.Info().KVTokens)
	if l := w.Load(); tokens <= 0 && l != nil {
		tokens = l.MaxTokens
	}
	if tokens <= 0 {
		tokens = int64(p.cfg.KVTokens)
	}
	return int(min(max(more*float64(tokens)*p.learned.sized()/blocks.Size, 1), most))
}
