//go:build linux && !race

package sock

import (
	"syscall"
	"unsafe"
)

// blocking is from how many bytes on a system call is announced to the
// scheduler: below it the announcement costs more than the copying.
const blocking = 64 << 10

// rawRead reads from a socket that does not block. What is for sockets only goes
// past the kernel's layer for files, which costs a tenth of a microsecond.
func rawRead(fd uintptr, p []byte) (int, syscall.Errno) {
	call := syscall.RawSyscall6
	if len(p) > blocking {
		call = syscall.Syscall6
	}
	n, _, errno := call(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
	return int(n), errno
}

// rawWrite writes to a socket that does not block.
func rawWrite(fd uintptr, p []byte) (int, syscall.Errno) {
	call := syscall.RawSyscall6
	if len(p) > blocking {
		call = syscall.Syscall6
	}
	n, _, errno := call(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

// rawWritev writes a and then b to a socket that does not block.
func rawWritev(fd uintptr, a, b []byte) (int, syscall.Errno) {
	v := [2]syscall.Iovec{{Base: unsafe.SliceData(a)}, {Base: unsafe.SliceData(b)}}
	v[0].SetLen(len(a))
	v[1].SetLen(len(b))
	call := syscall.RawSyscall
	if len(a)+len(b) > blocking {
		call = syscall.Syscall
	}
	n, _, errno := call(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v[0])), 2)
	return int(n), errno
}
