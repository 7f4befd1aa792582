package policy

import (
	"math"

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
// asks for one worker by its number, from 0 among those that are there, and is
// given that one or none.
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
	return &ringPicker{p, ws, ringOf(&p.maker, ws)}
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
	ws   []*fleet.Worker
	ring *hashring.Ring
}

func (p *ringPicker) Pick(r *infer.Request, c *Choice) *fleet.Worker {
	c.Considered = 1
	if v := r.Header.Get(targetHeader); v != nil {
		c.Why, c.Alone = "target", true
		if i := index(v); i < len(p.ws) {
			p.target.Inc()
			return p.ws[i]
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
