//go:build !linux

package sock

import "time"

type hangups struct{ peeks }

func (h *hangups) open() error {
	h.begin()
	return nil
}

// raw leaves c to read and write its net.Conn.
func (c *Conn) raw() {}

func (c *Conn) write([]byte, time.Duration) error { panic("BUG: no raw connections here") }

func (c *Conn) write2([]byte, []byte, time.Duration) error { panic("BUG: no raw connections here") }

func (c *Conn) offer([]byte) bool { panic("BUG: no raw connections here") }

func (c *Conn) try([]byte, []byte) (int, error) { panic("BUG: no raw connections here") }

// Quiet reports whether nothing has arrived on c's socket that was not read,
// and its other end is there still. It costs a system call.
func (c *Conn) Quiet() bool {
	arrived, hup, _ := c.look()
	return !arrived && !hup
}

// Unacked is not known here.
func (c *Conn) Unacked() (n int, ok bool) { return 0, false }

// AckLater is not needed here.
func (c *Conn) AckLater() {}
