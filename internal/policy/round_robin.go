package policy

import (
	"sync/atomic"

	"sluice/internal/fleet"
	"sluice/internal/infer"
)

// roundRobin goes through the workers in order. The place in the order is kept
// when the set changes, and starts at random so that several gateways do not
// march in step.
type roundRobin struct {
	_    [64]byte // next is written to by every request: nothing else lies beside it
	next atomic.Uint64
	_    [64]byte
}

func newRoundRobin(d dice) *roundRobin {
	rr := new(roundRobin)
	rr.next.Store(uint64(d.uint32()))
	return rr
}

func (rr *roundRobin) Bind(ws []*fleet.Worker) Picker { return roundRobinPicker{rr, ws} }

type roundRobinPicker struct {
	rr *roundRobin
	ws []*fleet.Worker
}

// Pick implements Picker.
func (p roundRobinPicker) Pick(_ *infer.Request, c *Choice) *fleet.Worker {
	c.Why, c.Considered = "next", 1
	return p.ws[p.rr.next.Add(1)%uint64(len(p.ws))]
}
