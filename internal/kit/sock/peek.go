package sock

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// peekEvery is how soon a hang-up is heard of by peeking.
const peekEvery = 10 * time.Millisecond

// peeks hears of hang-ups by looking at what has arrived, without taking it,
// every few milliseconds. It is for systems where nothing better is at hand,
// and costs a system call a look.
type peeks struct {
	stop chan struct{}

	mu    sync.Mutex // guards conns
	conns map[*Conn]bool
}

func (p *peeks) begin() { p.stop, p.conns = make(chan struct{}), make(map[*Conn]bool) }

func (p *peeks) add(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
}

func (p *peeks) drop(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *peeks) close() { close(p.stop) }

// discard has nothing to give back.
func (p *peeks) discard() {}

func (p *peeks) run(*Watch) {
	t := time.NewTicker(peekEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			p.round()
		case <-p.stop:
			return
		}
	}
}

func (p *peeks) round() {
	p.mu.Lock()
	open := make([]*Conn, 0, len(p.conns))
	for c := range p.conns {
		open = append(open, c)
	}
	p.mu.Unlock()
	for _, c := range open {
		_, hup, full := c.look()
		if hup {
			p.drop(c)
			c.hangUp(full)
		}
	}
}

// Unread reports whether c holds bytes that came with those that were read:
// TLS reads more of its socket than it is asked for.
func (c *Conn) Unread() bool {
	if c.rc != nil {
		return false
	}
	var one [1]byte
	_ = c.nc.SetReadDeadline(past)
	n, err := c.nc.Read(one[:])
	if c.interrupted.Load() || c.deadline.Load() == expired {
		return true
	}
	_ = c.nc.SetReadDeadline(time.Time{})
	return n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
}

// look peeks at what can still arrive on c.
func (c *Conn) look() (arrived, hup, full bool) {
	sc := socket(c.nc)
	if sc == nil {
		return false, false, false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false, true, true
	}
	err = rc.Control(func(fd uintptr) {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch err {
		case nil:
			arrived, hup = n > 0, n == 0
		case syscall.EAGAIN, syscall.EINTR:
		default:
			hup, full = true, true
		}
	})
	return arrived, hup || err != nil, full || err != nil
}
