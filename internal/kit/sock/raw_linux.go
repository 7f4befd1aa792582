//go:build linux && !race

package sock

import (
	"syscall"
	"unsafe"
)

// blocking is from how many bytes on a system call is announced to the
// scheduler: below it the announcement costs more than the copying.
const blocking = 64 << 10

// rawRead reads from a socket that does not block.
func rawRead(fd uintptr, p []byte) (int, syscall.Errno) {
	call := syscall.RawSyscall
	if len(p) > blocking {
		call = syscall.Syscall
	}
	n, _, errno := call(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), errno
}

// rawWrite writes to a socket that does not block.
func rawWrite(fd uintptr, p []byte) (int, syscall.Errno) {
	call := syscall.RawSyscall
	if len(p) > blocking {
		call = syscall.Syscall
	}
	n, _, errno := call(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), errno
}

// rawWritev writes a and then b to a socket that does not block.
func rawWritev(fd uintptr, a, b []byte) (int, syscall.Errno) {
	v := [2]syscall.Iovec{{Base: unsafe.SliceData(a)}, {Base: unsafe.SliceData(b)}}
	v[0].SetLen(len(a))
	v[1].SetLen(len(b))
	n, _, errno := syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v[0])), 2)
	return int(n), errno
}
