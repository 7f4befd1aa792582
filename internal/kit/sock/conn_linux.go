package sock

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// raw prepares c to wait in callbacks, if its connection is a plain socket.
func (c *Conn) raw() {
	switch c.nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return
	}
	rc, err := c.nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	c.rc = rc
	c.readable = c.onReadable
}

// onReadable is the callback of the RawConn: the first call begins, each later
// one follows an edge of readiness. Edges are kept from the moment before the
// first call on, so one that comes while this runs is not lost. It returns
// false to wait for the next.
func (c *Conn) onReadable(fd uintptr) (end bool) {
	r := c.recv
	if !c.begun {
		c.begun = true
		wait, err := r.Begin()
		if err != nil {
			c.err = err
			return true
		}
		if wait && !c.hungUp.Load() {
			return false
		}
	}
	for {
		hungUp := c.hungUp.Load() // before the read: what comes with a hang-up is read after it
		p := r.Space()
		n, errno := rawRead(fd, p)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			if hungUp {
				c.err = io.EOF
				return true
			}
			r.Drained()
			if c.hungUp.Load() {
				continue
			}
			return false
		case errno != 0:
			c.err = os.NewSyscallError("read", errno)
			return true
		case n == 0:
			c.err = io.EOF
			return true
		}
		c.stand()
		done, err := r.Received(n)
		if done || err != nil {
			c.err = err
			return true
		}
		// A read that was not filled has emptied the socket: the next edge is
		// waited for, unless the end came with these bytes.
		if n < len(p) && !c.hungUp.Load() {
			r.Drained()
			return false
		}
	}
}

// write tries the socket, and waits only if it is full. Nobody but the owner,
// who is here, closes the descriptor, so it is c's.
func (c *Conn) write(b []byte, stall time.Duration) error {
	c.stand()
	n, errno := rawWrite(uintptr(c.fd), b)
	switch {
	case errno == 0 && n == len(b):
		return nil
	case errno != 0 && errno != syscall.EAGAIN && errno != syscall.EINTR:
		return os.NewSyscallError("write", errno)
	case errno == 0:
		b = b[n:]
	}
	return c.rest(b, stall)
}

// offer does not stand: it is called by who looks after all connections.
func (c *Conn) offer(b []byte) bool {
	n, errno := rawWrite(uintptr(c.fd), b)
	return errno == 0 && n == len(b)
}

func (c *Conn) write2(a, b []byte, stall time.Duration) error {
	n, err := c.try(a, b)
	switch {
	case err != nil:
		return err
	case n == len(a)+len(b):
		return nil
	case n < len(a):
		if err := c.rest(a[n:], stall); err != nil {
			return err
		}
		n = len(a)
	}
	return c.rest(b[n-len(a):], stall)
}

func (c *Conn) try(a, b []byte) (int, error) {
	c.stand()
	n, errno := rawWritev(uintptr(c.fd), a, b)
	switch errno {
	case 0:
		return n, nil
	case syscall.EAGAIN, syscall.EINTR:
		return 0, nil
	}
	return 0, os.NewSyscallError("writev", errno)
}

// rest writes what the socket did not take at once.
func (c *Conn) rest(b []byte, stall time.Duration) error {
	p, err := c.lend(stall)
	if err != nil {
		return err
	}
	if p.writable == nil {
		p.writable = p.onWritable
	}
	p.out = b
	switch err = c.rc.Write(p.writable); {
	case err == nil:
		err = p.err
	case !errors.Is(err, os.ErrDeadlineExceeded):
	case c.deadline.Load() == expired:
		err = ErrExpired
	default:
		err = ErrInterrupted
	}
	return p.giveBack(err)
}

// onWritable is the callback of the RawConn. It returns false to wait until the
// socket takes more.
func (p *pending) onWritable(fd uintptr) (end bool) {
	for len(p.out) > 0 {
		n, errno := rawWrite(fd, p.out)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return false
		case errno != 0:
			p.err = os.NewSyscallError("write", errno)
			return true
		}
		p.out = p.out[n:]
		p.progress()
	}
	return true
}

// AckLater lets what arrives from now on be acknowledged together with what comes
// right after it, rather than each piece when it is read: for a Conn whose other
// end sends many small pieces. The kernel returns to its own ways when nothing
// follows within 40 ms. It costs a system call.
func (c *Conn) AckLater() {
	if c.rc != nil {
		_ = syscall.SetsockoptInt(c.fd, syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 0) // a Unix socket has no such thing
	}
}

// Quiet reports whether nothing has arrived on c's socket that was not read,
// and its other end is there still. It costs a system call.
func (c *Conn) Quiet() bool {
	if c.fd < 0 {
		return true // nobody knows
	}
	var one [1]byte
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(c.fd),
		uintptr(unsafe.Pointer(&one)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return errno == syscall.EAGAIN
}

// Unacked returns how many bytes that were written the other end's kernel has
// not said to have. Those that an end which is gone never said it had were
// never read there. ok is false if that cannot be known.
func (c *Conn) Unacked() (n int, ok bool) {
	if c.fd < 0 {
		return 0, false
	}
	var out int32
	_, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(c.fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&out)))
	return int(out), errno == 0
}
