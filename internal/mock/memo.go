package mock

import (
	"bytes"
	"hash/maphash"
	"sync"
)

const (
	maxMemo     = 512      // bodies
	maxMemoBody = 16 << 10 // bytes of each
	maxMemoPlan = 4 << 10  // tokens that are planned in it
)

// A memo remembers what bodies ask, with the answers planned: who measures
// sends the same few bodies again and again, and ought not to measure our
// JSON decoder.
type memo struct {
	seed maphash.Seed

	mu    sync.RWMutex
	asks  map[uint64]memoed // guarded by mu; at most maxMemo
	order []uint64          // guarded by mu; a ring of keys by age
	next  int               // guarded by mu; the oldest of order, once it is full
}

type memoed struct {
	ep   *inference
	body []byte
	ask  *ask
}

func newMemo() *memo { return &memo{seed: maphash.MakeSeed(), asks: map[uint64]memoed{}} }

// get returns what body asks of ep, nil if that is not known.
func (m *memo) get(ep *inference, body []byte) *ask {
	if len(body) > maxMemoBody {
		return nil
	}
	key := maphash.Bytes(m.seed, body)
	m.mu.RLock()
	defer m.mu.RUnlock()
	if k, ok := m.asks[key]; ok && k.ep == ep && bytes.Equal(k.body, body) {
		return k.ask
	}
	return nil
}

// put remembers a, which must be prepared.
func (m *memo) put(ep *inference, body []byte, a *ask) {
	planned := 0
	for i := range a.plans {
		planned += len(a.plans[i].pieces)
	}
	if len(body) > maxMemoBody || planned > maxMemoPlan {
		return
	}
	key := maphash.Bytes(m.seed, body)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.asks[key]; !known {
		if len(m.order) < maxMemo {
			m.order = append(m.order, key)
		} else {
			delete(m.asks, m.order[m.next])
			m.order[m.next] = key
			m.next = (m.next + 1) % maxMemo
		}
	}
	m.asks[key] = memoed{ep, bytes.Clone(body), a}
}
