//go:build linux && race

package sock

import (
	"errors"
	"syscall"
)

// The race detector takes what package syscall reads and writes for
// communication between goroutines, and does not see what goes past it.

func rawRead(fd uintptr, p []byte) (int, syscall.Errno) {
	n, err := syscall.Read(int(fd), p)
	return n, errnoOf(err)
}

func rawWrite(fd uintptr, p []byte) (int, syscall.Errno) {
	n, err := syscall.Write(int(fd), p)
	return n, errnoOf(err)
}

func rawWritev(fd uintptr, a, b []byte) (int, syscall.Errno) {
	n, errno := rawWrite(fd, a)
	if errno != 0 || n < len(a) || len(b) == 0 {
		return n, errno
	}
	m, errno := rawWrite(fd, b)
	if errno != 0 {
		return n, 0 // the next write tells
	}
	return n + m, 0
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	errors.As(err, &errno)
	return errno
}
