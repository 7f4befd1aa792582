package server

import (
	"net"
	"syscall"
)

// cork makes nc keep what is written until its half is closed, so that both
// come in one packet.
func cork(nc *net.TCPConn, on bool) {
	rc, err := nc.SyscallConn()
	if err != nil || !on {
		return
	}
	_ = rc.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, 1) })
}
