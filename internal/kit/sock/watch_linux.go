package sock

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// hangups is an epoll set that wants to hear of nothing but hang-ups, one
// registration for each connection's life. It stands in the runtime's own
// poller, so that no thread waits for it.
type hangups struct {
	file *os.File
	fd   int
}

const rdhup = 0x2000 // EPOLLRDHUP

func (h *hangups) open() error {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return errors.Join(os.NewSyscallError("fcntl", err), syscall.Close(fd))
	}
	h.fd, h.file = fd, os.NewFile(uintptr(fd), "hang-ups")
	return nil
}

// add watches c, whose descriptor is open. An error means that nobody hears of
// its hang-up but its owner, at the next read.
func (h *hangups) add(c *Conn) {
	_ = syscall.EpollCtl(h.fd, syscall.EPOLL_CTL_ADD, c.fd, &syscall.EpollEvent{
		Events: rdhup | 1<<31, // EPOLLET
		Fd:     int32(c.slot.index), Pad: int32(c.slot.generation),
	})
}

// drop has nothing to do if the socket is closed already, as after a TLS
// handshake whose time was up: its descriptor may be another's.
func (h *hangups) drop(c *Conn) {
	sc := socket(c.nc)
	if sc == nil {
		return
	}
	if rc, err := sc.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) {
			_ = syscall.EpollCtl(h.fd, syscall.EPOLL_CTL_DEL, int(fd), nil)
		})
	}
}

func (h *hangups) close() { _ = h.file.SetReadDeadline(time.Unix(1, 0)) }

// discard is close for one that never runs.
func (h *hangups) discard() { _ = h.file.Close() }

// run tells Conns until close.
func (h *hangups) run(w *Watch) {
	defer h.file.Close()
	rc, err := h.file.SyscallConn()
	if err != nil {
		panic("BUG: an open file has no descriptor: " + err.Error())
	}
	events := make([]syscall.EpollEvent, 128)
	_ = rc.Read(func(fd uintptr) bool {
		for {
			n, err := syscall.EpollWait(int(fd), events, 0)
			if err == syscall.EINTR {
				continue
			}
			if err != nil {
				panic("BUG: waiting for hang-ups: " + err.Error())
			}
			if n == 0 {
				return false
			}
			for _, e := range events[:n] {
				if c := w.at(slot{uint32(e.Fd), uint32(e.Pad)}); c != nil {
					c.hangUp(e.Events&(syscall.EPOLLHUP|syscall.EPOLLERR) != 0)
				}
			}
		}
	})
}
