package policy

import (
	"math"
	"slices"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/hashring"
	"sluice/internal/kit/metric"
)

// consistentHashing gives a key to the worker that owns its place on a ring. A
// worker that is away leaves its keys to those after it and has them again when
// it is back; one that is new takes its share and nobody else's keys move.
//
// The key is the routing key, or else what tells clients apart: Authorization,
// X-Forwarded-For, or Cookie. Requests without any go anywhere. X-SMG-Target-Worker
// asks for one worker by its number and is given that one or none. Numbers begin
// at 0 and go by when the workers were registered, whether they are well or not:
// none means another worker because one between them is away.
type consistentHashing struct {
	dice    dice
	headers []string
	maker   hashring.Maker

	target, missed, hit, random *metric.Counter
}

const targetHeader = "X-SMG-Target-Worker"

func newConsistentHashing(s *Settings) *consistentHashing {
	branch := s.Metrics.ConsistentHashingBranch
	return &consistentHashing{
		dice:    s.dice(),
		headers: append(s.RoutingKey.ownHeaders(), "Authorization", "X-Forwarded-For", "Cookie"),
		target:  branch.With("target_worker_hit"),
		missed:  branch.With("target_worker_miss"),
		hit:     branch.With("routing_key_hit"),
		random:  branch.With("random_fallback"),
	}
}

func (p *consistentHashing) Bind(ws []*fleet.Worker) Picker {
	return p.BindMembers(ws, Members{All: ws, Ready: ws})
}

// WantsMembers implements MembersBinder.
func (p *consistentHashing) WantsMembers() bool { return true }

// BindMembers implements MembersBinder.
func (p *consistentHashing) BindMembers(ws []*fleet.Worker, m Members) Picker {
	return &ringPicker{p, ws, numbered(&m), ringOf(&p.maker, ws)}
}

// numbered returns the members by number, nil for one that is not ready. They are
// in the order of registration, the ranks of an engine together.
func numbered(m *Members) []*fleet.Worker {
	ws := slices.SortedFunc(slices.Values(m.All), (*fleet.Worker).Compare)
	ready := make(map[*fleet.Worker]bool, len(m.Ready))
	for _, w := range m.Ready {
		ready[w] = true
	}
	for i, w := range ws {
		if !ready[w] {
			ws[i] = nil
		}
	}
	return ws
}

// ringOf returns the ring over ws; its indexes are theirs.
func ringOf(m *hashring.Maker, ws []*fleet.Worker) *hashring.Ring {
	names := make([]string, len(ws))
	for i, w := range ws {
		names[i] = w.Base()
	}
	return m.Ring(names)
}

type ringPicker struct {
	*consistentHashing
	ws       []*fleet.Worker
	numbered []*fleet.Worker // all that serve the model, nil for one that is not ready
	ring     *hashring.Ring
}

func (p *ringPicker) Pick(r *infer.Request, c *Choice) *fleet.Worker {
	c.Considered = 1
	if v := r.Header.Get(targetHeader); v != nil {
		c.Why, c.Alone = "target", true
		if i := index(v); i < len(p.numbered) && p.numbered[i] != nil {
			p.target.Inc()
			return p.numbered[i] // although it may be overloaded: no other may answer
		}
		p.missed.Inc()
		return nil
	}
	if key := firstOf(r, p.headers); key != nil {
		c.Why = "ring"
		p.hit.Inc()
		return p.ws[p.ring.Owner(hashring.Place(key))]
	}
	c.Why = "random"
	p.random.Inc()
	return p.ws[p.dice.below(len(p.ws))]
}

// index returns the number that v is in decimal, or one that is no index.
func index(v []byte) int {
	const none = math.MaxInt32
	n := 0
	for _, d := range v {
		if d < '0' || d > '9' {
			return none
		}
		if n = 10*n + int(d-'0'); n >= none {
			return none
		}
	}
	if len(v) == 0 {
		return none
	}
	return n
}
