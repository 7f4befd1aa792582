package policy

import (
	"sync/atomic"

	"sluice/internal/fleet"
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

func (rr *roundRobin) Bind(ws []*fleet.Worker) Picker {
	return pickFunc(func() *fleet.Worker { return ws[rr.next.Add(1)%uint64(len(ws))] })
}
