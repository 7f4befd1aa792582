package mock

import (
	"net"
	"sync"
	"sync/atomic"
)

// A listener remembers its connections, so that they can be reset together.
type listener struct {
	*net.TCPListener

	mu    sync.Mutex
	conns map[*conn]struct{} // guarded by mu
	ended bool               // guarded by mu; what is still accepted is reset
}

// A conn is one of a listener's connections.
type conn struct {
	*net.TCPConn
	of   *listener
	once sync.Once
	kind atomic.Bool // its caller asked for the kill: closed, not reset
}

// listen opens a listener on addr.
func listen(addr string) (*listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &listener{TCPListener: l.(*net.TCPListener), conns: map[*conn]struct{}{}}, nil
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	tracked := &conn{TCPConn: c, of: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[tracked] = struct{}{}
	if l.ended {
		_ = c.SetLinger(0) // see reset
	}
	return tracked, nil
}

// Close closes c and forgets it.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		delete(c.of.conns, c)
		c.of.mu.Unlock()
	})
	return c.TCPConn.Close()
}

// reset makes every connection end with a reset when it is closed, except
// those that asked for it.
func (l *listener) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for c := range l.conns {
		if !c.kind.Load() {
			// The connection may be closed already; then there is nothing to reset.
			_ = c.SetLinger(0)
		}
	}
}
