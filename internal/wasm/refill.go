package wasm

import (
	"context"
	"runtime"
	"time"
)

// Instances are made by the calls that need them, up to as many as there may be,
// and stay. Two things are done beside: what was ended, because it cannot be put
// back, is made again before it is needed; and what has not been needed for long
// is ended.

const (
	idleFor  = time.Minute // after which an instance is ended that no call has used
	lookIdle = idleFor / 2
)

// ready is how many instances should stand ready.
func (m *Module) ready() int {
	if m.set.Isolation == Fresh {
		return min(2*runtime.GOMAXPROCS(0), len(m.slots))
	}
	return 1
}

// refill asks the Engine to make instances, if it runs.
func (m *Module) refill() {
	if m.closed.Load() || m.asked.Swap(true) {
		return
	}
	select {
	case m.engine.wanting <- m:
	default: // there are more modules than there may be; calls make what they need
		m.asked.Store(false)
	}
}

// keepReady makes the instances that are asked for, one after another, and ends
// those that are not needed, until ctx is done.
func (e *Engine) keepReady(ctx context.Context) {
	t := time.NewTicker(lookIdle)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-e.wanting:
			m.asked.Store(false)
			m.fill(ctx)
		case <-t.C:
			for _, m := range *e.modules.Load() {
				m.trim(e.now.Load() - int64(idleFor/tick))
			}
		}
	}
}

// idle is how many instances stand ready.
func (m *Module) idle() (n int) {
	for i := range m.slots {
		if m.slots[i].Load() != nil {
			n++
		}
	}
	return n
}

// fill makes instances until enough stand ready. One that cannot be made is not
// tried again: the call that needs it tells why.
func (m *Module) fill(ctx context.Context) {
	if !m.stay() {
		return
	}
	defer m.left()
	for n := m.ready() - m.idle(); n > 0 && ctx.Err() == nil && m.room(); n-- {
		in, err := m.instance(nil)
		if err != nil {
			m.engine.log.Warn("an instance of a module cannot be made", "world", m.World(), "err", err)
			return
		}
		in.last = m.engine.now.Load()
		m.put(in)
	}
}

// trim ends instances that were last used before a tick, but for those that
// should stand ready. Calls take the first places first, so that the last stay
// unused.
func (m *Module) trim(before int64) {
	if !m.stay() {
		return
	}
	defer m.left()
	spare := m.idle() - m.ready()
	for i := len(m.slots) - 1; i >= 0 && spare > 0; i-- {
		in := m.slots[i].Swap(nil)
		switch {
		case in == nil:
		case in.last < before:
			m.discard(in)
			spare--
		default:
			m.put(in)
		}
	}
}
