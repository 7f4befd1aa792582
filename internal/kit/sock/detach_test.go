package sock

import (
	"crypto/tls"
	"testing"
	"time"
)

// TestWhatComesLateLeavesADetachedConnectionAlone holds that who looked at a
// Conn just before it was detached does not end the waits of its new owner.
func TestWhatComesLateLeavesADetachedConnectionAlone(t *testing.T) {
	late := map[string]func(c *Conn){
		"deadline":  func(c *Conn) { c.expire(c.deadline.Load()) },
		"haste":     func(c *Conn) { c.Hasten() },
		"hang-up":   func(c *Conn) { c.hangUp(false) },
		"interrupt": func(c *Conn) { c.Interrupt() },
	}
	for name, f := range late {
		t.Run(name, func(t *testing.T) {
			w := watching(t)
			near, far := pair(t, "tcp")
			c := w.Add(near, nil)
			if err := c.Expire(time.Hour); err != nil {
				t.Fatal(err)
			}
			nc := c.Detach()
			defer nc.Close()
			f(c)
			write(t, far, "x")
			if _, err := nc.Read(make([]byte, 1)); err != nil {
				t.Errorf("reading after it: %v", err)
			}
		})
	}
}

// TestClosedUnderneath holds that a Conn whose socket somebody else has closed,
// as a TLS handshake does whose time is up, leaves the connection alone that has
// its descriptor by then.
func TestClosedUnderneath(t *testing.T) {
	w := watching(t)
	near, _ := pair(t, "tcp")
	old := w.Add(tls.Server(near, &tls.Config{}), nil)
	fd := old.fd
	near.Close()
	for range 50 {
		near, far := pair(t, "tcp")
		told := make(listener, 8)
		c := w.Add(near, told)
		defer c.Close()
		if c.fd != fd {
			continue
		}
		old.Close()
		far.Close()
		told.next(t)
		return
	}
	t.Skip("nobody got the descriptor")
}
