//go:build !linux

package server

import "net"

func cork(*net.TCPConn, bool) {}
