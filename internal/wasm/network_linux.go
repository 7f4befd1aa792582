package wasm

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A doorbell is a file among those that the scheduler waits for, and that is ready
// whenever it is rung: who rings it and waits for it goes on when the scheduler
// has looked at the network. For that to happen nobody may be ready to run, so
// all that would ring wait for the one who does.
type doorbell struct {
	file syscall.RawConn
	ring func(fd uintptr) bool // made once, so that it allocates nothing
	rung bool                  // since waiting began; whose ringing is true has it
	err  error                 // the same

	ringing atomic.Bool
	next    atomic.Pointer[chan struct{}] // closed when the network has been looked at
}

var oneRing = binary.NativeEndian.AppendUint64(nil, 1)

func newDoorbell() (*doorbell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "doorbell")
	b := new(doorbell)
	if b.file, err = f.SyscallConn(); err != nil {
		f.Close()
		return nil, err
	}
	b.ring = b.once
	b.renew()
	// A bell that is not heard would hold a call for ever.
	if err = f.SetReadDeadline(time.Now().Add(time.Second)); err == nil {
		for range 3 {
			err = errors.Join(err, b.wait())
		}
		err = errors.Join(err, f.SetReadDeadline(time.Time{}))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
}

func (b *doorbell) renew() *chan struct{} {
	c := make(chan struct{})
	return b.next.Swap(&c)
}

// once rings at the first call, and is done at the second: then the scheduler has
// seen it. What is written is never read: each write is an event of its own, as
// the scheduler asks for events (epoll(7), EPOLLET).
func (b *doorbell) once(fd uintptr) bool {
	if b.rung {
		return true
	}
	_, b.err = unix.Write(int(fd), oneRing)
	b.rung = true
	return b.err != nil
}

// wait returns when the network has been looked at.
func (b *doorbell) wait() error {
	next := b.next.Load() // before it is known that another rings: then it is closed in any case
	if !b.ringing.CompareAndSwap(false, true) {
		<-*next
		return nil
	}
	b.rung = false
	err := b.file.Read(b.ring)
	if err == nil {
		err = b.err
	}
	b.ringing.Store(false) // first: who sees that it is true has a channel that is closed below
	close(*b.renew())
	return err
}

// network is the doorbell of the process; nil if there can be none.
var network = sync.OnceValues(newDoorbell)

// cede lets other threads have the processor first that wait for it, if any.
// Tests count its calls.
var cede = func() { _, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) } // it cannot fail

// waitForNetwork lets others run until the scheduler has looked at the network
// once, and those whom that has woken.
func waitForNetwork() {
	if b, err := network(); err == nil {
		_ = b.wait() // if it fails we have not waited, which is no harm
	}
	runtime.Gosched()
}
